"""Weight files read in pieces."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import save_file

from llava_grounding.convert import shards
from llava_grounding.convert.shards import find_shards, read_tensors, stored_in
from llava_grounding.errors import CheckpointError

STATE = {f"part.{number}": torch.full((10, 10), float(number)) for number in range(8)}


@pytest.mark.parametrize("kind", ["safetensors", "bin", "old"])
def test_a_file_is_opened_anew_after_so_many_bytes(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.bin")
    if kind == "safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=kind == "bin")
    stored = stored_in([path])
    assert {entry.key: entry.shape for entry in stored} == dict.fromkeys(STATE, (10, 10))
    opened = []
    mapped = shards._Mapped

    def noting(path: Path) -> shards._Mapped:
        opened.append(path)
        return mapped(path)

    with mock.patch.object(shards, "_REMAP_BYTES", 1000), mock.patch.object(shards, "_Mapped", noting):
        read = {entry.key: tensor.clone() for entry, tensor in read_tensors(stored)}
    assert all(torch.equal(read[key], STATE[key]) for key in STATE)
    # Each tensor has 400 bytes. What was written before there were zip files is in memory as a whole, once.
    assert len(opened) == (1 if kind == "old" else 3)


def test_weights_may_be_wrapped_and_must_be_tensors(tmp_path: Path) -> None:
    torch.save({"model": STATE, "iteration": 7}, tmp_path / "wrapped.pt")
    assert len(stored_in([tmp_path / "wrapped.pt"])) == len(STATE)
    torch.save({"iteration": 7}, tmp_path / "nothing.pt")
    with pytest.raises(CheckpointError, match=r"nothing\.pt in .* is no checkpoint: expected tensors by name"):
        stored_in([tmp_path / "nothing.pt"])


def test_safetensors_are_preferred_and_shards_must_be_complete(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no weights"):
        find_shards(tmp_path)
    with pytest.raises(CheckpointError, match="is no folder and no file"):
        find_shards(tmp_path / "nowhere")
    (tmp_path / "pytorch_model-00002-of-00003.bin").touch()
    with pytest.raises(CheckpointError, match=r"lacks pytorch_model-00001-of-00003\.bin, pytorch_model-00003-of-00003"):
        find_shards(tmp_path)
    save_file(STATE, tmp_path / "model.safetensors")
    assert find_shards(tmp_path) == [tmp_path / "model.safetensors"]
    assert find_shards(tmp_path / "model.safetensors") == [tmp_path / "model.safetensors"]
