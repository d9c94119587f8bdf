"""Vector drawings of plants, the sky, buildings and vehicles: one function per category, a main colour, random details.

Sheets are 100 x 100; vehicles drive left. Knows no names, sizes or scenes.
"""

from __future__ import annotations

import math
import random

from llava_grounding.colours import RGB, dark, light, luminance, mix
from llava_grounding.scenes.pen import INK, METAL, PALE, WOOD, Pen

GLASS: RGB = (178, 218, 240)


def _wheel(p: Pen, x: float, y: float, radius: float) -> None:
    p.circle(x, y, radius, INK)
    p.circle(x, y, radius * 0.5, METAL)


def tree(p: Pen, c: RGB, r: random.Random) -> None:
    if r.random() < 0.35:
        p.rect(45, 78, 55, 98, WOOD)
        for k in range(3):
            half, top = 20 + 8 * k, 4 + 24 * k
            p.polygon([(50, top), (50 + half, top + 34), (50 - half, top + 34)], dark(c, 0.12 * (2 - k)))
        return
    p.polygon([(44, 98), (46, 60), (54, 60), (57, 98)], WOOD)
    p.line([(50, 70), (62, 56)], 4, WOOD)
    for x, y, radius in ((50, 24, 21), (31, 38, 18), (69, 38, 18), (40, 53, 16), (61, 54, 15), (50, 42, 20)):
        p.circle(x + r.uniform(-3, 3), y + r.uniform(-2, 2), radius, c)
    for _ in range(7):
        p.circle(r.uniform(30, 70), r.uniform(18, 58), 3.4, light(c, 0.25) if r.random() < 0.5 else dark(c, 0.2))


def palm_tree(p: Pen, c: RGB, r: random.Random) -> None:
    p.curve([(58, 97), (54, 70), (47, 48), (46, 32)], 7, WOOD)
    for y in (50, 62, 74, 86):
        p.line([(46 + (y - 48) * 0.22, y), (52 + (y - 48) * 0.22, y - 1)], 1.8, dark(WOOD, 0.4))
    for angle in (-165, -140, -100, -50, -20, 10, 175):
        a = math.radians(angle + r.uniform(-8, 8))
        tip = (46 + 42 * math.cos(a), 30 + 24 * math.sin(a) + 14)
        mid = (46 + 24 * math.cos(a), 30 + 30 * math.sin(a) - 4)
        p.blob([(46, 29), (mid[0], mid[1] - 4), tip, (mid[0], mid[1] + 7)], dark(c, r.uniform(0, 0.25)))
    for dx in (-4, 4):
        p.circle(46 + dx, 35, 4, (96, 62, 34))


def flower(p: Pen, c: RGB, r: random.Random) -> None:
    stem = (58, 140, 60)
    p.curve([(50, 40), (52, 70), (49, 97)], 4.5, stem)
    p.ellipse(63, 74, 14, 5.5, stem, angle=-30)
    p.ellipse(37, 82, 14, 5.5, stem, angle=30)
    count = r.choice([5, 6, 7, 8])
    start = r.uniform(0, 360)
    for k in range(count):
        a = math.radians(start + 360 * k / count)
        p.ellipse(50 + 19 * math.cos(a), 33 + 19 * math.sin(a), 14, 54 / count + 2.5, c, angle=math.degrees(a))
    p.circle(50, 33, 10, (240, 190, 50) if luminance(c) < 0.7 or c[2] > 120 else (140, 90, 40))


def mushroom(p: Pen, c: RGB, r: random.Random) -> None:
    p.blob([(38, 50), (62, 50), (60, 74), (66, 94), (34, 94), (40, 74)], (240, 228, 206))
    p.blob([(4, 54), (16, 22), (50, 6), (84, 22), (96, 54), (74, 60), (50, 61), (26, 60)], c)
    if r.random() < 0.75:
        spot = PALE if luminance(c) < 0.85 else (200, 60, 50)
        for x, y, radius in ((34, 30, 7), (60, 22, 6), (74, 44, 6.5), (50, 44, 7.5), (22, 48, 5)):
            p.circle(x + r.uniform(-2, 2), y + r.uniform(-2, 2), radius, spot)


