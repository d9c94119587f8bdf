"""The language side: which features a tower gives, features put into their slots, and the final norm."""

from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import CLIPVisionConfig, SiglipVisionConfig

from llava_grounding.errors import ConfigError, ShapeError
from llava_grounding.model.language import FeatureVisionTower, build_projector, final_norm, put_into_slots
from whole_models import FLAVOURS

CLIP = {key: value for key, value in FLAVOURS["official"]["vision_config"].items() if key != "model_type"}


@given(
    rows=st.lists(st.lists(st.booleans(), min_size=1, max_size=7), min_size=1, max_size=3),
    padding=st.integers(0, 2),
)
def test_the_kth_feature_lands_in_the_kth_slot_of_its_row(rows: list[list[bool]], padding: int) -> None:
    longest = max(map(len, rows))
    slots = torch.tensor([row + [False] * (longest - len(row)) for row in rows])
    counts = slots.sum(dim=1)
    most = int(counts.max()) + padding
    feature_mask = torch.arange(most)[None] < counts[:, None]
    numbers = torch.arange(len(rows) * most, dtype=torch.float32).view(len(rows), most, 1) + 1
    filled = put_into_slots(torch.zeros(len(rows), longest, 2), slots, numbers.expand(-1, -1, 2), feature_mask, "image")
    for row in range(len(rows)):
        assert filled[row][slots[row]].tolist() == [[value, value] for (value,) in numbers[row, : counts[row]].tolist()]
    assert not filled[~slots].any()


def test_padded_features_are_passed_over_wherever_they_stand() -> None:
    features = torch.tensor([[[1.0], [2.0], [3.0]]])
    mask = torch.tensor([[False, True, True]])
    filled = put_into_slots(torch.zeros(1, 3, 1), torch.tensor([[True, False, True]]), features, mask, "region")
    assert filled[0, :, 0].tolist() == [2.0, 0.0, 3.0]


def test_features_take_the_type_of_the_embeddings_and_pass_their_gradient() -> None:
    features = torch.ones(1, 2, 3, requires_grad=True)
    slots = torch.tensor([[True, False, True, False]])
    embeds = torch.zeros(1, 4, 3, dtype=torch.bfloat16)
    filled = put_into_slots(embeds, slots, features, torch.ones(1, 2, dtype=torch.bool), "image")
    assert filled.dtype == torch.bfloat16
    assert not embeds.any()
    filled.sum().backward()
    assert features.grad.tolist() == [[[1.0] * 3] * 2]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_and_too_many_features_are_refused(count: int) -> None:
    slots = torch.tensor([[True, True, False], [False, False, False]])
    mask = torch.zeros(2, 3, dtype=torch.bool)
    mask[0, :count] = True
    with pytest.raises(ShapeError) as caught:
        put_into_slots(torch.zeros(2, 3, 4), slots, torch.zeros(2, 3, 4), mask, "region")
    assert str(caught.value) == (
        "each row must have one region feature per region placeholder, "
        f"got [{count}, 0] features for [2, 0] placeholders"
    )


def test_equal_totals_in_the_wrong_rows_are_refused() -> None:
    slots = torch.tensor([[True, True], [False, False]])
    with pytest.raises(ShapeError, match=r"got \[1, 1\] features for \[2, 0\] placeholders"):
        put_into_slots(torch.zeros(2, 2, 4), slots, torch.zeros(2, 1, 4), torch.ones(2, 1, dtype=torch.bool), "image")


@pytest.mark.parametrize("feature_layer", [-2, 1])
def test_a_clip_tower_gives_one_hidden_layer_without_its_class_token(feature_layer: int) -> None:
    torch.manual_seed(0)
    tower = FeatureVisionTower(CLIPVisionConfig(**CLIP), feature_layer, drop_class_token=True).eval()
    pixels = torch.randn(2, 3, 28, 28)
    hidden = tower.vision_model(pixels, output_hidden_states=True).hidden_states
    assert len(hidden) == CLIP["num_hidden_layers"] + 1
    features = tower(pixels)
    assert features.shape == (2, 4, 16)
    assert torch.equal(features, hidden[feature_layer][:, 1:])


def test_layers_after_the_chosen_one_have_no_effect() -> None:
    torch.manual_seed(0)
    tower = FeatureVisionTower(CLIPVisionConfig(**CLIP), -2, drop_class_token=True).eval()
    pixels = torch.randn(1, 3, 28, 28)
    before = tower(pixels)
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            if ".layers.2." in name or "post_layernorm" in name:
                parameter.add_(1.0)
    assert torch.equal(tower(pixels), before)


def test_a_siglip_tower_gives_every_patch() -> None:
    tower = FeatureVisionTower(SiglipVisionConfig(**CLIP), -2, drop_class_token=False).eval()
    assert tower(torch.randn(1, 3, 28, 28)).shape == (1, 4, 16)


def test_projectors_are_one_layer_or_two_with_gelu() -> None:
    assert isinstance(build_projector("linear", 4, 6), nn.Linear)
    first, activation, second = build_projector("mlp", 4, 6)
    assert isinstance(activation, nn.GELU)
    assert (first.in_features, first.out_features, second.in_features, second.out_features) == (4, 6, 6, 6)


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("LlamaModel", {"intermediate_size": 16, "num_key_value_heads": 2}),
        ("PhiModel", {"intermediate_size": 16}),
        ("GPT2Model", {}),
    ],
)
def test_the_final_norm_gives_the_last_hidden_state_whatever_its_name(family: str, config: dict[str, Any]) -> None:
    kind = getattr(transformers, family)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 11}
    model = kind(kind.config_class(**sizes, bos_token_id=0, eos_token_id=1, pad_token_id=0, **config)).eval()
    seen: list[Tensor] = []
    final_norm(model).register_forward_hook(lambda module, given, output: seen.append(output))
    output = model(torch.tensor([[3, 4]])).last_hidden_state
    assert torch.equal(seen[-1], output)


def test_a_model_without_a_known_final_norm_is_refused() -> None:
    with pytest.raises(ConfigError, match="a Linear has no final norm of a known name: norm, "):
        final_norm(nn.Linear(2, 2))
