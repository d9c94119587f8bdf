"""How other systems write grounded answers: named adapters from a line of their output to a text with its phrases.

An adapter says in which frame its boxes are; `predictions` brings them into pixels and judges whether that can be.
Knows no metric. Adding one is one function and one line in `ADAPTERS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llava_grounding.benchmark.samples import BenchmarkSample
from llava_grounding.data.plain_files import parse_json
from llava_grounding.data.readers.parts.kosmos_cells import CELLS, cell_box
from llava_grounding.errors import DataError, UsageError, did_you_mean, shown
from llava_grounding.language.nouns import lexicon, listed
from llava_grounding.language.synonyms import PHRASE_ENDS

_NUMBER = r"-?\d+(?:\.\d+)?"
_FOUR = rf"{_NUMBER}\s*,\s*{_NUMBER}\s*,\s*{_NUMBER}\s*,\s*{_NUMBER}"
_BRACKETS = re.compile(rf"\s*\[\s*({_FOUR}(?:\s*;\s*{_FOUR})*)\s*;?\s*\]")
_PAIRS = rf"\(\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\)\s*,\s*\(\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\)"
_QWEN = re.compile(
    r"(?:<ref>|<\|object_ref_start\|>)(?P<words>.*?)(?:</ref>|<\|object_ref_end\|>)"
    r"(?P<boxes>(?:\s*(?:<box>|<\|box_start\|>).*?(?:</box>|<\|box_end\|>))+)",
    re.DOTALL,
)
_QWEN_BOX = re.compile(_PAIRS)
_INTERNVL_BOX = re.compile(rf"\[\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*,\s*({_NUMBER})\s*\]")
_FENCED = re.compile(r"```(?:json)?\s*(.*?)\s*(?:```|\Z)", re.DOTALL)
_KOSMOS = re.compile(r"<phrase>(?P<words>.*?)</phrase>\s*<object>(?P<patches>.*?)</object>", re.DOTALL)
_KOSMOS_BOX = re.compile(r"<patch_index_(\d{4})>\s*<patch_index_(\d{4})>")
_GLAMM = re.compile(r"<p>(?P<words>.*?)</p>\s*(?P<segs>(?:\[SEG(?::\d+)?\]\s*(?:,|and)?\s*)+)", re.DOTALL)
_SEG = re.compile(r"\[SEG(?::\d+)?\]")
_TAG = re.compile(
    r"</?(?:p|s|ref|box|grounding|phrase|object|delimiter_of_multi_objects/?)>|<\|[a-z_]+\|>|\[SEG[:\d]*\]"
)
_WORD = re.compile(r"[^\W_]+(?:[-'’][^\W_]+)*")
_MOST_WORDS = 4  # of a phrase whose beginning nobody marked
_MOST_TEXT = 1_000_000
_MOST_PIXELS = 100_000  # of a side


@dataclass(frozen=True)
class RawPhrase:
    """A phrase with boxes in the frame of its adapter; a box is None where only the mask says where."""

    text: str
    boxes: tuple[Any, ...] = ()
    masks: tuple[Any, ...] = ()
    scores: tuple[Any, ...] = ()
    doubtful: bool = False


@dataclass(frozen=True)
class RawAnswer:
    """One line of another system's predictions, read."""

    text: str
    phrases: tuple[RawPhrase, ...]
    plain_text: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class Adapter:
    """A format.

    Args:
        name: on the command line.
        frame: of its boxes; see `predictions.FRAMES`.
        about: what a line looks like.
        parse: from the parsed line of JSON; may raise DataError, or KeyError and TypeError for what is not there.
    """

    name: str
    frame: str
    about: str
    parse: Callable[[Mapping[str, Any], BenchmarkSample], RawAnswer]


def adapter(name: str) -> Adapter:
    """The adapter of this name.

    Raises:
        UsageError: if there is none.
    """
    if name not in ADAPTERS:
        hint = did_you_mean(name, ADAPTERS)
        raise UsageError(f"there is no format {shown(name)}{hint or ';'} known are {', '.join(ADAPTERS)}")
    return ADAPTERS[name]


def _plain(line: Mapping[str, Any], sample: BenchmarkSample) -> RawAnswer:
    phrases = []
    for phrase in _list(line.get("phrases", []), "phrases"):
        regions = _list(phrase.get("regions", []), "regions")
        phrases.append(
            RawPhrase(
                _string(phrase.get("text", ""), "a phrase"),
                tuple(region.get("box") if region.get("mask") else region["box"] for region in regions),
                tuple(region.get("mask") for region in regions),
                tuple(region.get("score") for region in regions),
                phrase.get("doubtful") is True,
            )
        )
    plain, error = line.get("plain_text"), line.get("error")
    return RawAnswer(
        _string(line.get("text", ""), "text"),
        tuple(phrases),
        None if plain is None else _string(plain, "plain_text"),
        None if error is None else _string(error, "error"),
    )


def _answer_text(line: Mapping[str, Any], *first: str) -> str:
    for key in (*first, "text", "answer", "response", "caption", "output"):
        if key in line:
            return _string(line[key], f"`{key}`")
    raise DataError("a line must have the answer as `text`, `answer`, `response`, `caption` or `output`")


