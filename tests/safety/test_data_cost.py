"""What reading data costs is bounded by the size of its files, not by a number inside them."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tarfile
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mutated_data import DamagedData

from label_files import coco, labelled, picture, write_files, write_json, write_tar
from llava_grounding.data import record as record_module
from llava_grounding.data.check import check_dataset
from llava_grounding.data.images import open_images
from llava_grounding.data.readers.coco import CocoPhotos
from llava_grounding.data.readers.flickr30k import parse_sentence
from llava_grounding.data.readers.gvc import GvcDialogues
from llava_grounding.data.readers.parts.image_rows import MAX_PIXELS
from llava_grounding.data.readers.parts.plain_pickle import load_plain_pickle
from llava_grounding.data.readers.parts.reading import MAX_LABELS
from llava_grounding.data.readers.parts.texts import MAX_TEXT
from llava_grounding.data.record import open_record
from llava_grounding.errors import DataError
from llava_grounding.language.nouns import Lexicon
from llava_grounding.language.referents import Labelled, find_referents
from llava_grounding.polygons import polygons_to_mask
from llava_grounding.train.batching.sources import check_sources, open_source
from train.data_sets import SOURCES, source, write_source

MIB = 2**20
SECONDS = 20.0  # of CPU; what these took before has no end in sight


@contextmanager
def bounded(megabytes: float, seconds: float = SECONDS) -> Iterator[None]:
    """See that what is done within takes no more memory and time."""
    tracemalloc.start()
    start = time.process_time()
    try:
        yield
        peak, taken = tracemalloc.get_traced_memory()[1], time.process_time() - start
    finally:
        tracemalloc.stop()
    assert peak < megabytes * MIB
    assert taken < seconds


HUGE_MEMO = [
    b"\x80\x02]r\xff\xff\xff\x0f.",
    b"(lp268435455\n.",
    b"\x80\x04\x8c\x01ar\xff\xff\xff\x0f.",
    b"S'q'\nr\xff\xff\xff\x7f.",
]


@pytest.mark.parametrize("data", HUGE_MEMO)
def test_a_pickle_with_a_huge_memo_number_is_refused_before_room_is_made(data: bytes) -> None:
    with (
        bounded(1),
        pytest.raises(DataError, match=r"cannot read the pickle refs\.p: it numbers a value \d+, more than"),
    ):
        load_plain_pickle(data, "refs.p")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_of_pickles_is_read(protocol: int) -> None:
    word = "qr\xff\xffp99999999\n." * 30
    value = [{"sent": word, "tokens": [word, "é", 2**70, -1.5, None, True], "id": number} for number in range(300)]
    assert load_plain_pickle(pickle.dumps(value, protocol), "refs.p") == value


def test_values_that_contain_each_other_over_and_over_are_refused() -> None:
    value: Any = ["a" * 50]
    for _ in range(60):
        value = [value] * 10
    text = "a" * 2**20
    circle: list[Any] = []
    circle.append(circle)
    for shared in (value, [text] * 2**12, circle, {"a": value}):
        with bounded(30), pytest.raises(DataError, match="contain each other so often"):
            load_plain_pickle(pickle.dumps(shared), "refs.p")
    levels = b"\x80\x04" + b"(" * 100_000 + b"l" * 100_000 + b"."
    with pytest.raises(DataError, match="too deep in each other"):
        load_plain_pickle(levels, "refs.p")


def header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    """A header of a tar with its checksum; the size as it stands there, twelve bytes."""
    block = bytearray(name.ljust(100, b"\0") + b"0000644\0" * 3 + size + b"00000000000\0" + b" " * 8 + kind)
    block += b"\0" * 100 + b"ustar\x0000"
    block += b"\0" * (512 - len(block))
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def octal(size: int) -> bytes:
    return b"%011o\0" % size


def pax(**values: str) -> bytes:
    text = b""
    for key, value in values.items():
        rest = f" {key.replace('_', '.')}={value}\n".encode()
        length = len(rest) + len(str(len(rest)))
        text += str(length + (len(str(length)) > len(str(len(rest))))).encode() + rest
    return header(b"pax", octal(len(text)), b"x") + text.ljust(512, b"\0")


BACK = b"\xff" * 4 + struct.pack(">q", -512)
LONG = header(b"././@LongLink", octal(5), b"L") + b"name\0".ljust(512, b"\0")
HOSTILE_TARS = {
    "a size below 0": header(b"a.png", BACK),
    "a size below 0 behind a file": header(b"b.png", octal(0)) + header(b"a.png", BACK),
    "a size below 0 in attributes": pax(size="-1024") + header(b"a.png", octal(0)),
    "a hole that is never closed": pax(GNU_sparse_major="1", GNU_sparse_minor="0") + header(b"a", octal(0)),
    "the old form of holes": header(b"a.png", octal(0), b"S"),
    "names of names": LONG * 3000 + header(b"a.png", octal(0)),
    "a name of 10 MB": header(b"././@LongLink", octal(10**7), b"L") + b"a" * 10**7,
    "a name that says it has 8 GiB": header(b"././@LongLink", octal(2**33 - 1), b"L"),
    "digits without end": header(b"pax", octal(2**19), b"x") + b"1" * 2**19,
    "cut off in a name": LONG[:700],
}


@pytest.mark.parametrize("name", HOSTILE_TARS)
def test_a_hostile_tar_is_refused_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.tar").write_bytes(HOSTILE_TARS[name])
    with bounded(40), pytest.raises(DataError, match=r"x\.tar must be a whole, uncompressed tar file: "):
        open_images(tmp_path / "x.tar")


def test_honest_tars_of_every_form_are_read(tmp_path: Path) -> None:
    name = "folder/" * 20 + "ü.png"
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / "x.tar", "w", format=form) as archive:
            for place in (name, "b.png"):
                entry = tarfile.TarInfo(place)
                entry.size = len(picture())
                archive.addfile(entry, io.BytesIO(picture()))
        store = open_images(tmp_path / "x.tar")
        assert store.locate(name)() == store.locate("b.png")() == picture()
    write_tar(tmp_path / "x.tar", {f"{number}.png": b"x" for number in range(3000)})
    assert open_images(tmp_path / "x.tar").locate("2999.png")() == b"x"


def test_a_polygon_costs_its_own_box_and_not_the_picture() -> None:
    zigzag = [float(side) for number in range(50_000) for side in (number * 0.002, 80 * (number % 2))]
    with bounded(40):
        polygons_to_mask([zigzag], (100, 80))
    with bounded(25):
        small = polygons_to_mask([[100, 100, 140, 100, 140, 120, 100, 120]] * 40, (5000, 4000))
    assert small.sum() == 40 * 20
    wide = [float(side) for number in range(20_000) for side in (60_000 * (number % 2), number * 0.005)]
    message = "the edges of a mask's polygons must cross at most 8,388,608 columns of pixels"
    with bounded(40), pytest.raises(DataError, match=message):
        polygons_to_mask([wide], (60_000, 100))
    with bounded(60), pytest.raises(DataError, match=message):  # as edges of all polygons together
        polygons_to_mask([wide[:400]] * 1000, (60_000, 100))


def test_many_polygons_as_wide_as_the_picture_cost_their_edges_alone() -> None:
    bars = [[0, y, 4000, y, 4000, y + 3, 0, 3000] for y in range(300)]
    start = time.process_time()
    mask = polygons_to_mask(bars, (4000, 3000))
    assert time.process_time() - start < 4  # 9 before
    whole = np.zeros_like(mask)
    for bar in bars[::60]:
        whole |= polygons_to_mask([bar], (4000, 3000))
    assert not (whole & ~mask).any()


@pytest.mark.parametrize("rows", [1, 5, 100])
def test_several_polygons_are_those_one_by_one(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llava_grounding.polygons._FILL_CHUNK", rows * 41)
    draw = np.random.default_rng(1)
    for count in (1, 2, 5, 20):
        shapes = [draw.normal(20, 12, (int(draw.integers(3, 9)), 2)) for _ in range(count)]
        one_by_one = np.any([polygons_to_mask([points], (40, 37)) for points in shapes], axis=0)
        np.testing.assert_array_equal(polygons_to_mask(shapes, (40, 37)), one_by_one)


def test_a_polygon_is_filled_alike_in_one_go_and_edge_by_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    shapes = [draw.normal(20, 15, (int(draw.integers(3, 30)), 2)) for _ in range(60)]
    whole = [polygons_to_mask([points], (40, 37)) for points in shapes]
    for chunk in (1, 7, 50):
        monkeypatch.setattr("llava_grounding.polygons._EDGE_CHUNK", chunk)
        for points, mask in zip(shapes, whole, strict=True):
            np.testing.assert_array_equal(polygons_to_mask([points], (40, 37)), mask)


@pytest.mark.parametrize("size_wh", [(3, 3), None])
def test_masks_of_a_picture_of_another_size_are_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size_wh: tuple[int, int] | None
) -> None:
    whole = {"size": [8, 10], "counts": [0, 80]}
    labels = coco(
        [labelled(1, [0, 0, 9, 7], segmentation=whole), labelled(2, [0, 0, 4, 4], segmentation=[[0, 0, 4, 0, 4, 4]])]
    )
    if size_wh:
        write_files(tmp_path, {"1.png": picture(size_wh=size_wh)})

    def never(*_: Any) -> Any:
        raise AssertionError("unpacked")

    monkeypatch.setattr(record_module, "decode_rle", never)
    monkeypatch.setattr(record_module, "polygons_to_mask", never)
    report = check_dataset(CocoPhotos.from_files(write_json(tmp_path / "i.json", labels), tmp_path))
    assert report.broken_images.count + report.missing_images.count == 1
    assert report.broken_masks.count == 0


def test_an_image_that_says_it_is_larger_than_any_is_left_out(tmp_path: Path) -> None:
    labels = coco([labelled(1, [0, 0, 9, 7], segmentation={"size": [65535, 65535], "counts": [65535**2]})])
    labels["images"][0] |= {"width": 65535, "height": 65535}
    with bounded(5):
        photos = CocoPhotos.from_files(
            write_json(tmp_path / "i.json", labels), write_files(tmp_path, {"1.png": picture()})
        )
        assert not check_dataset(photos).ok
    assert f"at most {MAX_PIXELS} pixels" in photos.examples["image size out of range"][0]


def test_labels_of_one_image_their_masks_and_texts_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path, {"1.png": picture()})
    many = coco([labelled(number, [0, 0, 4, 4]) for number in range(MAX_LABELS + 2)])
    photos = CocoPhotos.from_files(write_json(tmp_path / "i.json", many), tmp_path)
    assert len(photos[0].instances) == MAX_LABELS
    assert photos[0].exhaustive == frozenset()
    monkeypatch.setattr(record_module, "_MOST_MASK_BYTES", 100)
    with pytest.raises(DataError, match=r"has 10000 labels, whose masks do not fit"):
        open_record(photos[0])
    captions = write_json(tmp_path / "c.json", {"annotations": [{"image_id": 1, "caption": "a" * (MAX_TEXT + 1)}]})
    assert "text too long" in CocoPhotos.from_files(tmp_path / "i.json", tmp_path, captions).dropped


def test_a_sentence_of_many_phrases_takes_time_as_its_length() -> None:
    start = time.process_time()
    text, phrases = parse_sentence("[/EN#7/people A man] . " * 50_000)
    assert text.startswith("A man. A man. ")
    assert [text[slice(*span)] for span, _ in phrases] == ["A man"] * 50_000
    parse_sentence("[/EN#7/people ] " * 50_000 + "x")
    assert time.process_time() - start < SECONDS


def test_phrases_stand_where_they_stood_when_blanks_are_gone() -> None:
    text, phrases = parse_sentence("[/EN#1/a So ] , [/EN#2/b two , three] .  [/EN#3/c x]")
    assert text == "So, two, three. x"
    assert [text[slice(*span)] for span, _ in phrases] == ["So", "two, three", "x"]


def test_words_are_looked_up_and_not_gone_through() -> None:
    start = time.process_time()
    lexicon = Lexicon([f"a {number}" for number in range(5000)])
    assert len(lexicon.find("a 4999 a " * 5000)) == 5000
    assert time.process_time() - start < SECONDS


FILES = [(kind, key) for kind, values in SOURCES.items() for key, value in values.items() if "." in value]


@pytest.mark.parametrize(("kind", "key"), FILES)
@pytest.mark.parametrize("what", ["pipe", "device", "folder"])
def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path: Path, kind: str, key: str, what: str) -> None:
    values = source(kind)
    write_source(values, tmp_path)
    path = tmp_path / values[key]
    path.unlink()
    {"pipe": os.mkfifo, "device": lambda place: place.symlink_to("/dev/zero"), "folder": Path.mkdir}[what](path)  # type: ignore[operator]
    lines: list[str] = []
    assert not check_sources([values], tmp_path, lines.append)
    assert path.name in lines[0]
    with pytest.raises(DataError, match="cannot read"):
        open_source(values, tmp_path)


@pytest.mark.parametrize("suffix", ["tar", "zip"])
def test_an_archive_that_is_a_pipe_is_refused(tmp_path: Path, suffix: str) -> None:
    os.mkfifo(tmp_path / f"x.{suffix}")
    with pytest.raises(DataError, match="no regular file"):
        open_images(tmp_path)


@pytest.mark.parametrize("depth", [100, 300, 490, 700, 900, 5000, 100_000])
def test_values_too_deep_to_be_packed_are_an_error_that_names_the_file(tmp_path: Path, depth: int) -> None:
    turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A dog."}]
    write_files(tmp_path, {"1.png": picture()})
    instances = write_json(tmp_path / "i.json", coco([labelled(1, [0, 0, 4, 4])]))
    entry = json.dumps({"image": "1.png", "conversations": turns})[:-1] + ', "x": ' + "[" * depth + "]" * depth + "}"
    (tmp_path / "t.json").write_text(f"[{entry}]")
    said = ""
    try:
        GvcDialogues.from_files(tmp_path / "t.json", instances, tmp_path)
    except DataError as error:
        said = str(error)
    assert bool(said) == (depth >= 5000) or 100 < depth < 5000  # between the two it depends on Python's own limit
    assert not said or "t.json" in said


def test_a_line_of_ten_megabytes_is_one_entry_left_out(tmp_path: Path) -> None:
    write_files(tmp_path, {"1.png": picture()})
    (tmp_path / "t.jsonl").write_text(json.dumps({"image": "1.png", "conversations": "x" * 10**7}) + "\n")
    lines: list[str] = []
    assert not check_sources([{"kind": "llava", "dialogues": "t.jsonl", "images": "."}], tmp_path, lines.append)
    assert max(map(len, lines)) < 500


LONG_NAME = "a" * 10**6
NAMED_AT_LENGTH = [
    ("annotations", {"id": LONG_NAME}),
    ("annotations", {"id": LONG_NAME, "bbox": [0, 0, 0, 1]}),
    ("images", {"id": LONG_NAME}),
    ("images", {"file_name": LONG_NAME}),
    ("images", {"width": LONG_NAME}),
    ("categories", {"id": LONG_NAME, "name": LONG_NAME}),
]


@pytest.mark.parametrize(("rows", "change"), NAMED_AT_LENGTH)
@pytest.mark.parametrize("kind", ["custom", "coco"])
def test_a_name_of_a_megabyte_is_cut_short(tmp_path: Path, kind: str, rows: str, change: dict[str, Any]) -> None:
    write_files(tmp_path, {"1.png": picture()})
    labels = coco([labelled(1, [0, 0, 4, 4])])
    labels[rows].append({**labels[rows][0], "id": 9, **change})
    write_json(tmp_path / "i.json", labels)
    lines: list[str] = []
    check_sources([{"kind": kind, "instances": "i.json", "images": "."}], tmp_path, lines.append)
    assert "aaa..." in "".join(lines)
    assert max(map(len, lines)) < 1000


@pytest.mark.parametrize("text", ["a dog and " + "the dog and " * 5000, "a dog, " * 8000])
def test_a_text_that_names_one_thing_again_and_again_takes_linear_time(text: str) -> None:
    start = time.process_time()
    find_referents(text, [Labelled("dog", (0, 0, 9, 9)), Labelled("dog", (20, 0, 30, 9))], image_size_wh=(40, 30))
    assert time.process_time() - start < 3


def test_damaged_data_of_every_kind_ends_in_an_error_of_ours_or_none(tmp_path: Path) -> None:
    damaged = DamagedData(tmp_path, seed=7)
    for _ in range(150):
        damaged.once()
