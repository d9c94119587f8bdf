"""Predictions of others: a line of every adapter as its system writes it, broken lines, boxes in another frame."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from numpy import ones

from llava_grounding.benchmark.adapters import ADAPTERS, adapter
from llava_grounding.benchmark.predictions import PredictedPhrase, PredictedRegion, Prediction, read_predictions
from llava_grounding.benchmark.samples import BenchmarkSample, LabelledInstance, LabelledPhrase, SampleSet
from llava_grounding.errors import DataError, UsageError
from llava_grounding.masks import encode_rle

# 200 wide and 100 high: padded to a square it has 50 pixels above and below.
PLACES = tuple(BenchmarkSample(key, f"{key}.jpg", (200, 100), question="?") for key in ("1", "2", "3"))
SET = SampleSet("grounding-bench", "places", PLACES)
MASK = encode_rle(ones((100, 200), dtype=bool))
LINES = {
    "plain": (
        {"id": "1", "text": "A dog.", "phrases": [{"text": "A dog", "regions": [{"box": [20, 10, 100, 50]}]}]},
        ("A dog.", "A dog", [(20, 10, 100, 50)]),
    ),
    "original": (
        {"question_id": 1, "text": "Look, a big dog runs.", "text_boxes": "Look, a big dog[0.1,0.1,0.5,0.5;] runs."},
        ("Look, a big dog runs.", "a big dog", [(20, 10, 100, 50)]),
    ),
    "llava": (
        {"id": "1", "text": "There is a brown dog [0.10, 0.30, 0.50, 0.50] here."},
        ("There is a brown dog here.", "a brown dog", [(20, 10, 100, 50)]),
    ),
    "shikra": (
        {"id": "1", "answer": "Two dogs[0.100,0.300,0.500,0.500;0.000,0.250,0.500,0.500] play."},
        ("Two dogs play.", "Two dogs", [(20, 10, 100, 50), (0, 0, 100, 50)]),
    ),
    "ferret": (
        {"id": "1", "text": "on the flurbling gizmo [100, 100, 500, 500]."},
        ("on the flurbling gizmo.", "the flurbling gizmo", [(20, 10, 100, 50)]),
    ),
    "kosmos-2": (
        {
            "id": "1",
            "text": "<grounding>An image of<phrase> a snowman</phrase><object><patch_index_0000><patch_index_0033>"
            "</delimiter_of_multi_objects/><patch_index_0005><patch_index_0007></object>.",
        },
        ("An image of a snowman.", "a snowman", [(3.125, 1.5625, 9.375, 4.6875), (34.375, 0, 46.875, 3.125)]),
    ),
    "qwen-vl": (
        {"id": "1", "response": "<ref>the dogs</ref><box>(100,100),(500,500)</box><box>(0,0),(500,500)</box> play"},
        ("the dogs play", "the dogs", [(20, 10, 100, 50), (0, 0, 100, 50)]),
    ),
    "qwen2.5-vl": (
        {
            "id": "1",
            "input_size": [400, 300],
            "text": '```json\n[\n\t{"bbox_2d": [40, 30, 200, 150], "label": "dog"},\n'
            '\t{"bbox_2d": [0, 30, 200, 150], "label": "dog"}\n]\n```',
        },
        ("dog", "dog", [(20, 10, 100, 50), (0, 10, 100, 50)]),
    ),
    "qwen3-vl": (
        {"id": "1", "text": 'Here it is: ```json\n[{"bbox_2d": [100, 100, 500, 500], "label": "a dog"}]\n```'},
        ("Here it is:", "a dog", [(20, 10, 100, 50)]),
    ),
    "internvl": (
        {"id": "1", "response": "<ref>the dogs</ref><box>[[100, 100, 500, 500], [0, 0, 500, 500]]</box> play"},
        ("the dogs play", "the dogs", [(20, 10, 100, 50), (0, 0, 100, 50)]),
    ),
    "glamm": (
        {"id": "1", "caption": "<p> a dog </p> [SEG] runs.", "pred_masks": [MASK]},
        ("a dog runs.", "a dog", [(0, 0, 200, 100)]),
    ),
}


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def test_there_is_a_line_for_every_adapter() -> None:
    assert LINES.keys() == ADAPTERS.keys()


@pytest.mark.parametrize("name", LINES)
def test_an_adapter_gives_text_phrase_and_boxes_in_pixels(name: str, tmp_path: Path) -> None:
    line, (text, phrase, boxes) = LINES[name]
    found = read_predictions(write(tmp_path / "answers.jsonl", line), SET, adapter(name)).by_id["1"]
    (only,) = found.phrases
    assert (found.text, only.text) == (text, phrase)
    assert [tuple(region.box_xyxy) for region in only.regions] == [pytest.approx(box) for box in boxes]
    assert (only.regions[0].mask is not None) == (name == "glamm")


def test_json_of_boxes_that_is_cut_off_or_wrong_is_named_and_a_sentence_finds_nothing(tmp_path: Path) -> None:
    lines = [
        {"id": "1", "text": "There is no dog in the image."},
        {"id": "2", "text": '```json\n[{"bbox_2d": [1, 1, 9, 9], "label": "a dog"}, {"bbox_2d": [1, 1'},
        {"id": "2", "text": '[{"bbox_2d": [1, 1, 9, 9], "label": "a dog"}', "input_size": [10, 10]},
        {"id": "2", "text": '[{"bbox_2d": [1, 1, 9, 9], "label": "a dog"}]', "input_size": [10, 0]},
        {"id": "2", "text": '[{"bbox_2d": [1, 1, 9], "label": "a dog"}]', "input_size": [10, 10]},
        {"id": "2", "text": '[{"bbox_2d": [1, 1, 9, 9, 9], "label": "a dog"}]', "input_size": [10, 10]},
        {"id": "2", "text": '[{"box": [1, 1, 9, 9], "label": "a dog"}]'},
        {"id": "2", "text": "[1, 2]"},
        {"id": "2", "text": "[" * 100_000},
        {"id": "3", "text": '{"bbox_2d": [1, 1, 9, 9]}'},
    ]
    found = read_predictions(write(tmp_path / "answers.jsonl", *lines), SET, adapter("qwen2.5-vl"))
    assert found.by_id.keys() == {"1", "3"}
    assert (found.by_id["1"].text, found.by_id["1"].phrases) == ("There is no dog in the image.", ())
    assert [one.regions[0].box_xyxy for one in found.by_id["3"].phrases] == [(1, 1, 9, 9)]
    assert sum(found.problems.values()) == len(found.named) == 8
    assert "line 2: a value that does not fit: the answer begins a JSON list of boxes and is none" in found.named[0]


def test_all_boxes_of_an_answer_are_those_of_the_phrase_that_was_asked_for(tmp_path: Path) -> None:
    asked = BenchmarkSample("1", "1.jpg", (200, 100), phrases=(LabelledPhrase("the dogs", ()),))
    text = '[{"bbox_2d": [0, 0, 9, 9], "label": "left dog"}, {"bbox_2d": [50, 0, 99, 9], "label": "right dog"}]'
    file = write(tmp_path / "answers.jsonl", {"id": "1", "text": text})
    found = read_predictions(file, SampleSet("referring", "x", (asked,)), adapter("qwen2.5-vl")).by_id["1"]
    assert [(one.text, len(one.regions)) for one in found.phrases] == [("the dogs", 2)]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    regions = (PredictedRegion((1.0, 2.0, 3.5, 4.0), 0.25, MASK), PredictedRegion((5.0, 5.0, 50.0, 50.0)))
    said = Prediction("2", "a dog", (PredictedPhrase("a dog", regions), PredictedPhrase("it")), "plain words")
    failed = Prediction("3", error="no memory")
    file = write(tmp_path / "own.jsonl", said.to_dict(), failed.to_dict())
    assert read_predictions(file, SET, adapter("plain")).by_id == {"2": said, "3": failed}


def test_answers_to_another_question_are_named_and_not_scored(tmp_path: Path) -> None:
    words = {"1": "Is there a car in the image?", "2": "Is there a dog in the image?", "3": "What is it?"}
    samples = tuple(BenchmarkSample(key, "1.jpg", (9, 9), question=said) for key, said in words.items())
    lines = [
        {"question_id": 1, "prompt": f"{words['2']}\nAnswer the question using a single word or phrase.", "text": "No"},
        {"question_id": 2, "prompt": f"<image>\n{words['2']}", "text": "No"},
        {"question_id": 3, "prompt": "Please say what this is.", "text": "a dog"},
    ]
    found = read_predictions(write(tmp_path / "x.jsonl", *lines), SampleSet("pope", "x", samples), adapter("plain"))
    assert found.by_id.keys() == {"2", "3"}
    (said,) = found.named
    assert said == f"line 1: an answer to another question: `'1'` asks {words['1']!r}, the line {words['2']!r}"


def test_a_folder_has_one_answer_a_file_as_the_evaluation_of_glamm_writes_them(tmp_path: Path) -> None:
    said = {"caption": "A dog and a cat.", "phrases": ["A dog", "a cat"], "pred_masks": [MASK, MASK]}
    write(tmp_path / "1.json", {"image_id": 1, **said})
    write(tmp_path / "2.json", {"image_id": "2", **said, "phrases": ["A dog"]})
    write(tmp_path / "3.json", '{"image_id": "3", ')
    found = read_predictions(tmp_path, SET, adapter("glamm"))
    assert found.by_id.keys() == {"1"}
    assert [one.text for one in found.by_id["1"].phrases] == ["A dog", "a cat"]
    assert all(one.regions[0].mask == MASK for one in found.by_id["1"].phrases)
    assert found.named[0].startswith("2.json: a value that does not fit: pred_masks must have one mask per phrase")
    assert found.named[1].startswith("3.json: no JSON")
    twice = (*PLACES, BenchmarkSample("4", "1.jpg", (200, 100), question="?"))
    with pytest.raises(DataError, match="several samples are of the image"):
        read_predictions(write(tmp_path / "x.jsonl", {"image_id": "1"}), SampleSet("x", "x", twice), adapter("glamm"))


def test_broken_lines_are_counted_and_named(tmp_path: Path) -> None:
    good = LINES["plain"][0]
    lines = [
        good,
        "{",
        good,
        [1],
        {"text": "no id"},
        {"id": "9", "text": "another split"},
        {"id": "2", "phrases": [{"text": "x", "regions": [{"box": [1, 2, 3]}]}]},
        {"id": "2", "phrases": [{"text": "x", "regions": [{"box": [1, 1, 9, 9], "mask": {"size": [1, 1]}}]}]},
        {"id": "2", "phrases": [{"text": "x", "regions": [{"box": [1, 1, 9, 9], "score": 7}]}]},
        {"id": "2", "phrases": 5},
    ]
    found = read_predictions(write(tmp_path / "some.jsonl", *lines), SET, adapter("plain"))
    assert found.by_id.keys() == {"1"}
    assert found.num_lines == 10
    assert dict(found.problems) == {
        "answered_twice": 1,
        "no_id": 1,
        "no_json": 1,
        "no_object": 1,
        "unfit_value": 4,
        "unknown_id": 1,
    }
    assert found.named[0].startswith("line 2: no JSON")
    assert "is it of another split?" in " ".join(found.named)
    with pytest.raises(DataError, match="has no line that could be used"):
        read_predictions(write(tmp_path / "none.jsonl", "{"), SET, adapter("plain"))
    with pytest.raises(UsageError, match="did you mean `shikra`"):
        adapter("shikara")
    asked = BenchmarkSample("1", "1.jpg", (200, 100), phrases=(LabelledPhrase("a", ()), LabelledPhrase("b", ())))
    two = SampleSet("phrase-grounding", "two", (asked,))
    with pytest.raises(DataError, match="asked were 2, got 1"):
        read_predictions(write(tmp_path / "one.jsonl", good), two, adapter("plain"))


@pytest.mark.parametrize(
    ("box", "frame", "words"),
    [
        ([0.1, 0.1, 0.5, 0.5], "pixels", "all lie in 0 to 1, as shares of the image do; say so with --frame fraction"),
        ([100, 100, 500, 900], "pixels", "as thousandths do; say so with --frame per-mille"),
        ([100, 100, 5000, 9000], "pixels", "are they of pictures of another size?"),
        ([20, 10, 100, 50], "fraction", "lie outside their images"),
        ([0.1, 0.1, 0.5, 0.5], "per-mille", "say so with --frame fraction"),
        ([0.1, 0.1, 0.5, 1.002], "per-mille", "say so with --frame fraction"),  # as Ferret's files have
        ([0.1, 0.1, 0.5, 1.002], "pixels", "say so with --frame fraction"),
        ([0.1, 0.1, 0.5, 0.5], "inches", "a frame is one of pixels, fraction"),
    ],
)
def test_boxes_that_fit_another_frame_are_refused_with_the_suspicion(box, frame: str, words: str, tmp_path) -> None:
    line = {"id": "1", "phrases": [{"text": "x", "regions": [{"box": box}]}]}
    with pytest.raises((DataError, UsageError)) as caught:
        read_predictions(write(tmp_path / "a.jsonl", line), SET, adapter("plain"), frame)
    assert words in str(caught.value)


def test_a_set_is_read_as_written_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    dog = LabelledInstance("dog", (1.0, 2.0, 30.0, 40.0), MASK, 7)
    full = BenchmarkSample(
        "1", "1.jpg", (200, 100), "click", "What is <region>?", ({"click": [3.0, 4.0]},),
        (LabelledPhrase("a dog", (0,)),), (dog,), ("A dog.",), "dog", ("dog",), (0,), "val",
    )  # fmt: skip
    whole = SampleSet("classification", "one", (full,), {"a.json": "00"}, ("note",), {"reason": 2})
    whole.write(tmp_path / "set.jsonl")
    again = SampleSet.read(tmp_path / "set.jsonl")
    assert again == whole
    assert again.digest == whole.digest
    text = (tmp_path / "set.jsonl").read_text()
    for wrong, words in (
        (text.splitlines()[0], "it is cut off"),
        (text.replace('"targets": [0]', '"targets": [4]'), "must name one of the 1 instances"),
        (text.replace('"box": [1.0', '"box": ["1"'), "a box must be four finite numbers"),
        (text.replace('{"click": [3.0, 4.0]}', '{"poke": 1}'), "a prompt must be one of click"),
        ("{}", "must be a set of version 1"),
    ):
        with pytest.raises(DataError) as caught:
            SampleSet.read(write(tmp_path / "wrong.jsonl", *wrong.splitlines()))
        assert words in str(caught.value)
    other = BenchmarkSample("2", "1.jpg", (200, 100), split="test")
    with pytest.raises(DataError, match="must hold one split, got 2 mixed up"):
        SampleSet("pope", "mixed", (full, other))
    with pytest.raises(DataError, match="ids of samples must be unique"):
        SampleSet("pope", "twice", (full, full))
