"""The criterion against recorded losses of the original and a plain loop, and what must not change a loss."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_losses import LOSS_NAMES, read_case
from torch import Tensor

from llava_grounding.geometry import box_cxcywh_to_xyxy, generalized_iou
from llava_grounding.model.outputs import GrounderOutput, GrounderPrediction
from llava_grounding.train.batching.targets import GroundingTarget
from llava_grounding.train.losses.matcher import HungarianMatcher, StackedPredictions
from llava_grounding.train.losses.points import sample_maps, sample_masks
from llava_grounding.train.losses.set_criterion import SetCriterion, loss_key, named_predictions
from llava_grounding.train.losses.weights import LossWeights

BATCH, QUERIES, PHRASES, CHANNELS, SIZE_HW = 3, 9, 4, 8, (6, 5)


def random_output(phrases: int = PHRASES, layers: int = 2) -> GrounderOutput:
    """Predictions that are leaves of the graph."""

    def prediction() -> dict[str, Tensor]:
        return {
            "phrase_logits": torch.randn(BATCH, QUERIES, phrases).requires_grad_(),
            "boxes_cxcywh_norm": (torch.rand(BATCH, QUERIES, 4) * 0.4 + 0.2).requires_grad_(),
            "mask_embeds": torch.randn(BATCH, QUERIES, CHANNELS).requires_grad_(),
        }

    return GrounderOutput(
        **prediction(),
        queries=torch.zeros(BATCH, QUERIES, 1),
        mask_features=torch.randn(BATCH, CHANNELS, *SIZE_HW).requires_grad_(),
        topk_indices=torch.zeros(BATCH, QUERIES, dtype=torch.long),
        aux_outputs=tuple(GrounderPrediction(**prediction()) for _ in range(layers)),
        interm=GrounderPrediction(**prediction()),
    )


def random_target(count: int, phrases: int = PHRASES) -> GroundingTarget:
    return GroundingTarget(
        torch.rand(count, 4) * 0.3 + 0.3,
        torch.rand(count, 24, 20) > 0.5,
        torch.ones(count, dtype=torch.bool),
        torch.rand(count, phrases) > 0.5,
    )


def random_targets(*counts: int) -> list[GroundingTarget]:
    return [random_target(count) for count in counts]


def leaves(output: GrounderOutput) -> list[Tensor]:
    predictions = [output, *output.aux_outputs, *([output.interm] if output.interm else [])]
    tensors = [tensor for p in predictions for tensor in (p.phrase_logits, p.boxes_cxcywh_norm, p.mask_embeds)]
    return [*tensors, output.mask_features]


def in_cells(**settings: object) -> SetCriterion:
    """A criterion without random points."""
    return SetCriterion(matcher=HungarianMatcher(num_points=None), num_points=None, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("source", ["recorded points", "recorded points one by one", "seed"])
@pytest.mark.parametrize("case_name", ["flickr", "boxes_only"])
def test_losses_are_those_of_the_original(case_name: str, source: str) -> None:
    case = read_case(case_name)
    num_points = case.settings["num_points"]
    scaled = {name: case.settings["weight_multiplier"] * value for name, value in LossWeights().of_phrases.items()}
    criterion = SetCriterion(HungarianMatcher(num_points=num_points), scaled, num_points)
    by_name: Callable[[str, tuple[int, ...]], Tensor] = lambda name, _: case.points[name]  # noqa: E731
    points = {"recorded points": case.points, "recorded points one by one": by_name, "seed": None}[source]
    generator = torch.Generator().manual_seed(case.settings["manual_seed"])
    found = criterion.unweighted(case.output, case.targets, case.phrase_mask, points, generator)  # type: ignore[arg-type]
    assert found.num_objects == case.settings["num_masks_normaliser"]

    suffixes = {"final": "_0", "interm": "_0_interm", "aux0": "_1", "aux1": "_2", "aux2": "_3"}
    expected = {
        loss_key(ours, prediction): case.tensors[f"loss_unweighted.{theirs}{suffix}"]
        for ours, theirs in LOSS_NAMES.items()
        for prediction, suffix in suffixes.items()
        if f"loss_unweighted.{theirs}{suffix}" in case.tensors
    }
    torch.testing.assert_close(found.losses, expected, rtol=1e-5, atol=1e-6)
    total = criterion.weigh(found.losses)["loss"]
    torch.testing.assert_close(total, case.tensors["loss_total"], rtol=1e-5, atol=1e-6)


def test_weights_multiply_their_own_loss_and_the_total_is_their_sum() -> None:
    torch.manual_seed(0)
    output, targets = random_output(), random_targets(2, 0, 4)
    weights = {"class": 0.1, "mask": 0.2, "dice": 0.3, "box": 0.4, "giou": 0.5}
    criterion = in_cells(weights=weights)
    plain, weighted = criterion.unweighted(output, targets).losses, criterion(output, targets)
    assert set(weighted) == {*plain, "loss"}
    for key, loss in plain.items():
        torch.testing.assert_close(weighted[key], weights[key.split("_")[1]] * loss)
    torch.testing.assert_close(weighted["loss"], sum(value for key, value in weighted.items() if key != "loss"))
    assert "loss_box_aux1" in weighted
    assert "loss_giou_interm" in weighted


def plain_losses(output: GrounderPrediction, features: Tensor, targets: list[GroundingTarget]) -> dict[str, Tensor]:
    """The same losses in a plain loop over images and pairs."""
    pairs = HungarianMatcher(num_points=None)(output, features, targets)
    total = {name: torch.zeros(()) for name in LOSS_NAMES}
    for image, (queries, rows) in enumerate(pairs):
        truth = torch.zeros_like(output.phrase_logits[image])
        for query, row in zip(queries.tolist(), rows.tolist(), strict=True):
            target = targets[image]
            truth[query] = target.phrase_map[row].float()
            logits = (output.mask_embeds[image, query, :, None, None] * features[image]).sum(0)
            assert target.masks is not None
            coverage = F.adaptive_avg_pool2d(target.masks[row].float()[None], SIZE_HW)[0]
            chance = logits.sigmoid()
            total["loss_mask"] = total["loss_mask"] + F.binary_cross_entropy_with_logits(logits, coverage)
            overlap = 2 * (chance * coverage).sum() + 1
            total["loss_dice"] = total["loss_dice"] + 1 - overlap / (chance.sum() + coverage.sum() + 1)
            difference = output.boxes_cxcywh_norm[image, query] - target.boxes_cxcywh_norm[row]
            total["loss_box"] = total["loss_box"] + difference.abs().sum()
            corners = output.boxes_cxcywh_norm[image, query], target.boxes_cxcywh_norm[row]
            giou = generalized_iou(*map(box_cxcywh_to_xyxy, corners))
            total["loss_giou"] = total["loss_giou"] + 1 - giou
        logits = output.phrase_logits[image]
        chance = torch.where(truth > 0, logits.sigmoid(), 1 - logits.sigmoid())
        focal = torch.where(truth > 0, 0.25, 0.75) * (1 - chance) ** 2 * -chance.log()
        total["loss_class"] = total["loss_class"] + 10 * focal.mean(1).sum()
    objects = max(sum(len(target) for target in targets), 1)
    return {name: value / objects for name, value in total.items()}


def test_losses_and_gradients_equal_those_of_a_plain_loop() -> None:
    torch.manual_seed(1)
    output, targets = random_output(layers=1), random_targets(4, 0, 2)
    ours = in_cells().unweighted(output, targets).losses
    gradients = torch.autograd.grad(sum(ours.values()), leaves(output))
    loop = plain_losses(output, output.mask_features, targets)
    for suffix, prediction in (("_aux0", output.aux_outputs[0]), ("_interm", output.interm)):
        assert prediction is not None
        loop |= {
            name + suffix: value for name, value in plain_losses(prediction, output.mask_features, targets).items()
        }
    torch.testing.assert_close(ours, loop)
    torch.testing.assert_close(gradients, torch.autograd.grad(sum(loop.values()), leaves(output)), atol=1e-5, rtol=1e-4)


def test_points_at_all_cell_centres_give_the_losses_of_the_cells() -> None:
    torch.manual_seed(2)
    output, targets = (
        random_output(layers=0),
        [dataclasses.replace(random_target(count), masks=torch.rand(count, *SIZE_HW) > 0.5) for count in (3, 1, 2)],
    )
    y, x = torch.meshgrid((torch.arange(6) + 0.5) / 6, (torch.arange(5) + 0.5) / 5, indexing="ij")
    centres = torch.stack([x, y], dim=-1).view(1, 30, 2)
    matcher = HungarianMatcher(num_points=30)
    at_points = SetCriterion(matcher, num_points=30, oversample_ratio=1.0, importance_ratio=1.0)

    def everywhere(name: str, shape: tuple[int, ...]) -> Tensor:
        return torch.zeros(shape) if name.endswith("tail") else centres

    torch.testing.assert_close(at_points(output, targets, points=everywhere), in_cells()(output, targets))


@pytest.mark.parametrize("num_points", [30, None])
def test_no_objects_no_phrases_and_no_masks_give_finite_losses_and_gradients(num_points: int | None) -> None:
    torch.manual_seed(3)
    criterion = SetCriterion(HungarianMatcher(num_points=num_points), num_points=num_points)
    unmasked = dataclasses.replace(random_target(2), masks=None, has_mask=torch.zeros(2, dtype=torch.bool))
    none = [random_target(0)] * BATCH
    for phrases, targets in [
        (PHRASES, none),
        (PHRASES, [unmasked] * BATCH),
        (PHRASES, [unmasked, random_target(1), random_target(0)]),
        (0, [random_target(count, phrases=0) for count in (0, 2, 30)]),
    ]:
        output = random_output(phrases)
        losses = criterion(output, targets, torch.ones(BATCH, phrases, dtype=torch.bool))
        losses["loss"].backward()
        assert all(loss.isfinite() for loss in losses.values())
        assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in leaves(output))
        assert ("loss_mask" in losses) == any(target.masks is not None and len(target) for target in targets)


def test_masks_of_objects_marked_as_unmasked_change_nothing() -> None:
    torch.manual_seed(4)
    output, targets = random_output(), random_targets(3, 2, 1)
    flags = torch.tensor([True, False, True])
    partly = [dataclasses.replace(targets[0], has_mask=flags), *targets[1:]]
    assert targets[0].masks is not None
    other = dataclasses.replace(partly[0], masks=targets[0].masks ^ ~flags[:, None, None])
    torch.testing.assert_close(in_cells()(output, partly), in_cells()(output, [other, *targets[1:]]))
    unmasked = [dataclasses.replace(target, has_mask=torch.zeros(len(target), dtype=torch.bool)) for target in targets]
    boxes_only = [dataclasses.replace(target, masks=None) for target in unmasked]
    torch.testing.assert_close(in_cells()(output, unmasked), in_cells()(output, boxes_only))
    found = in_cells().unweighted(output, partly)
    whole = in_cells().unweighted(output, targets)
    assert found.losses["loss_mask"] < whole.losses["loss_mask"]
    assert found.num_objects == 6


def test_padding_of_phrases_changes_nothing_when_only_valid_ones_count() -> None:
    torch.manual_seed(5)
    output, targets = random_output(), random_targets(3, 0, 2)
    mask = torch.ones(BATCH, PHRASES, dtype=torch.bool)
    padded = dataclasses.replace(
        output,
        phrase_logits=F.pad(output.phrase_logits, (0, 3), value=-100.0),
        aux_outputs=tuple(
            dataclasses.replace(aux, phrase_logits=F.pad(aux.phrase_logits, (0, 3), value=-100.0))
            for aux in output.aux_outputs
        ),
        interm=None,
    )
    output = dataclasses.replace(output, interm=None)
    padded_mask = F.pad(mask, (0, 3))
    clean = in_cells(phrase_reduction="valid_mean")
    torch.testing.assert_close(clean(padded, targets, padded_mask), clean(output, targets, mask))
    torch.testing.assert_close(clean(output, targets, mask), in_cells()(output, targets, mask))
    diluted, full = in_cells()(padded, targets, padded_mask), in_cells()(output, targets, mask)
    torch.testing.assert_close(diluted["loss_class"], full["loss_class"] * PHRASES / (PHRASES + 3))
    torch.testing.assert_close(diluted["loss_giou"], full["loss_giou"])


def test_phrases_that_do_not_count_change_nothing_whatever_their_logits() -> None:
    torch.manual_seed(13)
    output, targets = dataclasses.replace(random_output(layers=0), interm=None), random_targets(3, 0, 2)
    for target in targets:
        target.phrase_map[:, 2] = False
    mask = torch.tensor([True, True, False, True]).expand(BATCH, -1)
    kept = [0, 1, 3]
    without = dataclasses.replace(output, phrase_logits=output.phrase_logits[..., kept])
    fewer = [dataclasses.replace(target, phrase_map=target.phrase_map[:, kept]) for target in targets]
    clean = in_cells(phrase_reduction="valid_mean")
    torch.testing.assert_close(clean(output, targets, mask), clean(without, fewer, mask[:, kept]))


def test_order_of_objects_and_images_changes_nothing() -> None:
    torch.manual_seed(6)
    output, targets = random_output(), random_targets(4, 1, 3)
    order = torch.tensor([2, 0, 3, 1])
    assert targets[0].masks is not None
    shuffled = GroundingTarget(
        targets[0].boxes_cxcywh_norm[order],
        targets[0].masks[order],
        targets[0].has_mask[order],
        targets[0].phrase_map[order],
    )
    expected = in_cells()(output, targets)
    torch.testing.assert_close(in_cells()(output, [shuffled, *targets[1:]]), expected)

    images = [1, 2, 0]
    turned = [
        GrounderPrediction(*(value[images] for value in (p.phrase_logits, p.boxes_cxcywh_norm, p.mask_embeds)))
        for p in (output, *output.aux_outputs, output.interm)
        if p is not None
    ]
    moved = dataclasses.replace(
        output,
        **vars(turned[0]),
        mask_features=output.mask_features[images],
        aux_outputs=tuple(turned[1:-1]),
        interm=turned[-1],
    )
    torch.testing.assert_close(in_cells()(moved, [targets[image] for image in images]), expected)


def test_only_matched_queries_get_a_mask_gradient() -> None:
    torch.manual_seed(7)
    output, targets = random_output(layers=0), random_targets(2, 0, 5)
    result = in_cells().unweighted(output, targets)
    (result.losses["loss_mask"] + result.losses["loss_dice"]).backward()
    assert output.mask_embeds.grad is not None
    touched = output.mask_embeds.grad.abs().sum(2) > 0
    expected = torch.zeros(BATCH, QUERIES, dtype=torch.bool)
    expected[result.pairs.image_index, result.pairs.queries[0]] = True
    assert torch.equal(touched, expected)


def test_what_matches_nothing_is_no_negative_of_a_class_that_may_have_unlabelled_things() -> None:
    torch.manual_seed(10)
    output, targets = random_output(layers=0), random_targets(2, 0, 5)
    partly = torch.zeros(BATCH, PHRASES, dtype=torch.bool)
    partly[:, 1] = True
    result = in_cells().unweighted(output, targets, partly_labelled=partly)
    result.losses["loss_class"].backward()
    assert output.phrase_logits.grad is not None
    judged = output.phrase_logits.grad != 0
    matched = torch.zeros(BATCH, QUERIES, dtype=torch.bool)
    matched[result.pairs.image_index, result.pairs.queries[0]] = True
    assert torch.equal(judged[..., 1], matched)
    assert judged[..., 0].all()


def test_one_image_memory_may_be_shared_by_the_whole_batch() -> None:
    torch.manual_seed(8)
    output = random_output()
    shared = StackedPredictions.of(named_predictions(output), output.mask_features[:1])
    torch.testing.assert_close(shared.mask_features, output.mask_features[:1].repeat(BATCH, 1, 1, 1))


def test_half_precision_predictions_under_autocast_are_judged_in_single() -> None:
    torch.manual_seed(9)
    output, targets = random_output(layers=0), random_targets(2, 1, 3)
    halves = {name: getattr(output, name).bfloat16() for name in ("phrase_logits", "mask_embeds", "mask_features")}
    singles = dataclasses.replace(output, interm=None, **{name: value.float() for name, value in halves.items()})
    expected = in_cells()(singles, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = in_cells()(dataclasses.replace(output, interm=None, **halves), targets)
    torch.testing.assert_close(found, expected)
    assert found["loss"].dtype == torch.float32


def test_degenerate_boxes_give_finite_gradients() -> None:
    torch.manual_seed(10)
    output, targets = random_output(layers=0), random_targets(2, 1, 0)
    targets[0].boxes_cxcywh_norm[:, 2:] = 0.0
    with torch.no_grad():
        output.boxes_cxcywh_norm[0, 0] = targets[0].boxes_cxcywh_norm[0]
        output.boxes_cxcywh_norm[0, 1, 2:] = 0.0
    in_cells()(output, targets)["loss"].backward()
    assert output.boxes_cxcywh_norm.grad is not None
    assert output.boxes_cxcywh_norm.grad.isfinite().all()


def test_the_same_generator_gives_the_same_losses_and_another_does_not() -> None:
    torch.manual_seed(12)
    output, targets = random_output(), random_targets(2, 1, 3)
    criterion = SetCriterion(HungarianMatcher(num_points=16), num_points=16)
    first, again, other = (
        criterion(output, targets, generator=torch.Generator().manual_seed(seed))["loss"] for seed in (1, 1, 2)
    )
    assert first == again
    assert not math.isclose(first.item(), other.item(), rel_tol=1e-5)


@settings(deadline=None)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    points=st.lists(st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)), min_size=1, max_size=8),
    seed=st.integers(0, 100),
)
def test_byte_masks_are_sampled_as_grid_sample_does(height: int, width: int, points: list, seed: int) -> None:
    masks = torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)) > 0.5
    rows, places = torch.tensor([2, 0]), torch.tensor(points).expand(2, -1, -1)
    expected = sample_maps(masks[rows].float().unsqueeze(1), places).squeeze(1)
    torch.testing.assert_close(sample_masks(masks.to(torch.uint8), rows, places), expected, atol=1e-5, rtol=0)
