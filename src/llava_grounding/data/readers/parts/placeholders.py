"""What stands for a picture, a region or a mask in the texts of other models' files, and which files those are.

Read as words, these would be learnt as words. Our own tokens are in `markup`; knows no file format.
"""

from __future__ import annotations

import re

_OF_WHOM: tuple[tuple[str, str], ...] = (
    ("Ferret (`kind: ferret`)", r"<bbox_location\d*>|<region_fea>"),
    (
        "Osprey (`kind: osprey`)",
        r"<(?:region|mask|bbox)[ _]?\d+>|</?mask>|<pos>|<spi_feat>|<global_mask>",
    ),
    ("ms-swift or GPT4RoI", r"<ref-object>|<bbox>"),
    ("GLaMM (`kind: grandf`) or LISA", r"</?p>|(?-i:\[(?:SEG|LOC|DET|REJ|PIX)[ _]?\d*\])"),
    ("Shikra (`kind: shikra`)", r"</?(?:boxes|points?|coords?)>|<(?:b|p|ph|bo)_(?:st|ed)>"),
    (
        "Kosmos-2 (`kind: kosmos2`)",
        r"</?(?:phrase|object|grounding)>|<patch_index_\d+>|</?delimiter_of_multi_objects/?>",
    ),
    ("Qwen-VL or InternVL", r"</?(?:ref|box|quad|img)>|<img_context>"),
    ("PaliGemma or Florence-2", r"</?loc[ _]?\d*>|<seg\d+>|</?poly>"),
    ("MiniGPT-v2", r"\{\s*(?:<\d+>\s*){4}\}|<imagehere>|<delim>|^\s*\[(?:grounding|detection|refer|identify|vqa)\]"),
    ("Groma", r"<(?:refer|ground)_(?:box|feat)>|</?roi>|<r\d+>"),
    ("a model of objects in space", r"<obj(?:ect)?[ _]?\d+>"),
    (
        "a model of several pictures, films or sounds",
        r"<image[ _-]?\d+>|</?(?:video|vid|frames?|audio|speech)[ _]?\d*>",
    ),
    (
        "a chat model",
        r"<\|[\w/ -]{1,40}\|>|<im_(?:start|end|patch)>|</?s>|<(?:unk|pad|bos|eos)>|(?-i:\[/?INST\])"
        r"|<(?:start|end)_of_(?:turn|image)>|<image_soft_token>",
    ),
)
_PLACEHOLDER = re.compile(
    "|".join(f"(?P<_{number}>{words})" for number, (_, words) in enumerate(_OF_WHOM)), re.IGNORECASE
)


def may_be_plain(text: str) -> bool:
    """Whether a text holds nothing that a token begins with, be it another model's or our own."""
    return not ("<" in text or "[" in text or "{" in text)


def find_placeholder(text: str) -> tuple[str, str] | None:
    """The first placeholder of another model in a text, and whose files have it; None where there is none."""
    if may_be_plain(text):
        return None  # as nearly every text of millions
    match = _PLACEHOLDER.search(text)
    if match is None:
        return None
    assert match.lastgroup is not None
    return match[0].strip(), _OF_WHOM[int(match.lastgroup[1:])][0]
