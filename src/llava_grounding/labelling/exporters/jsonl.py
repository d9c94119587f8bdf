"""JSON Lines: one line per photo with its size and its labels. Loses nothing."""

from __future__ import annotations

from pathlib import Path

from llava_grounding.labelling.exporters import LabelledSet
from llava_grounding.labelling.labels import json_text


class JsonLinesExporter:
    """See `labels.LabelledPhoto.to_dict` for a line."""

    is_folder = False
    label_suffix = None

    def entries(self, name: str) -> tuple[str, ...]:
        return (name,)

    def write(self, labelled: LabelledSet, folder: Path, name: str) -> None:
        with (folder / name).open("w", encoding="utf-8", newline="\n") as stream:
            for photo in labelled.photos():
                stream.write(f"{json_text(photo.to_dict())}\n")
