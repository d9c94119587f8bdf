"""Plain LLaVA, Llama and CLIP checkpoints become a model ready for the first stage, with the same words and logits."""

from __future__ import annotations

import filecmp
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from llava_grounding.checkpoints import load_checkpoint
from llava_grounding.convert.llava import PublicParts, convert_llava
from llava_grounding.convert.report import ConversionReport
from llava_grounding.errors import CheckpointError, ConfigError, UsageError
from llava_grounding.geometry import Letterbox
from llava_grounding.inference.engine import GroundedChat
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.model.outputs import RegionPrompts
from llava_grounding.structures import Message, VisualPrompt
from public_parts import (
    FRESH,
    IMAGE,
    PAD,
    PADDED,
    PREDICTOR,
    WORDS,
    in_layout,
    llava,
    openseed_state_dict,
    save,
    semantic_sam_state_dict,
    write_llava,
    write_tower,
)
from tiny_model import picture

LAYOUTS = ("transformers-4", "transformers-5", "llava")


def parts_for(folder: Path, layout: str) -> PublicParts:
    """A tower where the layout has none."""
    inside = layout.startswith("transformers")
    return PublicParts(vision_tower=None if inside else write_tower(folder / "clip"))


@pytest.fixture(scope="module")
def conversions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ConversionReport]:
    """Of every layout, vision modules fresh; nobody may change them."""
    found = {}
    for layout in LAYOUTS:
        folder = tmp_path_factory.mktemp(layout)
        source = write_llava(folder / "theirs", layout)
        found[layout] = convert_llava(source, folder / "ours", parts_for(folder, layout), FRESH)
    return found


@pytest.fixture(scope="module")
def chats(conversions: dict[str, ConversionReport]) -> dict[str, GroundedChat]:
    """Engines of what was converted; nobody may change them or their models."""
    return {layout: GroundedChat.from_pretrained(report.out, device="cpu") for layout, report in conversions.items()}


def loaded(report: ConversionReport) -> LlavaGroundingForConditionalGeneration:
    return load_checkpoint(report.out, "cpu", None).model


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_of_image_and_text_equal_those_of_transformers(chats: dict[str, GroundedChat], layout: str) -> None:
    model = chats[layout].model
    torch.manual_seed(5)
    pixels, canvas = torch.randn(2, 3, 28, 28), torch.randn(2, 3, 128, 128)
    ids = torch.randint(3, WORDS, (2, 14))
    ids[:, 3:7] = IMAGE
    ours = torch.where(ids == IMAGE, model.config.image_token_id, ids)
    with torch.no_grad():
        theirs = llava()(input_ids=ids, pixel_values=pixels).logits
        mine = model(input_ids=ours, pixel_values=pixels, grounder_pixel_values=canvas).logits
        blind = model(input_ids=ours, pixel_values=0 * pixels, grounder_pixel_values=canvas).logits
    torch.testing.assert_close(mine[..., :WORDS], theirs[..., :WORDS], rtol=0, atol=2e-5)
    assert (mine - blind).abs().max() > 0.5


@pytest.mark.parametrize("layout", LAYOUTS)
def test_new_rows_are_the_mean_of_the_old_and_padding_is_left_out(
    conversions: dict[str, ConversionReport], chats: dict[str, GroundedChat], layout: str
) -> None:
    report, padded = conversions[layout], layout.startswith("transformers")
    words = WORDS + 2 * padded
    state = load_file(report.out / "model.safetensors")
    whole = in_layout("transformers-5")
    stored = {"language_model.embed_tokens.weight": whole["model.language_model.embed_tokens.weight"]}
    stored["lm_head.weight"] = whole["lm_head.weight"]
    for name, table in stored.items():
        assert torch.equal(state[name][:words], table[:words])
        mean = table[:words].double().mean(0).float().expand(3, -1)
        torch.testing.assert_close(state[name][words:], mean, rtol=0, atol=0)
    text = "\n".join(report.lines())
    assert ("38 rows of the vocabulary left out: they belong to no token" in text) is padded
    assert f"3 rows of the vocabulary are new: the mean of the {words:,d} others" in text
    image = IMAGE if padded else words + 3
    region = words + 3 + (not padded)
    assert report.token_ids == {
        "<g_s>": words,
        "<g_e>": words + 1,
        "<seg>": words + 2,
        "<image>": image,
        "<region>": region,
    }
    assert chats[layout].model.config.pad_token_id == (PAD if padded else 0)


def test_what_transformers_saves_today_converts_to_the_same(
    conversions: dict[str, ConversionReport], tmp_path: Path
) -> None:
    source = write_llava(tmp_path / "theirs", "transformers-4")
    llava().save_pretrained(source)
    report = convert_llava(source, tmp_path / "ours", settings=FRESH)
    for layout in LAYOUTS[:2]:
        assert filecmp.cmp(report.out / "model.safetensors", conversions[layout].out / "model.safetensors", False)
        assert filecmp.cmp(report.out / "config.json", conversions[layout].out / "config.json", False)