def cactus(p: Pen, c: RGB, r: random.Random) -> None:
    pot = r.random() < 0.5
    p.rect(39, 6, 61, 92, c, 11)
    p.curve([(44, 60), (24, 60), (22, 34 + r.uniform(-6, 6))], 13, c)
    p.curve([(56, 50), (77, 50), (79, 24 + r.uniform(-6, 8))], 13, c)
    for x in (45, 50, 55):
        p.line([(x, 12), (x, 78)], 1.4, dark(c, 0.3))
    for y in range(16, 76, 12):
        for x in (40, 60):
            p.line([(x - 2, y), (x + 2, y)], 1.4, light(c, 0.7))
    if pot:
        p.polygon([(30, 74), (70, 74), (64, 98), (36, 98)], (190, 96, 58))
        p.rect(27, 70, 73, 79, (206, 112, 70))
    else:
        p.circle(50, 6, 5.5, (240, 110, 160))


def leaf(p: Pen, c: RGB, r: random.Random) -> None:
    p.line([(50, 70), (50, 98)], 4, dark(c, 0.35))
    p.blob([(50, 2), (72, 22), (80, 50), (66, 76), (50, 84), (34, 76), (20, 50), (28, 22)], c)
    vein = dark(c, 0.3)
    p.line([(50, 12), (50, 84)], 2.4, vein)
    for y in (32, 46, 60):
        for s in (-1, 1):
            p.line([(50, y + 8), (50 + s * 17, y - 4)], 1.8, vein)


def sun(p: Pen, c: RGB, r: random.Random) -> None:
    tips = r.choice([8, 10, 12, 16])
    if r.random() < 0.5:
        p.star(50, 50, 48, 32, tips, (246, 170, 40), turn=r.uniform(0, 30))
    else:
        for k in range(tips):
            a = math.tau * k / tips
            p.line(
                [(50 + 34 * math.cos(a), 50 + 34 * math.sin(a)), (50 + 46 * math.cos(a), 50 + 46 * math.sin(a))], 5, c
            )
    p.circle(50, 50, 29, c)
    if r.random() < 0.35:
        for s in (-1, 1):
            p.circle(50 + s * 9, 45, 3, (120, 70, 20))
        p.arc(50, 50, 12, 25, 155, 3, (120, 70, 20))


def moon(p: Pen, c: RGB, r: random.Random) -> None:
    p.circle(50, 50, 46, c)
    p.circle(50 + r.uniform(18, 24), 44 + r.uniform(-5, 5), 39, None)
    for x, y, radius in ((16, 52, 4), (26, 72, 5), (22, 34, 3)):
        p.circle(x, y, radius, dark(c, 0.13))


def star(p: Pen, c: RGB, r: random.Random) -> None:
    p.star(50, 53, 50, r.uniform(20, 25), 5, c, turn=r.uniform(-12, 12))


def cloud(p: Pen, c: RGB, r: random.Random) -> None:
    shade = dark(c, 0.1)
    p.rect(8, 50, 92, 78, shade, 14)
    for x, y, radius in ((26, 50, 18), (46, 38, 23), (68, 46, 20), (82, 58, 14)):
        p.circle(x + r.uniform(-3, 3), y, radius + r.uniform(-2, 3), c)
    p.rect(10, 48, 90, 72, c, 12)


def rainbow(p: Pen, c: RGB, r: random.Random) -> None:
    bands = [(220, 50, 50), (242, 140, 40), (246, 214, 60), (70, 170, 80), (60, 110, 210), (130, 70, 170)]
    for k, band in enumerate(bands):
        p.pie(50, 80, 48 - 5 * k, 180, 360, band)
    p.pie(50, 80, 18, 180, 360, None)
    p.rect(0, 78, 100, 100, None)
    if r.random() < 0.6:
        for x in (17, 83):
            for dx, dy in ((-8, 0), (0, -5), (8, 0)):
                p.circle(x + dx, 78 + dy, 8, PALE)


def mountain(p: Pen, c: RGB, r: random.Random) -> None:
    top = r.uniform(8, 18)
    p.polygon([(46, 90), (74, 34), (100, 90)], dark(c, 0.25))
    p.polygon([(0, 90), (38, top), (80, 90)], c)
    p.polygon([(38, top), (80, 90), (52, 90), (42, 40)], dark(c, 0.14))
    p.polygon([(38, top), (50, top + 21), (43, top + 17), (37, top + 25), (31, top + 17), (26, top + 23)], PALE)


