"""Public checkpoints of OpenSeeD and Semantic-SAM, and what they become: the modules, or parts of a folder of ours."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from llava_grounding.checkpoints import load_checkpoint
from llava_grounding.convert.llava import convert_llava
from llava_grounding.convert.official_vision import convert_grounder_state, convert_prompt_encoder_state
from llava_grounding.convert.report import ConversionReport
from llava_grounding.convert.vision import convert_vision
from llava_grounding.convert.vision_files import openseed_state, semantic_sam_state
from llava_grounding.errors import CheckpointError, ConfigError
from llava_grounding.model.builders import build_grounder, build_visual_prompt_encoder
from llava_grounding.model.config import GrounderConfig, VisualPromptConfig
from public_parts import FRESH, GOLDEN, PREDICTOR, openseed_state_dict, save, semantic_sam_state_dict, write_llava
from tiny_model import tiny_parts

TOKENS = f"{PREDICTOR}mask_tokens.weight"
WRAPPINGS = [("", False), ("model.", True), ("module.", False)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ConversionReport:
    """A folder of ours with fresh vision modules."""
    place = tmp_path_factory.mktemp("ours")
    return convert_llava(write_llava(place / "theirs", "transformers-5"), place / "ours", settings=FRESH)


@pytest.mark.parametrize(("prefix", "wrapped"), WRAPPINGS)
def test_openseed_fills_a_grounder_but_for_the_comparison_with_phrases(
    tmp_path: Path, prefix: str, wrapped: bool
) -> None:
    state = openseed_state(save(openseed_state_dict(), tmp_path / "openseed.pt", prefix, wrapped))
    grounder = build_grounder(GrounderConfig(**state.fields, phrase_size=64))
    fitted = grounder.load_state_dict(state.weights, strict=False)
    assert fitted.missing_keys == ["similarity_head.projection", "similarity_head.logit_scale"] == list(state.fresh)
    assert not fitted.unexpected_keys
    recorded = convert_grounder_state(load_file(GOLDEN / "A_grounding" / "weights.safetensors"))
    assert all(torch.equal(state.weights[name], recorded[name]) for name in state.weights)
    assert state.left_out["is a text encoder, whose place the language model takes"] == 4
    assert state.left_out["compares objects with that text encoder's classes"] == 1


@pytest.mark.parametrize(("prefix", "wrapped"), WRAPPINGS)
@pytest.mark.parametrize("tokens", [3, 6])
def test_semantic_sam_fills_a_prompt_encoder_with_as_many_queries_as_it_has(
    tmp_path: Path, prefix: str, wrapped: bool, tokens: int
) -> None:
    stored = semantic_sam_state_dict(tokens)
    state = semantic_sam_state(save(stored, tmp_path / "sam.pth", prefix, wrapped))
    assert state.fields["num_mask_tokens"] == tokens
    encoder = build_visual_prompt_encoder(VisualPromptConfig(**state.fields), 4096)
    fitted = encoder.load_state_dict(state.weights, strict=False)
    alone = ["coverage_projection.weight", "region_projection.weight", "region_projection.bias"]
    assert fitted.missing_keys == alone == list(state.fresh)
    assert not fitted.unexpected_keys
    recorded = convert_prompt_encoder_state(load_file(GOLDEN / "B_visual_prompt" / "weights.safetensors"))
    recorded["mask_tokens.weight"] = stored[TOKENS]
    assert all(torch.equal(state.weights[name], recorded[name]) for name in state.weights)
    assert state.left_out["compares objects with that text encoder's classes"] == 2


def test_the_first_queries_are_kept_only_when_asked_for(tmp_path: Path) -> None:
    path = save(semantic_sam_state_dict(6), tmp_path / "sam.pth")
    state = semantic_sam_state(path, prompt_tokens=3)
    assert torch.equal(state.weights["mask_tokens.weight"], semantic_sam_state_dict(6)[TOKENS][:3])
    assert state.fields["num_mask_tokens"] == 3
    for wrong in (0, 7):
        with pytest.raises(ConfigError, match=rf"prompt_tokens must be 1 to 6, as many as `sam\.pth` has, got {wrong}"):
            semantic_sam_state(path, prompt_tokens=wrong)


def test_learned_queries_for_stuff_are_left_out_with_a_word(tmp_path: Path) -> None:
    stuff = {f"{PREDICTOR}query_feat.weight": torch.ones(5, 64), f"{PREDICTOR}query_embed.weight": torch.ones(5, 4)}
    state = openseed_state(save(openseed_state_dict() | stuff, tmp_path / "openseed.pt"))
    assert state.left_out["are learned queries for stuff, while ours are all picked from the image"] == 2


def test_sizes_of_a_larger_backbone_are_read_off_the_shapes(tmp_path: Path) -> None:
    fields = openseed_state(save(openseed_state_dict(), tmp_path / "openseed.pt")).fields
    assert fields["backbone_config"]["depths"] == [2, 1, 2, 1]
    assert fields["backbone_config"]["num_heads"] == [1, 2, 4, 8]
    assert fields["decoder_layers"] == 3


LAYER = "sem_seg_head.pixel_decoder.mask_features.bias"
WRONG: dict[str, tuple[dict[str, Tensor | None], str]] = {
    "renamed": (
        {LAYER: None, "sem_seg_head.pixel_decoder.mask_feature.bias": torch.ones(64)},
        r"`openseed\.pt` is not of the expected kind: unknown key `sem_seg_head\.pixel_decoder\.mask_feature\.bias`.*"
        r"nothing is stored for `grounder\.pixel_decoder\.mask_projection\.bias`",
    ),
    "another shape": (
        {LAYER: torch.ones(63)},
        r"`sem_seg_head\.pixel_decoder\.mask_features\.bias` is \(63\), expected",
    ),
    "beside the module": ({"optimizer.x": torch.ones(1)}, r"unknown key `optimizer\.x`"),
    "another backbone": (
        {"backbone.patch_embed.proj.weight": None},
        r"no checkpoint of OpenSeeD on Swin: expected one `backbone\.patch_embed\.proj\.weight`, found none",
    ),
    "two modules": ({"b.backbone.patch_embed.proj.weight": torch.ones(1)}, "found 2"),
    "no size": ({"sem_seg_head.pixel_decoder.transformer.level_embed": None}, "from which a size is read"),
    "unequal names": (
        {f"{PREDICTOR}decoder.norm.bias": torch.full((64,), 7.0)},
        "name one shared tensor but hold different values",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_named(tmp_path: Path, what: str) -> None:
    changes, message = WRONG[what]
    state = {key: value for key, value in (openseed_state_dict() | changes).items() if value is not None}
    with pytest.raises(CheckpointError, match=message):
        openseed_state(save(state, tmp_path / "openseed.pt"))


def test_modules_cannot_be_mistaken_for_each_other(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"unknown key.*mask_tokens|unknown key.*iou_prediction_head"):
        openseed_state(save(semantic_sam_state_dict(), tmp_path / "sam.pth"))
    with pytest.raises(CheckpointError, match=r"has no `.*mask_tokens\.weight`, from which a size is read"):
        semantic_sam_state(save(openseed_state_dict(), tmp_path / "openseed.pt"))


def test_a_folder_of_ours_gets_other_vision_modules(folder: ConversionReport, tmp_path: Path) -> None:
    openseed = save(openseed_state_dict(), tmp_path / "openseed.pt")
    sam = save(semantic_sam_state_dict(), tmp_path / "sam.pth")
    report = convert_vision(folder.out, tmp_path / "both", openseed, sam)
    before, after = (load_file(one.out / "model.safetensors") for one in (folder, report))
    mine = {name for name in before if not name.startswith(("grounder.", "visual_prompt_encoder."))}
    assert mine
    assert all(torch.equal(before[name], after[name]) for name in mine)
    assert report.fresh_parts().keys() == {
        "grounder.similarity_head",
        "visual_prompt_encoder.coverage_projection.weight",
        "visual_prompt_encoder.region_projection",
    }
    loaded = load_checkpoint(report.out, "cpu", None)
    config = loaded.model.config
    assert config.visual_prompt_config.num_mask_tokens == 6
    assert config.grounder_config.image_size == FRESH.image_size
    assert config.grounder_config.num_queries == FRESH.num_queries
    assert torch.equal(
        loaded.model.grounder.mask_head.layers[0].bias, openseed_state_dict()[f"{PREDICTOR}mask_embed.layers.0.bias"]
    )
    assert loaded.model.grounder.similarity_head.projection.std() > 0.01


def test_one_module_alone_leaves_the_other(folder: ConversionReport, tmp_path: Path) -> None:
    sam = save(semantic_sam_state_dict(), tmp_path / "sam.pth")
    report = convert_vision(folder.out, tmp_path / "one", semantic_sam=sam, prompt_tokens=3)
    before, after = (load_file(one.out / "model.safetensors") for one in (folder, report))
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("grounder."))
    assert after["visual_prompt_encoder.mask_tokens.weight"].shape == (3, 64)


def test_a_module_that_others_read_is_not_taken_away(folder: ConversionReport, tmp_path: Path) -> None:
    openseed = save(openseed_state_dict(), tmp_path / "openseed.pt")
    model, processor = tiny_parts("shared")
    model.save_pretrained(tmp_path / "nano")
    processor.save_pretrained(tmp_path / "nano")
    with pytest.raises(CheckpointError, match="sees with its grounder, which cannot be replaced"):
        convert_vision(tmp_path / "nano", tmp_path / "out", openseed)
    sharing = tmp_path / "sharing"
    shutil.copytree(folder.out, sharing)
    config = json.loads((sharing / "config.json").read_text())
    del config["visual_prompt_config"]["backbone_config"]
    config["visual_prompt_config"]["share_image_features"] = True
    (sharing / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="reads its grounder's features: replace both, or it alone"):
        convert_vision(sharing, tmp_path / "out", openseed)
    with pytest.raises(ConfigError, match="give a checkpoint of OpenSeeD or of Semantic-SAM, or both"):
        convert_vision(folder.out, tmp_path / "out")
    assert not (tmp_path / "out").exists()
