"""Class names as a task: what each cell shows and what each query is called, worked out by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llava_grounding.model.outputs import GrounderOutput, GrounderPrediction, ImageMemory
from llava_grounding.train.batching.targets import GroundingTarget, TargetBatch
from llava_grounding.train.losses.class_losses import ClassPhrases, cell_labels, cell_loss, naming_loss
from llava_grounding.train.losses.matcher import HungarianMatcher
from llava_grounding.train.losses.set_criterion import SetCriterion

NAMELESS, CAT, DOG, TREE = 0, 1, 2, 3
IGNORED = -100
EVERYTHING, SOME = torch.ones(1, 4, dtype=torch.bool), torch.tensor([[False, True, True, False]])


def target(things: list[tuple[int, tuple[int, int, int, int]]], has_mask: bool = True) -> GroundingTarget:
    """Things of a class, 0 for none, in rectangles x0, y0, x1, y1 of an 8 x 8 canvas."""
    masks, names = torch.zeros(len(things), 8, 8, dtype=torch.bool), torch.zeros(len(things), 4, dtype=torch.bool)
    boxes = torch.zeros(len(things), 4)
    for row, (column, (x0, y0, x1, y1)) in enumerate(things):
        masks[row, y0:y1, x0:x1] = True
        names[row, [0, column]] = True
        boxes[row] = torch.tensor([x0 + x1, y0 + y1, 2 * (x1 - x0), 2 * (y1 - y0)]) / 16
    known = torch.full((len(things),), has_mask)
    return GroundingTarget(boxes, masks if has_mask else None, known, names)


def join(*targets: GroundingTarget) -> TargetBatch:
    return TargetBatch.join(targets, 4, torch.device("cpu"))


class TestCellLabels:
    """Four cells: upper left, upper right, lower left, lower right."""

    def labels(self, one: GroundingTarget, mask: Tensor = EVERYTHING) -> list[int]:
        return cell_labels(join(one), mask, (2, 2))[0].tolist()

    def test_a_covered_cell_shows_its_thing_and_an_empty_one_nothing(self) -> None:
        assert self.labels(target([(DOG, (0, 0, 4, 4))])) == [DOG, 0, 0, 0]

    def test_half_is_enough_and_less_does_not_count(self) -> None:
        assert self.labels(target([(DOG, (0, 0, 2, 4)), (CAT, (4, 0, 5, 4))])) == [DOG, IGNORED, 0, 0]

    def test_of_two_things_the_larger_part_wins(self) -> None:
        assert self.labels(target([(CAT, (0, 0, 4, 2)), (TREE, (0, 0, 4, 3))]))[0] == TREE

    def test_outside_of_things_nothing_is_known_where_labels_have_gaps(self) -> None:
        assert self.labels(target([(DOG, (0, 0, 4, 4))]), SOME) == [DOG, IGNORED, IGNORED, IGNORED]

    def test_of_a_thing_without_a_mask_the_middle_of_its_box_counts_and_nothing_beside_it(self) -> None:
        batch = TargetBatch.join([target([(DOG, (0, 0, 2, 2)), (CAT, (2, 2, 8, 8))])], 4, torch.device("cpu"))
        batch.has_mask[1] = 0
        labels = cell_labels(batch, EVERYTHING, (4, 4))[0].view(4, 4).tolist()
        assert labels == [
            [DOG, 0, 0, 0],
            [0, IGNORED, IGNORED, IGNORED],
            [0, IGNORED, CAT, IGNORED],
            [0, IGNORED, IGNORED, IGNORED],
        ]

    def test_a_box_smaller_than_a_cell_still_shows_in_one(self) -> None:
        batch = join(target([(CAT, (4, 4, 5, 5))], False))
        assert cell_labels(batch, EVERYTHING, (4, 4))[0].view(4, 4)[2, 2] == CAT

    def test_of_two_boxes_the_smaller_is_in_front(self) -> None:
        for order in (slice(None), slice(None, None, -1)):
            things = [(DOG, (0, 0, 8, 8)), (CAT, (2, 2, 6, 6))][order]
            assert cell_labels(join(target(things, False)), EVERYTHING, (4, 4))[0].view(4, 4)[1, 1] == CAT

    def test_a_mask_is_in_front_of_a_box(self) -> None:
        batch = TargetBatch.join([target([(DOG, (0, 0, 8, 8)), (CAT, (2, 2, 6, 6))])], 4, torch.device("cpu"))
        batch.has_mask[1] = 0
        assert (cell_labels(batch, EVERYTHING, (4, 4)) == DOG).all()

    def test_a_thing_without_a_class_is_neither_a_class_nor_nothing(self) -> None:
        assert self.labels(target([(NAMELESS, (0, 0, 4, 4)), (DOG, (4, 0, 8, 4))])) == [IGNORED, DOG, 0, 0]

    def test_images_of_a_batch_do_not_share_labels(self) -> None:
        batch = join(target([(DOG, (0, 0, 4, 4)), (CAT, (4, 0, 8, 4))]), target([(TREE, (4, 4, 8, 8))]))
        labels = cell_labels(batch, EVERYTHING.expand(2, -1), (2, 2))
        assert labels.tolist() == [[DOG, CAT, 0, 0], [0, 0, 0, TREE]]


def test_the_cell_loss_is_a_weighted_cross_entropy_of_the_finest_level() -> None:
    torch.manual_seed(0)
    memory = ImageMemory(torch.randn(1, 5, 6), ((1, 1), (2, 2)), torch.zeros(1, 1, 4, 4))
    head = nn.Linear(6, 4)
    batch = join(target([(DOG, (0, 0, 4, 4)), (CAT, (4, 0, 5, 4))]))
    chances = head(memory.memory[0, 1:]).log_softmax(-1)
    weights = [1.0, 0.1, 0.1]
    expected = -(chances[0, DOG] + 0.1 * chances[2, 0] + 0.1 * chances[3, 0]) / sum(weights)
    torch.testing.assert_close(cell_loss(head, memory, batch, EVERYTHING), expected)


def test_without_a_cell_that_counts_the_loss_is_zero_with_a_gradient() -> None:
    memory = ImageMemory(torch.randn(1, 4, 6), ((2, 2),), torch.zeros(1, 1, 4, 4))
    head = nn.Linear(6, 4)
    loss = cell_loss(head, memory, join(target([(DOG, (0, 0, 1, 1))])), SOME)
    assert loss == 0
    loss.backward()
    assert head.weight.grad.abs().max() == 0


def prediction(logits: Tensor) -> dict[str, Tensor]:
    queries = logits.shape[1]
    boxes = torch.tensor([[[0.25, 0.25, 0.5, 0.5], [0.75, 0.75, 0.5, 0.5], [0.5, 0.5, 0.1, 0.1]]])
    return {"phrase_logits": logits, "boxes_cxcywh_norm": boxes, "mask_embeds": torch.zeros(1, queries, 2)}


def test_the_naming_loss_asks_each_matched_query_for_its_class_in_every_layer() -> None:
    torch.manual_seed(0)
    layers = [torch.randn(1, 3, 4) * 0.01 for _ in range(3)]
    output = GrounderOutput(
        **prediction(layers[0]),
        queries=torch.zeros(1, 3, 2),
        mask_features=torch.zeros(1, 2, 4, 4),
        topk_indices=torch.zeros(1, 3, dtype=torch.long),
        aux_outputs=(GrounderPrediction(**prediction(layers[1])),),
        interm=GrounderPrediction(**prediction(layers[2])),
    )
    batch = join(target([(TREE, (4, 4, 8, 8)), (DOG, (0, 0, 4, 4))]))
    result = SetCriterion(matcher=HungarianMatcher(num_points=None), num_points=None).unweighted(output, batch)
    # Boxes match exactly: query 0 is the dog, query 1 the tree. "Anything" is no name.
    losses = []
    for logits in layers:
        names = logits[0, :2, 1:]
        losses.append(F.cross_entropy(names, torch.tensor([DOG - 1, TREE - 1])))
    torch.testing.assert_close(naming_loss(output, batch, result), torch.stack(losses).mean())
    nameless = join(target([(NAMELESS, (4, 4, 8, 8)), (DOG, (0, 0, 4, 4))]))
    dogs = [F.cross_entropy(logits[0, :1, 1:], torch.tensor([DOG - 1])) for logits in layers]
    torch.testing.assert_close(naming_loss(output, nameless, result), torch.stack(dogs).mean())
    empty = join(target([]))
    nothing = SetCriterion(matcher=HungarianMatcher(num_points=None), num_points=None).unweighted(output, empty)
    assert naming_loss(output, empty, nothing) == 0


def test_class_phrases_start_with_length_one_and_know_their_columns() -> None:
    torch.manual_seed(0)
    phrases = ClassPhrases([f"kind {number}" for number in range(50)], phrase_size=64, hidden_size=8)
    assert phrases.index["kind 0"] == 1
    assert phrases.index["kind 49"] == 50
    assert float(phrases.embeds.detach().norm(dim=1).mean()) == pytest.approx(1, abs=0.1)
    assert phrases.cell_head.out_features == 51
