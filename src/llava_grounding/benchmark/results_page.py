"""Results as one page of HTML that needs nothing else: tables, curves and cases drawn as SVG, all of it escaped.

Photos are put in only where they are asked for. No scripts; a policy in the page forbids them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from llava_grounding.benchmark.calibration import Calibration
from llava_grounding.benchmark.results import Results
from llava_grounding.benchmark.scores import SampleScore
from llava_grounding.errors import printable_character
from llava_grounding.render.embedding import data_url_of

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 64rem; padding: 0 1rem; color: #1c1c1c; }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem; }
th, td { border-bottom: 1px solid #d5d5d5; padding: 0.2rem 0.8rem 0.2rem 0; text-align: left; vertical-align: top; }
td.n { text-align: right; font-variant-numeric: tabular-nums; }
figure { display: inline-block; margin: 0 1rem 1rem 0; vertical-align: top; width: 19rem; }
figcaption { font-size: 13px; overflow-wrap: anywhere; }
svg { background: #f4f4f4; max-width: 100%; }
"""
_SIDE = 220
_CASE_WIDTH = 300
_RIGHT, _WRONG, _TRUTH = "#12803c", "#c2281d", "#5b6470"

Picture = Callable[[str], bytes | None]
"""Name of an image to its JPEG or PNG bytes, or None."""


def results_page(results: Results, picture: Picture | None = None) -> str:
    """The page.

    Args:
        picture: gives photos to draw cases on; without it cases are boxes on a plain ground.
    """
    about = results.about
    opening = (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{_text(about.title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><style>{_STYLE}</style></head><body>'
    )
    parts = [opening, f"<h1>{_text(about.title)}</h1>", f"<p>{_text(about.rules)}</p>"]
    head, first = results.head(), results.results[0]
    of_first = f" of {_text(first.system)}" if len(results.results) > 1 else ""
    parts.append(_table(head, results.rows(), numbers=range(1, len(head))))
    if results.problems:
        parts.append("<h2>Lines that could not be used</h2>")
        parts.append(_table(["reason", "lines"], [[why, str(n)] for why, n in results.problem_rows()], numbers=(1,)))
        parts.append("".join(f"<p>{_text(one)}</p>" for one in results.named_problems))
    if results.calibration.regions:
        parts += [
            f"<h2>Calibration{of_first} ({results.calibration.regions} regions)</h2>",
            _curves(results.calibration),
        ]
    if results.published:
        rows = [[one.table, one.system, *_pairs(one.values)] for one in results.published]
        parts += ["<h2>The paper's numbers, in percent</h2>", _table(["table", "system", ""], rows)]
    for title, cases in (("Worst cases", first.worst), ("Best cases", first.best)):
        if cases:
            parts += [f"<h2>{title}{of_first}</h2>", *(_case(one, picture) for one in cases)]
    facts = {key: value for key, value in about.to_dict().items() if key not in ("title", "rules")}
    rows = [[key, _flat(value)] for key, value in (*facts.items(), ("seed", results.seed))]
    parts += ["<h2>How it was made</h2>", _table(["", ""], rows), "</body></html>\n"]
    return "\n".join(parts)


def _text(value: object) -> str:
    return escape("".join(map(printable_character, str(value))), quote=True)


def _pairs(values: Mapping[str, float]) -> list[str]:
    return [", ".join(f"{name} {value:g}" for name, value in values.items())]


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_flat(one)}" for key, one in value.items() if one not in ("", None, {}, []))
    if isinstance(value, list):
        return ", ".join(map(_flat, value))
    return str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    cells = "".join(f"<th>{_text(one)}</th>" for one in head)
    lines = [f"<table><tr>{cells}</tr>"]
    for row in rows:
        kinds = [' class="n"' if place in numbers else "" for place in range(len(row))]
        lines.append("<tr>" + "".join(f"<td{k}>{_text(c)}</td>" for k, c in zip(kinds, row, strict=True)) + "</tr>")
    return "".join([*lines, "</table>"])


def _curves(found: Calibration) -> str:
    """Reliability and risk against coverage, side by side, with the number of regions in each point's title."""
    reliability = [(mean, right, f"{count} regions") for mean, right, count in found.bins]
    risk = [(kept, wrong, f"coverage {kept:.2f}") for kept, wrong in found.risk]
    error = "" if found.error is None else f"Expected calibration error {found.error:.3f}."
    return _figure(_curve(reliability, diagonal=True), f"Share right against mean score. {error}") + _figure(
        _curve(risk, diagonal=False), "Share wrong against coverage, the surest regions first."
    )


def _figure(drawing: str, caption: str) -> str:
    return f"<figure>{drawing}<figcaption>{_text(caption)}</figcaption></figure>"


def _curve(points: Sequence[tuple[float, float, str]], diagonal: bool) -> str:
    """Points of the unit square, joined."""
    at = [(x * _SIDE, (1 - y) * _SIDE, words) for x, y, words in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in at)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{_text(w)}</title></circle>' for x, y, w in at)
    straight = f'<path d="M0 {_SIDE} L{_SIDE} 0" stroke="#b0b0b0" fill="none"/>' if diagonal else ""
    return (
        f'<svg viewBox="-8 -8 {_SIDE + 16} {_SIDE + 16}" width="{_SIDE}" role="img">'
        f'<rect width="{_SIDE}" height="{_SIDE}" fill="#fff" stroke="#d5d5d5"/>{straight}'
        f'<polyline points="{line}" fill="none" stroke="#1c1c1c"/>{dots}</svg>'
    )


def _case(score: SampleScore, picture: Picture | None) -> str:
    detail, drawing = score.detail, ""
    if "image_size" in detail:
        width, height = detail["image_size"]
        data = None if picture is None else picture(score.image)
        kind = "png" if data is not None and data.startswith(b"\x89PNG") else "jpeg"
        ground = "" if data is None else f'<image href="{data_url_of(data, kind)}" width="{width}" height="{height}"/>'
        line = max(width, height) / 150
        truths = [_box(one, _TRUTH, line, dashed=True) for one in detail.get("truths", ())]
        regions = [_box(one, _RIGHT if one["right"] else _WRONG, line) for one in detail.get("regions", ())]
        drawing = (
            f'<svg viewBox="0 0 {width} {height}" width="{_CASE_WIDTH}" role="img">{ground}'
            f"{''.join(truths)}{''.join(regions)}</svg>"
        )
    words = " ".join(str(detail[key]) for key in ("question", "text") if detail.get(key))
    quality = "" if score.quality is None else f" ({score.quality:.2f})"
    return _figure(drawing, f"{score.id}{quality}: {words}" if words else f"{score.id}{quality}")


def _box(value: Mapping[str, Any], colour: str, line: float, dashed: bool = False) -> str:
    x0, y0, x1, y1 = value["box"]
    dash = f' stroke-dasharray="{2 * line:.1f}"' if dashed else ""
    return (
        f'<rect x="{x0:g}" y="{y0:g}" width="{x1 - x0:g}" height="{y1 - y0:g}" fill="none" stroke="{colour}" '
        f'stroke-width="{line:.2f}"{dash}><title>{_text(value["text"])}</title></rect>'
    )
