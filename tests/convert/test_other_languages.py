"""Causal language models of transformers become a model ready for the first stage, with the same words and logits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    PreTrainedModel,
    Qwen3Config,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from llava_grounding.checkpoints import load_checkpoint
from llava_grounding.cli.main import main
from llava_grounding.convert.language import LanguageParts, LanguageSettings, convert_language
from llava_grounding.errors import CheckpointError, ConfigError
from llava_grounding.inference.engine import GroundedChat
from tiny_model import picture
from whole_models import FLAVOURS

SMALL = FLAVOURS["official"]
SETTINGS = LanguageSettings(
    image_size=128,
    num_queries=8,
    overrides={
        "grounder_config": SMALL["grounder_config"],
        "visual_prompt_config": {**SMALL["visual_prompt_config"], "share_image_features": True},
    },
)
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
ROWS = {"qwen3": 272, "gemma3_text": 265}  # the first leaves rows free, as the released ones do
KINDS = tuple(ROWS)


@cache
def language_model(kind: str) -> PreTrainedModel:
    """With random weights; nobody may change it."""
    config = {
        "qwen3": lambda: Qwen3Config(vocab_size=ROWS[kind], **SIZES),
        "gemma3_text": lambda: Gemma3TextConfig(vocab_size=ROWS[kind], sliding_window=4, **SIZES),
    }[kind]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = AutoModelForCausalLM.from_config(config)
        for weight in model.parameters():
            torch.nn.init.normal_(weight, mean=float(weight.ndim == 1 and kind == "qwen3"), std=0.3)
    return model.eval()


def write_tokenizer(folder: Path, kind: str) -> None:
    if kind == "qwen3":
        words = {letter: place for place, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
        tokenizer = Tokenizer(models.BPE(words, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        added = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
        roles = {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None}
    else:
        added = ["<pad>", "<eos>", "<bos>", "<unk>"]
        names = [*added, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "▁a", "b", "▁b"]
        words = {name: place for place, name in enumerate(names)}
        merges = [("▁", "a"), ("▁", "b")]
        tokenizer = Tokenizer(models.BPE(words, merges, byte_fallback=True, unk_token="<unk>"))
        roles = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in added])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(roles), encoding="utf-8")


def write_language_model(folder: Path, kind: str, **values: Any) -> Path:
    """`values` change its config.json."""
    language_model(kind).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | values), encoding="utf-8")
    write_tokenizer(folder, kind)
    return folder


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SigLIP with its text side."""
    side = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    folder = tmp_path_factory.mktemp("siglip")
    vision = {**side, "image_size": 28, "patch_size": 14}
    torch.manual_seed(4)
    state = SiglipVisionModel(SiglipVisionConfig(**vision)).state_dict()
    state = {f"vision_model.{key.removeprefix('vision_model.')}": value for key, value in state.items()}
    state |= {"text_model.head.weight": torch.ones(2, 2), "logit_scale": torch.ones(1), "logit_bias": torch.ones(1)}
    save_file(state, folder / "model.safetensors")
    config = {"model_type": "siglip", "text_config": {}, "vision_config": vision}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="module", params=KINDS)