def fire(p: Pen, c: RGB, r: random.Random) -> None:
    for s in (-1, 1):
        p.line([(50 - s * 32, 94), (50 + s * 32, 82)], 8, dark(WOOD, 0.15 * (s + 1)))
    lean = r.uniform(-6, 6)
    p.blob(
        [(50 + lean, 2), (62, 28), (76, 36), (80, 66), (62, 88), (38, 88), (20, 66), (24, 40), (36, 42)], (232, 84, 30)
    )
    p.blob([(50 + lean * 0.5, 30), (62, 52), (66, 72), (50, 87), (34, 72), (38, 54)], (250, 170, 40))
    p.blob([(50, 56), (57, 70), (50, 85), (43, 70)], (252, 232, 120))


def house(p: Pen, c: RGB, r: random.Random) -> None:
    roof = r.choice([(168, 62, 48), (110, 70, 50), (84, 90, 104)]) if luminance(c) > 0.35 else (214, 200, 180)
    if r.random() < 0.6:
        p.rect(68, 12, 79, 40, dark(roof, 0.25))
    p.rect(14, 44, 86, 95, c)
    p.polygon([(4, 48), (50, 6), (96, 48)], roof)
    door = r.choice([26, 43, 60])
    p.rect(door, 62, door + 15, 95, dark(roof, 0.35))
    p.circle(door + 11.5, 79, 1.6, (240, 200, 80))
    for x in (20, 42, 64):
        if abs(x - door) < 16:
            continue
        p.rect(x, 58, x + 16, 74, PALE)
        p.rect(x + 1.8, 59.8, x + 14.2, 72.2, GLASS)
        p.line([(x + 8, 59), (x + 8, 73)], 1.6, PALE)
        p.line([(x + 1, 66), (x + 15, 66)], 1.6, PALE)


def castle(p: Pen, c: RGB, r: random.Random) -> None:
    for x in (6, 74):
        p.rect(x, 34, x + 20, 95, c)
        for k in range(3):
            p.rect(x + k * 7.4, 26, x + k * 7.4 + 5, 36, c)
        p.rect(x + 8, 50, x + 12, 62, INK)
    p.rect(24, 50, 76, 95, dark(c, 0.12))
    for k in range(6):
        p.rect(25 + k * 9, 43, 30 + k * 9, 52, dark(c, 0.12))
    p.pie(50, 78, 11, 180, 360, (80, 52, 34))
    p.rect(39, 77, 61, 95, (80, 52, 34))
    for x in (16, 84):
        p.line([(x, 28), (x, 6)], 1.8, INK)
        p.polygon([(x, 5), (x + 12, 10), (x, 15)], (210, 50, 50))


def tent(p: Pen, c: RGB, r: random.Random) -> None:
    p.polygon([(2, 88), (44, 14), (98, 88)], dark(c, 0.25))
    p.polygon([(2, 88), (44, 14), (74, 88)], c)
    p.polygon([(26, 88), (44, 40), (56, 88)], dark(c, 0.7))
    p.line([(44, 14), (40, 6)], 2.4, WOOD)
    p.line([(44, 14), (48, 6)], 2.4, WOOD)


def car(p: Pen, c: RGB, r: random.Random) -> None:
    boxy = r.random() < 0.4
    if boxy:
        p.polygon([(18, 50), (26, 26), (88, 26), (94, 50)], dark(c, 0.08))
        p.polygon([(24, 48), (30, 31), (54, 31), (54, 48)], GLASS)
        p.polygon([(59, 48), (59, 31), (84, 31), (88, 48)], GLASS)
    else:
        p.blob([(22, 50), (36, 26), (66, 25), (84, 50)], dark(c, 0.08))
        p.polygon([(30, 48), (39, 31), (51, 30), (51, 48)], GLASS)
        p.polygon([(55, 48), (55, 30), (65, 31), (76, 48)], GLASS)
    p.rect(2, 46, 98, 72, c, 9)
    p.rect(2, 63, 98, 69, dark(c, 0.25), 2)
    p.ellipse(5, 54, 4, 4, (252, 236, 150))
    p.rect(93, 51, 98, 58, (190, 30, 30), 1)
    p.line([(58, 56), (64, 56)], 1.8, dark(c, 0.5))
    for x in (24, 76):
        _wheel(p, x, 72, 12)


