"""Former names in recipes: refused, with the present one."""

from dataclasses import fields
from pathlib import Path

import pytest

from llava_grounding.data.readers.registry import READERS
from llava_grounding.errors import ConfigError
from llava_grounding.train.batching.source_kinds import BUILT_IN
from llava_grounding.train.losses.weights import LossWeights
from llava_grounding.train.plan import STAGES
from llava_grounding.train.recipe import Recipe, load_recipe
from llava_grounding.train.recipe_file import find_recipe, shipped_recipes
from llava_grounding.train.renamed import FORMER

RECIPE = """\
stage: marks
clip: 0.5
word_weight: 0.3
loss_weights: {focal: 2.0, mask: 4.0}
data:
  - {kind: own, instances: a.json, images: a, talk: {categories: 1.0}}
  - {kind: marks, dialogues: b.json, images: b}
"""


def test_every_present_name_is_one_and_no_former_name_is() -> None:
    weights = {f"loss_weights.{one.name}" for one in fields(LossWeights)}
    known = {
        "key of loss_weights": {one.name for one in fields(LossWeights)},
        "recipe": set(shipped_recipes()),
        "recipe key": {one.name for one in fields(Recipe)} | weights,
        "stage": set(STAGES),
        "key of a source": {"dialogue"},
        "kind of data": {*BUILT_IN, *READERS},
    }
    assert FORMER.keys() == known.keys()
    for what, names in FORMER.items():
        assert {name for value in names.values() for name in value.split("` or `")} <= known[what]
        assert not names.keys() & known[what]


def test_former_names_are_refused_with_the_present_ones(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    with pytest.raises(ConfigError) as refused:
        load_recipe(path, {"warmup": "0.2", "data.0.talk.mirror": "0.5"})
    assert str(refused.value).split("; ") == [
        "the recipe key `clip` is called `max_grad_norm` now",
        "the recipe key `word_weight` is called `loss_weights.words` now",
        "the recipe key `warmup` is called `warmup_ratio` now",
        "the stage `marks` is called `set_of_mark` now",
        "the key of loss_weights `focal` is called `phrase_focal` or `class_focal` now",
        "the key of a source `talk` is called `dialogue` now",
        "the kind of data `own` is called `custom` now",
        "the kind of data `marks` is called `set_of_mark` now",
    ]


def test_a_former_recipe_is_refused_unless_it_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="the recipe `own_data` is called `custom_data` now"):
        find_recipe("own_data")
    (tmp_path / "own_data").touch()
    assert find_recipe("own_data") == Path("own_data")
