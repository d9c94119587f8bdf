"""What a report says of how its numbers came about: task, rules, set, system, judge, versions.

Knows no scores and no files; `scored_runs.py` keeps it in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from llava_grounding.benchmark.samples import SampleSet


@dataclass(frozen=True)
class AboutSet:
    """What a report says of its data.

    Args:
        name: what the data is called.
        built_from, left_out, split: as of `SampleSet`.
        count: of samples.
        sha256: of the set's file, in hex.
    """

    name: str
    built_from: Mapping[str, str]
    left_out: Mapping[str, int]
    split: str
    count: int
    sha256: str

    @classmethod
    def of(cls, samples: SampleSet) -> AboutSet:
        """That of a set."""
        return cls(
            samples.name,
            dict(samples.built_from),
            dict(samples.left_out),
            samples.split,
            len(samples.samples),
            samples.digest,
        )


@dataclass(frozen=True)
class About:
    """How one system's scores came about.

    Args:
        task: its name.
        title: of reports.
        rules: how an answer is scored, in words.
        rules_version: numbers of two versions cannot be compared.
        set: what was asked.
        notes: what a reader of the numbers must know.
        system, judge: what each says of itself, by its own keys.
        versions: of the libraries, by name.
    """

    task: str
    title: str
    rules: str
    rules_version: str
    set: AboutSet
    notes: tuple[str, ...]
    system: Mapping[str, Any]
    judge: Mapping[str, Any]
    versions: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "notes": list(self.notes)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> About:
        """Read what `to_dict` wrote; other keys are not looked at, values are taken as they are."""
        given = {key: data[key] for key in cls.__dataclass_fields__}
        return cls(**{**given, "notes": tuple(given["notes"]), "set": AboutSet(**given["set"])})
