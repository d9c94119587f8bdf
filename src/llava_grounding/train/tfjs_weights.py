"""Tensors of a TensorFlow.js graph model: a JSON file beside its binary shards. Reads numbers only, runs nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llava_grounding.checkpoint_files import read_object
from llava_grounding.errors import VALUE_ERRORS, CheckpointError, quoted

_STORED = {"float32": "<f4", "float16": "<f2", "int32": "<i4"}
_MAX_AXES, _MAX_ELEMENTS = 8, 2**40


def read_tfjs_weights(path: Path) -> dict[str, Tensor]:
    """All tensors by name, with the axes in the published order: floating ones in float32, others in int64.

    Args:
        path: the JSON file; its shards are plain file names in the same folder.

    Raises:
        CheckpointError: if a file is missing, is of another kind, names a shard or a tensor twice, or the shards are
            longer or shorter than its tensors.
    """
    try:
        groups = read_object(path)["weightsManifest"]
        shards = [[str(name) for name in group["paths"]] for group in groups]
        described = [[_described(weight) for weight in group["weights"]] for group in groups]
    except OSError as error:
        raise CheckpointError(f"cannot read `{path}`: {error.strerror}") from error
    except (*VALUE_ERRORS, RecursionError) as error:
        raise CheckpointError(f"`{path.name}` is no graph model of TensorFlow.js whose tensors can be read") from error
    # A shard that counted more than once would take more memory than its file says.
    if (twice := _repeated(chain.from_iterable(shards))) is not None:
        raise CheckpointError(f"`{path.name}` names the shard {quoted(twice)} twice")
    if (twice := _repeated(name for group in described for name, _, _ in group)) is not None:
        raise CheckpointError(f"`{path.name}` has two tensors named {quoted(twice)}")
    tensors: dict[str, Tensor] = {}
    for names, group in zip(shards, described, strict=True):
        data = _read_shards(path, names, sum(math.prod(shape) * stored.itemsize for _, shape, stored in group))
        offset = 0
        for name, shape, stored in group:
            values = np.frombuffer(data, stored, math.prod(shape), offset).reshape(shape)
            offset += values.nbytes
            tensors[name] = torch.from_numpy(values.astype(np.float32 if stored.kind == "f" else np.int64))
    return tensors


def _described(weight: Mapping[str, Any]) -> tuple[str, tuple[int, ...], np.dtype[Any]]:
    """(name, shape, type as stored) of one tensor of the manifest; a quantised one of another kind is a KeyError."""
    shape = weight["shape"]
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError("a shape must be a list of sizes")
    if len(shape) > _MAX_AXES or math.prod(max(size, 1) for size in shape) > _MAX_ELEMENTS:
        raise ValueError("a tensor has too many axes or elements")
    return str(weight["name"]), tuple(shape), np.dtype(_STORED[weight.get("quantization", weight)["dtype"]])


def _repeated(names: Iterable[str]) -> str | None:
    """The name that is there most often, if it is there more than once."""
    name, count = next(iter(Counter(names).most_common(1)), ("", 0))
    return name if count > 1 else None


def _read_shards(path: Path, names: list[str], expected: int) -> bytes:
    """The shards of one group behind each other, once their sizes are known to fit."""
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(f"`{path.name}` names the shard {quoted(name)}, which is no plain file name")
    files = [path.parent / name for name in names]
    try:
        if missing := [file.name for file in files if not file.is_file()]:
            raise CheckpointError(f"`{path.name}` needs the shard {quoted(missing[0])} beside it")
        if (found := sum(file.stat().st_size for file in files)) != expected:
            raise CheckpointError(f"the shards of `{path.name}` have {found} bytes, its tensors take {expected}")
        return b"".join(file.read_bytes() for file in files)
    except OSError as error:
        raise CheckpointError(f"cannot read the shards of `{path.name}`: {error.strerror}") from error
