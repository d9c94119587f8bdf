"""GroundedChat: one question, batches, phrases and limits; on tiny random models of both kinds."""

from __future__ import annotations

import io
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from answer_checks import (
    BOX,
    CHATS,
    CLICK,
    KINDS,
    RAW,
    SCRIBBLE,
    TEXT,
    assert_same_answers,
    assert_same_phrases,
    counting,
    direct_answer,
    mask_prompt,
)
from llava_grounding.errors import ImageError, LlavaGroundingError, PromptError, UsageError
from llava_grounding.inference.conversation import AnswerDone, RegionsFound, TextDelta
from llava_grounding.inference.engine import GroundedChat, Question
from llava_grounding.markup import parse
from llava_grounding.structures import GroundedAnswer, GroundedPhrase, Message, VisualPrompt
from tiny_model import picture, saying, tiny_config, tiny_processor, tiny_weights

# One question


@KINDS
def test_an_answer_is_that_of_one_pass_over_the_whole_dialogue(kind: str) -> None:
    chat = CHATS[kind]
    with saying(chat, RAW):
        answer = chat.ask(picture(), "Describe the image.")
    assert answer.text == TEXT
    assert answer.raw == RAW
    assert answer.model == f"tiny-{kind}"
    assert answer.image_size_wh == (90, 60)
    assert answer.image is not None
    assert answer.completion_tokens == len(chat.processor.tokens.encode_answer(" " + RAW))
    assert any(phrase.regions for phrase in answer.phrases)
    assert_same_phrases(answer.phrases, direct_answer(chat, RAW, "Describe the image."))


@KINDS
def test_without_a_script_the_likeliest_tokens_are_written(kind: str) -> None:
    chat = CHATS[kind]
    answer = chat.ask(picture(), "Describe the image.", max_new_tokens=6)
    image = chat.processor.encode_image(picture())
    text = chat.processor.encode_question(Message("user", "Describe the image."), True, True, image.letterbox)
    ids = list(text.input_ids)
    with torch.inference_mode():
        features = chat.model.encode_image(**chat.processor.collate_images([image]))
        for _ in range(6):
            logits = chat.model(input_ids=torch.tensor([ids]), image_features=features).logits
            ids.append(int(logits[0, -1].argmax()))
    assert answer.raw == chat.processor.tokens.decode(ids[len(text.input_ids) :]).removeprefix(" ")
    assert answer.prompt_tokens == len(text.input_ids)


def test_sampling_repeats_with_a_seed_and_differs_without() -> None:
    def texts(seed: int | None) -> list[str]:
        return [
            CHATS["shared"].ask(picture(), "What?", max_new_tokens=8, temperature=2, seed=seed).raw for _ in range(2)
        ]

    assert texts(3)[0] == texts(3)[1]
    assert texts(3)[0] != texts(4)[0]
    assert texts(None)[0] != texts(None)[1]


def test_every_way_of_giving_an_image_gives_the_same_answer(tmp_path: Path) -> None:
    image = picture()
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    (tmp_path / "picture.png").write_bytes(buffer.getvalue())
    answers = []
    for source in (
        image,
        np.asarray(image),
        buffer.getvalue(),
        tmp_path / "picture.png",
        str(tmp_path / "picture.png"),
    ):
        with saying(CHATS["shared"], RAW):
            answers.append(CHATS["shared"].ask(source, "Describe the image."))
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize("size", [(1, 1), (2000, 3), (3, 2000)])
def test_images_of_any_shape_are_answered(size: tuple[int, int]) -> None:
    for chat in CHATS.values():
        with saying(chat, RAW):
            answer = chat.ask(picture(size_wh=size), "Describe the image.")
        assert answer.image_size_wh == size
        for phrase in answer.phrases:
            for region in phrase.regions:
                assert (region.box_xyxy >= 0).all()
                assert (region.box_xyxy[2:] <= size).all()


@KINDS
def test_what_is_pointed_at_changes_what_the_model_reads(kind: str) -> None:
    chat = CHATS[kind]
    states: list[torch.Tensor] = []
    handle = chat.model.language_model.register_forward_hook(
        lambda _module, _args, output: states.append(output.last_hidden_state[0, -1])
    )
    for prompt in (CLICK, BOX, SCRIBBLE, mask_prompt(), VisualPrompt.click(80, 10)):
        chat.ask(picture(), "What is <region>?", prompts=[prompt], max_new_tokens=1)
    handle.remove()
    assert len(states) == 5
    distances = torch.cdist(torch.stack(states), torch.stack(states))
    assert float(distances[~torch.eye(5, dtype=torch.bool)].min()) > 0.05


