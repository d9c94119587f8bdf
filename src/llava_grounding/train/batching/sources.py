"""The sources of a recipe: drawn scenes, the photo pack, and every data set there is a reader for, by `kind`.

A reader is found by its kind and called with the keys its files are known by; what a source says beside that is how
much of a step it fills (`weight`) and what dialogues are made of it (`dialogue`).
"""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

import numpy as np

from llava_grounding.data.augmentation import augment
from llava_grounding.data.licenses import allows_commercial_use
from llava_grounding.data.mark_drawing import draw_marks
from llava_grounding.data.readers.coco import PACK_VARIABLE, CocoPhotos, PhotoPack
from llava_grounding.data.readers.reading import IMAGE_MISSING
from llava_grounding.data.readers.registry import reader_of
from llava_grounding.data.record import Dataset
from llava_grounding.data.sample import Sample, mirror_sample
from llava_grounding.dialogues.builder import build_sample
from llava_grounding.dialogues.photos import photo_sample
from llava_grounding.dialogues.settings import DialogueSettings, dialogue_settings
from llava_grounding.dialogues.turns import possible_kinds
from llava_grounding.errors import ConfigError, DataError, did_you_mean, quoted
from llava_grounding.scenes.records import HELD_OUT
from llava_grounding.scenes.synthetic import SceneConfig, draw_scene
from llava_grounding.train.batching.mixture import SampleSource

logger = logging.getLogger(__name__)

_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", NoneType: "null"}
_COMMON = ("kind", "weight", "name", "optional")


@dataclass(frozen=True)
class Scenes:
    """Drawn scenes without end; those held out start at a seed of their own.

    Args:
        config: what is drawn.
        held_out: for validation.
    """

    config: SceneConfig = field(default_factory=SceneConfig)
    held_out: bool = False
    name: str = "scenes"

    @property
    def size(self) -> None:
        """Without end."""
        return None

    def sample(self, number: int, rng: np.random.Generator) -> Sample:
        """A scene; never mirrored, since it would list its things from right to left."""
        return draw_scene(HELD_OUT + number if self.held_out else number % HELD_OUT, self.config)


@dataclass(frozen=True)
class Photos:
    """One split of the photo pack, with questions made from its labels.

    Args:
        mirrored: share of samples that are mirrored left to right.
        numbers: records that are used; None uses all.
        augmented: random crops, aspect ratios and light, without questions.
        questions: whether questions are made at all.
    """

    records: CocoPhotos
    mirrored: float = 0.5
    name: str = "photos"
    numbers: tuple[int, ...] | None = None
    augmented: bool = False
    questions: bool = True

    @property
    def size(self) -> int:
        """Photos that are used."""
        return len(self.records) if self.numbers is None else len(self.numbers)

    def sample(self, number: int, rng: np.random.Generator) -> Sample:
        """A photo, mirrored now and then."""
        record = self.records[number if self.numbers is None else self.numbers[number]]
        sample = photo_sample(record, rng, self.questions and not self.augmented)
        if self.augmented:
            sample = augment(sample, rng)
        return mirror_sample(sample) if rng.random() < self.mirrored else sample


class Records:
    """A data set whose records become dialogues; records that have nothing for any wanted kind are passed over.

    Args:
        dialogue: what dialogues are made of a record.

    Raises:
        DataError: if there are no records, or none has anything.
    """

    def __init__(self, dataset: Dataset, dialogue: DialogueSettings, name: str) -> None:
        if not getattr(dataset, "may_be_mirrored", True):
            dialogue = replace(dialogue, mirror=0.0)
        self.dataset, self.dialogue, self.name = dataset, dialogue, name
        if not len(dataset) and dataset.dropped:
            raise DataError(f"there is nothing to learn from in {name}: {_why_empty(dataset)}")
        useful = [number for number, record in enumerate(dataset) if possible_kinds(record, dialogue)]
        if len(dataset) and not useful:
            raise DataError(f"nothing in {name} can be talked about as its `dialogue` wants")
        self._useful = np.array(useful, dtype=np.int64)

    @property
    def size(self) -> int:
        """Records that can be talked about."""
        return len(self._useful)

    def sample(self, number: int, rng: np.random.Generator) -> Sample:
        """A record with a dialogue of the kinds that are wanted."""
        return build_sample(self.dataset[int(self._useful[number])], rng, self.dialogue, draw_marks)