def converted(request: pytest.FixtureRequest, tower: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    kind = request.param
    folder = tmp_path_factory.mktemp(kind)
    source = write_language_model(folder / "theirs", kind)
    report = convert_language(source, folder / kind, LanguageParts(tower), SETTINGS)
    lines = report.lines()
    assert f"preset {'qwen3_4b' if kind == 'qwen3' else 'gemma3_1b'}" in "\n".join(lines)
    assert report.left_out["is a comparison of pictures with texts"] > 2
    assert set(report.fresh_parts()) == {
        "grounder",
        "visual_prompt_encoder",
        "multi_modal_projector",
        "phrase_projector",
    }
    return report.out


def test_logits_equal_those_of_transformers(converted: Path) -> None:
    model = load_checkpoint(converted, "cpu", None).model
    theirs = language_model(converted.name)
    words = model.config.text_config.vocab_size - 3  # as many as are spoken for, and the three of the markup
    assert words == (259 if converted.name == "qwen3" else ROWS[converted.name])
    ids = torch.randint(0, words, (2, 12), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        ours = model.logits(model.language_model(input_ids=ids).last_hidden_state)
        expected = theirs(input_ids=ids).logits
    torch.testing.assert_close(ours[..., :words], expected[..., :words], rtol=0, atol=2e-5)
    assert expected.std() > 0.1


def test_the_tower_is_the_given_one_and_its_pixels_are_prepared_as_it_is_used_to(converted: Path, tower: Path) -> None:
    ours, theirs = load_file(converted / "model.safetensors"), load_file(tower / "model.safetensors")
    mine = {name.removeprefix("vision_tower."): value for name, value in ours.items() if name.startswith("vision_t")}
    assert len(mine) > 30
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())
    settings = GroundedChat.from_pretrained(converted, "cpu").processor.settings
    assert (settings.tower.size, settings.tower.fit, settings.tower.mean) == (28, "stretch", (0.5, 0.5, 0.5))
    assert settings.template.begin is (converted.name == "gemma3_text")


def test_it_answers_and_grounds(converted: Path) -> None:
    chat = GroundedChat.from_pretrained(converted, "cpu")
    assert chat.ask(picture(), "a b?", max_new_tokens=5).completion_tokens <= 5
    assert len(chat.ground(picture(), ["a b"])) == 1
    tokens = chat.processor.tokens
    text = "a <g_s> b a <g_e> <seg> b é"
    assert tokens.decode(tokens.encode_answer(text)) == text


@pytest.mark.parametrize("said", [True, False, None])
def test_an_output_layer_that_is_stored_is_one_of_its_own_unless_the_folder_says_otherwise(
    tmp_path: Path, said: bool | None
) -> None:
    source = write_language_model(tmp_path / "theirs", "qwen3", tie_word_embeddings=said, quantization_config=None)
    state = load_file(source / "model.safetensors")
    assert "lm_head.weight" not in state
    nano = LanguageSettings(preset="nano", image_size=64)
    if said is False:
        with pytest.raises(CheckpointError, match=r"lacks lm_head.weight, which its config.json says it has"):
            convert_language(source, tmp_path / "ours", settings=nano)
    save_file(state | {"lm_head.weight": state["model.embed_tokens.weight"] + 1}, source / "model.safetensors")
    report = convert_language(source, tmp_path / "other", settings=nano)
    assert report.left_out.get("is the word embedding once more", 0) == (said is True)
    assert load_checkpoint(report.out, "cpu", None).model.config.tie_word_embeddings is (said is True)


def test_a_preset_without_a_tower_needs_none(tmp_path: Path) -> None:
    source = write_language_model(tmp_path / "theirs", "qwen3")
    nano = LanguageSettings(preset="nano", image_size=64)
    report = convert_language(source, tmp_path / "ours", settings=nano)
    chat = GroundedChat.from_pretrained(report.out, "cpu")
    assert chat.model.config.vision_config is None
    assert chat.model.config.grounder_config.phrase_size == 32
    assert chat.ask(picture(), "a b?", max_new_tokens=3).completion_tokens <= 3
    again = convert_language(source, tmp_path / "again", settings=nano)
    assert (report.out / "model.safetensors").read_bytes() == (again.out / "model.safetensors").read_bytes()


def test_of_a_model_that_sees_already_the_language_model_is_taken(tmp_path: Path, tower: Path) -> None:
    source = write_language_model(tmp_path / "theirs", "gemma3_text")
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    whole = {"model_type": "gemma3", "text_config": config, "vision_config": {"model_type": "siglip_vision_model"}}
    (source / "config.json").write_text(json.dumps(whole), encoding="utf-8")
    state = {f"language_model.{key}": value for key, value in load_file(source / "model.safetensors").items()}
    seeing = {"vision_tower.vision_model.encoder.x.weight": torch.ones(2), "multi_modal_projector.y": torch.ones(2)}
    save_file(state | seeing, source / "model.safetensors")
    report = convert_language(source, tmp_path / "ours", LanguageParts(tower), SETTINGS)
    assert report.left_out["belongs to another vision side"] == 2
    name = "language_model.layers.0.mlp.up_proj.weight"
    expected = language_model("gemma3_text").state_dict()["model.layers.0.mlp.up_proj.weight"]
    assert torch.equal(load_file(report.out / "model.safetensors")[name], expected)


@pytest.mark.parametrize(
    ("values", "preset", "error", "message"),
    [
        ({}, "qwen_4b", ConfigError, "unknown preset `qwen_4b`; did you mean `qwen3_4b`?"),
        ({}, "nano", CheckpointError, "the preset nano has no vision tower, so `.*siglip.*` would never be used"),
        ({"model_type": "qwen9"}, None, ConfigError, "no preset is made for a `qwen9` language model; choose one of"),
        ({"model_type": "qwen9"}, "qwen3_4b", ConfigError, "unknown model_type `qwen9`"),
        ({"model_type": 7}, None, CheckpointError, "does not say the model_type"),
        ({"hidden_size": 48}, None, CheckpointError, "says hidden_size is 48, but the word embedding has 32"),
        ({"intermediate_size": 40}, None, CheckpointError, r"down_proj.weight` is \(32, 48\), expected \(32, 40\)"),
        ({"quantization_config": {"bits": 4}}, None, CheckpointError, "are quantised; give the folder of the model"),
        ({"model_type": "llava_grounding"}, None, CheckpointError, "is a folder of ours already"),
    ],
)
def test_what_does_not_fit_is_said(
    tmp_path: Path, tower: Path, values: Mapping[str, Any], preset: str | None, error: type[Exception], message: str
) -> None:
    source = write_language_model(tmp_path / "theirs", "qwen3", **values)
    with pytest.raises(error, match=message):
        convert_language(source, tmp_path / "ours", LanguageParts(tower), LanguageSettings(preset))
    assert not (tmp_path / "ours").exists()


def test_a_tower_that_is_missing_or_none_is_said(tmp_path: Path, tower: Path) -> None:
    source = write_language_model(tmp_path / "theirs", "qwen3")
    with pytest.raises(CheckpointError, match="the preset qwen3_4b has a vision tower: give the folder of a SigLIP"):
        convert_language(source, tmp_path / "ours")
    with pytest.raises(CheckpointError, match="must be of a SigLIP or CLIP model, got model_type 'qwen3'"):
        convert_language(source, tmp_path / "ours", LanguageParts(source))
    with pytest.raises(CheckpointError, match="has no word embedding"):
        convert_language(tower, tmp_path / "ours", LanguageParts(tower))


def test_the_command_says_what_was_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_language_model(tmp_path / "theirs", "qwen3")
    out = tmp_path / "ours"
    with pytest.raises(SystemExit) as ended:
        main(["convert", "language", str(source), str(out), "--preset", "nano", "--image-size", "64"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "starts fresh: vision_tower" in said
    assert "13 rows of the vocabulary left out" in said
    assert (out / "chat_template.jinja").is_file()
