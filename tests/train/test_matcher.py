"""The matcher against recorded costs and assignments of the original, and what must not change a match."""

import dataclasses
from typing import Any

import pytest
import torch
from recorded_losses import read_case
from torch import Tensor

from llava_grounding.errors import ShapeError
from llava_grounding.model.outputs import GrounderPrediction
from llava_grounding.train.batching.targets import GroundingTarget
from llava_grounding.train.losses.matcher import HungarianMatcher
from llava_grounding.train.losses.weights import MatchingCosts


def random_prediction(batch: int = 3, queries: int = 12, phrases: int = 4) -> tuple[GrounderPrediction, Tensor]:
    boxes = torch.rand(batch, queries, 4) * 0.4 + 0.2
    prediction = GrounderPrediction(torch.randn(batch, queries, phrases), boxes, torch.randn(batch, queries, 8))
    return prediction, torch.randn(batch, 8, 6, 5)


def cost_matrices(matcher: HungarianMatcher, *arguments: Any) -> list[Tensor]:
    """Costs [Q, n] of each image for one prediction."""
    stacked, batch, drawn = matcher._prepare(*arguments, *[None] * (4 - len(arguments)))
    costs = matcher.costs(stacked, batch, drawn)[0]
    return [cost[:, :count] for cost, count in zip(costs, batch.counts, strict=True)]


def random_target(count: int, phrases: int = 4, size_hw: tuple[int, int] = (24, 20)) -> GroundingTarget:
    return GroundingTarget(
        torch.rand(count, 4) * 0.3 + 0.3,
        torch.rand(count, *size_hw) > 0.5,
        torch.ones(count, dtype=torch.bool),
        torch.rand(count, phrases) > 0.5,
    )


@pytest.mark.parametrize("case_name", ["flickr", "boxes_only"])
def test_costs_and_assignments_are_those_of_the_original(case_name: str) -> None:
    case = read_case(case_name)
    matcher = HungarianMatcher(num_points=case.settings["num_points"])
    for name, prediction in case.predictions.items():
        arguments = prediction, case.output.mask_features, case.targets, case.points_of(name)
        for image, cost in enumerate(cost_matrices(matcher, *arguments)):
            torch.testing.assert_close(cost, case.tensors[f"match.{name}.{image}.cost"], atol=1e-3, rtol=1e-4)
        for image, (queries, targets) in enumerate(matcher(*arguments)):
            assert torch.equal(queries, case.tensors[f"match.{name}.{image}.query"])
            assert torch.equal(targets, case.tensors[f"match.{name}.{image}.target"])


@pytest.mark.parametrize("num_points", [40, None])
def test_a_batch_is_matched_as_its_images_one_by_one(num_points: int | None) -> None:
    torch.manual_seed(0)
    prediction, features = random_prediction()
    targets = [random_target(5), random_target(0), random_target(2)]
    points = {f"final.matcher.{image}": torch.rand(1, 40, 2) for image in range(3)}
    matcher = HungarianMatcher(num_points=num_points)
    together = cost_matrices(matcher, prediction, features, targets, points)
    for image in range(3):
        alone = GrounderPrediction(*(value[image : image + 1] for value in vars(prediction).values()))
        own_points = {"final.matcher.0": points[f"final.matcher.{image}"]}
        [cost] = cost_matrices(matcher, alone, features[image : image + 1], targets[image : image + 1], own_points)
        torch.testing.assert_close(together[image], cost)


def test_comparing_cells_equals_comparing_points_at_the_cell_centres() -> None:
    torch.manual_seed(1)
    prediction, features = random_prediction(batch=1)
    targets = [random_target(3, size_hw=(6, 5))]
    y, x = torch.meshgrid((torch.arange(6) + 0.5) / 6, (torch.arange(5) + 0.5) / 5, indexing="ij")
    centres = {"final.matcher.0": torch.stack([x, y], dim=-1).view(1, 30, 2)}
    [at_points] = cost_matrices(HungarianMatcher(num_points=30), prediction, features, targets, centres)
    [in_cells] = cost_matrices(HungarianMatcher(num_points=None), prediction, features, targets)
    torch.testing.assert_close(at_points, in_cells)


def test_coarse_cells_compare_the_mean_mask() -> None:
    torch.manual_seed(2)
    prediction, features = random_prediction(batch=1)
    features = features[..., :4]
    coarse = torch.nn.functional.avg_pool2d(features, 2)
    targets = [random_target(3)]
    [expected] = cost_matrices(HungarianMatcher(num_points=None), prediction, coarse, targets)
    [cost] = cost_matrices(HungarianMatcher(num_points=None, max_cells=3), prediction, features, targets)
    torch.testing.assert_close(cost, expected)


