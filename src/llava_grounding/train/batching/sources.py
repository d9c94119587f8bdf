"""The sources of a recipe, all together: opened with their weights, left out where they may be, checked.

What one of them is, is the business of `source_kinds`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from llava_grounding.data.augmentation import AugmentationSettings
from llava_grounding.data.check import check_dataset
from llava_grounding.data.sample import Sample
from llava_grounding.errors import ConfigError, DataError, quoted
from llava_grounding.scenes.synthetic import SceneConfig
from llava_grounding.train.batching.mixture import SampleSource
from llava_grounding.train.batching.source_kinds import Records, SourceOptions, source_kind
from llava_grounding.typed_values import is_number

logger = logging.getLogger(__name__)


def open_sources(
    sources: Sequence[Mapping[str, Any]],
    root: Path | None,
    scenes: Callable[[], SceneConfig] = SceneConfig,
    questions: bool = True,
    commercial_use: bool = False,
    augmentation: AugmentationSettings = AugmentationSettings(),
) -> list[tuple[SampleSource, float]]:
    """Open what a recipe names, with weights; sources that are `optional` and whose files are not there are left out.

    Args:
        root: what relative paths are relative to, and the photo pack's folder; None takes the environment variable
            LLAVA_GROUNDING_DATA for the pack, and the working directory.
        scenes: what drawn scenes are like.
        questions: whether photos come with questions.
        commercial_use: of the photo pack, only photos whose licence allows it; see `data/licenses.py`.
        augmentation: of photos whose source is `augmented`.

    Raises:
        ConfigError: if a source is unknown, or a key of it is.
        DataError: if its files are missing or of another kind.
    """
    options = SourceOptions(scenes, questions, commercial_use, augmentation)
    opened = []
    for values in sources:
        weight = values.get("weight", 1.0)
        if not is_number(weight) or not 0 <= weight < float("inf"):
            raise ConfigError(f"`weight` of a source must be a number of at least 0, got {quoted(weight)}")
        if weight == 0:
            continue
        if values.get("optional") and not is_there(values, root):
            logger.info("%s: left out: its files are not there", values.get("name", values["kind"]))
            continue
        source = _open(values, root, options)
        if source.size == 0 and values.get("optional"):
            logger.info("%s: left out: the pack has no such photos", source.name)
            continue
        opened.append((source, float(weight)))
    return opened


def open_source(
    values: Mapping[str, Any],
    root: Path | None,
    scenes: Callable[[], SceneConfig] = SceneConfig,
    questions: bool = True,
    commercial_use: bool = False,
) -> SampleSource:
    """Open one source; see `open_sources`."""
    return _open(values, root, SourceOptions(scenes, questions, commercial_use))


def _open(values: Mapping[str, Any], root: Path | None, options: SourceOptions) -> SampleSource:
    name = str(values.get("name", values["kind"]))
    return source_kind(values).open(values, root, name, options)


def is_there(values: Mapping[str, Any], root: Path | None) -> bool:
    """Whether every file and folder that a source names exists; says nothing of what is in them.

    Raises:
        ConfigError: as `open_dataset`.
    """
    return source_kind(values).is_there(values, root)


def held_out_samples(sources: Sequence[tuple[SampleSource, float]], count: int, seed: int = 0) -> list[Sample]:
    """The first samples of each source, by weight, the same each time; those that cannot be read are passed over."""
    total = sum(weight for _, weight in sources)
    samples = []
    for index, (source, weight) in enumerate(sources):
        wanted = max(1, round(count * weight / total))
        for number in range(min(wanted, source.size if source.size is not None else wanted)):
            try:
                samples.append(source.sample(number, np.random.default_rng((seed, 5, index, number))))
            except DataError:
                continue
    return samples


def scenes_without_dialogues() -> SceneConfig:
    """Scenes without questions, which are drawn faster."""
    return replace(SceneConfig(), questions=())


def check_sources(sources: Sequence[Mapping[str, Any]], root: Path | None, say: Callable[[str], None]) -> bool:
    """Read everything of the sources once, and report counts and all that is wrong; whether nothing is.

    Drawn scenes have nothing to check. A kind that refuses broken entries is read without them, so that all of them can
    be reported and counted; they are wrong all the same.

    Raises:
        ConfigError: if a source is unknown, or a key of it is.
    """
    fine = True
    for values in sources:
        name = str(values.get("name", values["kind"]))
        if values.get("optional") and not is_there(values, root):
            say(f"{name}: left out: its files are not there")
            continue
        try:
            found = source_kind(values).to_check(values, root, name)
            if found is None:
                continue
            report = check_dataset(found.dataset, strict=found.strict)
            fine = fine and report.ok
            for line in report.lines():
                say(line)
            if found.dialogue is not None and len(found.dataset):
                Records(found.dataset, found.dialogue, name)
        except DataError as error:
            fine = False
            say(f"{name}: not ok: {error}")
    return fine
