"""The files of a checkpoint, before anything of transformers reads them: what may be in them, and within which limits.

Nothing in a checkpoint is code, names code, or names a place outside its folder; a number in it costs nothing before it
is compared with the weights. Knows files and plain values only, neither torch nor transformers. See docs/security.md.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from llava_grounding.errors import CheckpointError
from llava_grounding.generation_settings import check_generation, check_generation_within
from llava_grounding.typed_values import is_number

CONFIG, PROCESSOR, TEMPLATE = "config.json", "processor_config.json", "chat_template.jinja"
GENERATION = "generation_config.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
MODEL_FILES = ("*.json", "*.jinja", "*.model", "*.safetensors")
"""What is downloaded of a model on the hub: no code, no pickles."""
PROCESSOR_FILES = ("*.json", "*.jinja", "*.model")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
ATTENTIONS = ("eager", "sdpa", "flash_attention_2")
"""What a file may ask for: nothing that is fetched from somewhere."""
FLOATING = ("F64", "F32", "F16", "BF16")
"""Types of numbers a weight may be stored in, as safetensors names them."""
COMPLEX = ("C64", "C128")
MAX_LAYERS = 1_000
"""Layers, blocks or heads at most of anything that is built one by one."""
_HUB_ARGUMENTS = ("revision", "token", "cache_dir", "local_files_only")
_EXPERTS = ("eager", "batched_mm", "grouped_mm")
_DTYPES = ("float32", "float16", "bfloat16", "float64", "auto")
_SMALL, _LARGE = 4 * 2**20, 64 * 2**20  # bytes of JSON; the largest public tokenizers have about 40 million
_MAX_VALUES, _MAX_DEPTH = 200_000, 24
_MAX_INTEGER = 2**53
# What transformers reads of a folder beside the weights; the tokenizer's own files are larger.
_SMALL_FILES = (
    *(CONFIG, PROCESSOR, TOKENIZER_CONFIG, GENERATION, "special_tokens_map.json"),
    *("preprocessor_config.json", "video_preprocessor_config.json", "chat_template.json"),
)
_OTHER_FILES = (TOKENIZER, "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", TEMPLATE)
_TEMPLATES = "additional_chat_templates"
# Keys by which a file would make transformers import, fetch or choose something; nothing of ours has them.
_FOREIGN = {
    "auto_map": "names code, and no code of a checkpoint is run",
    "trust_remote_code": "asks to run code, and no code of a checkpoint is run",
    "custom_generate": "names code, and no code of a checkpoint is run",
    "custom_pipelines": "names code, and no code of a checkpoint is run",
    "quantization_config": "asks for a quantiser; give `quantization` when loading instead",
    "compression_config": "asks for a quantiser; give `quantization` when loading instead",
    "use_kernels": "asks for kernels from the hub, and a checkpoint fetches nothing",
    "kernel_config": "asks for kernels from the hub, and a checkpoint fetches nothing",
    "fusion_config": "changes the classes of other models",
    "distributed_config": "says how to distribute, which is up to who loads",
    "transformers_weights": f"names another file of weights than {WEIGHTS}",
    "fast_tokenizer_files": f"names another tokenizer than {TOKENIZER}",
    "gguf_file": f"names another tokenizer than {TOKENIZER}",
    "use_timm_backbone": "asks for a model of another package",
    "use_pretrained_backbone": "asks for weights from the hub, and a checkpoint fetches nothing",
    "backbone": "names a model elsewhere; a backbone is described by `backbone_config`",
    "_name_or_path": "names another place, and a checkpoint is its own folder alone",
}
_FOREIGN |= dict.fromkeys(("tokenizer_file", "vocab_file", "merges_file"), _FOREIGN["gguf_file"])
_PLACES = ("_name_or_path", "backbone")  # which are refused only as a text
_COUNTS = re.compile(
    r"(layers?|depths?|stages|blocks|experts|levels|points|groups|heads?|repeats|mask_tokens|multiplier)$"
)
_FURTHER_COUNTS = ("num_labels", "num_beams", "num_beam_groups", "num_return_sequences")
_SHARD = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")
_BLOBS = re.compile(r"(models|datasets|spaces)--.+")

Shapes = dict[str, tuple[int, ...]]


def local_folder(source: str | os.PathLike[str], files: Sequence[str], options: Mapping[str, Any]) -> Path:
    """The folder of a checkpoint; one with a hub id is downloaded.

    Args:
        files: patterns of what is downloaded.
        options: `revision`, `token`, `cache_dir`, `local_files_only` for the hub; others mean nothing here.
    """
    if Path(source).is_dir() or not HUB_ID.fullmatch(str(source)):
        return Path(source)
    from huggingface_hub import snapshot_download

    hub = {key: value for key, value in options.items() if key in _HUB_ARGUMENTS and value is not None}
    return Path(snapshot_download(str(source), allow_patterns=list(files), **hub))


def check_folder(folder: Path) -> None:
    """Look at every file of a checkpoint that something of transformers would read, the weights' contents aside.

    Raises:
        CheckpointError: if one is no plain file, too large, damaged, outside the folder, or says what no file may.
    """
    for name in _SMALL_FILES:
        if _is_there(folder / name):
            values, where = read_json(folder, name), f"{name} in `{folder}`"
            check_values(values, where)
            if name == GENERATION:
                check_generation(values, where)
            elif name == CONFIG:  # where transformers looks for the same settings, also in what is below it
                for part in (values, *(part for part in values.values() if isinstance(part, dict))):
                    check_generation_within(part, where)
    for path in [folder / name for name in _OTHER_FILES] + sorted((folder / _TEMPLATES).glob("*")):
        if _is_there(path):
            _check_plain(path, _LARGE)
    if _is_there(folder / "adapter_config.json"):
        raise CheckpointError(
            f"adapter_config.json in `{folder}` is of an adapter, and adapters are not loaded; merge it into the model"
        )
    weights = [path for path in folder.glob("*.safetensors*") if not path.name.startswith(".")]
    for path in weights:
        if _SHARD.fullmatch(path.name):
            raise CheckpointError(f"{path.name} in `{folder}` is a part of a running training, not of a checkpoint")
        if ".index" in path.name:
            _shards(folder, path.name)
        else:
            _check_plain(path)


def _check_plain(path: Path, max_bytes: int | None = None) -> None:
    try:
        plain_file(path, max_bytes)
    except OSError as error:
        raise CheckpointError(f"{path.name} in `{path.parent}` is missing: {error.strerror or error}") from error


def read_json(folder: Path, name: str, max_bytes: int = _SMALL) -> dict[str, Any]:
    """A JSON object of a checkpoint.

    Raises:
        CheckpointError: if the file is missing, too large or damaged.
    """
    try:
        return read_object(folder / name, max_bytes)
    except FileNotFoundError as error:
        raise CheckpointError(f"`{folder}` holds no model: it has no {name}") from error
    except (OSError, ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else error
        raise CheckpointError(f"{name} in `{folder}` is damaged: {reason}") from error


def read_object(path: Path, max_bytes: int = _SMALL) -> dict[str, Any]:
    """A JSON object within limits.

    Raises:
        OSError, ValueError, RecursionError, CheckpointError: if it is none.
    """
    text = plain_bytes(path, max_bytes).decode("utf-8")
    values = json.loads(text, parse_constant=_refuse_constant)
    if not isinstance(values, dict):
        raise ValueError(f"expected a JSON object, got {type(values).__name__}")
    if "\\u" in text and re.search(r"\\u[dD][89a-fA-F]", text):
        json.dumps(values, ensure_ascii=False).encode("utf-8")  # half of a surrogate pair is no text
    return values


def plain_bytes(path: Path, max_bytes: int) -> bytes:
    """What a file holds.

    Raises:
        OSError: if it cannot be read.
        CheckpointError: if it is no plain file, too large, or elsewhere.
    """
    plain_file(path, max_bytes)
    with path.open("rb") as file:
        return file.read(max_bytes)


def plain_file(path: Path, max_bytes: int | None = None) -> None:
    """Refuse what only looks like a file of a folder: devices, pipes, links that lead out of it, what is too large.

    Links into the hub's cache are its own layout, and stay.

    Raises:
        OSError: if there is none.
        CheckpointError: if it is refused.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise CheckpointError(f"{path.name} in `{path.parent}` is no file that can be read")
    if max_bytes is not None and found.st_size > max_bytes:
        raise CheckpointError(
            f"{path.name} in `{path.parent}` is too large: {found.st_size / 1e6:.1f} MB, at most {max_bytes / 1e6:.1f}"
        )
    if path.is_symlink():
        target, home = path.resolve(), path.parent.resolve()
        if home not in target.parents and not _in_hub_cache(target):
            raise CheckpointError(
                f"{path.name} in `{path.parent}` is a link that leads out of the folder; copy the file"
            )


