"""What a model really returns, read as marked phrases: tolerant of its form, never of a wrong match.

Fences, thinking, greetings, changed blanks and quotes, missing brackets and renamed categories are put right where it
is certain what was meant. Where it is not, a phrase is refused with the reason, and nothing is guessed. Pure; any text
is safe to read.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from llava_grounding.annotate.marked import Marked, MarkedPhrase, Refused
from llava_grounding.annotate.prompt import AnswerForm, clean_name
from llava_grounding.annotate.tasks import AnnotationTask, Numbered
from llava_grounding.language.nouns import lexicon, other_names, spoken_name
from llava_grounding.typed_values import is_whole

MAX_ANSWER = 200_000
"""Characters that are looked at."""
_SAME = 0.8  # how alike a repeated text must be to its original
_THINKING = re.compile(r"<(think|thinking|reasoning)>.*?(</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_FENCE = re.compile(r"^\s*```[\w-]*\s*$", re.MULTILINE)
_REFUSAL = re.compile(
    r"\b(i'?m sorry|i am sorry|i apologi[sz]e|as an ai|i can(?:no|')t|i am unable|i'm unable|please provide)\b",
    re.IGNORECASE,
)
_NAME = r"[^\d\[\](),;][^\[\](),;]{0,50}"
_THING = rf"#?\d{{1,6}}(?:\s*[.:]\s*{_NAME})?"
_THINGS = re.compile(rf"\[\s*({_THING}(?:\s*[,;]\s*{_THING})*\s*)?\]")
_ONE_THING = re.compile(rf"#?(\d{{1,6}})(?:\s*[.:]\s*({_NAME}))?")
_LABEL = r"^[ \t>*_`\"-]*({})[*_`\"]*[ \t]*:[*_`]*[ \t]*"
_WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")
_DECODER = json.JSONDecoder()
_MAX_WORDS = 2000  # of a text that was changed
_QUOTES = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "\u00a0": " ", "–": "-", "—": "-"})


def parse_answer(answer: str, task: AnnotationTask, form: AnswerForm) -> Marked:
    """The phrases that an answer marks; what cannot be certain is among the refused ones.

    Args:
        answer: of any origin; a model may answer in the other form as well.
    """
    repairs: Counter[str] = Counter()
    text = _bare(answer[:MAX_ANSWER], repairs)
    if not text:
        return Marked({}, (), "the answer is empty", _made(repairs))
    like_json = text[0] in "{[" if form == "brackets" else True
    for json_first in (like_json, not like_json):
        reader = _AnswerReader(task, repairs.copy())
        found = (_read_json if json_first else _read_brackets)(text, reader)
        if found is not None:
            reader.repairs["other form"] += json_first != (form == "schema")
            return Marked(found, tuple(reader.refused), None, _made(reader.repairs))
    if _REFUSAL.search(text):
        return Marked({}, (), "the answer is a refusal", _made(repairs))
    failure = "the answer holds neither the texts nor the JSON object that was asked for"
    return Marked({}, (), failure, _made(repairs))


def _made(repairs: Counter[str]) -> dict[str, int]:
    return {kind: count for kind, count in repairs.items() if count}


def _bare(answer: str, repairs: Counter[str]) -> str:
    """The answer without thinking and fences."""
    text = _THINKING.sub("", answer)
    if "</think>" in text:  # some servers cut the opening tag away
        text = text.rpartition("</think>")[2]
    repairs["thinking"] += text != answer
    bare = _FENCE.sub("", text)
    repairs["fence"] += bare != text
    return bare.strip()


class _AnswerReader:
    """What both forms share: things by their names, phrases by their places."""

    def __init__(self, task: AnnotationTask, repairs: Counter[str]) -> None:
        self.task, self.repairs = task, repairs
        self.refused: list[Refused] = []
        self._things = {one.number: one for one in task.numbered}
        self._names = {clean_name(one.name) for one in task.numbered}

    def refuse(self, label: str, phrase: str, reason: str, detail: str) -> None:
        """Note a phrase that is not taken."""
        self.refused.append(Refused(label, phrase[:200], reason, detail[:300]))

    def numbers(self, label: str, phrase: str, things: Iterable[tuple[str, str]]) -> tuple[int, ...] | None:
        """Numbers of things given as number and name; None, and a note, if one cannot be right."""
        numbers = []
        for digits, name in things:
            thing = self._things.get(int(digits))
            if thing is None:
                detail = f'"{phrase}" names thing {int(digits)}, but they are 1 to {len(self._things)}'
                self.refuse(label, phrase, "unknown id", detail)
                return None
            if name and not self._fits(name, thing):
                detail = f'"{phrase}" names {int(digits)}.{name}, but {int(digits)} is a {thing.name}'
                self.refuse(label, phrase, "id and category disagree", detail)
                return None
            if not name:
                self.repairs["id without category"] += 1
            numbers.append(thing.number)
        if len(set(numbers)) != len(numbers):
            self.repairs["id twice"] += 1
        return tuple(dict.fromkeys(numbers))

    def _fits(self, name: str, thing: Numbered) -> bool:
        said, listed = clean_name(spoken_name(name)).lower(), clean_name(thing.name).lower()
        if said == listed:
            return True
        # Another name is right only if it cannot mean another thing of the list.
        alike = said in other_names(thing.name) or thing.name in lexicon(()).categories_of(said)
        if alike and not any(said == other.lower() for other in self._names):
            self.repairs["renamed category"] += 1
            return True
        return False


def _read_json(text: str, reader: _AnswerReader) -> dict[str, tuple[MarkedPhrase, ...]] | None:
    """The form `schema`; None if there is no such object."""
    entries = next(filter(None, map(_entries, _objects(text))), None)
    if entries is None:
        return None
    found: dict[str, tuple[MarkedPhrase, ...]] = {}
    for label, phrases in entries:
        if label not in reader.task.texts:
            reader.repairs["unknown label"] += 1
            continue
        if label in found:  # which of the two is meant cannot be told
            reader.refuse(label, "", "text given twice", f"{label} is there twice")
            found[label] = ()
            continue
        found[label] = _place_phrases(label, phrases, reader)
    return found if found else None


def _objects(text: str) -> Iterator[Any]:
    """JSON values that begin with a bracket somewhere in the text, the last one that reads first."""
    starts = [match.start() for match in re.finditer(r"[{\[]", text)]
    values, end = [], -1
    for start in starts[:2000]:
        if start < end:
            continue
        try:
            value, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        values.append(value)
    yield from reversed(values)


def _entries(value: Any) -> list[tuple[str, list[tuple[str, list[Any]]]]] | None:
    """Labels with their phrases and things, of any shape that models make of the one asked for."""
    if isinstance(value, Mapping):
        value = value["texts"] if "texts" in value else [{"label": k, "phrases": v} for k, v in value.items()]
    if isinstance(value, Mapping):
        value = [{"label": k, "phrases": v} for k, v in value.items()]
    if not isinstance(value, list) or not value:
        return None
    entries = []
    for one in value:
        if not isinstance(one, Mapping) or not isinstance(one.get("label"), str):
            return None
        phrases = one.get("phrases")
        if not isinstance(phrases, list):
            return None
        said = []
        for phrase in phrases:
            words = phrase.get("phrase", phrase.get("text")) if isinstance(phrase, Mapping) else None
            things = phrase.get("things", phrase.get("instances")) if isinstance(phrase, Mapping) else None
            if not isinstance(words, str) or not isinstance(things, list):
                return None
            said.append((words, things))
        entries.append((one["label"].strip(), said))
    return entries


def _place_phrases(
    label: str, phrases: Sequence[tuple[str, list[Any]]], reader: _AnswerReader
) -> tuple[MarkedPhrase, ...]:
    text = reader.task.texts[label]
    times = Counter(_plain(words) for words, _ in phrases)
    placed: list[MarkedPhrase] = []
    used: Counter[str] = Counter()
    for words, things in phrases:
        key = _plain(words)
        number, used[key] = used[key], used[key] + 1
        numbers = reader.numbers(label, words, _things_of(things))
        if numbers is None:
            continue
        if not numbers:
            reader.repairs["phrase without things"] += 1
            continue
        places = _places(text, words, reader.repairs)
        if not places:
            reader.refuse(label, words, "phrase not in the text", f'"{words[:80]}" is not in {label}')
        elif len(places) > times[key]:
            detail = f'"{words}" is in {label} {len(places)} times; give it each time, or more words of the one meant'
            reader.refuse(label, words, "ambiguous phrase", detail)
        elif number < len(places):
            placed.append(MarkedPhrase(places[number], numbers))
        else:
            reader.repairs["phrase too often"] += 1
    return tuple(sorted(placed, key=lambda one: one.span))


def _things_of(things: Iterable[Any]) -> list[tuple[str, str]]:
    """Number and name of each; what is neither is number 0, which no thing has."""
    found = []
    for one in things:
        if is_whole(one):
            found.append((str(one) if 0 <= one < 10**6 else "0", ""))
            continue
        match = _ONE_THING.fullmatch(one.strip().strip("[]()")) if isinstance(one, str) else None
        found.append((match[1], (match[2] or "").strip()) if match else ("0", ""))
    return found


def _places(text: str, words: str, repairs: Counter[str]) -> list[tuple[int, int]]:
    """Where the words stand in the text as whole words: exactly so, else whatever the case, blanks and quotes."""
    exact = [match.span() for match in re.finditer(re.escape(words.strip()), text)] if words.strip() else []
    exact = [span for span in exact if _whole(text, span)]
    if exact:
        return exact
    pieces = [re.escape(piece) for piece in words.translate(_QUOTES).split()]
    if not pieces:
        return []
    pattern = re.compile(r"\s+".join(pieces), re.IGNORECASE)
    found = [match.span() for match in pattern.finditer(text.translate(_QUOTES)) if _whole(text, match.span())]
    repairs["case, blanks or quotes"] += bool(found)
    return found


def _whole(text: str, span: tuple[int, int]) -> bool:
    start, end = span
    return not (
        (start and text[start - 1].isalnum() and text[start].isalnum())
        or (end < len(text) and text[end].isalnum() and text[end - 1].isalnum())
    )


def _plain(text: str) -> str:
    return " ".join(text.translate(_QUOTES).lower().split())


def _read_brackets(text: str, reader: _AnswerReader) -> dict[str, tuple[MarkedPhrase, ...]] | None:
    """The form `brackets`; None if no text can be found again."""
    found: dict[str, tuple[MarkedPhrase, ...]] = {}
    for label, body in _bodies(text, reader).items():
        marks, plain = _marks(label, body, reader)
        original = reader.task.texts[label]
        if _plain(plain) != _plain(original):
            if not _resembles(plain, original):
                if marks:
                    reader.refuse(label, "", "text altered", f"{label} was changed; repeat it letter by letter")
                continue
            reader.repairs["text altered"] += 1
        found[label] = _align(label, marks, plain, original, reader)
    return found if found or reader.refused else None


def _bodies(text: str, reader: _AnswerReader) -> dict[str, str]:
    """What stands behind each label; the whole answer where there is one text and no label."""
    labels = list(reader.task.texts)
    bodies: dict[str, str] = {}
    starts: list[tuple[str, int, int]] = []
    at = 0
    for label in labels:
        matches = list(re.compile(_LABEL.format(label), re.MULTILINE).finditer(text, at))
        if matches:
            match = matches[-1] if len(labels) == 1 else matches[0]
            starts.append((label, match.start(), match.end()))
            at = match.end()
    ends = [begin for _, begin, _ in starts[1:]] + [len(text)]
    for (label, _, start), end in zip(starts, ends, strict=False):
        bodies[label] = text[start:end].strip().strip("`")
    if not bodies and len(labels) == 1:
        reader.repairs["label missing"] += 1
        bodies[labels[0]] = _most_alike(text, reader.task.texts[labels[0]])
    return bodies


def _most_alike(text: str, original: str) -> str:
    """The paragraph of an answer that repeats the text, without a greeting before it or an offer behind it."""
    if "\n" in original:
        return text
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return max(lines, key=lambda line: _alikeness(_without_things(line), original), default=text)


def _without_things(line: str) -> str:
    return _THINGS.sub("", line).replace("(", "").replace(")", "")


def _alikeness(one: str, other: str) -> float:
    matcher = SequenceMatcher(None, _plain(one).split()[:400], _plain(other).split()[:400], autojunk=False)
    return matcher.ratio()


def _resembles(plain: str, original: str) -> bool:
    """Whether a text is the original but for a few words; a longer body may hold other words behind it."""
    return _alikeness(plain, original) >= _SAME


def _marks(label: str, body: str, reader: _AnswerReader) -> tuple[list[tuple[int, int, tuple[int, ...]]], str]:
    """Marks as start, end and numbers in the body without its markup, and that text."""
    marks, plain, done = [], "", 0
    for match in _THINGS.finditer(body):
        before = body[done : match.start()]
        stripped = before.rstrip()
        opened = _opening_bracket(stripped) if stripped.endswith(")") else None
        if match[1] is None and opened is None:
            continue  # `[]` of the text itself
        if opened is not None:
            words = stripped[opened + 1 : -1].strip()
            lead = stripped[:opened]
            start = len(plain) + len(lead)
            plain += lead + words
        else:
            plain += stripped
            span = _named_before(plain, reader)
            if span is None:
                reader.refuse(
                    label, stripped[-60:], "brackets missing", f"{match[0]} stands behind no phrase in brackets"
                )
                done = match.end()
                continue
            reader.repairs["brackets missing"] += 1
            start, words = span[0], plain[span[0] :]
        done = match.end()
        if match[1] is None:
            reader.repairs["phrase without things"] += 1
            continue
        numbers = reader.numbers(label, words, _things_of(re.split(r"[,;]", match[1])))
        if numbers:
            marks.append((start, start + len(words), numbers))
    return marks, plain + body[done:]


def _opening_bracket(text: str) -> int | None:
    """Place of the bracket that the last character closes."""
    depth = 0
    for index in range(len(text) - 1, max(-1, len(text) - 500), -1):
        depth += (text[index] == ")") - (text[index] == "(")
        if depth == 0:
            return index
    return None


def _named_before(plain: str, reader: _AnswerReader) -> tuple[int, int] | None:
    """The noun phrase that the text ends with, if its words are known."""
    tail = plain[-200:]
    mentions = lexicon(()).find(tail)
    if mentions and mentions[-1].span[1] == len(tail):
        offset = len(plain) - len(tail)
        return mentions[-1].span[0] + offset, len(plain)
    return None


def _align(
    label: str, marks: Sequence[tuple[int, int, tuple[int, ...]]], plain: str, original: str, reader: _AnswerReader
) -> tuple[MarkedPhrase, ...]:
    """Marks of the repeated text at their places in the original: where whole runs of words are the same."""
    said, there = _words(plain), _words(original)
    same = _same_words([word for word, _ in said], [word for word, _ in there])
    placed = []
    for start, end, numbers in marks:
        inside = [index for index, (_, span) in enumerate(said) if start <= span[0] and span[1] <= end]
        at = [same.get(index) for index in inside]
        first = at[0] if at else None
        if first is None or at != list(range(first, first + len(at))):
            reader.refuse(label, plain[start:end], "phrase not in the text", f'"{plain[start:end]}" is not in {label}')
            continue
        placed.append(MarkedPhrase((there[first][1][0], there[first + len(at) - 1][1][1]), numbers))
    return tuple(placed)


def _words(text: str) -> list[tuple[str, tuple[int, int]]]:
    return [(match[0].translate(_QUOTES).lower(), match.span()) for match in _WORD.finditer(text)]


def _same_words(said: Sequence[str], there: Sequence[str]) -> dict[int, int]:
    """Place in the repeated text -> place in the original, for words that are certainly the same ones."""
    if said == there:
        return {index: index for index in range(len(said))}
    if max(len(said), len(there)) > _MAX_WORDS:
        return {}
    blocks = SequenceMatcher(None, said, there, autojunk=False).get_matching_blocks()
    return {one.a + offset: one.b + offset for one in blocks for offset in range(one.size)}
