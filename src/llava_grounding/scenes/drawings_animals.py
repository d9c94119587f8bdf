"""Vector drawings of people and animals: each function draws one category with a body colour and random details.

Sheets are 100 x 100; everything faces left or forward. Knows no names, sizes or scenes.
"""

from __future__ import annotations

import random

from llava_grounding.colours import RGB, dark, light, luminance, mix
from llava_grounding.scenes.pen import INK, PALE, Pen

BEAK: RGB = (240, 150, 30)
SKINS: tuple[RGB, ...] = ((250, 214, 180), (236, 188, 148), (198, 142, 100), (140, 94, 62), (98, 64, 44))
HAIRS: tuple[RGB, ...] = ((40, 30, 26), (92, 58, 32), (150, 96, 44), (222, 184, 92), (120, 118, 118))


def _eye(p: Pen, x: float, y: float, r: float = 2.2, white: bool = True) -> None:
    if white:
        p.circle(x, y, r * 1.7, PALE)
    p.circle(x, y, r, INK)


def _legs(p: Pen, xs: tuple[float, ...], top: float, bottom: float, width: float, fill: RGB) -> None:
    for i, x in enumerate(xs):
        p.rect(x - width / 2, top, x + width / 2, bottom, dark(fill, 0.22) if i % 2 else fill, width / 3)


def man(p: Pen, c: RGB, r: random.Random) -> None:
    skin, hair = r.choice(SKINS), r.choice(HAIRS)
    trousers = r.choice([(52, 62, 92), (70, 70, 76), (104, 88, 66), (36, 36, 40)])
    swing = r.uniform(4, 15)
    stride = r.uniform(2, 7)
    for side in (-1, 1):
        p.line([(50 + side * 6, 58), (50 + side * (6 + stride), 94)], 10, trousers)
        p.line([(50 + side * (6 + stride), 95.5), (46 + side * (6 + stride), 95.5)], 6, INK)
        p.line([(50 + side * 13, 33), (50 + side * (14 + swing), 56)], 7, dark(c, 0.15))
        p.circle(50 + side * (14 + swing), 58, 4, skin)
    p.rect(35, 27, 65, 62, c, 7)
    p.rect(45, 22, 55, 30, dark(skin, 0.1))
    p.circle(50, 15, 11.5, skin)
    p.pie(50, 13, 12, 180, 360, hair)
    if r.random() < 0.4:
        p.pie(50, 18, 9.5, 20, 160, hair)
    p.circle(46, 15, 1.5, INK)
    p.circle(54, 15, 1.5, INK)
    p.rect(35, 58, 65, 61.5, dark(trousers, 0.4))


def woman(p: Pen, c: RGB, r: random.Random) -> None:
    skin, hair = r.choice(SKINS), r.choice(HAIRS)
    swing = r.uniform(4, 13)
    length = r.uniform(24, 40)
    p.blob([(50, 2), (64, 10), (66, 28), (60, length), (40, length), (34, 28), (36, 10)], hair)
    for side in (-1, 1):
        p.line([(50 + side * 6, 70), (50 + side * 7, 94)], 5.5, skin)
        p.line([(50 + side * 7, 95.5), (47 + side * 7, 95.5)], 5, dark(c, 0.4))
        p.line([(50 + side * 10, 34), (50 + side * (13 + swing), 55)], 5.5, skin)
    p.polygon([(41, 29), (59, 29), (57, 48), (74, 80), (26, 80), (43, 48)], c)
    p.rect(43, 46, 57, 50, dark(c, 0.35))
    p.rect(46.5, 22, 53.5, 31, dark(skin, 0.1))
    p.circle(50, 16, 10.5, skin)
    p.pie(50, 13, 11.5, 180, 360, hair)
    p.circle(46, 16, 1.5, INK)
    p.circle(54, 16, 1.5, INK)
    p.arc(50, 18, 4, 30, 150, 1.5, (190, 60, 60))


