"""Disturbed objects that learn to be put right: their losses worked out by hand, and what must not change them."""

from dataclasses import replace
from unittest import mock

import pytest
import torch
from hand_made import DOG, LEFT_CAT, NAMES, four_samples, sample, thing
from small_training import class_phrases, training_model, training_processor
from torch import Tensor

from llava_grounding.data.sample import Sample
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.train.batching.batches import ANYTHING, class_batch, encode_sample_image
from llava_grounding.train.batching.targets import TargetBatch
from llava_grounding.train.losses import denoising
from llava_grounding.train.losses.criteria import Criteria
from llava_grounding.train.losses.denoising import denoising_losses, disturbed
from llava_grounding.train.losses.settings import DenoisingNoise
from llava_grounding.train.plan import stage_plan
from llava_grounding.train.recipe import recipe_of
from llava_grounding.train.training_module import LossConfig, TrainingModule

INDEX = {name: column for column, name in enumerate(NAMES, start=1)}
CRITERION = Criteria.of(None).classes
LAYERS = 2  # of the query decoder: each predicts, what was put in does not


UNDISTURBED = DenoisingNoise(0.0, 0.0)  # names and boxes as they are: nothing random


def model_with_bias(bias: float = -4.0) -> LlavaGroundingForConditionalGeneration:
    """A model whose phrase logits are all the learned bias, whatever query and phrase."""
    model = training_model().eval()
    with torch.no_grad():
        model.grounder.similarity_head.projection.zero_()
        model.grounder.similarity_head.logit_bias.fill_(bias)
    return model


def losses_of(
    model: LlavaGroundingForConditionalGeneration,
    *samples: Sample,
    copies: int = 2,
    judged: Tensor | None = None,
    noise: DenoisingNoise = DenoisingNoise(),
) -> dict[str, Tensor]:
    processor = training_processor()
    batch = class_batch(samples, [encode_sample_image(processor, one) for one in samples], processor, INDEX)
    mask = batch.phrase_mask if judged is None else judged.expand(len(samples), -1)
    embeds = class_phrases().embeds
    embeds = torch.cat([torch.zeros_like(embeds[:1]), embeds])
    memory = model.grounder.encode_image(batch.images["grounder_pixel_values"])
    known = [replace(one, phrase_map=one.phrase_map & row) for one, row in zip(batch.targets, mask, strict=True)]
    targets = TargetBatch.join(known, mask.shape[1], memory.memory.device)
    return denoising_losses(model.grounder, embeds, CRITERION, memory, targets, mask, copies, noise)


