"""What is known of an image, from wherever it comes: the one thing that questions and answers are made from.

    record (its photo opened) or drawn scene -> Facts -> drafts -> builder -> Sample

Knows no questions and no file formats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from llava_grounding.data.grounded_captions import box_area_of
from llava_grounding.data.readers.parts.exhaustive import exhaustive_names, missing_names
from llava_grounding.data.record import AnnotationKind, Expression, GroundedText, Record, RecordedTurn, open_record
from llava_grounding.data.sample import Instance
from llava_grounding.dialogues.layout import Layout
from llava_grounding.dialogues.prompts import can_point_at, sample_prompt
from llava_grounding.dialogues.settings import PromptSettings
from llava_grounding.language.nouns import spoken_name
from llava_grounding.visual_prompts import VisualPrompt


@dataclass(frozen=True, eq=False)
class Facts:
    """An image, its labelled things, of which categories all are labelled, and what people said about it.

    Args:
        id, image, instances, masks, source: as of a `Sample`. A row is a place in `instances`.
        exhaustive: categories, as labelled, of which every visible instance is labelled; None = of all.
        exhaustive_names: the same by the names that are spoken.
        absent: spoken names of what is certainly not in the image.
        kinds: what each row is: `thing`, `stuff` or `class`, as of an `Annotation`.
        rows: number of an annotation in what people said -> its row; crowds have none.
        captions, statements, grounded_captions, expressions, dialogues: as of a `Record`.
    """

    id: str
    image: np.ndarray
    instances: tuple[Instance, ...]
    masks: np.ndarray
    source: str
    exhaustive: frozenset[str] | None = None
    exhaustive_names: frozenset[str] = frozenset()
    absent: tuple[str, ...] = ()
    kinds: tuple[AnnotationKind, ...] = ()
    rows: Mapping[int, int] = field(default_factory=dict)
    captions: tuple[str, ...] = ()
    statements: tuple[tuple[str, bool], ...] = ()
    grounded_captions: tuple[GroundedText, ...] = ()
    expressions: tuple[Expression, ...] = ()
    dialogues: tuple[tuple[RecordedTurn, ...], ...] = ()

    @classmethod
    def of_record(cls, record: Record) -> Facts:
        """Read the pixels and masks of a record; crowds are left out, and their categories are not exhaustive.

        Raises:
            DataError: as `open_record`.
        """
        opened = open_record(record)
        hidden = {thing.category for thing in record.instances if thing.kind == "crowd"}
        return cls(
            id=record.id,
            image=opened.image,
            instances=opened.instances,
            masks=opened.masks,
            source=record.source or "photos",
            exhaustive=record.exhaustive - hidden,
            exhaustive_names=exhaustive_names(record),
            absent=tuple(missing_names(record)),
            kinds=tuple(record.instances[index].kind for index in opened.rows),
            rows=opened.rows,
            captions=record.captions,
            statements=record.statements,
            grounded_captions=record.grounded_captions,
            expressions=record.expressions,
            dialogues=record.dialogues,
        )

    @property
    def image_size_wh(self) -> tuple[int, int]:
        """Width and height of the image in pixels."""
        return self.image.shape[1], self.image.shape[0]

    @cached_property
    def complete(self) -> dict[str, tuple[int, ...]]:
        """Spoken name -> rows, of categories that are labelled exhaustively: those that may be counted or listed."""
        rows: dict[str, list[int]] = {}
        for row, instance in enumerate(self.instances):
            if (name := spoken_name(instance.category)) in self.exhaustive_names:
                rows.setdefault(name, []).append(row)
        return {name: tuple(found) for name, found in rows.items()}

    def largest(self, most: int | None = None) -> list[str]:
        """Names of `complete`, those that cover most first, at most so many; None = all."""
        areas = {name: sum(self.area(row) for row in rows) for name, rows in self.complete.items()}
        return sorted(areas, key=lambda name: (-areas[name], name))[:most]

    @cached_property
    def layout(self) -> Layout:
        """Where the things are by their boxes; a drawn scene, which knows more, has a layout of its own."""
        areas = [self.area(row) for row in range(len(self.instances))]
        return Layout.of_instances(self.instances, areas, self.image_size_wh)

    def countable(self, name: str) -> bool:
        """Whether each row of a name of `complete` is one thing, so that they can be counted."""
        return all(self.kinds[row] == "thing" for row in self.complete[name])

    @cached_property
    def pointable(self) -> tuple[int, ...]:
        """Rows of single things and stuff that have a name and can be pointed at."""
        return tuple(
            row
            for row, instance in enumerate(self.instances)
            if spoken_name(instance.category) and self.kinds[row] in ("thing", "stuff") and self.can_point(row)
        )

    def rows_of(self, indices: Sequence[int] | None) -> tuple[int, ...] | None:
        """Rows of annotations; crowds are nobody's target, and a phrase that means nothing else has no known match."""
        if indices is None:
            return None
        rows = tuple(self.rows[index] for index in indices if index in self.rows)
        return rows if rows or not indices else None

    def area(self, row: int) -> float:
        """Area of the box of a row in square pixels."""
        return box_area_of(self.instances[row])

    def can_point(self, row: int) -> bool:
        """Whether a question may point at this thing."""
        return can_point_at(self.masks[row], self.instances[row].box_xyxy)

    def point(self, row: int, rng: np.random.Generator, settings: PromptSettings) -> VisualPrompt:
        """A prompt on this thing."""
        return sample_prompt(self.masks[row], self.instances[row].box_xyxy, rng, settings)
