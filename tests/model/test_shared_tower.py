"""The vision tower without a backbone: which tokens it makes of the grounder's memory and proposals."""

import pytest
import torch
from torch import Tensor

from llava_grounding.model.outputs import GrounderOutput, ImageMemory
from llava_grounding.model.shared_tower import SharedVisionTower
from whole_models import FLAVOURS, whole_config, whole_model

HIDDEN, PHRASE, SIZES = 8, 6, ((2, 3), (4, 6))


def memory(batch: int = 2) -> ImageMemory:
    return ImageMemory(torch.randn(batch, 30, HIDDEN), SIZES, torch.randn(batch, 4, 8, 12))


def proposals(scores: Tensor) -> GrounderOutput:
    """Queries with the given logits for the first phrase; a second phrase likes them the other way round."""
    batch, queries = scores.shape
    return GrounderOutput(
        phrase_logits=torch.stack([scores, -scores], dim=2),
        boxes_cxcywh_norm=torch.rand(batch, queries, 4),
        mask_embeds=torch.randn(batch, queries, 4),
        queries=torch.randn(batch, queries, HIDDEN),
        mask_features=torch.randn(batch, 4, 8, 12),
        topk_indices=torch.zeros(batch, queries, dtype=torch.long),
    )


def tower(num_objects: int = 3) -> SharedVisionTower:
    torch.manual_seed(0)
    return SharedVisionTower(HIDDEN, PHRASE, num_objects)


def test_tokens_are_the_coarsest_cells_then_the_objects() -> None:
    part, image = tower(), memory()
    tokens = part.tokens(image, proposals(torch.randn(2, 5)))
    assert tokens.shape == (2, 6 + 3, part.output_size)
    finer = ImageMemory(image.memory.clone(), SIZES, image.mask_features)
    finer.memory[:, 6:] = 0
    other = part.tokens(finer, proposals(torch.randn(2, 5)))
    assert torch.equal(other[:, :6], tokens[:, :6])
    assert not torch.equal(other[:, 6:], tokens[:, 6:])


def test_objects_come_best_first_whatever_their_order() -> None:
    part, image, found = tower(), memory(1), proposals(torch.tensor([[0.1, 2.0, -1.0, 1.0, 0.5]]))
    tokens = part.tokens(image, found)[:, 6:]
    order = torch.tensor([1, 3, 4])
    ranked = GrounderOutput(
        phrase_logits=found.phrase_logits[:, order],
        boxes_cxcywh_norm=found.boxes_cxcywh_norm[:, order],
        mask_embeds=found.mask_embeds[:, order],
        queries=found.queries[:, order],
        mask_features=found.mask_features,
        topk_indices=found.topk_indices[:, order],
    )
    torch.testing.assert_close(part.tokens(image, ranked)[:, 6:], tokens)


def test_equal_cells_in_different_places_give_different_tokens() -> None:
    part, image = tower(), memory(1)
    image.memory[:] = image.memory[:, :1]
    cells = part.tokens(image, proposals(torch.randn(1, 5)))[0, :6]
    assert torch.cdist(cells, cells).fill_diagonal_(1.0).min() > 1e-3


def test_a_box_and_a_score_change_the_token_of_an_object() -> None:
    part, image, found = tower(1), memory(1), proposals(torch.tensor([[1.0]]))
    before = part.tokens(image, found)[0, 6]
    found.phrase_logits = found.phrase_logits + 1.0
    after_score = part.tokens(image, found)[0, 6]
    found.boxes_cxcywh_norm = found.boxes_cxcywh_norm * 0.5
    assert not torch.allclose(after_score, before, atol=1e-4)
    assert not torch.allclose(part.tokens(image, found)[0, 6], after_score, atol=1e-4)


def test_places_of_missing_objects_are_zero() -> None:
    tokens = tower(4).tokens(memory(1), proposals(torch.randn(1, 2)))
    assert tokens.shape[1] == 6 + 4
    assert tokens[0, 8:].abs().max() == 0
    assert tokens[0, :8].abs().amax(-1).min() > 0


def test_tokens_teach_queries_but_neither_boxes_nor_scores() -> None:
    part, image, found = tower(), memory(1), proposals(torch.randn(1, 5))
    for value in (found.queries, found.boxes_cxcywh_norm, found.phrase_logits):
        value.requires_grad_()
    part.tokens(image, found).sum().backward()
    assert found.queries.grad.abs().max() > 0
    assert found.boxes_cxcywh_norm.grad is None
    assert found.phrase_logits.grad is None


@pytest.mark.parametrize("num_levels", [1, 2, 3, 4, 5])
def test_an_image_takes_as_many_tokens_as_the_configuration_counts(num_levels: int) -> None:
    parts = FLAVOURS["shared"]
    for size in (64, 96):
        grounder = {**parts["grounder_config"], "num_levels": num_levels, "image_size": size}
        prompts = {**parts["visual_prompt_config"], "num_levels": num_levels}
        config = whole_config("shared", grounder_config=grounder, visual_prompt_config=prompts)
        with torch.no_grad():
            features = whole_model(config).encode_image(torch.randn(1, 3, size, size))
        assert features.tokens.shape[1] == config.image_sequence_length
