"""A record made by hand with something for every kind of turn, and one that is read as broken."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from PIL import Image

from llava_grounding.data.record import Annotation, AnnotationKind, Expression, GroundedText, Record, RecordedTurn

SIZE_WH = (64, 48)
MAN, LEFT_CUP, RIGHT_CUP, CROWD, GRASS = range(5)


def _png() -> bytes:
    pixels = np.random.default_rng(0).integers(0, 255, (SIZE_WH[1], SIZE_WH[0], 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def _disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[: SIZE_WH[1], : SIZE_WH[0]]
    return (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 <= radius**2


def thing(
    category: str, x: float, y: float, radius: float, kind: AnnotationKind = "thing", masked: bool = True
) -> Annotation:
    mask: Callable[[], np.ndarray] | None = partial(_disc, x, y, radius) if masked else None
    return Annotation(category, (x - radius, y - radius, x + radius, y + radius), mask, kind)


RECORD = Record(
    id="yard/1.jpg",
    image_id=1,
    image_size_wh=SIZE_WH,
    instances=(
        thing("person", 20, 20, 10),
        thing("cup", 8, 40, 5),
        thing("cup", 50, 40, 6, masked=False),
        thing("person", 50, 12, 10, kind="crowd"),
        thing("grass-merged", 32, 36, 8, kind="stuff"),
    ),
    captions=("a man  with two cups .", "Somebody is out on the lawn"),
    statements=(),
    questions=(),
    exhaustive=frozenset({"person", "cup", "grass-merged", "zebra", "skis"}),
    source="",
    license="",
    read_bytes=_png,
    grounded_captions=(
        GroundedText(
            "<g_s> A man <g_e> <seg>, <g_s> people <g_e> <seg>, <g_s> cups <g_e> <seg>, <g_s> a day <g_e> <seg>.",
            ((MAN,), (CROWD,), (LEFT_CUP, RIGHT_CUP), None),
        ),
    ),
    expressions=(
        Expression("LEFT cup.", (LEFT_CUP,)),
        Expression("the cup on the right", (RIGHT_CUP,)),
        Expression("cup", (LEFT_CUP,)),
        Expression("cup", (RIGHT_CUP,)),
        Expression("Both cups", (LEFT_CUP, RIGHT_CUP)),
        Expression("the crowd", (CROWD,)),
        Expression("a dragon", ()),
    ),
    dialogues=(
        (
            RecordedTurn("What does <region> hold near <region>?", "A hat.", regions=(MAN, LEFT_CUP)),
            RecordedTurn("Who is it?", "It is <g_s> a man <g_e> <seg>.", ((MAN, CROWD),), grounded=True),
            RecordedTurn("And <region>?", "They watch.", regions=(CROWD,)),
            RecordedTurn("Are you sure?", "Yes."),
        ),
    ),
)
BARE = replace(
    RECORD, instances=(), captions=(), grounded_captions=(), expressions=(), dialogues=(), exhaustive=frozenset()
)
