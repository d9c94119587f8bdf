"""Placeholders beyond the vocabulary, as converted checkpoints have them: filled, or refused, never looked up."""

from __future__ import annotations

import pytest
import torch

from llava_grounding.errors import ShapeError
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from tiny_model import tiny_config, tiny_weights

IMAGE, REGION = 512, 513  # the vocabulary has 512 rows


@pytest.fixture(scope="module")
def model() -> LlavaGroundingForConditionalGeneration:
    return tiny_weights(tiny_config(image_token_id=IMAGE, region_token_id=REGION))


def test_their_features_take_their_places(model: LlavaGroundingForConditionalGeneration) -> None:
    ids = torch.tensor([[3, IMAGE, IMAGE, 4, REGION]])
    image, region = torch.randn(1, 2, 48), torch.randn(1, 1, 48)
    embeds = model.embed(ids, image, region, torch.ones(1, 1, dtype=torch.bool))
    words = model.get_input_embeddings()(torch.tensor([3, 4]))
    torch.testing.assert_close(embeds[0], torch.cat([words[:1], image[0], words[1:], region[0]]))


@pytest.mark.parametrize(("token", "name"), [(IMAGE, "image"), (REGION, "region")])
def test_without_features_they_are_an_error(
    model: LlavaGroundingForConditionalGeneration, token: int, name: str
) -> None:
    with pytest.raises(ShapeError, match=f"the text has {name} placeholders, but no {name} features were given"):
        model.embed(torch.tensor([[3, token]]))


def test_an_id_beyond_the_vocabulary_that_is_no_placeholder_stays_an_error(
    model: LlavaGroundingForConditionalGeneration,
) -> None:
    with pytest.raises(IndexError):
        model.embed(torch.tensor([[3, 514]]))
