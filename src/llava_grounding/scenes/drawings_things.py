"""Vector drawings of clothes, furniture and other things: one function per category, a main colour, random details.

Sheets are 100 x 100. Knows no names, sizes or scenes.
"""

from __future__ import annotations

import math
import random

from llava_grounding.colours import RGB, dark, light, luminance, mix
from llava_grounding.scenes.pen import GOLD, INK, METAL, PALE, STALK, WOOD, Pen


def cup(p: Pen, c: RGB, r: random.Random) -> None:
    p.ring(76, 54, 16, 7, dark(c, 0.15))
    taper = r.uniform(0, 9)
    p.polygon([(12, 22), (74, 22), (74 - taper, 90), (12 + taper, 90)], c)
    p.ellipse(43, 90, 31 - taper, 5, c)
    p.ellipse(43, 22, 31, 7, light(c, 0.35))
    p.ellipse(43, 23, 27, 5, (92, 56, 34))
    if r.random() < 0.5:
        p.rect(13 + taper * 0.4, 50, 73 - taper * 0.4, 60, light(c, 0.5) if luminance(c) < 0.7 else dark(c, 0.3))


def bottle(p: Pen, c: RGB, r: random.Random) -> None:
    cap = r.choice([(200, 50, 50), (60, 60, 66), GOLD])
    p.rect(42, 2, 58, 12, cap, 2)
    p.blob(
        [(43, 10), (57, 10), (58, 30), (70, 42), (72, 70), (71, 94), (50, 98), (29, 94), (28, 70), (30, 42), (42, 30)],
        c,
    )
    p.rect(30, 54, 70, 78, PALE if luminance(c) < 0.75 else (210, 120, 60))
    p.rect(36, 62, 64, 65, INK)
    p.rect(36, 69, 58, 71, METAL)
    p.line([(36, 46), (36, 52)], 3, light(c, 0.6))


def bowl(p: Pen, c: RGB, r: random.Random) -> None:
    soup = r.choice([(226, 128, 60), (214, 84, 50), (236, 206, 120), (150, 170, 80)])
    p.pie(50, 40, 47, 0, 180, c)
    p.ellipse(50, 40, 47, 13, light(c, 0.3))
    p.ellipse(50, 40, 41, 9.5, soup)
    p.rect(34, 83, 66, 92, dark(c, 0.2), 2)
    if r.random() < 0.4:
        for x in (36, 50, 64):
            p.curve([(x, 24), (x + 4, 17), (x, 10), (x + 3, 3)], 2.6, METAL)


def vase(p: Pen, c: RGB, r: random.Random) -> None:
    for x, tint in ((32, (226, 70, 90)), (50, (246, 200, 60)), (68, (150, 90, 190))):
        p.line([(50, 52), (x, 18)], 2.6, STALK)
        p.star(x, 15 - (5 if x == 50 else 0), 13, 8, 6, tint)
    p.blob([(38, 44), (62, 44), (60, 54), (74, 72), (64, 95), (36, 95), (26, 72), (40, 54)], c)
    p.ellipse(50, 44, 12, 3.4, dark(c, 0.35))
    p.curve([(29, 68), (50, 74), (71, 68)], 3.4, light(c, 0.5) if luminance(c) < 0.7 else dark(c, 0.3))


def book(p: Pen, c: RGB, r: random.Random) -> None:
    if r.random() < 0.4:
        for s in (-1, 1):
            p.polygon([(50, 20), (50 + s * 49, 10), (50 + s * 49, 86), (50, 96)], c)
            p.polygon([(50, 22), (50 + s * 39, 16), (50 + s * 39, 74), (50, 84)], PALE)
            for y in (30, 42, 54, 66):
                p.line([(50 + s * 9, y), (50 + s * 32, y - 4)], 2.4, METAL)
        p.line([(50, 22), (50, 88)], 2.6, dark(c, 0.3))
        return
    p.rect(18, 6, 84, 96, dark(c, 0.3), 3)
    p.rect(24, 86, 82, 93, PALE)
    p.rect(18, 4, 82, 86, c, 3)
    p.rect(18, 4, 28, 88, dark(c, 0.18), 2)
    mark = PALE if luminance(c) < 0.75 else dark(c, 0.55)
    p.rect(37, 20, 73, 27, mark)
    p.rect(42, 34, 68, 39, mark)


