"""Turns that do not see each other: one joined sequence gives what as many separate ones give."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hand_made import TURNS, sample
from small_training import training_model, training_processor
from torch import Tensor

from llava_grounding.data.sample import Sample
from llava_grounding.errors import DataError
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.train.batching.batches import ChatBatch, ChatItem, chat_item, choose_turns, collate_chat
from llava_grounding.train.losses.step_losses import forward_dialogues


def joined(one: Sample, flavour: str, max_turns: int = 10, max_tokens: int | None = None) -> ChatItem:
    rng = np.random.default_rng(3)
    return chat_item(one, training_processor(flavour), max_turns, rng, max_tokens, independent=True)


def separate(one: Sample, flavour: str, max_turns: int = 10) -> list[ChatItem]:
    """The same dialogues in the same order, a sequence each."""
    groups = choose_turns(one, max_turns, np.random.default_rng(3))
    alone = [replace(one, turns=tuple(group), ordered=True) for group in groups]
    return [chat_item(part, training_processor(flavour), max_turns, np.random.default_rng(0)) for part in alone]


def read(model: LlavaGroundingForConditionalGeneration, batch: ChatBatch) -> tuple[float, Tensor, dict[str, Tensor]]:
    """Language loss, the states of all phrases one after the other, and gradients."""
    model.zero_grad()
    output = forward_dialogues(model, batch, model.encode_image(**batch.images))
    output.loss.backward()
    states, found = model.phrase_states(output.last_hidden_state, batch.texts["input_ids"])
    gradients = {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}
    return float(output.loss.detach()), states[found].detach(), gradients


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("flavour", ["shared", "official"])
def test_losses_states_and_gradients_are_those_of_separate_sequences(flavour: str, attention: str) -> None:
    samples = [sample(), sample(turns=TURNS[1:2]), sample(turns=TURNS[2:])]
    model = training_model(flavour).eval()
    model.language_model.set_attn_implementation(attention)
    processor = training_processor(flavour)
    together = collate_chat([joined(one, flavour) for one in samples], processor)
    apart = collate_chat([item for one in samples for item in separate(one, flavour)], processor)
    assert len(together) == 3
    assert len(apart) > 6
    assert torch.equal(together.counts[:1], apart.counts[:1])
    image_tokens = (len(apart) - len(together)) * processor.settings.image_sequence_length
    assert apart.texts["attention_mask"].sum() - together.texts["attention_mask"].sum() >= image_tokens
    loss, states, gradients = read(model, together)
    other_loss, other_states, other_gradients = read(model, apart)
    assert loss == pytest.approx(other_loss, rel=1e-5)
    torch.testing.assert_close(states, other_states, rtol=1e-4, atol=1e-4)
    assert gradients.keys() == other_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, other_gradients[name], rtol=2e-3, atol=1e-5, msg=name)


def test_a_dialogue_that_has_its_order_stays_one() -> None:
    assert joined(replace(sample(), ordered=True), "shared").branches is None


def test_what_is_too_long_loses_its_last_turns() -> None:
    whole = joined(sample(), "shared")
    assert whole.branches is not None
    length, count = len(whole.text.input_ids), max(whole.branches.numbers)
    cut = joined(sample(), "shared", max_tokens=length - 1)
    assert len(cut.text.input_ids) < length
    assert cut.branches is None or max(cut.branches.numbers) in (count - 1, count)
    assert cut.text.input_ids == whole.text.input_ids[: len(cut.text.input_ids)]
    with pytest.raises(DataError, match=r"takes \d+ tokens of 20 allowed"):
        joined(sample(), "shared", max_tokens=20)
