"""Measures the memory that converting a released checkpoint takes, on an invented one of the 7B's shapes.

    python tests/convert/measure_memory.py --layers 6 --shards 2 [--safetensors]

Writes the checkpoint (0.4 GB for each layer of the language model, and 1.4 GB besides) into a temporary folder,
converts it in a process of its own and says that process's largest resident memory beside the largest shard's size.
"""

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from test_official_keys import CONFIG_JSON, written_out
from tokenizers import Tokenizer, models

from llava_grounding.convert.official import convert_official
from llava_grounding.markup import PHRASE_END, PHRASE_START, SEG

WORDS = 32000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6, help="of the language model; the released one has 32")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--safetensors", action="store_true", help="instead of pickled shards")
    parser.add_argument("--folder", type=Path, help="for the two checkpoints; default the system's temporary folder")
    parser.add_argument("--convert", type=Path, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.convert:
        before, start = peak(), time.perf_counter()
        report = convert_official(*arguments.convert)
        print("\n".join(report.lines()))
        seconds = time.perf_counter() - start
        print(f"{seconds:.0f} s; resident before: {before / 1e9:.2f} GB, at most {peak() / 1e9:.2f} GB")
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as place:
        source = Path(place) / "released"
        largest, whole = write_checkpoint(source, arguments.layers, arguments.shards, arguments.safetensors)
        print(f"{whole / 1e9:.2f} GB in {arguments.shards} shards, the largest {largest / 1e9:.2f} GB", flush=True)
        command = [sys.executable, __file__, "--convert", str(source), str(Path(place) / "ours")]
        result = subprocess.run(command, check=True, capture_output=True, text=True)
    print(result.stdout)
    most = float(re.findall(r"at most ([\d.]+) GB", result.stdout)[0]) * 1e9
    print(f"largest resident memory: {most / largest:.2f} x the largest shard")


def peak() -> int:
    """Largest resident memory of this process, bytes; files that are mapped count as far as they were read."""
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage says begins with the memory of the process that started this one
        return 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def write_checkpoint(folder: Path, layers: int, shards: int, safetensors: bool) -> tuple[int, int]:
    """Write random weights; bytes of the largest file and of all."""
    folder.mkdir()
    listed = [line.split() for line in (Path(__file__).parent / "official_keys.txt").read_text().splitlines()]
    shapes = {key: tuple(map(int, sizes)) for pattern, *sizes in listed for key in written_out(pattern)}
    layer = re.compile(r"model\.layers\.(\d+)\.")
    kept = [key for key in shapes if not (found := layer.match(key)) or int(found[1]) < layers]
    total, half = sum(2 * torch.Size(shapes[key]).numel() for key in kept), 0.0
    parts: list[list[str]] = [[] for _ in range(shards)]
    for key in kept:
        parts[min(int(half * shards / total), shards - 1)].append(key)
        half += 2 * torch.Size(shapes[key]).numel()
    sizes = []
    for number, part in enumerate(parts, start=1):
        tensors = {key: values(key, shapes[key]) for key in part}
        stem = f"-{number:05d}-of-{shards:05d}"
        path = folder / (f"model{stem}.safetensors" if safetensors else f"pytorch_model{stem}.bin")
        (save_file if safetensors else torch.save)(tensors, path)
        sizes.append(path.stat().st_size)
        del tensors
    (folder / "config.json").write_text(json.dumps(CONFIG_JSON | {"num_hidden_layers": layers}))
    write_tokenizer(folder)
    return max(sizes), sum(sizes)


def values(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The same for every name of a shared tensor."""
    torch.manual_seed(sum(shape) if "bbox_embed" in key or "norm" in key else len(key))
    return torch.empty(shape, dtype=torch.float16).uniform_(-0.02, 0.02)


def write_tokenizer(folder: Path) -> None:
    """As many words as the released one has, of which only the needed ones are real."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "%", "▁%"]
    words += [f"word{number}" for number in range(WORDS - len(words))]
    model = models.BPE({word: place for place, word in enumerate(words)}, [("▁", "%")], byte_fallback=True)
    Tokenizer(model).save(str(folder / "tokenizer.json"))
    added = {token: WORDS + place for place, token in enumerate((PHRASE_START, PHRASE_END, SEG))}
    (folder / "added_tokens.json").write_text(json.dumps(added))


if __name__ == "__main__":
    main()