def clock(p: Pen, c: RGB, r: random.Random) -> None:
    if r.random() < 0.3:
        for s in (-1, 1):
            p.line([(50 + s * 20, 80), (50 + s * 28, 96)], 6, dark(c, 0.3))
            p.circle(50 + s * 24, 12, 12, dark(c, 0.15))
    p.circle(50, 50, 44, c)
    p.circle(50, 50, 35, PALE)
    for k in range(12):
        a = math.tau * k / 12
        p.circle(50 + 29 * math.cos(a), 50 + 29 * math.sin(a), 2.6 if k % 3 == 0 else 1.5, INK)
    a, b = r.uniform(0, math.tau), r.uniform(0, math.tau)
    p.line([(50, 50), (50 + 16 * math.cos(a), 50 + 16 * math.sin(a))], 4.2, INK)
    p.line([(50, 50), (50 + 25 * math.cos(b), 50 + 25 * math.sin(b))], 2.8, INK)
    p.circle(50, 50, 3.6, (200, 40, 40))


def key(p: Pen, c: RGB, r: random.Random) -> None:
    p.ring(22, 50, 15, 8.5, c)
    p.rect(38, 45.5, 98, 54.5, c, 3)
    for x, length in ((78, 14), (89, 20 if r.random() < 0.5 else 11)):
        p.rect(x, 52, x + 6.5, 52 + length, c, 1)


def hat(p: Pen, c: RGB, r: random.Random) -> None:
    band = r.choice([(40, 40, 46), (200, 50, 50), (240, 200, 80)]) if luminance(c) > 0.25 else (200, 50, 50)
    if r.random() < 0.4:
        p.rect(27, 12, 73, 76, c, 4)
        p.rect(27, 60, 73, 72, band)
    else:
        p.blob([(24, 74), (28, 40), (42, 26), (50, 31), (58, 26), (72, 40), (76, 74)], c)
        p.rect(25, 60, 75, 72, band)
    p.ellipse(50, 77, 48, 10, dark(c, 0.12))
    p.ellipse(50, 74, 26, 4.6, band)


def shoe(p: Pen, c: RGB, r: random.Random) -> None:
    p.blob([(58, 22), (92, 20), (96, 50), (97, 76), (50, 80), (6, 78), (4, 64), (24, 54), (46, 44)], c)
    p.rect(3, 72, 98, 84, PALE if luminance(c) < 0.8 else (90, 90, 96), 4)
    p.ellipse(77, 23, 16, 5, dark(c, 0.5))
    for k in range(3):
        p.line([(34 + k * 10, 50 - k * 7), (44 + k * 10, 58 - k * 7)], 3, PALE if luminance(c) < 0.7 else INK)
    p.pie(10, 72, 12, 180, 300, light(c, 0.3))


def shirt(p: Pen, c: RGB, r: random.Random) -> None:
    p.polygon([(34, 8), (66, 8), (98, 26), (88, 48), (74, 40), (74, 94), (26, 94), (26, 40), (12, 48), (2, 26)], c)
    p.pie(50, 8, 13, 0, 180, dark(c, 0.4))
    p.line([(26, 40), (26, 62)], 1.6, dark(c, 0.25))
    p.line([(74, 40), (74, 62)], 1.6, dark(c, 0.25))
    style = r.random()
    mark = light(c, 0.6) if luminance(c) < 0.7 else dark(c, 0.35)
    if style < 0.3:
        for y in (50, 66, 82):
            p.rect(26, y, 74, y + 5, mark)
    elif style < 0.6:
        p.star(50, 54, 12, 5.5, 5, mark)


def sock(p: Pen, c: RGB, r: random.Random) -> None:
    p.blob([(46, 6), (80, 6), (80, 52), (74, 78), (44, 95), (14, 96), (8, 80), (22, 68), (44, 60)], c)
    mark = light(c, 0.6) if luminance(c) < 0.7 else dark(c, 0.35)
    p.rect(43, 4, 83, 16, mark, 3)
    p.ellipse(17, 86, 11, 10, mark)
    if r.random() < 0.5:
        p.rect(46, 26, 81, 32, mark)


