"""The endless, deterministic stream of training samples: sample i is the same whatever process makes it.

Knows samples, not tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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
    scene_config: SceneConfig | None = None
    mirror: bool = True

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self.seed, index))
        if self.photos is not None and rng.random() < self.photo_share:
            sample = self.photos(int(rng.integers(2**31)), rng)
        else:
            seed = int(rng.integers(VALIDATION_SEED))
            sample = draw_scene(seed) if self.scene_config is None else draw_scene(seed, self.scene_config)
        return mirror_sample(sample) if self.mirror and rng.random() < 0.5 else sample


def validation_scenes(count: int) -> Sequence[Sample]:
    """The first `count` held-out scenes."""
    return [draw_scene(VALIDATION_SEED + index) for index in range(count)]