def test_a_perfect_query_is_matched_by_each_single_cost() -> None:
    torch.manual_seed(3)
    prediction, features = random_prediction(batch=1, queries=6)
    target = random_target(1, size_hw=(6, 5))
    target.phrase_map[:] = torch.tensor([True, False, False, False])
    nothing = MatchingCosts(focal=0.0, mask=0.0, dice=0.0, box=0.0, giou=0.0)
    prediction.phrase_logits[0, 1, 0] = 50.0
    assert target.masks is not None
    features[0, 0] = target.masks[0] * 40.0 - 20.0
    prediction.mask_embeds[0, 2] = torch.eye(8)[0]
    prediction.boxes_cxcywh_norm[0, 4] = target.boxes_cxcywh_norm[0]
    found = {"focal": 1, "mask": 2, "dice": 2, "box": 4, "giou": 4}
    for cost, expected in found.items():
        matcher = HungarianMatcher(dataclasses.replace(nothing, **{cost: 1.0}), num_points=None)
        [(queries, _)] = matcher(prediction, features, [target])
        assert queries.tolist() == [expected], cost


def test_no_objects_and_more_objects_than_queries() -> None:
    torch.manual_seed(4)
    prediction, features = random_prediction(batch=2, queries=3)
    matcher = HungarianMatcher(num_points=20)
    (none, _), (queries, targets) = matcher(prediction, features, [random_target(0), random_target(7)])
    assert len(none) == 0
    assert queries.tolist() == [0, 1, 2]
    assert len(set(targets.tolist())) == 3
    assert [len(pair[0]) for pair in matcher(prediction, features, [random_target(0), random_target(0)])] == [0, 0]


@pytest.mark.parametrize("num_points", [20, None])
def test_objects_without_a_mask_cost_nothing_by_mask(num_points: int | None) -> None:
    torch.manual_seed(5)
    prediction, features = random_prediction(batch=1)
    target, points = random_target(3), {"final.matcher.0": torch.rand(1, 20, 2)}
    partly = dataclasses.replace(target, has_mask=torch.tensor([True, False, True]))
    unmasked = dataclasses.replace(target, masks=None, has_mask=torch.zeros(3, dtype=torch.bool))
    matcher = HungarianMatcher(num_points=num_points)
    [with_masks], [mixed], [without] = (
        cost_matrices(matcher, prediction, features, [each], points) for each in (target, partly, unmasked)
    )
    torch.testing.assert_close(mixed[:, [0, 2]], with_masks[:, [0, 2]])
    torch.testing.assert_close(mixed[:, 1], without[:, 1])


def test_objects_without_phrases_cost_nothing_by_class() -> None:
    torch.manual_seed(6)
    prediction, features = random_prediction(batch=1)
    target = random_target(2)
    target.phrase_map[1] = False
    matcher = HungarianMatcher(MatchingCosts(mask=0.0, dice=0.0, box=0.0, giou=0.0))
    [cost] = cost_matrices(matcher, prediction, features, [target])
    assert cost[:, 0].abs().min() > 0
    assert not cost[:, 1].any()


def test_zero_phrases_and_degenerate_boxes_give_finite_costs() -> None:
    torch.manual_seed(7)
    prediction, features = random_prediction(batch=1, phrases=0)
    target = random_target(3, phrases=0)
    target.boxes_cxcywh_norm[0, 2:] = 0.0
    target.boxes_cxcywh_norm[1, 2] = 0.0
    prediction.boxes_cxcywh_norm[0, 0] = target.boxes_cxcywh_norm[0]
    [cost] = cost_matrices(HungarianMatcher(num_points=None), prediction, features, [target])
    assert cost.isfinite().all()


def test_a_diverged_prediction_is_still_matched() -> None:
    prediction, features = random_prediction(batch=1)
    prediction.boxes_cxcywh_norm[0, 3] = torch.nan
    [(queries, _)] = HungarianMatcher(num_points=None)(prediction, features, [random_target(2)])
    assert 3 not in queries.tolist()


def test_targets_that_disagree_are_refused_with_names_and_shapes() -> None:
    boxes, flags = torch.rand(2, 4), torch.ones(2, dtype=torch.bool)
    with pytest.raises(ShapeError, match=r"masks must have 3 dimensions and n = 2 rows .* got \(3, 8, 8\)"):
        GroundingTarget(boxes, torch.zeros(3, 8, 8), flags, torch.zeros(2, 1))
    with pytest.raises(ShapeError, match="has_mask says that some objects have a mask, but masks is None"):
        GroundingTarget(boxes, None, flags, torch.zeros(2, 1))
    prediction, features = random_prediction(batch=1, phrases=1)
    with pytest.raises(ShapeError, match="phrase_map speaks of 4 phrases, but the prediction has only 1"):
        HungarianMatcher()(prediction, features, [random_target(1, phrases=4)])
    prediction, features = random_prediction(batch=2)
    with pytest.raises(ShapeError, match="must share one canvas size"):
        HungarianMatcher()(prediction, features, [random_target(1), random_target(1, size_hw=(8, 8))])