@KINDS
def test_the_kth_region_takes_the_kth_prompt(kind: str) -> None:
    chat = CHATS[kind]
    question = "Is <region> like <region>?"
    one = chat.ask(picture(), question, prompts=[CLICK, BOX], max_new_tokens=12)
    other = chat.ask(picture(), question, prompts=[BOX, CLICK], max_new_tokens=12)
    assert one.raw != other.raw
    assert one == chat.ask(picture(), question, prompts=(CLICK, BOX), max_new_tokens=12)


def test_without_grounding_an_answer_has_no_phrases() -> None:
    chat = CHATS["shared"]
    with saying(chat, RAW):
        answer = chat.ask(picture(), "Describe the image.", grounded=False)
    assert (answer.text, answer.raw, answer.phrases) == (TEXT, RAW, ())
    with counting(chat) as fed, saying(chat, RAW):
        chat.ask(picture(), "Describe the image.", grounded=True)
    assert fed[0] == answer.prompt_tokens + len(chat.processor.tokens.encode_plain(" (with grounding)"))


def test_nothing_that_is_returned_hangs_on_a_graph_and_the_model_is_left_evaluating() -> None:
    config = tiny_config()
    model = tiny_weights(config).train()
    chat = GroundedChat(model, tiny_processor(config))
    assert not model.training
    with saying(chat, RAW):
        chat.ask(picture(), "Describe the image.")
    assert not torch.is_inference_mode_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())


# What models write


@pytest.mark.parametrize(
    ("raw", "text", "phrases"),
    [
        ("", "", []),
        ("Yes.", "Yes.", []),
        ("<g_s> a dog <g_e>", "a dog", []),
        ("<g_s> a dog", "a dog", []),
        ("<seg><seg>", "", []),
        ("A <seg> dog <g_e> <seg>", "A dog", []),
        ("<g_s> a <g_s> red dog <g_e> <seg>", "a red dog", ["red dog"]),
        ("<g_s> a dog <g_e> <seg> <seg> <g_s> a cat <g_e> <seg>", "a dog a cat", ["a dog", "a cat"]),
        ("<g_s> 🐕‍🦺 <g_e> <seg> é", "🐕‍🦺 é", ["🐕‍🦺"]),
        ("<g_e> <g_s> <g_e> <seg> x", " x", []),
    ],
)
@KINDS
def test_broken_markup_is_plain_text(kind: str, raw: str, text: str, phrases: list[str]) -> None:
    chat = CHATS[kind]
    ids = markup_ids(chat, raw)
    with saying(chat, ids):
        answer = chat.ask(picture(), "Describe the image.")
    assert answer.text.split() == text.split()
    assert [phrase.text for phrase in answer.phrases] == phrases
    for phrase in answer.phrases:
        assert answer.text[slice(*phrase.span)] == phrase.text


def markup_ids(chat: GroundedChat, raw: str) -> list[int]:
    """Ids in which every special token counts, wherever it stands, as a model may write them."""
    ids: list[int] = []
    tokens = chat.processor.tokens
    names = {"<g_s>": tokens.ids.phrase_start, "<g_e>": tokens.ids.phrase_end, "<seg>": tokens.ids.seg}
    rest = raw
    while rest:
        found = (
            min((rest.find(name), name) for name in names if name in rest) if any(n in rest for n in names) else None
        )
        if found is None:
            ids += tokens.encode_plain(rest)
            break
        ids += [*tokens.encode_plain(rest[: found[0]]), names[found[1]]]
        rest = rest[found[0] + len(found[1]) :]
    return [*ids, tokens.ids.eos]


def test_markup_spelled_out_in_plain_tokens_shifts_no_regions() -> None:
    chat = CHATS["shared"]
    tokens = chat.processor.tokens
    spelled = tokens.encode_plain(" <g_s> a bus <g_e> <seg> and")
    assert tokens.ids.seg not in spelled
    real = tokens.encode_answer(" <g_s> a dog <g_e> <seg>.")
    with saying(chat, [*spelled, *real, tokens.ids.eos]):
        talk = chat.conversation(picture())
        events = list(talk.stream("Describe the image."))
    answer = talk.answers[0]
    assert [phrase.text for phrase in answer.phrases] == ["a bus", "a dog"]
    bus, dog = answer.phrases
    assert (bus.regions, bus.score) == ((), 0.0)
    assert dog.score > 0
    assert [event.phrase.text for event in events if isinstance(event, RegionsFound)] == ["a dog"]
    assert [event.phrase.id for event in events if isinstance(event, RegionsFound)] == [1]


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(ids=st.lists(st.one_of(st.integers(0, 20), st.sampled_from([6, 7, 8, 6, 7, 8, 9, 230, 300])), max_size=16))
def test_whatever_a_model_writes_stream_and_answer_agree(ids: list[int]) -> None:
    chat = CHATS["shared"]
    with saying(chat, [*ids, 1], [*ids, 1]):
        answer = chat.ask(picture(), "Describe the image.")
        events = list(chat.conversation(picture()).stream("Describe the image."))
    assert events[-1] == AnswerDone(answer)
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == answer.text
    assert answer.text == parse(answer.raw).text
    found = [event.phrase for event in events if isinstance(event, RegionsFound)]
    assert [(phrase.id, phrase.text, phrase.span) for phrase in found] == [
        (phrase.id, phrase.text, phrase.span) for phrase in answer.phrases
    ]