def child(p: Pen, c: RGB, r: random.Random) -> None:
    skin, hair = r.choice(SKINS), r.choice(HAIRS)
    shorts = r.choice([(66, 84, 140), (90, 90, 96), (130, 104, 70)])
    lift = r.uniform(-14, 12)
    for side in (-1, 1):
        p.line([(50 + side * 8, 74), (50 + side * 9, 92)], 7, skin)
        p.line([(50 + side * 9, 94), (47 + side * 9, 94)], 7, PALE if r.random() < 0.3 else INK)
        p.line([(50 + side * 13, 52), (50 + side * 30, 60 + lift)], 7, c)
        p.circle(50 + side * 31, 60.5 + lift, 4.5, skin)
        p.rect(50 + side * 9 - 8, 68, 50 + side * 9 + 8, 80, shorts, 2)
    p.rect(35, 45, 65, 73, c, 7)
    p.circle(50, 26, 22, skin)
    p.pie(50, 22, 23, 180, 360, hair)
    if r.random() < 0.5:
        for side in (-1, 1):
            p.circle(50 + side * 25, 26, 7, hair)
    for side in (-1, 1):
        p.circle(50 + side * 8, 28, 2.6, INK)
        p.circle(50 + side * 13, 35, 3.4, mix(skin, (230, 90, 90), 0.4))
    p.arc(50, 32, 6, 25, 155, 2, (150, 50, 50))


def dog(p: Pen, c: RGB, r: random.Random) -> None:
    ear = dark(c, 0.4) if luminance(c) > 0.25 else light(c, 0.2)
    p.curve([(80, 50), (90, 42), (93, r.uniform(20, 40))], 6, c)
    _legs(p, (36, 44, 72, 80), 58, 93, 9, c)
    p.rect(28, 42, 86, 70, c, 13)
    if r.random() < 0.5:
        p.ellipse(62, 50, 12, 8, mix(c, ear, 0.7))
    p.blob([(26, 28), (42, 28), (48, 58), (30, 62)], c)
    p.blob([(14, 18), (34, 14), (42, 26), (36, 42), (20, 44), (5, 40), (4, 32)], c)
    p.blob([(33, 14), (44, 20), (46, 40), (38, 46), (33, 30)], ear)
    p.ellipse(5, 33, 4.2, 3.6, INK)
    _eye(p, 21, 25)
    p.curve([(8, 41), (15, 41), (19, 38)], 1.6, dark(c, 0.6))
    p.rect(29, 47, 45, 52, r.choice([(210, 40, 40), (40, 90, 200), (60, 150, 70)]), 2)


def cat(p: Pen, c: RGB, r: random.Random) -> None:
    mark = dark(c, 0.3) if luminance(c) > 0.25 else light(c, 0.22)
    side = r.choice([-1, 1])
    p.curve([(50 + side * 16, 88), (50 + side * 36, 88), (50 + side * 40, 70), (50 + side * 32, 58)], 7, c)
    p.blob([(50, 42), (68, 56), (74, 90), (50, 96), (26, 90), (32, 56)], c)
    p.ellipse(50, 72, 11, 16, light(c, 0.45))
    for dx in (-10, 10):
        p.ellipse(50 + dx, 92, 8, 5, mark)
    for s in (-1, 1):
        p.polygon([(50 + s * 5, 20), (50 + s * 24, 1), (50 + s * 26, 30)], c)
        p.polygon([(50 + s * 11, 18), (50 + s * 21, 8), (50 + s * 22, 24)], (240, 160, 170))
    p.ellipse(50, 31, 27, 22, c)
    if r.random() < 0.6:
        for dx in (-7, 0, 7):
            p.line([(50 + dx, 11), (50 + dx * 0.8, 18)], 2.6, mark)
    for s in (-1, 1):
        p.ellipse(50 + s * 11, 28, 5.5, 5.5, (190, 215, 90))
        p.ellipse(50 + s * 11, 28, 2, 5, INK)
        for dy in (-3, 3):
            p.line(
                [(50 + s * 10, 38 + dy * 0.4), (50 + s * 34, 37 + dy * 1.8)],
                1.2,
                dark(c, 0.6) if luminance(c) > 0.3 else PALE,
            )
    p.polygon([(46, 35), (54, 35), (50, 40)], (220, 100, 110))


