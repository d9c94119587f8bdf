"""What a recipe's sources can be, by `kind`: drawn scenes, the photo pack, and every data set there is a reader for.

A reader is found by its kind and called with the keys its files are known by; what a source says beside that is how
much of a step it fills (`weight`) and what dialogues are made of it (`dialogue`). How a kind is opened, looked for and
checked is a `SourceKind`'s business; nothing else asks which kind it is.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, get_args, get_type_hints

import numpy as np

from llava_grounding.data.augmentation import AugmentationSettings, augment
from llava_grounding.data.licenses import allows_commercial_use
from llava_grounding.data.mark_drawing import draw_marks
from llava_grounding.data.readers.coco import PACK_VARIABLE, CocoPhotos, PhotoPack
from llava_grounding.data.readers.parts.image_rows import IMAGE_MISSING
from llava_grounding.data.readers.registry import reader_of
from llava_grounding.data.record import Dataset
from llava_grounding.data.sample import Sample, mirror_sample
from llava_grounding.dialogues.builder import build_sample
from llava_grounding.dialogues.photos import photo_sample
from llava_grounding.dialogues.settings import DialogueSettings, dialogue_settings
from llava_grounding.dialogues.turns import possible_kinds
from llava_grounding.errors import ConfigError, DataError, did_you_mean, quoted
from llava_grounding.scenes.categories import CATEGORIES
from llava_grounding.scenes.records import HELD_OUT
from llava_grounding.scenes.synthetic import QUESTION_KINDS, SceneConfig, draw_scene
from llava_grounding.train.batching.mixture import SampleSource
from llava_grounding.typed_values import as_type, is_number

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
        """The size of a source without end."""
        return None

    def sample(self, number: int, rng: np.random.Generator) -> Sample:
        """A scene; never mirrored, since it would list its things from right to left."""
        return draw_scene(HELD_OUT + number if self.held_out else number % HELD_OUT, self.config)

    def class_names(self) -> frozenset[str]:
        """All kinds that can be drawn."""
        return frozenset(CATEGORIES)


@dataclass(frozen=True)
class Photos:
    """One split of the photo pack, with questions made from its labels.

    Args:
        mirrored: share of samples that are mirrored left to right.
        numbers: records that are used; None uses all.
        augmentation: random crops, aspect ratios and light, without questions; None leaves photos as they are.
        questions: whether questions are made at all.
    """

    records: CocoPhotos
    mirrored: float = 0.5
    name: str = "photos"
    numbers: tuple[int, ...] | None = None
    augmentation: AugmentationSettings | None = None
    questions: bool = True

    @property
    def size(self) -> int:
        """Photos that are used."""
        return len(self.records) if self.numbers is None else len(self.numbers)

    def sample(self, number: int, rng: np.random.Generator) -> Sample:
        """A photo, mirrored now and then."""
        record = self.records[number if self.numbers is None else self.numbers[number]]
        sample = photo_sample(record, rng, self.questions and self.augmentation is None)
        if self.augmentation is not None:
            sample = augment(sample, rng, self.augmentation)
        return mirror_sample(sample) if rng.random() < self.mirrored else sample

    def class_names(self) -> frozenset[str]:
        """The categories of the pack."""
        return frozenset(self.records.categories.values())


class Records:
    """A data set whose records become dialogues; records that have nothing for any wanted kind are passed over.

    Args:
        dataset: mirrored as `dialogue` says, unless it has an attribute `may_be_mirrored` that is false.
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

    def class_names(self) -> frozenset[str]:
        """The categories that the data set lists, or else those of its labels."""
        listed = getattr(self.dataset, "categories", None)
        found = listed.values() if listed else (one.category for record in self.dataset for one in record.instances)
        return frozenset(name for name in found if name)


def _why_empty(dataset: Dataset) -> str:
    """The reason for which most entries were left out, with the first of them."""
    reason, entries = max(dataset.dropped.items(), key=lambda item: len(item[1]))
    count = sum(map(len, dataset.dropped.values()))
    first = getattr(dataset, "examples", dataset.dropped)[reason][0]
    if reason == IMAGE_MISSING and len(entries) == count:
        return f"all pictures are missing, {count} of {count} ({first}); is `images` the right place?"
    return f'all {count} entries are left out, {len(entries)} of them for "{reason}" ({first})'


@dataclass(frozen=True)
class SourceOptions:
    """What a whole run wants of its sources; see `open_sources`."""

    scenes: Callable[[], SceneConfig] = SceneConfig
    questions: bool = True
    commercial_use: bool = False
    augmentation: AugmentationSettings = AugmentationSettings()


@dataclass(frozen=True)
class ToCheck:
    """What of a source can be checked.

    Args:
        dialogue: what dialogues are made of it; None where that is not the recipe's to say.
        strict: whether opening it would have refused broken entries. Here it has not, so that all can be counted.
    """

    dataset: Dataset
    dialogue: DialogueSettings | None = None
    strict: bool = False


class SourceKind(Protocol):
    """How sources of one kind are opened."""

    def open(self, values: Mapping[str, Any], root: Path | None, name: str, options: SourceOptions) -> SampleSource:
        """Open a source."""

    def is_there(self, values: Mapping[str, Any], root: Path | None) -> bool:
        """Whether its files exist."""

    def to_check(self, values: Mapping[str, Any], root: Path | None, name: str) -> ToCheck | None:
        """Open it to be checked; None where there is nothing to check."""