def _in_hub_cache(target: Path) -> bool:
    """Whether a file is a blob of the hub's cache, to which the folders of its models link."""
    return target.parent.name == "blobs" and _BLOBS.fullmatch(target.parent.parent.name) is not None


def _is_there(path: Path) -> bool:
    return os.path.lexists(path)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def check_values(values: Mapping[str, Any], where: str) -> None:
    """Refuse what no configuration of ours says, at any depth: code, other places, packages, numbers out of all bounds.

    Args:
        where: is said first, such as "config.json in `folder`".

    Raises:
        CheckpointError: naming the key.
    """
    for key, name, value in _entries(values, where):
        problem = _key_problem(name, value) or _number_problem(name, value)
        if problem:
            raise CheckpointError(f"{where}: `{key}` {problem}")


def check_numbers(values: Mapping[str, Any], where: str) -> None:
    """Refuse numbers out of all bounds in a configuration of somebody else; its other keys are not used.

    Raises:
        CheckpointError: naming the key.
    """
    for key, name, value in _entries(values, where):
        problem = _number_problem(name, value)
        if problem:
            raise CheckpointError(f"{where}: `{key}` {problem}")


def _entries(values: Mapping[str, Any], where: str) -> Iterator[tuple[str, str, Any]]:
    """Path, key and value of everything; what is in a list has the key of the list."""
    waiting: list[tuple[str, str, Any, int]] = [("", "", values, 0)]
    count = 0
    while waiting:
        path, key, value, depth = waiting.pop()
        count += 1
        if count > _MAX_VALUES or depth > _MAX_DEPTH:
            raise CheckpointError(f"{where} is damaged: it has too many values, or is nested too deep")
        if key:
            yield path, key, value
        if isinstance(value, Mapping):
            waiting += [
                (f"{path}.{one}" if path else str(one), str(one), each, depth + 1) for one, each in value.items()
            ]
        elif isinstance(value, (list, tuple)):
            waiting += [(path, key, each, depth + 1) for each in value]


