"""How people write grounded dialogues by hand: `[a red balloon](3, 7)` in an answer, `[](12)` in a question.

The numbers are annotation ids. Pure text: knows no images and no labels; `custom` looks the ids up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llava_grounding.data.readers.parts.numbers import EntryError, Key
from llava_grounding.data.readers.parts.rows import LOSS_KEYS, canonical_markup, in_loss_of
from llava_grounding.data.readers.parts.texts import words_of
from llava_grounding.data.record import GroundedText, Record, RecordedTurn
from llava_grounding.errors import DataError, shown
from llava_grounding.markup import PHRASE_END, PHRASE_START, REGION, SEG, format_markup, parse
from llava_grounding.typed_values import is_whole

Ids = tuple[Key, ...]

_TURN_KEYS = {"question", "answer", "regions", "targets", "grounded", *LOSS_KEYS}
_PIECE = re.compile(
    r"\\(?P<escaped>[\\\[\]])"
    r"|\[(?P<words>(?:[^\[\]\\]|\\[\\\[\]]|\\(?![\\\[\]]))*)\]\((?P<ids>[^()]*)\)"
)
_IDS = re.compile(r"[0-9]{1,15}(?:\s*,\s*[0-9]{1,15})*")
_UNKNOWN = "?"


@dataclass(frozen=True)
class WrittenTurn:
    """One question and answer of a file, with annotation ids where a `RecordedTurn` has indices.

    Args:
        question: plain text, one `<region>` for each of `regions`.
        answer: canonical markup when `grounded`, else plain text.
        regions: the annotation each `<region>` points at.
        targets: per phrase its annotations; None = not known.
        grounded: whether phrases of the answer are named.
        in_loss: whether the answer counts in a loss.
    """

    question: str
    answer: str
    regions: Ids
    targets: tuple[Ids | None, ...]
    grounded: bool
    in_loss: bool = True


def read_turn(turn: Any) -> WrittenTurn:
    """One turn of a dialogue file: `question` and `answer`, in the notation or in markup with `targets` and `regions`.

    Raises:
        EntryError: if something is missing, of the wrong kind, or does not add up.
    """
    if not isinstance(turn, Mapping) or not {"question", "answer"} <= turn.keys():
        raise EntryError("no dialogue", f"a turn must have `question` and `answer`, got {shown(turn)}")
    strange = sorted(str(key) for key in turn.keys() - _TURN_KEYS)
    if strange:
        raise EntryError("unknown key", f"a turn has no `{strange[0]}`, only {', '.join(sorted(_TURN_KEYS))}")
    if "regions" in turn:
        question, regions = _marked_question(turn["question"], turn["regions"])
    else:
        question, regions = read_question(turn["question"])
    if "targets" in turn:
        answer, targets = _marked_answer(turn["answer"], turn["targets"])
    else:
        answer, targets = read_answer(turn["answer"])
    grounded = turn.get("grounded", bool(targets))
    if not isinstance(grounded, bool) or (targets and not grounded):
        raise EntryError("grounded does not fit", f"grounded must be true where phrases are, got {shown(grounded)}")
    return WrittenTurn(question, answer, regions, targets, grounded, in_loss_of(turn))


def read_question(text: Any) -> tuple[str, Ids]:
    """A question with `<region>` for each `[](12)`, and what they point at; `[the dog](12)` keeps its words.

    Raises:
        EntryError: if one points at no annotation or at several, or the text cannot be learnt from.
    """
    parts, ids = [], []
    for words, written in _pieces(words_of(text, "a question")):
        parts.append(words)
        if written is not None:
            if not _IDS.fullmatch(written) or "," in written:
                raise EntryError("not annotation ids", f"a question points at one annotation, got ({written})")
            parts.append(f" {REGION}" if words else REGION)
            ids.append(int(written))
    # Once more, since what brackets held apart may now be a special token.
    question = words_of("".join(parts), "a question", (REGION,))
    if question.count(REGION) != len(ids):
        raise EntryError("special token in the text", f"a question must not hold `{REGION}`, got {shown(text)}")
    return question, tuple(ids)


def read_answer(text: Any) -> tuple[str, tuple[Ids | None, ...]]:
    """An answer in canonical markup, and the annotations of each phrase; without phrases it is plain text.

    Raises:
        EntryError: if a phrase is empty or names no annotation, or the text cannot be learnt from.
    """
    plain, spans, targets = "", [], []
    for words, written in _pieces(words_of(text, "an answer")):
        if written is not None:
            if not words or words != words.strip():
                raise EntryError("empty phrase", f"a phrase must be words without blanks around, got [{words}]")
            spans.append((len(plain), len(plain) + len(words)))
            targets.append(_ids(written))
        plain += words
    words_of(plain, "an answer")  # once more, since what brackets held apart may now be a special token
    return (format_markup(plain, spans) if spans else plain), tuple(targets)


def write_question(question: str, regions: Sequence[Key]) -> str:
    """What `read_question` reads back."""
    first, *rest = question.split(REGION)
    return _escaped(first) + "".join(
        f"[]({number}){_escaped(text)}" for number, text in zip(regions, rest, strict=True)
    )


def write_answer(answer: str, targets: Sequence[Ids | None]) -> str:
    """What `read_answer` reads back."""
    parsed, parts, done = parse(answer), [], 0
    for phrase in parsed.phrases:
        target = targets[phrase.seg_index]
        ids = ", ".join(map(str, target)) if target else _UNKNOWN
        parts += [_escaped(parsed.text[done : phrase.span[0]]), f"[{_escaped(phrase.text)}]({ids})"]
        done = phrase.span[1]
    return "".join([*parts, _escaped(parsed.text[done:])])


def written_dialogue(record: Record, dialogue: Sequence[RecordedTurn]) -> dict[str, Any]:
    """A dialogue of a record as an entry of a file of dialogues.

    Raises:
        DataError: if an annotation without an id is named.
    """
    turns = []
    for turn in dialogue:
        written: dict[str, Any] = {
            "question": write_question(turn.question, _numbers(record, turn.regions)),
            "answer": written_answer(record, GroundedText(turn.answer, turn.targets)),
        }
        written |= {} if turn.in_loss else {"loss": False}
        # An answer that names nothing may still be one that was asked to ground.
        turns.append({**written, "grounded": True} if turn.grounded and not turn.targets else written)
    return {"image": record.image_name or record.id, "turns": turns}


def written_answer(record: Record, said: GroundedText) -> str:
    """What is said of a record, with annotation ids behind its phrases.

    Raises:
        DataError: if an annotation without an id is named.
    """
    return write_answer(said.text, [None if one is None else _numbers(record, one) for one in said.targets])


def _numbers(record: Record, indices: Sequence[int]) -> Ids:
    numbers = [record.instances[index].id for index in indices]
    if None in numbers:
        raise DataError(f"annotations of `{record.id}` must have ids to be written, one that is named has none")
    if any(isinstance(number, str) for number in numbers):
        raise DataError(f"annotations of `{record.id}` must have numbers as ids to be written in an answer")
    return tuple(number for number in numbers if isinstance(number, int))


def _pieces(text: str) -> Iterator[tuple[str, str | None]]:
    """Stretches of text, and bracketed words with what stands in parentheses behind them; escapes are resolved."""
    done = 0
    for match in _PIECE.finditer(text):
        if match.start() > done:
            yield text[done : match.start()], None
        done = match.end()
        if match["escaped"]:
            yield match["escaped"], None
        else:
            yield re.sub(r"\\([\\\[\]])", r"\1", match["words"]), match["ids"].strip()
    if done < len(text):
        yield text[done:], None


def _escaped(text: str) -> str:
    return re.sub(r"([\\\[\]])", r"\\\1", text)


def _ids(written: str) -> Ids | None:
    if written == _UNKNOWN:
        return None
    if not _IDS.fullmatch(written):
        raise EntryError(
            "not annotation ids",
            f"after a phrase stand annotation ids or `?`, as (3, 7), got ({written}); a bracket is `\\[`",
        )
    return tuple(int(number) for number in written.split(","))


def _marked_question(text: Any, regions: Any) -> tuple[str, Ids]:
    question = words_of(text, "a question", (REGION,))
    if not isinstance(regions, list) or not all(is_whole(number) or isinstance(number, str) for number in regions):
        raise EntryError("not annotation ids", f"regions must be a list of annotation ids, got {shown(regions)}")
    if question.count(REGION) != len(regions):
        raise EntryError("regions do not fit", f"regions must have one id per `{REGION}`, got {shown(regions)}")
    return question, tuple(regions)


def _marked_answer(text: Any, targets: Any) -> tuple[str, tuple[Ids | None, ...]]:
    answer, count = canonical_markup(words_of(text, "an answer", (PHRASE_START, PHRASE_END, SEG)))
    if not isinstance(targets, list) or len(targets) != count:
        raise EntryError("targets do not fit", f"targets must have one entry per `{SEG}`, got {shown(targets)}")
    for target in targets:
        if target is not None and not (
            isinstance(target, list) and target and all(is_whole(one) or isinstance(one, str) for one in target)
        ):
            raise EntryError("not annotation ids", f"a target must be a list of ids or null, got {shown(target)}")
    return answer, tuple(None if target is None else tuple(target) for target in targets)