@KINDS
@pytest.mark.parametrize("limit", range(1, 12))
def test_an_answer_cut_anywhere_is_whole_text_and_whole_phrases(kind: str, limit: int) -> None:
    chat = CHATS[kind]
    raw = "See <g_s> a dog <g_e> <seg> and <g_s> cats <g_e> <seg>."
    ids = chat.processor.tokens.encode_answer(" " + raw)
    assert len(ids) > limit
    with saying(chat, raw, raw):
        answer = chat.ask(picture(), "Describe the image.", max_new_tokens=limit)
        *_, done = chat.conversation(picture()).stream("Describe the image.", max_new_tokens=limit)
    assert done == AnswerDone(answer)
    assert answer.completion_tokens == limit
    assert len(answer.phrases) == ids[:limit].count(chat.processor.tokens.ids.seg)
    assert "See a dog and cats".startswith(answer.text.rstrip())
    assert all(phrase.score > 0 for phrase in answer.phrases)


# Batches


def batch_questions() -> list[Question]:
    drawn = [CLICK, SCRIBBLE, mask_prompt((64, 64))]
    return [
        Question(picture(0), "Describe the image."),
        Question(picture(1, (30, 80)), "What is <region>?", [VisualPrompt.box(5, 5, 20, 30)]),
        Question(picture(0), "How many dogs are there, and is there a horse to the left of the big dog?", (), False),
        Question(picture(2, (64, 64)), "Is <region> or <region> or <region> big?", drawn),
        Question(picture(3, (1, 1)), "Hi?"),
    ]


BATCH_RAWS = (RAW, "It is <g_s> a dog <g_e> <seg>.", RAW, "No.", "<g_s> dog <g_e> <seg> <g_s> cut")


@cache
def one_by_one(kind: str) -> list[GroundedAnswer]:
    answers = []
    for question, raw in zip(batch_questions(), BATCH_RAWS, strict=True):
        with saying(CHATS[kind], raw):
            answers.append(CHATS[kind].ask(question.image, question.question, question.prompts, question.grounded))
    return answers


@KINDS
@pytest.mark.parametrize("batch_size", [2, 16])
def test_a_batch_equals_its_questions_one_by_one(kind: str, batch_size: int) -> None:
    with saying(CHATS[kind], *BATCH_RAWS):
        together = CHATS[kind].ask_batch(batch_questions(), batch_size=batch_size)
    for answer, alone in zip(together, one_by_one(kind), strict=True):
        assert_same_answers(answer, alone)
    assert any(phrase.regions for phrase in together[0].phrases)
    assert together[2].phrases == ()


@KINDS
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_batch_without_a_script_equals_its_questions_one_by_one(kind: str, temperature: float) -> None:
    chat = CHATS[kind]
    settings = {"max_new_tokens": 6, "temperature": temperature, "seed": 5}
    together = chat.ask_batch(batch_questions()[:3], **settings)
    for question, answer in zip(batch_questions(), together, strict=False):
        alone = chat.ask(question.image, question.question, question.prompts, question.grounded, **settings)
        assert_same_answers(answer, alone)


def test_a_batch_takes_tuples_and_mappings_and_may_be_empty() -> None:
    chat, image = CHATS["shared"], picture()
    raws = ["A dog.", "Two cats.", "No."]
    with saying(chat, *raws):
        answers = chat.ask_batch(
            [(image, "What?"), {"image": image, "question": "Who?", "grounded": False}, Question(image, "Why?")]
        )
    assert [answer.text for answer in answers] == raws
    assert chat.ask_batch([]) == []


def test_an_image_of_several_questions_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    chat, sizes = CHATS["shared"], []
    encode = chat.model.encode_image
    monkeypatch.setattr(
        chat.model,
        "encode_image",
        lambda **pixels: sizes.append(len(pixels["grounder_pixel_values"])) or encode(**pixels),
    )
    image = picture()
    with saying(chat, "A dog.", "Two cats.", "No."):
        chat.ask_batch([(image, "What?"), (picture(1), "Who?"), (image, "Why?")])
    assert sizes == [2]


