"""The losses of a step: what they sum up, what must not change them, and that they can be learnt."""

from collections.abc import Callable
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
import torch
from hand_made import DOG, NAMES, TURNS, four_samples, sample, thing
from small_training import chat_batch, class_phrases, recipe, training_model, training_processor
from torch import Tensor

from llava_grounding.data.sample import Sample, Turn
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.model.outputs import PADDED_PHRASE_LOGIT
from llava_grounding.train.batching.batches import (
    ANYTHING,
    ChatBatch,
    ClassBatch,
    class_batch,
    encode_sample_image,
)
from llava_grounding.train.batching.targets import TargetBatch
from llava_grounding.train.losses.class_losses import ClassPhrases, ground_classes, hide_phrases
from llava_grounding.train.losses.criteria import Criteria
from llava_grounding.train.losses.denoising import denoising_losses
from llava_grounding.train.losses.settings import DenoisingNoise
from llava_grounding.train.losses.step_losses import chat_losses, pretrain_losses
from llava_grounding.train.losses.weights import LossWeights
from llava_grounding.train.plan import set_trainable, stage_plan
from llava_grounding.train.validation import phrase_rows

INDEX = {name: column for column, name in enumerate(NAMES, start=1)}
CRITERIA = Criteria.of(None)


def weighed(**weights: float) -> Criteria:
    return Criteria.of(None, LossWeights(**weights))


def classes_of(*samples: Sample, flavour: str = "shared") -> ClassBatch:
    processor = training_processor(flavour)
    return class_batch(samples, [encode_sample_image(processor, one) for one in samples], processor, INDEX)


def chat_of(*samples: Sample, max_turns: int = 10, flavour: str = "shared") -> ChatBatch:
    return chat_batch(samples, training_processor(flavour), INDEX, max_turns, np.random.default_rng(0))


def chat(
    batch: ChatBatch, weight: float = 1.0, model: LlavaGroundingForConditionalGeneration | None = None
) -> dict[str, Tensor]:
    """Losses in evaluation mode, so that images of a batch do not share statistics."""
    model = (training_model() if model is None else model).eval()
    torch.manual_seed(0)
    return chat_losses(model, class_phrases(), weighed(grounding=weight), batch)


def assert_finite(losses: dict[str, Tensor], names: set[str]) -> None:
    assert names <= losses.keys()
    assert all(bool(torch.isfinite(value)) for value in losses.values()), losses


def test_class_names_give_every_loss_of_every_layer() -> None:
    losses = pretrain_losses(training_model(), class_phrases(), CRITERIA, classes_of(*four_samples()))
    kinds = {f"loss_{name}" for name in ("class", "mask", "dice", "box", "giou")}
    layers = ("", "_aux0", "_aux1", "_interm")
    assert_finite(losses, {"loss", "naming", "cells", *(kind + layer for kind in kinds for layer in layers)})
    losses["loss"].backward()


def test_dialogues_give_language_class_and_phrase_losses_at_once() -> None:
    model, phrases = training_model(), class_phrases()
    losses = chat_losses(model, phrases, CRITERIA, chat_of(sample(), *four_samples()))
    assert_finite(losses, {"loss", "language", "class_loss", "class_naming", "phrase_loss", "phrase_loss_class"})
    losses["loss"].backward()
    assert model.language_model.norm.weight.grad.abs().max() > 0
    assert model.phrase_projector.weight.grad.abs().max() > 0
    assert model.visual_prompt_encoder.region_projection.weight.grad.abs().max() > 0
    assert phrases.embeds.grad.abs().max() > 0


