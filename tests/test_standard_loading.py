"""What transformers' own loaders do with a folder of ours: Auto classes, pipeline, precision, devices, the hub."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer, pipeline

from llava_grounding import GroundedChat, LlavaGroundingForConditionalGeneration, LlavaGroundingProcessor
from llava_grounding.checkpoints import without_progress_bars
from llava_grounding.model.config import LlavaGroundingConfig
from tiny_model import picture, saying, tiny_chat, tiny_parts

KINDS = ["shared", "separate"]
IMAGE = picture(3)
CHAT = [{"role": "user", "content": [{"type": "image", "image": IMAGE}, {"type": "text", "text": "Where is the dog?"}]}]
ENCODE: dict[str, Any] = {"tokenize": True, "return_dict": True, "add_generation_prompt": True}
PRECISE = {
    "shared": {"grounder", "visual_prompt_encoder", "vision_tower", "multi_modal_projector"},
    "separate": {"grounder", "visual_prompt_encoder"},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A saved tiny model of each kind."""
    places = {}
    for kind in KINDS:
        places[kind] = tmp_path_factory.mktemp(kind)
        for part in tiny_parts(kind):
            part.save_pretrained(places[kind])
    return places


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """No progress bars."""
    with without_progress_bars():
        yield


def part_dtypes(model: torch.nn.Module) -> dict[str, set[torch.dtype]]:
    return {name: {weight.dtype for weight in part.parameters()} for name, part in model.named_children()}


@pytest.mark.parametrize("kind", KINDS)
def test_the_auto_classes_load_a_folder(kind: str, folders: dict[str, Path]) -> None:
    assert isinstance(AutoConfig.from_pretrained(folders[kind]), LlavaGroundingConfig)
    model = AutoModelForImageTextToText.from_pretrained(folders[kind])
    processor = AutoProcessor.from_pretrained(folders[kind])
    assert isinstance(model, LlavaGroundingForConditionalGeneration)
    assert isinstance(processor, LlavaGroundingProcessor)
    inputs = processor.apply_chat_template(CHAT, **ENCODE)
    ids = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    wanted = tiny_chat(kind).ask(IMAGE, "Where is the dog?", max_new_tokens=8)
    assert processor.post_process_image_text_to_text(ids[:, inputs["input_ids"].shape[1] :]) == [wanted.text]


def test_the_chat_template_is_saved_beside_the_tokenizer(folders: dict[str, Path]) -> None:
    processor = AutoProcessor.from_pretrained(folders["shared"])
    text = (folders["shared"] / "chat_template.jinja").read_text(encoding="utf-8")
    assert text == processor.chat_template
    tokenizer = AutoTokenizer.from_pretrained(folders["shared"])
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, grounded=False)
    assert rendered == processor.apply_chat_template([{"role": "user", "content": "Hi"}], grounded=False)


@pytest.mark.parametrize("kind", KINDS)
def test_the_pipeline_answers(kind: str, folders: dict[str, Path], caplog: pytest.LogCaptureFixture) -> None:
    pipe = pipeline("image-text-to-text", model=str(folders[kind]))
    assert "not supported" not in caplog.text
    wanted = tiny_chat(kind).ask(IMAGE, "Where is the dog?", max_new_tokens=8).text
    (record,) = pipe(text=CHAT, max_new_tokens=8, return_full_text=False)
    assert record["generated_text"] == wanted
    (record,) = pipe(text=CHAT, max_new_tokens=8)
    assert record["generated_text"] == [*CHAT, {"role": "assistant", "content": wanted}]
    (record,) = pipe(images=IMAGE, text="Where is the dog?", max_new_tokens=8, return_full_text=False)
    assert record["generated_text"] == wanted
    together = pipe(text=[CHAT, CHAT], max_new_tokens=8, return_full_text=False)
    assert [record["generated_text"] for (record,) in together] == [wanted, wanted]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_leaves_the_vision_modules_alone(
    kind: str, dtype: torch.dtype, folders: dict[str, Path]
) -> None:
    model, processor = tiny_parts(kind)
    loaded = AutoModelForImageTextToText.from_pretrained(folders[kind], dtype=dtype)
    kinds = part_dtypes(loaded)
    for part in PRECISE[kind]:
        assert kinds[part] == {torch.float32}
        for name, value in getattr(model, part).state_dict().items():
            assert torch.equal(value, getattr(loaded, part).state_dict()[name])
    assert kinds["language_model"] == kinds["lm_head"] == {dtype}
    chat = GroundedChat(loaded, processor)
    with saying(chat, "<g_s> The dog <g_e> <seg> and <g_s> a cat <g_e> <seg>."):
        answer = chat.ask(IMAGE, "Where is the dog?")
    with saying(tiny_chat(kind), "<g_s> The dog <g_e> <seg> and <g_s> a cat <g_e> <seg>."):
        wanted = tiny_chat(kind).ask(IMAGE, "Where is the dog?")
    scores = [phrase.score for phrase in answer.phrases]
    assert scores == pytest.approx([phrase.score for phrase in wanted.phrases], abs=0.1)
    inputs = processor.apply_chat_template(CHAT, **ENCODE).to(dtype=dtype)
    generated = loaded.generate(
        **inputs, max_new_tokens=4, do_sample=False, return_dict_in_generate=True, output_hidden_states=True
    )
    loaded.ground_generated(generated, **inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_made_half_as_a_whole_still_runs(kind: str, folders: dict[str, Path]) -> None:
    processor = tiny_parts(kind)[1]
    model = AutoModelForImageTextToText.from_pretrained(folders[kind]).to(torch.bfloat16)
    assert {dtype for dtypes in part_dtypes(model).values() for dtype in dtypes} == {torch.bfloat16}
    chat = GroundedChat(model, processor)
    with saying(chat, "<g_s> The dog <g_e> <seg>."):
        (phrase,) = chat.ask(IMAGE, "Where is the dog?").phrases
    assert 0 <= phrase.score <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_device_map_keeps_parts_whole(kind: str, folders: dict[str, Path]) -> None:
    pytest.importorskip("accelerate")
    from accelerate import infer_auto_device_map

    model = AutoModelForImageTextToText.from_pretrained(folders[kind], device_map="auto")
    wanted = tiny_chat(kind).ask(IMAGE, "Where is the dog?", max_new_tokens=8)
    assert GroundedChat(model, tiny_parts(kind)[1]).ask(IMAGE, "Where is the dog?", max_new_tokens=8).raw == wanted.raw
    whole = {"Grounder", "VisualPromptEncoder", "LlamaDecoderLayer"}
    assert whole <= set(model._no_split_modules)
    sizes = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    places = infer_auto_device_map(
        model, {0: sizes // 3, 1: sizes // 3, "cpu": sizes}, no_split_module_classes=list(model._no_split_modules)
    )
    assert len(set(places.values())) > 1
    assert all(name.count(".") <= 2 and "pixel_decoder" not in name for name in places)


def test_hooks_that_move_parts_between_devices_change_nothing(folders: dict[str, Path]) -> None:
    accelerate = pytest.importorskip("accelerate")
    model = AutoModelForImageTextToText.from_pretrained(folders["separate"])
    places = dict.fromkeys([name for name, _ in model.named_children()], "cpu")
    accelerate.dispatch_model(model, places, main_device="cpu", force_hooks=True)
    wanted = tiny_chat("separate").ask(IMAGE, "Where is the dog?", max_new_tokens=8)
    processor = tiny_parts("separate")[1]
    assert GroundedChat(model, processor).ask(IMAGE, "Where is the dog?", max_new_tokens=8).raw == wanted.raw
