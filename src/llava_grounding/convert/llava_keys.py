"""The layouts that plain LLaVA-1.x, Llama and CLIP checkpoints come in, brought to one: LLaVA's own.

Strings only. Layouts of transformers before and since version 5, of the LLaVA repository, and of CLIP by itself.
"""

import re

from llava_grounding.convert.keys import rename_key
from llava_grounding.convert.official_keys import LANGUAGE_IGNORED, LANGUAGE_RENAMES, TOWER_RENAMES

_TOWER = "model.vision_tower.vision_tower.vision_model."
_TO_LLAVA = [
    (r"(?:language_model\.model|model\.language_model)\.(.+)", r"model.\1"),
    (r"language_model\.lm_head\.(.+)", r"lm_head.\1"),
    (r"(?:model\.)?multi_modal_projector\.linear_1\.(.+)", r"model.mm_projector.0.\1"),
    (r"(?:model\.)?multi_modal_projector\.linear_2\.(.+)", r"model.mm_projector.2.\1"),
    (r"mm_projector\.(.+)", r"model.mm_projector.\1"),
    (r"(?:model\.)?vision_tower\.(?:vision_tower\.)?(?:vision_model\.)?(.+)", rf"{_TOWER}\1"),
    (r"vision_model\.(.+)", rf"{_TOWER}\1"),
]
_BARE_TOWER = r"(?:embeddings|pre_layrnorm|encoder|post_layernorm)\..+"
_OF_CLIP_ALONE = r"text_model\..+|(?:text|visual)_projection\.weight|logit_scale"


def in_llava_layout(key: str) -> str:
    """A key as LLaVA's repository writes it; one of another kind stays as it is."""
    for pattern, template in _TO_LLAVA:
        if match := re.fullmatch(pattern, key):
            return match.expand(template)
    return key


def tower_key(key: str) -> str:
    """A key of a CLIP checkpoint as LLaVA's repository writes it."""
    return _TOWER + key if re.fullmatch(_BARE_TOWER, key) else in_llava_layout(key)


def llava_name(key: str) -> str | None:
    """Our name of a key in any of the layouts, None if it is left out.

    Raises:
        CheckpointError: if the key is unknown.
    """
    return rename_key(in_llava_layout(key), LANGUAGE_RENAMES + TOWER_RENAMES, LANGUAGE_IGNORED)


def tower_name(key: str) -> str | None:
    """Our name of a key of a CLIP checkpoint, None if it is left out.

    Raises:
        CheckpointError: if the key is unknown.
    """
    return rename_key(tower_key(key), TOWER_RENAMES, [*LANGUAGE_IGNORED, _OF_CLIP_ALONE])


def why_left_out(key: str) -> str:
    """The reason for which a key has no place here."""
    if re.fullmatch(_OF_CLIP_ALONE, key):
        return "is CLIP's comparison of pictures with texts"
    return "is computed anew"