@pytest.mark.parametrize("flavour", ["official", "shared"])
def test_all_phrases_of_an_answer_pick_the_queries_in_training_validation_and_chat_alike(flavour: str) -> None:
    model, processor = training_model(flavour, phrase_queries="phrases").eval(), training_processor(flavour)
    grass = Turn("Describe.", "<g_s> A dog <g_e> <seg> on <g_s> grass <g_e> <seg>.", ((0,), None))
    batch = chat_of(sample(turns=(grass,)), flavour=flavour)
    assert batch.phrase_mask.tolist() == [[True, False]]
    ids, answered = batch.texts["input_ids"], int((batch.texts["labels"][0] != -100).nonzero()[0])
    with mock.patch.object(model.grounder, "ground", wraps=model.grounder.ground) as ground:
        with torch.no_grad():
            losses = chat_losses(model, None, CRITERIA, batch)
        phrase_rows(model, processor, [sample(turns=(grass,))])
        model.ground_generated(ids, input_ids=ids[:, :answered], **batch.images)
    looked_for = [call for call in ground.call_args_list if "selection_embeds" not in call.kwargs]
    assert [call.args[2].tolist() for call in looked_for] == [[[True, True]]] * 3
    for call in looked_for[1:]:
        torch.testing.assert_close(call.args[1], looked_for[0].args[1])
    # What nobody knows the instances of picks, and is not judged.
    other = replace(batch, phrase_mask=torch.tensor([[True, True]]))
    assert chat_losses(model, None, CRITERIA, other)["phrase_loss_class"] != losses["phrase_loss_class"]


def test_all_answers_of_a_training_dialogue_select_the_queries_together_as_the_original_trains() -> None:
    model, answer = training_model("official", phrase_queries="phrases").eval(), "<g_s> A dog <g_e> <seg>."
    dialogue = sample(turns=(Turn("Find a dog.", answer, ((0,),)), Turn("Once more.", answer, ((0,),))))
    for max_turns, together in ((10, [[True, True]]), (1, [[True]])):
        batch = chat_of(dialogue, max_turns=max_turns, flavour="official")
        with mock.patch.object(model.grounder, "ground", wraps=model.grounder.ground) as ground, torch.no_grad():
            chat_losses(model, None, CRITERIA, batch)
        assert [call.args[2].tolist() for call in ground.call_args_list] == [together]


def test_the_grounding_weight_weighs_both_grounding_losses() -> None:
    batch = chat_of(*four_samples())
    none, one, three = (chat(batch, weight) for weight in (0.0, 1.0, 3.0))
    grounding = one["class_loss"] + one["phrase_loss"]
    torch.testing.assert_close(one["loss"] - none["loss"], grounding)
    torch.testing.assert_close(three["loss"] - one["loss"], 2 * grounding)
    assert none["loss"] >= none["language"]


def test_the_word_weight_weighs_the_word_loss_alone() -> None:
    batch, model = chat_of(*four_samples()), training_model().eval()
    none, one, three = (chat_losses(model, class_phrases(), weighed(words=weight), batch) for weight in (0.0, 1.0, 3.0))
    assert one["class_words"] > 0
    torch.testing.assert_close(one["loss"] - none["loss"], one["class_words"])
    torch.testing.assert_close(three["loss"] - one["loss"], 2 * one["class_words"])


@pytest.mark.parametrize(
    "samples",
    [
        [sample((), TURNS[1:2])],
        [sample(turns=TURNS[1:2]), sample((DOG,), TURNS[4:])],
        [sample((thing("dog", (8, 8, 32, 40), has_mask=False),), TURNS[1:2])],
        [sample(exhaustive=frozenset()), sample((), TURNS[1:2], frozenset())],
    ],
    ids=["no instances", "no phrases", "no masks", "few labels"],
)
def test_batches_that_lack_something_give_finite_losses_and_gradients(samples: list[Sample]) -> None:
    model, phrases = training_model(), class_phrases()
    losses = chat_losses(model, phrases, CRITERIA, chat_of(*samples))
    assert_finite(losses, {"loss", "language"})
    losses["loss"].backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)
    classes = classes_of(*samples)
    assert_finite(pretrain_losses(training_model(), class_phrases(), CRITERIA, classes), {"loss"})