def guitar(p: Pen, c: RGB, r: random.Random) -> None:
    p.rect(46, 4, 54, 58, (96, 62, 40))
    p.rect(43, 0, 57, 12, (60, 40, 28), 2)
    p.circle(50, 53, 17, c)
    p.ellipse(50, 77, 24, 21, c)
    p.circle(50, 60, 7.5, INK)
    p.rect(40, 80, 60, 85, (60, 40, 28), 1)
    for dx in (-1.8, 1.8):
        p.line([(50 + dx, 8), (50 + dx, 82)], 0.8, (230, 230, 220))


def drum(p: Pen, c: RGB, r: random.Random) -> None:
    p.rect(10, 34, 90, 84, c)
    p.ellipse(50, 84, 40, 12, c)
    trim = GOLD if luminance(c) < 0.6 else (110, 70, 50)
    for k in range(5):
        p.line(
            [(12 + k * 19, 40 if k % 2 else 88), (12 + (k + 1) * 19 if k < 4 else 88, 88 if k % 2 else 40)], 2.4, trim
        )
    p.ellipse(50, 34, 42, 14, trim)
    p.ellipse(50, 33, 37, 11, PALE)
    p.line([(30, 4), (52, 30)], 3.4, WOOD)
    p.line([(74, 2), (60, 28)], 3.4, WOOD)


def bell(p: Pen, c: RGB, r: random.Random) -> None:
    p.ring(50, 10, 6, 4, dark(c, 0.3))
    p.circle(50, 90, 8, dark(c, 0.4))
    p.blob([(50, 12), (66, 20), (72, 52), (88, 80), (50, 86), (12, 80), (28, 52), (34, 20)], c)
    p.rect(10, 76, 90, 84, dark(c, 0.18), 4)
    p.curve([(38, 28), (36, 50), (30, 66)], 4, light(c, 0.5))


def candle(p: Pen, c: RGB, r: random.Random) -> None:
    p.blob([(50, 2), (58, 16), (50, 28), (42, 16)], (250, 170, 40))
    p.blob([(50, 10), (54, 19), (50, 26), (46, 19)], (254, 238, 150))
    p.line([(50, 26), (50, 34)], 2.2, INK)
    p.rect(38, 32, 62, 90, c, 3)
    p.ellipse(50, 33, 12, 4, light(c, 0.4))
    p.line([(42, 36), (42, 36 + r.uniform(8, 22))], 4.5, light(c, 0.35))
    p.ellipse(50, 92, 26, 6, GOLD)


def gift(p: Pen, c: RGB, r: random.Random) -> None:
    ribbon = r.choice([GOLD, PALE, (214, 40, 60)]) if c[0] < 190 else r.choice([PALE, (60, 90, 190), (50, 130, 70)])
    p.rect(10, 44, 90, 96, c, 2)
    p.rect(5, 28, 95, 46, light(c, 0.12), 2)
    p.rect(5, 43, 95, 47, dark(c, 0.25))
    p.rect(43, 28, 57, 96, ribbon)
    for s in (-1, 1):
        p.ellipse(50 + s * 17, 17, 17, 8.5, ribbon, angle=s * -25)
        p.ellipse(50 + s * 18, 17, 8, 3.4, dark(ribbon, 0.35), angle=s * -25)
    p.circle(50, 24, 6, dark(ribbon, 0.12))


def umbrella(p: Pen, c: RGB, r: random.Random) -> None:
    p.line([(50, 6), (50, 84)], 4, WOOD)
    p.arc(43, 84, 7, 0, 180, 4, WOOD)
    p.pie(50, 52, 47, 180, 360, c)
    for x in (18.7, 50, 81.3):
        p.ellipse(x, 53, 15.6, 7, None)
    p.rect(48, 46, 52, 62, WOOD)
    for x in (34, 66):
        p.curve([(50, 6), ((50 + x) / 2 + (x - 50) * 0.25, 22), (x, 49)], 2, dark(c, 0.3))
    p.line([(50, 5), (50, 1)], 3, INK)


def balloon(p: Pen, c: RGB, r: random.Random) -> None:
    p.curve([(50, 68), (46 + r.uniform(-6, 6), 80), (52, 99)], 1.8, (90, 90, 96))
    p.polygon([(50, 62), (56, 71), (44, 71)], dark(c, 0.25))
    p.blob([(50, 2), (72, 10), (80, 34), (66, 56), (50, 66), (34, 56), (20, 34), (28, 10)], c)
    p.ellipse(37, 22, 5, 9, light(c, 0.6), angle=25)


