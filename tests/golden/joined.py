"""A released checkpoint in small, put together from the weights of groups A, B and C as the original would save it."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from llava_grounding.convert.keys import GROUNDER_PREFIX, PROMPT_ENCODER_PREFIX
from llava_grounding.convert.sizes import OfficialSettings

LANGUAGE_WEIGHTS = "llm_weights.safetensors"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, those too that it holds once under several names: its metadata lists the other names."""
    with safe_open(path, "pt") as file:
        same = json.loads((file.metadata() or {}).get("same", "{}"))
    tensors = load_file(path)
    return tensors | {name: tensors[stored].clone() for name, stored in same.items()}


def sibling(folder: Path, letter: str, file: str = "weights.safetensors") -> Path:
    """The folder of another group of the same recording, the one with this file.

    Raises:
        FileNotFoundError: if there is none.
    """
    found = sorted(path for path in folder.parent.glob(f"{letter}_*") if (path / file).is_file())
    if not found:
        raise FileNotFoundError(f"this group needs the weights of group {letter}, expected beside {folder}")
    return found[0]


def joined_state(folder: Path) -> dict[str, Tensor]:
    """Every tensor under the key it has in a released checkpoint.

    Args:
        folder: of group C.
    """
    state = read_tensors(folder / LANGUAGE_WEIGHTS)
    for letter, prefix in (("A", GROUNDER_PREFIX), ("B", PROMPT_ENCODER_PREFIX)):
        weights = read_tensors(sibling(folder, letter) / "weights.safetensors")
        state |= {prefix + key: tensor for key, tensor in weights.items()}
    return state


def write_released(
    folder: Path, out: Path, state: Mapping[str, Tensor] | None = None, num_files: int = 2, pickled: bool = True
) -> Path:
    """A folder with the files of a release, in `num_files` shards; `state` instead of what group C's folder gives."""
    state = dict(joined_state(folder) if state is None else state)
    out.mkdir(parents=True)
    keys = list(state)
    for number in range(num_files):
        part = {key: state[key] for key in keys[number::num_files]}
        stem = f"-{number + 1:05d}-of-{num_files:05d}"
        if pickled:
            torch.save(part, out / f"pytorch_model{stem}.bin")
        else:
            save_file(part, out / f"model{stem}.safetensors")
    (out / "config.json").write_text(json.dumps(read(folder, "llm_config.json")["llm"]), encoding="utf-8")
    fixture = read(folder, "tokenizer_fixture.json")
    (out / "tokenizer.model").write_bytes(base64.b64decode(fixture["sentencepiece_model_base64"]))
    (out / "added_tokens.json").write_text(json.dumps(fixture["added_tokens"]), encoding="utf-8")
    (out / "tokenizer_config.json").write_text(json.dumps(fixture["tokenizer_config"]), encoding="utf-8")
    return out


def released_settings(folder: Path) -> OfficialSettings:
    """What the files of the small release do not say."""
    config = read(folder, "llm_config.json")
    grounder = json.loads((sibling(folder, "A") / "config.json").read_text(encoding="utf-8"))
    heads = {"num_attention_heads": config["clip"]["num_attention_heads"]}
    return OfficialSettings(
        image_size=config["detector_image_size"],
        num_queries=grounder["MODEL"]["DECODER"]["NUM_OBJECT_QUERIES"],
        vision_tower=heads,
    )


def read(folder: Path, name: str) -> Any:
    """One JSON file."""
    return json.loads((folder / name).read_text(encoding="utf-8"))
