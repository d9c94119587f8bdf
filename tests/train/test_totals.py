"""Totals of all losses, put together by hand from their parts: no term can go, come twice or change its weight unseen.

The weights stand here as numbers, not as the names the code gives them.
"""

from dataclasses import fields, replace
from functools import lru_cache
from math import exp, log

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hand_made import NAMES, four_samples, sample
from small_training import class_phrases, recipe, training_model, training_processor
from torch import Tensor

from llava_grounding.model.outputs import GrounderOutput, GrounderPrediction
from llava_grounding.train.batching.batches import (
    ChatBatch,
    chat_item,
    class_batch,
    collate_chat,
    encode_sample_image,
    with_pointed,
)
from llava_grounding.train.batching.targets import GroundingTarget, TargetBatch
from llava_grounding.train.losses.class_losses import cell_loss, class_losses, ground_classes, hide_phrases, naming_loss
from llava_grounding.train.losses.criteria import Criteria
from llava_grounding.train.losses.set_criterion import sigmoid_focal_loss
from llava_grounding.train.losses.settings import CellTargets, DenoisingNoise, FocalSettings
from llava_grounding.train.losses.step_losses import Shares, chat_losses, pretrain_losses
from llava_grounding.train.losses.weights import LossWeights, MatchingCosts
from llava_grounding.train.plan import stage_plan
from llava_grounding.train.training_module import LossConfig

INDEX = {name: column for column, name in enumerate(NAMES, start=1)}
CRITERIA = Criteria.of(None)
QUERIES, CELLS = 5, 4


def chat_batch() -> ChatBatch:
    """Dialogues with regions, class names, and a prompt for every thing."""
    processor, rng = training_processor(), np.random.default_rng(0)
    items = [chat_item(one, processor, 10, rng) for one in (sample(), *four_samples()[:2])]
    return collate_chat([with_pointed(item, rng) for item in items], processor, INDEX)


def undecided(num_phrases: int, box: Tensor) -> GrounderOutput:
    """Queries of which the first has the box; every logit, of phrases and of mask cells, is 0."""

    def prediction() -> dict[str, Tensor]:
        boxes = torch.cat([box.reshape(1, 1, 4), torch.full((1, QUERIES - 1, 4), 0.05)], dim=1)
        return {
            "phrase_logits": torch.zeros(1, QUERIES, num_phrases),
            "boxes_cxcywh_norm": boxes,
            "mask_embeds": torch.zeros(1, QUERIES, 2),
        }

    return GrounderOutput(
        **prediction(),
        queries=torch.zeros(1, QUERIES, 1),
        mask_features=torch.zeros(1, 2, 2, 2),
        topk_indices=torch.zeros(1, QUERIES, dtype=torch.long),
        aux_outputs=(GrounderPrediction(**prediction()),),
        interm=GrounderPrediction(**prediction()),
    )


@pytest.mark.parametrize("num_classes", [3, 100])
def test_the_criterion_of_class_names_weighs_each_column_with_four(num_classes: int) -> None:
    """Of one layer: 4 a column, 5 for cross-entropy and dice, 5 for the box, 2 for its overlap."""
    box = torch.tensor([0.25, 0.25, 0.5, 0.5])
    masks = torch.zeros(1, 2, 2, dtype=torch.uint8)
    masks[0, 0, 0] = 1
    names = torch.zeros(1, 1 + num_classes, dtype=torch.bool)
    names[0, :2] = True  # "anything" and the first class
    target = GroundingTarget(box[None], masks, torch.tensor([True]), names)
    losses = CRITERIA.classes(undecided(1 + num_classes, box), [target])
    yes, no = 0.25 * 0.5**2 * log(2), 0.75 * 0.5**2 * log(2)
    by_class = 4.0 * (2 * yes + (QUERIES * (1 + num_classes) - 2) * no)
    dice = 1 - (2 * 0.5 * 1 + 1) / (0.5 * CELLS + 1 + 1)
    layer = by_class + 5.0 * log(2) + 5.0 * dice
    assert float(losses["loss_class"]) == pytest.approx(by_class)
    assert float(losses["loss"]) == pytest.approx(3 * layer, rel=1e-5)  # last layer, inner layer, selected cells
    moved = CRITERIA.classes(undecided(1 + num_classes, torch.tensor([0.25, 0.25, 0.5, 0.25])), [target])
    overlap = 2.0 * (1 - 0.5)  # the moved box lies inside of the true one: nothing beside the union
    assert float(moved["loss"] - losses["loss"]) == pytest.approx(3 * (5.0 * 0.25 + overlap), rel=1e-4)


