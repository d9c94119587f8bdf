"""`llava-grounding data`: each format is recognised by what is in it, told, drawn, and written as COCO."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from label_files import coco, labelled, picture, write_files, write_json
from llava_grounding.cli.data import _opened
from llava_grounding.cli.data_drawing import draw_record
from llava_grounding.cli.main import run
from llava_grounding.data.readers.coco import CocoPhotos
from llava_grounding.data.readers.labelme import Labelme
from llava_grounding.data.readers.parts import places
from llava_grounding.data.readers.parts.files import read_json
from llava_grounding.data.readers.registry import READERS, reader_class, reader_of
from llava_grounding.data.recognise import Recognised, kinds_below, recognise
from llava_grounding.dialogues.builder import build_sample
from llava_grounding.dialogues.settings import dialogue_settings
from llava_grounding.errors import DataError
from llava_grounding.markup import REGION, strip_markup
from llava_grounding.train.batching.sources import open_sources
from tool_files import BOXES, TOOLS, H, W


@pytest.mark.parametrize("kind", TOOLS)
def test_what_a_tool_wrote_is_recognised_and_its_recipe_line_opens(kind: str, tmp_path: Path) -> None:
    write, values = TOOLS[kind]
    write(tmp_path)
    key, name = next(iter(values.items()))
    for place in {tmp_path, tmp_path / name}:
        (found,) = recognise(place)
        assert found.kind == kind
        assert not found.missing
        assert key in found.values
    line = found.recipe_line(tmp_path)
    assert line.count("dialogue: ") <= 1
    (source,) = yaml.safe_load(line)
    source["dialogue"] = {"categories": 1.0, "dialogues": 1.0, "captions": 1.0, "region_names": 1.0}
    ((opened, _),) = open_sources([source], tmp_path)
    assert opened.size in (1, 2, 3)


INSTANCES = coco([labelled(1, [1, 1, 4, 4])])
TALK = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "A dog."}]
JSON: dict[str, tuple[Any, str, set[str]]] = {
    "instances.json": (INSTANCES, "coco", set()),
    "panoptic.json": (
        {**INSTANCES, "annotations": [{"image_id": 1, "segments_info": []}]},
        "coco_panoptic",
        {"segments"},
    ),
    "captions.json": ({"annotations": [{"image_id": 1, "caption": "a dog"}]}, "coco_captions", set()),
    "mdetr.json": (
        {**INSTANCES, "annotations": [{**labelled(1, [1, 1, 4, 4]), "tokens_positive": []}]},
        "flickr30k_mdetr",
        set(),
    ),
    "merged.json": (
        {**INSTANCES, "annotations": [{**labelled(1, [1, 1, 4, 4]), "sentences": ["it"]}]},
        "refcoco",
        set(),
    ),
    "refs.json": ([{"ann_id": 1, "ref_id": 1, "image_id": 1, "sentences": ["it"]}], "refcoco", {"instances"}),
    "talk.json": ([{"image": "1.png", "conversations": TALK}], "llava", set()),
    "gvc.json": ([{"image": "1.png", "conversations": TALK, "gd_ls": []}], "gvc", {"instances"}),
    "marks.json": ([{"image": "1.png", "conversations": TALK, "marks": [1]}], "set_of_mark", set()),
    "own.jsonl": ([{"image": "1.png", "turns": []}], "custom", {"instances"}),
    "regions.json": ([{"id": 1, "regions": []}], "visual_genome", {"image_data"}),
}


@pytest.mark.parametrize("name", JSON)
def test_json_is_recognised_by_its_form_and_its_pictures_are_found(name: str, tmp_path: Path) -> None:
    data, kind, missing = JSON[name]
    write_files(tmp_path, {"pictures/1.png": picture()})
    (tmp_path / name).write_text("\n".join(map(json.dumps, data)) if name.endswith("l") else json.dumps(data))
    (found,) = recognise(tmp_path / name)
    assert (found.kind, set(found.missing)) == (kind, missing)
    assert found.values.get("images", tmp_path / "pictures") == tmp_path / "pictures"


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.json", b'{"a": 1}', "is JSON, but of none of the formats that are read: COCO instances, "),
        ("a.json", b"{", "cannot read"),
        ("a.xml", b"<html/>", "is a web page, and none of the formats"),
        ("a.csv", b"a,b", r"is a table \(CSV\), and none of the formats"),
        ("a.yaml", b"a: &a [x, x]\nnames: [*a, *a]", "a.yaml must be YAML without anchors"),
        ("b.yaml", b"steps: 3", "is YAML; .* and none of the formats"),
        ("a.png", picture(), "is a PNG picture, and none of the formats"),
        ("a/b.png", picture(), "has 1 pictures among the first 200 files, and nothing that says what is in them"),
        ("none", None, "there is nothing at"),
    ],
)
def test_what_is_no_data_is_named_as_what_it_is(tmp_path: Path, name: str, data: bytes | None, words: str) -> None:
    if data is not None:
        write_files(tmp_path, {name: data})
    with pytest.raises(DataError, match=words):
        recognise(tmp_path / name.partition("/")[0])


class _Noted(Labelme):
    """A reader as a program may add it."""

    title = "notes"

    @classmethod
    def recognise(cls, path: Path) -> dict[str, Path] | None:
        return {"labels": path} if (path / "notes.txt").is_file() else None


def test_an_added_reader_finds_its_own_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    TOOLS["labelme"][0](tmp_path / "noted")
    (tmp_path / "noted/notes.txt").touch()
    monkeypatch.setitem(READERS, "noted", _Noted)
    assert run(["data", str(tmp_path / "noted"), "--draw", "0"]) == 0
    told = capsys.readouterr().out
    assert ": notes (`kind: noted`)" in told
    assert "- {kind: noted, labels: " in told
    TOOLS["labelme"][0](tmp_path / "other")
    assert [one.kind for one in recognise(tmp_path / "other")] == ["labelme"]
    assert kinds_below(tmp_path, recognise(tmp_path / "other")) == {tmp_path / "noted": "notes"}


def test_an_added_reader_leaves_the_files_of_the_one_it_inherits_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(READERS, "mine", type("Mine", (Labelme,), {"title": "labelme in another order"}))
    TOOLS["labelme"][0](tmp_path)
    assert [one.kind for one in recognise(tmp_path)] == ["labelme"]
    assert Recognised("mine").what == "labelme in another order"


def test_a_file_is_parsed_once_however_many_readers_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[Path] = []

    def noted(path: Path) -> Any:
        parsed.append(path)
        return read_json(path)

    monkeypatch.setattr(places, "read_json", noted)
    write_json(tmp_path / "a.json", [{"image": "a.png", "annotations": []}])  # of the last reader of all
    assert [one.kind for one in recognise(tmp_path)] == ["createml"]
    assert parsed == [tmp_path / "a.json"]


def test_the_command_tells_draws_and_converts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    TOOLS["label_studio"][0](tmp_path)
    assert run(["data", str(tmp_path), "--draw", "2", "--out", str(tmp_path / "drawn")]) == 0
    told = capsys.readouterr().out
    for line in (
        "Label Studio (`kind: label_studio`)",
        "export: ok",
        "  instances: 3",
        "  - {kind: label_studio, labels: ",
    ):
        assert line in told
    for number in (1, 2):
        with Image.open(tmp_path / f"drawn/00{number}.png") as drawn:
            assert drawn.width >= W
            assert drawn.height >= H
    assert run(["data", "convert", str(tmp_path / "export.json"), str(tmp_path / "out")]) == 0
    written = CocoPhotos.from_files(tmp_path / "out/instances.json", tmp_path)
    assert {record.id: len(record.instances) for record in written} == {
        name: len(things) for name, things in BOXES.items()
    }
    assert written.dropped == {}


def test_captions_are_converted_too_and_what_is_missing_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    TOOLS["metadata"][0](tmp_path)
    assert run(["data", "convert", str(tmp_path), str(tmp_path / "out")]) == 0
    files = [tmp_path / "out" / name for name in ("instances.json", "captions.json")]
    assert [record.captions for record in CocoPhotos.from_files(files[0], tmp_path, files[1])] == [("a picture",)] * 3
    refs = write_json(tmp_path / "refs.json", [{"ann_id": 1, "ref_id": 1, "image_id": 1, "sentences": ["it"]}])
    assert run(["data", str(refs)]) == 1
    told = capsys.readouterr().out
    assert "not found: `instances`, the COCO file beside it; say instances=PATH" in told
    assert run(["data", str(refs), "colour=red"]) == 2
    assert "has no key `colour`" in capsys.readouterr().err
    assert run(["data", str(refs), "images=null", f"instances={refs}"]) == 2
    assert "needs `images`, which cannot be null" in capsys.readouterr().err
    labels = write_json(tmp_path / "i.json", coco([labelled(1, [1, 1, 4, 4])]))
    write_files(tmp_path, {"1.png": picture()})
    keys = [f"instances={labels}", f"images={tmp_path}"]
    assert run(["data", "look", str(refs), *keys, "--quick"]) == 0
    assert "expressions: 1" in capsys.readouterr().out


def test_kinds_of_folders_below_are_named_beside_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("labelme", "voc", "createml", "coco"):
        write = TOOLS[kind][0] if kind in TOOLS else None
        if write is None:
            write_files(tmp_path / "many/z", {"1.png": picture()})
            write_json(tmp_path / "many/z/instances.json", INSTANCES)
        else:
            (tmp_path / "many" / kind).mkdir(parents=True)
            write(tmp_path / "many" / kind)
    run(["data", str(tmp_path / "many"), "--quick"])
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Of other kinds")]
    assert told == [
        "Of other kinds, each to be looked at on its own: "
        f"CreateML ({tmp_path}/many/createml), labelme ({tmp_path}/many/labelme), COCO instances ({tmp_path}/many/z)"
    ]
    assert run(["data", str(tmp_path / "many/voc"), "--quick"]) == 0
    assert "Of other kinds" not in capsys.readouterr().out


def test_a_dialogue_that_training_makes_of_labels_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    TOOLS["yolo"][0](tmp_path)
    said = []
    for name in ("first", "again"):
        assert run(["data", str(tmp_path), "--draw", "2", "--quick", "--out", str(tmp_path / name)]) == 0
        said.append([line for line in capsys.readouterr().out.splitlines() if line.startswith("    ")])
    assert said[0] == said[1]
    assert said[0].count("    one of the dialogues that training makes:") == 2
    (found,) = recognise(tmp_path)
    data = reader_of("yolo")(**found.values)
    for number in range(2):
        sample = build_sample(data[number], np.random.default_rng(number), dialogue_settings(found.dialogue))
        assert sample.turns
        for turn in sample.turns:
            assert f"      answer: {strip_markup(turn.answer)}" in said[0]
            assert any(
                line.startswith(f"      question: {turn.question.partition(REGION)[0]}"[:-1]) for line in said[0]
            )


def test_regions_of_a_dialogue_that_is_made_are_told_by_their_place(tmp_path: Path) -> None:
    TOOLS["yolo"][0](tmp_path)
    (found,) = recognise(tmp_path)
    record = reader_of("yolo")(**found.values)[0]
    _, lines = draw_record(
        record, dialogue_settings({"region_names": 1.0, "referring": 0.0, "region_captions": 0.0}), 0
    )
    asked = [line for line in lines if "question: " in line]
    assert asked
    assert all(re.search(r"<(click|box|scribble|mask) around \d+,\d+>", line) for line in asked)
    _, lines = draw_record(replace(record, instances=()), dialogue_settings({}), 0)
    assert lines == ["training makes no dialogue of it"]


def test_converted_labels_do_not_replace_those_they_are_made_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files(tmp_path, {"1.png": picture()})
    labels = write_json(tmp_path / "instances.json", {**coco([labelled(1, [1, 1, 4, 4])]), "info": "mine"})
    before = labels.read_bytes()
    for place in (tmp_path, labels):
        assert run(["data", "convert", str(place), str(tmp_path)]) == 2
        assert "instances.json` would overwrite the labels" in capsys.readouterr().err
    assert labels.read_bytes() == before


def test_drawings_do_not_replace_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_files(tmp_path, {"001.png": picture()})
    data = coco([labelled(1, [1, 1, 4, 4])])
    data["images"] = [{**data["images"][0], "file_name": "001.png"}]
    write_json(tmp_path / "instances.json", data)
    assert run(["data", str(tmp_path), "--draw", "1", "--out", str(tmp_path)]) == 2
    assert "001.png` would overwrite the picture" in capsys.readouterr().err
    assert (tmp_path / "001.png").read_bytes() == picture()


@pytest.mark.parametrize("kind", [kind for kind, reader in READERS.items() if isinstance(reader, str)])
def test_every_reader_that_ships_says_itself_what_its_kind_is_called(kind: str) -> None:
    assert isinstance(vars(reader_class(kind)).get("title"), str)
    assert Recognised(kind).what == reader_class(kind).title


def test_broken_entries_are_counted_by_any_reader_that_can_refuse_them(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    class Strict:
        @classmethod
        def from_files(cls, data: Path, strict: bool = True) -> None:
            opened.append(strict)

    monkeypatch.setitem(READERS, "strict", Strict)
    _opened(Recognised("strict", {"data": Path("x")}))
    assert opened == [False]
