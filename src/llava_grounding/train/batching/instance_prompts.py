"""One visual prompt for every thing of an image, for the losses of the visual prompt encoder.

As people point: clicks, boxes, scribbles, masks. Gives prompts in the model's frame, row i for instance i.
"""

from __future__ import annotations

import numpy as np

from llava_grounding.data.sample import Sample
from llava_grounding.dialogues.prompts import can_point_at, sample_prompt
from llava_grounding.dialogues.settings import PromptSettings
from llava_grounding.geometry import Letterbox
from llava_grounding.processing.regions import EncodedPrompts, encode_prompts


def promptable(sample: Sample) -> list[int]:
    """Rows of the instances that can be pointed at."""
    return [
        row for row, thing in enumerate(sample.instances) if can_point_at(sample.masks[row], np.array(thing.box_xyxy))
    ]


def instance_prompts(
    sample: Sample,
    rows: list[int],
    letterbox: Letterbox,
    rng: np.random.Generator,
    settings: PromptSettings | None = None,
) -> EncodedPrompts:
    """A prompt for each of the instances `rows`, as people would point at it."""
    prompts = [sample_prompt(sample.masks[row], sample.instances[row].box_xyxy, rng, settings) for row in rows]
    return encode_prompts(prompts, letterbox)
