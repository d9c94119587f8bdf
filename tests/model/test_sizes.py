"""Counting models: the 7B one against the key list of the original, and memory by precision."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from torch import nn

from llava_grounding.model.presets import PRESETS, preset
from llava_grounding.model.sizes import cache_bytes_per_token, memory_needed, meta_model, part_sizes

# Of the original's key list, part by part: keys, elements, how many of these are index tables (`buffers`) or the same
# tensor once more (`repeated`), and where names correspond one to one how often each shape occurs.
OFFICIAL = json.loads((Path(__file__).parent / "official_counts.json").read_text(encoding="utf-8"))
LANG_MAPPER = 4096 * 256  # of either vision module, never run
DEAD_IN_PROMPT_ENCODER = 2 * 512 * 256 + 512 * 256 + 1  # two class heads, a mapper, a scale
COVERAGE = 256 * 256  # ours: what a scribble or mask covers


def weights_of(name: str) -> int:
    return OFFICIAL[name]["elements"] - OFFICIAL[name]["buffers"] - OFFICIAL[name]["repeated"]


def shapes(*modules: nn.Module) -> dict[str, int]:
    found = [weight for module in modules for weight in module.parameters()]
    return dict(Counter("x".join(map(str, weight.shape)) for weight in found))


def test_the_7b_model_has_the_weights_of_the_originals_key_list() -> None:
    model = meta_model(preset("official_7b"))
    counts = {size.name: size.parameters for size in part_sizes(model)}
    assert counts["language_model"] + counts["lm_head"] == weights_of("llm")
    assert counts["vision_tower"] == weights_of("vision_tower")
    assert counts["multi_modal_projector"] == weights_of("projector")
    assert counts["grounder"] == weights_of("seg_model") - LANG_MAPPER
    assert counts["visual_prompt_encoder"] == weights_of("interactive_model") - DEAD_IN_PROMPT_ENCODER + COVERAGE
    elements = sum(OFFICIAL[name]["elements"] for name in OFFICIAL)
    unused = sum(OFFICIAL[name]["buffers"] + OFFICIAL[name]["repeated"] for name in OFFICIAL)
    assert sum(counts.values()) == elements - unused - LANG_MAPPER - DEAD_IN_PROMPT_ENCODER + COVERAGE


def test_the_7b_model_has_the_shapes_of_the_originals_key_list() -> None:
    model = meta_model(preset("official_7b"))
    inverse_frequencies = OFFICIAL["llm"]["shapes"].pop("64")  # a table per layer, which newer ones compute
    assert inverse_frequencies == 32
    assert shapes(model.language_model, model.lm_head) == OFFICIAL["llm"]["shapes"]
    assert shapes(model.vision_tower) == OFFICIAL["vision_tower"]["shapes"]
    assert shapes(model.multi_modal_projector) == OFFICIAL["projector"]["shapes"]


def test_memory_is_that_of_the_language_side_in_its_precision_and_of_the_vision_modules_in_full() -> None:
    sizes = part_sizes(meta_model(preset("official_7b")))
    needed = memory_needed(sizes)
    precise = sum(size.parameters for size in sizes if size.precise)
    others = sum(size.parameters for size in sizes) - precise
    assert {size.name for size in sizes if size.precise} == {"grounder", "visual_prompt_encoder"}
    assert needed["float32"] == 4 * (precise + others)
    assert needed["bfloat16"] == 4 * precise + 2 * others
    linear = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    assert needed["int8"] == 4 * precise + 2 * (others - linear) + linear
    assert needed["int4"] == pytest.approx(4 * precise + 2 * (others - linear) + 0.5625 * linear)
    assert needed["bfloat16"] / 2**30 == pytest.approx(13.5, abs=0.2)


def test_a_tied_output_layer_is_counted_once() -> None:
    sizes = {size.name: size for size in part_sizes(meta_model(preset("nano")))}
    assert "lm_head" not in sizes
    assert sizes["vision_tower"].precise
    assert not sizes["language_model"].precise


def test_the_cache_of_the_7b_model_takes_half_a_megabyte_per_token() -> None:
    assert cache_bytes_per_token(preset("official_7b")) == 2 * 32 * 4096 * 2


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_can_be_counted(name: str) -> None:
    needed = list(memory_needed(part_sizes(meta_model(preset(name)))).values())
    assert needed == sorted(needed, reverse=True)