def _key_problem(key: str, value: Any) -> str | None:
    if key in _FOREIGN and value and (key not in _PLACES or isinstance(value, str)):
        return _FOREIGN[key]
    name = key.strip("_").removesuffix("_internal")
    if name in ("attn_implementation", "experts_implementation"):
        return _implementation_problem(value, ATTENTIONS if name == "attn_implementation" else _EXPERTS)
    if key in ("dtype", "torch_dtype") and isinstance(value, str) and value.removeprefix("torch.") not in _DTYPES:
        return f"must be one of {', '.join(_DTYPES)}, got {value[:80]!r}"
    return None


def _implementation_problem(value: Any, allowed: tuple[str, ...]) -> str | None:
    for one in value.values() if isinstance(value, Mapping) else [value]:
        if one is not None and one not in allowed:
            return f"must be one of {', '.join(allowed)}, got {str(one)[:80]!r}"
        # Without its package, transformers would take it from the hub.
        if one == "flash_attention_2" and find_package("flash_attn") is None:
            return "asks for flash_attention_2, which needs the package flash_attn"
    return None


def find_package(name: str) -> Any:
    """Where a package is installed; None if it is not."""
    from importlib.util import find_spec

    return find_spec(name)


def _number_problem(key: str, value: Any) -> str | None:
    if not is_number(value):
        return None
    if not math.isfinite(value) or abs(value) > _MAX_INTEGER:
        # How long a text may be is practically unlimited in many tokenizers' settings, which say so by 10^30.
        return None if key in ("model_max_length", "max_length") else "must be a number within reason"
    if (_COUNTS.search(key) or key in _FURTHER_COUNTS) and abs(value) > MAX_LAYERS:
        return f"must be at most {MAX_LAYERS:,}, got {value:,}"
    if key == "window_size" and not 0 < value <= 256:
        return f"must be 1 to 256, got {value:,}"
    return None


