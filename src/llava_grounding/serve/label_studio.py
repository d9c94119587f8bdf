"""What Label Studio asks of a model that helps to label: tasks labelled beforehand, and a mask for a click or a box.

The contract is that of its ML backends: `health`, `setup`, `predict` and `webhook` below one address. Which labels
there are comes from the project's labelling config; what is found goes back under the names of its tags. Training is
not done here. Knows no HTTP; what the model finds is asked of two functions.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np

from llava_grounding.errors import VALUE_ERRORS, DataError, quoted, shown
from llava_grounding.geometry import box_iou
from llava_grounding.labelling.exporters.label_studio import prediction
from llava_grounding.labelling.labels import Label
from llava_grounding.structures import GroundedPhrase, PackedRegion, Region, VisualPrompt

MAX_TASKS = 50
"""Most tasks of one request."""
MAX_LABELS = 200
"""Most labels of one labelling config."""
POINTED_THRESHOLD = 0.05
"""Score that a region needs to be the one that was pointed at: that it holds the point says more than its score."""
POINTED_QUESTION = "What is <region>?"
_MAX_CONFIG = 200_000  # characters
_MASKED, _BOXED, _LABELS = ("BrushLabels",), ("RectangleLabels",), ("KeyPointLabels", "PolygonLabels", "Labels")
_SAME_BOX = 0.3  # IoU from which a region may be what a drawn box is about
_PICTURE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")

Ground = Callable[[str, Sequence[str], float | None], Awaitable[tuple[tuple[int, int], list[GroundedPhrase]]]]
"""Address of a picture, phrases, score threshold -> its size (w, h), and what each phrase names."""
Point = Callable[[str, VisualPrompt, float | None], Awaitable[list[Region]]]
"""Address of a picture, what is pointed at, score threshold -> regions of the answer to what it is."""


@dataclass(frozen=True)
class LabellingConfig:
    """What a project's labelling config says.

    Args:
        field: of a task's data that has the address of the picture.
        image: name of the picture's tag.
        brush, rectangle: names of the tags that take masks and boxes; None where there is none.
        labels: all of them, in order.
    """

    field: str
    image: str
    brush: str | None
    rectangle: str | None
    labels: tuple[str, ...]

    @classmethod
    def parse(cls, text: object) -> LabellingConfig:
        """Read the XML of a config.

        Raises:
            DataError: if it is too long or no XML, or has no picture, or no tag that takes masks or boxes.
        """
        if not isinstance(text, str) or len(text) > _MAX_CONFIG or "<!" in text.replace("<!--", ""):
            raise DataError(f"label_config must be XML of at most {_MAX_CONFIG} characters without a DOCTYPE")
        try:
            root = ElementTree.fromstring(text)
        except (ElementTree.ParseError, ValueError) as error:
            raise DataError("label_config must be XML, and cannot be read") from error
        images = [tag for tag in root.iter("Image") if tag.get("name")]
        field = _PICTURE.fullmatch(images[0].get("value", "")) if images else None
        if field is None:
            raise DataError('label_config must have an Image with a name and a value, as in value="$image"')
        labels: dict[str, None] = {}
        for kind in (*_MASKED, *_BOXED, *_LABELS):
            for tag in root.iter(kind):
                labels.update({value: None for one in tag.iter("Label") if (value := one.get("value"))})
        if len(labels) > MAX_LABELS:
            raise DataError(f"label_config must have at most {MAX_LABELS} labels, got {len(labels)}")
        brush, rectangle = _name(root, _MASKED), _name(root, _BOXED)
        if brush is None and rectangle is None:
            raise DataError("label_config must have BrushLabels or RectangleLabels, which take what is found")
        return cls(field[1], images[0].get("name", ""), brush, rectangle, tuple(labels))

    def prediction(self, labels: Sequence[Label], size_wh: tuple[int, int], model: str) -> dict[str, Any]:
        """Labels as results of this config's tags."""
        if self.brush is None:  # boxes alone are wanted
            labels = [Label(one.category, Region(one.region.box_xyxy, one.region.score)) for one in labels]
        elif self.rectangle is None:  # a box without a mask has no place
            labels = [one for one in labels if one.region.mask_size_hw is not None]
        return prediction(labels, size_wh, model, (self.brush or "", self.rectangle or "", self.image))


