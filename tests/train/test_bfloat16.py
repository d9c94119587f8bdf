"""bfloat16 is used where it pays, and where a recipe asks for it."""

import pytest
import torch

from llava_grounding.errors import ConfigError
from llava_grounding.train import autocast
from llava_grounding.train.autocast import faster_in_bfloat16, use_bfloat16
from llava_grounding.train.recipe import recipe_of, recipe_to_dict

CPU = torch.device("cpu")


def seconds(monkeypatch: pytest.MonkeyPatch, bfloat16: float, float32: float, supported: bool = True) -> None:
    """A CPU that takes so long for each."""
    times = {torch.bfloat16: bfloat16, torch.float32: float32}
    monkeypatch.setattr(autocast, "_seconds", lambda dtype: times[dtype])
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)


@pytest.mark.parametrize(("bfloat16", "faster"), [(0.5, True), (0.9, True), (0.95, False), (1.5, False)])
def test_a_cpu_uses_it_if_it_is_a_tenth_faster(bfloat16: float, faster: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds(monkeypatch, bfloat16, 1.0)
    assert use_bfloat16("auto", CPU) is faster


def test_a_cpu_without_instructions_for_it_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds(monkeypatch, 0.1, 1.0, supported=False)
    assert use_bfloat16("auto", CPU) is False


@pytest.mark.parametrize("wish", [True, False])
def test_a_recipe_that_says_so_has_its_way(wish: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds(monkeypatch, 0.1 if not wish else 10.0, 1.0)
    assert use_bfloat16(wish, CPU) is wish


def test_this_cpu_can_be_measured() -> None:
    assert faster_in_bfloat16() in (True, False)
    assert autocast._seconds(torch.float32) > 0


@pytest.mark.parametrize("value", ["auto", True, False])
def test_a_recipe_may_say_auto_or_yes_or_no(value: object) -> None:
    recipe = recipe_of({"stage": "chat", "bf16": value})
    assert recipe.bf16 == value
    assert recipe_to_dict(recipe)["bf16"] == value


@pytest.mark.parametrize("value", ["always", 1, None])
def test_and_nothing_else(value: object) -> None:
    with pytest.raises(ConfigError, match=r"`bf16` must be true or false or auto, got"):
        recipe_of({"stage": "chat", "bf16": value})