def test_a_batch_from_which_nothing_can_be_learnt_gives_a_gradient_of_zero() -> None:
    model = training_model()
    set_trainable(model, stage_plan(recipe("visual_prompt")), [6, 7, 8])
    batch = chat_of(*(sample(turns=TURNS[1:2]) for _ in range(2)))  # nobody points at anything
    losses = chat_losses(model, None, CRITERIA, batch)
    assert losses["loss"] > 0
    losses["loss"].backward()
    learning = [one for one in model.parameters() if one.requires_grad]
    assert learning
    assert all(one.grad is not None and not one.grad.any() for one in learning)


def test_a_thing_without_a_class_begins_as_anything_when_it_is_disturbed() -> None:
    model, phrases = training_model().eval(), class_phrases()
    batch = classes_of(sample((thing("unheard of", (8, 8, 32, 40)),), ()))
    targets = TargetBatch.join(batch.targets, batch.phrase_mask.shape[1], torch.device("cpu"))
    assert not targets.phrase_map[:, ANYTHING + 1 :].any()
    embeds = phrases.embeds.detach().requires_grad_()
    everything = torch.cat([model.vision_tower.anything.detach().reshape(1, -1), embeds])
    memory = model.grounder.encode_image(batch.images["grounder_pixel_values"])
    only_anything = torch.zeros_like(batch.phrase_mask)
    only_anything[:, ANYTHING] = True
    noise = DenoisingNoise(label_noise_ratio=0.0)
    losses = denoising_losses(model.grounder, everything, CRITERIA.classes, memory, targets, only_anything, 2, noise)
    losses["loss"].backward()
    assert embeds.grad is None or not embeds.grad.any()


def only(*columns: int) -> Tensor:
    mask = torch.zeros(2, 1 + len(NAMES), dtype=torch.bool)
    mask[:, list(columns)] = True
    return mask


@pytest.mark.parametrize(
    "judged",
    [only(ANYTHING, 1, 2, 3), only(1, 2, 3), only(INDEX["tree"]), only()],
    ids=["everything", "class names", "one class name", "nothing"],
)
def test_queries_are_picked_in_training_as_in_chat_whatever_is_labelled(judged: Tensor) -> None:
    batch, model = chat_of(sample(), *four_samples()[:1]), training_model().eval()
    pixels = batch.images["grounder_pixel_values"]
    seen: list[Tensor] = []
    model.vision_tower.register_forward_hook(lambda part, given, tokens: seen.append(tokens))
    with torch.no_grad():
        losses = chat(replace(batch, classes=replace(batch.classes, phrase_mask=judged)), model=model)
        features = model.encode_image(pixels)
        output = model(
            input_ids=batch.texts["input_ids"],
            attention_mask=batch.texts["attention_mask"],
            grounder_pixel_values=pixels,
            region_prompts=batch.prompts,
            image_features=features,
        )
        grounding = model.ground(
            features.memory, *model.phrase_states(output.last_hidden_state, batch.texts["input_ids"])
        )
        classes = ground_classes(model, class_phrases(), features.memory, judged)
        chosen = model.vision_tower.propose(model.grounder, features.memory)
    assert grounding.topk_indices.shape[1] < features.memory.memory.shape[1]  # there is something to pick
    torch.testing.assert_close(seen[0], seen[1])
    torch.testing.assert_close(
        losses["phrase_loss"], CRITERIA.phrases(grounding, batch.targets, batch.phrase_mask)["loss"]
    )
    torch.testing.assert_close(classes.boxes_cxcywh_norm, chosen.boxes_cxcywh_norm)