def test_the_criterion_of_phrases_weighs_the_mean_over_an_images_phrases() -> None:
    box = torch.tensor([0.25, 0.25, 0.5, 0.5])
    target = GroundingTarget(box[None], None, torch.tensor([False]), torch.tensor([[True, False]]))
    mask = torch.tensor([[True, True, False]])  # the third is padding
    losses = CRITERIA.phrases(undecided(3, box), [target], mask)
    yes, no = 0.25 * 0.5**2 * log(2), 0.75 * 0.5**2 * log(2)
    by_phrase = 4.0 * 10 * (yes + (2 * QUERIES - 1) * no) / 2
    assert float(losses["loss"]) == pytest.approx(3 * by_phrase, rel=1e-5)


@pytest.mark.parametrize("copies", [0, 2])
def test_the_total_of_class_names_is_set_loss_naming_cells_and_denoising(copies: int) -> None:
    model, phrases, batch = training_model().eval(), class_phrases(), chat_batch().classes
    assert batch is not None
    memory = model.grounder.encode_image(batch.images["grounder_pixel_values"])
    torch.manual_seed(0)
    found = class_losses(model, phrases, CRITERIA, memory, batch, copies)
    result, losses = found.matched, found.losses
    targets = TargetBatch.join(batch.targets, 1 + len(NAMES), memory.memory.device)
    judged = hide_phrases(ground_classes(model, phrases, memory, batch.phrase_mask), batch.phrase_mask)
    set_loss = CRITERIA.classes(judged, targets, batch.phrase_mask)["loss"]
    naming = naming_loss(judged, targets, result)
    cells = cell_loss(phrases.cell_head, memory, targets, batch.phrase_mask)
    disturbed = losses.get("denoising", torch.zeros(()))
    assert min(set_loss, naming, cells) > 0
    assert (disturbed > 0) == (copies > 0)
    torch.testing.assert_close(losses["loss"], set_loss + 2.0 * naming + 4.0 * cells + disturbed)
    torch.testing.assert_close(losses["naming"], naming)
    torch.testing.assert_close(losses["cells"], cells)


def test_a_class_that_is_only_seen_has_no_negatives_in_the_total() -> None:
    """The cat is labelled, yet not everywhere: queries that match nothing say nothing of cats."""
    processor, one = training_processor(), sample(exhaustive=frozenset({"dog"}))
    batch = class_batch([one], [encode_sample_image(processor, one)], processor, INDEX)
    assert batch.partly_labelled.nonzero().tolist() == [[0, INDEX["cat"]]]
    model, phrases = training_model().eval(), class_phrases()
    memory = model.grounder.encode_image(batch.images["grounder_pixel_values"])
    found = class_losses(model, phrases, CRITERIA, memory, batch)
    result, losses = found.matched, found.losses
    judged = hide_phrases(ground_classes(model, phrases, memory, batch.phrase_mask), batch.phrase_mask)
    parts = CRITERIA.classes.unweighted(judged, batch.targets, batch.phrase_mask).losses
    cats = judged.phrase_logits[0, :, INDEX["cat"]]
    unmatched = torch.ones(len(cats), dtype=torch.bool)
    unmatched[result.pairs.queries[0]] = False
    negatives = (0.75 * cats.sigmoid() ** 2 * F.softplus(cats))[unmatched].sum()
    torch.testing.assert_close(losses["loss_class"], 4.0 * (parts["loss_class"] - negatives / result.num_objects))


def test_the_total_of_a_dialogue_is_its_five_losses_each_with_its_weight() -> None:
    criteria = Criteria.of(None, LossWeights(grounding=0.5, words=0.25, prompts=3.0))
    losses = chat_losses(training_model().eval(), class_phrases(), criteria, chat_batch())
    parts = [losses[name] for name in ("language", "class_loss", "class_words", "phrase_loss", "prompt_loss")]
    assert all(part.item() > 0 for part in parts)
    language, classes, words, phrases, prompts = parts
    torch.testing.assert_close(losses["loss"], language + 0.5 * classes + 0.25 * words + 0.5 * phrases + 3.0 * prompts)


