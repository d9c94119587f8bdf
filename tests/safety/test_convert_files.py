"""Checkpoints of others that are damaged or mean harm: found before anything is written, and nothing of them is run."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from golden.joined import joined_state, released_settings, write_released
from llava_grounding.convert.official import convert_official
from llava_grounding.convert.piece_model import read_pieces
from llava_grounding.convert.shards import find_shards, read_tensors, stored_in
from llava_grounding.convert.writer import check_new, new_folder
from llava_grounding.errors import CheckpointError, UsageError
from llava_grounding.train.checkpoint import CLASS_PHRASE_FILES, load_class_phrases
from llava_grounding.train.publish import publish

RECORDED = Path(__file__).parents[1] / "golden" / "C_inference"
SETTINGS = released_settings(RECORDED)
STATE = {"a": torch.arange(64.0), "b": torch.arange(8.0) + 100}
Records = list[tuple[str, bytes]]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small release in one pickled file; nobody may change it."""
    return write_released(
        RECORDED, tmp_path_factory.mktemp("release") / "released", joined_state(RECORDED), num_files=1
    )


def saved(path: Path, values: object = STATE) -> Path:
    torch.save(values, path)
    return path


def rewritten(path: Path, change: Callable[[Records], Records], **kwargs: Any) -> Path:
    """The same archive with other records."""
    with zipfile.ZipFile(path) as archive:
        records = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(path, "w", **kwargs) as archive:
        for name, data in change(records):
            archive.writestr(name, data)
    return path


def resized(name: str, size: Callable[[bytes], bytes]) -> Callable[[Records], Records]:
    return lambda records: [(one, size(data) if one.endswith(name) else data) for one, data in records]


def test_a_whole_file_is_read_with_what_belongs_to_it(tmp_path: Path) -> None:
    wrapped = {"model": STATE, "epoch": 3, "lr": [0.1, (1, None)]}
    for values in (STATE, wrapped):
        path = saved(tmp_path / "whole.pt", values)
        assert {entry.key: tensor.tolist() for entry, tensor in read_tensors(stored_in([path]))} == {
            name: value.tolist() for name, value in STATE.items()
        }


SIZES: dict[str, tuple[Callable[[Records], Records], str]] = {
    "short": (resized("/data/0", lambda data: data[:4]), r"its record data/0 has 4 bytes, but the tensors .* need 256"),
    "long": (resized("/data/1", lambda data: data * 2), r"its record data/1 has 64 bytes, but the tensors .* need 32"),
    "empty": (resized("/data/1", lambda data: b""), r"its record data/1 has 0 bytes"),
    "missing": (lambda records: [one for one in records if not one[0].endswith("/data/1")], "data/1 is missing"),
    "no index": (lambda records: [one for one in records if not one[0].endswith("data.pkl")], "it has no data.pkl"),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_record_of_another_size_than_its_tensors_is_damage(name: str, tmp_path: Path) -> None:
    change, words = SIZES[name]
    path = rewritten(saved(tmp_path / "weights.bin"), change)
    with pytest.raises(CheckpointError, match=rf"weights\.bin in `.*` is damaged: .*{words}"):
        stored_in([path])


def test_a_short_storage_is_found_before_anything_is_written(released: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(released, tmp_path / "released"))
    (path,) = source.glob("*.bin")
    rewritten(path, resized("/data/0", lambda data: data[:4]))
    with pytest.raises(CheckpointError, match=r"is damaged: its record data/0 has 4 bytes"):
        convert_official(source, tmp_path / "ours", SETTINGS)
    assert [one.name for one in tmp_path.iterdir()] == ["released"]


def test_a_compressed_archive_is_refused_unread(tmp_path: Path) -> None:
    path = rewritten(saved(tmp_path / "weights.bin"), lambda records: records, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="is compressed, and torch never does that"):
        stored_in([path])


def test_a_directory_that_lies_about_a_size_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "weights.bin")
    data = bytearray(path.read_bytes())
    place = data.index(b"PK\x01\x02")
    for start in (20, 24):  # compressed and plain size of the first record
        data[place + start : place + start + 4] = (2**31).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"weights\.bin in .* is damaged"):
        stored_in([path])