@pytest.mark.parametrize(
    ("question", "error", "words"),
    [
        ((picture(), ""), PromptError, "question 1: the question must not be empty"),
        ((picture(), "<region>?"), PromptError, "question 1: the question must have one <region> per region prompt"),
        (("none.png", "What?"), ImageError, "question 1: .*none.png"),
        ((picture(), "<region>?", [VisualPrompt.click(-1, 5)]), PromptError, "question 1: a click must lie inside"),
        ((picture(),), UsageError, r"question 1 must have the fields image, question, .*, got a tuple of 1"),
        ({"picture": 1}, UsageError, "question 1 must have the fields .*, got a mapping with `picture`"),
        (3, UsageError, "question 1 must have the fields .*, got a int"),
    ],
)
def test_a_question_of_a_batch_that_cannot_be_asked_is_numbered(
    question: Any, error: type[LlavaGroundingError], words: str
) -> None:
    with pytest.raises(error, match=words):
        CHATS["shared"].ask_batch([(picture(), "What?"), question], batch_size=1, max_new_tokens=1)


def test_the_batch_size_must_be_a_number() -> None:
    with pytest.raises(UsageError, match="batch_size must be a whole number from 1 on, got 0"):
        CHATS["shared"].ask_batch([(picture(), "What?")], batch_size=0)


# Phrases


@KINDS
def test_grounding_a_phrase_is_a_forced_referring_turn(kind: str) -> None:
    chat = CHATS[kind]
    phrases = ["the red dog", " two white cats to the left ", "it"]
    found = chat.ground(picture(), phrases)
    assert [(phrase.id, phrase.text, phrase.span) for phrase in found] == [
        (0, "the red dog", (0, 11)),
        (1, "two white cats to the left", (0, 26)),
        (2, "it", (0, 2)),
    ]
    assert any(phrase.regions for phrase in found)
    for phrase, said in zip(found, ["The red dog", "Two white cats to the left", "It"], strict=True):
        (direct,) = direct_answer(chat, f"<g_s> {said} <g_e> <seg>.", f"Find {phrase.text}.")
        expected = GroundedPhrase(phrase.id, phrase.text, phrase.span, direct.regions, direct.score)
        assert_same_phrases([phrase], [expected])


@KINDS
def test_phrases_do_not_influence_each_other(kind: str) -> None:
    chat = CHATS[kind]
    phrases = [f"the {word} number {number}" for number in range(12) for word in ("dog", "very big red cat", "it")]
    together = chat.ground(picture(), phrases)
    assert len(together) == 36  # more than one pass
    for number in (0, 7, 35):
        (alone,) = chat.ground(picture(), [phrases[number]])
        expected = GroundedPhrase(number, alone.text, alone.span, alone.regions, alone.score)
        assert_same_phrases([together[number]], [expected])


@KINDS
def test_phrases_in_many_images_are_found_as_in_each(kind: str) -> None:
    chat, phrases = CHATS[kind], ["the red dog", "it"]
    images = [picture(0), picture(1, (30, 80)), picture(3, (1, 1))]
    for found, image in zip(chat.ground_batch(images, phrases, batch_size=2), images, strict=True):
        assert_same_phrases(found, chat.ground(image, phrases))


def test_many_images_are_any_iterable_and_a_bad_one_is_named_by_its_number() -> None:
    chat = CHATS["shared"]
    one = [picture(0), picture(1)]
    assert len(chat.ground_batch(iter(one), ["it"], batch_size=1)) == 2
    with pytest.raises(ImageError, match=r"^image 2: "):
        chat.ground_batch([*one, "not_there.png"], ["it"], batch_size=2)
    for wrong in ("photo.png", b"photo", Path("photo.png"), 5):
        with pytest.raises(UsageError, match="images must be a list of images, got"):
            chat.ground_batch(wrong, ["it"])


