"""Recordings of other sizes than those kept of the original: made by a plain second implementation, and met."""

from pathlib import Path

import check
import pytest
import torch
from ledger import gradient_scale
from plain_grounder import encode, random_weights, record, record_prompts, small_config
from tolerances import TOLERANCES, compare

from llava_grounding.convert.official_vision import (
    build_official_grounder,
    build_official_prompt_encoder,
    convert_grounder_state,
    convert_prompt_encoder_state,
)
from llava_grounding.model import pixel_decoder

SIZES = {
    "width 32, a channel to a group": {"width": 32},
    "width 96, three levels": {"width": 96, "levels": 3, "encoder_layers": 1, "queries": 30},
    "width 64, five levels": {"width": 64, "levels": 5, "encoder_layers": 1, "decoder_layers": 1},
    "masks of another width, deep decoder": {"width": 32, "mask_width": 24, "decoder_layers": 4, "ffn": 20},
    "two queries, three encoder layers": {"width": 32, "queries": 2, "phrase_width": 16, "encoder_layers": 3},
}
CASES = [((107, 150), 3, 1), ((150, 70), 1, None), ((65, 129), 6, None)]


def recorded(folder: Path, seed: int = 0, **sizes: int) -> Path:
    """A folder of group A with these sizes."""
    config = small_config(**sizes)
    weights = random_weights(config, seed)
    grounder = build_official_grounder(config)
    grounder.load_state_dict(convert_grounder_state(weights))
    record(folder, config, grounder.eval().backbone, weights, CASES, seed)
    return folder


@pytest.mark.parametrize("name", SIZES)
def test_the_model_equals_a_plain_one_of_any_size(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = check.main([str(recorded(tmp_path / "A_grounding", **SIZES[name]))])
    assert code == 0, capsys.readouterr().out


def test_another_group_count_would_be_noticed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = recorded(tmp_path / "A_grounding", width=32)
    original = pixel_decoder.GroupNorm.__init__
    monkeypatch.setattr(pixel_decoder.GroupNorm, "__init__", lambda self, _, width: original(self, 16, width))
    assert check.main([str(folder)]) == 1
    assert "FAIL  pixel_decoder.mask_features" in capsys.readouterr().out


PROMPT_SIZES = {
    "width 32": {"width": 32},
    "six tokens, three levels": {"width": 96, "levels": 3, "tokens": 6, "encoder_layers": 1, "mask_width": 40},
    "one token, one layer": {"width": 32, "tokens": 1, "decoder_layers": 1, "phrase_width": 8},
}


@pytest.mark.parametrize("name", PROMPT_SIZES)
def test_the_prompt_encoder_equals_a_plain_one_of_any_size(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, folder = small_config(**PROMPT_SIZES[name]), tmp_path / "B_visual_prompt"
    weights = random_weights(config, prompts=True)
    encoder = build_official_prompt_encoder(config)
    encoder.load_state_dict(convert_prompt_encoder_state(weights))
    assert encoder.backbone is not None
    cases = [((107, 150), [0, 1, 0, 1]), ((150, 70), [1]), ((65, 129), [0])]
    record_prompts(folder, config, encoder.backbone, weights, cases)
    assert check.main([str(folder)]) == 0, capsys.readouterr().out


def test_a_bias_in_front_of_a_normalisation_is_measured_by_its_weight() -> None:
    """With a channel to a group the mean takes the bias away again: its gradient is the noise of a sum."""
    config = small_config(width=32)
    weights = random_weights(config)
    grounder = build_official_grounder(config)
    grounder.load_state_dict(convert_grounder_state(weights))
    maps = grounder.backbone(torch.randn(1, 3, 128, 160, generator=torch.Generator().manual_seed(0)))
    maps = [feature_map.detach() for feature_map in maps]
    names = [
        f"sem_seg_head.pixel_decoder.input_proj.{level}.0.{kind}" for level in range(4) for kind in ("weight", "bias")
    ]
    for name in names:
        weights[name].requires_grad_()
    levels, features = encode(weights, maps, 2)
    (sum(level.square().sum() for level in levels) + features.square().sum()).backward()
    memory = grounder.pixel_decoder(maps)
    (memory.memory.square().sum() + memory.mask_features.square().sum()).backward()
    theirs = {f"grad.{name}": weights[name].grad for name in names}
    parts = [(level, kind) for level in range(4) for kind in ("weight", "bias")]
    for name, (level, kind) in zip(names, parts, strict=True):
        recorded = theirs[f"grad.{name}"]
        ours = getattr(grounder.pixel_decoder.input_projections[level][0], kind).grad
        scale = gradient_scale(f"grad.{name}", theirs)
        found = compare(ours, recorded, TOLERANCES["G"], scale)
        assert found.ok, (name, found)
        if kind == "bias":
            assert scale > 0
            assert not compare(ours, recorded, TOLERANCES["G"]).ok  # nothing but noise
            wrong = recorded + 0.01 * theirs[f"grad.{name.removesuffix('bias')}weight"].norm()
            assert not compare(wrong, recorded, TOLERANCES["G"], scale).ok


def test_only_a_bias_beside_its_weight_has_another_measure() -> None:
    recorded = {"grad.a.weight": torch.full((4,), 3.0), "grad_norms.b.weight": torch.tensor(10.0)}
    assert gradient_scale("grad.a.bias", recorded) == pytest.approx(0.06)
    assert gradient_scale("grad_norms.b.bias", recorded) == pytest.approx(0.1)
    for name in ("grad.c.bias", "grad.a.weight", "loss.a.bias", "grad.a.b"):
        assert gradient_scale(name, recorded) == 0.0
