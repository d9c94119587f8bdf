"""The two doors: images and dialogues in, answers out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from llava_grounding.errors import CheckpointError, ImageError, PromptError
from llava_grounding.geometry import Letterbox
from llava_grounding.image_files import ImageLimits, load_image
from llava_grounding.processing.conversation import ChatTemplate
from llava_grounding.processing.processor import LlavaGroundingProcessor
from llava_grounding.processing.selection import PhraseSelection, SelectionSettings
from llava_grounding.processing.text_length import limit_to_model
from llava_grounding.structures import GroundedAnswer, Message, VisualPrompt
from tiny_model import picture, tiny_config, tiny_processor

PROCESSORS = {kind: tiny_processor(tiny_config(kind)) for kind in ("shared", "separate")}
PROCESSOR = PROCESSORS["shared"]
LETTERBOX = Letterbox.fit((90, 60), (64, 64))


def selection(boxes: list[list[float]], scores: list[float], best: float = 0.9) -> PhraseSelection:
    logits = np.ones((len(boxes), 16, 16), dtype=np.float32)
    return PhraseSelection(np.arange(len(boxes)), np.array(boxes).reshape(-1, 4), np.array(scores), logits, best)


def test_an_image_gets_one_placeholder_per_feature_and_learning_starts_with_the_answer() -> None:
    messages = [Message("user", "What is this?"), Message("assistant", "<g_s> A dog <g_e> <seg>.")]
    text = PROCESSOR.encode_conversation(messages, [True], LETTERBOX)
    ids = PROCESSOR.tokens.ids
    assert text.input_ids.count(ids.image) == PROCESSOR.settings.image_sequence_length
    assert text.input_ids[-1] == ids.eos
    assert text.loss_mask[-1]
    learnt = [token for token, in_loss in zip(text.input_ids, text.loss_mask, strict=True) if in_loss]
    assert PROCESSOR.tokens.decode(learnt) == " <g_s> A dog <g_e> <seg>."
    first = text.loss_mask.index(True)
    assert all(text.loss_mask[first:])
    assert len(text.loss_mask) == len(text.input_ids)


def test_a_dialogue_read_at_once_has_the_ids_of_one_read_turn_by_turn() -> None:
    click = VisualPrompt.click(20, 20)
    messages = [
        Message("user", "What is <region>?", (click,)),
        Message("assistant", "It is <g_s> a dog <g_e> <seg>."),
        Message("user", "And <region>?", (VisualPrompt.box(1, 2, 30, 40),)),
    ]
    whole = PROCESSOR.encode_conversation(messages, [True, False], LETTERBOX)
    first = PROCESSOR.encode_question(messages[0], True, first=True, letterbox=LETTERBOX)
    answer = PROCESSOR.tokens.encode_answer(" It is <g_s> a dog <g_e> <seg>.")
    second = PROCESSOR.encode_question(messages[2], False, first=False, letterbox=LETTERBOX)
    assert whole.input_ids == [*first.input_ids, *answer, PROCESSOR.tokens.ids.eos, *second.input_ids]
    np.testing.assert_array_equal(whole.prompts.types, [0, 1])
    np.testing.assert_array_equal(
        whole.prompts.boxes_cxcywh_norm,
        np.concatenate([first.prompts.boxes_cxcywh_norm, second.prompts.boxes_cxcywh_norm]),
    )


def test_prompts_are_checked_against_the_image() -> None:
    with pytest.raises(PromptError, match="must lie inside the image of 90 x 60 pixels"):
        PROCESSOR.encode_question(Message("user", "<region>?", (VisualPrompt.click(95, 5),)), True, True, LETTERBOX)


def test_texts_are_padded_on_either_side() -> None:
    texts = [
        PROCESSOR.encode_conversation([Message("user", "Hi?"), Message("assistant", answer)], [False], LETTERBOX)
        for answer in ("Yes.", "No, there is no horse.")
    ]
    short, long = (len(text.input_ids) for text in texts)
    for side, place in (("right", slice(0, short)), ("left", slice(long - short, long))):
        batch = PROCESSOR.collate_texts(texts, padding_side=side)
        assert batch["input_ids"].shape == (2, long)
        assert batch["input_ids"][0, place].tolist() == texts[0].input_ids
        assert batch["attention_mask"][0].sum() == short
        assert batch["attention_mask"][0, place].all()
        assert (batch["input_ids"][0][batch["attention_mask"][0] == 0] == PROCESSOR.tokens.ids.pad).all()
        learnt = batch["labels"][0] != -100
        assert learnt.sum() == sum(texts[0].loss_mask)
        assert (batch["labels"][0][learnt] == batch["input_ids"][0][learnt]).all()


@pytest.mark.parametrize(("kind", "names"), [("shared", 1), ("separate", 2)])
def test_images_are_batched_for_the_encoders_there_are(kind: str, names: int) -> None:
    processor = PROCESSORS[kind]
    batch = processor.collate_images([processor.encode_image(picture(0)), processor.encode_image(picture(1, (20, 80)))])
    assert len(batch) == names
    assert batch["grounder_pixel_values"].shape == (2, 3, 64, 64)
    assert batch["grounder_pixel_values"].dtype == torch.float32
    if names == 2:
        assert batch["pixel_values"].shape == (2, 3, 28, 28)


def test_regions_are_in_pixels_of_the_original_and_inside_it() -> None:
    boxes = [[0.5, 0.25, 0.5, 0.25], [0.95, 0.6, 0.3, 0.4], [0.0, 0.0, 0.2, 0.25]]  # content: the upper two thirds
    regions = PROCESSOR.decode_regions(selection(boxes, [0.9, 0.8, 0.7]), LETTERBOX)
    content_h = LETTERBOX.content_size_wh[1] / 64
    np.testing.assert_allclose(regions[0].box_xyxy, [22.5, 7.5 / content_h, 67.5, 22.5 / content_h], atol=1e-4)
    np.testing.assert_allclose(regions[1].box_xyxy, [72, 24 / content_h, 90, 60], atol=1e-4)
    np.testing.assert_allclose(regions[2].box_xyxy, [0, 0, 9, 7.5 / content_h], atol=1e-4)
    assert [region.score for region in regions] == [0.9, 0.8, 0.7]
    assert all(region.mask is not None and region.mask.shape == (60, 90) and region.mask.all() for region in regions)


def test_a_box_on_the_padding_is_no_region() -> None:
    regions = PROCESSOR.decode_regions(selection([[0.5, 0.9, 0.2, 0.1], [0.5, 0.3, 0.2, 0.1]], [0.9, 0.8]), LETTERBOX)
    assert [region.score for region in regions] == [0.8]


def test_an_answer_binds_the_regions_of_each_seg_to_its_phrase() -> None:
    raw = "<seg> See <g_s> a dog <g_e> <seg> and <g_s> a cat <g_e> <seg>, <g_s> cut <g_e>"
    found = [selection([], [], 0.1), selection([[0.5, 0.3, 0.2, 0.1]], [0.8], 0.8), None]
    answer = PROCESSOR.decode_answer(raw, found, LETTERBOX, model="tiny", prompt_tokens=5, completion_tokens=7)
    assert answer.text == " See a dog and a cat, cut"
    assert [(phrase.text, phrase.span) for phrase in answer.phrases] == [("a dog", (5, 10)), ("a cat", (15, 20))]
    assert [len(phrase.regions) for phrase in answer.phrases] == [1, 0]
    assert [phrase.score for phrase in answer.phrases] == [0.8, 0.0]
    assert (answer.raw, answer.model, answer.prompt_tokens, answer.completion_tokens) == (raw, "tiny", 5, 7)
    assert answer.image_size_wh == (90, 60)


def test_a_phrase_without_regions_keeps_its_best_score_and_one_too_many_gets_none() -> None:
    raw = "<g_s> a dog <g_e> <seg> <g_s> a cat <g_e> <seg>"
    answer = PROCESSOR.decode_answer(
        raw, [selection([], [], 0.2)], LETTERBOX, model="", prompt_tokens=0, completion_tokens=0
    )
    assert [(phrase.regions, phrase.score) for phrase in answer.phrases] == [((), 0.2), ((), 0.0)]


@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_saving_and_loading_changes_nothing(kind: str, tmp_path: Path) -> None:
    processor = PROCESSORS[kind]
    processor.save_pretrained(tmp_path)
    again = LlavaGroundingProcessor.from_pretrained(tmp_path)
    assert again.settings == processor.settings
    assert again.tokens.ids == processor.tokens.ids
    raw = "See <g_s> a dog <g_e> <seg> 🐕 </s>"
    assert again.tokens.encode_answer(raw) == processor.tokens.encode_answer(raw)
    again.save_pretrained(tmp_path / "again")
    for name in ("processor_config.json", "tokenizer.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_a_template_of_ones_own_is_kept(tmp_path: Path) -> None:
    PROCESSOR.save_pretrained(tmp_path)
    path = tmp_path / "processor_config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    values["template"]["user"] = "Human: "
    path.write_text(json.dumps(values), encoding="utf-8")
    assert LlavaGroundingProcessor.from_pretrained(tmp_path).settings.template == ChatTemplate(user="Human: ")


@pytest.mark.parametrize("damage", ["absent", "cut", "not an object", "unknown key", "missing key", "wrong type"])
def test_damaged_settings_are_named(damage: str, tmp_path: Path) -> None:
    PROCESSOR.save_pretrained(tmp_path)
    path = tmp_path / "processor_config.json"
    values = json.loads(path.read_text(encoding="utf-8"))
    if damage == "absent":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "not an object":
        path.write_text("[1, 2]", encoding="utf-8")
    else:
        if damage == "unknown key":
            values["canvas"]["sice"] = 3
        elif damage == "missing key":
            del values["selection"]
        else:
            values["template"] = 4
        path.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"processor_config\.json of the checkpoint in .* is missing or damaged"):
        LlavaGroundingProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize("damage", ["absent", "cut", "no json", "wrong json", "both absent"])
def test_a_damaged_tokenizer_is_named(damage: str, tmp_path: Path) -> None:
    PROCESSOR.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    if damage == "absent":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:1000])
    elif damage == "no json":
        path.write_bytes(b"\xff\x00")
    elif damage == "wrong json":
        path.write_text('{"version": "1.0"}', encoding="utf-8")
    else:
        path.unlink()
        (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"the tokenizer of the checkpoint in .* is missing or damaged"):
        LlavaGroundingProcessor.from_pretrained(tmp_path)


@pytest.mark.parametrize("kind", ["turned", "transparent", "grey"])
def test_a_picture_that_is_not_upright_rgb_is_read_as_everywhere(kind: str, tmp_path: Path) -> None:
    processor = tiny_processor(tiny_config("shared"))
    image = {"turned": picture(0, (40, 20)), "transparent": picture(0).convert("RGBA"), "grey": picture(0).convert("L")}
    exif = Image.Exif()
    exif[0x0112] = 6
    image[kind].save(tmp_path / "a.png", **({"exif": exif} if kind == "turned" else {}))
    with Image.open(tmp_path / "a.png") as opened:
        encoded = processor.encode_image(opened)
    expected = processor.encode_image(load_image(tmp_path / "a.png"))
    assert torch.equal(encoded.canvas, expected.canvas)
    assert encoded.letterbox == expected.letterbox


def test_a_processor_has_limits_of_its_own_that_are_not_saved(tmp_path: Path) -> None:
    processor = tiny_processor(tiny_config("shared"))
    processor.image_limits = ImageLimits(max_pixels=100)
    with pytest.raises(ImageError, match=r"more than the 0\.0001 allowed"):
        processor(images=picture(0, (40, 20)), text="What is it?")
    processor.save_pretrained(tmp_path)
    again = LlavaGroundingProcessor.from_pretrained(tmp_path)
    assert again.image_limits == ImageLimits()
    again(images=picture(0, (40, 20)), text="What is it?")


def test_a_region_without_a_pixel_is_none() -> None:
    tiny = Letterbox.fit((1, 1), (64, 64))
    found = selection([[0.5, 0.5, 1.0, 1.0]] * 2, [0.9, 0.8])
    found.mask_logits[0] = -1
    found.mask_logits[0, 3, 3] = 0.5  # one cell of 16 x 16, lost in the one pixel
    assert [region.score for region in PROCESSOR.decode_regions(found, tiny)] == [0.8]


def test_a_doubtful_phrase_says_so() -> None:
    settings = replace(PROCESSOR.settings, selection=SelectionSettings("sigmoid", 0.3, 0.7, 0.45))
    processor = LlavaGroundingProcessor(PROCESSOR.tokenizer, settings)
    raw = "<g_s> a dog <g_e> <seg> <g_s> a cat <g_e> <seg> <g_s> it <g_e> <seg>"
    box = [[0.5, 0.3, 0.2, 0.1]]
    found = [selection(box, [0.4], 0.4), selection(box, [0.8], 0.8), None]
    answer = processor.decode_answer(raw, found, LETTERBOX, model="", prompt_tokens=0, completion_tokens=0)
    assert [phrase.doubtful for phrase in answer.phrases] == [True, False, False]
    assert [phrase.get("doubtful") for phrase in answer.to_dict()["phrases"]] == [True, None, None]
    assert GroundedAnswer.from_dict(answer.to_dict()) == answer
    assert processor.to_dict()["selection"]["doubt_threshold"] == 0.45


def test_a_loaded_tokenizer_knows_the_positions_of_its_model(tmp_path: Path) -> None:
    config = tiny_config("shared")
    PROCESSOR.save_pretrained(tmp_path)
    assert LlavaGroundingProcessor.from_pretrained(tmp_path).max_tokens is None
    config.save_pretrained(tmp_path)
    loaded = LlavaGroundingProcessor.from_pretrained(tmp_path)
    assert loaded.tokenizer.model_max_length == loaded.max_tokens == config.text_config.max_position_embeddings
    loaded.save_pretrained(tmp_path / "again")
    assert LlavaGroundingProcessor.from_pretrained(tmp_path / "again").max_tokens == loaded.max_tokens
    for damaged in ("[]", "{", '{"text_config": 3}', '{"text_config": {"max_position_embeddings": "many"}}'):
        (tmp_path / "config.json").write_text(damaged, encoding="utf-8")
        before = loaded.max_tokens
        limit_to_model(loaded.tokenizer, tmp_path)
        assert loaded.max_tokens == before
