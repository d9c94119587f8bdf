"""Setting text in lines for drawing: fonts that can write it, word wrapping, both writing directions.

Knows nothing of answers or colours: each piece of text carries a style number that the drawer gives a meaning to.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

from PIL import ImageFont

from llava_grounding.errors import printable_character

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

StyledText = tuple[str, int]
"""Text and its style."""

# Pillow's own font, which always exists, writes ASCII only. These are asked, in this order, for what it lacks; the
# names are the usual ones on Linux, macOS and Windows, and it is no error if none is installed.
_SYSTEM_FONTS = (
    "NotoSans-Regular.ttf",
    "DejaVuSans.ttf",
    "LiberationSans-Regular.ttf",
    "Arial Unicode.ttf",
    "segoeui.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "NotoSansCJKjp-Regular.otf",
    "NotoSansSC-Regular.otf",
    "NotoSansJP-Regular.otf",
    "NotoSansKR-Regular.otf",
    "SourceHanSansSC-Regular.otf",
    "wqy-zenhei.ttc",
    "wqy-microhei.ttc",
    "DroidSansFallbackFull.ttf",
    "ipaexg.ttf",
    "NanumGothic.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "AppleSDGothicNeo.ttc",
    "msyh.ttc",
    "YuGothM.ttc",
    "malgun.ttf",
    "NotoSansArabic-Regular.ttf",
    "NotoSansHebrew-Regular.ttf",
    "NotoSansDevanagari-Regular.ttf",
    "NotoSansBengali-Regular.ttf",
    "NotoSansTamil-Regular.ttf",
    "NotoSansThai-Regular.ttf",
    "NotoSansSymbols2-Regular.ttf",
    "NotoEmoji-Regular.ttf",
    "Symbola.ttf",
    "seguiemj.ttf",
    "seguisym.ttf",
    "Apple Symbols.ttf",
    "unifont.otf",
    "unifont.ttf",
)
_BUILT_IN = -1
_NEVER_A_CHARACTER = "\U0010fffe"  # every font draws its sign for "missing" here
_PROBE_SIZE = 24
_JOINER = "\u200d"
NO_BREAK = "\u00a0"
"""A blank at which no line is broken."""

_SIMILAR = str.maketrans(
    {"‘": "'", "’": "'", "“": '"', "”": '"', "„": '"', "•": "*", "×": "x", "−": "-", "–": "-", "—": "-"}
)
_ELLIPSIS = "..."


@dataclass(frozen=True)
class TextRun:
    """Neighbouring characters of one style in one font; `font` None: nothing installed can write them."""

    text: str
    style: int
    font: Font | None
    x: float
    width: float


@dataclass(frozen=True)
class _Letter:
    """What may not be taken apart: a letter with its accents, an emoji with its modifiers."""

    text: str
    style: int
    font: Font | None


_Word = list[_Letter]


def clean(text: str) -> str:
    """The text with every character that cannot be shown replaced, position by position: lengths and spans stay."""
    return "".join(map(printable_character, text))


class Typesetter:
    """Sets text of one size, in pixels."""

    def __init__(self, font_size: int) -> None:
        self.font_size = font_size

    def lines(self, pieces: Iterable[StyledText], width: float, max_lines: int = 200) -> list[list[TextRun]]:
        """Break text into lines of runs, each run with its place from the left edge.

        Args:
            pieces: text by style; a newline breaks the line.
            width: of a line, in pixels. A word that is longer is broken anywhere.
            max_lines: what would come after is left out, and an ellipsis says so.
        """
        lines: list[list[TextRun]] = []
        for paragraph in _paragraphs(pieces):
            backwards = _first_direction("".join(text for text, _ in paragraph)) < 0
            for line in self._wrap(self._words(paragraph), width):
                if len(lines) == max_lines:
                    lines[-1] = self._place([self._in_fonts([(_ELLIPSIS, 0)])], width, False)
                    return lines
                lines.append(self._place(line, width, backwards))
        return lines

    def width(self, text: str, font: Font | None) -> float:
        """How far the text reaches; what no font can write is a row of empty boxes."""
        if font is not None:
            return float(font.getlength(text))
        return self.box_width * sum(1 for _ in _clusters(text))

    @property
    def box_width(self) -> float:
        """Width of the empty box that stands for a letter nothing can write, with its gap."""
        return 0.7 * self.font_size

    def _words(self, paragraph: list[StyledText]) -> Iterator[_Word]:
        """Words, and the white space between them as words of their own; a style may change inside a word."""
        word: list[StyledText] = []
        for text, style in paragraph:
            for cluster in _clusters(text):
                if word and _may_break(word[-1][0], cluster):
                    yield self._in_fonts(word)
                    word = []
                word.append((cluster, style))
        if word:
            yield self._in_fonts(word)

    def _in_fonts(self, word: list[StyledText]) -> _Word:
        """The word in the first font that can write all of it, else each of its letters in the first that can."""
        font = self._font_for("".join(cluster for cluster, _ in word))
        if font is not None:
            return [_Letter(_drawn(cluster, font), style, font) for cluster, style in word]
        return [self._letter(cluster, style) for cluster, style in word]

    def _letter(self, cluster: str, style: int) -> _Letter:
        font = self._font_for(cluster)
        if font is not None:
            return _Letter(_drawn(cluster, font), style, font)
        similar = unicodedata.normalize("NFKD", cluster.translate(_SIMILAR))
        similar = "".join(c for c in similar if not unicodedata.combining(c))
        if similar.isascii() and similar.isprintable() and similar:
            return _Letter(similar, style, _load_font(self.font_size, _BUILT_IN))
        return _Letter(cluster, style, None)

    def _font_for(self, text: str) -> Font | None:
        visible = {c for c in text if not c.isspace() and not _invisible(c)}
        for index in range(_BUILT_IN, len(_SYSTEM_FONTS)):
            font = _load_font(self.font_size, index)
            if font is not None and all(_can_write(c, index) for c in visible):
                return font
        return None

    def _wrap(self, words: Iterable[_Word], width: float) -> Iterator[list[_Word]]:
        """Lines of words, none wider than `width` unless a single letter is; white space at a break is dropped."""
        line: list[_Word] = []
        used = 0.0
        for word in words:
            length = self._word_width(word)
            if used + length <= width:
                line.append(word)
                used += length
            elif not _is_blank(word):
                while line and _is_blank(line[-1]):
                    line.pop()
                if line:
                    yield line
                *full, rest = self._chop(word, width)
                yield from ([part] for part in full)
                line, used = [rest], self._word_width(rest)
        yield line

    def _chop(self, word: _Word, width: float) -> list[_Word]:
        """A word in parts that fit."""
        parts: list[_Word] = [[]]
        used = 0.0
        for letter in word:
            length = self.width(letter.text, letter.font)
            if parts[-1] and used + length > width:
                parts.append([])
                used = 0.0
            parts[-1].append(letter)
            used += length
        return parts

    def _word_width(self, word: _Word) -> float:
        return sum(self.width(text, font) for text, _, font in _joined(word))

    def _place(self, line: list[_Word], width: float, backwards: bool) -> list[TextRun]:
        """Runs from left to right, by words; a paragraph that reads from the right begins at the right edge."""
        x = width - sum(map(self._word_width, line)) if backwards else 0.0
        runs = []
        for word in _visual_order(line, backwards):
            pieces = list(_joined(word))
            for text, style, font in reversed(pieces) if _direction(word) < 0 else pieces:
                runs.append(TextRun(text, style, font, x, self.width(text, font)))
                x += runs[-1].width
        return runs


@lru_cache(maxsize=256)
def _load_font(size: int, index: int) -> Font | None:
    """Pillow's own font, or the index-th of the system's that are looked for; None if that one is not installed."""
    if index == _BUILT_IN:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(_SYSTEM_FONTS[index], size)
    except OSError:
        return None


@lru_cache(maxsize=8192)
def _can_write(character: str, index: int) -> bool:
    """Pillow does not tell which characters a font has, so compare with how it draws a missing one."""
    font = _load_font(_PROBE_SIZE, index)
    assert font is not None
    glyph, missing = (font.getmask(c, mode="L") for c in (character, _NEVER_A_CHARACTER))
    return glyph.size != missing.size or bytes(glyph) != bytes(missing)


def _paragraphs(pieces: Iterable[StyledText]) -> Iterator[list[StyledText]]:
    paragraph: list[StyledText] = []
    for text, style in pieces:
        first, *others = clean(text).split("\n")
        paragraph.append((first, style))
        for other in others:
            yield paragraph
            paragraph = [(other, style)]
    yield paragraph


def _clusters(text: str) -> Iterator[str]:
    cluster = ""
    for character in text:
        if cluster and not _extends(cluster, character):
            yield cluster
            cluster = ""
        cluster += character
    if cluster:
        yield cluster


def _extends(cluster: str, character: str) -> bool:
    if cluster[-1] == _JOINER or character == _JOINER or unicodedata.category(character) in ("Mn", "Mc", "Me"):
        return True
    skin_tone = "\U0001f3fb" <= character <= "\U0001f3ff"
    return skin_tone or (len(cluster) == 1 and _is_flag_letter(cluster) and _is_flag_letter(character))


def _is_flag_letter(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def _invisible(character: str) -> bool:
    return unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f"


def _drawn(cluster: str, font: Font) -> str:
    """What to hand to the font: it may lack the rarer blanks, and only a shaper knows what joiners are for."""
    if cluster.isspace():
        return " "
    if getattr(font, "layout_engine", None) == ImageFont.Layout.RAQM:
        return cluster
    return "".join(c for c in cluster if not _invisible(c))


def _may_break(before: str, after: str) -> bool:
    blank_before, blank_after = (c.isspace() and c != NO_BREAK for c in (before, after))
    if blank_before or blank_after:
        return not (blank_before and blank_after)
    if NO_BREAK in (before, after):
        return False
    if unicodedata.category(after[0]) in ("Pe", "Pf", "Po") or unicodedata.category(before[0]) in ("Ps", "Pi"):
        return False
    return unicodedata.east_asian_width(before[0]) in "WF" or unicodedata.east_asian_width(after[0]) in "WF"


def _is_blank(word: _Word) -> bool:
    return all(letter.text.isspace() for letter in word)


def _joined(letters: Sequence[_Letter]) -> Iterator[tuple[str, int, Font | None]]:
    """Neighbours of one style and font as one text: measured and drawn together, they are shaped together."""
    for _, group in groupby(letters, key=lambda letter: (letter.style, id(letter.font))):
        members = list(group)
        yield "".join(member.text for member in members), members[0].style, members[0].font


def _first_direction(text: str) -> int:
    """-1 if the first letter reads from right to left, 1 if from left to right, 0 without letters."""
    for character in text:
        direction = unicodedata.bidirectional(character)
        if direction in ("L", "R", "AL"):
            return 1 if direction == "L" else -1
    return 0


def _direction(word: _Word) -> int:
    return _first_direction("".join(letter.text for letter in word))


def _visual_order(line: list[_Word], backwards: bool) -> list[_Word]:
    """Words from left to right as they are shown: those against the paragraph's direction are turned round in groups.

    The two-level heart of the Unicode bidirectional algorithm, by words; within a word the font's shaper does it.
    """
    main = -1 if backwards else 1
    directions = [_direction(word) for word in line]
    against = [direction == -main for direction in directions]
    for at, direction in enumerate(directions):  # what has no direction, between two words against it, goes with them
        if direction == 0 and against[max(0, at - 1)]:
            following = next((d for d in directions[at:] if d), main)
            against[at] = following == -main
    ordered: list[_Word] = []
    places = range(len(line))
    for turned, group in groupby(reversed(places) if backwards else places, key=against.__getitem__):
        words = [line[at] for at in group]
        ordered += reversed(words) if turned else words
    return ordered