def _original(line: Mapping[str, Any], sample: BenchmarkSample) -> RawAnswer:
    answer = _boxes_in_brackets(_answer_text(line, "text_boxes"), sample)
    return RawAnswer(_string(line.get("text", answer.text), "text"), answer.phrases)


def _bracketed(line: Mapping[str, Any], sample: BenchmarkSample) -> RawAnswer:
    return _boxes_in_brackets(_answer_text(line), sample)


def _boxes_in_brackets(text: str, sample: BenchmarkSample) -> RawAnswer:
    """Phrases in front of `[x0, y0, x1, y1; ...]`; where one begins is for words alone to say, see `_phrase_before`."""
    parts: list[str] = []
    found: list[tuple[str, tuple[Any, ...]]] = []
    done = 0
    for match in _BRACKETS.finditer(text):
        between = text[done : match.start()]
        parts.append(between)
        boxes = tuple([float(one) for one in four.split(",")] for four in match[1].split(";") if four.strip())
        if not between.strip() and found:  # `a dog [..][..]` is one phrase
            found[-1] = (found[-1][0], (*found[-1][1], *boxes))
        else:
            found.append((_phrase_before(between), boxes))
        done = match.end()
    parts.append(text[done:])
    phrases = _asked_or_found(found, sample)
    return RawAnswer("".join(parts).strip(), phrases)


def _asked_or_found(found: list[tuple[str, tuple[Any, ...]]], sample: BenchmarkSample) -> tuple[RawPhrase, ...]:
    """Phrases of an answer; where one phrase was asked for, all boxes of the answer are its boxes."""
    if len(sample.phrases) == 1:
        return (RawPhrase(sample.phrases[0].text, tuple(box for _, boxes in found for box in boxes)),)
    return tuple(RawPhrase(words, boxes) for words, boxes in found)


def _phrase_before(text: str) -> str:
    """The noun phrase at the end of a text: a known one, else its last words back to a preposition or a mark."""
    mentions = lexicon(()).find(text)
    end = len(text.rstrip())
    if mentions and mentions[-1].span[1] == end:
        return text[slice(*mentions[-1].span)]
    start = end
    words = list(_WORD.finditer(text))
    for word in reversed(words[-_MOST_WORDS:]):
        if text[word.end() : start].strip() or word[0].lower() in PHRASE_ENDS:
            break
        start = word.start()
    return text[start:end]


def _kosmos(line: Mapping[str, Any], sample: BenchmarkSample) -> RawAnswer:
    text = _answer_text(line)
    found = []
    for match in _KOSMOS.finditer(text):
        boxes = tuple(_patches(int(a), int(b)) for a, b in _KOSMOS_BOX.findall(match["patches"]))
        found.append((match["words"].strip(), boxes))
    without = re.sub(r"<object>.*?</object>", "", text, flags=re.DOTALL)
    return RawAnswer(_untagged(without), _asked_or_found(found, sample))


def _patches(first: int, last: int) -> list[float]:
    most = CELLS**2
    if not (first < most and last < most):
        raise DataError(f"a patch index must be below {most}, got {first} and {last}")
    return cell_box(first, last)


def _tagged(box: re.Pattern[str]) -> Callable[[Mapping[str, Any], BenchmarkSample], RawAnswer]:
    """Reads phrases in `<ref>` with their boxes in `<box>`, each as the pattern's four groups."""

    def parse(line: Mapping[str, Any], sample: BenchmarkSample) -> RawAnswer:
        text = _answer_text(line)
        found = []
        for match in _QWEN.finditer(text):
            found.append((match["words"].strip(), _boxes(box, match["boxes"])))
        if not found and len(sample.phrases) == 1:  # asked for a place it may answer with a box alone
            found = [("", _boxes(box, text))]
        without = re.sub(r"(?:<box>|<\|box_start\|>).*?(?:</box>|<\|box_end\|>)", "", text, flags=re.DOTALL)
        return RawAnswer(_untagged(without), _asked_or_found(found, sample))

    return parse


def _boxes(box: re.Pattern[str], text: str) -> tuple[list[float], ...]:
    return tuple([float(one) for one in four] for four in box.findall(text))


def _json_boxes(line: Mapping[str, Any], sample: BenchmarkSample) -> RawAnswer:
    """A list of `{"bbox_2d", "label"}`, fenced or not; equal labels are one phrase with several boxes."""
    text = _answer_text(line)
    fenced = _FENCED.search(text)
    written = fenced[1] if fenced else text.strip()
    if not written.startswith(("[", "{")):  # it found nothing, and says so
        return RawAnswer(text.strip(), _asked_or_found([], sample))
    try:
        value = parse_json(written)
    except (ValueError, RecursionError):
        raise DataError("the answer begins a JSON list of boxes and is none") from None
    boxes: dict[str, list[Any]] = {}
    for one in value if isinstance(value, list) else [value]:
        label = _string(one.get("label", ""), "a label").strip()
        boxes.setdefault(label, []).append(_scaled(one["bbox_2d"], line.get("input_size"), sample.image_size_wh))
    found = [(label, tuple(several)) for label, several in boxes.items()]
    around = f"{text[: fenced.start()]} {text[fenced.end() :]}" if fenced else ""
    return RawAnswer(" ".join(around.split()) or listed([*filter(None, boxes)] or [""]), _asked_or_found(found, sample))