def weight_files(folder: Path) -> list[Path]:
    """The files the weights are in: one, or the shards of an index.

    Raises:
        CheckpointError: if there are none, or the index names what is no file of the folder.
    """
    if _is_there(folder / WEIGHTS):
        return [folder / WEIGHTS]
    if not _is_there(folder / INDEX):
        pickled = next((path.name for path in sorted(folder.glob("*.bin"))), None)
        hint = f"; `{pickled}` must be converted first" if pickled else ""
        raise CheckpointError(f"`{folder}` has no {WEIGHTS}{hint}")
    return [folder / name for name in sorted(set(_shards(folder, INDEX).values()))]


def _shards(folder: Path, index: str) -> dict[str, str]:
    """The file that holds each weight, by the weight's name."""
    values = read_json(folder, index, _LARGE)
    shards = values.get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise CheckpointError(f"{index} in `{folder}` is damaged: it has no weight_map")
    for name in sorted(set(shards.values())):
        if not is_plain_name(name) or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{index} in `{folder}` is damaged: the shard {name[:80]!r} is no name of a .safetensors file beside it"
            )
    return shards


def is_plain_name(name: str) -> bool:
    """Whether it is the name of a file, with no folder before it."""
    return name not in ("", ".", "..") and not re.search(r"[/\\:\x00-\x1f]", name)


def stored_shapes(folder: Path) -> Shapes:
    """Name and shape of all weights, from the heads of their files; with an index, each where it says.

    Raises:
        CheckpointError: if a file is missing or damaged.
    """
    shapes: Shapes = {}
    paths = weight_files(folder)
    for path in paths:
        with open_weights(path) as file:
            names = list(file.keys())
            twice = next((name for name in names if name in shapes), None)
            if twice is not None:
                raise CheckpointError(f"{path.name} in `{folder}` has `{twice}`, which another file has as well")
            shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in names}
    if paths != [folder / WEIGHTS]:
        if not isinstance(read_json(folder, INDEX, _LARGE).get("metadata"), dict):
            raise CheckpointError(f"{INDEX} in `{folder}` is damaged: it has no metadata")
        lost = sorted(_shards(folder, INDEX).keys() ^ shapes.keys())
        if lost:
            raise CheckpointError(f"{INDEX} in `{folder}` does not fit its files: only one of them has `{lost[0]}`")
    return shapes


def stored_types(paths: Iterable[Path]) -> dict[str, str]:
    """Name and type of all weights in some files, as safetensors names types: "F32".

    Raises:
        CheckpointError: if a file is missing or damaged.
    """
    types: dict[str, str] = {}
    for path in paths:
        with open_weights(path) as file:
            names = list(file.keys())
            types |= {name: file.get_slice(name).get_dtype() for name in names}
    return types


@contextmanager
def open_weights(path: Path) -> Iterator[Any]:
    """A safetensors file.

    Raises:
        CheckpointError: if it is missing or damaged.
    """
    try:
        plain_file(path)
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        trouble = "is missing" if not path.exists() else "is damaged or was cut short"
        raise CheckpointError(f"{path.name} in `{path.parent}` {trouble}") from error


def check_one_home(folder: Path, config: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Numbers that both config.json and processor_config.json state must be the same; the processor's are used.

    Args:
        config: values of config.json; what it leaves out contradicts nothing.
        settings: values of processor_config.json.

    Raises:
        CheckpointError: naming both files and both values.
    """
    grounder = config.get("grounder_config")
    grounder = grounder if isinstance(grounder, Mapping) else {}
    canvas, selection = settings["canvas"], settings["selection"]
    rows = [
        ("size of the canvas", grounder, "image_size", canvas, "size"),
        ("image_mean", grounder, "image_mean", canvas, "mean"),
        ("image_std", grounder, "image_std", canvas, "std"),
        ("pad_value", grounder, "pad_value", canvas, "pad_value"),
    ]
    rows += [(name, config, name, selection, name) for name in ("score_function", "score_threshold", "nms_iou")]
    for what, home, key, other, other_key in rows:
        if key in home and other_key in other and home[key] != other[other_key]:
            words = what if what == key else f"the {what}"
            raise CheckpointError(
                f"{CONFIG} and {PROCESSOR} in `{folder}` do not belong together: "
                f"{words} is {home[key]} in one and {other[other_key]} in the other"
            )