def bird(p: Pen, c: RGB, r: random.Random) -> None:
    p.line([(48, 76), (46, 94)], 2.6, BEAK)
    p.line([(56, 76), (56, 94)], 2.6, BEAK)
    for x in (46, 56):
        p.line([(x - 6, 95), (x + 3, 95)], 2.4, BEAK)
    p.polygon([(70, 52), (98, 34 + r.uniform(-6, 10)), (98, 56), (72, 68)], dark(c, 0.3))
    p.blob([(18, 34), (34, 18), (50, 30), (80, 52), (74, 74), (50, 82), (30, 72), (22, 54)], c)
    p.ellipse(42, 66, 16, 12, light(c, 0.55))
    p.polygon([(20, 30), (2, 38), (20, 44)], BEAK)
    wing = dark(c, 0.22)
    if r.random() < 0.35:
        p.blob([(46, 48), (58, 4), (82, 8), (72, 52)], wing)
    else:
        p.blob([(44, 46), (66, 44), (88, 62), (60, 68)], wing)
    _eye(p, 30, 32, 2.8)


def fish(p: Pen, c: RGB, r: random.Random) -> None:
    fin = dark(c, 0.28)
    p.polygon([(74, 50), (99, 22), (92, 50), (99, 78)], fin)
    p.blob([(36, 24), (56, 6 + r.uniform(0, 8)), (66, 28)], fin)
    p.blob([(42, 74), (56, 90), (62, 72)], fin)
    p.blob([(2, 50), (22, 26), (52, 22), (82, 48), (82, 52), (52, 78), (22, 74)], c)
    style = r.random()
    if style < 0.5:
        for x in (44, 58):
            p.curve([(x, 25), (x + 4, 50), (x, 75)], 5, light(c, 0.55))
    else:
        for x, y in ((44, 40), (56, 50), (44, 60), (66, 42), (66, 58)):
            p.arc(x, y, 5, -90, 90, 2, fin)
    p.curve([(30, 32), (34, 50), (30, 68)], 2.4, fin)
    _eye(p, 18, 44, 3.2)
    p.curve([(4, 54), (10, 58), (14, 56)], 1.8, dark(c, 0.55))


def horse(p: Pen, c: RGB, r: random.Random) -> None:
    mane = dark(c, 0.5) if luminance(c) > 0.28 else light(c, 0.25)
    p.curve([(84, 44), (94, 52), (93, r.uniform(70, 84))], 7, mane)
    _legs(p, (38, 46, 74, 82), 54, 97, 7, c)
    for x in (38, 46, 74, 82):
        p.rect(x - 3.5, 93, x + 3.5, 98, INK)
    p.ellipse(60, 50, 28, 15, c)
    p.polygon([(22, 14), (38, 10), (56, 44), (36, 58)], c)
    p.polygon([(34, 3), (40, 14), (58, 40), (50, 44), (30, 16)], mane)
    p.blob([(22, 10), (34, 8), (36, 22), (14, 40), (4, 38), (5, 30)], c)
    p.polygon([(26, 10), (30, 0), (34, 10)], c)
    _eye(p, 21, 19, 2.2)
    p.circle(8, 34, 1.5, dark(c, 0.6))


