"""Verdicts of people on what was annotated: the precision they give, and the files with them put right."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from commands import annotate, contents, inputs
from miniature import write

from llava_grounding.annotate.correct import correct
from llava_grounding.annotate.verdicts import read_verdicts, wilson_interval
from llava_grounding.data.plain_files import file_hash
from llava_grounding.errors import DataError


def test_verdicts_come_back_as_precision_with_an_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths, out = write(tmp_path / "in", 9, pictures=True), tmp_path / "out"
    annotate("run", *inputs(paths), "--out", out)
    annotate("review", out, "--images", tmp_path / "in", "--page", tmp_path / "p.html", "--count", 8)
    data = re.search(r'id="data">(.*?)</script>', (tmp_path / "p.html").read_text(), re.DOTALL)
    assert data is not None
    value = json.loads(data[1])
    rows = [{"key": item["key"], "verdict": "accept"} for item in value["items"]]
    rows[0]["verdict"], rows[1]["verdict"] = "fix", "reject"
    saved = tmp_path / "verdicts.json"
    saved.write_text(json.dumps({**value["about"], "verdicts": rows}))
    capsys.readouterr()
    assert annotate("review", out, "--verdicts", saved, "--verdicts", saved) == 0
    assert "precision 0.750 (95 % interval 0.409 to 0.929): 6 of 8 right" in capsys.readouterr().out
    saved.write_text(json.dumps({**value["about"], "records": "other", "verdicts": rows}))
    assert annotate("review", out, "--verdicts", saved) == 1
    assert "is about other records than" in capsys.readouterr().err


def test_verdicts_correct_the_files_and_leave_the_rest_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths, out, saved = write(tmp_path / "in"), tmp_path / "out", tmp_path / "verdicts.json"
    texts = ["A dog barks.", "Two people.", "A dog runs.", "A bus <0>", "A dog and two people.", "A bus."]
    images = [1, 1, 1, 1, 1, 2]
    rows = [{"id": k, "image_id": i, "caption": text} for k, (i, text) in enumerate(zip(images, texts, strict=True))]
    paths["captions"].write_text(json.dumps({"annotations": rows}))
    annotate("run", *inputs(paths), "--out", out, "--prompts")
    about = {"version": 1, "kind": "llava-grounding review", "records": file_hash(out / "records.jsonl")}

    def corrected(to: str, *verdicts: dict[str, object], of: Path = out) -> Path:
        saved.write_text(json.dumps({**about, "verdicts": verdicts}))
        (tmp_path / to).mkdir()
        correct(of, read_verdicts(of, [saved]), tmp_path / to, tmp_path / "work")
        return tmp_path / to

    same = corrected("same", {"key": [1, "A1", [0, 5]], "verdict": "accept"})
    before, after = contents(out), contents(same)
    manifest = json.loads(after.pop("manifest.json"))
    assert manifest.pop("reviews") == [{"accepted": 1, "rejected": 0, "fixed": 0, "interval": [0.2065, 1.0]}]
    assert manifest == json.loads(before.pop("manifest.json"))
    assert after == before

    reject = {"key": [1, "A1", [0, 5]], "verdict": "reject"}
    fix = {"key": [3, "A1", [0, 5]], "verdict": "fix", "annotations": [1000, 1002], "span": [2, 5]}
    to = corrected("to", reject, fix)
    assert [json.loads(line)["position"] for line in (to / "rejected.jsonl").read_text().splitlines()] == [1, 4]
    record = json.loads((to / "records.jsonl").read_text().splitlines()[1])
    (phrase,) = record["texts"]["A1"]["phrases"]
    assert (record["position"], phrase["text"], phrase["annotations"]) == (3, "dog", [1000, 1002])
    assert not record["pointed_at"]  # it names two things now
    assert (to / "gvc_r.json").read_bytes() != before["gvc_r.json"]
    counts = json.loads((to / "manifest.json").read_text())["counts"]
    assert (counts["samples"], counts["accepted"]) == (6, 4)
    with pytest.raises(DataError, match="is about other records than"):
        read_verdicts(to, [saved])
    about["records"] = file_hash(to / "records.jsonl")  # a second look, at what the first one gave
    twice = corrected("twice", {"key": [3, "A1", [2, 5]], "verdict": "accept"}, of=to)
    assert len(json.loads((twice / "manifest.json").read_text())["reviews"]) == 2

    about["records"] = file_hash(out / "records.jsonl")
    for change, wanted in [
        ({"annotations": [1003]}, "annotation 1003 is not on image 000000000001.jpg"),
        ({"annotations": []}, "must have a list of annotation ids, at least one, got []"),
        ({"annotations": ["1000 OR 1"]}, "annotation 1000 OR 1 is not on image"),
        ({"span": [0, 99]}, "lies outside of the text"),
        ({"span": [1, 4]}, "is no phrase"),
        ({"span": [0, 4]}, "begins or ends within a word"),
        ({"span": "all"}, "must have a span of two numbers"),
        ({"key": [3, "A1", [0, 4]]}, "is about a phrase that is not in"),
        ({"key": [3, "A1"]}, "must have a key of position, label and span"),
        ({"key": [5, "A1", [0, 5]], "annotations": None, "span": [0, 20]}, "would overlap another one"),
    ]:
        with pytest.raises(DataError) as refused:
            corrected(wanted, {**fix, **change})
        assert f"{saved}, verdict 1" in str(refused.value)
        assert wanted in str(refused.value)
    assert annotate("review", out, "--verdicts", saved, "--out", out) == 2
    assert "would overwrite the data" in capsys.readouterr().err


def test_wilsons_interval() -> None:
    # From the formula by hand: 81 of 263 (Newcombe 1998, table I): 0.2553 to 0.3662.
    assert [round(one, 4) for one in wilson_interval(81, 263)] == [0.2553, 0.3662]
    assert wilson_interval(0, 0) == (0.0, 1.0)
    low, high = wilson_interval(10, 10)
    assert math.isclose(high, 1.0)
    assert math.isclose(low, 0.7225, abs_tol=1e-4)
