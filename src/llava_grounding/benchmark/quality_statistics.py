"""The numbers of the quality report: rows of counts per image, and the statistics that are made of them.

What one image gives becomes one `SampleScore`, as of any task, so that intervals are drawn in one way. Knows no model
and asks nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from llava_grounding.benchmark.calibration import calibration
from llava_grounding.benchmark.captions import cider_d
from llava_grounding.benchmark.metrics import share_statistic
from llava_grounding.benchmark.report import SystemResult
from llava_grounding.benchmark.scores import SampleScore, Statistic, grounding_counts, metrics_of, share, yes_no

BY_BOX, BY_MASK = "box", "mask"
"""Rows of `GroundingCounts`."""
MASK_IOU = "mask IoU of right regions"
NOT_JUDGED = "regions not judged"
REFERRING_BOX, REFERRING_MASK, REFERRING_CIOU = "referring box acc@0.5", "referring mask mIoU", "referring mask cIoU"
OBJECTS_PRECISION, OBJECTS_RECALL = "objects named: precision", "objects named: recall"
IN_WORDS = "answers in words right"
SECONDS = "seconds per description"
PLAIN = ", without regions"
"""Ends the name of what was asked for without regions."""
SOURCE, SHORT, YES_NO = "source ", "short ", "yes/no "
"""Open the names of rows that there is one of per source, kind of question, and test."""
SIZES = (("small", 0.0, 0.01), ("medium", 0.01, 0.1), ("large", 0.1, np.inf))
"""Names of things by their box's share of the image, from and below."""
_CIDER = "CIDEr-D"


@dataclass
class ImageCounts:
    """What one system got right on one image.

    Args:
        rows: counts by name, as of a `SampleScore`; a row of a sum and a count has the name that is printed.
        regions: per judged region of the description its score, and whether it is right.
        description, plain_description: text, asked for with and without regions.
        references: sentences by people; empty where there are none.
    """

    rows: dict[str, tuple[float, ...]] = field(default_factory=dict)
    regions: list[tuple[float, bool]] = field(default_factory=list)
    description: str = ""
    plain_description: str = ""
    references: tuple[str, ...] = ()
    asked: int = 0
    answered: int = 0
    unparsable: int = 0

    def add(self, row: str, *counts: float) -> None:
        """Add counts to a row."""
        before = self.rows.get(row, (0.0,) * len(counts))
        self.rows[row] = tuple(a + b for a, b in zip(before, counts, strict=True))

    def add_region(self, score: float, doubtful: bool, right: bool) -> None:
        """Enter a judged region of the description."""
        self.regions.append((score, right))
        self.add(_doubt(doubtful)[0], right, 1)

    def add_size(self, share_of_image: float, found: bool) -> None:
        """Enter a labelled instance by its box's share of the image."""
        name = next(name for name, low, high in SIZES if low <= share_of_image < high)
        self.add(_of_size(name), found, 1)

    def add_doubt(self, doubtful: bool) -> None:
        """Enter whether the description, of whose regions all are entered, says of itself that it is doubtful."""
        if self.regions:
            self.add(_doubt(doubtful)[1], any(right for _, right in self.regions), 1)


def summarise(system: str, images: Sequence[ImageCounts], seed: int) -> SystemResult:
    """All metrics of one system; those without a single question are left out."""
    scores = []
    words = _cider(images)
    for number, image in enumerate(images):
        key = f"{number:08}"  # intervals take images in the order of their names
        scores.append(SampleScore(key, key, rows=image.rows | words.get(number, {})))
    metrics = metrics_of(scores, statistics({row for score in scores for row in score.rows}), seed)
    measured = calibration(region for image in images for region in image.regions)
    asked, answered, unparsable = (
        sum(getattr(image, name) for image in images) for name in ("asked", "answered", "unparsable")
    )
    return SystemResult(system, asked, answered, unparsable, tuple(metrics), measured if measured.regions else None)


def statistics(rows: Collection[str]) -> list[Statistic]:
    """The numbers in the order of printing, given the names of the rows that there are."""

    def kinds(opening: str) -> list[str]:
        return sorted(row.removeprefix(opening) for row in rows if row.startswith(opening))

    sources = kinds(SOURCE)
    found = [*grounding_counts("box IoU 0.5", BY_BOX), *grounding_counts("mask IoU 0.5", BY_MASK)]
    if len(sources) > 1:
        for source in sources:
            f1 = grounding_counts("", f"{SOURCE}{source}")[-1]
            found.append(replace(f1, name=f"grounded F1 of {source or 'no source'}"))
    named = [*(_of_size(name) for name, _, _ in SIZES), MASK_IOU]
    found += [share(name, name) for name in named]
    found.append(Statistic(NOT_JUDGED, NOT_JUDGED, lambda sums: sums[:, 0], 0, False, "regions", has_interval=False))
    if _doubt(True)[0] in rows:
        found += [share(name, name) for doubtful in (True, False) for name in _doubt(doubtful)]
    found += [share(name, name) for name in (REFERRING_BOX, REFERRING_MASK)]
    found.append(Statistic(REFERRING_CIOU, REFERRING_CIOU, share_statistic, 2, has_interval=False))
    objects = (OBJECTS_PRECISION, OBJECTS_RECALL) if BY_BOX in rows else ()  # else nothing is labelled
    found += [share(name, name) for name in (_CIDER, _CIDER + PLAIN, *objects, IN_WORDS, IN_WORDS + PLAIN)]
    found += [share(f"{kind} accuracy", f"{SHORT}{kind}") for kind in kinds(SHORT)]
    for test in kinds(YES_NO):
        accuracy, _, _, f1, said_yes = yes_no(test, f"{YES_NO}{test}")
        found += [accuracy, replace(f1, has_interval=False), replace(said_yes, has_interval=False)]
    found.append(Statistic(SECONDS, SECONDS, share_statistic, 1, False, "s", has_interval=False))
    return found


def _of_size(name: str) -> str:
    return f"grounded recall of {name} things"


def _doubt(doubtful: bool) -> tuple[str, str]:
    """Rows of regions, and of whole descriptions, which count as right where any region is."""
    name = "doubtful" if doubtful else "other"
    return f"precision of {name} regions", f"{name} descriptions with a right region"


def _cider(images: Sequence[ImageCounts]) -> dict[int, dict[str, tuple[float, ...]]]:
    """Rows by number of the image; they weigh words by the references of all images."""
    described = {number: image for number, image in enumerate(images) if image.references}
    references = [image.references for image in described.values()]
    with_regions = cider_d([image.description for image in described.values()], references)
    plain = cider_d([image.plain_description for image in described.values()], references)
    return {
        number: {_CIDER: (one, 1.0), _CIDER + PLAIN: (other, 1.0)}
        for number, one, other in zip(described, with_regions, plain, strict=True)
    }