def cow(p: Pen, c: RGB, r: random.Random) -> None:
    patch = INK if luminance(c) > 0.6 else PALE
    p.curve([(88, 42), (95, 52), (94, 70)], 3, c)
    p.circle(94, 72, 3.4, INK)
    _legs(p, (36, 46, 72, 82), 58, 94, 9, c)
    for x in (36, 46, 72, 82):
        p.rect(x - 4.5, 90, x + 4.5, 95, (60, 50, 46))
    p.ellipse(66, 70, 8, 6, (240, 160, 170))
    p.rect(28, 34, 90, 70, c, 10)
    for x, y in r.sample([(42, 44), (58, 56), (74, 44), (80, 60), (56, 40)], 3):
        p.ellipse(x, y, r.uniform(6, 9), r.uniform(5, 7), patch)
    for s in (-1, 1):
        p.curve([(22 + s * 9, 22), (22 + s * 14, 16), (22 + s * 12, 8)], 4, (235, 225, 200))
        p.ellipse(22 + s * 18, 27, 7, 4, dark(c, 0.2), angle=s * 15)
    p.rect(9, 18, 35, 52, c, 10)
    p.ellipse(22, 49, 14.5, 9, (240, 178, 178))
    for s in (-1, 1):
        p.circle(22 + s * 5, 49, 1.8, (130, 70, 70))
        _eye(p, 22 + s * 7, 31, 2)


def sheep(p: Pen, c: RGB, r: random.Random) -> None:
    skin = (58, 50, 48) if luminance(c) > 0.3 else (170, 150, 130)
    _legs(p, (38, 48, 68, 78), 68, 94, 6, skin)
    for x, y, radius in (
        (34, 50, 16),
        (46, 36, 16),
        (62, 34, 17),
        (78, 40, 15),
        (84, 56, 13),
        (72, 66, 16),
        (52, 68, 17),
        (38, 64, 15),
    ):
        p.circle(x, y, radius + r.uniform(-1, 1), c)
    p.ellipse(60, 52, 26, 20, c)
    for x, y in ((52, 46), (66, 44), (76, 54), (60, 60), (46, 58)):
        p.arc(x, y, 4.5, 10, 190, 1.8, dark(c, 0.18) if luminance(c) > 0.3 else light(c, 0.25))
    p.ellipse(34, 38, 8, 4, skin, angle=25)
    p.ellipse(20, 44, 13, 16, skin)
    p.ellipse(23, 31, 12, 8, c)
    _eye(p, 15, 42, 2)
    _eye(p, 25, 42, 2)


def elephant(p: Pen, c: RGB, r: random.Random) -> None:
    p.curve([(90, 44), (97, 54), (95, 68)], 3, dark(c, 0.2))
    _legs(p, (38, 50, 72, 84), 60, 94, 12, c)
    p.blob([(30, 36), (52, 22), (82, 26), (94, 50), (90, 74), (60, 76), (34, 72)], c)
    p.curve([(14, 36), (9, 56), (8, 74), (15, r.uniform(82, 88))], 9, c)
    p.circle(25, 34, 19, c)
    p.blob([(34, 18), (54, 16), (60, 36), (50, 56), (36, 50)], dark(c, 0.2))
    p.blob([(37, 23), (50, 22), (54, 36), (47, 49), (39, 45)], mix(c, (230, 170, 170), 0.4))
    p.curve([(19, 50), (22, 60), (14, 65)], 4, PALE)
    _eye(p, 18, 32, 2)


def rabbit(p: Pen, c: RGB, r: random.Random) -> None:
    for s in (-1, 1):
        tilt = s * r.uniform(4, 18)
        p.ellipse(50 + s * 11 + tilt * 0.3, 19, 7.5, 20, c, angle=tilt)
        p.ellipse(50 + s * 11 + tilt * 0.3, 20, 3.6, 14, (244, 170, 180), angle=tilt)
    p.ellipse(50, 74, 24, 23, c)
    p.ellipse(50, 79, 13, 15, light(c, 0.5))
    for s in (-1, 1):
        p.ellipse(50 + s * 15, 93, 11, 6, dark(c, 0.12))
    p.circle(50, 46, 20, c)
    for s in (-1, 1):
        _eye(p, 50 + s * 9, 43, 2.6)
        p.line([(50 + s * 8, 52), (50 + s * 24, 50)], 1, dark(c, 0.4))
    p.ellipse(50, 50, 4, 2.8, (230, 110, 130))
    p.rect(46.5, 55, 53.5, 61, PALE)