def test_every_part_that_starts_fresh_is_named_with_its_size(
    conversions: dict[str, ConversionReport], chats: dict[str, GroundedChat]
) -> None:
    report = conversions["llava"]
    model = chats["llava"].model
    count = {name: sum(weight.numel() for weight in part.parameters()) for name, part in model.named_children()}
    assert report.fresh_parts() == {name: count[name] for name in ("grounder", "visual_prompt_encoder")}
    assert f"starts fresh: grounder, {count['grounder']:,d} parameters" in report.lines()
    assert report.left_out == {"is CLIP's comparison of pictures with texts": 2}
    assert [part.name for part in report.parts] == [
        "lm_head",
        "language_model",
        "multi_modal_projector",
        "vision_tower",
    ]


def test_a_bare_llama_gets_a_fresh_projector_of_either_kind(tmp_path: Path) -> None:
    source, tower = write_llava(tmp_path / "llama", "llama"), write_tower(tmp_path / "clip")
    parts = PublicParts(vision_tower=tower)
    first = convert_llava(source, tmp_path / "first", parts, FRESH)
    again = convert_llava(source, tmp_path / "again", parts, FRESH)
    assert first.fresh_parts()["multi_modal_projector"] == 16 * 32 + 32
    assert filecmp.cmp(first.out / "model.safetensors", again.out / "model.safetensors", False)
    other = convert_llava(source, tmp_path / "other", parts, replace(FRESH, seed=1, fresh_projector="mlp"))
    assert loaded(other).config.projector == "mlp"
    before, after = (load_file(report.out / "model.safetensors") for report in (first, other))
    fresh = "grounder.similarity_head.projection"
    assert not torch.equal(before[fresh], after[fresh])
    assert torch.equal(before["lm_head.weight"], after["lm_head.weight"])
    assert before["visual_prompt_encoder.query_decoder.norm.weight"].eq(1).all()  # its own initialisation, not zeros


def test_a_projector_of_a_file_takes_its_place(tmp_path: Path) -> None:
    state = {"model.mm_projector.weight": torch.randn(32, 16), "model.mm_projector.bias": torch.randn(32)}
    torch.save(state, tmp_path / "mm_projector.bin")
    source = write_llava(tmp_path / "llama", "llama")
    parts = PublicParts(vision_tower=write_tower(tmp_path / "clip"), projector=tmp_path / "mm_projector.bin")
    model = loaded(convert_llava(source, tmp_path / "ours", parts, FRESH))
    assert torch.equal(model.multi_modal_projector.weight, state["model.mm_projector.weight"])


def test_tied_tables_are_stored_once(tmp_path: Path) -> None:
    state = in_layout("llama")
    del state["lm_head.weight"]
    source = write_llava(tmp_path / "llama", "llama", state, tie_word_embeddings=True)
    report = convert_llava(source, tmp_path / "ours", PublicParts(vision_tower=write_tower(tmp_path / "clip")), FRESH)
    assert "lm_head.weight" not in load_file(report.out / "model.safetensors")
    model = loaded(report)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert model.lm_head.weight.shape == (WORDS + 3, 32)


def test_vision_modules_come_from_their_files_and_words_from_llava(tmp_path: Path) -> None:
    openseed = save(openseed_state_dict(), tmp_path / "openseed.pt")
    prompts = save(semantic_sam_state_dict(), tmp_path / "sam.pth", "model.", wrapped=True)
    source = write_llava(tmp_path / "theirs", "transformers-4")
    parts = PublicParts(openseed=openseed, semantic_sam=prompts)
    report = convert_llava(source, tmp_path / "ours", parts, replace(FRESH, num_queries=30), dtype=torch.bfloat16)
    state = load_file(report.out / "model.safetensors")
    assert torch.equal(
        state["grounder.mask_head.layers.0.bias"], openseed_state_dict()[f"{PREDICTOR}mask_embed.layers.0.bias"]
    )
    assert state["lm_head.weight"].dtype == torch.bfloat16
    assert state["grounder.similarity_head.projection"].dtype == torch.float32
    assert report.fresh_parts() == {
        "grounder.similarity_head": 64 * 32 + 1,
        "visual_prompt_encoder.coverage_projection.weight": 64 * 64,
        "visual_prompt_encoder.region_projection": 64 * 32 + 32,
    }
    assert loaded(report).config.visual_prompt_config.num_mask_tokens == 6


