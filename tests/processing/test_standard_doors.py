"""The processor in the forms of transformers: prompts and chats give the engine's own tensors, and text comes back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llava_grounding.errors import ImageError, LlavaGroundingError, PromptError, UsageError
from llava_grounding.processing.processor import LlavaGroundingProcessor
from llava_grounding.structures import Message, VisualPrompt
from tiny_model import picture, tiny_config, tiny_processor

PROCESSORS = {kind: tiny_processor(tiny_config(kind)) for kind in ("shared", "separate")}
PROCESSOR = PROCESSORS["shared"]
IMAGE = picture(0, (90, 60))
BOX = [10, 5, 60, 50]
ENCODE: dict[str, Any] = {"tokenize": True, "return_dict": True, "add_generation_prompt": True}


def ask(*parts: Any, image: Any = IMAGE) -> list[dict[str, Any]]:
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return [{"role": "user", "content": [{"type": "image", "image": image}, *content]}]


CHAT = [
    *ask("What is ", {"type": "region", "box": BOX}, "?"),
    {"role": "assistant", "content": [{"type": "text", "text": "It is <g_s> a dog <g_e> <seg>."}]},
    {"role": "user", "content": "Where is it?", "grounded": False},
]


def assert_equal(batch: Any, other: Any) -> None:
    assert batch.keys() == other.keys()
    for name, value in batch.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("kind", PROCESSORS)
def test_a_chat_becomes_the_tensors_of_the_engine(kind: str) -> None:
    processor = PROCESSORS[kind]
    batch = processor.apply_chat_template(CHAT, **ENCODE)
    image = processor.encode_image(IMAGE)
    messages = [
        Message("user", "What is <region>?", (VisualPrompt.box(*BOX),)),
        Message("assistant", "It is <g_s> a dog <g_e> <seg>."),
        Message("user", "Where is it?"),
    ]
    text = processor.encode_conversation(messages, [True, False], image.letterbox)
    assert batch["input_ids"].tolist() == [text.input_ids]
    assert batch["attention_mask"].all()
    for name, value in processor.collate_images([image]).items():
        assert torch.equal(batch[name], value)
    assert ("pixel_values" in batch) == (kind == "separate")
    assert batch["image_sizes"].tolist() == [[60, 90]]
    prompts = processor.collate_prompts([text.prompts])
    assert prompts is not None
    assert torch.equal(batch["region_boxes"], prompts.boxes_cxcywh)
    assert torch.equal(batch["region_types"], prompts.types)
    assert "region_coverage" not in batch
    assert set(batch) <= set(processor.model_input_names)


def test_a_rendered_chat_gets_the_same_tensors() -> None:
    text = PROCESSOR.apply_chat_template(CHAT, add_generation_prompt=True)
    assert_equal(PROCESSOR(IMAGE, text, [{"box": BOX}]), PROCESSOR.apply_chat_template(CHAT, **ENCODE))


def test_a_template_given_is_rendered_and_encoded() -> None:
    template = "{% for m in messages %}{{ m['role'] }}: <image> <region>{% endfor %}"
    chat = CHAT[:1]
    assert PROCESSOR.apply_chat_template(chat, template) == "user: <image> <region>"
    batch = PROCESSOR.apply_chat_template(chat, template, **ENCODE)
    assert_equal(batch, PROCESSOR(IMAGE, "user: <image> <region>", [{"box": BOX}]))


def test_a_batch_is_padded_on_the_side_asked_for() -> None:
    chats = [ask("What?"), ask("What is to the left of the two white cats?", image=picture(1))]
    left = PROCESSOR.apply_chat_template(chats, **ENCODE)
    right = PROCESSOR.apply_chat_template(chats, padding_side="right", **ENCODE)
    short = int(left["attention_mask"][0].sum())
    assert left["attention_mask"][0].tolist() == [0] * (left["input_ids"].shape[1] - short) + [1] * short
    assert right["attention_mask"][0, :short].all()
    assert torch.equal(left["input_ids"][0, -short:], right["input_ids"][0, :short])
    assert left["grounder_pixel_values"].shape[0] == 2


def test_a_plain_question_is_put_into_the_template() -> None:
    wanted = PROCESSOR.apply_chat_template(ask("Where is the dog?"), **ENCODE)
    assert_equal(PROCESSOR(IMAGE, "Where is the dog?"), wanted)
    assert_equal(PROCESSOR(images=[[IMAGE]], text=["Where is the dog?"]), wanted)
    plain = PROCESSOR.apply_chat_template(ask("Where is the dog?"), grounded=False, **ENCODE)
    assert_equal(PROCESSOR(IMAGE, "Where is the dog?", grounded=False), plain)
    assert plain["input_ids"].shape != wanted["input_ids"].shape


def test_images_may_stand_beside_the_chat_and_text_alone_needs_none() -> None:
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}]
    assert_equal(
        PROCESSOR.apply_chat_template(chat, images=IMAGE, **ENCODE),
        PROCESSOR.apply_chat_template(ask("What?"), **ENCODE),
    )
    alone = PROCESSOR.apply_chat_template([{"role": "user", "content": "What?"}], **ENCODE)
    assert set(alone) == {"input_ids", "attention_mask"}
    assert PROCESSOR.tokens.ids.image not in alone["input_ids"]


def test_what_a_message_says_is_never_a_special_token() -> None:
    ids = PROCESSOR.tokens.ids
    batch = PROCESSOR.apply_chat_template(ask("Say <seg> <image> </s> ASSISTANT: <g_s>"), **ENCODE)
    row = batch["input_ids"][0].tolist()
    assert row.count(ids.image) == PROCESSOR.settings.image_sequence_length
    assert {ids.seg, ids.eos, ids.phrase_start} & set(row) == set()


def test_an_answer_may_be_begun_for_the_model() -> None:
    begun = [*CHAT[:1], {"role": "assistant", "content": "It is"}]
    options = {**ENCODE, "add_generation_prompt": False}
    whole = PROCESSOR.apply_chat_template(begun, **options)["input_ids"]
    part = PROCESSOR.apply_chat_template(begun, continue_final_message=True, **options)["input_ids"]
    assert whole[0, -1] == PROCESSOR.tokens.ids.eos
    assert torch.equal(part, whole[:, :-1])
    text = PROCESSOR.apply_chat_template(begun, continue_final_message=True)
    assert torch.equal(PROCESSOR(IMAGE, text, [{"box": BOX}])["input_ids"], part)


def test_answers_can_be_marked_for_training() -> None:
    options = {**ENCODE, "add_generation_prompt": False}
    batch = PROCESSOR.apply_chat_template(CHAT[:2], return_assistant_tokens_mask=True, **options)
    learnt = batch["input_ids"][batch["assistant_masks"].bool()].tolist()
    assert PROCESSOR.tokens.decode(learnt) == " It is <g_s> a dog <g_e> <seg>."
    assert learnt[-1] == PROCESSOR.tokens.ids.eos


def test_a_batch_keeps_the_precision_of_places_and_of_the_canvas() -> None:
    batch = PROCESSORS["separate"].apply_chat_template(CHAT, **ENCODE).to("cpu", torch.bfloat16)
    kinds = {name: value.dtype for name, value in batch.items()}
    assert kinds.pop("pixel_values") == torch.bfloat16
    assert set(kinds.values()) == {torch.int64, torch.float32, torch.bool}
    assert batch.to(dtype=torch.float16)["pixel_values"].dtype == torch.float16


def test_generated_ids_become_plain_text_and_a_prompt_is_its_beginning() -> None:
    prompt = PROCESSOR.apply_chat_template(CHAT, **ENCODE)["input_ids"]
    answer = [*PROCESSOR.tokens.encode_answer(" It is <g_s> here <g_e> <seg>."), PROCESSOR.tokens.ids.eos]
    whole = torch.cat([prompt, torch.tensor([answer])], dim=1)
    (text,), (before,) = (PROCESSOR.post_process_image_text_to_text(ids) for ids in (whole, prompt))
    assert text == f"{before}It is here."
    (raw,) = PROCESSOR.post_process_image_text_to_text(whole, skip_special_tokens=False)
    assert raw.endswith("It is <g_s> here <g_e> <seg>.")
    assert PROCESSOR.post_process_image_text_to_text([answer]) == ["It is here."]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda p: p(IMAGE, "<image> <image>"), PromptError, "one <image> per image, got 2 for 1 image"),
        (lambda p: p(None, "<image> What?"), PromptError, "one <image> per image, got 1 for 0 images"),
        (lambda p: p([IMAGE, IMAGE], "What?"), PromptError, "one image per text, got 2 for 1 text"),
        (lambda p: p([[IMAGE, IMAGE]], "What?"), PromptError, "a text must be about one image, got 2"),
        (lambda p: p(IMAGE, "<image>\nWhat?", [{"box": BOX}]), PromptError, "one <region> per region"),
        (lambda p: p(IMAGE, "What is <region>?"), PromptError, "1 placeholder for 0 prompts"),
        (lambda p: p(None, "Is <region>?", [{"box": BOX}]), PromptError, "regions need an image"),
        (lambda p: p(IMAGE, ["What?"], [[], []]), PromptError, "one list of regions per text, got 2 for 1"),
        (lambda p: p("no.jpg", "What?"), ImageError, "no.jpg"),
        (lambda p: p(IMAGE, "What?", return_tensors="np"), UsageError, "must be \"pt\", got 'np'"),
        (lambda p: p(IMAGE, "What?", padding=False), UsageError, 'True or "longest", got False'),
    ],
)
def test_what_does_not_fit_is_said(call: Any, error: type[LlavaGroundingError], message: str) -> None:
    with pytest.raises(error, match=message):
        call(PROCESSOR)


def test_it_shows_its_settings() -> None:
    assert '"image_sequence_length"' in repr(PROCESSOR)
    assert isinstance(PROCESSOR, LlavaGroundingProcessor)