def turtle(p: Pen, c: RGB, r: random.Random) -> None:
    skin = mix(light(c, 0.3), (200, 200, 90), 0.45)
    for x in (34, 74):
        p.rect(x - 7, 64, x + 7, 84, skin, 5)
    p.polygon([(84, 66), (97, 74), (84, 76)], skin)
    p.curve([(28, 66), (18, 56), (14, 46)], 12, skin)
    p.ellipse(13, 43, 11, 9, skin)
    p.pie(56, 70, 35, 180, 360, c)
    p.rect(19, 66, 92, 74, dark(c, 0.28), 4)
    shade = dark(c, 0.25)
    for x in (40, 56, 72):
        p.star(x, 56 - (6 if x == 56 else 0), 8, 7, 3, shade, turn=r.uniform(0, 20))
    _eye(p, 10, 41, 2)


def snail(p: Pen, c: RGB, r: random.Random) -> None:
    skin = r.choice([(222, 190, 140), (200, 170, 120), (190, 190, 130)])
    p.blob([(4, 62), (14, 54), (26, 76), (60, 80), (97, 88), (94, 93), (16, 93), (6, 82)], skin)
    for dx in (6, 16):
        p.line([(dx + 4, 60), (dx, 34)], 3, skin)
        p.circle(dx, 33, 4, skin)
        p.circle(dx, 33, 2, INK)
    p.circle(58, 54, 33, c)
    mark = dark(c, 0.4) if luminance(c) > 0.3 else light(c, 0.4)
    p.curve([(56, 84), (82, 66), (80, 40), (58, 30), (40, 44), (42, 62), (60, 68), (68, 56), (58, 48)], 4, mark)


def butterfly(p: Pen, c: RGB, r: random.Random) -> None:
    spot = light(c, 0.6) if luminance(c) < 0.75 else dark(c, 0.35)
    rim = dark(c, 0.55)
    for s in (-1, 1):
        p.blob([(50, 46), (50 + s * 14, 14), (50 + s * 42, 6), (50 + s * 48, 34), (50 + s * 26, 54)], rim)
        p.blob([(50, 48), (50 + s * 16, 18), (50 + s * 40, 11), (50 + s * 43, 32), (50 + s * 24, 50)], c)
        p.blob([(50, 52), (50 + s * 34, 54), (50 + s * 42, 74), (50 + s * 26, 94), (50 + s * 10, 76)], rim)
        p.blob([(50, 54), (50 + s * 31, 58), (50 + s * 37, 73), (50 + s * 25, 88), (50 + s * 10, 72)], c)
        p.circle(50 + s * 31, 26, 5.5, spot)
        p.circle(50 + s * 26, 72, 4.5, spot)
        p.curve([(50, 28), (50 + s * 6, 14), (50 + s * 13, 8)], 1.8, INK)
    p.ellipse(50, 54, 4.5, 27, INK)


def bee(p: Pen, c: RGB, r: random.Random) -> None:
    wing = (206, 226, 244)
    spread = r.uniform(-6, 6)
    p.ellipse(44 + spread, 26, 11, 22, wing, angle=-18)
    p.ellipse(64 + spread, 27, 10, 21, light(wing, 0.4), angle=16)
    p.polygon([(90, 54), (99, 60), (90, 66)], INK)
    p.ellipse(56, 60, 36, 24, c)
    for x, half in ((50, 23), (65, 23), (79, 18)):
        p.line([(x, 60 - half + 3), (x + 1, 60 + half - 3)], 7, INK)
    p.circle(22, 58, 17, mix(c, INK, 0.15))
    for dx in (14, 24):
        p.curve([(dx + 3, 44), (dx, 32), (dx - 6, 26)], 2.2, INK)
    _eye(p, 16, 55, 2.8)
    p.arc(15, 62, 5, 20, 110, 1.6, INK)


