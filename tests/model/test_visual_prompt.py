"""The visual prompt encoder: recorded numbers, prompts that must not see each other, and regions drawn by hand."""

import pytest
import torch
from torch import Tensor
from vision_parts import (
    FEATURES,
    HIDDEN,
    LOGITS,
    PHRASE,
    golden,
    golden_pixels,
    golden_prompt_encoder,
    random_memory,
    small_prompt_encoder,
)

from llava_grounding.errors import ConfigError, ShapeError
from llava_grounding.model.outputs import ImageMemory, VisualPromptOutput, mask_logits_from
from llava_grounding.model.visual_prompt import VisualPromptEncoder, area_resize_matrix, pool_by_coverage

CLOSE = {"atol": 1e-5, "rtol": 1e-4}


def random_prompts(batch: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    boxes = torch.rand(batch, count, 4, generator=generator) * 0.4 + 0.3
    types = torch.randint(0, 2, (batch, count), generator=generator)
    return boxes, types, torch.ones(batch, count, dtype=torch.bool)


@pytest.fixture(scope="module")
def encoder() -> VisualPromptEncoder:
    return small_prompt_encoder()


@pytest.fixture(scope="module")
def memory() -> ImageMemory:
    return random_memory(2)


@torch.no_grad()
def test_several_prompts_at_once_give_the_recorded_numbers() -> None:
    case, encoder = golden("B_visual_prompt", "image0_multi.safetensors"), golden_prompt_encoder()
    recorded = golden("B_visual_prompt", "image0.safetensors")
    memory = encoder.encode_image(golden_pixels("B_visual_prompt", "image0.safetensors"))
    torch.testing.assert_close(memory.mask_features, recorded["pixel_decoder.mask_features"], **FEATURES)
    boxes, types = case["points_rescaled_to_padded"][None], case["in.prompt_type"].long()[None]
    content = encoder.prompt_content(memory, types).flatten(1, 2)
    torch.testing.assert_close(content, case["query.content"], atol=1e-5, rtol=1e-5)
    output = encoder.encode_prompts(
        memory, boxes, types, torch.ones(1, 3, dtype=torch.bool), isolate=False, with_aux=True
    )
    torch.testing.assert_close(output.region_embeds[0], case["out.llm_features"], **FEATURES)
    torch.testing.assert_close(output.queries.flatten(1, 2), case["pred.obj_features"], **FEATURES)
    torch.testing.assert_close(output.boxes_cxcywh_norm.flatten(1, 2), case["pred.boxes"], **FEATURES)
    torch.testing.assert_close(output.ious, case["pred.ious"], **FEATURES)
    all_mask_logits = mask_logits_from(output.mask_embeds.flatten(1, 2), output.mask_features)
    torch.testing.assert_close(all_mask_logits, case["pred.masks"], **LOGITS)
    first = all_mask_logits.unflatten(1, output.mask_embeds.shape[1:3])[:, :, 0]
    torch.testing.assert_close(output.mask_logits, first, **CLOSE)
    for index, aux in enumerate(output.aux_outputs):
        torch.testing.assert_close(aux.boxes_cxcywh_norm.flatten(1, 2), case[f"pred_aux.{index}.boxes"], **FEATURES)
        torch.testing.assert_close(aux.ious, case[f"pred_aux.{index}.ious"], **FEATURES)


def assert_rows_equal(together: VisualPromptOutput, batch: int, prompt: int, alone: VisualPromptOutput) -> None:
    for name in ("region_embeds", "boxes_cxcywh_norm", "ious", "mask_embeds"):
        torch.testing.assert_close(getattr(together, name)[batch, prompt], getattr(alone, name)[0, 0], **CLOSE)


@torch.no_grad()
def test_isolated_prompts_are_encoded_as_if_alone(encoder: VisualPromptEncoder, memory: ImageMemory) -> None:
    boxes, types, mask = random_prompts(2, 3)
    together = encoder.encode_prompts(memory, boxes, types, mask)
    for batch in range(2):
        image = memory.index(torch.tensor([batch]))
        for prompt in range(3):
            rows = slice(batch, batch + 1), slice(prompt, prompt + 1)
            for isolate in (True, False):
                alone = encoder.encode_prompts(image, boxes[rows], types[rows], mask[rows], isolate=isolate)
                assert_rows_equal(together, batch, prompt, alone)
    mixed = encoder.encode_prompts(memory, boxes, types, mask, isolate=False)
    assert not torch.allclose(mixed.region_embeds, together.region_embeds, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("isolate", [True, False])
def test_padded_prompts_influence_nothing_and_give_zeros(
    encoder: VisualPromptEncoder, memory: ImageMemory, isolate: bool
) -> None:
    boxes, types, mask = random_prompts(2, 3)
    mask[0, 2] = False
    mask[1] = False
    padded = encoder.encode_prompts(memory, boxes, types, mask, isolate=isolate)
    image = memory.index(torch.tensor([0]))
    alone = encoder.encode_prompts(image, boxes[:1, :2], types[:1, :2], mask[:1, :2], isolate=isolate)
    torch.testing.assert_close(padded.region_embeds[:1, :2], alone.region_embeds, **CLOSE)
    assert not padded.region_embeds[~mask].any()
    assert padded.region_embeds.isfinite().all()


@torch.no_grad()
def test_the_order_of_prompts_only_orders_the_embeddings(encoder: VisualPromptEncoder, memory: ImageMemory) -> None:
    boxes, types, mask = random_prompts(2, 3)
    order = torch.tensor([2, 0, 1])
    for isolate in (True, False):
        straight = encoder.encode_prompts(memory, boxes, types, mask, isolate=isolate)
        shuffled = encoder.encode_prompts(memory, boxes[:, order], types[:, order], mask, isolate=isolate)
        torch.testing.assert_close(shuffled.region_embeds, straight.region_embeds[:, order], **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("isolate", [True, False])
def test_no_prompts_give_no_embeddings(encoder: VisualPromptEncoder, memory: ImageMemory, isolate: bool) -> None:
    output = encoder.encode_prompts(memory, *random_prompts(2, 0), isolate=isolate, with_aux=True)
    assert output.region_embeds.shape == (2, 0, PHRASE)
    assert output.mask_logits.shape == (2, 0, 16, 24)


@torch.no_grad()
def test_one_memory_serves_several_rows_of_prompts(encoder: VisualPromptEncoder) -> None:
    memory, prompts, regions = random_memory(1), random_prompts(3, 2), torch.rand(3, 2, 5, 7)
    shared = encoder.encode_prompts(memory, *prompts, region_coverage=regions)
    repeated = encoder.encode_prompts(memory.repeat(3), *prompts, region_coverage=regions)
    torch.testing.assert_close(shared.region_embeds, repeated.region_embeds, **CLOSE)


@torch.no_grad()
def test_click_and_box_at_one_place_differ(encoder: VisualPromptEncoder, memory: ImageMemory) -> None:
    boxes, _, mask = random_prompts(2, 1)
    click, box = (encoder.encode_prompts(memory, boxes, torch.full((2, 1), kind), mask) for kind in (0, 1))
    assert not torch.allclose(click.region_embeds, box.region_embeds, atol=1e-3)


@torch.no_grad()
def test_a_drawn_region_counts_once_its_projection_has_learnt(memory: ImageMemory) -> None:
    encoder, (boxes, types, mask) = small_prompt_encoder(), random_prompts(2, 2)
    regions = torch.zeros(2, 2, 16, 24)
    regions[:, 0, 2:5, 3:9] = 1.0  # the second prompt is a click or a box: nothing drawn
    plain = encoder.encode_prompts(memory, boxes, types, mask).region_embeds
    fresh = encoder.encode_prompts(memory, boxes, types, mask, region_coverage=regions).region_embeds
    assert torch.equal(fresh, plain)
    torch.nn.init.normal_(encoder.coverage_projection.weight)
    learnt = encoder.encode_prompts(memory, boxes, types, mask, region_coverage=regions).region_embeds
    assert not torch.allclose(learnt[:, 0], plain[:, 0], atol=1e-2)
    torch.testing.assert_close(learnt[:, 1], plain[:, 1], **CLOSE)
    elsewhere = encoder.encode_prompts(memory, boxes, types, mask, region_coverage=regions.flip(-1)).region_embeds
    assert not torch.allclose(elsewhere[:, 0], learnt[:, 0], atol=1e-2)  # two scribbles with the same bounds differ


def test_a_region_is_the_mean_of_the_cells_it_covers_on_every_level() -> None:
    cells = torch.arange(1.0, 6.0).view(1, 5, 1)
    memory = ImageMemory(cells, ((1, 1), (2, 2)), torch.zeros(1, 1, 4, 4))
    regions = torch.zeros(1, 3, 4, 4)
    regions[0, 0, :2, :] = 1.0  # upper half
    regions[0, 1, 3, 3] = 0.1  # a dot in the last cell, however thin
    pooled = pool_by_coverage(memory, regions)[0, :, 0]
    torch.testing.assert_close(pooled, torch.tensor([(1 + 2.5) / 2, (1 + 5) / 2, 0.0]))


def test_area_resizing_averages_and_keeps_thin_lines() -> None:
    device = torch.device("cpu")
    torch.testing.assert_close(
        area_resize_matrix(4, 2, device) @ torch.tensor([1.0, 3, 5, 7]), torch.tensor([2.0, 6.0])
    )
    torch.testing.assert_close(area_resize_matrix(2, 4, device) @ torch.tensor([1.0, 3]), torch.tensor([1.0, 1, 3, 3]))
    torch.testing.assert_close(area_resize_matrix(7, 3, device).sum(1), torch.ones(3))
    torch.testing.assert_close(area_resize_matrix(7, 3, device).sum(0), torch.full((7,), 3 / 7))


def test_every_weight_that_is_used_learns(memory: ImageMemory) -> None:
    encoder = small_prompt_encoder().train()
    output = encoder.encode_prompts(memory, *random_prompts(2, 2), region_coverage=torch.rand(2, 2, 8, 8))
    assert len(output.aux_outputs) == 1
    losses = [output.region_embeds, output.boxes_cxcywh_norm, output.ious, output.mask_logits]
    sum(value.square().mean() for value in losses).backward()  # type: ignore[union-attr]
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []
    assert encoder.coverage_projection.weight.grad.any()  # type: ignore[union-attr]


def test_wrong_uses_are_named(encoder: VisualPromptEncoder, memory: ImageMemory) -> None:
    with pytest.raises(ConfigError, match="no backbone: give it the grounder's image memory"):
        encoder.encode_image(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ConfigError, match="both backbone and pixel_decoder"):
        VisualPromptEncoder(backbone=torch.nn.Identity(), hidden_size=HIDDEN)
    with pytest.raises(ShapeError, match="memory of 2 images does not fit prompts of 3 images"):
        encoder.encode_prompts(memory, *random_prompts(3, 1))
