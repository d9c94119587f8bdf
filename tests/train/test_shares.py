"""A step taken in pieces: however a batch is split, losses and gradients sum up to those of the whole."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hand_made import DOG, TURNS, four_samples, sample
from small_training import class_phrases, training_model, training_processor
from torch import Tensor, nn

from llava_grounding.model.outputs import IGNORE_INDEX
from llava_grounding.train.batching.batches import ChatItem, chat_item, class_batch, collate_chat, encode_sample_image
from llava_grounding.train.losses.class_losses import ClassPhrases
from llava_grounding.train.losses.step_losses import Shares
from llava_grounding.train.losses.weights import LossWeights
from llava_grounding.train.plan import StagePlan
from llava_grounding.train.training_module import LossConfig, TrainingModule

CHAT = StagePlan(("language", "phrases"), ())
# Means over a micro-batch, weighted by its objects: the same only nearly.
INEXACT = {"class_cells", "class_words", "class_loss", "loss"}


def items(flavour: str) -> list[ChatItem]:
    """Phrases, none, none and no instances, one that is not known, and a dialogue of plain words beside instances."""
    told = [sample(), *four_samples()[:2], sample(turns=TURNS[1:2]), sample((), TURNS[1:2]), sample((DOG,), TURNS[2:3])]
    processor, rng = training_processor(flavour), np.random.default_rng(0)
    return [chat_item(one, processor, 2, rng) for one in told]


def training_module(flavour: str, phrases: ClassPhrases | None, plan: StagePlan = CHAT) -> TrainingModule:
    """Masks on every cell, and nothing random; evaluation mode, where images of a batch share no statistics."""
    return TrainingModule(training_model(flavour), phrases, LossConfig(plan, LossWeights(grounding=0.3), None)).eval()


def run(
    module: TrainingModule, flavour: str, parts: list[list[ChatItem]], unlearnt: int | None = None
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Losses and gradients of a step in parts; one of them may have nothing to learn from."""
    index = None if module.class_phrases is None else module.class_phrases.index
    batches = [collate_chat(part, training_processor(flavour), index) for part in parts]
    if unlearnt is not None:
        batches[unlearnt].texts["labels"].fill_(IGNORE_INDEX)
    totals = torch.stack([batch.counts for batch in batches]).sum(0).float()
    sums: dict[str, float] = {}
    module.zero_grad()
    for batch in batches:
        losses = module(batch, totals if len(batches) > 1 else None)
        losses["loss"].backward()
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach())
    return sums, gradients(module)


def gradients(module: nn.Module) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(one) if one.grad is None else one.grad.clone() for name, one in module.named_parameters()
    }


def assert_same(parted: dict[str, Tensor], whole: dict[str, Tensor]) -> None:
    largest = max(float(value.abs().max()) for value in whole.values())
    for name, value in whole.items():
        torch.testing.assert_close(
            parted[name], value, rtol=1e-3, atol=1e-5 * largest, msg=lambda t, n=name: f"{n}: {t}"
        )


@pytest.mark.parametrize("cuts", [(3,), (1, 2, 3, 4, 5), (2, 5)], ids=["halves", "one by one", "uneven"])
@pytest.mark.parametrize("flavour", ["official", "siglip"])
def test_pieces_sum_up_to_the_whole(flavour: str, cuts: tuple[int, ...]) -> None:
    module, whole = training_module(flavour, None), items(flavour)
    expected, wanted = run(module, flavour, [whole])
    parted, found = run(module, flavour, [whole[a:b] for a, b in pairwise((0, *cuts, len(whole)))])
    assert parted == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert expected["phrase_loss"] > 0
    assert_same(found, wanted)


def test_a_piece_without_a_learnt_token_changes_nothing() -> None:
    module, flavour = training_module("official", None), "official"
    whole = items(flavour)
    alone, _ = run(module, flavour, [whole[:3]])
    parted, found = run(module, flavour, [whole[:3], whole[4:5]], unlearnt=1)  # no instances, no phrases, no words
    assert parted["language"] == pytest.approx(alone["language"], rel=1e-5)
    assert parted["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert all(bool(torch.isfinite(value).all()) for value in found.values())


def test_class_names_sum_up_too_but_for_what_cells_show() -> None:
    module, whole = training_module("official", class_phrases()), items("official")
    expected, _ = run(module, "official", [whole])
    parted, _ = run(module, "official", [whole[:2], whole[2:]])
    assert {name for name in expected if name.startswith("class_")} >= {"class_naming", "class_cells", "class_words"}
    exact = expected.keys() - INEXACT
    assert {name: parted[name] for name in exact} == pytest.approx({n: expected[n] for n in exact}, rel=1e-4, abs=1e-6)
    assert parted["loss"] == pytest.approx(expected["loss"], rel=0.02)


def test_class_batches_sum_up_too() -> None:
    plan = StagePlan(("classes",), ())
    module, processor = training_module("official", class_phrases(), plan), training_processor("official")
    told = [sample(), *four_samples(), sample((), ())]

    def batch(part: list[object]) -> object:
        images = [encode_sample_image(processor, one) for one in part]
        return class_batch(part, images, processor, module.class_phrases.index)

    whole = module(batch(told))
    batches = [batch(told[:2]), batch(told[2:5]), batch(told[5:])]
    totals = torch.stack([one.counts for one in batches]).sum(0).float()
    for name in ("loss_class", "loss_box", "loss_mask_aux0", "loss_giou_interm", "naming"):
        parted = sum(module(one, totals).get(name, torch.zeros(())) for one in batches)
        torch.testing.assert_close(parted, whole[name], rtol=1e-4, atol=1e-6)


def test_shares_are_parts_of_the_counts_and_never_divide_by_zero() -> None:
    batch = collate_chat(items("official")[:1], training_processor("official"))
    tokens, objects, _ = batch.counts.tolist()
    assert objects == 3
    shares = Shares.of(batch, torch.tensor([tokens * 4, objects * 2, 0]))
    assert [float(one) for one in (shares.tokens, shares.objects, shares.prompts)] == [0.25, 0.5, 1]
    assert Shares.of(batch, None) == Shares()
    assert float(Shares.of(batch, torch.zeros(3)).prompts) == 1
