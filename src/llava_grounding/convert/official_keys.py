"""Where every key of a whole released checkpoint goes: language side by its own table, vision modules by theirs.

Strings only. What is left out says why, for the report.
"""

import re

from llava_grounding.convert.keys import (
    GROUNDER_IGNORED,
    GROUNDER_PREFIX,
    GROUNDER_RENAMES,
    PROMPT_ENCODER_IGNORED,
    PROMPT_ENCODER_PREFIX,
    PROMPT_ENCODER_RENAMES,
    rename_key,
)

LANGUAGE_RENAMES: list[tuple[str, str]] = [
    (r"model\.embed_tokens\.weight", "language_model.embed_tokens.weight"),
    (r"model\.layers\.(\d+)\.self_attn\.([qkvo]_proj)\.(weight|bias)", r"language_model.layers.\1.self_attn.\2.\3"),
    (r"model\.layers\.(\d+)\.mlp\.(gate|up|down)_proj\.weight", r"language_model.layers.\1.mlp.\2_proj.weight"),
    (
        r"model\.layers\.(\d+)\.(input_layernorm|post_attention_layernorm)\.weight",
        r"language_model.layers.\1.\2.weight",
    ),
    (r"model\.norm\.weight", "language_model.norm.weight"),
    (r"lm_head\.weight", "lm_head.weight"),
    (r"model\.mm_projector\.(weight|bias)", r"multi_modal_projector.\1"),
    (r"model\.mm_projector\.([02])\.(weight|bias)", r"multi_modal_projector.\1.\2"),
]
TOWER_RENAMES: list[tuple[str, str]] = [
    (r"(?:model\.vision_tower\.vision_tower\.)?vision_model\.(.+)", r"vision_tower.vision_model.\1"),
]
LANGUAGE_IGNORED = [
    r"model\.layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
    r"(?:model\.vision_tower\.vision_tower\.)?vision_model\.embeddings\.position_ids",
]
WHY_LEFT_OUT: list[tuple[str, str]] = [
    (r"(inv_freq|position_ids|relative_position_index|attn_mask|pixel_mean|pixel_std)$", "is computed anew"),
    (r"(empty_weight|lang_mapper)$", "is used in training only"),
    (r"(class_embed|class_embed_part|logit_scale)$", "belongs to class heads that are switched off"),
]
GROUNDER, PROMPT_ENCODER = "grounder.", "visual_prompt_encoder."


def official_name(key: str) -> str | None:
    """Our name of a key of a released checkpoint, None if it is left out; `{qkv}` stands for three tensors in one.

    Raises:
        CheckpointError: if the key is unknown.
    """
    for prefix, ours, renames, ignored in [
        (GROUNDER_PREFIX, GROUNDER, GROUNDER_RENAMES, GROUNDER_IGNORED),
        (PROMPT_ENCODER_PREFIX, PROMPT_ENCODER, PROMPT_ENCODER_RENAMES, PROMPT_ENCODER_IGNORED),
    ]:
        if key.startswith(prefix):
            name = rename_key(key.removeprefix(prefix), renames, ignored)
            return None if name is None else ours + name
    return rename_key(key, LANGUAGE_RENAMES + TOWER_RENAMES, LANGUAGE_IGNORED)


def why_left_out(key: str) -> str:
    """The reason for which a key has no place here."""
    return next(reason for pattern, reason in WHY_LEFT_OUT if re.search(pattern, key))
