"""The regions of an answer for programs that work with supervision. Imported when it is asked for; knows no files."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from llava_grounding.errors import missing_extra
from llava_grounding.structures import GroundedAnswer, category_name

if TYPE_CHECKING:
    from supervision import Detections


def to_supervision(answer: GroundedAnswer) -> Detections:
    """All regions of an answer, in reading order of their phrases; needs the extra `supervision`.

    Returns:
        n regions: `xyxy` (n, 4) float64 in pixels of the original image; `mask` (n, H, W) bool, or None where one has a
        box alone; `confidence` (n,) float64; `class_id` (n,) whole numbers from 0, for the names that `category_name`
        gives in `data["class_name"]`; the words of the phrase in `data["phrase"]` and its id in `data["phrase_id"]`.

    Raises:
        MissingExtraError: if supervision is not installed.
    """
    if find_spec("supervision") is None:
        raise missing_extra("supervision", "`to_supervision`")
    from supervision import Detections

    found = [(phrase, region) for phrase in answer.phrases for region in phrase.regions]
    names = [category_name(phrase.text) for phrase, _ in found]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    width, height = answer.image_size_wh
    masks = [region.mask for _, region in found]
    known = [mask for mask in masks if mask is not None]
    return Detections(
        xyxy=np.array([region.box_xyxy for _, region in found]).reshape(-1, 4),
        mask=np.array(known, dtype=bool).reshape(-1, height, width) if len(known) == len(masks) else None,
        confidence=np.array([region.score for _, region in found], dtype=np.float64),
        class_id=np.array([numbers[name] for name in names], dtype=np.int64),
        data={
            "class_name": np.array(names, dtype=str),
            "phrase": np.array([phrase.text for phrase, _ in found], dtype=str),
            "phrase_id": np.array([phrase.id for phrase, _ in found], dtype=np.int64),
        },
    )
