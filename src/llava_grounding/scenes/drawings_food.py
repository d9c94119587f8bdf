"""Vector drawings of fruit and other food: one function per category, a main colour, random details.

Sheets are 100 x 100. Knows no names, sizes or scenes.
"""

from __future__ import annotations

import math
import random

from llava_grounding.colours import RGB, dark, light, luminance
from llava_grounding.scenes.pen import INK, METAL, PALE, STALK, WOOD, Pen


def apple(p: Pen, c: RGB, r: random.Random) -> None:
    p.blob([(50, 26), (68, 18), (90, 30), (88, 62), (68, 95), (50, 90), (32, 95), (12, 62), (10, 30), (32, 18)], c)
    p.curve([(50, 28), (51, 16), (56, 6)], 4, WOOD)
    p.ellipse(67, 11, 13, 5.5, STALK, angle=-20)
    p.ellipse(28, 42, 6, 11, light(c, 0.5), angle=15)


def pear(p: Pen, c: RGB, r: random.Random) -> None:
    p.curve([(50, 16), (51, 8), (56, 2)], 4, WOOD)
    p.blob([(50, 10), (62, 16), (66, 40), (82, 64), (74, 92), (50, 97), (26, 92), (18, 64), (34, 40), (38, 16)], c)
    p.ellipse(34, 68, 5, 13, light(c, 0.5), angle=8)
    if r.random() < 0.6:
        p.ellipse(64, 8, 11, 4.5, STALK, angle=-15)


def banana(p: Pen, c: RGB, r: random.Random) -> None:
    p.blob(
        [(8, 26), (16, 22), (26, 48), (50, 64), (78, 62), (94, 50), (98, 57), (84, 80), (54, 90), (26, 76), (10, 48)], c
    )
    p.curve([(14, 32), (24, 58), (50, 76), (84, 70)], 2, dark(c, 0.2))
    p.line([(8, 24), (12, 16)], 6, (110, 90, 40))
    p.circle(95, 54, 3.6, (90, 70, 40))


def strawberry(p: Pen, c: RGB, r: random.Random) -> None:
    p.blob([(50, 22), (74, 20), (90, 38), (76, 74), (50, 98), (24, 74), (10, 38), (26, 20)], c)
    for x, y in ((30, 40), (50, 38), (70, 40), (40, 54), (60, 54), (50, 70), (34, 66), (66, 66), (50, 85)):
        p.ellipse(x, y, 2, 3, (250, 220, 120))
    p.star(50, 20, 27, 10, 6, STALK, turn=r.uniform(0, 30))
    p.line([(50, 18), (53, 3)], 4, STALK)


def watermelon(p: Pen, c: RGB, r: random.Random) -> None:
    p.pie(50, 30, 48, 0, 180, (44, 128, 60))
    p.pie(50, 30, 43, 0, 180, (216, 238, 190))
    p.pie(50, 30, 39, 0, 180, (226, 62, 66))
    for x, y in ((30, 38), (50, 38), (70, 38), (40, 50), (60, 50), (50, 61)):
        p.ellipse(x, y, 2, 3.4, INK)


def carrot(p: Pen, c: RGB, r: random.Random) -> None:
    for dx in (-12, -4, 4, 12):
        p.curve([(50, 32), (50 + dx * 0.8, 16), (50 + dx * 1.6, 2)], 5, STALK)
    p.blob([(50, 26), (66, 30), (66, 50), (56, 84), (50, 99), (44, 84), (34, 50), (34, 30)], c)
    for y, s in ((44, -1), (56, 1), (68, -1)):
        p.line([(50 + s * 12, y), (50 + s * 3, y + 1)], 2, dark(c, 0.25))


def cake(p: Pen, c: RGB, r: random.Random) -> None:
    sponge = (232, 194, 130)
    p.rect(3, 90, 97, 96, METAL, 3)
    p.rect(10, 48, 90, 91, sponge, 3)
    p.rect(10, 66, 90, 72, PALE)
    p.rect(8, 40, 92, 56, c, 6)
    for x in range(14, 92, 12):
        p.ellipse(x, 56, 5.5, r.uniform(6, 11), c)
    for x in r.sample([26, 38, 50, 62, 74], r.choice([1, 3, 3])):
        p.rect(x - 2.4, 20, x + 2.4, 41, (240, 240, 250))
        p.ellipse(x, 14, 3, 5.5, (250, 180, 50))