def ball(p: Pen, c: RGB, r: random.Random) -> None:
    p.circle(50, 50, 48, c)
    style = r.random()
    mark = PALE if luminance(c) < 0.75 else dark(c, 0.5)
    if style < 0.4:
        p.curve([(8, 26), (34, 44), (40, 70), (30, 93)], 6, mark)
        p.curve([(70, 6), (62, 34), (74, 56), (97, 60)], 6, mark)
    elif style < 0.7:
        p.star(50, 50, 22, 10, 5, mark, turn=r.uniform(0, 72))
    else:
        p.polygon([(3, 42), (97, 42), (97, 58), (3, 58)], mark)
        p.ring(50, 50, 47, 2, dark(c, 0.2))
    p.ellipse(33, 26, 9, 5.5, light(c, 0.65), angle=-35)


def chair(p: Pen, c: RGB, r: random.Random) -> None:
    shade = dark(c, 0.3)
    for x in (22, 74):
        p.rect(x, 56, x + 6.5, 98, shade)
    p.rect(14, 4, 22, 98, c, 2)
    p.rect(62, 58, 69, 92, shade)
    p.polygon([(14, 54), (78, 54), (88, 66), (14, 66)], light(c, 0.15))
    p.rect(80, 58, 88, 98, c, 2)
    if r.random() < 0.5:
        for y in (10, 24, 38):
            p.polygon([(16, y), (58, y - 5), (58, y + 3), (16, y + 8)], c)
        p.rect(54, 2, 61, 56, c, 2)
    else:
        p.polygon([(16, 6), (60, 2), (60, 55), (16, 55)], c)
        p.polygon([(24, 14), (52, 11), (52, 46), (24, 46)], shade)


def table(p: Pen, c: RGB, r: random.Random) -> None:
    if r.random() < 0.3:
        p.rect(46, 34, 54, 88, dark(c, 0.2))
        p.polygon([(28, 94), (44, 84), (56, 84), (72, 94)], dark(c, 0.3))
        p.ellipse(50, 30, 48, 11, dark(c, 0.3))
        p.ellipse(50, 27, 48, 10, c)
        return
    for x in (8, 84):
        p.rect(x, 36, x + 8, 92, dark(c, 0.25))
    for x in (22, 71):
        p.rect(x, 36, x + 6, 80, dark(c, 0.45))
    p.rect(5, 32, 95, 44, dark(c, 0.2))
    p.polygon([(2, 34), (14, 22), (86, 22), (98, 34)], c)
    p.rect(2, 32.5, 98, 37, light(c, 0.15))


def bench(p: Pen, c: RGB, r: random.Random) -> None:
    for x in (12, 82):
        p.rect(x, 22, x + 6, 88, (70, 72, 78))
    for y in (24, 36):
        p.rect(2, y, 98, y + 8, c, 2)
    p.rect(0, 54, 100, 64, light(c, 0.12), 2)
    p.rect(0, 64, 100, 68, dark(c, 0.3))


def bed(p: Pen, c: RGB, r: random.Random) -> None:
    p.rect(2, 24, 9, 88, WOOD, 2)
    p.rect(91, 44, 98, 88, WOOD, 2)
    p.rect(4, 60, 96, 80, dark(WOOD, 0.15))
    p.rect(8, 48, 92, 68, PALE, 4)
    p.rect(11, 38, 34, 54, (236, 236, 244), 6)
    p.blob([(36, 46), (62, 42), (93, 47), (94, 72), (64, 74), (36, 72)], c)
    p.line([(39, 49), (39, 70)], 3.4, light(c, 0.4))


def lamp(p: Pen, c: RGB, r: random.Random) -> None:
    base = r.choice([WOOD, METAL, (60, 62, 70)])
    p.rect(47, 44, 53, 90, base)
    p.ellipse(50, 92, 21, 6, base)
    p.ellipse(50, 50, 22, 5, (254, 240, 170))
    flare = r.uniform(0, 8)
    p.polygon([(36 - flare / 2, 6), (64 + flare / 2, 6), (84, 50), (16, 50)], c)
    p.polygon([(36 - flare / 2, 6), (44, 6), (32, 50), (16, 50)], light(c, 0.3))


