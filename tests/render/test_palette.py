"""Every phrase gets a colour that can be told from the others and be written on."""

from itertools import combinations
from math import dist

from llava_grounding.colours import mix
from llava_grounding.render.palette import BLACK, WHITE, contrast, css, ink_on, phrase_color


def test_the_first_twenty_colours_are_far_apart() -> None:
    colors = [phrase_color(k) for k in range(20)]
    assert min(dist(a, b) for a, b in combinations(colors, 2)) > 40


def test_neighbouring_numbers_never_look_alike() -> None:
    assert min(dist(phrase_color(k), phrase_color(k + 1)) for k in range(2000)) > 80


def test_text_on_every_colour_is_readable() -> None:
    assert min(contrast(ink_on(phrase_color(k)), phrase_color(k)) for k in range(2000)) >= 4.5


def test_every_colour_stands_out_on_its_black_halo() -> None:
    assert min(contrast(phrase_color(k), BLACK) for k in range(2000)) >= 4.5


def test_contrast_and_mixing_are_as_defined() -> None:
    assert contrast(BLACK, WHITE) == contrast(WHITE, BLACK) == 21
    assert ink_on(WHITE) == BLACK
    assert ink_on((0, 0, 90)) == WHITE
    assert mix((200, 0, 0), (0, 0, 100), 0.75) == (50, 0, 75)
    assert css((1, 35, 255)) == "#0123ff"