def frog(p: Pen, c: RGB, r: random.Random) -> None:
    limb = dark(c, 0.18)
    for s in (-1, 1):
        p.ellipse(50 + s * 30, 74, 17, 19, limb, angle=s * 25)
        p.ellipse(50 + s * 33, 92, 15, 5, limb)
        p.ellipse(50 + s * 12, 93, 9, 4.5, c)
    p.ellipse(50, 66, 29, 28, c)
    p.ellipse(50, 74, 18, 17, light(c, 0.55))
    p.ellipse(50, 40, 34, 21, c)
    for s in (-1, 1):
        p.circle(50 + s * 20, 20, 12, c)
        p.circle(50 + s * 20, 19, 8.5, PALE)
        p.circle(50 + s * 20, 20, 4.5, INK)
    p.curve([(24, 42), (38, 50), (62, 50), (76, 42)], 2.4, dark(c, 0.6))
    if r.random() < 0.5:
        for x, y in ((32, 62), (66, 60), (70, 72)):
            p.circle(x, y, 4, limb)


def duck(p: Pen, c: RGB, r: random.Random) -> None:
    p.line([(50, 82), (48, 95)], 3.4, BEAK)
    p.line([(62, 82), (61, 95)], 3.4, BEAK)
    p.polygon([(38, 96), (52, 96), (49, 91)], BEAK)
    p.polygon([(52, 96), (66, 96), (62, 91)], BEAK)
    p.blob([(18, 52), (36, 56), (62, 50), (84, 52), (97, 40), (92, 70), (72, 86), (42, 86), (22, 74)], c)
    p.blob([(22, 30), (40, 30), (44, 62), (22, 66)], c)
    p.circle(31, 24, 16, c)
    p.blob([(17, 22), (4, 24), (0, 31), (8, 34), (20, 32)], BEAK)
    p.blob([(46, 62), (64, 58), (86, 60), (70, 76), (52, 74)], dark(c, 0.15))
    _eye(p, 25, 20, 2.6, white=luminance(c) < 0.5)
    if r.random() < 0.3:
        p.curve([(20, 42), (32, 46), (42, 42)], 4, dark(c, 0.4))


def pig(p: Pen, c: RGB, r: random.Random) -> None:
    p.curve([(88, 50), (95, 44), (92, 38), (97, 34)], 3, dark(c, 0.15))
    _legs(p, (36, 46, 70, 80), 64, 92, 9, c)
    p.ellipse(60, 56, 32, 24, c)
    for s in (-1, 1):
        p.polygon([(28 + s * 6, 30), (28 + s * 20, 16), (28 + s * 19, 38)], dark(c, 0.2))
    p.circle(28, 48, 22, c)
    p.ellipse(22, 54, 11, 9, dark(c, 0.15))
    for dx in (-4, 4):
        p.ellipse(22 + dx, 54, 2, 3, dark(c, 0.6))
        _eye(p, 27 + dx * 2.3, 41, 2, white=False)