def test_six_queries_per_prompt_run_and_the_model_learns(tmp_path: Path) -> None:
    prompts = save(semantic_sam_state_dict(), tmp_path / "sam.pth")
    source = write_llava(tmp_path / "theirs", "transformers-5")
    report = convert_llava(source, tmp_path / "ours", PublicParts(semantic_sam=prompts), FRESH)
    model = loaded(report)
    places = report.token_ids
    ids = [
        1,
        *[places["<image>"]] * 4,
        300,
        places["<region>"],
        301,
        places["<g_s>"],
        302,
        places["<g_e>"],
        places["<seg>"],
        2,
    ]
    rows = torch.tensor([ids])
    labels = torch.where(torch.arange(len(ids)) < 8, -100, rows)
    regions = RegionPrompts(
        boxes_cxcywh_norm=torch.tensor([[[0.5, 0.5, 0.2, 0.2]]]),
        types=torch.ones(1, 1, dtype=torch.long),
        valid=torch.ones(1, 1, dtype=torch.bool),
        coverage=None,
    )
    torch.manual_seed(0)
    inputs: dict[str, Any] = {"pixel_values": torch.randn(1, 3, 28, 28), "region_prompts": regions}
    output = model(input_ids=rows, labels=labels, grounder_pixel_values=torch.randn(1, 3, 128, 128), **inputs)
    assert output.prompt_output.ious.shape == (1, 1, 6)
    embeds, mask = model.phrase_states(output.last_hidden_state, rows)
    grounded = model.grounder.ground(output.image_features.memory, model.phrase_projector(embeds), mask)
    loss = output.loss + grounded.phrase_logits.float().square().mean()
    assert loss.isfinite()
    loss.backward()
    for part in (model.multi_modal_projector[0], model.visual_prompt_encoder.region_projection, model.lm_head):
        assert part.weight.grad is not None
        assert part.weight.grad.abs().max() > 0
    assert model.grounder.similarity_head.projection.grad.abs().max() > 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_phrase_has_the_tokens_of_the_same_words_in_running_text(chats: dict[str, GroundedChat], layout: str) -> None:
    tokens = chats[layout].processor.tokens
    plain = tokens.encode_answer(" A red dog is near a small bus.")
    marked = tokens.encode_answer(" <g_s> A red dog <g_e> <seg> is near <g_s> a small bus <g_e> <seg>.")
    special = {tokens.ids.phrase_start, tokens.ids.phrase_end, tokens.ids.seg}
    assert [token for token in marked if token not in special] == plain
    assert tokens.tokenizer.convert_ids_to_tokens(plain)[0] == "▁A"
    for text in (" <g_s> a dog <g_e> <seg> ümlaut 🦊\n\nend", "no blank", "  two", " x<g_s> y <g_e> <seg>, z"):
        assert tokens.decode(tokens.encode_answer(text)) == text
    for typed in ("<seg> <pad> </s> <image>", "<g_s> a <g_e> <seg>"):
        assert set(tokens.encode_plain(typed)).isdisjoint(tokens.tokenizer.all_special_ids)
        assert tokens.decode(tokens.encode_plain(typed)) == typed


def test_a_dialogue_is_written_as_vicuna_reads_it(chats: dict[str, GroundedChat]) -> None:
    processor = chats["llava"].processor
    assert processor.settings.tower.fit == "pad"
    assert processor.settings.tower.size == 28
    letterbox = Letterbox.fit((40, 30), (128, 128))
    dialogue = [Message("user", "Hi"), Message("assistant", "Yes.")]
    ids = processor.encode_conversation(dialogue, [False], letterbox).input_ids
    assert ids[:2] == [1, processor.tokens.encode_plain(" A chat")[0]]
    assert ids[-1] == 2
    text = processor.tokenizer.decode(ids)
    assert text.startswith("<s> A chat between a curious user")
    assert text.endswith("<image>\nHi ASSISTANT: Yes.</s>")


