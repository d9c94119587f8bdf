"""`generate` of transformers: the image once, the same tokens as the engine, and the regions without a second pass."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch

from llava_grounding.errors import UsageError
from llava_grounding.inference.engine import GroundedChat, Question
from llava_grounding.structures import GroundedAnswer, VisualPrompt
from tiny_model import picture, saying, tiny_chat

LENGTH = 12
PLACES = [VisualPrompt.box(10, 5, 60, 50), VisualPrompt.scribble([(5, 5), (40, 50)])]
QUESTIONS = [
    Question(picture(1), "What is <region>, and the big dog next to it?", (PLACES[0],)),
    Question(picture(2), "Where?"),
    Question(picture(1), "Is <region> <region>?", tuple(PLACES[::-1])),
]
KINDS = ["shared", "separate"]


def encode(chat: GroundedChat, questions: list[Question]) -> dict[str, Any]:
    chats = []
    for question in questions:
        parts = [{"type": "image", "image": question.image}, {"type": "text", "text": question.question}]
        for prompt in question.prompts:
            place = {"box": prompt.box_xyxy} if prompt.kind == "box" else {prompt.kind: prompt.points_xy}
            parts.append({"type": "region", **place})
        chats.append([{"role": "user", "content": parts}])
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
    return dict(chat.processor.apply_chat_template(chats, **options))


def new_tokens(chat: GroundedChat, sequences: torch.Tensor, inputs: dict[str, Any]) -> list[list[int]]:
    """Of every row, up to and with its end token."""
    rows = []
    for row in sequences[:, inputs["input_ids"].shape[1] :].tolist():
        end = chat.processor.tokens.ids.eos
        rows.append(row[: row.index(end) + 1] if end in row else row)
    return rows


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_generation_writes_what_the_engine_writes(kind: str) -> None:
    chat = tiny_chat(kind)
    inputs = encode(chat, QUESTIONS)
    sequences = chat.model.generate(**inputs, max_new_tokens=LENGTH, do_sample=False)
    answers = chat.ask_batch(QUESTIONS, max_new_tokens=LENGTH)
    texts = [chat.processor.tokens.decode(row) for row in new_tokens(chat, sequences, inputs)]
    prefix = chat.processor.settings.template.answer_prefix
    assert [text.removeprefix(prefix) for text in texts] == [answer.raw for answer in answers]
    alone = encode(chat, QUESTIONS[1:2])
    sequence = chat.model.generate(**alone, max_new_tokens=LENGTH, do_sample=False)
    assert new_tokens(chat, sequence, alone) == new_tokens(chat, sequences, inputs)[1:2]


@pytest.mark.parametrize("use_cache", [True, False])
def test_an_image_is_encoded_once(use_cache: bool) -> None:
    chat = tiny_chat("separate")
    inputs = encode(chat, QUESTIONS)
    with (
        mock.patch.object(chat.model, "encode_image", wraps=chat.model.encode_image) as looks,
        mock.patch.object(chat.model, "with_prompt_memory", wraps=chat.model.with_prompt_memory) as prompt_looks,
        mock.patch.object(chat.model, "encode_regions", wraps=chat.model.encode_regions) as reads,
    ):
        sequences = chat.model.generate(**inputs, max_new_tokens=4, do_sample=False, use_cache=use_cache, num_beams=2)
    assert looks.call_count == prompt_looks.call_count == 1
    assert reads.call_count == 1 or not use_cache
    cached = chat.model.generate(**inputs, max_new_tokens=4, do_sample=False, num_beams=2)
    assert torch.equal(sequences, cached)


def script(chat: GroundedChat, raws: list[str]) -> Any:
    """A logits processor that puts answers into the model's mouth."""
    tokens, prefix = chat.processor.tokens, chat.processor.settings.template.answer_prefix
    rows = [[*tokens.encode_answer(prefix + raw), tokens.ids.eos] for raw in raws]
    start: list[int] = []

    def speak(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        start[:] = start or [ids.shape[1]]
        step = ids.shape[1] - start[0]
        forced = torch.full_like(scores, -1e4)
        times = len(scores) // len(rows)
        for row in range(len(scores)):
            script_row = rows[row // times]
            forced[row, script_row[step] if step < len(script_row) else tokens.ids.pad] = 0
        return forced

    return speak


RAWS = [
    "<g_s> The dog <g_e> <seg> is left of <g_s> two cats <g_e> <seg>.",
    "No.",
    "It is <g_s> red <g_e> <seg>",
]


def assert_same(answer: GroundedAnswer, wanted: GroundedAnswer) -> None:
    assert (answer.raw, answer.text, answer.image_size_wh) == (wanted.raw, wanted.text, wanted.image_size_wh)
    assert (answer.prompt_tokens, answer.completion_tokens) == (wanted.prompt_tokens, wanted.completion_tokens)
    for phrase, other in zip(answer.phrases, wanted.phrases, strict=True):
        assert (phrase.text, phrase.span) == (other.text, other.span)
        assert phrase.score == pytest.approx(other.score, abs=1e-4)
        assert len(phrase.regions) == len(other.regions)
        for region, same in zip(phrase.regions, other.regions, strict=True):
            assert region.box_xyxy == pytest.approx(same.box_xyxy, abs=1e-2)


def wanted_answers(chat: GroundedChat) -> list[GroundedAnswer]:
    with saying(chat, *RAWS):
        return chat.ask_batch(QUESTIONS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beams", [1, 2])
def test_generated_phrases_get_the_engines_regions_without_reading_again(kind: str, beams: int) -> None:
    chat = tiny_chat(kind)
    inputs = encode(chat, QUESTIONS)
    wanted = wanted_answers(chat)
    assert any(phrase.regions for answer in wanted for phrase in answer.phrases)
    generated = chat.model.generate(
        **inputs,
        max_new_tokens=40,
        do_sample=False,
        num_beams=beams,
        logits_processor=[script(chat, RAWS)],
        return_dict_in_generate=True,
        output_hidden_states=True,
    )
    with mock.patch.object(type(chat.model), "forward", side_effect=AssertionError("read again")):
        found = chat.model.ground_generated(generated, **inputs)
    answers = chat.processor.post_process_grounding(generated, found, **inputs)
    for answer, other in zip(answers, wanted, strict=True):
        assert_same(answer, other)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_alone_are_read_once_more(kind: str) -> None:
    chat = tiny_chat(kind)
    inputs = encode(chat, QUESTIONS)
    options: dict[str, Any] = {"do_sample": False, "logits_processor": [script(chat, RAWS)]}
    sequences = chat.model.generate(**inputs, max_new_tokens=40, **options)
    answers = chat.processor.post_process_grounding(
        sequences, chat.model.ground_generated(sequences, **inputs), **inputs
    )
    for answer, other in zip(answers, wanted_answers(chat), strict=True):
        assert_same(answer, other)


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_cut_right_after_seg_keeps_its_last_phrase(kind: str) -> None:
    chat = tiny_chat(kind)
    inputs = encode(chat, QUESTIONS[:1])
    raw = "<g_s> The dog <g_e> <seg>"
    length = len(chat.processor.tokens.encode_answer(" " + raw))
    generated = chat.model.generate(
        **inputs,
        max_new_tokens=length,
        do_sample=False,
        logits_processor=[script(chat, [raw])],
        return_dict_in_generate=True,
        output_hidden_states=True,
    )
    (answer,) = chat.processor.post_process_grounding(
        generated, chat.model.ground_generated(generated, **inputs), **inputs
    )
    with saying(chat, raw):
        assert_same(answer, chat.ask_batch(QUESTIONS[:1], max_new_tokens=length)[0])


def test_several_answers_about_one_image_are_grounded_in_it() -> None:
    chat = tiny_chat("shared")
    inputs = encode(chat, QUESTIONS[:2])
    generated = chat.model.generate(
        **inputs,
        max_new_tokens=40,
        do_sample=True,
        num_return_sequences=2,
        logits_processor=[script(chat, RAWS[:2])],
        return_dict_in_generate=True,
        output_hidden_states=True,
    )
    answers = chat.processor.post_process_grounding(
        generated, chat.model.ground_generated(generated, **inputs), **inputs
    )
    wanted = wanted_answers(chat)
    for answer, other in zip(answers, [wanted[0], wanted[0], wanted[1], wanted[1]], strict=True):
        assert_same(answer, other)


def test_image_features_stand_in_for_pixels() -> None:
    chat = tiny_chat("shared")
    inputs = encode(chat, QUESTIONS[1:2])
    wanted = chat.model.generate(**inputs, max_new_tokens=6, do_sample=False)
    features = chat.model.encode_image(inputs.pop("grounder_pixel_values"))
    assert torch.equal(
        chat.model.generate(**inputs, image_features=features, max_new_tokens=6, do_sample=False), wanted
    )


def test_grounding_needs_an_image() -> None:
    chat = tiny_chat("shared")
    with pytest.raises(UsageError, match="give ground_generated the inputs that generate had"):
        chat.model.ground_generated(torch.tensor([[20, 21, 22]]), input_ids=torch.tensor([[20, 21]]))


def test_a_misspelt_argument_is_an_error() -> None:
    chat = tiny_chat("shared")
    with pytest.raises(ValueError, match="max_tokens"):
        chat.model.generate(**encode(chat, QUESTIONS[1:2]), max_tokens=3)
