"""`ground` finds phrases one by one and speaks the same JSON as `chat`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_engine import SIZE, FakeEngine, Result

from llava_grounding.errors import CheckpointError
from llava_grounding.structures import GroundedAnswer

Call = Callable[..., Result]


def test_the_json_is_an_answer_whose_text_is_the_phrases(call: Call, engine: FakeEngine, photo: Path) -> None:
    result = call("ground", photo, "the red disc", " birds ", "a disc", "--json", "--model", "m", "--device", "cpu")
    assert result.code == 0, result.err
    answer = GroundedAnswer.from_dict(json.loads(result.out))
    assert answer.text == "the red disc, birds, a disc"
    assert [(phrase.id, phrase.text, phrase.span) for phrase in answer.phrases] == [
        (0, "the red disc", (0, 12)),
        (1, "birds", (14, 19)),
        (2, "a disc", (21, 27)),
    ]
    assert [len(phrase.regions) for phrase in answer.phrases] == [1, 0, 1]
    assert answer.raw == "<g_s> the red disc <g_e> <seg>, <g_s> birds <g_e> <seg>, <g_s> a disc <g_e> <seg>"
    assert (answer.model, answer.image_size_wh) == ("fake", SIZE)
    assert engine.loaded_with == ("m", "cpu")


def test_regions_are_said_by_phrase(call: Call, engine: FakeEngine, photo: Path, out: Path) -> None:
    result = call("ground", photo, "a disc", "birds", "--out", out)
    assert result.out.splitlines() == [
        "   1  a disc: box 0,0,32,24  score 0.75",
        "   2  birds: not found (best score 0.10)",
    ]
    assert "a disc: not found" in call("ground", photo, "a disc", "--threshold", 0.9).out
    assert "less than or equal to 1" in call("ground", photo, "a disc", "--threshold", 1.2).err
    assert sorted(path.name for path in out.iterdir()) == ["answer.html", "answer.json", "answer.png"]


@pytest.mark.parametrize(
    ("phrase", "words"),
    [
        ("", "must not be empty"),
        ("  ", "must not be empty"),
        ("a <seg> dog", "must hold no special tokens, got `<seg>`"),
    ],
)
def test_a_phrase_that_is_none_is_refused(
    call: Call, engine: FakeEngine, photo: Path, out: Path, phrase: str, words: str
) -> None:
    result = call("ground", photo, "a disc", phrase, "--out", out)
    assert (result.code, result.out) == (2, "")
    assert words in result.err
    assert result.err.count("\n") == 1
    assert engine.loaded_with is None
    assert not out.exists()


def test_a_failure_leaves_nothing_behind(call: Call, engine: FakeEngine, photo: Path, out: Path) -> None:
    engine.error = CheckpointError("weights are damaged")
    result = call("ground", photo, "a disc", "--out", out, "--json")
    assert (result.code, result.out, result.err) == (1, "", "Error: weights are damaged\n")
    assert not out.parent.exists()