def test_each_part_takes_its_own_share_of_a_step() -> None:
    criteria = Criteria.of(None, LossWeights(prompts=1.0))
    whole, part = (
        chat_losses(training_model().eval(), class_phrases(), criteria, chat_batch(), shares)
        for shares in (Shares(), Shares(tokens=0.5, objects=0.25, prompts=0.125))
    )
    shares = {"language": 0.5, "class_loss": 0.25, "class_words": 0.25, "phrase_loss": 0.25, "prompt_loss": 0.125}
    for name, share in shares.items():
        torch.testing.assert_close(part[name], share * whole[name])
    torch.testing.assert_close(part["loss"], torch.stack([share * whole[name] for name, share in shares.items()]).sum())


def test_a_class_batch_takes_its_share_of_objects() -> None:
    batch = chat_batch().classes
    assert batch is not None
    whole, part = (
        pretrain_losses(training_model().eval(), class_phrases(), CRITERIA, batch, Shares(objects=share))
        for share in (1.0, 0.25)
    )
    assert part.keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(part[name], 0.25 * value)


def test_denoising_is_a_part_of_both_class_tasks() -> None:
    batch = chat_batch()
    assert batch.classes is not None
    torch.manual_seed(0)
    pretraining = pretrain_losses(training_model().eval(), class_phrases(), CRITERIA, batch.classes, denoising=2)
    torch.manual_seed(0)
    chat = chat_losses(training_model().eval(), class_phrases(), CRITERIA, batch, denoising=2)
    torch.testing.assert_close(chat["class_denoising"], pretraining["denoising"])
    torch.testing.assert_close(chat["class_loss"], pretraining["loss"])


def test_the_weights_are_those_of_the_recipe() -> None:
    plain = LossConfig.of(recipe(), stage_plan(recipe()))
    assert plain.weights == LossWeights()
    values = {one.name: 0.5 + number for number, one in enumerate(fields(LossWeights))}
    given = recipe(loss_weights=values, denoising=4)
    other = LossConfig.of(given, stage_plan(given))
    assert other.weights == LossWeights(**values)
    assert other.denoising == 4
    assert replace(other, weights=plain.weights, denoising=0) == plain
    costs = {one.name: 0.5 + number for number, one in enumerate(fields(MatchingCosts))}
    given = recipe(matching_costs=costs)
    assert replace(LossConfig.of(given, stage_plan(given)), costs=MatchingCosts()) == plain
    assert LossConfig.of(given, stage_plan(given)).costs == MatchingCosts(**costs)
    points = [LossConfig.of(recipe(num_points=count), stage_plan(recipe())).num_points for count in (0, 7)]
    assert points == [None, 7]


SUMS = {"class": 1.0, "phrase": 1.0, "prompt": 0.2}
"""Losses of which each is a sum, with the weight that it has in the total."""
APART = {
    "grounding": {"class_loss": 1.0, "phrase_loss": 1.0},
    "words": {"class_words": 1.0},
    "prompts": {"prompt_loss": 0.2},
    "naming": {"class_naming": 2.0},
    "cells": {"class_cells": 4.0},
    "denoising": {"class_denoising": 1.0},
}
"""Weights of losses that are reported without them, and what they have in the total."""
INSIDE = {
    "phrase_focal": "class",
    "class_focal": "class",
    "mask": "mask",
    "dice": "dice",
    "box": "box",
    "giou": "giou",
    "score": "score",
}
"""Weights of losses that are reported with them, and what these are called; for `answer_words` see
`test_token_weights.py`."""


@lru_cache
def losses_with(name: str, factor: float) -> dict[str, Tensor]:
    """Of a dialogue, with one weight multiplied."""
    weights = replace(LossWeights(), **{name: factor * getattr(LossWeights(), name)})
    torch.manual_seed(0)  # of the disturbed copies
    criteria = Criteria.of(None, weights)
    return chat_losses(training_model().eval(), class_phrases(), criteria, chat_batch(), denoising=2)