def _why_empty(dataset: Dataset) -> str:
    """For what most entries were left out, with the first of them."""
    reason, entries = max(dataset.dropped.items(), key=lambda item: len(item[1]))
    count = sum(map(len, dataset.dropped.values()))
    first = getattr(dataset, "examples", dataset.dropped)[reason][0]
    if reason == IMAGE_MISSING and len(entries) == count:
        return f"all pictures are missing, {count} of {count} ({first}); is `images` the right place?"
    return f'all {count} entries are left out, {len(entries)} of them for "{reason}" ({first})'


def open_sources(
    sources: Sequence[Mapping[str, Any]],
    root: Path | None,
    scenes: Callable[[], SceneConfig] = SceneConfig,
    questions: bool = True,
    commercial_use: bool = False,
) -> list[tuple[SampleSource, float]]:
    """Open what a recipe names, with weights; sources that are `optional` and whose files are not there are left out.

    Args:
        root: what relative paths are relative to, and the photo pack's folder; None takes the environment variable
            LLAVA_GROUNDING_DATA for the pack, and the working directory.
        scenes: what drawn scenes are like.
        questions: whether photos come with questions.
        commercial_use: of the photo pack, only photos whose licence allows it; see `data/licenses.py`.

    Raises:
        ConfigError: if a source is unknown, or a key of it is.
        DataError: if its files are missing or of another kind.
    """
    opened = []
    for values in sources:
        weight = values.get("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
            raise ConfigError(f"`weight` of a source must be a number of at least 0, got {quoted(weight)}")
        if weight == 0:
            continue
        if values.get("optional") and not is_there(values, root):
            logger.info("%s: left out: its files are not there", values.get("name", values["kind"]))
            continue
        source = open_source(values, root, scenes, questions, commercial_use)
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
    kind = str(values["kind"])
    name = str(values.get("name", kind))
    if kind == "scenes":
        _check_keys(kind, values, ("held_out",))
        held_out = values.get("held_out", False)
        if not isinstance(held_out, bool):
            raise ConfigError(f"`held_out` of a source must be true or false, got {quoted(held_out)}")
        return Scenes(scenes(), held_out, name)
    if kind == "photos":
        return _open_photos(values, root, name, questions, commercial_use)
    return Records(open_dataset(values, root), _dialogue_settings(values, name), name)


def _open_photos(
    values: Mapping[str, Any], root: Path | None, name: str, questions: bool, commercial_use: bool
) -> Photos:
    _check_keys("photos", values, ("split", "mirrored", "only", "labelled", "augmented"))
    mirrored = values.get("mirrored", 0.5)
    if isinstance(mirrored, bool) or not isinstance(mirrored, int | float) or not 0 <= mirrored <= 1:
        raise ConfigError(f"`mirrored` of a source must be between 0 and 1, got {quoted(mirrored)}")
    for key in ("labelled", "augmented"):
        if not isinstance(values.get(key, False), bool):
            raise ConfigError(f"`{key}` of a source must be true or false, got {quoted(values[key])}")
    only = values.get("only")
    if only is not None and not (isinstance(only, list | tuple) and all(isinstance(one, str) for one in only)):
        raise ConfigError(f"`only` of a source must be a list of names of photo sources, got {quoted(only)}")
    records = PhotoPack(_pack(root)).split(_split(values))
    numbers = None
    if only is not None or values.get("labelled") or commercial_use:
        known = {record.source for record in records}
        for one in only or ():
            if one not in known and not values.get("optional"):
                raise ConfigError(f"no photo comes from `{one}`{did_you_mean(one, known)}")
        numbers = tuple(
            number
            for number, record in enumerate(records)
            if (only is None or record.source in only)
            if record.instances or not values.get("labelled")
            if not commercial_use or allows_commercial_use(record.license)
        )
    return Photos(records, float(mirrored), name, numbers, values.get("augmented", False), questions)


def open_dataset(values: Mapping[str, Any], root: Path | None) -> Dataset:
    """Open the data set of a source whose kind has a reader.

    Raises:
        ConfigError: if the kind or one of its keys is unknown, or a key is missing.
    """
    read, given = _reader(values, root)
    return read(**given)


def is_there(values: Mapping[str, Any], root: Path | None) -> bool:
    """Whether every file and folder that a source names exists; says nothing of what is in them.

    Raises:
        ConfigError: as `open_dataset`.
    """
    if values["kind"] == "scenes":
        return True
    if values["kind"] == "photos":
        place = _pack(root)
        return bool(place) and (Path(place) / f"instances_{_split(values)}.json").is_file()
    return all(value.exists() for value in _reader(values, root)[1].values() if isinstance(value, Path))


def _reader(values: Mapping[str, Any], root: Path | None) -> tuple[Callable[..., Dataset], dict[str, Any]]:
    """What reads a source, and what it is to be called with."""
    kind = str(values["kind"])
    read = reader_of(kind, ("scenes", "photos"))
    parameters = inspect.signature(read).parameters
    _check_keys(kind, values, ("dialogue", *parameters))
    missing = [
        name for name, one in parameters.items() if one.default is inspect.Parameter.empty and name not in values
    ]
    if missing:
        raise ConfigError(f"a source of kind `{kind}` must say {' and '.join(f'`{name}`' for name in missing)}")
    hints = get_type_hints(read)
    return read, {
        name: _resolved(name, value, get_args(hints[name]) or (hints[name],), root)
        for name, value in values.items()
        if name in parameters
    }


def _dialogue_settings(values: Mapping[str, Any], name: str) -> DialogueSettings:
    dialogue = values.get("dialogue", {})
    if not isinstance(dialogue, Mapping):
        raise ConfigError(f"`dialogue` of `{name}` must be a mapping of keys to values, got {quoted(dialogue)}")
    return dialogue_settings(dialogue)


def _pack(root: Path | None) -> str | Path:
    return root if root is not None else os.environ.get(PACK_VARIABLE, "")


def _split(values: Mapping[str, Any]) -> str:
    return str(values.get("split", "train"))


def _check_keys(kind: str, values: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in values:
        if key not in known and key not in _COMMON:
            raise ConfigError(f"a source of kind `{kind}` has no key {quoted(key)}{did_you_mean(str(key), known)}")


def _resolved(name: str, value: Any, types: Sequence[type], root: Path | None) -> Any:
    """A path made absolute; other values as they are, if of a type they may be of."""
    types = tuple(dict.fromkeys((*types, str))) if Path in types else types
    whole = float in types and isinstance(value, int) and not isinstance(value, bool)
    if type(value) not in types and not whole:
        words = [_WORDS[one] for one in types if one in _WORDS]
        raise ConfigError(f"`{name}` of a source must be {' or '.join(words)}, got {quoted(value)}")
    if isinstance(value, str) and Path in types:
        path = Path(os.path.expandvars(value)).expanduser()
        return path if path.is_absolute() or root is None else root / path
    return value


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


def check_sources(sources: Sequence[Mapping[str, Any]], root: Path | None, tell: Callable[[str], None]) -> bool:
    """Read everything of the sources once, and tell counts and all that is wrong; whether nothing is.

    Drawn scenes have nothing to check. A kind that refuses broken entries is read without them, so that all of them can
    be reported and counted; they are wrong all the same.

    Raises:
        ConfigError: if a source is unknown, or a key of it is.
    """
    from llava_grounding.data.check import check_dataset

    fine = True
    for values in sources:
        if values["kind"] == "scenes":
            continue
        name = str(values.get("name", values["kind"]))
        if values.get("optional") and not is_there(values, root):
            tell(f"{name}: left out: its files are not there")
            continue
        try:
            strict = _refuses(values)
            dataset, dialogue = _open_for_check({**values, "strict": False} if strict else values, root, name)
            report = check_dataset(dataset, strict=strict)
            fine = fine and report.ok
            for line in report.lines():
                tell(line)
            if dialogue is not None and len(dataset):
                Records(dataset, dialogue, name)
        except DataError as error:
            fine = False
            tell(f"{name}: not ok: {error}")
    return fine


def _refuses(values: Mapping[str, Any]) -> bool:
    """Whether the reader of a source refuses a file with broken entries, and would read it without them if asked."""
    if values["kind"] == "photos":
        return False
    parameter = inspect.signature(reader_of(str(values["kind"]), ("scenes", "photos"))).parameters.get("strict")
    return parameter is not None and bool(values.get("strict", parameter.default))


def _open_for_check(values: Mapping[str, Any], root: Path | None, name: str) -> tuple[Dataset, DialogueSettings | None]:
    """The data set of a source, and what dialogues are made of it."""
    if values["kind"] == "photos":
        source = open_source(values, root)
        assert isinstance(source, Photos)
        return source.records, None
    return open_dataset(values, root), _dialogue_settings(values, name)
