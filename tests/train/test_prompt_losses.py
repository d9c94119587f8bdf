"""Losses of visual prompts: what each is, what they are summed over, and what must not change them.

Equality with the original, layer by layer, is in tests/golden (group E).
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from llava_grounding.errors import ShapeError
from llava_grounding.geometry import box_cxcywh_to_xyxy, generalized_iou
from llava_grounding.model.outputs import VisualPromptOutput, VisualPromptPrediction, mask_logits_from
from llava_grounding.train.batching.targets import GroundingTarget
from llava_grounding.train.losses.prompt_losses import PROMPT_LOSS_NAMES, PromptCriterion

TOKENS, CHANNELS, SIZE_HW = 3, 4, (6, 5)
IN_CELLS = PromptCriterion(num_points=None)


def random_output(images: int, prompts: int, layers: int = 1) -> VisualPromptOutput:
    """Predictions that are leaves of the graph."""

    def prediction() -> dict[str, Tensor]:
        return {
            "boxes_cxcywh_norm": (torch.rand(images, prompts, TOKENS, 4) * 0.4 + 0.2).requires_grad_(),
            "mask_embeds": torch.randn(images, prompts, TOKENS, CHANNELS).requires_grad_(),
            "ious": torch.rand(images, prompts, TOKENS).requires_grad_(),
        }

    return VisualPromptOutput(
        **prediction(),
        region_embeds=torch.zeros(images, prompts, 1),
        queries=torch.zeros(images, prompts, TOKENS, 1),
        mask_features=torch.randn(images, CHANNELS, *SIZE_HW).requires_grad_(),
        aux_outputs=tuple(VisualPromptPrediction(**prediction()) for _ in range(layers)),
    )


def random_target(count: int, has_mask: bool = True) -> GroundingTarget:
    return GroundingTarget(
        torch.rand(count, 4) * 0.3 + 0.3,
        torch.rand(count, 12, 10) > 0.5 if has_mask else None,
        torch.full((count,), has_mask),
        torch.zeros(count, 0, dtype=torch.bool),
    )


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(3)


@torch.no_grad()
def test_every_loss_is_the_mean_over_objects_of_what_it_says() -> None:
    output, targets = random_output(2, 3), [random_target(3), random_target(1)]
    losses = IN_CELLS.unweighted(output, targets)
    logits = mask_logits_from(output.mask_embeds[:, :, 0], output.mask_features)
    sums = dict.fromkeys(PROMPT_LOSS_NAMES, 0.0)
    for image, target in enumerate(targets):
        assert target.masks is not None
        truth = torch.nn.functional.adaptive_avg_pool2d(target.masks.float(), SIZE_HW)
        for row in range(len(target)):
            box, chance, part = output.boxes_cxcywh_norm[image, row, 0], logits[image, row].sigmoid(), truth[row]
            corners = [box_cxcywh_to_xyxy(b[None]) for b in (box, target.boxes_cxcywh_norm[row])]
            dice = 1 - (2 * (chance * part).sum() + 1) / (chance.sum() + part.sum() + 1)
            entropy = -(part * chance.log() + (1 - part) * (1 - chance).log()).mean()
            sums["loss_mask"] += float(entropy)
            sums["loss_dice"] += float(dice)
            sums["loss_box"] += float((box - target.boxes_cxcywh_norm[row]).abs().sum())
            sums["loss_giou"] += 1 - float(generalized_iou(*corners))
            sums["loss_score"] += float((output.ious[image, row, 0] - (1 - dice)) ** 2)
    assert losses.keys() == {f"{name}{suffix}" for name in PROMPT_LOSS_NAMES for suffix in ("", "_aux0")}
    for name, total in sums.items():
        assert losses[name].item() == pytest.approx(total / 4, rel=1e-4), name


@torch.no_grad()
def test_the_score_may_learn_the_iou_of_the_whole_mask() -> None:
    output, target = random_output(1, 1), random_target(1)
    assert target.masks is not None
    truth = torch.nn.functional.adaptive_avg_pool2d(target.masks.float(), SIZE_HW)[0] >= 0.5
    ours = mask_logits_from(output.mask_embeds[:, :, 0], output.mask_features)[0, 0] > 0
    iou = (ours & truth).sum() / (ours | truth).sum()
    losses = replace(IN_CELLS, score_target="iou").unweighted(output, [target])
    assert losses["loss_score"].item() == pytest.approx(float((output.ious[0, 0, 0] - iou) ** 2), rel=1e-5)


def test_a_batch_loses_the_mean_of_its_images_weighted_by_objects() -> None:
    output, targets = random_output(2, 3), [random_target(3), random_target(2)]
    both = IN_CELLS.unweighted(output, targets)
    for name, value in both.items():
        alone = [
            IN_CELLS.unweighted(rows(output, image), [target])[name].item() for image, target in enumerate(targets)
        ]
        assert value.item() == pytest.approx((3 * alone[0] + 2 * alone[1]) / 5, rel=1e-5)


def rows(output: VisualPromptOutput, image: int) -> VisualPromptOutput:
    """One image of a batch."""

    def of(prediction: VisualPromptPrediction) -> dict[str, Tensor]:
        names = ("boxes_cxcywh_norm", "mask_embeds", "ious")
        return {name: getattr(prediction, name)[image : image + 1] for name in names}

    aux = tuple(VisualPromptPrediction(**of(layer)) for layer in output.aux_outputs)
    others = {name: getattr(output, name)[image : image + 1] for name in ("region_embeds", "queries", "mask_features")}
    return VisualPromptOutput(**of(output), **others, aux_outputs=aux)


def test_padded_prompts_and_other_tokens_lose_nothing() -> None:
    output = random_output(2, 3)
    IN_CELLS(output, [random_target(3), random_target(1)])["loss"].backward()
    for value in (output.boxes_cxcywh_norm, output.mask_embeds, output.ious):
        assert value.grad is not None
        learnt = value.grad.flatten(3).abs().sum(3) > 0 if value.ndim == 4 else value.grad.abs() > 0
        assert learnt[:, :, 0].tolist() == [[True, True, True], [True, False, False]]
        assert not learnt[:, :, 1:].any()


@pytest.mark.parametrize("num_points", [None, 40])
def test_objects_without_masks_lose_boxes_alone_and_every_part_has_a_gradient(num_points: int | None) -> None:
    output = random_output(2, 2)
    losses = PromptCriterion(num_points=num_points)(output, [random_target(2, False), random_target(1, False)])
    assert {name for name in losses if "aux" not in name} == {"loss_box", "loss_giou", "loss"}
    losses["loss"].backward()
    assert output.mask_features.grad is not None
    assert not output.mask_features.grad.any()
    masked = random_target(1)
    mixed = IN_CELLS.unweighted(output, [random_target(2, False), masked])
    alone = IN_CELLS.unweighted(rows(output, 1), [masked])
    assert mixed["loss_mask"].item() == pytest.approx(alone["loss_mask"].item() / 3)


def test_no_object_at_all_loses_nothing() -> None:
    output = random_output(1, 2)
    losses = PromptCriterion(num_points=20)(output, [random_target(0, False)])
    assert losses["loss"].item() == 0
    losses["loss"].backward()


def test_weights_multiply_and_the_total_sums_all_layers() -> None:
    output, target = random_output(1, 2, layers=2), [random_target(2)]
    plain = IN_CELLS.unweighted(output, target)
    weights = {"mask": 5.0, "dice": 4.0, "box": 3.0, "giou": 2.0, "score": 0.5}
    weighted = replace(IN_CELLS, weights=weights)(output, target)
    for key, value in plain.items():
        assert weighted[key].item() == pytest.approx(weights[key.split("_")[1]] * value.item())
    assert weighted.pop("loss").item() == pytest.approx(sum(value.item() for value in weighted.values()))


def test_points_come_from_a_seed_or_from_the_caller() -> None:
    output, target = random_output(1, 2), [random_target(2)]
    criterion = PromptCriterion(num_points=20)
    asked = {}

    def points(name: str, shape: tuple[int, ...]) -> Tensor:
        asked[name] = torch.rand(shape, generator=torch.Generator().manual_seed(len(asked)))
        return asked[name]

    first = criterion.unweighted(output, target, points)
    assert asked.keys() == {
        f"{layer}.mask_loss.{part}" for layer in ("final", "aux0") for part in ("oversampled", "random_tail")
    }
    assert {tuple(value.shape) for value in asked.values()} == {(2, 60, 2), (2, 5, 2)}
    again = criterion.unweighted(output, target, asked)
    assert all(torch.equal(again[name], value) for name, value in first.items())
    seeded = [
        criterion.unweighted(output, target, generator=torch.Generator().manual_seed(5))["loss_mask"] for _ in range(2)
    ]
    assert torch.equal(*seeded)
    assert not torch.equal(seeded[0], first["loss_mask"])


def test_an_object_without_a_prompt_is_an_error() -> None:
    with pytest.raises(ShapeError, match="expected 1 targets of at most 2 objects, got 1 of up to 3"):
        IN_CELLS(random_output(1, 2), [random_target(3)])
    with pytest.raises(ShapeError, match="expected 2 targets"):
        IN_CELLS(random_output(2, 2), [random_target(1)])
