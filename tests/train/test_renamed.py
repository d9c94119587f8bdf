"""Former names in recipes: read as their present ones, with a warning."""

import logging
from dataclasses import fields
from pathlib import Path

import pytest

from llava_grounding.train import renamed
from llava_grounding.train.batching.sources import KINDS
from llava_grounding.train.losses.weights import LossWeights
from llava_grounding.train.plan import STAGES
from llava_grounding.train.recipe import Recipe, load_recipe
from llava_grounding.train.recipe_file import find_recipe, shipped_recipes

FORMER = """\
stage: marks
clip: 0.5
word_weight: 0.3
grounding_weight: 0.1
loss_weights: {grounding: 0.2}
keep: 3
data:
  - {kind: own, instances: a.json, images: a, talk: {categories: 1.0}}
  - {kind: marks, dialogues: b.json, images: b}
"""


def test_every_present_name_is_one() -> None:
    weights = {f"loss_weights.{one.name}" for one in fields(LossWeights)}
    assert set(renamed.KEYS.values()) <= {one.name for one in fields(Recipe)} | weights
    assert set(renamed.KINDS.values()) <= set(KINDS)
    assert set(renamed.STAGES.values()) <= set(STAGES)
    assert set(renamed.RECIPES.values()) <= set(shipped_recipes())
    assert find_recipe("own_data") == find_recipe("custom_data")


def test_a_recipe_in_former_names_is_the_one_in_present_names(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(FORMER)
    with caplog.at_level(logging.WARNING):
        recipe = load_recipe(path, {"warmup": "0.2", "clip": "0.25", "data.0.talk.mirror": "0.5"})
    assert (recipe.stage, recipe.max_grad_norm, recipe.save_total_limit) == ("set_of_mark", 0.25, 3)
    assert recipe.warmup_ratio == 0.2
    assert recipe.loss_weights == LossWeights(words=0.3, grounding=0.2)
    assert [one["kind"] for one in recipe.data] == ["custom", "set_of_mark"]
    assert recipe.data[0]["dialogue"] == {"categories": 1.0, "mirror": 0.5}
    assert "the recipe key `clip` is called `max_grad_norm` now" in caplog.messages
    assert "the key of a source `talk` is called `dialogue` now" in caplog.messages
    assert "the kind of data `own` is called `custom` now" in caplog.messages
