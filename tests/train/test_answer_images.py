"""Pictures of a run: drawn at every validation, whatever a young model says."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from running import finish, log_of

from llava_grounding.errors import MarkupError
from llava_grounding.inference.conversation import Conversation
from llava_grounding.structures import GroundedAnswer

VALUES: dict[str, Any] = {"stage": "chat", "steps": 2, "batch_size": 1, "eval_steps": 1, "num_points": 16}


@pytest.mark.slow
def test_they_are_drawn_at_every_validation_with_what_was_asked_said_and_right(tmp_path: Path) -> None:
    finish(tmp_path, **VALUES, pictures=2)
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["step_0000001", "step_0000002"]
    for folder in (tmp_path / "pictures").iterdir():
        lines = (folder / "answers.txt").read_text(encoding="utf-8").splitlines()
        assert lines[0] == "0  Where is it?"
        assert lines[1].startswith("   said:  ")
        assert "   right: <g_s> The dog <g_e> <seg> is on the left." in lines
        for number in (0, 1):
            with Image.open(folder / f"{number}.png") as picture:
                assert picture.size[0] >= 80
        assert not (folder / "2.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("error", [MarkupError("a tag that closes nothing"), ValueError("a box inside out")])
def test_an_answer_that_fails_does_not_stop_the_run(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Conversation.ask
    asked: list[None] = []

    def ask(*arguments: Any, **keywords: Any) -> GroundedAnswer:
        asked.append(None)
        if len(asked) == 1:
            raise error
        return honest(*arguments, **keywords)

    monkeypatch.setattr(Conversation, "ask", ask)
    finish(tmp_path, **VALUES, pictures=2)
    folder = tmp_path / "pictures/step_0000001"
    assert f"   failed: {error}" in (folder / "answers.txt").read_text(encoding="utf-8")
    assert [path.name for path in folder.glob("*.png")] == ["1.png"]
    assert [row["step"] for row in log_of(tmp_path) if "loss" in row] == [1, 2]


def test_a_run_without_dialogues_or_without_pictures_draws_none(tmp_path: Path) -> None:
    finish(tmp_path / "classes", **{**VALUES, "stage": "pretrain_grounder"}, pictures=2)
    finish(tmp_path / "none", **VALUES, pictures=0)
    assert not (tmp_path / "classes/pictures").exists()
    assert not (tmp_path / "none/pictures").exists()
