"""Flickr30K Entities in both forms: phrases and their boxes, XML that would reach outside, spans that do not fit."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from label_files import picture, write_files, write_json
from llava_grounding.data.readers.flickr30k import Flickr30kEntities, Flickr30kMdetr, parse_sentence
from llava_grounding.errors import DataError
from llava_grounding.markup import parse_strict

SENTENCES = """\
[/EN#5/people Two men] and [/EN#6/animals a dog] in [/EN#7/scene a park] .
[/EN#0/notvisual It] 's [/EN#6/animals/other a brown dog] , [/EN#8/clothing a hat] !
"""


def thing(names: str, corners: str | None) -> str:
    box = ""
    if corners:
        keys = ("xmin", "ymin", "xmax", "ymax")
        values = zip(keys, corners.split(), strict=True)
        box = "<bndbox>" + "".join(f"<{key}>{value}</{key}>" for key, value in values) + "</bndbox>"
    flags = "" if corners else "<scene>1</scene><nobndbox>1</nobndbox>"
    return "<object>" + "".join(f"<name>{name}</name>" for name in names.split()) + flags + box + "</object>"


def xml(*things: str, before: str = "", size: str = "<width>10</width><height>8</height>") -> str:
    return f"{before}<annotation><filename>11.jpg</filename><size>{size}</size>{''.join(things)}</annotation>"


THINGS = [thing("5", "1 1 3 8"), thing("5 9", "4 2 6 8"), thing("6", "7 5 10 8"), thing("7", None)]


def write(folder: Path, annotation: str | bytes = xml(*THINGS), sentences: str = SENTENCES) -> Path:
    data = annotation if isinstance(annotation, bytes) else annotation.encode()
    files = {
        "release/Annotations/11.xml": data,
        "release/Sentences/11.txt": sentences.encode(),
        "release/train.txt": b"11\n",
        "release/val.txt": b"12\n../11\n",
        "images/11.jpg": picture(11),
    }
    write_files(folder, files)
    return folder / "release"


def read(folder: Path, *content: Any, **more: Any) -> Flickr30kEntities:
    return Flickr30kEntities.from_files(write(folder, *content), folder / "images", **more)


def test_an_id_that_is_no_number_stays_text(tmp_path: Path) -> None:
    folder = write(tmp_path)
    for path in (folder / "Annotations/11.xml", folder / "Sentences/11.txt", tmp_path / "images/11.jpg"):
        path.rename(path.with_stem("a11"))
    (folder / "train.txt").write_text("a11\n")
    (record,) = Flickr30kEntities.from_files(folder, tmp_path / "images")
    assert (record.id, record.image_id) == ("a11.jpg", "a11")


def test_the_captions_of_an_image_share_its_boxes(tmp_path: Path) -> None:
    data = read(tmp_path)
    (record,) = data
    assert (data.name, data.dropped) == ("flickr30k_train", {})
    assert (record.id, record.image_id, record.image_size_wh) == ("11.jpg", 11, (10, 8))
    assert [(i.box_xyxy, i.id, i.category) for i in record.instances] == [
        ((0, 0, 3, 8), 5, ""),
        ((3, 1, 6, 8), 5, ""),
        ((6, 4, 10, 8), 6, ""),
    ]
    first, second = record.grounded_captions
    assert first.text == "<g_s> Two men <g_e> <seg> and <g_s> a dog <g_e> <seg> in <g_s> a park <g_e> <seg>."
    assert first.targets == ((0, 1), (2,), None)
    assert second.text == "It 's <g_s> a brown dog <g_e> <seg>, <g_s> a hat <g_e> <seg>!"
    assert second.targets == ((2,), None)
    assert record.load_image().shape == (8, 10, 3)
    assert record.load_mask(0) is None


def test_without_a_split_all_sentences_are_read(tmp_path: Path) -> None:
    assert len(read(tmp_path, split=None)) == 1


def test_ids_that_are_missing_or_leave_the_folder_are_left_out(tmp_path: Path) -> None:
    data = read(tmp_path, split="val")
    assert len(data) == 0
    assert data.dropped == {"no annotation file": ("12",), "image id that is no plain name": ("../11",)}


@pytest.mark.parametrize("split", ["test", "../release/train", ""])
def test_an_unknown_split_names_those_there_are(tmp_path: Path, split: str) -> None:
    with pytest.raises(DataError, match=r"split must be one of \['train', 'val'\]"):
        read(tmp_path, split=split)


def test_another_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="must be a folder with `Annotations` and `Sentences`"):
        Flickr30kEntities.from_files(tmp_path, tmp_path)


LAUGHS = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;">]>'
OUTSIDE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]>'


@pytest.mark.parametrize("before", [LAUGHS, OUTSIDE, "<!doctype a>", "<?xml version='1.0'?>\n<!DOCTYPE\na>"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_xml_with_a_document_type_is_not_read(tmp_path: Path, before: str, encoding: str) -> None:
    data = read(tmp_path, xml(*THINGS, before=before).encode(encoding))
    assert data.dropped == {"annotation file with a document type or entities, which are not read": ("11",)}


@pytest.mark.parametrize(
    ("annotation", "reason"),
    [
        ("<annotation>", "annotation file that is no XML"),
        ("", "annotation file that is no XML"),
        ("<a>&x;</a>", "annotation file that is no XML"),
        ("<?xml version='1.0' encoding='nonsense'?><a/>", "annotation file that is no XML"),
        ("<a/>", "image size that is no whole number"),
        (xml(size="<width>0</width><height>8</height>"), "image size out of range"),
    ],
)
def test_an_image_with_a_broken_annotation_file_is_left_out(tmp_path: Path, annotation: str, reason: str) -> None:
    data = read(tmp_path, annotation)
    assert len(data) == 0
    assert data.dropped == {reason: ("11",)}


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (thing("5", "3 3 2 8"), "bbox without area"),
        (thing("5", "1 1 x 8"), "corner of a box that is no whole number"),
        (thing("", "1 1 2 2"), "box without an entity"),
        (thing("five", "1 1 2 2"), "entity that is no whole number"),
        ("<object><name>5</name><bndbox/></object>", "corner of a box that is no whole number"),
    ],
)
def test_a_broken_box_is_left_out_counted_and_named(tmp_path: Path, broken: str, reason: str) -> None:
    data = read(tmp_path, xml(broken, *THINGS))
    assert data[0].grounded_captions[0].targets == ((0, 1), (2,), None)
    assert data.dropped == {reason: ("11: object 0",)}


@pytest.mark.parametrize(
    "line",
    ["[/EN#5/people A man", "[A man] waves", "[/EN#5/people a [/EN#6/x b] c]", "a ] b", "a <seg> b", "[/EN#5 a]"],
)
def test_a_broken_sentence_is_left_out_counted_and_named(tmp_path: Path, line: str) -> None:
    data = read(tmp_path, xml(*THINGS), line + "\nA dog .\n\n")
    assert [text.text for text in data[0].grounded_captions] == ["A dog."]
    assert list(data.dropped.values()) == [("11: sentence 0",)]


@given(st.lists(st.tuples(st.sampled_from(["a dog", "it 's", ",", "x . y", "."]), st.integers(-1, 3)), max_size=6))
def test_phrases_stay_in_place_when_blanks_before_punctuation_go(parts: list[tuple[str, int]]) -> None:
    line = " ".join(words if entity < 0 else f"[/EN#{entity}/other {words}]" for words, entity in parts)
    text, phrases = parse_sentence(line)
    said = [(words, entity) for words, entity in parts if entity > 0]
    assert [(text[start:end], entity) for (start, end), entity in phrases] == [
        (words.replace(" .", "."), entity) for words, entity in said
    ]
    assert text.replace(" ", "") == "".join(words for words, _ in parts).replace(" ", "")


CAPTION = "A man in a red hat plays guitar."


def mdetr(*annotations: Any, caption: Any = CAPTION) -> dict[str, Any]:
    row = {"id": 70, "file_name": "11.jpg", "caption": caption, "width": 10, "height": 8, "original_img_id": 11}
    return {"images": [row], "annotations": list(annotations), "categories": [{"id": 1, "name": "object"}]}


def positive(number: int, spans: Any, **more: Any) -> dict[str, Any]:
    label = {"id": number, "image_id": 70, "category_id": 1, "iscrowd": 0, "bbox": [1, 1, 4, 4]}
    return {**label, "tokens_positive": spans, **more}


def read_mdetr(folder: Path, data: Any) -> Flickr30kMdetr:
    write(folder)
    path = write_json(folder / "final_flickr_separateGT_train.json", data)
    return Flickr30kMdetr.from_files(path, folder / "images")


def test_spans_of_mdetr_are_phrases_with_all_their_boxes(tmp_path: Path) -> None:
    polygon = [[1, 1, 5, 1, 5, 5, 1, 5]]
    labels = [positive(1, [[9, 18]]), positive(2, [[0, 5]]), positive(3, [[0, 6]], segmentation=polygon)]
    data = read_mdetr(tmp_path, mdetr(*labels))
    (record,) = data
    assert (record.id, data.name) == ("11.jpg#70", "final_flickr_separateGT_train")
    (caption,) = record.grounded_captions
    assert caption.text == "<g_s> A man <g_e> <seg> in <g_s> a red hat <g_e> <seg> plays guitar."
    assert caption.targets == ((1, 2), (0,))
    mask = record.load_mask(2)
    assert mask is not None
    assert mask.sum() == 16
    assert record.load_image()[0, 0, 0] == 11
    assert list(pickle.loads(pickle.dumps(data))) == [record]


@pytest.mark.parametrize(
    ("spans", "reason"),
    [
        ([[5, 0]], "phrase outside its caption"),
        ([[-1, 5]], "phrase outside its caption"),
        ([[20, 99]], "phrase outside its caption"),
        ([[1, 2]], "phrase without words"),
        ([[1]], "phrase that is no pair of start and end"),
        (["x"], "phrase that is no pair of start and end"),
        ([[0, 1.5]], "phrase that is no whole number"),
        (None, "annotation without a list `tokens_positive`"),
    ],
)
def test_a_phrase_that_does_not_fit_is_left_out_counted_and_named(tmp_path: Path, spans: Any, reason: str) -> None:
    data = read_mdetr(tmp_path, mdetr(positive(1, [[0, 5]]), positive(2, spans)))
    assert data[0].grounded_captions[0].targets == ((0,),)
    assert data.dropped == {reason: ("2",)}


def test_of_overlapping_phrases_the_first_and_of_nested_ones_the_longer_stays(tmp_path: Path) -> None:
    labels = [positive(1, [[11, 18]]), positive(2, [[9, 18]]), positive(3, [[15, 24]]), positive(4, [[0, 5]])]
    data = read_mdetr(tmp_path, mdetr(*labels))
    (caption,) = data[0].grounded_captions
    assert [phrase.text for phrase in parse_strict(caption.text).phrases] == ["A man", "a red hat"]
    assert caption.targets == ((3,), (1,))
    assert data.dropped == {"phrase overlapping another": ("70: red hat", "70: hat plays")}


@pytest.mark.parametrize("caption", [None, "", 5, "a <seg> b", []])
def test_a_broken_caption_is_left_out_counted_and_named(tmp_path: Path, caption: Any) -> None:
    data = read_mdetr(tmp_path, mdetr(caption=caption))
    assert len(data) == 0
    assert sum(map(len, data.dropped.values())) == 1


@pytest.mark.parametrize("junk", [None, 3, {}, {"id": 9, "image_id": 99}, positive(9, [], bbox=None)])
def test_junk_among_the_annotations_is_left_out(tmp_path: Path, junk: Any) -> None:
    data = read_mdetr(tmp_path, mdetr(junk, positive(2, [[0, 5]])))
    assert data[0].grounded_captions[0].targets == ((0,),)
    assert sum(map(len, data.dropped.values())) == 1


spans_anywhere = st.lists(st.tuples(st.integers(-2, 34), st.integers(-2, 34)), max_size=8)


@given(spans_anywhere)
def test_any_spans_give_markup_of_the_same_caption(
    tmp_path_factory: pytest.TempPathFactory, spans: list[tuple[int, int]]
) -> None:
    labels = [positive(number, [list(span)]) for number, span in enumerate(spans)]
    data = read_mdetr(tmp_path_factory.getbasetemp(), mdetr(*labels))
    (caption,) = data[0].grounded_captions
    parsed = parse_strict(caption.text)
    assert parsed.text == CAPTION
    assert all(target for target in caption.targets)
    grounded = sum(len(target or ()) for target in caption.targets)
    overlapping = {tuple(span) for span in spans} if "phrase overlapping another" in data.dropped else set()
    told = sum(map(len, data.dropped.values()))
    assert grounded + told == len(spans) or overlapping


def test_a_file_of_another_kind_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="MDETR's Flickr30K file must have a list `images`, got list"):
        read_mdetr(tmp_path, [])