class _SceneKind:
    """Drawn scenes: there are no files."""

    def open(self, values: Mapping[str, Any], root: Path | None, name: str, options: SourceOptions) -> Scenes:
        _check_keys("scenes", values, ("held_out", "questions"))
        held_out, questions = values.get("held_out", False), values.get("questions", QUESTION_KINDS)
        if not isinstance(held_out, bool):
            raise ConfigError(f"`held_out` of a source must be true or false, got {quoted(held_out)}")
        if not isinstance(questions, list | tuple) or not questions:
            raise ConfigError(f"`questions` of a source must be a list of kinds, got {quoted(questions)}")
        for kind in questions:
            if kind not in QUESTION_KINDS:
                raise ConfigError(f"unknown kind of question {quoted(kind)}{did_you_mean(str(kind), QUESTION_KINDS)}")
        config = options.scenes()
        asked = tuple(kind for kind in config.questions if kind in questions)  # none where none are wanted at all
        return Scenes(replace(config, questions=asked), held_out, name)

    def is_there(self, values: Mapping[str, Any], root: Path | None) -> bool:
        return True

    def to_check(self, values: Mapping[str, Any], root: Path | None, name: str) -> None:
        return None


class _PhotoKind:
    """The photo pack, found by the root or an environment variable."""

    def open(self, values: Mapping[str, Any], root: Path | None, name: str, options: SourceOptions) -> Photos:
        return _open_photos(values, root, name, options)

    def is_there(self, values: Mapping[str, Any], root: Path | None) -> bool:
        place = _pack(root)
        return bool(place) and (Path(place) / f"instances_{_split(values)}.json").is_file()

    def to_check(self, values: Mapping[str, Any], root: Path | None, name: str) -> ToCheck:
        return ToCheck(self.open(values, root, name, SourceOptions()).records)


class _ReaderKind:
    """Any data set there is a reader for."""

    def open(self, values: Mapping[str, Any], root: Path | None, name: str, options: SourceOptions) -> Records:
        return Records(open_dataset(values, root), _dialogue_settings(values, name), name)

    def is_there(self, values: Mapping[str, Any], root: Path | None) -> bool:
        return all(value.exists() for value in _reader(values, root)[1].values() if isinstance(value, Path))

    def to_check(self, values: Mapping[str, Any], root: Path | None, name: str) -> ToCheck:
        option = inspect.signature(_reader(values, root)[0]).parameters.get("strict")
        strict = option is not None and bool(values.get("strict", option.default))
        dataset = open_dataset({**values, "strict": False} if strict else values, root)
        return ToCheck(dataset, _dialogue_settings(values, name), strict)


BUILT_IN: dict[str, SourceKind] = {"scenes": _SceneKind(), "photos": _PhotoKind()}
"""Kinds without a reader; the others are those of `READERS`."""


def source_kind(values: Mapping[str, Any]) -> SourceKind:
    return BUILT_IN.get(str(values["kind"]), _ReaderKind())


def _open_photos(values: Mapping[str, Any], root: Path | None, name: str, options: SourceOptions) -> Photos:
    _check_keys("photos", values, ("split", "mirrored", "only", "labelled", "augmented"))
    mirrored = values.get("mirrored", 0.5)
    if not is_number(mirrored) or not 0 <= mirrored <= 1:
        raise ConfigError(f"`mirrored` of a source must be between 0 and 1, got {quoted(mirrored)}")
    for key in ("labelled", "augmented"):
        if not isinstance(values.get(key, False), bool):
            raise ConfigError(f"`{key}` of a source must be true or false, got {quoted(values[key])}")
    only = values.get("only")
    if only is not None and not (isinstance(only, list | tuple) and all(isinstance(one, str) for one in only)):
        raise ConfigError(f"`only` of a source must be a list of names of photo sources, got {quoted(only)}")
    records = PhotoPack(_pack(root)).split(_split(values))
    numbers = None
    if only is not None or values.get("labelled") or options.commercial_use:
        known = {record.source for record in records}
        for one in only or ():
            if one not in known and not values.get("optional"):
                raise ConfigError(f"no photo comes from `{one}`{did_you_mean(one, known)}")
        numbers = tuple(
            number
            for number, record in enumerate(records)
            if (only is None or record.source in only)
            if record.instances or not values.get("labelled")
            if not options.commercial_use or allows_commercial_use(record.license)
        )
    augmentation = options.augmentation if values.get("augmented", False) else None
    return Photos(records, float(mirrored), name, numbers, augmentation, options.questions)


def open_dataset(values: Mapping[str, Any], root: Path | None) -> Dataset:
    """Open the data set of a source whose kind has a reader.

    Raises:
        ConfigError: if the kind or one of its keys is unknown, or a key is missing.
    """
    read, given = _reader(values, root)
    return read(**given)


def _reader(values: Mapping[str, Any], root: Path | None) -> tuple[Callable[..., Dataset], dict[str, Any]]:
    """What reads a source, and what it is to be called with."""
    kind = str(values["kind"])
    read = reader_of(kind, tuple(BUILT_IN))
    parameters = inspect.signature(read).parameters
    _check_keys(kind, values, ("dialogue", *parameters))
    missing = [
        name for name, one in parameters.items() if one.default is inspect.Parameter.empty and name not in values
    ]
    if missing:
        raise ConfigError(f"a source of kind `{kind}` must say {' and '.join(f'`{name}`' for name in missing)}")
    hints = get_type_hints(read)
    return read, {
        name: _resolved(name, value, hints[name], root) for name, value in values.items() if name in parameters
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


def _resolved(name: str, value: Any, hint: Any, root: Path | None) -> Any:
    """A path made absolute; other values as they are, if of a type they may be of."""
    is_path = Path in (hint, *get_args(hint))
    value, problems = as_type(value, hint | str if is_path else hint, name, " of a source")
    if problems:
        raise ConfigError("; ".join(problems))
    if isinstance(value, str) and is_path:
        path = Path(os.path.expandvars(value)).expanduser()
        return path if path.is_absolute() or root is None else root / path
    return value