@pytest.mark.parametrize("name", [one.name for one in fields(LossWeights) if one.name != "answer_words"])
def test_a_weight_multiplies_its_own_losses_and_no_others(name: str) -> None:
    once, thrice = losses_with("mask", 1.0), losses_with(name, 3.0)
    grown = {key: thrice[key] - value for key, value in once.items() if not torch.equal(value, thrice[key])}
    sums = {"loss", *(f"{part}_loss" for part in SUMS)}
    if name in APART:
        assert grown.keys() - sums == set()
        expected = sum(2 * weight * once[key] for key, weight in APART[name].items())
        torch.testing.assert_close(grown["loss"], expected, rtol=1e-4, atol=1e-4)
        return
    disturbed = grown.pop("class_denoising", torch.zeros(()))
    part = {"phrase_focal": "phrase", "class_focal": "class"}.get(name, "")
    assert grown.keys() - sums == {key for key in once if f"{part}_loss_{INSIDE[name]}" in key} != set()
    assert bool(disturbed > 0) == (name not in ("score", "phrase_focal"))
    for part in SUMS:
        own = [key for key in grown.keys() - sums if key.startswith(part)]
        expected = sum((2 * once[key] for key in own), disturbed * (part == "class"))
        torch.testing.assert_close(grown.get(f"{part}_loss", torch.zeros(())), expected, rtol=1e-4, atol=1e-4)
    total = sum(weight * grown[f"{part}_loss"] for part, weight in SUMS.items() if f"{part}_loss" in grown)
    torch.testing.assert_close(grown["loss"], total, rtol=1e-4, atol=1e-4)


def test_the_costs_of_matching_are_those_given() -> None:
    costs = MatchingCosts(focal=1.0, mask=2.0, dice=3.0, box=4.0, giou=5.0)
    criteria = Criteria.of(None, costs=costs)
    for matcher in (criteria.classes.matcher, criteria.phrases.matcher):
        assert matcher.weights == costs
        assert matcher.num_points is None


def class_task(**settings: object) -> dict[str, Tensor]:
    """Losses of the class names of a batch, with two disturbed copies, by other settings than the defaults."""
    batch = chat_batch().classes
    assert batch is not None
    model, criteria = training_model().eval(), Criteria.of(None, **settings)  # type: ignore[arg-type]
    torch.manual_seed(0)
    memory = model.image_memory(batch.images["grounder_pixel_values"])
    return class_losses(model, class_phrases(), criteria, memory, batch, 2).losses


@pytest.mark.parametrize(
    ("settings", "moved"),
    [
        ({"focal": FocalSettings(alpha=0.5)}, {"loss_class", "denoising"}),
        ({"focal": FocalSettings(gamma=0.0)}, {"loss_class", "denoising"}),
        ({"noise": DenoisingNoise(label_noise_ratio=1.0)}, {"denoising"}),
        ({"noise": DenoisingNoise(box_noise_scale=0.0)}, {"denoising"}),
        ({"cells": CellTargets(background_weight=1.0)}, {"cells"}),
        ({"cells": CellTargets(min_coverage=0.9)}, {"cells"}),
        ({"cells": CellTargets(max_background_coverage=0.9)}, {"cells"}),
    ],
)
def test_a_setting_of_the_class_task_changes_its_own_losses(settings: dict[str, object], moved: set[str]) -> None:
    usual, other = class_task(), class_task(**settings)
    assert moved <= {key for key, value in usual.items() if not torch.equal(value, other[key])}
    if "denoising" not in moved:
        assert torch.equal(usual["denoising"], other["denoising"])
    if "cells" not in moved:
        assert torch.equal(usual["cells"], other["cells"])


def test_focal_loss_with_gamma_nought_is_weighted_cross_entropy() -> None:
    logits, target = torch.tensor([[0.3, -2.0]]), torch.tensor([[1.0, 0.0]])
    found = sigmoid_focal_loss(logits, target, FocalSettings(alpha=0.3, gamma=0.0))
    torch.testing.assert_close(found, torch.tensor([[0.3 * log(1 + exp(-0.3)), 0.7 * log(1 + exp(-2.0))]]))
