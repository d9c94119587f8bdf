"""A float32 model in a mixed-precision loop: every way to an answer works under autocast, in whole or in part."""

from __future__ import annotations

import pytest
import torch

from tiny_model import picture, saying, tiny_chat

KINDS = ["shared", "separate"]
IMAGE = picture(3)
WORDS = "<g_s> The dog <g_e> <seg> and <g_s> a cat <g_e> <seg>."


def half() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16)


@pytest.mark.parametrize("kind", KINDS)
def test_questions_phrases_and_prompts_are_answered_under_autocast(kind: str) -> None:
    chat = tiny_chat(kind)
    with saying(chat, WORDS, WORDS):
        wanted = chat.ask(IMAGE, "Where is the dog?")
        with half():
            answer = chat.ask(IMAGE, "Where is the dog?")
    assert sum(len(phrase.regions) for phrase in wanted.phrases) > 0
    assert sum(len(phrase.regions) for phrase in answer.phrases) > 0
    scores = [phrase.score for phrase in wanted.phrases]
    assert [phrase.score for phrase in answer.phrases] == pytest.approx(scores, abs=0.1)
    with half():
        assert len(chat.ground(IMAGE, ["the dog", "a cat"])) == 2
        chat.ask_batch([(IMAGE, "Where is the dog?")] * 2, max_new_tokens=4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", [True, False])
def test_a_dialogue_may_enter_and_leave_autocast(kind: str, first: bool) -> None:
    chat = tiny_chat(kind)
    with saying(chat, WORDS, WORDS):
        with torch.autocast("cpu", torch.bfloat16, enabled=first):
            talk = chat.conversation(IMAGE)
            talk.ask("Where is the dog?")
        with torch.autocast("cpu", torch.bfloat16, enabled=not first):
            answer = talk.ask("Where is the dog?")
    assert len(answer.phrases) == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("inside", ["generate", "ground", "select", "all"])
def test_each_step_of_the_standard_way_may_be_under_autocast(kind: str, inside: str) -> None:
    chat = tiny_chat(kind)
    model, processor = chat.model, chat.processor
    seg = processor.tokens.ids.seg
    inputs = processor(images=IMAGE, text="Where is the dog?")

    def on(step: str) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=inside in (step, "all"))

    with on("generate"):
        generated = model.generate(
            **inputs,
            max_new_tokens=4,
            do_sample=False,
            return_dict_in_generate=True,
            output_hidden_states=True,
            sequence_bias=[[[seg], 1e4]],
        )
    with on("ground"):
        phrases = model.ground_generated(generated, **inputs)
    assert phrases.phrase_mask.any()
    with on("select"):
        found = processor.post_process_grounding(generated, phrases, **inputs)
    assert len(found) == 1
