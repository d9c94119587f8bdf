"""Samples made by hand, whose every number is known, and the settings of a small drawn world. Needs no torch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from llava_grounding.data.sample import Instance, Sample, Turn
from llava_grounding.scenes.synthetic import SceneConfig
from llava_grounding.structures import VisualPrompt

NAMES = ["cat", "dog", "tree"]
SIZE_WH = (80, 60)
SCENES = SceneConfig(categories=("dog", "cat", "tree"), num_objects=(1, 3), short_side=(48, 64))


def thing(category: str, box_xyxy: tuple[int, int, int, int], has_mask: bool = True) -> Instance:
    return Instance(category, np.array(box_xyxy, dtype=np.float64), has_mask)


DOG, LEFT_CAT, RIGHT_CAT = (thing("dog", (8, 8, 32, 40)), thing("cat", (36, 4, 48, 20)), thing("cat", (56, 30, 76, 56)))
TURNS = (
    Turn(
        "Describe the image.",
        "There is <g_s> a dog <g_e> <seg> with <g_s> two cats <g_e> <seg>.",
        ((0,), (1, 2)),
        kind="describe",
    ),
    Turn("How many cats are there?", "Two.", grounded=False, kind="count"),
    Turn(
        "What is <region>, and what <region>?",
        "<g_s> A dog <g_e> <seg> and <g_s> grass <g_e> <seg>.",
        ((0,), None),
        (VisualPrompt.box(8, 8, 32, 40), VisualPrompt.click(60, 50)),
        kind="region",
    ),
    Turn("And what is left of it?", "Nothing.", kind="followup"),
    Turn("Is there a horse?", "No, there is none.", kind="absent"),
)


def picture(instances: tuple[Instance, ...], size_wh: tuple[int, int] = SIZE_WH) -> tuple[np.ndarray, np.ndarray]:
    """Instances as plain rectangles, one colour per category, and their masks."""
    image = np.full((size_wh[1], size_wh[0], 3), 90, dtype=np.uint8)
    masks = np.zeros((len(instances), size_wh[1], size_wh[0]), dtype=bool)
    colours = {"dog": (220, 40, 40), "cat": (40, 60, 220), "tree": (40, 200, 60)}
    for mask, instance in zip(masks, instances, strict=True):
        x0, y0, x1, y1 = instance.box_xyxy.astype(int)
        image[y0:y1, x0:x1] = colours.get(instance.category, (200, 200, 60))
        mask[y0:y1, x0:x1] = instance.has_mask
    return image, masks


def sample(
    instances: tuple[Instance, ...] = (DOG, LEFT_CAT, RIGHT_CAT),
    turns: tuple[Turn, ...] = TURNS,
    exhaustive: frozenset[str] | None = None,
) -> Sample:
    """The red dog on the left of two blue cats, or other things."""
    image, masks = picture(instances)
    return Sample("drawn by hand", image, instances, masks, turns, exhaustive, "tests")


def four_samples() -> list[Sample]:
    """Four pictures that differ in what stands where, each with a dialogue that says so."""
    samples = []
    for number, (name, box) in enumerate(
        [("dog", (6, 10, 34, 50)), ("cat", (46, 10, 74, 50)), ("tree", (26, 4, 50, 30)), ("dog", (40, 30, 70, 56))]
    ):
        side = "left" if box[0] + box[2] < SIZE_WH[0] else "right"
        turns = (
            Turn("Where is it?", f"<g_s> The {name} <g_e> <seg> is on the {side}.", ((0,),), kind="where"),
            Turn("What is <region>?", f"<g_s> A {name} <g_e> <seg>.", ((0,),), (VisualPrompt.box(*box),)),
        )
        samples.append(replace(sample((thing(name, box),), turns), id=f"picture {number}"))
    return samples
