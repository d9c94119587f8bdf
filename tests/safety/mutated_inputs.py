# ruff: noqa: T201
"""Damaged pictures, markup, masks, polygons and JSON, by chance: a value or an error of ours, soon, and nothing kept.

    PYTHONPATH=tests python tests/safety/mutated_inputs.py [how many of each] [seed] [kind ...]

What a kind draws and how it is read is one function of `KINDS`. Exits with 1 if anything else came out.
"""

from __future__ import annotations

import io
import json
import random
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from llava_grounding import markup
from llava_grounding.benchmark.adapters import ADAPTERS
from llava_grounding.benchmark.predictions import prediction_from
from llava_grounding.benchmark.samples import BenchmarkSample
from llava_grounding.benchmark.scores import SampleScore
from llava_grounding.data.plain_files import parse_json
from llava_grounding.data.readers.parts.numbers import EntryError
from llava_grounding.data.readers.parts.shapes import box_or_around, checked_segmentation
from llava_grounding.errors import LlavaGroundingError, MarkupError
from llava_grounding.image_files import DATA_FORMATS, FORMATS, ImageLimits, load_image, load_mask, load_stored
from llava_grounding.labelling.labels import result_from_dict
from llava_grounding.masks import check_rle, decode_rle, encode_rle, rle_area
from llava_grounding.polygons import polygons_to_mask
from llava_grounding.processing.chat_format import read_chat
from llava_grounding.serve.label_studio import Pointing
from llava_grounding.structures import GroundedAnswer
from llava_grounding.visual_prompts import prompt_from_dict
from made_answers import an_answer

SECONDS = 5.0
"""CPU time that a damaged input of a few hundred bytes may take, on a busy machine."""
GROWTH = 64
"""MiB of memory that may be kept after the first tenth of all inputs."""
LIMITS = ImageLimits(max_pixels=2_000_000)
MASK = encode_rle(np.eye(3, 4, dtype=bool))
SAMPLE = {
    "id": "a",
    "image": "a.png",
    "image_size": [4, 3],
    "kind": "detail",
    "question": "What?",
    "marks": [0],
    "phrases": [{"text": "a", "targets": [0]}],
    "references": ["a"],
    "answer": "a",
    "exhaustive": ["cat"],
    "instances": [{"category": "cat", "box": [0, 0, 2, 2], "mask": MASK}],
}
SCORE = {
    "id": "a",
    "image": "a.png",
    "kind": "detail",
    "state": "answered",
    "rows": {"recall": [1.0, 2.0]},
    "regions": [[0.5, True]],
    "quality": 0.5,
    "detail": {"a": 1},
    "questions": 1,
}
LABELS = {
    "image": "a.png",
    "image_size": [4, 3],
    "labels": [{"category": "cat", "mask": MASK, "box": [0, 0, 2, 2], "score": 0.5}],
}
CONTEXT = [
    {"type": "keypointlabels", "is_positive": 1, "value": {"x": 1, "y": 1, "keypointlabels": ["cat"]}},
    {"type": "rectanglelabels", "value": {"x": 1, "y": 1, "width": 3, "height": 3, "rectanglelabels": ["cat"]}},
]
PROMPTS = {"click": [1, 2], "box": [0, 0, 2, 2], "scribble": [[1, 2], [3, 4]], "mask": MASK}
CHAT = [
    {"role": "system", "content": "Be kind."},
    {
        "role": "user",
        "grounded": True,
        "content": [
            {"type": "image"},
            {"type": "text", "text": "What is "},
            {"type": "region", "box": [0, 0, 2, 2]},
            {"type": "region", "mask": MASK},
        ],
    },
    {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
    {"role": "user", "content": "Where?"},
]
ANSWERS = {
    "ours": {
        "id": "a",
        "text": "a cat",
        "phrases": [{"text": "a cat", "regions": [{"box": [0, 0, 2, 2], "score": 1}]}],
    },
    "text": {"id": "a", "text": "a cat[0.1,0.2,0.5,0.6;0,0,1,1] <ref>a dog</ref><box>(120,301),(452,800)</box>"},
    "json": {"id": "a", "input_size": [8, 6], "text": '[{"bbox_2d": [1, 2, 3, 4], "label": "a dog"}]'},
    "masks": {"id": "a", "text": "<p> a dog </p> [SEG]", "pred_masks": [MASK]},
}
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2, 3.5, 1e308, -1e9, float("nan"), float("inf"), 10**30, 10**400, 2**31, 2**63),
    *("", " ", "1", "-1", "a" * 300, "../x", "/etc/passwd", "a\0b", "\ud800", "\x1b[31m", "dog", "1.png", "2.png"),
    *("<seg>", "<image>", "[SEG]", "<region>", "https://example.org/1.png", "COCO_train2014_000000000001.png"),
    *([], [[]], {}, [1], [[1, 2]], [[0, 0, 9, 0, 9, 7]], [0.1, 0.2, 0.3, 0.4], [5, 5, 9, 9], ["a", None], {"id": 1}),
    *({"size": [8, 10], "counts": [80]}, {"size": [8, 10], "counts": "0"}, {"size": [65535, 65535], "counts": [1, 2]}),
    [[[[[[]]]]]],
)
PIECES = ("<g_s>", " <g_e>", "<seg>", "<region>", " ", "a", "dog ", "<", "g_s", ">", "é", "\ud800", "\n", "犬", ".")


