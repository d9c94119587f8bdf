"""The language model in 8 and 4 bits; the vision modules never; and clear words where nothing does it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from llava_grounding.errors import ConfigError, LlavaGroundingError, MissingExtraError
from llava_grounding.inference.engine import GroundedChat
from llava_grounding.quantization import QUANTIZATIONS, quantization_config
from tiny_model import KINDS, picture, saying, tiny_config, tiny_processor, tiny_weights

CPU = torch.device("cpu")
IMAGE = picture(6)
GROUNDED = "<g_s> The dog <g_e> <seg>."
needs_backend = pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="no bitsandbytes here")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model whose language model is wide enough for blocks of 64 weights."""
    config = tiny_config(
        "separate",
        text_config={**KINDS["separate"]["text_config"], "hidden_size": 64, "intermediate_size": 128},
        grounder_config={**KINDS["separate"]["grounder_config"], "phrase_size": 64},
    )
    place = tmp_path_factory.mktemp("tiny")
    tiny_weights(config).save_pretrained(place)
    tiny_processor(config).save_pretrained(place)
    return place


def score(chat: GroundedChat) -> float:
    with saying(chat, GROUNDED):
        return chat.ask(IMAGE, "Where is the dog?").phrases[0].score


def linear_kinds(part: torch.nn.Module) -> set[str]:
    return {type(layer).__name__ for layer in part.modules() if "Linear" in type(layer).__name__}


@needs_backend
@pytest.mark.parametrize(("name", "kind"), [("int8", "Linear8bitLt"), ("int4", "Linear4bit")])
def test_only_the_language_model_is_quantised_and_answers_stay_near(name: str, kind: str, folder: Path) -> None:
    wanted = GroundedChat.from_pretrained(folder, "cpu")
    chat = GroundedChat.from_pretrained(folder, "cpu", quantization=name)
    parts = dict(chat.model.named_children())
    assert linear_kinds(parts.pop("language_model")) == {kind}
    assert all(kind not in linear_kinds(part) for part in parts.values())
    for part in ("grounder", "visual_prompt_encoder"):
        stored = wanted.model.get_submodule(part).state_dict()
        for weight_name, value in chat.model.get_submodule(part).state_dict().items():
            assert torch.equal(value, stored[weight_name])
    assert chat.model.lm_head.weight.dtype == torch.bfloat16
    assert score(chat) == pytest.approx(score(wanted), abs=0.15)
    assert chat.ask(IMAGE, "Where is the dog?", max_new_tokens=4).completion_tokens <= 4


@needs_backend
@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_transformers_own_call_leaves_the_vision_modules_alone_too(name: str, folder: Path) -> None:
    from transformers import AutoModelForImageTextToText

    config = quantization_config(name, CPU, torch.float32)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32, quantization_config=config)
    others = [part for part_name, part in model.named_children() if part_name != "language_model"]
    assert all(linear_kinds(part) <= {"Linear", "NonDynamicallyQuantizableLinear"} for part in others)
    assert linear_kinds(model.language_model) & {"Linear8bitLt", "Linear4bit"}


@pytest.mark.parametrize(
    ("name", "device", "error", "message"),
    [
        ("int6", "cpu", ConfigError, "quantization must be int8 or int4, got 'int6'; did you mean `int"),
        (
            "int8",
            "mps",
            ConfigError,
            "quantization `int8` works on cuda and cpu, not on `mps`; leave it out or take `cpu`",
        ),
    ],
)
def test_what_cannot_be_quantised_is_said(
    name: str, device: str, error: type[LlavaGroundingError], message: str
) -> None:
    with pytest.raises(error, match=message):
        quantization_config(name, torch.device(device), torch.bfloat16)


def test_a_missing_backend_says_the_line_to_type(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    real = importlib.util.find_spec
    gone: Any = lambda name, *more: None if name == "bitsandbytes" else real(name, *more)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", gone)
    with pytest.raises(MissingExtraError, match=r'`int4` needs packages.*pip install "llava-grounding\[quantize\]"'):
        GroundedChat.from_pretrained(folder, "cpu", quantization="int4")