def television(p: Pen, c: RGB, r: random.Random) -> None:
    p.line([(36, 84), (30, 95)], 5, INK)
    p.line([(64, 84), (70, 95)], 5, INK)
    if r.random() < 0.5:
        p.line([(50, 24), (30, 3)], 2.4, METAL)
        p.line([(50, 24), (70, 3)], 2.4, METAL)
    p.rect(2, 22, 98, 86, (50, 50, 56), 5)
    screen = r.choice([(96, 160, 210), (70, 110, 150), (130, 180, 150)])
    p.rect(9, 29, 80, 79, screen, 4)
    p.polygon([(16, 32), (38, 32), (18, 62), (12, 62)], light(screen, 0.5))
    for y in (38, 50):
        p.circle(89, y, 4, METAL)


def laptop(p: Pen, c: RGB, r: random.Random) -> None:
    p.rect(14, 14, 86, 68, (66, 68, 74), 4)
    p.rect(19, 19, 81, 63, r.choice([(90, 170, 220), (60, 90, 150), (110, 190, 160)]))
    p.rect(26, 26, 56, 30, PALE)
    p.rect(26, 36, 70, 39, (220, 230, 240))
    p.polygon([(12, 68), (88, 68), (99, 84), (1, 84)], (176, 180, 186))
    p.rect(1, 82, 99, 88, (130, 134, 140), 2)
    p.polygon([(20, 71), (80, 71), (84, 77), (16, 77)], (80, 82, 88))


def phone(p: Pen, c: RGB, r: random.Random) -> None:
    p.rect(26, 2, 74, 98, c, 8)
    p.rect(30, 12, 70, 84, r.choice([(130, 190, 230), (60, 80, 120), (190, 220, 200)]), 2)
    for x in (36, 47, 58):
        for y in (22, 36):
            p.rect(x, y, x + 7, y + 7, r.choice([(230, 90, 80), (90, 180, 90), (250, 200, 80)]), 2)
    p.circle(50, 91, 4, light(c, 0.4) if luminance(c) < 0.6 else dark(c, 0.4))
    p.rect(43, 6, 57, 8.4, light(c, 0.4) if luminance(c) < 0.6 else dark(c, 0.4), 1)


def camera(p: Pen, c: RGB, r: random.Random) -> None:
    p.polygon([(34, 26), (40, 12), (62, 12), (68, 26)], dark(c, 0.25))
    p.rect(3, 24, 97, 84, c, 7)
    p.rect(3, 38, 97, 70, dark(c, 0.35) if luminance(c) > 0.25 else light(c, 0.2))
    p.circle(50, 54, 23, METAL)
    p.circle(50, 54, 18, INK)
    p.circle(50, 54, 10, (70, 90, 150))
    p.circle(45, 49, 4, PALE)
    p.rect(76, 28, 89, 35, (252, 240, 170), 1)
    p.rect(10, 18, 24, 25, (200, 50, 50), 2)


def backpack(p: Pen, c: RGB, r: random.Random) -> None:
    p.ring(50, 12, 10, 4.5, dark(c, 0.4))
    p.rect(8, 50, 24, 86, dark(c, 0.2), 6)
    p.rect(76, 50, 92, 86, dark(c, 0.2), 6)
    p.blob([(50, 8), (74, 14), (82, 40), (82, 92), (50, 97), (18, 92), (18, 40), (26, 14)], c)
    p.rect(27, 56, 73, 88, light(c, 0.2), 6)
    p.rect(27, 56, 73, 66, dark(c, 0.25), 4)
    p.rect(46, 62, 54, 72, GOLD, 1)
    p.line([(30, 32), (70, 32)], 2.6, dark(c, 0.4))


def suitcase(p: Pen, c: RGB, r: random.Random) -> None:
    p.line([(36, 30), (36, 14), (64, 14), (64, 30)], 6, dark(c, 0.5))
    p.rect(4, 28, 96, 90, c, 7)
    for x in (18, 74):
        p.rect(x, 28, x + 8, 90, dark(c, 0.3))
    p.rect(44, 28, 56, 38, GOLD, 2)
    for x in (16, 84):
        p.circle(x, 92, 4.5, INK)