def bus(p: Pen, c: RGB, r: random.Random) -> None:
    p.rect(2, 18, 98, 78, c, 7)
    count = r.choice([4, 5])
    step = 74 / count
    for k in range(count):
        p.rect(22 + k * step, 28, 22 + (k + 0.82) * step, 48, GLASS, 1.5)
    p.rect(4, 28, 17, 60, GLASS, 2)
    p.line([(10.5, 28), (10.5, 60)], 1.6, dark(c, 0.3))
    p.rect(2, 56, 98, 61, PALE if luminance(c) < 0.75 else dark(c, 0.35))
    p.rect(4, 20.5, 26, 25, INK, 1)
    for x in (24, 76):
        _wheel(p, x, 78, 11)


def truck(p: Pen, c: RGB, r: random.Random) -> None:
    load = r.choice([(226, 226, 222), (196, 200, 206), (214, 196, 160)])
    p.rect(36, 16, 98, 70, load, 2)
    for x in (52, 67, 82):
        p.line([(x, 20), (x, 66)], 1.4, dark(load, 0.18))
    p.blob([(2, 70), (3, 50), (12, 32), (32, 30), (34, 70)], c)
    p.rect(3, 52, 34, 74, c, 3)
    p.polygon([(8, 50), (15, 36), (28, 36), (28, 50)], GLASS)
    p.rect(2, 69, 98, 76, (70, 72, 78))
    p.circle(5, 62, 3, (252, 236, 150))
    for x in (20, 66, 86):
        _wheel(p, x, 78, 10.5)


def bicycle(p: Pen, c: RGB, r: random.Random) -> None:
    for x in (23, 77):
        p.ring(x, 66, 20, 4.6, INK)
        for k in range(4):
            a = math.pi * k / 4
            p.line(
                [(x - 18 * math.cos(a), 66 - 18 * math.sin(a)), (x + 18 * math.cos(a), 66 + 18 * math.sin(a))], 1, METAL
            )
    for line in (
        [(77, 66), (50, 68), (34, 36)],
        [(77, 66), (62, 38), (36, 40)],
        [(50, 68), (62, 38)],
        [(23, 66), (33, 28)],
    ):
        p.line(line, 5, c)
    p.line([(62, 38), (60, 28)], 4, INK)
    p.ellipse(60, 26, 11, 4, INK)
    p.curve([(33, 29), (30, 22), (18, 24)], 4, INK)
    p.circle(50, 68, 5, METAL)


def motorcycle(p: Pen, c: RGB, r: random.Random) -> None:
    for x in (21, 79):
        p.ring(x, 70, 15, 8, INK)
        p.circle(x, 70, 5, METAL)
    p.line([(21, 70), (34, 32)], 5, METAL)
    p.line([(34, 33), (44, 22)], 4, INK)
    p.polygon([(34, 62), (44, 52), (66, 54), (70, 76), (42, 78)], (90, 92, 98))
    p.blob([(34, 40), (52, 34), (66, 44), (60, 56), (38, 54)], c)
    p.blob([(58, 44), (78, 40), (96, 38), (94, 48), (64, 54)], INK)
    p.blob([(78, 48), (96, 50), (98, 62), (90, 54)], c)
    p.line([(58, 78), (92, 80)], 5, METAL)
    p.circle(31, 36, 6, (252, 240, 180))