@pytest.mark.parametrize("flavour", ["shared", "official"])
def test_phrases_that_are_not_judged_change_no_loss_and_get_no_gradient(flavour: str) -> None:
    labelled = sample(exhaustive=frozenset({"dog"})), sample((DOG,), (), frozenset({"dog"}))
    batch = classes_of(*labelled, flavour=flavour)
    assert not batch.phrase_mask[:, [ANYTHING, INDEX["tree"]]].any()
    losses = []
    for shift in (0.0, 5.0):
        model, phrases = training_model(flavour).eval(), class_phrases()
        with torch.no_grad():
            phrases.embeds[INDEX["tree"] - 1] += shift
        losses.append(pretrain_losses(model, phrases, CRITERIA, batch)["loss"])
        losses[-1].backward()
        assert phrases.embeds.grad[INDEX["tree"] - 1].abs().max() == 0
        assert phrases.embeds.grad[INDEX["dog"] - 1].abs().max() > 0
    torch.testing.assert_close(losses[0], losses[1])


def test_hidden_phrases_look_like_padding_in_every_layer() -> None:
    model, phrases, batch = training_model(), class_phrases(), classes_of(*four_samples())
    memory = model.grounder.encode_image(batch.images["grounder_pixel_values"])
    output = ground_classes(model, phrases, memory, batch.phrase_mask)
    mask = torch.tensor([[True, False, True, True]]).expand(4, -1)
    hidden = hide_phrases(output, mask)
    for before, after in zip(
        (output, *output.aux_outputs, output.interm), (hidden, *hidden.aux_outputs, hidden.interm), strict=True
    ):
        assert (after.phrase_logits[:, :, 1] == PADDED_PHRASE_LOGIT).all()
        assert torch.equal(after.phrase_logits[:, :, [0, 2, 3]], before.phrase_logits[:, :, [0, 2, 3]])
        assert after.boxes_cxcywh_norm is before.boxes_cxcywh_norm
    assert (output.phrase_logits[:, :, 1] != PADDED_PHRASE_LOGIT).all()


def test_phrases_of_unknown_instances_teach_nothing_about_them() -> None:
    known = sample((DOG,), (replace(TURNS[2], targets=((0,), None)),))
    batch = chat_of(known)
    assert batch.phrase_mask.tolist() == [[True, False]]
    told = chat_of(sample((DOG,), (replace(TURNS[2], targets=((0,), ())),)))
    assert told.phrase_mask.tolist() == [[True, True]]
    assert chat(batch)["phrase_loss_class"] != chat(told)["phrase_loss_class"]


@pytest.mark.parametrize("flavour", ["official", "siglip"])
def test_models_with_a_tower_of_their_own_train_too(flavour: str) -> None:
    model, phrases = training_model(flavour), class_phrases()
    batch = chat_of(sample(), *four_samples()[:1], flavour=flavour)
    assert batch.images["pixel_values"].shape == (2, 3, 28, 28)
    losses = chat_losses(model, phrases, CRITERIA, batch)
    assert_finite(losses, {"language", "class_loss", "phrase_loss", "phrase_loss_class_aux0"})
    losses["loss"].backward()
    detached = model.config.detach_grounding
    states, _ = model.phrase_states(torch.ones(1, 1, 32, requires_grad=True), torch.tensor([[8]]))
    assert states.requires_grad != detached


def overfit(
    losses_of: Callable[[LlavaGroundingForConditionalGeneration, ClassPhrases], dict[str, Tensor]], steps: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Losses before and after some steps on the same batch."""
    model, phrases = training_model(), class_phrases()
    optimizer = torch.optim.AdamW([*model.parameters(), *phrases.parameters()], lr=1e-2)
    first: dict[str, float] = {}
    for _ in range(steps):
        losses = losses_of(model, phrases)
        first = first or {name: float(value.detach()) for name, value in losses.items()}
        optimizer.zero_grad()
        losses["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return first, {name: float(value.detach()) for name, value in losses.items()}


@pytest.mark.slow
def test_four_pictures_can_be_overfit() -> None:
    batch = classes_of(*four_samples())
    first, last = overfit(lambda model, phrases: pretrain_losses(model, phrases, CRITERIA, batch), 40)
    assert last["loss"] < 0.3 * first["loss"]
    for name in ("loss_class", "loss_mask", "loss_box", "loss_giou", "naming", "cells"):
        assert last[name] < 0.5 * first[name], name
