"""Reading a folder of recorded numbers, and the few steps between a recorded image and the model's input.

Knows the format (config.json, cases.json, safetensors, booleans as bytes), not what the tensors mean.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from joined import read_tensors
from ledger import Ledger
from torch import Tensor

from llava_grounding.processing.image import normalise

Json = dict[str, Any]


def read_config(folder: Path) -> Json:
    """The configuration the numbers were recorded with."""
    return json.loads((folder / "config.json").read_text())


def read_cases(folder: Path) -> list[Json]:
    """The cases of a group, whether the file is a list or holds one."""
    cases = json.loads((folder / "cases.json").read_text())
    return cases["cases"] if isinstance(cases, dict) else cases


def check_files(folder: Path, ledger: Ledger, expected: set[str]) -> bool:
    """Note files that are missing or unknown; False if any is missing."""
    found = {path.name for path in folder.iterdir() if path.suffix in (".json", ".safetensors")}
    ledger.problems += [f"unknown file {name}: no case of cases.json names it" for name in sorted(found - expected)]
    ledger.problems += [f"missing file {name}" for name in sorted(expected - found)]
    return expected <= found


def images_of(cases: Sequence[Json]) -> Iterator[tuple[str, Json]]:
    """Each image file once, with the first case that names it."""
    seen = set()
    for case in cases:
        if case["image_file"] not in seen:
            seen.add(case["image_file"])
            yield case["image_file"], case


def model_input(image_uint8: Tensor, config: Json) -> Tensor:
    """Recorded [3, H, W] bytes as the model's [1, 3, H', W']: normalised, then padded right and below with zeros."""
    means, deviations = config["INPUT"]["PIXEL_MEAN"], config["INPUT"]["PIXEL_STD"]
    pixels = normalise(image_uint8.movedim(0, -1), tuple(means), tuple(deviations))
    height, width = padded_size_hw(tuple(image_uint8.shape[1:]), config)
    return F.pad(pixels, (0, width - pixels.shape[2], 0, height - pixels.shape[1]))[None]


def padded_size_hw(size_hw: Sequence[int], config: Json) -> tuple[int, int]:
    """The size rounded up to what the backbone's stride divides."""
    multiple = config["MODEL"]["DECODER"].get("SIZE_DIVISIBILITY", 32)
    height, width = (math.ceil(side / multiple) * multiple for side in size_hw)
    return height, width


def load(folder: Path, file: str) -> dict[str, Tensor]:
    """One file of tensors."""
    return read_tensors(folder / file)


def load_converted(module: torch.nn.Module, state: Mapping[str, Tensor]) -> torch.nn.Module:
    """The module in evaluation mode with all of its weights from `state`, none left over."""
    module.load_state_dict(dict(state), strict=True)
    return module.eval()
