"""A released checkpoint in small: everything arrives, nothing is swallowed, and a failure leaves nothing behind."""

from __future__ import annotations

import filecmp
import json
import pickle
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from golden.joined import joined_state, released_settings, write_released
from llava_grounding.checkpoints import load_checkpoint
from llava_grounding.convert import folder as written_folder
from llava_grounding.convert.keys import GROUNDER_PREFIX
from llava_grounding.convert.official import convert_official
from llava_grounding.convert.report import ConversionReport
from llava_grounding.convert.writer import WeightWriter
from llava_grounding.errors import CheckpointError, UsageError

RECORDED = Path(__file__).parents[1] / "golden" / "C_inference"
SETTINGS = released_settings(RECORDED)
STATE = joined_state(RECORDED)
BOX_HEAD = f"{GROUNDER_PREFIX}sem_seg_head.predictor.%s.layers.2.bias"


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pickled shards with all that belongs to them; nobody may change them."""
    return write_released(RECORDED, tmp_path_factory.mktemp("official") / "released", STATE)


@pytest.fixture(scope="module")
def conversion(released: Path) -> ConversionReport:
    """Of it."""
    return convert_official(released, released.parent / "ours", SETTINGS)


def changed(tmp_path: Path, **replaced: Tensor | None) -> Path:
    """A release with some tensors replaced or (None) left out."""
    state = {key: tensor for key, tensor in (STATE | replaced).items() if tensor is not None}
    return write_released(RECORDED, tmp_path / "released", state)


def rewrite(path: Path, **values: Any) -> None:
    """Change some values of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_every_stored_tensor_is_accounted_for(conversion: ConversionReport) -> None:
    used = sum(part.keys for part in conversion.parts)
    assert used + conversion.aliases + sum(conversion.left_out.values()) == len(STATE)
    assert list(conversion.fresh) == ["visual_prompt_encoder.coverage_projection.weight"]
    ids = {"<g_s>": 1400, "<g_e>": 1401, "<seg>": 1402, "<image>": 1403, "<region>": 1404}
    assert conversion.token_ids == ids
    text = "\n".join(conversion.lines())
    assert "starts fresh: visual_prompt_encoder.coverage_projection.weight, 4,096 parameters" in text
    assert f"{conversion.aliases} keys were further names of shared tensors, and equal" in text
    assert "ids: <g_s> 1400, <g_e> 1401, <seg> 1402, <image> 1403, <region> 1404" in text


def test_the_converted_checkpoint_loads_with_the_originals_weights(conversion: ConversionReport) -> None:
    loaded = load_checkpoint(conversion.out, "cpu", None)
    model = loaded.model
    assert sum(value.numel() for value in model.state_dict().values()) == conversion.parameters
    torch.testing.assert_close(model.get_input_embeddings().weight, STATE["model.embed_tokens.weight"], rtol=0, atol=0)
    swin = STATE[f"{GROUNDER_PREFIX}backbone.layers.0.blocks.1.attn.qkv.bias"]
    attention = model.grounder.backbone.body.swin.encoder.layers[0].blocks[1].attention
    torch.testing.assert_close(attention.k_proj.bias, swin.chunk(3)[1], rtol=0, atol=0)
    assert model.config.phrase_state == "before_seg"
    assert model.config.score_function == "softmax"
    assert loaded.processor.settings.tokenisation == "sentencepiece"
    assert not loaded.processor.settings.demo_quirks