def test_records_may_not_lie_within_each_other(tmp_path: Path) -> None:
    path = saved(tmp_path / "weights.bin")
    data = path.read_bytes()
    directory = data.index(b"PK\x01\x02")
    second = data.index(b"PK\x01\x02", directory + 4)
    changed = bytearray(data)
    changed[second + 42 : second + 46] = changed[directory + 42 : directory + 46]  # where its head is
    path.write_bytes(changed)
    with pytest.raises(CheckpointError, match=r"weights\.bin in .* is damaged"):
        stored_in([path])


def pickled(path: Path, index: bytes) -> Path:
    """An archive of torch with another index."""
    return rewritten(saved(path), resized("/data.pkl", lambda _: index))


def numbered(opcode: bytes, number: int, size: int) -> bytes:
    return opcode + number.to_bytes(size, "little")


def endless_key() -> bytes:
    """A key of tuples within tuples, each twice in the next: to hash it takes for ever."""
    twice = b"".join(b"q" + bytes([level]) + b"h" + bytes([level]) + b"\x86" for level in range(60))
    return b"\x80\x02}K\x00" + twice + b"K\x01s."


class Evil:
    """Would run code when unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("evil",)


PICKLES = {
    "code": pickle.dumps({"a": Evil()}, 2),
    "a text of gigabytes": b"\x80\x04" + numbered(b"\x8d", 2**40, 8) + b"a.",
    "bytes of gigabytes": b"\x80\x05" + numbered(b"\x96", 3 * 2**30, 8) + b".",
    "a key that takes for ever": endless_key(),
    "a set": pickle.dumps({"a": {1, 2}}, 4),
    "nothing": b"",
    "no pickle": b"\xff" * 100,
}


@pytest.mark.parametrize("name", PICKLES)
def test_a_hostile_index_is_one_sentence(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = pickled(tmp_path / "weights.bin", PICKLES[name])
    with pytest.raises(CheckpointError, match=r"weights\.bin in .*") as caught:
        stored_in([path])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "evil").exists()


def test_bytes_that_are_not_there_take_no_memory(tmp_path: Path) -> None:
    path = pickled(tmp_path / "weights.bin", PICKLES["bytes of gigabytes"])
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=r"weights\.bin in .*"):
            stored_in([path])
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_a_number_in_an_index_takes_no_memory(tmp_path: Path) -> None:
    assert stored_in([pickled(tmp_path / "weights.bin", b"\x80\x02}" + numbered(b"r", 2**32 - 1, 4) + b".")]) == []


KINDS: dict[str, tuple[Any, str]] = {
    "sparse": (torch.eye(4).to_sparse(), "is no plain tensor in memory"),
    "meta": (torch.ones(4, device="meta"), "weights.bin"),
    "repeated": (torch.ones(1).expand(10**9), "has more elements than are stored"),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_tensor_without_its_values_is_refused(name: str, tmp_path: Path) -> None:
    value, words = KINDS[name]
    path = saved(tmp_path / "weights.bin", {"a": value})
    with pytest.raises(CheckpointError, match=words):
        stored_in([path])


def test_names_must_be_texts(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="names must be texts"):
        stored_in([saved(tmp_path / "weights.bin", {1: torch.ones(1)})])


NORM = "model.norm.weight"
WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "whole numbers": ({NORM: torch.ones(64, dtype=torch.int64)}, "is of the type int64, expected float16, bfloat16"),
    "truths": ({NORM: torch.ones(64, dtype=torch.bool)}, "is of the type bool, expected"),
    "complex numbers": ({NORM: torch.ones(64, dtype=torch.complex64)}, "is of the type complex64, expected"),
    "no axis": ({"model.embed_tokens.weight": torch.tensor(1.0)}, "has the shape .* expected 2 sides"),
    "no rows": ({"model.embed_tokens.weight": torch.ones(0, 64)}, "expected 2 sides, none of them 0"),
    "a layer far away": (
        {"model.layers.100000000.input_layernorm.weight": torch.ones(64)},
        r"but not `model.layers.\d.input_layernorm.weight`",
    ),
    "a layer of many digits": (
        {f"model.layers.{'9' * 5000}.input_layernorm.weight": torch.ones(64)},
        "layers of a kind, but not",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_tensors_that_are_no_weights_are_named_before_anything_is_written(name: str, tmp_path: Path) -> None:
    values, words = WRONG[name]
    source = write_released(RECORDED, tmp_path / "released", joined_state(RECORDED) | values, num_files=1)
    with pytest.raises(CheckpointError, match=words):
        convert_official(source, tmp_path / "ours", SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["released"]


def config(**values: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


CONFIGS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no heads": (config(num_attention_heads=0), "num_attention_heads is 0, expected a whole number"),
    "words for heads": (config(num_attention_heads="many"), "num_attention_heads is 'many', expected a whole number"),
    "words for a number": (config(rms_norm_eps="small"), "rms_norm_eps is 'small', expected a small number"),
    "layers": (config(num_hidden_layers=10**9), "`num_hidden_layers` must be at most 1,000"),
    "a list for a part": (config(text_config=[1]), "its text_config must be an object"),
    "deep": (lambda folder: (folder / "config.json").write_text('{"a":' * 10**5), "is damaged: it is nested too deep"),
    "a list": (lambda folder: (folder / "config.json").write_text("[]"), "expected a JSON object, got list"),
    "half a character in a token": (
        lambda folder: (folder / "added_tokens.json").write_text('{"\\ud800": 1400}'),
        r"added_tokens\.json in .* is missing or damaged",
    ),
    "a shard above": (
        lambda folder: (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "../secret.bin"}}'),
        r"the shard '\.\./secret\.bin' is no name of a file beside it",
    ),
    "a million shards": (
        lambda folder: next(folder.glob("*.bin")).rename(folder / "pytorch_model-00001-of-99999999.bin"),
        "is one of 99,999,999 files, which cannot be",
    ),
    "a pipe": (
        lambda folder: ((folder / "tokenizer.model").unlink(), os.mkfifo(folder / "tokenizer.model")),
        "tokenizer",
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_hostile_release_is_one_sentence(name: str, released: Path, tmp_path: Path) -> None:
    change, words = CONFIGS[name]
    source = Path(shutil.copytree(released, tmp_path / "released"))
    change(source)
    with pytest.raises(CheckpointError, match=words) as caught:
        convert_official(source, tmp_path / "ours", SETTINGS)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["released"]


def test_a_piece_of_a_vocabulary_is_no_book(tmp_path: Path) -> None:
    text = b"a" * 10**6
    piece = b"\x0a" + varint(len(text)) + text
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a" + varint(len(piece)) + piece)
    with pytest.raises(CheckpointError, match="missing or damaged"):
        read_pieces(tmp_path / "tokenizer.model")


def varint(number: int) -> bytes:
    data = io.BytesIO()
    while number > 127:
        data.write(bytes([number & 127 | 128]))
        number >>= 7
    data.write(bytes([number]))
    return data.getvalue()


def test_an_output_never_lies_in_what_is_read(released: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(released, tmp_path / "released"))
    before = sorted(path.name for path in source.iterdir())
    (tmp_path / "link").symlink_to(source)
    for out in (
        source,
        source / "ours",
        tmp_path / "link" / "deep" / "ours",
        tmp_path / "released" / ".." / "released",
    ):
        with pytest.raises(UsageError, match=r"lies in `.*released`, which is read; give a folder elsewhere"):
            convert_official(source, out, SETTINGS)
    with pytest.raises(UsageError, match="is a link; give a folder that is new or empty"):
        check_new(tmp_path / "link")
    with pytest.raises(UsageError, match="lies in"):
        check_new(tmp_path / "parts" / "ours", None, tmp_path / "parts")
    with pytest.raises(UsageError, match="is the folder that is read; give another one"):
        publish(source, tmp_path / "link")
    assert sorted(path.name for path in source.iterdir()) == before


def test_a_disk_that_fills_up_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(CheckpointError, match=r"`.*ours` cannot be written: No space left"),
        new_folder(tmp_path / "ours"),
    ):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_or_a_folder_is_no_shard(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks model\.safetensors|has no weights|is no file that can be read"):
        stored_in(find_shards(tmp_path))


def test_class_phrases_take_no_more_room_than_their_file(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"embeds": torch.ones(0, 10**9), "cell_head.weight": torch.ones(1, 2)}, tmp_path / CLASS_PHRASE_FILES[0])
    for names in ('["a", "b"]', '{"a": 1}', "[1]", "[" * 10**5, "3"):
        (tmp_path / CLASS_PHRASE_FILES[1]).write_text(names, encoding="utf-8")
        with pytest.raises(CheckpointError, match="holds no class phrases of an earlier stage"):
            load_class_phrases(tmp_path)