def _scaled(box: Any, input_size: Any, image_size_wh: tuple[int, int]) -> Any:
    """A box in pixels of what the model was shown, if its size is told, as one in pixels of the image."""
    if input_size is None or len(_list(box, "bbox_2d")) != 4:  # which is refused with the others
        return box
    shares = [size / shown_size for size, shown_size in zip(image_size_wh, _size(input_size), strict=True)] * 2
    return [value * share for value, share in zip(box, shares, strict=True)]


def _size(value: Any) -> list[float]:
    sizes = _list(value, "input_size")
    if len(sizes) != 2 or not all(type(size) in (int, float) and 0 < size < _MOST_PIXELS for size in sizes):
        raise DataError(f"input_size must be the width and height the model was shown, got {shown(value)}")
    return sizes


def _glamm(line: Mapping[str, Any], sample: BenchmarkSample) -> RawAnswer:
    text = _answer_text(line)
    masks = _list(line.get("pred_masks", line.get("masks", [])), "pred_masks")
    if "phrases" in line:  # as its evaluation writes answers, of which the text has no marks any more
        words = [_string(one, "a phrase") for one in _list(line["phrases"], "phrases")]
        if len(words) != len(masks):
            raise DataError(f"pred_masks must have one mask per phrase, got {len(masks)} for {len(words)}")
        return RawAnswer(text, tuple(RawPhrase(one, (None,), (mask,)) for one, mask in zip(words, masks, strict=True)))
    phrases, used = [], 0
    for match in _GLAMM.finditer(text):
        count = len(_SEG.findall(match["segs"]))
        mine = tuple(masks[used : used + count])
        if len(mine) != count:
            raise DataError(f"pred_masks must have one mask per [SEG], got {len(masks)}")
        phrases.append(RawPhrase(match["words"].strip(), (None,) * count, mine))
        used += count
    if used != len(masks):
        raise DataError(f"pred_masks must have one mask per [SEG] behind a phrase, got {len(masks)} for {used}")
    return RawAnswer(_untagged(text), tuple(phrases))


def _untagged(text: str) -> str:
    return " ".join(_TAG.sub(" ", text).split()).replace(" .", ".").replace(" ,", ",")


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list):
        raise DataError(f"{what} must be a list, got {shown(value)}")
    return value


def _string(value: Any, what: str) -> str:
    if not isinstance(value, str) or len(value) > _MOST_TEXT:
        raise DataError(f"{what} must be a text of at most {_MOST_TEXT:,} characters, got {shown(value)}")
    return value


_ALL = (
    Adapter(
        "plain", "pixels", '{"id", "text", "phrases": [{"text", "regions": [{"box", "score", "mask"}]}]}', parse=_plain
    ),
    Adapter(
        "original", "fraction", '{"question_id", "text", "text_boxes": "a dog [x0,y0,x1,y1;...] runs"}', parse=_original
    ),
    Adapter("llava", "square-fraction", '{"id", "text": "a dog [0.12, 0.30, 0.45, 0.80] runs"}', parse=_bracketed),
    Adapter("shikra", "square-fraction", '{"id", "text": "a dog[0.120,0.301,0.452,0.800;...]"}', parse=_bracketed),
    Adapter("ferret", "per-mille", '{"id", "text": "a dog [120, 301, 452, 800] runs"}', parse=_bracketed),
    Adapter(
        "kosmos-2", "fraction", '{"id", "text": "<phrase>a dog</phrase><object><patch_index_0044>..."}', parse=_kosmos
    ),
    Adapter(
        "qwen-vl",
        "per-mille",
        '{"id", "text": "<ref>a dog</ref><box>(120,301),(452,800)</box>"}',
        parse=_tagged(_QWEN_BOX),
    ),
    Adapter(
        "qwen2.5-vl",
        "pixels",
        '{"id", "input_size": [644, 476], "text": "[{\\"bbox_2d\\": [77,143,291,380], \\"label\\": \\"a dog\\"}]"}',
        parse=_json_boxes,
    ),
    Adapter(
        "qwen3-vl",
        "per-mille",
        '{"id", "text": "[{\\"bbox_2d\\": [120,301,452,800], \\"label\\": \\"a dog\\"}]"}',
        parse=_json_boxes,
    ),
    Adapter(
        "internvl",
        "per-mille",
        '{"id", "text": "<ref>a dog</ref><box>[[120,301,452,800]]</box>"}',
        parse=_tagged(_INTERNVL_BOX),
    ),
    Adapter("glamm", "pixels", '{"id", "text": "<p> a dog </p> [SEG]", "pred_masks": [{"size", "counts"}]}', _glamm),
)
ADAPTERS: Mapping[str, Adapter] = {one.name: one for one in _ALL}
