"""Who decides whether words fit: a table of synonyms, recorded judgements, or a language model behind an endpoint.

A judge is asked a `JudgeQuestion` and gives a verdict, or None where it cannot: that is counted as not judged, never as
wrong. Verdicts are kept by the hash of what was asked, so scoring again offline gives the identical number. The
endpoint is in `endpoint_judge`. Knows no overlaps and no files of predictions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

from llava_grounding.benchmark.files import as_json, read_lines
from llava_grounding.benchmark.grounding import Pair
from llava_grounding.errors import DataError, shown
from llava_grounding.language.nouns import Lexicon, lexicon_with
from llava_grounding.typed_values import is_number

QuestionKind = Literal["match", "chat"]


@dataclass(frozen=True)
class JudgeQuestion:
    """What a judge is asked about one answer.

    Args:
        sample: id of the sample.
        kind: `match`: which phrases mean which instances; `chat`: how good an answer is beside a reference.
        content: all that the verdict may depend on, as plain data. Of `match`: `text`, `phrases` (their words),
            `categories` and `boxes` of the instances (in shares of the image), `candidates` (pairs of phrase and
            instance), `references`, `exhaustive`. Of `chat`: `question`, `answer`, `reference`, `context`.
    """

    sample: str
    kind: QuestionKind
    content: Mapping[str, Any]

    @cached_property
    def key(self) -> str:
        """SHA-256 of the content, in hex."""
        text = json.dumps([self.kind, self.content], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Verdict:
    """What a judge decided.

    Args:
        right: of `match`: the candidates (phrase, instance) that are right.
        left_out: of `match`: phrases that cannot be judged for want of labels.
        scores: of `chat`: reference and answer, each 1 to 10.
    """

    right: tuple[Pair, ...] = ()
    left_out: tuple[int, ...] = ()
    scores: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        if self.scores is not None:
            return {"scores": list(self.scores)}
        return {"right": [list(pair) for pair in self.right], "left_out": list(self.left_out)}


def read_verdict(value: Any, question: JudgeQuestion) -> Verdict:
    """A verdict from plain data, held to what was asked.

    Raises:
        DataError: if it is of another form, or names what was not asked about.
    """
    if not isinstance(value, Mapping):
        raise DataError(f"a verdict must be an object, got {shown(value)}")
    if question.kind == "chat":
        scores = value.get("scores")
        if not isinstance(scores, list) or len(scores) != 2 or not all(_is_score(one) for one in scores):
            raise DataError(f"a verdict about a chat must have two `scores` of 1 to 10, got {shown(scores)}")
        return Verdict(scores=(float(scores[0]), float(scores[1])))
    asked = {(int(phrase), int(instance)) for phrase, instance in question.content["candidates"]}
    right, left_out = value.get("right"), value.get("left_out", [])
    pairs = [tuple(one) for one in right if _is_pair(one)] if isinstance(right, list) else []
    whole = isinstance(right, list) and len(pairs) == len(right)
    if not whole or any(one not in asked for one in pairs) or len(set(pairs)) != len(pairs):
        raise DataError(f"a verdict must name each right candidate once under `right`, got {shown(right)}")
    numbers = range(len(question.content["phrases"]))
    if not isinstance(left_out, list) or any(isinstance(one, bool) or one not in numbers for one in left_out):
        raise DataError(f"`left_out` of a verdict must be numbers of phrases, got {shown(left_out)}")
    return Verdict(tuple(sorted(pairs)), tuple(sorted(left_out)))


def _is_pair(value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) == 2 and all(type(one) is int for one in value)


def _is_score(value: Any) -> bool:
    return is_number(value) and 1 <= value <= 10


class Judge(Protocol):
    """Decides what words cannot: which phrases are right, and how good an answer is."""

    def about(self) -> Mapping[str, Any]:
        """What a report says of it: name, version, model, hash of its prompt."""
        ...

    def judge(self, questions: Sequence[JudgeQuestion]) -> list[Verdict | None]:
        """A verdict per question, in order; None where there is none."""
        ...


def verdict_by_names(
    named: Sequence[Collection[str]],
    categories: Sequence[str],
    candidates: Iterable[Pair],
    exhaustive: Collection[str] | None,
) -> Verdict:
    """The verdict where a phrase means an instance if it names the instance's category.

    Args:
        named: per phrase, the categories that it names; none where its words are in no table.
        categories: of the instances.
        candidates: (phrase, instance) to be decided about.
        exhaustive: categories of which every instance is labelled; None = all. A phrase that names only others, none of
            them present, cannot be judged.
    """
    right = tuple((phrase, instance) for phrase, instance in candidates if categories[instance] in named[phrase])
    if exhaustive is None:
        return Verdict(right)
    judgeable = {*categories, *exhaustive}
    return Verdict(right, tuple(n for n, names in enumerate(named) if names and judgeable.isdisjoint(names)))


class DeterministicJudge:
    """A phrase means an instance when its head noun, or a synonym, names the instance's category.

    It knows no attributes ("the left dog") and judges no chats. On 105 phrases with verdicts by hand it agrees with 96:
    it takes a compound for its first noun ("a phone booth") and misses words that are in no table ("the canine").
    """

    VERSION = "2"

    def __init__(self) -> None:
        self._named: dict[str, tuple[str, ...]] = {}
        self._words: Lexicon | None = None
        self._known: set[str] = set()

    def about(self) -> Mapping[str, Any]:
        return {"judge": "deterministic", "version": self.VERSION}

    def judge(self, questions: Sequence[JudgeQuestion]) -> list[Verdict | None]:
        categories = {one for question in questions for one in question.content.get("categories", ())}
        if not categories <= self._known:
            self._known |= categories
            self._words, self._named = lexicon_with(sorted(self._known)), {}
        return [self._verdict(question) if question.kind == "match" else None for question in questions]

    def _verdict(self, question: JudgeQuestion) -> Verdict:
        content = question.content
        named = [self._categories_of(phrase) for phrase in content["phrases"]]
        return verdict_by_names(named, content["categories"], content["candidates"], content.get("exhaustive"))

    def _categories_of(self, phrase: str) -> tuple[str, ...]:
        if phrase not in self._named:
            assert self._words is not None
            self._named[phrase] = self._words.categories_of(phrase)
        return self._named[phrase]


class RecordedJudge:
    """Verdicts of a file, written by `record` or by hand.

    A line is `{"sample", "kind", "verdict", "key"}`. With a key it answers exactly that question; without one, as
    people write it, whatever is asked of this kind about the sample.

    Args:
        path: JSON lines.

    Attributes:
        problems: lines that are no verdicts, with how many.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._by_key: dict[str, Any] = {}
        self._by_sample: dict[tuple[str, str], Any] = {}
        self.problems = 0
        for _, line in read_lines(path):
            if not isinstance(line, Mapping) or "verdict" not in line:
                self.problems += 1
            elif isinstance(line.get("key"), str):
                self._by_key[line["key"]] = line["verdict"]
            else:
                self._by_sample[str(line.get("sample")), str(line.get("kind", "match"))] = line["verdict"]
        if not (self._by_key or self._by_sample):
            raise DataError(f"{path} must hold recorded judgements, one JSON object with `verdict` a line; it has none")

    def about(self) -> Mapping[str, Any]:
        return {"judge": "recorded"}

    def judge(self, questions: Sequence[JudgeQuestion]) -> list[Verdict | None]:
        return [self._verdict(question) for question in questions]

    def _verdict(self, question: JudgeQuestion) -> Verdict | None:
        found = self._by_key.get(question.key, self._by_sample.get((question.sample, question.kind)))
        try:
            return None if found is None else read_verdict(found, question)
        except DataError:
            return None


def judgement_lines(questions: Sequence[JudgeQuestion], verdicts: Sequence[Verdict | None]) -> bytes:
    """Judgements as a file that `RecordedJudge` reads; what was not judged is not in it."""
    lines = [
        as_json({"sample": question.sample, "kind": question.kind, "key": question.key, "verdict": verdict.to_dict()})
        for question, verdict in zip(questions, verdicts, strict=True)
        if verdict is not None
    ]
    return "".join(lines).encode()