def other_value(value: Any, draw: random.Random) -> Any:
    """A value of JSON with one change somewhere within."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        how = draw.random()
        if how < 0.1:
            return {one: inner for one, inner in value.items() if one != key}
        if how < 0.15:
            return {(key + "x" if one == key else one): inner for one, inner in value.items()}
        return {**value, key: other_value(value[key], draw)}
    if isinstance(value, list) and value and draw.random() < 0.9:
        place = draw.randrange(len(value))
        how = draw.random()
        if how < 0.1:
            return value[:place] + value[place + 1 :]
        if how < 0.2:
            return [*value, value[place]]
        return [*value[:place], other_value(value[place], draw), *value[place + 1 :]]
    if isinstance(value, int | float) and abs(value) < 1e300 and draw.random() < 0.4:
        return draw.choice((str(value), float(value), -value, value + 1, value * 1000, value / 100, [value]))
    return draw.choice(VALUES)


def _encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def whole_pictures() -> list[bytes]:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [_encoded(image, kind, exif=exif) for kind in FORMATS]
    files += [_encoded(image, "JPEG", progressive=True), _encoded(image.convert("CMYK"), "JPEG")]
    files += [_encoded(image.convert(mode), "PNG") for mode in ("1", "P", "LA")]
    files += [_encoded(image, "WEBP", lossless=True), _encoded(image, "BMP"), _encoded(image.convert("P"), "BMP")]
    files += [_encoded(image, kind, save_all=True, append_images=[image.rotate(180)]) for kind in ("PNG", "WEBP")]
    return files + [_encoded(image, kind) for kind in ("GIF", "TIFF", "DDS")]


PICTURES = whole_pictures()


def mutated(data: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """A file cut off, with bits and bytes changed, parts removed, repeated, or taken from another."""
    if rng.random() < 0.2:
        return data[: rng.randrange(len(data))]
    edited = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(max(1, len(edited) if rng.random() < 0.5 else min(len(edited), 80)))
        what = rng.randrange(6)
        if what == 0 and edited:
            edited[at] ^= 1 << rng.randrange(8)
        elif what == 1:
            edited[at : at + 4] = rng.choice((b"\xff" * 4, b"\x00" * 4, b"\x7f\xff\xff\xff", b"\xff\xda\x00\x02"))
        elif what == 2:
            del edited[at : at + rng.randint(1, 30)]
        elif what == 3:
            edited[at:at] = edited[at : at + rng.randint(1, 60)] * rng.choice((1, 2, 50))
        elif what == 4:
            edited[at : at + 1] = bytes([rng.choice((0, 0x7F, 0x80, 0xC0, 0xD9, 0xFF))])
        else:
            other = rng.choice(others)
            start = rng.randrange(len(other))
            edited[at : at + 20] = other[start : start + 20]
    return bytes(edited)


def read_picture(rng: random.Random) -> None:
    data, way = mutated(rng.choice(PICTURES), rng, PICTURES), rng.randrange(6)
    if way < 4:
        image = load_image(data, LIMITS, (DATA_FORMATS, FORMATS)[way % 2])
        assert (image.mode, image.info) == ("RGB", {})
    elif way == 4:
        load_mask(data, LIMITS)
    else:
        load_stored(data, LIMITS, ("PNG",))


def read_markup(rng: random.Random) -> None:
    text = "".join(rng.choice(PIECES) for _ in range(rng.randint(0, 30)))
    tidy = rng.random() < 0.5
    parsed = markup.parse(text, tidy)
    assert not any(token in parsed.text for token in markup.SPECIAL_TOKENS)
    assert all(parsed.text[slice(*phrase.span)] == phrase.text for phrase in parsed.phrases)
    assert markup.parse(markup.format_markup(parsed.text, [p.span for p in parsed.phrases])).text == parsed.text
    parser, at = markup.StreamParser(tidy=tidy), 0
    deltas = []
    while at < len(text):
        size = rng.randint(1, 6)
        deltas.append(parser.feed(text[at : at + size]))
        at += size
    deltas.append(parser.finish())
    assert parser.parsed == parsed
    assert "".join(one.text for one in deltas) == parsed.text
    assert tuple(phrase for one in deltas for phrase in one.phrases) == parsed.phrases
    try:
        markup.parse_strict(text)
    except MarkupError:
        pass
    else:
        assert not parser.problem


def read_mask(rng: random.Random) -> None:
    height, width = rng.randint(0, 12), rng.randint(0, 12)
    rle = encode_rle(np.random.default_rng(rng.getrandbits(32)).random((height, width)) < 0.2)
    characters = list(rle["counts"])
    for _ in range(rng.randint(0, 2)):
        at = rng.randrange(len(characters) + 1)
        characters[at : at + rng.randint(0, 2)] = [chr(rng.randrange(40, 120)) for _ in range(rng.randint(0, 2))]
    odd_counts = [rng.choice((0, 1, 5, height * width, -1, 2**40, 2**70, 1.5, "3", None)) for _ in range(3)]
    rle["counts"] = odd_counts if rng.random() < 0.2 else "".join(characters)
    if rng.random() < 0.15:
        rle["size"] = rng.choice(([height], [2**40, 1], [-1, -1], "34", None, ["3", 4], [65_535, 65_535]))
    mask = decode_rle(rle, rng.choice(((height, width), None)))
    assert rle_area(rle) == mask.sum()
    assert check_rle(rle, (height, width)) == encode_rle(mask)


def read_polygons(rng: random.Random) -> None:
    size_wh = rng.randint(1, 20), rng.randint(1, 20)
    far = rng.choice((1, 1, 3, 1e6, 1e30, 1e300))
    polygons: Any = [
        [round(rng.uniform(-0.2, 1.2) * far * 10, rng.choice((0, 1, 9))) for _ in range(rng.choice((6, 6, 8, 8, 40)))]
        for _ in range(rng.randint(1, 3))
    ]
    box: Any = [0, 0, *size_wh] if rng.random() < 0.7 else None
    if rng.random() < 0.5:
        polygons = other_value(polygons, rng)
    if rng.random() < 0.2:
        box = other_value(box, rng)
    try:
        mask = checked_segmentation(polygons, size_wh)
        box_or_around(box, mask, size_wh)
    except EntryError as error:
        raise LlavaGroundingError(str(error)) from error
    if isinstance(mask, list):
        filled = polygons_to_mask(mask, size_wh)
        assert filled.shape == size_wh[::-1]


def _answer(value: Any) -> None:
    answer = GroundedAnswer.from_dict(value)
    assert GroundedAnswer.from_dict(json.loads(json.dumps(answer.to_dict()))) == answer
    answer.to_coco()


def _prediction(value: Any, rng: random.Random) -> None:
    prediction_from(value, BenchmarkSample.from_dict(SAMPLE), ADAPTERS[rng.choice(list(ADAPTERS))])


FORMS: dict[str, tuple[Any, Callable[[Any, random.Random], object]]] = {
    "answer": (an_answer().to_dict(), lambda value, rng: _answer(value)),
    "labels": (LABELS, lambda value, rng: result_from_dict(value)),
    "score": (SCORE, lambda value, rng: SampleScore.from_dict(value)),
    "sample": (SAMPLE, lambda value, rng: BenchmarkSample.from_dict(value)),
    "context": (CONTEXT, lambda value, rng: Pointing.parse(value)),
    "chat": (CHAT, lambda value, rng: read_chat(value, True)),
    **{kind: ({kind: value}, lambda value, rng: prompt_from_dict(value)) for kind, value in PROMPTS.items()},
    **{f"prediction {name}": (value, _prediction) for name, value in ANSWERS.items()},
}


def read_form(rng: random.Random) -> None:
    value, read = FORMS[rng.choice(list(FORMS))]
    if rng.random() < 0.15:
        text = json.dumps(value).encode()
        try:
            value = parse_json(mutated(text, rng, [text]))
        except (ValueError, RecursionError) as error:  # what those who read files catch
            raise LlavaGroundingError(str(error)) from error
    else:
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            value = other_value(value, rng)
    read(value, rng)


KINDS: dict[str, Callable[[random.Random], None]] = {
    "pictures": read_picture,
    "markup": read_markup,
    "masks": read_mask,
    "polygons": read_polygons,
    "forms": read_form,
}


class _TooLongError(BaseException):
    """Past what `SECONDS` allow; no error that a reader may catch."""


@contextmanager
def _limited() -> Iterator[None]:
    def end(*_: object) -> None:
        raise _TooLongError

    signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def try_one(kind: str, seed: str) -> str | None:
    """Read the damaged input of a seed.

    Returns:
        "read" or "refused"; else what came out instead and where.
    """
    try:
        with _limited():
            KINDS[kind](random.Random(seed))
        return "read"
    except LlavaGroundingError as error:
        return "refused" if len(str(error)) < 3000 and "\n" not in str(error) else f"a message of other form: {error}"
    except (Exception, _TooLongError) as error:  # noqa: BLE001  whatever it is, it is what is looked for
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = "" if trace is None else f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
        return f"{type(error).__name__}: {str(error)[:200]} at {where}"


def main() -> int:
    """Damage so many inputs of each kind, and say what was neither a value nor an error of ours."""
    count, seed = (int(word) for word in [*sys.argv[1:3], *("1000", "0")[len(sys.argv) - 1 :]])
    failed = False
    for kind in sys.argv[3:] or KINDS:
        found, begin, settled = Counter[str](), time.process_time(), 0
        for number in range(count):
            came = try_one(kind, f"{seed} {kind} {number}")
            if came not in ("read", "refused"):
                print(f"{kind} {number}: {came}", flush=True)
                failed, came = True, "neither"
            found[came] += 1
            if number == count // 10:
                settled = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - settled) / 1024
        failed = failed or grown > GROWTH
        seconds = time.process_time() - begin
        print(f"{kind}: {count:,} damaged, {dict(found)}, {grown:.0f} MiB more, {seconds:.0f} CPU s", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