def train(p: Pen, c: RGB, r: random.Random) -> None:
    if r.random() < 0.5:
        p.rect(18, 12, 32, 42, dark(c, 0.4))
        p.rect(14, 8, 36, 16, dark(c, 0.5), 2)
        p.rect(8, 36, 64, 70, c, 10)
        p.rect(60, 16, 98, 74, dark(c, 0.15))
        p.rect(56, 12, 100, 20, dark(c, 0.45), 2)
        p.rect(68, 26, 90, 46, GLASS, 2)
        for x in (30, 44):
            p.line([(x, 38), (x, 68)], 2, (240, 200, 80))
        p.polygon([(2, 82), (14, 66), (20, 82)], dark(c, 0.55))
    else:
        p.blob([(2, 74), (6, 46), (26, 22), (60, 18), (104, 18), (104, 76), (40, 78)], c)
        p.polygon([(12, 46), (26, 29), (34, 29), (34, 46)], GLASS)
        for x in (42, 58, 74):
            p.rect(x, 29, x + 11, 46, GLASS, 2)
        p.rect(4, 54, 100, 61, PALE if luminance(c) < 0.75 else dark(c, 0.4))
        p.rect(88, 27, 98, 74, dark(c, 0.25))
    p.rect(6, 70, 98, 76, INK)
    for x in (24, 44, 64, 84):
        _wheel(p, x, 80, 8.5)
    p.rect(0, 88, 100, 92, (110, 104, 100))


def boat(p: Pen, c: RGB, r: random.Random) -> None:
    if r.random() < 0.65:
        sail = PALE if luminance(c) < 0.75 else (220, 90, 60)
        p.rect(48, 4, 52, 72, WOOD)
        p.polygon([(46, 8), (46, 64), (10, 64)], sail)
        p.polygon([(54, 16), (54, 64), (88, 64)], dark(sail, 0.1))
        p.polygon([(52, 2), (66, 6), (52, 11)], (210, 50, 50))
    else:
        p.rect(34, 44, 76, 70, PALE)
        for x in (42, 56, 68):
            p.circle(x, 56, 4, GLASS)
        p.rect(52, 20, 64, 46, dark(c, 0.2))
        p.rect(52, 26, 64, 32, PALE)
    p.polygon([(2, 68), (98, 68), (82, 95), (18, 95)], c)
    p.polygon([(2, 68), (98, 68), (95, 74), (5, 74)], dark(c, 0.3))


def airplane(p: Pen, c: RGB, r: random.Random) -> None:
    p.polygon([(46, 44), (66, 8), (76, 8), (64, 46)], dark(c, 0.25))
    p.polygon([(80, 44), (90, 18), (99, 18), (96, 46)], dark(c, 0.1))
    p.blob([(2, 54), (14, 42), (50, 40), (92, 42), (99, 46), (84, 58), (50, 64), (14, 63)], c)
    p.polygon([(40, 56), (62, 56), (82, 92), (71, 92)], dark(c, 0.35))
    for x in range(26, 82, 8):
        p.circle(x, 49, 2.4, GLASS if luminance(c) < 0.8 else (70, 120, 170))
    p.polygon([(8, 50), (13, 44), (20, 44), (20, 50)], (80, 130, 180))


def helicopter(p: Pen, c: RGB, r: random.Random) -> None:
    p.line([(4, 18), (84, 14 + r.uniform(-3, 5))], 3.4, INK)
    p.rect(41, 16, 46, 32, INK)
    p.polygon([(58, 42), (96, 36), (98, 42), (62, 58)], c)
    p.ring(94, 36, 8, 2.6, INK)
    p.ellipse(40, 52, 30, 23, c)
    p.pie(36, 52, 22, 160, 285, GLASS)
    p.line([(26, 72), (24, 84)], 2.8, INK)
    p.line([(52, 72), (54, 84)], 2.8, INK)
    p.line([(10, 82), (16, 86), (66, 86)], 3.4, INK)


def rocket(p: Pen, c: RGB, r: random.Random) -> None:
    p.blob([(40, 82), (60, 82), (56, 92), (50, 100), (44, 92)], (246, 150, 40))
    p.polygon([(34, 58), (14, 86), (38, 80)], dark(c, 0.35))
    p.polygon([(66, 58), (86, 86), (62, 80)], dark(c, 0.35))
    p.blob([(50, 0), (66, 24), (68, 56), (62, 84), (38, 84), (32, 56), (34, 24)], c)
    p.polygon([(50, 0), (64, 20), (36, 20)], dark(c, 0.35))
    p.circle(50, 40, 10.5, PALE)
    p.circle(50, 40, 7.5, (70, 130, 190))


