"""Formats that labelled photos are written in, one per file; `EXPORTERS` has them by name.

A format of one's own: an object with what `Exporter` asks for, given to `register_exporter`. Everything is written
aside first and then put in place, what is put last being there only when all of it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from llava_grounding.aside import aside_folder, sync_tree
from llava_grounding.data.plain_files import stays_inside
from llava_grounding.errors import ConfigError, UsageError, did_you_mean, quoted
from llava_grounding.labelling.labels import LabelledPhoto, json_text


@dataclass(frozen=True)
class LabelledSet:
    """Labelled photos, read anew each time they are asked for.

    Args:
        photos: gives them in order.
        categories: of all labels, in the order in which formats number them.
        masks: whether labels have masks.
        model: that made the labels.
    """

    photos: Callable[[], Iterator[LabelledPhoto]]
    categories: tuple[str, ...]
    masks: bool
    model: str


class Exporter(Protocol):
    """A format.

    Args:
        is_folder: whether it is a folder of files, or one file and perhaps others beside it.
        label_suffix: of the file that each photo has, as `.txt`; None if all are in one.
    """

    @property
    def is_folder(self) -> bool: ...
    @property
    def label_suffix(self) -> str | None: ...
    def entries(self, name: str) -> tuple[str, ...]:
        """Files and folders that are written, given the name of the output; the last is put in place last."""
        ...

    def write(self, labelled: LabelledSet, folder: Path, name: str) -> None:
        """Write all entries into a folder."""
        ...


MANIFEST = "labels.json"
"""File that says that a folder was written here, so that it may be written again."""

EXPORTERS: dict[str, Exporter] = {}
"""Formats by name."""


def register_exporter(name: str, exporter: Exporter) -> None:
    """Add a format, or replace one."""
    EXPORTERS[name] = exporter


def find_exporter(name: str) -> Exporter:
    """A format by its name.

    Raises:
        ConfigError: if there is none; the message offers the nearest.
    """
    _add_our_own()
    if name not in EXPORTERS:
        known = ", ".join(EXPORTERS)
        raise ConfigError(f"format must be one of {known}, got {quoted(name)}{did_you_mean(name, EXPORTERS)}")
    return EXPORTERS[name]


def _add_our_own() -> None:
    from llava_grounding.labelling.exporters.coco import CocoExporter
    from llava_grounding.labelling.exporters.jsonl import JsonLinesExporter
    from llava_grounding.labelling.exporters.label_studio import LabelStudioExporter
    from llava_grounding.labelling.exporters.pascal_voc import PascalVocExporter
    from llava_grounding.labelling.exporters.yolo import YoloExporter

    ours: dict[str, Exporter] = {
        "coco": CocoExporter(),
        "labelstudio": LabelStudioExporter(),
        "yolo": YoloExporter(),
        "voc": PascalVocExporter(),
        "jsonl": JsonLinesExporter(),
    }
    for name, exporter in ours.items():
        EXPORTERS.setdefault(name, exporter)


def check_export(exporter: Exporter, names: Sequence[str], out: Path) -> None:
    """Refuse, before any work is done, what could not be written in the end.

    Args:
        names: of the photos.

    Raises:
        UsageError: if something of another kind or origin is at `out`, or two photos would have one file of labels.
    """
    if exporter.is_folder:
        _check_folder(exporter, out)
    elif out.is_dir():
        raise UsageError(f"the output must be a file in this format, but {quoted(str(out))} is a folder")
    if exporter.label_suffix is not None:
        _check_names(names, exporter.label_suffix)


def _check_folder(exporter: Exporter, out: Path) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise UsageError(f"the output is a folder in this format, but {quoted(str(out))} is none")
    taken = [entry for entry in exporter.entries(out.name) if (out / entry).exists()]
    if taken and not (out / MANIFEST).is_file():
        raise UsageError(f"{quoted(str(out))} has a {quoted(taken[0])} that was not written here; give another --out")


def _check_names(names: Sequence[str], suffix: str) -> None:
    first: dict[str, str] = {}
    for name in names:
        if not stays_inside(name):
            raise UsageError(
                f"in this format photos must have paths below one folder, got {quoted(name)}; put the list into it"
            )
        other = first.setdefault(label_file(name, suffix), name)
        if other != name:
            raise UsageError(
                f"{quoted(other)} and {quoted(name)} would share the labels {quoted(label_file(name, suffix))}; "
                "rename one, or choose another format"
            )


def label_file(name: str, suffix: str) -> str:
    """Path of the labels of a photo: its own with another suffix."""
    return Path(name).with_suffix(suffix).as_posix()


def write_export(exporter: Exporter, labelled: LabelledSet, out: Path) -> None:
    """Write labelled photos; older files of the same output are replaced when the newer ones are whole.

    Raises:
        OSError: if something cannot be written.
        DataError: if the format cannot hold them.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with aside_folder(out.parent, out.name) as aside:
        exporter.write(labelled, aside, out.name)
        sync_tree(aside)
        names = exporter.entries(out.name)
        if not exporter.is_folder:
            for name in names:
                (aside / name).replace(out.parent / name)
            return
        (aside / MANIFEST).write_text(
            f"{json_text({'made_by': 'llava-grounding label', 'model': labelled.model})}\n", encoding="utf-8"
        )
        out.mkdir(exist_ok=True)
        (aside / MANIFEST).replace(out / MANIFEST)  # first: what stands beside it may be replaced
        old = aside / "replaced"
        old.mkdir()
        for name in reversed(names):
            if (out / name).exists():
                (out / name).rename(old / name)
        for name in names:
            if (aside / name).exists():
                (aside / name).rename(out / name)


__all__ = [
    "EXPORTERS",
    "MANIFEST",
    "Exporter",
    "LabelledSet",
    "check_export",
    "find_exporter",
    "label_file",
    "register_exporter",
    "write_export",
]