def test_files_and_their_number_make_no_difference(conversion: ConversionReport, tmp_path: Path) -> None:
    source = write_released(RECORDED, tmp_path / "released", STATE, num_files=3, pickled=False)
    report = convert_official(source, tmp_path / "ours", SETTINGS, max_file_bytes=3_000_000)
    assert len(report.files) > 2
    whole = load_file(conversion.out / "model.safetensors")
    parts = [load_file(report.out / name) for name in report.files]
    assert sum(map(len, parts)) == len(whole)
    assert all(torch.equal(tensor, whole[name]) for part in parts for name, tensor in part.items())
    index = json.loads((report.out / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == whole.keys()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in whole.values())
    model = load_checkpoint(report.out, "cpu", None).model
    assert torch.equal(model.lm_head.weight, whole["lm_head.weight"])


def test_converting_what_is_converted_changes_nothing(conversion: ConversionReport, tmp_path: Path) -> None:
    again = convert_official(conversion.out, tmp_path / "again")
    names = sorted(path.name for path in conversion.out.iterdir())
    assert names == sorted(path.name for path in again.out.iterdir())
    assert filecmp.cmpfiles(conversion.out, again.out, names, shallow=False)[0] == names


def test_the_language_side_takes_another_type_and_vision_does_not(released: Path, tmp_path: Path) -> None:
    report = convert_official(released, tmp_path / "half", SETTINGS, dtype=torch.bfloat16)
    written = load_file(report.out / "model.safetensors")
    vision = ("grounder.", "visual_prompt_encoder.")
    assert {str(tensor.dtype) for name, tensor in written.items() if name.startswith(vision)} == {"torch.float32"}
    assert {str(tensor.dtype) for name, tensor in written.items() if not name.startswith(vision)} == {"torch.bfloat16"}
    assert torch.equal(written["lm_head.weight"], STATE["lm_head.weight"].to(torch.bfloat16))


def test_one_name_of_a_shared_tensor_is_enough(tmp_path: Path, conversion: ConversionReport) -> None:
    families = ("_bbox_embed", "bbox_embed.2", "decoder.bbox_embed.1")
    spare = {key: None for key in STATE for family in families[1:] if f"predictor.{family}." in key}
    report = convert_official(changed(tmp_path, **spare), tmp_path / "ours", SETTINGS)
    assert report.aliases == conversion.aliases - len(spare)
    assert filecmp.cmp(report.out / "model.safetensors", conversion.out / "model.safetensors", shallow=False)


def renamed(key: str, to: str) -> dict[str, Tensor | None]:
    return {key: None, to: STATE[key]}


LATER = BOX_HEAD % "decoder.bbox_embed.1"
MIDDLE = f"{GROUNDER_PREFIX}sem_seg_head.pixel_decoder.layer_1.norm."
WRONG: dict[str, tuple[dict[str, Tensor | None], str]] = {
    "renamed": (
        renamed(f"{MIDDLE}weight", f"{MIDDLE}weigth"),
        rf"unknown key `{MIDDLE}weigth`: .*nothing is stored for `grounder\.pixel_decoder\.output\.1\.weight`",
    ),
    "renamed in the tower": (
        renamed(
            "model.vision_tower.vision_tower.vision_model.post_layernorm.bias",
            "model.vision_tower.vision_tower.vision_model.post_norm.bias",
        ),
        r"unknown key `model\.vision_tower\.vision_tower\.vision_model\.post_norm\.bias`",
    ),
    "another shape": (
        {"model.norm.weight": torch.ones(65)},
        r"kind: `model\.norm\.weight` is \(65\), expected \(64\)$",
    ),
    "joint projection of another shape": (
        {f"{GROUNDER_PREFIX}backbone.layers.0.blocks.0.attn.qkv.weight": torch.ones(51, 16)},
        r"qkv\.weight` is \(51, 16\), expected \(48, 16\)$",
    ),
    "unequal names": (
        {LATER: STATE[LATER] + 1e-3},
        "name one shared tensor but hold different values",
    ),
    "missing": ({"lm_head.weight": None}, r"nothing is stored for `lm_head\.weight`$"),
    "no place to read a size from": (
        {"model.embed_tokens.weight": None},
        r"1403 tokens, but the word embedding has 0 rows",
    ),
    "more rows than tokens": (
        {name: torch.zeros(1408, 64) for name in ("model.embed_tokens.weight", "lm_head.weight")},
        r"has 1403 tokens, but the word embedding has 1408 rows",
    ),
    "another width than config.json": (
        {"model.embed_tokens.weight": torch.zeros(1403, 32)},
        r"config\.json says hidden_size is 64, but the weights have 32",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_named_and_nothing_is_written(tmp_path: Path, what: str) -> None:
    tensors, message = WRONG[what]
    with pytest.raises(CheckpointError, match=message):
        convert_official(changed(tmp_path, **tensors), tmp_path / "ours", SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["released"]


def test_unequal_names_in_different_files_are_both_named(tmp_path: Path) -> None:
    source = write_released(RECORDED, tmp_path / "released", STATE)
    first, second = (source / f"pytorch_model-0000{number}-of-00002.bin" for number in (1, 2))
    shards = [torch.load(path, weights_only=True) for path in (first, second)]
    for shard in shards:
        for key in [key for key in shard if re.search(r"^seg_model\..*bbox_embed.*layers\.2\.bias$", key)]:
            del shard[key]
    shards[0][BOX_HEAD % "_bbox_embed"] = STATE[LATER]
    shards[1][LATER] = STATE[LATER] + 1e-3
    for path, shard in zip((first, second), shards, strict=True):
        torch.save(shard, path)
    with pytest.raises(CheckpointError) as caught:
        convert_official(source, tmp_path / "ours", SETTINGS)
    named = re.findall(r"`(\S+?)` in (pytorch_model-0000\d-of-00002\.bin)", str(caught.value))
    assert LATER in [key for key, _ in named]
    assert len({file for _, file in named}) == 2


class Evil:
    """Would run code when unpickled."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return Path.touch, (Path("evil"),)  # type: ignore[return-value]


def pickled(path: Path) -> None:
    torch.save({"model.norm.weight": Evil()}, path)


DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a shard is gone": (
        lambda folder: (folder / "pytorch_model-00001-of-00002.bin").unlink(),
        "lacks pytorch_model-00001-of-00002.bin",
    ),
    "a shard was cut short": (
        lambda folder: (folder / "pytorch_model-00001-of-00002.bin").write_bytes(b"PK\x03\x04abc"),
        r"pytorch_model-00001-of-00002\.bin in .* is damaged or was cut short",
    ),
    "a shard holds code": (
        lambda folder: pickled(folder / "pytorch_model-00002-of-00002.bin"),
        r"00002\.bin in .* holds more than tensors .* a file that could run code is not read",
    ),
    "a shard is plain pickle": (
        lambda folder: (folder / "pytorch_model-00002-of-00002.bin").write_bytes(pickle.dumps({"a": {1: 2}}, 2)),
        r"pytorch_model-00002-of-00002\.bin in ",
    ),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    "no tokenizer": (
        lambda folder: (folder / "tokenizer.model").unlink(),
        "expected tokenizer.model or tokenizer.json",
    ),
    "a damaged vocabulary": (lambda folder: (folder / "tokenizer.model").write_bytes(b"\xff" * 40), "damaged"),
    "no grounding tokens": (
        lambda folder: (folder / "added_tokens.json").write_text('{"<a>": 1400, "<b>": 1401, "<c>": 1402}'),
        "lacks <g_s>, <g_e>, <seg>",
    ),
    "ids with a gap": (
        lambda folder: (folder / "added_tokens.json").write_text('{"<g_s>": 1400, "<g_e>": 1401, "<seg>": 1410}'),
        "gives `<seg>` the id 1410, but the next one of its vocabulary is 1402",
    ),
    "tokens around the image": (
        lambda folder: rewrite(folder / "config.json", mm_use_im_start_end=True),
        "tokens around the image are not supported",
    ),
    "an index that names what is not there": (
        lambda folder: (folder / "pytorch_model.bin.index.json").write_text(
            '{"weight_map": {"model.norm.weight": "pytorch_model-00003-of-00003.bin"}}'
        ),
        "lacks pytorch_model-00003-of-00003.bin",
    ),
    "no weights": (lambda folder: [path.unlink() for path in folder.glob("*.bin")], "has no weights"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_what_is_damaged_is_named_and_nothing_is_written(tmp_path: Path, what: str) -> None:
    damage, message = DAMAGED[what]
    source = changed(tmp_path)
    damage(source)
    with pytest.raises(CheckpointError, match=message):
        convert_official(source, tmp_path / "ours", SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["released"]


def test_a_failure_in_the_middle_of_writing_leaves_nothing(released: Path, tmp_path: Path) -> None:
    writes = []

    def write(self: WeightWriter, name: str, tensor: Tensor) -> None:
        writes.append(name)
        if len(writes) == 50:
            raise OSError("the disk is full")

    full = pytest.raises(CheckpointError, match=r"`.*ours` cannot be written: the disk is full")
    with mock.patch.object(WeightWriter, "write", write), full:
        convert_official(released, tmp_path / "deep" / "ours", SETTINGS)
    assert list((tmp_path / "deep").iterdir()) == []


def test_nothing_is_written_over(released: Path, tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours" / "note.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="is not empty; give a folder that is new or empty"):
        convert_official(released, tmp_path / "ours", SETTINGS)
    with pytest.raises(UsageError, match="is a file; give a folder that is new or empty"):
        convert_official(released, tmp_path / "file", SETTINGS)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "ours"]


def test_an_empty_folder_is_taken(conversion: ConversionReport, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    report = convert_official(conversion.out, tmp_path / "empty")
    assert (report.out / "model.safetensors").is_file()


def test_no_room_on_the_disk_is_said_before_anything_is_written(released: Path, tmp_path: Path) -> None:
    usage = mock.Mock(free=1000)
    with (
        mock.patch("llava_grounding.convert.writer.shutil.disk_usage", return_value=usage),
        pytest.raises(CheckpointError, match=r"the weights take 0\.0 GB, but only 0\.0 GB are free"),
    ):
        convert_official(released, tmp_path / "ours", SETTINGS)
    assert list(tmp_path.iterdir()) == []


def test_what_a_checkpoint_holds_is_read_once_and_file_by_file(released: Path, tmp_path: Path) -> None:
    seen: list[Path] = []
    original = written_folder.read_tensors

    def noting(wanted: Any) -> Any:
        for entry, tensor in original(wanted):
            seen.append(entry.path)
            yield entry, tensor

    with mock.patch.object(written_folder, "read_tensors", noting):
        convert_official(released, tmp_path / "ours", SETTINGS)
    assert seen == sorted(seen)


def test_what_a_killed_conversion_left_is_removed_by_the_next(released: Path, tmp_path: Path) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    left = tmp_path / f".ours.{ended.pid}.abcdef.part"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    convert_official(released, tmp_path / "ours", SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]
