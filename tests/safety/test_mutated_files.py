"""Seeded samples of longer runs: damaged pictures, run-length codes and markup give a value or one of our errors.

In runs of 100,000 of each nothing else was seen.
"""

import io
import random

import numpy as np
from PIL import Image

from llava_grounding import markup
from llava_grounding.errors import DataError, ImageError
from llava_grounding.image_files import DATA_FORMATS, FORMATS, ImageLimits, load_image, load_mask, load_stored
from llava_grounding.masks import check_rle, decode_rle, encode_rle, rle_area

LIMITS = ImageLimits(max_pixels=2_000_000)


def encoded(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def whole_pictures() -> list[bytes]:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [encoded(image, kind, exif=exif) for kind in FORMATS]
    files += [encoded(image, "JPEG", progressive=True), encoded(image.convert("CMYK"), "JPEG")]
    files += [encoded(image.convert(mode), "PNG") for mode in ("1", "P", "LA")]
    files += [encoded(image, "WEBP", lossless=True), encoded(image, "BMP"), encoded(image.convert("P"), "BMP")]
    files += [encoded(image, kind, save_all=True, append_images=[image.rotate(180)]) for kind in ("PNG", "WEBP")]
    return files + [encoded(image, kind) for kind in ("GIF", "TIFF", "DDS")]


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


def test_damaged_pictures() -> None:
    rng, files, read = random.Random(7), whole_pictures(), 0
    for number in range(1500):
        data = mutated(rng.choice(files), rng, files)
        try:
            image = load_image(data, LIMITS, DATA_FORMATS if number % 2 else FORMATS)
            assert (image.mode, image.info) == ("RGB", {})
            read += 1
            load_mask(data, LIMITS)
            load_stored(data, LIMITS, ("PNG",))
        except ImageError as error:
            message = str(error)
            assert "\n" not in message
    assert read > 100


def test_damaged_run_length_codes() -> None:
    rng, read = random.Random(7), 0
    for number in range(1200):
        height, width = rng.randint(0, 12), rng.randint(0, 12)
        rle = encode_rle(np.random.default_rng(number).random((height, width)) < 0.2)
        characters = list(rle["counts"])
        for _ in range(rng.randint(0, 2)):
            at = rng.randrange(len(characters) + 1)
            characters[at : at + rng.randint(0, 2)] = [chr(rng.randrange(40, 120)) for _ in range(rng.randint(0, 2))]
        odd_counts = [rng.choice((0, 1, 5, height * width, -1, 2**40, 2**70, 1.5, "3", None)) for _ in range(3)]
        rle["counts"] = odd_counts if number % 5 == 0 else "".join(characters)
        if number % 7 == 0:
            rle["size"] = rng.choice(([height], [2**40, 1], [-1, -1], "34", None, ["3", 4], [65_535, 65_535]))
        try:
            mask = decode_rle(rle, (height, width) if number % 2 else None)
            assert rle_area(rle) == mask.sum()
            assert check_rle(rle, (height, width)) == encode_rle(mask)
            read += 1
        except DataError:
            pass
    assert read > 100


def test_damaged_markup() -> None:
    rng = random.Random(7)
    pieces = ["<g_s>", " <g_e>", "<seg>", "<region>", " ", "a", "dog ", "<", "g_s", ">", "é", "\ud800", "\n", "犬", "."]
    for _ in range(1500):
        text = "".join(rng.choice(pieces) for _ in range(rng.randint(0, 30)))
        parsed = markup.parse(text)
        assert not any(token in parsed.text for token in markup.SPECIAL_TOKENS)
        assert all(parsed.text[slice(*phrase.span)] == phrase.text for phrase in parsed.phrases)
        assert markup.parse(markup.format_markup(parsed.text, [p.span for p in parsed.phrases])).text == parsed.text
