"""Curves of a training in several stages, as an SVG.

    python examples/plot_log.py curves.svg runs/nano_pretrain runs/nano_read runs/nano_joint

Left the language loss of training, right the F1 scores of validation, both over all samples seen so far.
"""

import argparse
import json
from html import escape
from itertools import pairwise
from pathlib import Path

PANELS = [("training", ["language"]), ("validation", ["class_f1", "phrase_f1"])]
COLOURS = {"language": "#0b6e99", "class_f1": "#b4532a", "phrase_f1": "#0b6e99"}
WIDTH, HEIGHT, MARGIN = 380, 240, 44
Curve = list[tuple[float, float]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("runs", type=Path, nargs="+", help="folders with log.jsonl and recipe.json, first stage first")
    arguments = parser.parse_args()
    curves, ends = read(arguments.runs)
    panels = [
        panel(title, {name: curves[name] for name in names if name in curves}, ends, index * (WIDTH + 40))
        for index, (title, names) in enumerate(PANELS)
    ]
    size = f'viewBox="0 0 {2 * WIDTH + 40} {HEIGHT}" width="{2 * WIDTH + 40}" height="{HEIGHT}"'
    style = 'font-family="sans-serif" font-size="11" fill="#444"'
    white = '<rect width="100%" height="100%" fill="#fff"/>'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>{white}{"".join(panels)}</svg>\n'
    arguments.out.write_text(svg, encoding="utf-8")


def read(runs: list[Path]) -> tuple[dict[str, list[Curve]], list[tuple[str, float]]]:
    """For every number one curve per stage, over thousands of samples; names of the stages and where they end."""
    curves: dict[str, list[Curve]] = {}
    ends: list[tuple[str, float]] = []
    seen = 0.0
    for run in runs:
        recipe = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
        thousand = recipe["batch_size"] / 1000
        stage: dict[str, Curve] = {}
        for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            for name, value in row.items():
                stage.setdefault(name, []).append((seen + row["step"] * thousand, value))
        for name, curve in stage.items():
            curves.setdefault(name, []).append(curve)
        seen += recipe["steps"] * thousand
        ends.append((run.name, seen))
    return curves, ends


def panel(title: str, curves: dict[str, list[Curve]], ends: list[tuple[str, float]], left: int) -> str:
    """One diagram with its axes, stages as dashed lines, and a legend."""
    highest = max((value for parts in curves.values() for part in parts for _, value in part), default=1.0)
    top, last = max(1.0, highest), ends[-1][1]
    x0, y0 = left + MARGIN, HEIGHT - MARGIN
    wide, tall = WIDTH - MARGIN - 10, HEIGHT - 2 * MARGIN

    def place(x: float, y: float) -> tuple[float, float]:
        return round(x0 + x / last * wide, 1), round(y0 - y / top * tall, 1)

    parts = [f'<text x="{x0}" y="16" font-size="13">{escape(title)}</text>']
    for share in (0, 0.25, 0.5, 0.75, 1):
        x, y = place(0, share * top)
        parts.append(f'<line x1="{x}" x2="{x + wide}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{x - 6}" y="{y + 4}" text-anchor="end">{share * top:.2f}</text>')
    for (_, before), (name, end) in pairwise([("", 0.0), *ends]):
        x, y = place(end, 0)
        middle = place((before + end) / 2, 0)[0]
        parts.append(f'<line x1="{x}" x2="{x}" y1="{y}" y2="{y - tall}" stroke="#aaa" stroke-dasharray="3 3"/>')
        parts.append(f'<text x="{x}" y="{y + 14}" text-anchor="middle">{end:.0f}k</text>')
        parts.append(f'<text x="{middle}" y="{y + 28}" text-anchor="middle">{escape(name)}</text>')
    for index, (name, stages) in enumerate(curves.items()):
        colour = COLOURS[name]
        parts.append(f'<text x="{x0 + 90 + 90 * index}" y="16" fill="{colour}">{escape(name)}</text>')
        for curve in stages:
            points = [place(x, y) for x, y in curve]
            line = " ".join(f"{x},{y}" for x, y in points)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
            if len(points) < 10:
                parts += [f'<circle cx="{x}" cy="{y}" r="2.5" fill="{colour}"/>' for x, y in points]
    return "".join(parts)


if __name__ == "__main__":
    main()