def test_a_threshold_says_which_regions_are_kept() -> None:
    chat, phrases, images = CHATS["shared"], ["the red dog", "it"], [picture(0)]
    (found,) = chat.ground_batch(images[:1], phrases, 0.0)
    scores = sorted(score for phrase in found for score in phrase.scores)
    middle = float(scores[0] + scores[-1]) / 2
    (fewer,) = chat.ground_batch(images[:1], phrases, middle)
    kept = [score for phrase in fewer for score in phrase.scores]
    assert all(score >= middle for score in kept)
    assert 0 < len(kept) < len(scores)
    with saying(chat, RAW):
        (answer,) = chat.ask_batch([(images[0], "What?")], score_threshold=1.0)
    with saying(chat, RAW):
        one = chat.ask(images[0], "What?", score_threshold=1.0)
    with saying(chat, RAW):
        *_, streamed = chat.conversation(images[0]).stream("What?", score_threshold=1.0)
    assert (answer.text, [phrase.regions for phrase in answer.phrases]) == (TEXT, [()] * 3)
    assert one.to_dict() == streamed.answer.to_dict() == answer.to_dict()
    alone = chat.ground(images[0], phrases, middle)
    assert [phrase.scores.tolist() for phrase in alone] == [phrase.scores.tolist() for phrase in fewer]
    assert chat.ground_batch([], phrases) == []
    assert chat.ground_batch(images[:1], iter(phrases), middle) == [fewer]
    calls = (
        lambda: chat.ground_batch(images, phrases, 1.5),
        lambda: chat.ground(images[0], phrases, -0.1),
        lambda: chat.ask_batch([], score_threshold="0.5"),
        lambda: chat.ask(images[0], "What?", score_threshold=float("nan")),
        lambda: chat.ask(images[0], "What?", score_threshold=True),
    )
    for call in calls:
        with pytest.raises(UsageError, match=r"^score_threshold must be a number from 0 to 1, got "):
            call()


def test_phrases_that_cannot_be_grounded_are_refused() -> None:
    chat = CHATS["shared"]
    assert chat.ground(picture(), []) == []
    with pytest.raises(PromptError, match="a phrase to ground must not be empty"):
        chat.ground(picture(), ["a dog", " "])
    with pytest.raises(PromptError, match="must hold no special tokens, got `<seg>`"):
        chat.ground(picture(), ["a <seg> dog"])
    with pytest.raises(UsageError, match=r'phrases must be a list of texts, as in \["a dog"\], got one text'):
        chat.ground(picture(), "a dog")


# Limits


def test_a_question_has_at_most_32_regions() -> None:
    chat = CHATS["shared"]
    with saying(chat, "Yes."):
        assert chat.ask(picture(), "<region>" * 32, prompts=[CLICK] * 32).text == "Yes."
    with pytest.raises(PromptError, match="a question may have at most 32 region prompts, got 33"):
        chat.ask(picture(), "<region>" * 33, prompts=[CLICK] * 33)


def test_prompts_phrases_and_flags_without_end_are_not_read_to_it() -> None:
    chat = CHATS["shared"]
    with pytest.raises(PromptError, match="a question may have at most 32 region prompts, got more"):
        chat.ask(picture(), "<region>", prompts=repeat(CLICK))  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="a message must have at most 10000 prompts, got more"):
        Message("user", "<region>", repeat(CLICK))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="phrases must be at most 10,000 at a time, got more"):
        chat.ground(picture(), repeat("a dog"))  # type: ignore[arg-type]
    talk = [Message("user", "Hi."), Message("assistant", "Hi.")]
    with pytest.raises(PromptError, match="got 2 messages and 2 values"):
        chat.conversation(picture(), talk, repeat(True))  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="prompts must be VisualPrompt values, got tuple"):
        chat.ask(picture(), "<region>?", prompts=[(1, 2)])  # type: ignore[list-item]
    with pytest.raises(UsageError, match="the question must be text, got int"):
        chat.ask(picture(), 3)  # type: ignore[arg-type]


def test_an_answer_has_at_most_2000_tokens() -> None:
    with pytest.raises(UsageError, match="max_new_tokens must be a whole number from 1 to 2000, got 2001"):
        CHATS["shared"].ask(picture(), "What?", max_new_tokens=2001)


def test_a_dialogue_longer_than_the_model_reads_is_refused_and_an_answer_ends_there() -> None:
    chat = CHATS["shared"]
    limit = chat.model.config.text_config.max_position_embeddings
    with pytest.raises(UsageError, match=rf"the dialogue has \d+ tokens, but this model reads at most {limit}"):
        chat.ask(picture(), "What is this dog? " * 200)
    question = "dog" * 1
    while True:
        longer = question + " dog"
        image = chat.processor.encode_image(picture())
        ids = chat.processor.encode_question(Message("user", longer), True, True, image.letterbox).input_ids
        if len(ids) > limit - 5:
            break
        question = longer
    answer = chat.ask(picture(), question, max_new_tokens=100)
    assert answer.prompt_tokens + answer.completion_tokens <= limit
    (batched,) = chat.ask_batch([(picture(), question)], max_new_tokens=100)
    assert_same_answers(batched, answer)
