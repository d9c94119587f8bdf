"""That a run learns: four pictures are overfit, with their words, boxes and masks."""

from dataclasses import replace
from pathlib import Path

import pytest
from hand_made import sample, thing
from PIL import Image
from running import Listed, finish, log_of

import whole_models
from llava_grounding.data.sample import Sample, Turn
from llava_grounding.inference.conversation import Conversation
from llava_grounding.inference.runtime import Runtime
from llava_grounding.markup import strip_markup
from mask_overlaps import mask_iou


def four_places() -> list[Sample]:
    """One thing each, of three kinds, in another corner of every picture."""
    samples = []
    for number in range(4):
        name = ("dog", "cat", "tree")[number % 3]
        x, y = 4 + 27 * (number % 2), 4 + 22 * (number // 2)
        turns = (Turn("Where is it?", f"Here is <g_s> the {name} <g_e> <seg>.", ((0,),), kind="where"),)
        samples.append(replace(sample((thing(name, (x, y, x + 40, y + 30)),), turns), id=f"picture {number}"))
    return samples


@pytest.mark.slow
def test_four_pictures_are_overfit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A language model this narrow hardly moves from the usual start.
    monkeypatch.setitem(whole_models.FLAVOURS["shared"]["text_config"], "initializer_range", 0.2)
    samples = four_places()
    settings = {"steps": 120, "batch_size": 4, "learning_rate": 1e-2, "vision_lr_multiplier": 0.5, "beta2": 0.98}
    rarely = {"logging_steps": 20, "save_steps": 1000, "eval_steps": 1000, "loss_weights": {"words": 0.2}}
    setup, metrics = finish(tmp_path, held=samples, source=Listed(samples), **settings, **rarely)
    losses = [row for row in log_of(tmp_path) if "loss" in row]
    assert losses[-1]["loss"] < losses[0]["loss"] / 20
    assert metrics["language_loss"] < 0.1
    assert metrics["phrase_f1"] == metrics["class_f1"] == 1.0
    runtime = Runtime(setup.model.eval(), setup.processor)
    for one in samples:
        seen = runtime.encode_images([Image.fromarray(one.image)])[0]
        answer = Conversation(runtime, seen, "tiny").ask("Where is it?", max_new_tokens=40)
        assert answer.text == strip_markup(one.turns[0].answer)
        (phrase,) = answer.phrases
        (region,) = phrase.regions
        assert region.mask is not None
        assert mask_iou(region.mask[None], one.masks)[0, 0] > 0.8  # a cell of the mask is five pixels wide