@dataclass(frozen=True)
class Pointing:
    """What a person has drawn to say which thing is meant.

    Args:
        label: that it is to have.
        points: (n, 2) in parts of the picture, inside the thing.
        not_points: (n, 2), outside it.
        box: x0, y0, x1, y1 in parts of the picture, around it; None if none was drawn.
    """

    label: str
    points: np.ndarray
    not_points: np.ndarray
    box: tuple[float, float, float, float] | None

    @classmethod
    def parse(cls, drawn: Sequence[Any]) -> Pointing:
        """Read the results of a `context`.

        Raises:
            DataError: if one of them is no key point and no rectangle.
        """
        points: list[list[float]] = []
        outside: list[list[float]] = []
        label, box = None, None
        try:
            for one in drawn:
                kind, value = one["type"], one["value"]
                if kind not in ("keypointlabels", "rectanglelabels"):
                    raise DataError(f"a context must have key points and rectangles, got {quoted(kind)}")
                names = value.get(kind) or value.get("labels") or [label]
                label = names[0]
                x, y = float(value["x"]) / 100, float(value["y"]) / 100
                if kind == "keypointlabels":
                    (points if one.get("is_positive", 1) else outside).append([x, y])
                else:
                    box = (x, y, x + float(value["width"]) / 100, y + float(value["height"]) / 100)
        except VALUE_ERRORS as error:
            raise DataError(f"a context must have results as Label Studio makes them, got {shown(drawn)}") from error
        if not isinstance(label, str) or not (points or box):
            raise DataError("a context must have a point inside the thing or a rectangle around it, with a label")
        numbers = [*(one for pair in (*points, *outside) for one in pair), *(box or ())]
        if not all(-1 <= one <= 2 for one in numbers):  # none of which is infinite, or no number
            raise DataError("a context must have places in percent of the picture")
        return cls(label, np.array(points).reshape(-1, 2), np.array(outside).reshape(-1, 2), box)

    def prompt(self, size_wh: tuple[int, int]) -> VisualPrompt:
        """The same as a visual prompt."""
        width, height = size_wh
        if self.box is not None:
            x0, y0, x1, y1 = self.box
            return VisualPrompt.box(x0 * width, y0 * height, x1 * width, y1 * height)
        x, y = self.points[-1]
        return VisualPrompt.click(min(x, 1) * (width - 1), min(y, 1) * (height - 1))

    def choose(self, regions: Sequence[Region], size_wh: tuple[int, int]) -> Region | None:
        """The surest region that has all points inside, none of the others, and fits the box; None if none does."""
        fitting = [region for region in regions if self._fits(region, np.array(size_wh))]
        return max(fitting, key=lambda region: region.score, default=None)

    def _fits(self, region: Region, size_wh: np.ndarray) -> bool:
        mask = region.mask
        if mask is None:
            return False
        inside = [_inside(mask, point * size_wh) for point in self.points]
        outside = [_inside(mask, point * size_wh) for point in self.not_points]
        if self.box is None:
            return all(inside) and not any(outside)
        drawn = np.array(self.box) * np.tile(size_wh, 2)
        overlap = box_iou(drawn[None], region.box_xyxy[None])[0, 0]
        return all(inside) and not any(outside) and bool(overlap >= _SAME_BOX)


def _inside(mask: np.ndarray, point: np.ndarray) -> bool:
    height, width = mask.shape
    x, y = min(max(int(point[0]), 0), width - 1), min(max(int(point[1]), 0), height - 1)
    return bool(mask[y, x])


def _name(root: ElementTree.Element, kinds: Sequence[str]) -> str | None:
    return next((tag.get("name") for kind in kinds for tag in root.iter(kind) if tag.get("name")), None)


class LabelStudioBackend:
    """Answers Label Studio.

    Args:
        model: its name, which Label Studio keeps as the version of a prediction.
        ground, point: ask the model.
        max_phrases: that it takes at a time.
    """

    def __init__(self, model: str, ground: Ground, point: Point, max_phrases: int) -> None:
        self._model = model
        self._ground = ground
        self._point = point
        self._max_phrases = max_phrases

    def health(self) -> dict[str, str]:
        """That we are there."""
        return {"status": "UP", "model_class": "llava-grounding"}

    def setup(self, body: Any) -> dict[str, str]:
        """A project connects; its config must be one that we can serve.

        Raises:
            DataError: if it is not.
        """
        LabellingConfig.parse(_object(body).get("schema"))
        return {"model_version": self._model}

    async def predict(self, body: Any) -> dict[str, Any]:
        """A prediction for every task; with a `context`, what it points at.

        Raises:
            DataError: if the request is not as Label Studio makes it.
            ImageError: if a picture cannot be had.
        """
        body = _object(body)
        config = LabellingConfig.parse(body.get("label_config"))
        tasks = body.get("tasks")
        if not isinstance(tasks, list) or len(tasks) > MAX_TASKS:
            raise DataError(f"tasks must be a list of at most {MAX_TASKS}, got {shown(tasks)}")
        addresses = [_address(task, config.field) for task in tasks]
        context = _object(body.get("params") or {}).get("context") or {}
        drawn = _object(context).get("result")
        results = []
        for address in addresses:
            if drawn:
                size_wh, labels = await self._pointed(address, Pointing.parse(drawn))
            else:
                size_wh, labels = await self._all(address, config.labels)
            results.append(config.prediction(labels, size_wh, self._model))
        return {"results": results, "model_version": self._model}

    async def _all(self, address: str, names: Sequence[str]) -> tuple[tuple[int, int], list[Label]]:
        """Everything that has one of these names."""
        size_wh, labels = (1, 1), []
        for start in range(0, len(names), self._max_phrases):
            some = names[start : start + self._max_phrases]
            size_wh, found = await self._ground(address, some, None)
            labels += [
                Label(name, region)
                for name, phrase in zip(some, found, strict=True)
                for region in phrase.regions
                if region.area
            ]
        return size_wh, labels

    async def _pointed(self, address: str, pointing: Pointing) -> tuple[tuple[int, int], list[Label]]:
        """The one thing that is pointed at: by its label, else by what the model says it is."""
        size_wh, (named,) = await self._ground(address, [pointing.label], POINTED_THRESHOLD)
        chosen = pointing.choose(named.regions, size_wh)
        if chosen is None:
            said = await self._point(address, pointing.prompt(size_wh), POINTED_THRESHOLD)
            chosen = pointing.choose(said, size_wh)
        return size_wh, [] if chosen is None else [Label(pointing.label, _masked(chosen))]


def _masked(region: Region) -> Region:
    rle = region.mask_rle
    return region if rle is None else PackedRegion(region.box_xyxy, region.score, rle)


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"a request must be an object as Label Studio sends it, got {shown(value)}")
    return value


def _address(task: Any, field: str) -> str:
    """The address of the picture of a task."""
    data = _object(_object(task).get("data"))
    address = data.get(field)
    if not isinstance(address, str) or not address:
        raise DataError(f"the data of a task must have {quoted(field)}, the address of its picture")
    return address
