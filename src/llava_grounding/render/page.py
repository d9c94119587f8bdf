"""An answer as one HTML file that needs no network: hovering or focusing a phrase lights its masks, and the reverse.

The picture is a data URL, each mask an SVG outline that knows when it is pointed at. All text is escaped, and a content
security policy lets no script run but the page's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from string import Template

import numpy as np
from PIL import Image

from llava_grounding.colours import RGB
from llava_grounding.image_files import ImageSource
from llava_grounding.render.embedding import data_url, script_hash
from llava_grounding.render.outline import MAX_EDGES, mask_to_path
from llava_grounding.render.palette import WHITE, css, ink_on, phrase_color
from llava_grounding.render.parts import DOUBT_MARK, DOUBTFUL, NOT_FOUND, picture_of, text_pieces
from llava_grounding.render.typeset import clean
from llava_grounding.structures import GroundedAnswer, GroundedPhrase, Region, VisualPrompt

_MAX_IMAGE_SIDE = 2048
_MAX_PNG_PIXELS = 256 * 256  # larger pictures go in as JPEG, which is a tenth of the size
_PIXELATED_SIDE = 160  # smaller pictures are shown with their pixels visible
_TITLE_LENGTH = 70
_MAX_EDGES, _LEAST_EDGES = 500_000, 100  # of all outlines of the regions, and for each whatever their number


def answer_to_html(image: ImageSource, answer: GroundedAnswer, prompts: Sequence[VisualPrompt] = ()) -> str:
    """One self-contained page: the picture with its regions, below it the text.

    Args:
        image: the picture the answer is about, as `load_image` takes it.
        answer: phrases without regions are grey and dotted, with a question mark; doubtful ones have one in brackets.
        prompts: what the user pointed at, outlined in white as R1, R2, ...

    Raises:
        ImageError: if the picture cannot be read.
        ShapeError: if it does not have the size the answer states.
        PromptError: if a prompt does not fit the picture.
    """
    picture = picture_of(image, answer)
    for prompt in prompts:
        prompt.validate(answer.image_size_wh)
    width, height = answer.image_size_wh
    script = _resource("page.js")
    text = clean(answer.text)
    legend = f" · ? = {NOT_FOUND}" if any(not phrase.regions for phrase in answer.phrases) else ""
    if any(phrase.regions and phrase.doubtful for phrase in answer.phrases):
        legend += f" · {DOUBT_MARK} = {DOUBTFUL}"
    return Template(_resource("page.html")).substitute(
        script=script,
        script_hash=script_hash(script),
        style=_resource("page.css"),
        title=escape(" ".join(text.split())[:_TITLE_LENGTH] or "Grounded answer"),
        label=escape("The picture, with the regions the answer names"),
        width=width,
        height=height,
        aspect=f"{width / height:.6g}",
        image=_embedded(picture),
        pixelated=' class="pixels"' if max(picture.size) < _PIXELATED_SIDE else "",
        shapes="\n".join([*_region_shapes(answer), *map(_prompt_shape, prompts)]),
        tags="\n".join(_tags(answer, prompts)),
        text=_text(answer) or '<span class="doubtful">(no text)</span>',
        about=escape(clean(f"{answer.model} · {width} × {height} pixels{legend}")),
    )


def _resource(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8").strip()


def _embedded(image: Image.Image) -> str:
    image = image.convert("RGB")
    image.thumbnail((_MAX_IMAGE_SIDE, _MAX_IMAGE_SIDE), Image.Resampling.LANCZOS)
    return data_url(image, "png" if image.width * image.height <= _MAX_PNG_PIXELS else "jpeg")


def _text(answer: GroundedAnswer) -> str:
    return "".join(
        escape(clean(text)) if k is None else _phrase(text, k, answer.phrases[k]) for text, k in text_pieces(answer)
    )


def _phrase(text: str, k: int, phrase: GroundedPhrase) -> str:
    """The words as something to point at; a span and not a button, so that it wraps like text."""
    shown = escape(clean(text))
    if not phrase.regions:
        hint = f"{NOT_FOUND} (best score {phrase.score:.2f})"
        return (
            f'<span class="phrase doubtful" dir="auto" tabindex="0" data-phrase="{k}" title="{hint}">{shown}'
            '<span class="mark">?</span></span>'
        )
    scores = ", ".join(f"{region.score:.2f}" for region in phrase.regions)
    hint, mark = (f"{DOUBTFUL}, ", f'<span class="mark">{DOUBT_MARK}</span>') if phrase.doubtful else ("", "")
    return (
        f'<span class="phrase" dir="auto" role="button" aria-pressed="false" tabindex="0" data-phrase="{k}"'
        f' style="{_colors(phrase_color(k))}" title="{hint}score {scores}">'
        f'<span class="number" aria-hidden="true">{k + 1}</span>{shown}{mark}</span>'
    )


def _colors(color: RGB) -> str:
    return f"--c:{css(color)};--soft:{css(color)}4d;--on:{css(ink_on(color))}"


def _region_shapes(answer: GroundedAnswer) -> list[str]:
    """Large regions first, so that small ones lie on top and can be pointed at."""
    regions = [(region, k) for k, phrase in enumerate(answer.phrases) for region in phrase.regions]
    regions.sort(key=lambda pair: -pair[0].area)
    edges = min(MAX_EDGES, max(_LEAST_EDGES, _MAX_EDGES // max(1, len(regions))))
    return [_region_shape(region, k, answer.phrases[k].text, edges) for region, k in regions]


def _region_shape(region: Region, k: int, name: str, max_edges: int) -> str:
    mask = region.mask
    path = mask_to_path(mask, max_edges) if mask is not None else ""
    outline = f'<path class="halo" {path}/><path {path} fill-rule="evenodd"/>' if path else ""
    rectangle, alone = _rectangle(region.box_xyxy), "" if path else "alone"
    return (
        f'<g class="region" data-phrase="{k}" style="{_colors(phrase_color(k))}">'
        f"<title>{escape(clean(name))} ({region.score:.2f})</title>{outline}"
        f'<rect class="halo" {rectangle}/><rect class="{alone}" {rectangle}/></g>'
    )


def _prompt_shape(prompt: VisualPrompt) -> str:
    mask = prompt.mask
    if mask is not None:
        outline = f'{mask_to_path(mask)} fill-rule="evenodd"'
        return f'<g class="prompt">{_twice("path", outline)}</g>'
    if prompt.box_xyxy is not None:
        return f'<g class="prompt">{_twice("rect", _rectangle(prompt.box_xyxy), "dashed")}</g>'
    assert prompt.points_xy is not None
    points = prompt.points_xy
    if len(points) == 1:  # a line of no length with round ends is a dot of constant size on the screen
        points = np.repeat(points, 2, axis=0)
        dot = f'd="M{_pair(points[0])}h0" stroke-linecap="round"'
        return (
            f'<g class="prompt"><path class="halo" style="stroke-width:20" {dot}/>'
            f'<path style="stroke-width:15" {dot}/><path class="halo" style="stroke-width:8" {dot}/></g>'
        )
    line = f'points="{" ".join(map(_pair, points))}"'
    return f'<g class="prompt">{_twice("polyline", line)}</g>'


def _twice(element: str, attributes: str, kind: str = "") -> str:
    return f'<{element} class="halo" {attributes}/><{element} class="{kind}" {attributes}/>'


def _tags(answer: GroundedAnswer, prompts: Sequence[VisualPrompt]) -> list[str]:
    """Numbers at the upper left corners, beside each other where corners meet."""
    size = np.array(answer.image_size_wh)
    wanted = [
        (str(k + 1), f' data-phrase="{k}"', phrase_color(k), region.box_xyxy)
        for k, phrase in enumerate(answer.phrases)
        for region in phrase.regions
    ]
    wanted += [(f"R{k}", "", WHITE, prompt.bounds(answer.image_size_wh)) for k, prompt in enumerate(prompts, 1)]
    tags: list[str] = []
    corners_seen: dict[tuple[int, int], int] = {}
    for text, data, color, box in wanted:
        left, top = np.clip(100 * box[:2] / size, 0, 97)
        cell = int(left // 3), int(top // 4)
        beside = corners_seen[cell] = corners_seen.get(cell, -1) + 1
        place = f"left:{left:.2f}%;top:{top:.2f}%;margin-left:{2 * beside}em"
        kind = "tag" if data else "tag of-prompt"
        tags.append(f'<span class="{kind}" aria-hidden="true"{data} style="{_colors(color)};{place}">{text}</span>')
    return tags


def _rectangle(box_xyxy: np.ndarray) -> str:
    x0, y0, x1, y1 = box_xyxy
    return f'x="{x0:.6g}" y="{y0:.6g}" width="{x1 - x0:.6g}" height="{y1 - y0:.6g}"'


def _pair(point_xy: np.ndarray) -> str:
    return f"{point_xy[0]:.6g} {point_xy[1]:.6g}"