def tractor(p: Pen, c: RGB, r: random.Random) -> None:
    p.rect(54, 12, 86, 18, dark(c, 0.3), 2)
    p.rect(56, 16, 84, 50, c)
    p.rect(60, 21, 80, 42, GLASS)
    p.rect(8, 42, 84, 68, c, 4)
    p.rect(22, 18, 27, 44, INK)
    for x in (14, 22, 30):
        p.line([(x, 48), (x, 60)], 2, dark(c, 0.4))
    _wheel(p, 72, 70, 25)
    _wheel(p, 20, 80, 15)


def hot_air_balloon(p: Pen, c: RGB, r: random.Random) -> None:
    for x in (42, 58):
        p.line([(x * 1.0, 66), (50 + (x - 50) * 0.6, 84)], 1.6, INK)
    p.rect(42, 82, 58, 96, (168, 116, 62), 2)
    p.blob([(50, 2), (76, 10), (86, 34), (72, 56), (58, 70), (42, 70), (28, 56), (14, 34), (24, 10)], c)
    stripe = light(c, 0.5) if luminance(c) < 0.6 else dark(c, 0.3)
    p.blob([(50, 2), (58, 12), (60, 36), (54, 70), (46, 70), (40, 36), (42, 12)], stripe)
    p.curve([(24, 16), (20, 36), (32, 56)], 2, stripe)
    p.curve([(76, 16), (80, 36), (68, 56)], 2, stripe)


def traffic_light(p: Pen, c: RGB, r: random.Random) -> None:
    p.rect(46, 70, 54, 99, (90, 92, 96))
    p.rect(31, 2, 69, 74, (44, 46, 50), 8)
    lit = r.randrange(4)
    lamps: list[RGB] = [(226, 44, 40), (246, 196, 44), (60, 180, 80)]
    for k, lamp in enumerate(lamps):
        p.circle(50, 15 + 23 * k, 9.5, lamp if lit in (k, 3) else mix(lamp, INK, 0.45))


def stop_sign(p: Pen, c: RGB, r: random.Random) -> None:
    p.rect(47, 60, 53, 99, (130, 134, 138))
    for radius, fill in ((35, PALE), (31.5, c)):
        corners = [math.radians(22.5 + 45 * k) for k in range(8)]
        p.polygon([(50 + radius * math.cos(a), 36 + radius * math.sin(a)) for a in corners], fill)
    w = 2.7
    p.line([(35, 31), (28, 30), (28, 36), (34, 37), (34, 43), (27, 42)], w, PALE)
    p.line([(38, 30), (47, 30)], w, PALE)
    p.line([(42.5, 30), (42.5, 43)], w, PALE)
    p.ellipse(54.5, 36.5, 5.2, 7.8, PALE)
    p.ellipse(54.5, 36.5, 2.4, 5, c)
    p.line([(64, 43), (64, 30), (71, 30), (71, 36.5), (64, 36.5)], w, PALE)


def kite(p: Pen, c: RGB, r: random.Random) -> None:
    p.curve([(50, 62), (58, 74), (46, 84), (56, 98)], 1.8, INK)
    bow = r.choice([(220, 60, 60), (60, 110, 210), (240, 190, 50)])
    for x, y in ((56, 73), (48, 85)):
        p.polygon([(x - 6, y - 4), (x, y), (x - 6, y + 4)], bow)
        p.polygon([(x + 6, y - 4), (x, y), (x + 6, y + 4)], bow)
    p.polygon([(50, 2), (80, 28), (50, 66), (20, 28)], c)
    p.polygon([(50, 2), (80, 28), (50, 28)], dark(c, 0.22))
    p.polygon([(50, 28), (20, 28), (50, 66)], light(c, 0.3))
    p.line([(50, 2), (50, 66)], 1.6, INK)
    p.line([(20, 28), (80, 28)], 1.6, INK)


def flag(p: Pen, c: RGB, r: random.Random) -> None:
    p.rect(14, 4, 19, 98, (140, 110, 76), 2)
    p.circle(16.5, 5, 4, (230, 190, 80))
    wave = r.uniform(-6, 6)
    p.blob(
        [(19, 10), (44, 10 + wave), (70, 10 - wave), (94, 12), (94, 56), (70, 54 - wave), (44, 54 + wave), (19, 54)], c
    )
    if r.random() < 0.5:
        p.star(56, 32, 12, 5, 5, PALE if luminance(c) < 0.75 else dark(c, 0.5))