def pizza(p: Pen, c: RGB, r: random.Random) -> None:
    if r.random() < 0.5:
        p.polygon([(6, 20), (94, 20), (50, 98)], (246, 206, 92))
        p.curve([(6, 20), (30, 10), (70, 10), (94, 20)], 12, (200, 138, 70))
        spots: list[tuple[float, float, float]] = [(34, 36, 9), (62, 34, 9), (48, 60, 9), (50, 80, 5)]
    else:
        p.circle(50, 50, 48, (200, 138, 70))
        p.circle(50, 50, 41, (246, 206, 92))
        spots = [(50 + 24 * math.cos(k * 1.25), 50 + 24 * math.sin(k * 1.25), 8.5) for k in range(5)]
        spots.append((50, 50, 7))
    for x, y, radius in spots:
        p.circle(x, y, radius, (196, 50, 40))
    for _ in range(5):
        x, y = 50 + r.uniform(-20, 20), 40 + r.uniform(-14, 14)
        p.ellipse(x, y, 4, 2.2, (70, 140, 60), angle=r.uniform(0, 180))


def ice_cream(p: Pen, c: RGB, r: random.Random) -> None:
    p.polygon([(26, 46), (74, 46), (50, 99)], (222, 164, 90))
    for k in range(3):
        p.line([(32 + k * 12, 48), (44 + k * 8, 80 - k * 6)], 1.6, (180, 120, 60))
        p.line([(68 - k * 12, 48), (56 - k * 8, 80 - k * 6)], 1.6, (180, 120, 60))
    if r.random() < 0.5:
        p.circle(50, 18, 17, light(c, 0.35))
    p.circle(50, 34, 25, c)
    for x in (30, 43, 57, 70):
        p.circle(x, 48, 7.5, c)
    if r.random() < 0.5:
        p.circle(50, 6, 6, (206, 36, 50))


def donut(p: Pen, c: RGB, r: random.Random) -> None:
    p.circle(50, 50, 48, (214, 160, 92))
    p.star(50, 50, 44, 40, 11, c, turn=r.uniform(0, 30))
    for k in range(12):
        a, d = k * math.tau / 12 + r.uniform(0, 0.3), r.uniform(24, 34)
        x, y = 50 + d * math.cos(a), 50 + d * math.sin(a)
        tint = ((250, 240, 230), (60, 140, 220), (250, 210, 60))[k % 3] if luminance(c) < 0.85 else (200, 70, 90)
        p.ellipse(x, y, 3.4, 1.5, tint, angle=r.uniform(0, 180))
    p.circle(50, 50, 17, (190, 134, 70))
    p.circle(50, 50, 14, None)


def hamburger(p: Pen, c: RGB, r: random.Random) -> None:
    bun = (216, 150, 70)
    p.rect(8, 74, 92, 92, bun, 9)
    p.rect(5, 62, 95, 76, (104, 60, 36), 6)
    p.polygon([(8, 60), (92, 60), (78, 70), (64, 60), (50, 72), (36, 60), (20, 68)], (248, 206, 70))
    for x in range(10, 92, 14):
        p.circle(x + 4, 56, 7, (88, 168, 70))
    p.blob([(6, 52), (12, 24), (50, 8), (88, 24), (94, 52), (50, 55)], bun)
    for x, y in ((34, 26), (50, 18), (66, 26), (44, 36), (60, 38)):
        p.ellipse(x, y, 3, 1.8, (250, 230, 180), angle=r.uniform(0, 90))


def egg(p: Pen, c: RGB, r: random.Random) -> None:
    p.blob([(50, 3), (72, 22), (84, 56), (74, 88), (50, 97), (26, 88), (16, 56), (28, 22)], c)
    p.ellipse(36, 40, 6, 13, light(c, 0.6), angle=15)