def pencil(p: Pen, c: RGB, r: random.Random) -> None:
    p.rect(76, 41, 84, 59, METAL)
    p.rect(84, 41, 98, 59, (238, 140, 160), 4)
    p.rect(24, 41, 77, 59, c)
    p.rect(24, 47, 77, 53, light(c, 0.3))
    p.polygon([(24, 41), (24, 59), (3, 50)], (236, 204, 150))
    p.polygon([(10, 47), (10, 53), (2, 50)], INK)


def hammer(p: Pen, c: RGB, r: random.Random) -> None:
    p.rect(45, 24, 55, 98, c, 4)
    p.polygon([(24, 8), (60, 8), (60, 28), (24, 28)], (104, 108, 116))
    p.rect(16, 5, 28, 31, (124, 128, 136), 2)
    p.curve([(58, 13), (76, 12), (88, 26)], 8, (104, 108, 116))


def ladder(p: Pen, c: RGB, r: random.Random) -> None:
    for y in range(14, 96, 16):
        p.rect(30, y, 70, y + 6, dark(c, 0.2))
    for x in (25, 68):
        p.rect(x, 2, x + 7, 98, c, 2)


def bucket(p: Pen, c: RGB, r: random.Random) -> None:
    p.arc(50, 30, 36, 180, 360, 3.4, METAL)
    p.polygon([(10, 30), (90, 30), (76, 92), (24, 92)], c)
    p.ellipse(50, 92, 26, 5, c)
    p.ellipse(50, 30, 40, 9, light(c, 0.3))
    p.ellipse(50, 31, 35, 6.5, dark(c, 0.45))


def basket(p: Pen, c: RGB, r: random.Random) -> None:
    p.arc(50, 48, 38, 180, 360, 6, dark(c, 0.2))
    p.polygon([(6, 46), (94, 46), (80, 94), (20, 94)], c)
    for row in range(4):
        for k in range(6 - row % 2):
            x = 15 + row * 1.5 + k * 12 + (row % 2) * 6
            p.rect(x, 53 + row * 10, x + 7, 57 + row * 10, dark(c, 0.28), 1)
    p.rect(3, 43, 97, 51, light(c, 0.15), 4)


def heart(p: Pen, c: RGB, r: random.Random) -> None:
    p.blob([(50, 26), (62, 10), (84, 8), (97, 28), (86, 58), (50, 96), (14, 58), (3, 28), (16, 8), (38, 10)], c)
    p.ellipse(26, 28, 6, 10, light(c, 0.5), angle=35)


def crown(p: Pen, c: RGB, r: random.Random) -> None:
    p.polygon([(6, 26), (28, 50), (50, 12), (72, 50), (94, 26), (86, 88), (14, 88)], c)
    p.rect(13, 76, 87, 90, dark(c, 0.2), 2)
    for x, y in ((6, 24), (50, 11), (94, 24)):
        p.circle(x, y, 5.5, (214, 40, 60))
    for x, tint in ((30, (60, 110, 210)), (50, (214, 40, 60)), (70, (60, 160, 90))):
        p.circle(x, 83, 4, tint)


def robot(p: Pen, c: RGB, r: random.Random) -> None:
    p.line([(50, 14), (50, 4)], 2.6, INK)
    p.circle(50, 4, 4, (220, 50, 50))
    lift = r.uniform(-14, 10)
    for s in (-1, 1):
        p.line([(50 + s * 24, 54), (50 + s * 40, 64 + lift)], 7, dark(c, 0.35))
        p.circle(50 + s * 41, 66 + lift, 6, dark(c, 0.2))
        p.rect(50 + s * 12 - 6, 80, 50 + s * 12 + 6, 98, dark(c, 0.35), 2)
    p.rect(26, 46, 74, 84, c, 5)
    p.rect(28, 12, 72, 42, light(c, 0.12), 5)
    for s in (-1, 1):
        p.circle(50 + s * 10, 25, 6, (252, 240, 140))
        p.circle(50 + s * 10, 25, 3, INK)
    p.rect(40, 34, 60, 38, INK)
    p.rect(36, 54, 64, 68, mix(c, INK, 0.5), 2)
    for x, tint in ((42, (220, 60, 60)), (50, (250, 200, 60)), (58, (80, 180, 90))):
        p.circle(x, 61, 3, tint)
