"""Names of categories as people say them: those of COCO's surfaces are codes, as `wall-brick` and `sky-other-merged`.

Knows no labels; a file's list of categories is unchecked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from llava_grounding.data.readers.parts.left_out import LeftOut
from llava_grounding.data.readers.parts.numbers import EntryError, Key, key_of, key_or_none
from llava_grounding.data.readers.parts.reading import label_id
from llava_grounding.data.readers.parts.texts import plain_text

_SUFFIXES = ("-merged", "-other", "-stuff")
_NATURAL = {
    "ceiling-tile": "tiled ceiling",
    "floor-marble": "marble floor",
    "floor-stone": "stone floor",
    "floor-tile": "tiled floor",
    "floor-wood": "wooden floor",
    "playingfield": "playing field",
    "wall-brick": "brick wall",
    "wall-concrete": "concrete wall",
    "wall-panel": "panelled wall",
    "wall-stone": "stone wall",
    "wall-tile": "tiled wall",
    "wall-wood": "wooden wall",
    "waterdrops": "water drops",
}
_FIRST_SURFACE = 92  # of COCO's ids; what is below are things
_SURFACES = [
    "banner",
    "blanket",
    "branch",
    "bridge",
    "building-other",
    "bush",
    "cabinet",
    "cage",
    "cardboard",
    "carpet",
    "ceiling-other",
    "ceiling-tile",
    "cloth",
    "clothes",
    "clouds",
    "counter",
    "cupboard",
    "curtain",
    "desk-stuff",
    "dirt",
    "door-stuff",
    "fence",
    "floor-marble",
    "floor-other",
    "floor-stone",
    "floor-tile",
    "floor-wood",
    "flower",
    "fog",
    "food-other",
    "fruit",
    "furniture-other",
    "grass",
    "gravel",
    "ground-other",
    "hill",
    "house",
    "leaves",
    "light",
    "mat",
    "metal",
    "mirror-stuff",
    "moss",
    "mountain",
    "mud",
    "napkin",
    "net",
    "paper",
    "pavement",
    "pillow",
    "plant-other",
    "plastic",
    "platform",
    "playingfield",
    "railing",
    "railroad",
    "river",
    "road",
    "rock",
    "roof",
    "rug",
    "salad",
    "sand",
    "sea",
    "shelf",
    "sky-other",
    "skyscraper",
    "snow",
    "solid-other",
    "stairs",
    "stone",
    "straw",
    "structural-other",
    "table",
    "tent",
    "textile-other",
    "towel",
    "tree",
    "vegetable",
    "wall-brick",
    "wall-concrete",
    "wall-other",
    "wall-panel",
    "wall-stone",
    "wall-tile",
    "wall-wood",
    "water-other",
    "waterdrops",
    "window-blind",
    "window-other",
    "wood",
    "other",
]


def natural_name(name: str) -> str:
    """A panoptic category as people say it: `sky-other-merged` is `sky`, `wall-brick` a `brick wall`."""
    short = name
    while short.endswith(_SUFFIXES):
        short = short.rpartition("-")[0]
    return _NATURAL.get(short, short.replace("-", " ").strip()) or name


def read_categories(rows: Iterable[Any], left_out: LeftOut) -> dict[Key, str]:
    """Names by id of a COCO file's categories; an id with two names has none, as nobody can say which is meant."""
    names: dict[Key, str] = {}
    doubtful = set()
    for row in rows:
        try:
            if not isinstance(row, Mapping):
                raise EntryError("category that is no object")
            number, name = key_of(row.get("id"), "category id"), plain_text(row.get("name"), "category")
            if number in names:
                doubtful |= {number} if names[number] != name else set()
                raise EntryError("category id used twice", f"{number} is `{names[number]}` already, got `{name}`")
            names[number] = name
        except EntryError as why:
            left_out.add(f"category {label_id(row)}", why)
    return {number: name for number, name in names.items() if number not in doubtful}


def surfaces_of(rows: Iterable[Any]) -> frozenset[Key]:
    """Ids of the categories of a file that are materials or surfaces: those it says are no things, and COCO's own."""
    found = set()
    for row in rows:
        number = key_or_none(row.get("id")) if isinstance(row, Mapping) else None
        if number is None:
            continue
        place = number - _FIRST_SURFACE if isinstance(number, int) else -1
        is_coco = 0 <= place < len(_SURFACES) and row.get("name") == _SURFACES[place]
        if is_coco or row.get("isthing", 1) in (0, "0", None, ""):
            found.add(number)
    return frozenset(found)
