"""Labelling from beginning to end: what is not labelled yet is, batch by batch; then a file of it is written.

A photo always meets the same others in its batch, however often the run was ended in between, as who is looked at
together changes the last digits of what comes out. Knows no model: `work` labels batches, here or elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llava_grounding.labelling.exporters import Exporter, LabelledSet, write_export
from llava_grounding.labelling.labeller import Labeller, LabelSettings
from llava_grounding.labelling.labels import BrokenPhoto, LabelledPhoto, Result
from llava_grounding.labelling.photos import Photo
from llava_grounding.labelling.progress import LabelProgress

if TYPE_CHECKING:
    from llava_grounding.inference.protocol import BatchEngine

Batch = Sequence[Photo]
Work = Callable[[Iterator[Batch]], Iterable[tuple[Batch, Sequence[Result]]]]
"""Labels batches, in any order."""
LoadEngine = Callable[[], "BatchEngine"]
"""Loads the model, on whatever machine it is called; equal ones load the same."""


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Args:
        photos: that have been labelled, now or before.
        labels: of all of them.
        categories: that labels have, or that were looked for.
        broken: photos that could not be labelled.
    """

    photos: int
    labels: int
    categories: tuple[str, ...]
    broken: tuple[BrokenPhoto, ...]


def work_here(load: LoadEngine, settings: LabelSettings) -> Work:
    """Work that this process does; the model is loaded when there is something to label."""

    def work(batches: Iterable[Batch]) -> Iterator[tuple[Batch, Sequence[Result]]]:
        labeller: Labeller | None = None
        for batch in batches:
            labeller = labeller or Labeller(load(), settings)
            yield batch, labeller.label(batch)

    return work


def label_rest(
    photos: Sequence[Photo],
    batch_size: int,
    progress: LabelProgress,
    work: Work,
    on_results: Callable[[Sequence[Result]], None],
) -> None:
    """Label the photos that have not been yet.

    Args:
        batch_size: photos looked at at once.
        on_results: called with the results of every batch once they are kept.
    """
    done = {photo.name for photo in photos if progress.has(photo)}

    def batches() -> Iterator[Batch]:
        for start in range(0, len(photos), batch_size):
            batch = photos[start : start + batch_size]
            if any(photo.name not in done for photo in batch):
                yield batch

    for batch, results in work(batches()):
        new = [(photo, result) for photo, result in zip(batch, results, strict=True) if photo.name not in done]
        progress.append([photo for photo, _ in new], [result for _, result in new])
        on_results([result for _, result in new])


def export(
    photos: Sequence[Photo],
    progress: LabelProgress,
    exporter: Exporter,
    out: Path,
    classes: Sequence[str] | None,
    masks: bool,
    model: str,
) -> Outcome:
    """Write what is labelled in a format.

    Args:
        classes: what was looked for; None takes the categories that occur, in the order of the photos.

    Raises:
        UsageError, DataError, OSError: if it cannot be written.
    """
    counts, broken = [0, 0], []
    seen: dict[str, None] = {}
    for photo in photos:
        result = progress.result(photo.name)
        if isinstance(result, LabelledPhoto):
            counts[0] += 1
            counts[1] += len(result.labels)
            seen.update(dict.fromkeys(label.category for label in result.labels))
        elif result is not None:
            broken.append(result)
    categories = tuple(seen) if classes is None else tuple(classes)
    if counts[0]:
        write_export(exporter, LabelledSet(lambda: progress.labelled(photos), categories, masks, model), out)
    return Outcome(counts[0], counts[1], categories, tuple(broken))