def owl(p: Pen, c: RGB, r: random.Random) -> None:
    for s in (-1, 1):
        p.polygon([(50 + s * 10, 16), (50 + s * 28, 2), (50 + s * 30, 30)], dark(c, 0.2))
        p.ellipse(50 + s * 10, 93, 7, 4, BEAK)
    p.blob([(50, 8), (78, 18), (82, 56), (72, 88), (50, 94), (28, 88), (18, 56), (22, 18)], c)
    p.ellipse(50, 70, 19, 20, light(c, 0.5))
    for y in (62, 72, 82):
        for x in (42, 50, 58):
            p.arc(x, y, 3.4, 10, 170, 1.8, dark(c, 0.2))
    for s in (-1, 1):
        p.ellipse(50 + s * 29, 60, 7, 21, dark(c, 0.3), angle=s * -6)
        p.circle(50 + s * 14, 34, 14, PALE)
        p.circle(50 + s * 13, 34, 9, (240, 180, 40))
        p.circle(50 + s * 13, 34, 5, INK)
    p.polygon([(44, 42), (56, 42), (50, 54)], BEAK)


def penguin(p: Pen, c: RGB, r: random.Random) -> None:
    lift = r.uniform(0, 14)
    for s in (-1, 1):
        p.ellipse(50 + s * 12, 94, 11, 5, BEAK)
        p.ellipse(50 + s * 31, 56 - lift * 0.4, 6.5, 21, c, angle=-s * (12 + lift * 2))
    p.blob([(50, 3), (70, 14), (78, 50), (74, 84), (50, 95), (26, 84), (22, 50), (30, 14)], c)
    p.blob([(50, 38), (66, 46), (68, 78), (50, 91), (32, 78), (34, 46)], PALE)
    for s in (-1, 1):
        p.ellipse(50 + s * 9, 24, 9.5, 11, PALE)
        p.circle(50 + s * 8, 23, 3, INK)
    p.polygon([(42, 30), (58, 30), (50, 41)], BEAK)


def bear(p: Pen, c: RGB, r: random.Random) -> None:
    for s in (-1, 1):
        p.ellipse(50 + s * 25, 88, 15, 10, dark(c, 0.15))
        p.ellipse(50 + s * 29, 62, 10, 19, dark(c, 0.1), angle=s * -22)
        p.circle(50 + s * 22, 12, 11, c)
        p.circle(50 + s * 22, 12, 6, dark(c, 0.35))
    p.ellipse(50, 70, 30, 27, c)
    p.ellipse(50, 74, 18, 18, light(c, 0.3))
    p.circle(50, 30, 27, c)
    p.ellipse(50, 40, 13, 10.5, light(c, 0.5))
    p.ellipse(50, 35, 5.5, 4, INK)
    for s in (-1, 1):
        p.circle(50 + s * 11, 24, 3, INK)
    p.arc(50, 40, 5, 20, 160, 1.6, INK)


def giraffe(p: Pen, c: RGB, r: random.Random) -> None:
    spot = (150, 92, 40)
    p.curve([(80, 58), (88, 66), (86, 76)], 2.6, spot)
    _legs(p, (40, 47, 70, 77), 64, 98, 6, c)
    p.blob([(34, 56), (50, 52), (80, 54), (84, 68), (60, 76), (36, 72)], c)
    p.polygon([(24, 12), (36, 12), (56, 58), (36, 68)], c)
    for dx in (0, 7):
        p.line([(28 + dx, 10), (28 + dx, 1)], 2.2, spot)
        p.circle(28 + dx, 2, 2.2, dark(spot, 0.4))
    p.blob([(24, 6), (38, 8), (36, 20), (12, 26), (8, 20)], c)
    p.ellipse(41, 13, 6, 3, c, angle=-15)
    for x, y in ((34, 28), (38, 38), (40, 50), (47, 48), (46, 62), (58, 60), (68, 66), (74, 60), (56, 69)):
        p.ellipse(x + r.uniform(-1, 1), y, 3.6, 3.2, spot)
    _eye(p, 24, 13, 1.8, white=False)


