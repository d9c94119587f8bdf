"""Mark data for programs that draw none: every picture with its numbers and masks drawn into it, and the dialogues.

`marks.json` of a finished folder says which labels the numbers stand on, and pictures are drawn when they are read.
This writes them down, as Set-of-Mark files are published.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image

from llava_grounding.annotate.assemble import read_manifest
from llava_grounding.annotate.json_stream import Row, iter_rows
from llava_grounding.annotate.json_writer import JsonList
from llava_grounding.annotate.label_index import LabelIndex, open_index
from llava_grounding.annotate.write import INSTANCES, MARKS
from llava_grounding.aside import aside_folder, put, sync_folder
from llava_grounding.data.images import ImageStore
from llava_grounding.data.mark_drawing import MarkedPicture
from llava_grounding.data.readers.set_of_mark import SetOfMarkDialogues
from llava_grounding.data.record import Record
from llava_grounding.errors import DataError

PICTURES = "pictures"
_BLOCK = 256  # entries whose labels are read together
_QUALITY = 92  # of JPEG; colour is kept at full size, as numbers are small


def write_marked_pictures(
    folder: Path,
    images: ImageStore,
    out: Path,
    work: Path,
    limit: int | None = None,
    on_progress: Callable[[int], None] = lambda done: None,
) -> int:
    """Draw all marks of a finished folder; gives how many pictures there are.

    A picture is called by the hash of what is drawn, and one that is there is not drawn again, so that a stopped run
    goes on where it was. The dialogues are written last.

    Args:
        out: gets `pictures/` and `marks.json`.
        work: folder in which the index of the labels is kept.
        limit: of pictures.
        on_progress: called with the number of pictures done.

    Raises:
        DataError: if the folder is not finished, or a picture cannot be read.
        OSError: if something cannot be written.
    """
    read_manifest(folder)
    (out / PICTURES).mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    with aside_folder(out, MARKS) as aside, closing(open_index(folder / INSTANCES, work)) as index:
        file = JsonList(aside / MARKS)
        try:
            for row, record in islice(_records(folder, index, images), limit):
                assert record.image_id is not None
                number = int(record.image_id)
                drawn = "\n".join([row.text, index.image_row(number), *index.annotation_rows(number)])
                name = f"{PICTURES}/{hashlib.sha256(drawn.encode()).hexdigest()[:20]}.jpg"
                if not (out / name).exists():
                    (aside / "drawn").write_bytes(_drawn(record))
                    put(aside / "drawn", out / name)
                kept = {key: value for key, value in row.value.items() if key != "marks"}
                file.add({**kept, "image": name})
                on_progress(file.count)
        except BaseException:
            file.abandon()
            raise
        file.close()
        sync_folder(out / PICTURES)
        put(aside / MARKS, out / MARKS)
        sync_folder(out)
        return file.count


def _records(folder: Path, index: LabelIndex, images: ImageStore) -> Iterator[tuple[Row, Record]]:
    """Entries of `marks.json` with what they say, by the reader that training has."""
    rows = iter_rows(folder / MARKS)
    while block := list(islice(rows, _BLOCK)):
        labels = index.labelled((_image(folder, row) for row in block), images)
        read = SetOfMarkDialogues(((str(row.number), row.value) for row in block), images, labels)
        if read.dropped:
            raise DataError(f"{folder / MARKS}: {next(iter(read.examples.values()))[0]}")
        yield from zip(block, read, strict=True)


def _image(folder: Path, row: Row) -> str:
    if not isinstance(row.value, dict) or not isinstance(row.value.get("image"), str):
        raise DataError(f"{folder / MARKS}, entry {row.number} must name an image")
    image: str = row.value["image"]
    return image


def _drawn(record: Record) -> bytes:
    drawn: Any = record.read_bytes
    if not isinstance(drawn, MarkedPicture):
        raise DataError(f"{record.id} has no marks to be drawn")
    stream = io.BytesIO()
    Image.fromarray(drawn.pixels()).save(stream, "JPEG", quality=_QUALITY, subsampling=0)
    return stream.getvalue()