def test_a_token_that_was_added_is_never_read_out_of_what_somebody_types(tmp_path: Path) -> None:
    state = in_layout("llama")
    state |= {name: torch.ones(WORDS + 1, 32) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    source = write_llava(tmp_path / "llama", "llama", state)
    (source / "added_tokens.json").write_text(json.dumps({"[PAD]": WORDS}))
    report = convert_llava(source, tmp_path / "ours", PublicParts(vision_tower=write_tower(tmp_path / "clip")), FRESH)
    assert report.token_ids["<g_s>"] == WORDS + 1
    assert WORDS not in load_checkpoint(report.out, "cpu", None).processor.tokens.encode_plain("a [PAD] b")


def test_the_engine_asks_a_converted_model(chats: dict[str, GroundedChat]) -> None:
    for chat in chats.values():
        answer = chat.ask(picture(), "What is <region>?", [VisualPrompt.box(10, 10, 40, 40)], max_new_tokens=4)
        assert isinstance(answer.text, str)
        config = chat.model.config
        assert (config.phrase_state, config.score_function) == ("at_seg", "sigmoid")


def renamed(key: str, to: str) -> dict[str, Tensor | None]:
    return {key: None, to: in_layout("transformers-4")[key]}


WRONG: dict[str, tuple[dict[str, Tensor | None], str]] = {
    "renamed": (
        renamed("multi_modal_projector.linear_1.bias", "multi_modal_projector.linear_3.bias"),
        r"unknown key `multi_modal_projector\.linear_3\.bias`.*nothing is stored for `multi_modal_projector\.0\.bias`",
    ),
    "renamed in the tower": (
        renamed("vision_tower.vision_model.post_layernorm.bias", "vision_tower.vision_model.post_norm.bias"),
        r"unknown key `vision_tower\.vision_model\.post_norm\.bias`",
    ),
    "another shape": (
        {"language_model.model.norm.weight": torch.ones(33)},
        r"`language_model\.model\.norm\.weight` is \(33\), expected \(32\)",
    ),
    "tables of unequal length": (
        {"language_model.lm_head.weight": torch.ones(PADDED - 1, 32)},
        r"`language_model\.lm_head\.weight` is \(1439, 32\), expected \(1440, 32\)",
    ),
    "fewer rows than words": (
        {
            name: torch.ones(1401, 32)
            for name in ("language_model.lm_head.weight", "language_model.model.embed_tokens.weight")
        },
        "has 1402 tokens, but the word embedding has only 1401 rows",
    ),
    "no output layer": ({"language_model.lm_head.weight": None}, r"nothing is stored for `lm_head\.weight`"),
    "of the original": ({"seg_model.model.x": torch.ones(1)}, "`convert official` is for it"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_named_and_nothing_is_written(tmp_path: Path, what: str) -> None:
    changes, message = WRONG[what]
    state = {key: value for key, value in (in_layout("transformers-4") | changes).items() if value is not None}
    source = write_llava(tmp_path / "theirs", "transformers-4", state)
    with pytest.raises(CheckpointError, match=message):
        convert_llava(source, tmp_path / "ours", settings=FRESH)
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "another language model": ({"text_config": {"model_type": "mistral"}}, "must be a Llama, got `mistral`"),
    "tokens around the image": ({"mm_use_im_start_end": True}, "tokens around the image are not supported"),
    "another projector": ({"projector_hidden_act": "relu"}, "projector_hidden_act must be gelu, got `relu`"),
    "several layers": (
        {"vision_feature_layer": [-2, -3]},
        r"one layer of the vision tower must be read, got \[-2, -3\]",
    ),
    "ours": ({"model_type": "llava_grounding"}, "is a folder of ours already; `convert vision`"),
}


@pytest.mark.parametrize("what", CONFIGS)
def test_a_configuration_that_needs_other_code_is_refused(tmp_path: Path, what: str) -> None:
    values, message = CONFIGS[what]
    source = write_llava(tmp_path / "theirs", "transformers-4", **values)
    with pytest.raises(CheckpointError, match=message):
        convert_llava(source, tmp_path / "ours", settings=FRESH)


def test_there_must_be_one_vision_tower(tmp_path: Path) -> None:
    source = write_llava(tmp_path / "theirs", "llava")
    with pytest.raises(CheckpointError, match=r"no vision tower: .* \(config\.json names `openai/clip-vit-large"):
        convert_llava(source, tmp_path / "ours", settings=FRESH)
    whole, tower = write_llava(tmp_path / "whole", "transformers-5"), write_tower(tmp_path / "clip")
    with pytest.raises(CheckpointError, match=r"has a vision tower of its own, so `.*clip` would never be used"):
        convert_llava(whole, tmp_path / "ours", PublicParts(vision_tower=tower), FRESH)


def test_queries_per_prompt_without_a_file_are_the_callers(tmp_path: Path) -> None:
    source = write_llava(tmp_path / "theirs", "transformers-5")
    report = convert_llava(source, tmp_path / "ours", settings=replace(FRESH, prompt_tokens=6))
    assert loaded(report).visual_prompt_encoder.mask_tokens.num_embeddings == 6
    with pytest.raises(UsageError, match="is not empty"):
        convert_llava(source, report.out, settings=FRESH)
    parts = PublicParts(semantic_sam=save(semantic_sam_state_dict(3), tmp_path / "sam.pth"))
    with pytest.raises(ConfigError, match=r"prompt_tokens must be 1 to 3, as many as `sam\.pth` has, got 6"):
        convert_llava(source, tmp_path / "other", parts, replace(FRESH, prompt_tokens=6))


def test_the_report_is_what_is_on_the_disk(conversions: dict[str, ConversionReport]) -> None:
    report = conversions["transformers-4"]
    state = load_file(report.out / "model.safetensors")
    assert sum(tensor.numel() for tensor in state.values()) == report.parameters
    assert json.loads((report.out / "processor_config.json").read_text())["tokenisation"] == "markup"