def zebra(p: Pen, c: RGB, r: random.Random) -> None:
    p.curve([(84, 46), (93, 54), (92, 72)], 3.6, INK)
    _legs(p, (38, 46, 74, 82), 56, 96, 7, PALE)
    p.ellipse(60, 52, 28, 16, PALE)
    p.polygon([(22, 16), (38, 12), (56, 46), (36, 60)], PALE)
    p.line([(36, 8), (44, 22), (56, 38)], 5, INK)
    p.blob([(22, 12), (34, 10), (36, 24), (14, 42), (4, 40), (5, 32)], PALE)
    p.ellipse(7, 37, 5, 5, INK)
    p.polygon([(27, 12), (31, 1), (35, 12)], PALE)
    for x, half in ((46, 12), (53, 15), (60, 16), (67, 15.5), (74, 13), (81, 9)):
        p.line([(x + r.uniform(-1, 1), 52 - half), (x - 1, 52 + half * 0.75)], 3, INK)
    for k in range(4):
        p.line([(28 + k * 4, 20 + k * 9), (38 + k * 5, 18 + k * 7)], 2.8, INK)
    for x in (38, 46, 74, 82):
        for y in (74, 82, 90):
            p.line([(x - 2.4, y), (x + 2.4, y)], 2.6, INK)
    _eye(p, 21, 20, 2)


def ladybug(p: Pen, c: RGB, r: random.Random) -> None:
    for s in (-1, 1):
        for y in (44, 62, 78):
            p.line([(50 + s * 30, y), (50 + s * 47, y + r.uniform(-2, 8))], 3.4, INK)
        p.curve([(50 + s * 7, 14), (50 + s * 12, 6), (50 + s * 20, 3)], 2.4, INK)
    p.circle(50, 25, 17, INK)
    p.ellipse(50, 60, 37, 36, c)
    p.line([(50, 25), (50, 95)], 3, INK)
    for s in (-1, 1):
        p.circle(50 + s * 8, 17, 3.6, PALE)
        for x, y in ((15, 44), (24, 64), (11, 76)):
            p.circle(50 + s * x, y, 6, INK)


def crab(p: Pen, c: RGB, r: random.Random) -> None:
    for s in (-1, 1):
        for k in range(3):
            p.curve(
                [(50 + s * 26, 66 + k * 4), (50 + s * (40 + k), 68 + k * 6), (50 + s * (44 - k * 4), 84 + k * 4)],
                3.6,
                dark(c, 0.2),
            )
        p.curve([(50 + s * 26, 56), (50 + s * 40, 46), (50 + s * 38, 32)], 6, c)
        p.ellipse(50 + s * 36, 22, 11, 14, c, angle=s * 15)
        p.polygon([(50 + s * 36, 20), (50 + s * 30, 4), (50 + s * 42, 4)], None)
        p.line([(50 + s * 9, 52), (50 + s * 10, 36)], 3, c)
        _eye(p, 50 + s * 10, 35, 2.8)
    p.ellipse(50, 66, 31, 21, c)
    p.arc(50, 68, 9, 20, 160, 2, dark(c, 0.6))
    p.ellipse(42, 57, 9, 4, light(c, 0.4))


def whale(p: Pen, c: RGB, r: random.Random) -> None:
    p.curve([(34, 30), (32, 18), (22, 12)], 3.4, (150, 205, 240))
    p.curve([(36, 30), (38, 18), (48, 11)], 3.4, (150, 205, 240))
    p.blob([(86, 54), (82, 34), (90, 30), (94, 38), (100, 28), (100, 40), (94, 60)], c)
    p.blob([(4, 56), (14, 36), (38, 30), (62, 42), (84, 56), (94, 48), (92, 66), (72, 84), (36, 88), (10, 78)], c)
    p.blob([(7, 66), (30, 72), (62, 70), (78, 78), (60, 86), (34, 88), (12, 80)], light(c, 0.65))
    p.blob([(44, 66), (58, 66), (60, 82), (50, 78)], dark(c, 0.25))
    _eye(p, 22, 58, 2.6)
    p.curve([(8, 66), (16, 68), (22, 66)], 1.6, dark(c, 0.6))
