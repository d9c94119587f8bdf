"""What was found in a photo: its labels, or why it could not be read; as values and as plain data for JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llava_grounding.errors import VALUE_ERRORS, DataError, LlavaGroundingError, shown
from llava_grounding.masks import check_rle
from llava_grounding.structures import PackedRegion, Region


@dataclass(frozen=True)
class Label:
    """One thing in a photo: what it is called, and where it is in pixels of the upright photo."""

    category: str
    region: Region


@dataclass(frozen=True)
class LabelledPhoto:
    """A photo that the model has looked at.

    Args:
        name: path below the folder, or within the archive, or as the list has it.
        size_wh: of the upright photo, in pixels.
        labels: may be none.
    """

    name: str
    size_wh: tuple[int, int]
    labels: tuple[Label, ...]

    def to_dict(self) -> dict[str, Any]:
        """The label as a line: boxes are x0, y0, x1, y1 in pixels, masks COCO's compressed run-length codes."""
        return {
            "image": self.name,
            "image_size": list(self.size_wh),
            "labels": [
                {
                    "category": label.category,
                    "box": label.region.box_xyxy.tolist(),
                    "score": label.region.score,
                    "area": label.region.area,
                    "mask": label.region.mask_rle,
                }
                for label in self.labels
            ],
        }


@dataclass(frozen=True)
class BrokenPhoto:
    """A photo that could not be labelled, and why in a sentence."""

    name: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """The labels as a line of the progress file."""
        return {"image": self.name, "error": self.reason}


Result = LabelledPhoto | BrokenPhoto


def result_from_dict(data: Mapping[str, Any]) -> Result:
    """Read what `to_dict` wrote.

    Raises:
        DataError: if something is missing or does not fit.
    """
    try:
        name = data["image"]
        if not isinstance(name, str):
            raise TypeError(f"image must be text, got {shown(name)}")
        if "error" in data:
            return BrokenPhoto(name, str(data["error"]))
        width, height = (int(side) for side in data["image_size"])
        return LabelledPhoto(name, (width, height), tuple(_label(one, (height, width)) for one in data["labels"]))
    except DataError:
        raise
    except KeyError as error:
        raise DataError(f"a labelled photo must have `{error.args[0]}`, it is missing") from error
    except (LlavaGroundingError, *VALUE_ERRORS) as error:
        raise DataError(f"a labelled photo has a value that does not fit: {error}") from error


def _label(data: Mapping[str, Any], size_hw: tuple[int, int]) -> Label:
    rle = data["mask"]
    if rle is None:
        return Label(str(data["category"]), Region(data["box"], data["score"]))
    return Label(str(data["category"]), PackedRegion(data["box"], data["score"], check_rle(rle, size_hw)))


def json_text(value: Any) -> str:
    """One line of JSON, readable wherever its characters can be written."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a file name that is no text
        text = json.dumps(value, allow_nan=False)
    return text
