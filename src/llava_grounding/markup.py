"""Grounded text: `<g_s> a dog <g_e> <seg>` to and from plain text with character spans, whole or as it streams in.

Pure strings: knows no tokenizer, no ids and no regions. The three blanks inside the markup belong to the markup; what
stands before `<g_s>` or after `<seg>` is verbatim text. Spans count Unicode code points of the plain text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from llava_grounding.errors import MarkupError, shown

PHRASE_START = "<g_s>"
PHRASE_END = "<g_e>"
SEG = "<seg>"
REGION = "<region>"
SPECIAL_TOKENS = (PHRASE_START, PHRASE_END, SEG, REGION)

Span = tuple[int, int]

_TOKEN = re.compile("|".join(map(re.escape, SPECIAL_TOKENS)))
_TAIL_LENGTH = max(map(len, SPECIAL_TOKENS)) - 1
_CLOSING_PUNCTUATION = frozenset(".,;:!?)]}»”…%。，、；：！？）】」』")
_EXCERPT_LENGTH = 24


@dataclass(frozen=True)
class PhraseSpan:
    """A phrase of the text and the `<seg>` that grounds it.

    Args:
        text: the phrase, never empty, without white space at either end; equals `text[span[0] : span[1]]` of the whole.
        span: start and end in the plain text, half-open, in code points.
        seg_index: which `<seg>` of the marked-up text, counted from 0 over all of them.
    """

    text: str
    span: Span
    seg_index: int


@dataclass(frozen=True)
class ParsedText:
    """Plain text with its phrases in reading order; `num_segs` counts every `<seg>`, also those without a phrase."""

    text: str
    phrases: tuple[PhraseSpan, ...]
    num_segs: int


@dataclass(frozen=True)
class StreamDelta:
    """What one more piece of marked-up text adds: text to append, and phrases that have just got their `<seg>`."""

    text: str
    phrases: tuple[PhraseSpan, ...]


def parse(raw: str, tidy: bool = False) -> ParsedText:
    """Split marked-up text into plain text and phrases; whatever is broken becomes plain text without special tokens.

    A phrase is `<g_s> words <g_e> <seg>` with at least one word and no other markup but `<region>` inside; of nested
    ones the innermost counts, and one without its `<seg>` is no phrase.

    Args:
        raw: text of any origin.
        tidy: also remove the blank between markup and closing punctuation ("a dog <seg> ." gives "a dog."), which
            tokenizers that put blanks around special tokens leave behind.
    """
    parser = StreamParser(tidy=tidy)
    parser.feed(raw)
    parser.finish()
    return parser.parsed


def parse_strict(raw: str) -> ParsedText:
    """Like `parse`, for training data.

    Raises:
        MarkupError: if any special token is not part of a whole `<g_s> words <g_e> <seg>`.
    """
    parser = StreamParser()
    parser.feed(raw)
    parser.finish()
    if parser.problem is not None:
        problem, end = parser.problem
        start = max(end - _EXCERPT_LENGTH, 0)
        excerpt = f'"{"..." if start else ""}{raw[start:end]}"'
        raise MarkupError(f"{problem}; expected `{PHRASE_START} ... {PHRASE_END} {SEG}`, got {excerpt}")
    return parser.parsed


def strip_markup(raw: str) -> str:
    """The plain text of marked-up text."""
    return parse(raw).text


def format_markup(text: str, spans: Iterable[Span]) -> str:
    """Write the spans of `text` as phrases; `parse` gives back the same text and spans.

    Raises:
        MarkupError: if `text` holds special tokens, or the spans are not in reading order and apart, or one is empty,
            outside the text, or begins or ends with white space.
    """
    found = _TOKEN.search(text)
    if found:
        raise MarkupError(f"text to mark up must hold no special tokens, got `{found[0]}` at character {found.start()}")
    parts: list[str] = []
    done = 0
    for start, end in spans:
        if not 0 <= start < end <= len(text):
            raise MarkupError(f"span must lie within the {len(text)} characters and not be empty, got [{start}, {end})")
        if start < done:
            raise MarkupError(f"spans must be in reading order and apart, got [{start}, {end}) after one up to {done}")
        phrase = text[start:end]
        if phrase != phrase.strip():
            raise MarkupError(
                f"a phrase must not begin or end with white space, got {shown(phrase)} at [{start}, {end})"
            )
        parts += [text[done:start], f"{PHRASE_START} {phrase} {PHRASE_END} {SEG}"]
        done = end
    parts.append(text[done:])
    return "".join(parts)


class StreamParser:
    """Parses marked-up text piece by piece; however it is cut, the deltas add up to `parse` of the whole.

    Text that may still turn out to be markup, or white space that may belong to it, is held back until it is certain.
    Call `finish` once at the end. `problem` is what is wrong with the markup so far, and up to which character.
    """

    def __init__(self, tidy: bool = False) -> None:
        self.problem: tuple[str, int] | None = None
        self._tidy = tidy
        self._buffer = ""  # not yet split into tokens and text
        self._read = 0  # characters before the buffer
        self._parts: list[str] = []
        self._length = 0
        self._tail = ""  # last characters of the plain text
        self._blank = ""  # white space held back
        self._skip_blank = False  # nothing but white space since `<g_s>`: it belongs to the markup
        self._after_markup = False  # nothing but white space since `<g_e>` or `<seg>`
        self._open: list[str] | None = None  # text of the phrase being read
        self._open_at = 0
        self._closed: tuple[str, Span] | None = None  # a phrase that lacks only its `<seg>`
        self._phrases: list[PhraseSpan] = []
        self._num_segs = 0

    @property
    def parsed(self) -> ParsedText:
        """Everything so far, without what is held back."""
        return ParsedText("".join(self._parts), tuple(self._phrases), self._num_segs)

    def feed(self, piece: str) -> StreamDelta:
        """Take the next piece and give what it makes certain."""
        marks = len(self._parts), len(self._phrases)
        self._buffer += piece
        done = 0
        for match in _TOKEN.finditer(self._buffer):
            self._take_text(self._buffer[done : match.start()], self._read + done)
            self._take_token(match[0], self._read + match.start())
            done = match.end()
        held = self._buffer.rfind("<", done)
        if held < 0 or not any(token.startswith(self._buffer[held:]) for token in SPECIAL_TOKENS):
            held = len(self._buffer)
        self._take_text(self._buffer[done:held], self._read + done)
        self._buffer = self._buffer[held:]
        self._read += held
        return self._since(*marks)

    def finish(self) -> StreamDelta:
        """End the text: give what was held back as the plain text it turned out to be."""
        marks = len(self._parts), len(self._phrases)
        self._take_text(self._buffer, self._read)
        self._read += len(self._buffer)
        self._emit(self._blank)
        if self._open is not None:
            self._complain(f"the last `{PHRASE_START}` is never closed", self._read)
        if self._closed is not None:
            self._complain(f"the last phrase {shown(self._closed[0])} has no `{SEG}`", self._read)
        self._buffer, self._blank, self._open, self._closed = "", "", None, None
        return self._since(*marks)

    def _since(self, num_parts: int, num_phrases: int) -> StreamDelta:
        return StreamDelta("".join(self._parts[num_parts:]), tuple(self._phrases[num_phrases:]))

    def _take_text(self, text: str, position: int) -> None:
        end = position + min(len(text), _EXCERPT_LENGTH // 2)
        if self._skip_blank:
            text = text.lstrip()
        words = text.strip()
        if not words:
            self._blank += text
            return
        before = self._blank + text[: len(text) - len(text.lstrip())]
        if self._tidy and self._after_markup and words[0] in _CLOSING_PUNCTUATION:
            before = ""
        self._blank = text[len(text.rstrip()) :]
        self._skip_blank = self._after_markup = False
        if self._closed is not None:
            self._complain(f"the phrase {shown(self._closed[0])} has text where its `{SEG}` should be", end)
            self._closed = None
        self._emit(before)
        if self._open is None:
            self._emit(words)
        elif not self._open:
            self._open_at = self._length
            self._open.append(self._emit(words))
        else:
            self._open.append(before + self._emit(words))

    def _emit(self, text: str) -> str:
        """Append to the plain text and give what was appended.

        Removed markup may leave the halves of another token side by side; the `>` that would complete it is dropped,
        so that the plain text never holds a special token.
        """
        token = _TOKEN.search(self._tail + text[:_TAIL_LENGTH])
        if token:
            last = token.end() - 1 - len(self._tail)
            text = text[:last] + text[last:].lstrip(">")
        if text:
            self._parts.append(text)
            self._length += len(text)
            self._tail = (self._tail + text[-_TAIL_LENGTH:])[-_TAIL_LENGTH:]
        return text

    def _take_token(self, token: str, position: int) -> None:
        this, end = f"`{token}` at character {position}", position + len(token)
        if token == PHRASE_START:
            if self._open is not None or self._closed is not None:
                self._complain(f"{this} comes before the phrase in front of it is complete", end)
            self._open, self._closed = [], None
            self._skip_blank, self._after_markup = True, False
            return
        self._blank = ""
        if token == REGION:
            self._complain(f"{this} belongs in a question", end)
            self._closed = None
            return
        self._skip_blank, self._after_markup = False, True
        if token == PHRASE_END:
            self._close_phrase(this, end)
            return
        if self._closed is not None:
            self._phrases.append(PhraseSpan(*self._closed, seg_index=self._num_segs))
        else:
            self._complain(f"{this} closes no phrase", end)
        self._open = self._closed = None
        self._num_segs += 1

    def _close_phrase(self, this: str, end: int) -> None:
        text = "".join(self._open or ())
        words = text.strip()
        if self._open is None:
            self._complain(f"{this} ends no phrase", end)
        elif not words:
            self._complain(f"{this} ends an empty phrase", end)
        self._closed = None
        if words:
            start = self._open_at + len(text) - len(text.lstrip())
            self._closed = words, (start, start + len(words))
        self._open = None

    def _complain(self, problem: str, end: int) -> None:
        if self.problem is None:
            self.problem = problem, end