def class_loss(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack([value for name, value in losses.items() if name.startswith("loss_class")]).sum()


def focal(logit: Tensor, truth: float) -> Tensor:
    """By the formula: -a (1 - p)^2 log p of the true side."""
    chance = logit.sigmoid() if truth else 1 - logit.sigmoid()
    return -(0.25 if truth else 0.75) * (1 - chance) ** 2 * chance.log()


@pytest.mark.parametrize("copies", [1, 5])
def test_the_bias_learns_from_classes_alone_as_worked_out_by_hand(copies: int) -> None:
    model = model_with_bias()
    three = sample((DOG, LEFT_CAT, thing("dog", (50, 30, 70, 56))), ())
    loss = class_loss(losses_of(model, three, copies=copies, noise=UNDISTURBED))
    loss.backward()
    bias = torch.tensor(-4.0, requires_grad=True)
    # Each object is one class and is not the two others, in both layers; 0.4 of a column times the criterion's ten.
    expected = LAYERS * 4.0 * (focal(bias, 1) + 2 * focal(bias, 0))
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(model.grounder.similarity_head.logit_bias.grad, bias.grad)


def test_anything_teaches_the_bias_nothing_though_it_names_every_object() -> None:
    model = model_with_bias()
    only_anything = torch.zeros(1, 1 + len(NAMES), dtype=torch.bool)
    only_anything[:, ANYTHING] = True
    loss = class_loss(losses_of(model, *four_samples(), judged=only_anything))
    loss.backward()
    assert loss == 0
    assert model.grounder.similarity_head.logit_bias.grad == 0


def test_copies_change_no_loss_where_nothing_is_disturbed() -> None:
    model = training_model().eval()
    one, four = (losses_of(model, *four_samples(), copies=copies, noise=UNDISTURBED) for copies in (1, 4))
    assert one["loss"] > 0
    torch.testing.assert_close(four, one)


def test_copies_do_not_see_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    model, things = training_model().eval(), len(four_samples()[:1][0].instances)
    moved = [torch.tensor([0.1, 0.0, 0.0, 0.0]), torch.tensor([-0.1, 0.1, 0.1, 0.0])]

    def with_boxes(*shifts: Tensor) -> Tensor:
        shift = torch.cat([one.expand(things, 4) for one in shifts])
        monkeypatch.setattr(denoising, "disturbed", lambda boxes, scale: boxes + shift)
        return losses_of(model, *four_samples()[:1], copies=len(shifts), noise=UNDISTURBED)["loss"]

    alone = [with_boxes(shift) for shift in moved]
    assert alone[0] != alone[1]
    torch.testing.assert_close(with_boxes(*moved), torch.stack(alone).mean())


def test_a_batch_loses_the_mean_of_its_images_weighted_by_objects() -> None:
    """Images with fewer objects are padded; what pads them loses nothing and is seen by no other query."""
    model = training_model().eval()
    images = [sample(), sample((DOG,), ()), sample((LEFT_CAT, DOG), ())]
    counts = [3, 1, 2]
    together = losses_of(model, *images, noise=UNDISTURBED)
    alone = [losses_of(model, one, noise=UNDISTURBED) for one in images]
    assert together.keys() == alone[0].keys()
    for name, value in together.items():
        mean = sum(count * one[name] for count, one in zip(counts, alone, strict=True)) / sum(counts)
        torch.testing.assert_close(value, mean, msg=lambda text, n=name: f"{n}: {text}")


def test_without_objects_or_copies_the_loss_is_zero_with_a_gradient() -> None:
    model = training_model().eval()
    for losses in (losses_of(model, sample((), ())), losses_of(model, sample(), copies=0)):
        assert losses.keys() == {"loss"}
        assert losses["loss"] == 0
        losses["loss"].backward()


def test_boxes_stray_as_far_as_they_may_and_stay_on_the_canvas() -> None:
    torch.manual_seed(0)
    box = torch.tensor([0.5, 0.5, 0.2, 0.4])
    strayed = disturbed(box.expand(4000, 4), 0.4)
    middle, size = (strayed[:, :2] - box[:2]).abs() / box[2:], strayed[:, 2:] / box[2:]
    assert 0.19 < float(middle.max()) <= 0.2 + 1e-6
    assert 0.6 - 1e-6 <= float(size.min()) < 0.61
    assert 1.39 < float(size.max()) <= 1.4 + 1e-6
    edge = disturbed(torch.tensor([1.0, 0.0, 1.0, 0.0]).expand(100, 4), 0.4)
    assert float(edge.min()) >= 0
    assert float(edge.max()) <= 1
    assert float(edge[:, 3].min()) > 0


def test_some_queries_begin_with_a_wrong_name() -> None:
    model, given = training_model().eval(), []
    refine = model.grounder.refine

    def seen(memory: object, states: Tensor, *rest: object, **options: object) -> object:
        given.append(states)
        return refine(memory, states, *rest, **options)

    with mock.patch.object(model.grounder, "refine", seen):
        torch.manual_seed(0)
        losses_of(model, sample((DOG,), ()), copies=400)
    wrong = float((given[0][0] != given[0][0].mode(0).values).any(1).float().mean())
    assert 0.08 < wrong < 0.19  # a fifth draw anew, of which a third fall on the right name


@pytest.mark.parametrize("copies", [0, 2])
def test_the_stage_of_class_names_has_what_the_recipe_asks_for(copies: int) -> None:
    recipe = recipe_of({"stage": "pretrain_grounder", "data": [{"kind": "scenes"}], "denoising": copies})
    model, phrases = training_model(), class_phrases()
    module = TrainingModule(model, phrases, LossConfig.of(recipe, stage_plan(recipe)))
    samples = four_samples()
    images = [encode_sample_image(training_processor(), one) for one in samples]
    losses = module(class_batch(samples, images, training_processor(), INDEX))
    assert ("denoising" in losses) == bool(copies)
