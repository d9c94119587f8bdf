"""The released 7B's keys and shapes, without its weights: each finds its place, and none of ours is left over.

`official_keys.txt` lists a key and its shape per line; `{0..31}` in a key stands for every number of that range.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from llava_grounding.convert.folder import expected_shapes
from llava_grounding.convert.official_keys import official_name, why_left_out
from llava_grounding.convert.plan import Plan, make_plan
from llava_grounding.convert.shards import Stored
from llava_grounding.convert.sizes import OfficialSettings, official_config
from llava_grounding.model.config import LlavaGroundingConfig
from llava_grounding.model.presets import preset

CONFIG_JSON = {
    "model_type": "llava",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "rms_norm_eps": 1e-06,
    "max_position_embeddings": 2048,
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "mm_use_im_start_end": False,
    "rope_scaling": None,
    "vocab_size": 32003,
}
IDS = {"image_token_id": 32003, "seg_token_id": 32002, "region_token_id": 32004, "eos_token_id": 2, "pad_token_id": 0}
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def written_out(key: str) -> Iterator[str]:
    """The keys a key with ranges stands for."""
    match = _RANGE.search(key)
    if match is None:
        yield key
        return
    for number in range(int(match[1]), int(match[2]) + 1):
        yield from written_out(key[: match.start()] + str(number) + key[match.end() :])


@pytest.fixture(scope="module")
def shapes() -> dict[str, tuple[int, ...]]:
    """Of the released checkpoint."""
    lines = (Path(__file__).parent / "official_keys.txt").read_text().splitlines()
    return {
        key: tuple(map(int, sizes))
        for pattern, *sizes in (line.split() for line in lines)
        for key in written_out(pattern)
    }


@pytest.fixture(scope="module")
def config(shapes: dict[str, tuple[int, ...]]) -> LlavaGroundingConfig:
    """Read off its shapes."""
    return official_config(CONFIG_JSON, shapes, IDS, OfficialSettings())


@pytest.fixture(scope="module")
def plan(shapes: dict[str, tuple[int, ...]]) -> Plan:
    """Of its conversion into the preset."""
    stored = [Stored(key, shape, torch.float16, Path("nowhere")) for key, shape in shapes.items()]
    expected = expected_shapes(preset("official_7b"))
    return make_plan(stored, official_name, expected, lambda name: "coverage_projection" in name)


def test_the_list_is_complete(shapes: dict[str, tuple[int, ...]]) -> None:
    counts = {"": 2012, "seg_model.": 644, "interactive_model.": 652, "model.vision_tower.": 391}
    assert {prefix: sum(key.startswith(prefix) for key in shapes) for prefix in counts} == counts


def test_the_sizes_of_the_preset_are_those_of_the_weights(config: LlavaGroundingConfig) -> None:
    found, wanted = config.to_dict(), preset("official_7b").to_dict()
    found["text_config"]["max_position_embeddings"] = 2048  # the converted checkpoint reads on beyond
    for part in ("grounder_config", "visual_prompt_config"):
        assert found[part].pop("num_heads") == wanted[part].pop("num_heads") == 8
    for part in (found, wanted):
        for name in ("pad_token_id", "bos_token_id", "eos_token_id", "num_key_value_heads", "hidden_act"):
            part["text_config"].pop(name)
        part["vision_config"].pop("projection_dim")
    assert found == wanted


def test_every_key_fills_one_of_ours_and_nothing_is_left_unfilled(
    plan: Plan, shapes: dict[str, tuple[int, ...]]
) -> None:
    filled = [name for move in plan.moves for name in move.names]
    assert len(filled) == len(set(filled))
    assert list(plan.fresh) == ["visual_prompt_encoder.coverage_projection.weight"]
    assert len(plan.moves) + len(plan.aliases) + len(plan.left_out) == len(shapes)
    expected = expected_shapes(preset("official_7b"))
    assert {name: move.part_shape for move in plan.moves for name in move.names} | plan.fresh == expected


def test_what_is_left_out_has_a_reason(plan: Plan) -> None:
    reasons = [why_left_out(entry.key) for entry in plan.left_out]
    assert len(reasons) == 24 + 32 + 2 + 2 + 2 + 1  # position indices, inv_freq, empty_weight, lang_mapper, class heads
    aliases = {re.sub(r"\d+", "N", entry.key) for _, entry in plan.aliases}
    assert all("bbox_embed" in key or "norm" in key for key in aliases)
    assert len(plan.aliases) == 2 * (18 * 6 + 2)


def test_the_parameters_are_those_of_the_released_model(plan: Plan) -> None:
    parameters = sum(move.stored.size for move in plan.moves)
    dead = 4096 * 256 + 3 * 512 * 256 + 1
    assert parameters == 6_738_440_192 + 4_198_400 + 303_179_776 + 54_616_383 + 54_032_448 - dead
