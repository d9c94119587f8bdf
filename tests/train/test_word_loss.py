"""Object tokens that say what they are: the words of each thing, and the loss by hand."""

from dataclasses import replace

import pytest
import torch
from hand_made import DOG, LEFT_CAT, NAMES, sample
from small_training import class_phrases, training_model, training_processor

from llava_grounding.data.sample import Sample
from llava_grounding.train.batching.batches import class_batch, encode_sample_image, thing_words
from llava_grounding.train.losses.class_losses import class_losses
from llava_grounding.train.losses.criteria import Criteria
from llava_grounding.train.losses.word_loss import word_loss

INDEX = {name: column for column, name in enumerate(NAMES, start=1)}


def samples() -> list[Sample]:
    red_dog = replace(DOG, attributes=("red",))
    return [sample((red_dog, LEFT_CAT), ()), sample((), ()), sample((LEFT_CAT,), ())]


def test_words_are_name_and_attributes_as_they_stand_in_a_sentence() -> None:
    tokens = training_processor().tokens
    words = thing_words(samples(), tokens)
    assert words.shape[0] == 3
    said = [tokens.decode(row[row >= 0].tolist()) for row in words]
    assert said == [" dog red", " cat", " cat"]
    assert words[0, -1] >= 0
    assert words[1, -1] == -100


def test_a_thing_without_a_name_has_no_words() -> None:
    words = thing_words([sample((replace(DOG, category=""), LEFT_CAT), ())], training_processor().tokens)
    assert (words[0] == -100).all()
    assert (words[1] >= 0).any()


def test_without_things_there_are_no_words() -> None:
    assert thing_words([sample((), ())], training_processor().tokens).shape == (0, 0)


@pytest.mark.parametrize("flavour", ["shared", "official"])
def test_the_loss_is_the_mean_over_the_words_of_all_matched_things(flavour: str) -> None:
    model, processor, criteria = training_model(flavour), training_processor(flavour), Criteria.of(None)
    batch = class_batch(samples(), [encode_sample_image(processor, one) for one in samples()], processor, INDEX)
    memory = model.grounder.encode_image(batch.images["grounder_pixel_values"])
    found = class_losses(model, class_phrases(), criteria, memory, batch)
    output, result = found.grounding, found.matched
    words = thing_words(samples(), processor.tokens)
    loss = word_loss(model, output, result, words)
    if flavour == "official":  # its image tokens are no objects
        assert loss == 0
        return
    tokens = model.multi_modal_projector(model.vision_tower.object_tokens(output))
    log_probabilities = []
    for image, query, thing in zip(
        result.pairs.image_index, result.pairs.queries[0], result.pairs.targets[0], strict=True
    ):
        logits = model.lm_head(model.language_model.norm(tokens[image, query]))
        log_probabilities += [logits.log_softmax(-1)[word] for word in words[thing] if word >= 0]
    torch.testing.assert_close(loss, -torch.stack(log_probabilities).mean())
    loss.backward()
    assert model.vision_tower.object_in.weight.grad.abs().max() > 0
    assert bool(torch.isfinite(model.vision_tower.object_in.weight.grad).all())


def test_batches_without_things_give_zero() -> None:
    model, processor, criteria = training_model(), training_processor(), Criteria.of(None)
    bare = [sample((), ())]
    batch = class_batch(bare, [encode_sample_image(processor, one) for one in bare], processor, INDEX)
    memory = model.grounder.encode_image(batch.images["grounder_pixel_values"])
    found = class_losses(model.eval(), class_phrases(), criteria, memory, batch)
    assert word_loss(model, found.grounding, found.matched, thing_words(bare, processor.tokens)) == 0
