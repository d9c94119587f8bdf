"""The endless, deterministic stream of training samples: sample i is the same whatever process makes it.

Knows samples, not tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from llava_grounding.data.sample import Sample, mirror_sample
from llava_grounding.data.synthetic import SceneConfig, draw_scene

PhotoSource = Callable[[int, np.random.Generator], Sample]
"""Gives the sample of the photo with that index (taken modulo the number of photos)."""

VALIDATION_SEED = 10**9
"""Scenes from this seed on are never trained on."""


@dataclass(frozen=True)
class SampleStream:
    """Sample i of an endless mixture of drawn scenes and photos."""

    seed: int
    photo_share: float = 0.0
    photos: PhotoSource | None = None
    scene_config: SceneConfig = field(default_factory=SceneConfig)

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self.seed, index))
        if self.photos is not None and rng.random() < self.photo_share:
            sample = self.photos(int(rng.integers(2**31)), rng)
            return mirror_sample(sample) if rng.random() < 0.5 else sample
        # Scenes are endless, and a mirrored one would list its things from right to left.
        return draw_scene(int(rng.integers(VALIDATION_SEED)), self.scene_config)


def validation_scenes(count: int) -> Sequence[Sample]:
    """The first `count` held-out scenes."""
    return [draw_scene(VALIDATION_SEED + index) for index in range(count)]
