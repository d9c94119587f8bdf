"""An answer drawn into its picture: masks, boxes and numbers, and below it the text with its phrases in colour.

Draws what a `GroundedAnswer` says, in the pixels it says it in. Knows no model and no files.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from llava_grounding.colours import RGB, mix
from llava_grounding.image_files import ImageSource, load_image
from llava_grounding.render.canvas import Canvas
from llava_grounding.render.palette import BLACK, GREY, WHITE, ink_on, phrase_color
from llava_grounding.render.parts import DOUBT_MARK, DOUBTFUL, NOT_FOUND, picture_of, text_pieces
from llava_grounding.render.typeset import NO_BREAK, StyledText, TextRun, Typesetter
from llava_grounding.structures import GroundedAnswer, GroundedPhrase, VisualPrompt

MAX_SIDE = 2048
"""A longer picture is reduced to this before it is drawn on, in pixels."""

_MIN_LEGEND_WIDTH = 480
_MAX_LEGEND_LINES = 120
_MAX_LEGEND_CHARACTERS = 20_000
_MAX_NAMED = 3  # letters that no font has
_PAPER: RGB = (252, 252, 250)

# Styles of the legend: 0 is plain text, then two for each phrase, its number and its words.
_PLAIN = 0


def draw_answer(
    image: ImageSource, answer: GroundedAnswer, prompts: Sequence[VisualPrompt] = (), max_side: int = MAX_SIDE
) -> Image.Image:
    """The picture with every region tinted, boxed and numbered, and below it the text, each phrase in its colour.

    The k-th phrase has the number k, counted from 1. A phrase with no regions is grey, dotted and has a question mark;
    a line below says what that means, another which letters no font could write. One that is doubtful has its colour
    and a question mark in brackets.

    Args:
        image: the picture the answer is about, as `load_image` takes it.
        answer: its boxes and masks are in the pixels of the upright `image`.
        prompts: what the user pointed at, drawn in white as R1, R2, ...
        max_side: the drawing of a longer picture is reduced to this, in pixels.

    Raises:
        ImageError: if the picture cannot be read.
        ShapeError: if it does not have the size the answer states.
    """
    regions = [(region, k) for k, phrase in enumerate(answer.phrases) for region in phrase.regions]
    picture = picture_of(image, answer)
    boxes = [box for region, _ in regions if (box := region.mask_box_xyxy) is not None]
    canvas = Canvas(picture, max_side, [*boxes, *_mask_boxes(prompts, picture)])
    regions.sort(key=lambda pair: -pair[0].area)  # small things on top of large ones
    for region, k in regions:
        mask = region.mask
        if mask is not None:
            canvas.tint(mask, phrase_color(k))
    for region, k in regions:
        canvas.frame(region.box_xyxy, phrase_color(k))
    _mark(canvas, prompts)
    for region, k in reversed(regions):
        canvas.tag(str(k + 1), region.box_xyxy, phrase_color(k))
    return _with_legend(canvas.picture, answer)


def draw_prompts(image: ImageSource, prompts: Sequence[VisualPrompt], max_side: int = MAX_SIDE) -> Image.Image:
    """The picture with what the user pointed at in white: R1 is the first prompt, R2 the second, and so on.

    Raises:
        ImageError: if the picture cannot be read.
        PromptError: if a prompt does not fit the picture.
    """
    picture = load_image(image)
    canvas = Canvas(picture, max_side, _mask_boxes(prompts, picture))
    _mark(canvas, prompts)
    return canvas.picture


def _mask_boxes(prompts: Sequence[VisualPrompt], picture: Image.Image) -> list[np.ndarray]:
    """Boxes of the prompts that are masks."""
    return [prompt.bounds(picture.size) for prompt in prompts if prompt.kind == "mask"]


def _mark(canvas: Canvas, prompts: Sequence[VisualPrompt]) -> None:
    for k, prompt in enumerate(prompts, start=1):
        prompt.validate(canvas.image_size_wh)
        box = prompt.bounds(canvas.image_size_wh)
        mask = prompt.mask
        if mask is not None:
            canvas.tint(mask, WHITE)
        elif prompt.box_xyxy is not None:
            x0, y0, x1, y1 = box
            canvas.stroke(np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1), (x0, y0)]), WHITE, dashed=True)
        elif prompt.points_xy is not None:
            box = canvas.stroke(prompt.points_xy, WHITE)
        canvas.tag(f"R{k}", box, WHITE)


def _with_legend(picture: Image.Image, answer: GroundedAnswer) -> Image.Image:
    width = max(picture.width, _MIN_LEGEND_WIDTH)
    font_size = min(34, max(16, round(width / 50)))
    setter, small, margin = Typesetter(font_size), Typesetter(round(0.75 * font_size)), font_size
    line_height, note_height = round(1.65 * font_size), round(1.3 * font_size)
    lines = setter.lines(_legend_pieces(answer), width - 2 * margin, _MAX_LEGEND_LINES)
    notes = [line for note in _notes(answer, lines) for line in small.lines([(note, _PLAIN)], width - 2 * margin)]
    height = len(lines) * line_height + len(notes) * note_height + 2 * (margin - font_size // 4)
    sheet = Image.new("RGB", (width, picture.height + height), _PAPER)
    sheet.paste(picture, ((width - picture.width) // 2, 0))
    draw = ImageDraw.Draw(sheet)
    baseline = picture.height + margin + font_size - font_size // 4
    for number, line in enumerate(lines):
        for run in line:
            _draw_run(draw, setter, run, margin + run.x, baseline + number * line_height, answer.phrases)
    baseline += len(lines) * line_height - (line_height - note_height)
    for number, line in enumerate(notes):
        for run in line:
            if run.font is not None:
                place = (margin + run.x, baseline + number * note_height)
                draw.text(place, run.text, fill=GREY, font=run.font, anchor="ls")
    return sheet


def _notes(answer: GroundedAnswer, lines: Sequence[Sequence[TextRun]]) -> list[str]:
    """What question marks and an empty box in the legend mean, where there are any."""
    notes = [f"? = {NOT_FOUND}"] if any(not phrase.regions for phrase in answer.phrases) else []
    if any(phrase.regions and phrase.doubtful for phrase in answer.phrases):
        notes.append(f"{DOUBT_MARK} = {DOUBTFUL}")
    missing = dict.fromkeys(c for line in lines for run in line if run.font is None for c in run.text)
    if missing:
        named = ", ".join(f"U+{ord(character):04X}" for character in list(missing)[:_MAX_NAMED])
        more = " and others" if len(missing) > _MAX_NAMED else ""
        notes.append(
            f"Empty boxes: no font on this computer has {named}{more}; a browser may, on the page of the answer."
        )
    return notes


def _legend_pieces(answer: GroundedAnswer) -> list[StyledText]:
    pieces: list[StyledText] = []
    left = _MAX_LEGEND_CHARACTERS
    for text, k in text_pieces(answer):
        if k is None:
            pieces.append((text[:left], _PLAIN))
        elif answer.phrases[k].regions:
            words = text[:left] + (f" {DOUBT_MARK}" if answer.phrases[k].doubtful else "")
            pieces += [(f"{NO_BREAK}{k + 1}{NO_BREAK}", 2 * k + 1), (words, 2 * k + 2)]
        else:
            pieces += [(text[:left], 2 * k + 2), ("?", 2 * k + 1)]
        left -= len(text)
        if left <= 0:
            return [*pieces, (" ...", _PLAIN)]
    return pieces or [("(no text)", _PLAIN)]


def _draw_run(
    draw: ImageDraw.ImageDraw, setter: Typesetter, run: TextRun, x: float, y: float, phrases: Sequence[GroundedPhrase]
) -> None:
    """One run at its baseline: plain, or a phrase's number on its colour, or its words on a tint of it."""
    ink, size = BLACK, setter.font_size
    corners = (round(x), round(y) - size, round(x + run.width) - 1, round(y) + size // 3)
    if run.style != _PLAIN:
        k, is_words = divmod(run.style - 1, 2)
        color = phrase_color(k)
        if not phrases[k].regions:
            ink = GREY
            _dotted_line(draw, corners, GREY, max(1, size // 12))
        elif is_words:
            draw.rectangle(corners, fill=mix(color, WHITE, 0.7))
            draw.line((corners[0], corners[3], corners[2], corners[3]), fill=color, width=max(2, size // 9))
        else:
            ink = ink_on(color)
            draw.rectangle(corners, fill=color)
    if run.font is not None:
        draw.text((x, y), run.text, fill=ink, font=run.font, anchor="ls")
        return
    for left in np.arange(x, x + run.width - 1, setter.box_width):
        draw.rectangle((left + 1, y - 0.7 * size, left + setter.box_width - 2, y), outline=ink)


def _dotted_line(draw: ImageDraw.ImageDraw, corners: tuple[int, int, int, int], ink: RGB, radius: int) -> None:
    x0, _, x1, y = corners
    for x in range(x0, x1 + 1, 4 * radius):
        draw.ellipse((x, y - radius, x + 2 * radius - 1, y + radius - 1), fill=ink)
