"""What an answer of `scenes` and `photos` is worth, and the numbers that are made of it.

Knows no model and asks nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from llava_grounding.benchmark.captions import cider_d
from llava_grounding.benchmark.grounding import (
    Matched,
    box_overlaps,
    mask_overlaps,
    match_answer,
    scored_regions,
    shown_case,
)
from llava_grounding.benchmark.judging import verdict_by_names
from llava_grounding.benchmark.metrics import (
    box_hits_at_50,
    exact_match,
    first_number,
    overlap_iou,
    parse_yes_no,
    share_statistic,
    words_among,
    yes_no_row,
)
from llava_grounding.benchmark.predictions import Prediction
from llava_grounding.benchmark.referring import joined_pixels
from llava_grounding.benchmark.samples import BenchmarkSample
from llava_grounding.benchmark.scores import SampleScore, State, Statistic, grounding_counts, share, yes_no
from llava_grounding.geometry import box_area
from llava_grounding.language.nouns import Lexicon
from llava_grounding.scenes.categories import CATEGORIES

DESCRIPTION, POPE = "describe", "POPE"
"""Kinds of samples."""
BY_BOX, BY_MASK = "grounded_box", "grounded_mask"
"""Rows of `GroundingCounts`."""
MASK_IOU = "mask_iou_of_right_regions"
NOT_JUDGED = "regions_not_judged"
REFERRING_BOX, REFERRING_MASK, REFERRING_CIOU = (
    "referring_box_at_50",
    "referring_mask_mean_iou",
    "referring_mask_cumulative_iou",
)
OBJECTS_PRECISION, OBJECTS_RECALL = "objects_precision", "objects_recall"
IN_WORDS = "words_right"
SECONDS = "seconds_per_description"
PLAIN = "_without_regions"
"""Ends the key of what was asked for without regions."""
SOURCE, SHORT = "source_", "short_"
"""Open the keys of rows that there is one of per source and kind of question."""
YES_NO = {"pope": "POPE", "yes_no": "yes/no"}
"""Keys of questions answered by yes or no, and how they are printed."""
SIZES = (("small", 0.0, 0.01), ("medium", 0.01, 0.1), ("large", 0.1, np.inf))
"""Names of things by their box's share of the image, from and below."""
_CIDER = "cider_d"
_COLOURS = frozenset(colour for one in CATEGORIES.values() for colour in one.colours) | {"gray"}

Rows = dict[str, tuple[float, ...]]


def described(sample: BenchmarkSample, prediction: Prediction, words: Lexicon) -> SampleScore:
    """A grounded description: its regions, and the things it speaks of; its words are for `with_captions`.

    Args:
        words: which categories a phrase names.
    """
    rows = _objects(sample, prediction.text, words)
    if prediction.seconds is not None:
        rows[SECONDS] = (prediction.seconds, 1.0)
    empty = not prediction.text.strip()
    score = SampleScore(sample.id, sample.image, sample.kind, "empty" if empty else "answered", rows)
    if not sample.instances:
        return replace(score, detail=shown_case(sample, prediction, None))
    named = [words.categories_of(phrase.text) for phrase in prediction.phrases]
    categories = [one.category for one in sample.instances]
    pairs = product(range(len(named)), range(len(categories)))
    verdict = verdict_by_names(named, categories, pairs, sample.exhaustive)
    left_out = frozenset(verdict.left_out)
    matched = match_answer(sample, prediction, box_overlaps(sample, prediction), verdict.right, left_out)
    rows[BY_BOX] = rows[f"{SOURCE}{sample.source}"] = matched.counts.row()
    if sample.has_masks:
        (overlaps,) = mask_overlaps([(sample, prediction)])
        rows[BY_MASK] = match_answer(sample, prediction, overlaps, verdict.right, left_out).counts.row()
    if matched.left_out:
        rows[NOT_JUDGED] = (matched.left_out,)
    _add_mask_ious(rows, sample, prediction, matched)
    _add_doubt(rows, prediction, matched, left_out)
    _add_sizes(rows, sample, {instance for _, _, instance in matched.pairs})
    return replace(
        score,
        regions=scored_regions(prediction, matched, left_out),
        quality=matched.counts.f1,
        detail=shown_case(sample, prediction, matched),
    )


def _add(rows: Rows, name: str, value: float, count: float = 1.0) -> None:
    before = rows.get(name, (0.0, 0.0))
    rows[name] = (before[0] + value, before[1] + count)


def _objects(sample: BenchmarkSample, text: str, words: Lexicon) -> Rows:
    """The categories that the text names against those present; what nobody labelled is left out."""
    present = frozenset(one.category for one in sample.instances)
    named: set[str] = set()
    for mention in words.find(text):
        here = [name for name in mention.categories if name in present]
        judgeable = [name for name in mention.categories if sample.exhaustive is None or name in sample.exhaustive]
        named.update(here or judgeable[:1])
    right = len(named & present)
    # 1 - precision is CHAIR (arXiv:1809.02156)
    return {OBJECTS_PRECISION: (right, len(named)), OBJECTS_RECALL: (right, len(present))}


def _add_mask_ious(rows: Rows, sample: BenchmarkSample, prediction: Prediction, matched: Matched) -> None:
    """Overlap of the right regions' masks, where there are two."""
    for phrase, region, instance in matched.pairs:
        mask, truth = prediction.phrases[phrase].regions[region].mask, sample.instances[instance].mask
        if mask is not None and truth is not None:
            _add(rows, MASK_IOU, overlap_iou(*joined_pixels([mask], [truth])))


def _add_doubt(rows: Rows, prediction: Prediction, matched: Matched, left_out: Collection[int]) -> None:
    """Rightness of regions, and of the whole description, by what the system says of itself."""
    right = {(phrase, region) for phrase, region, _ in matched.pairs}
    judged = [
        (phrase.doubtful, (place, number) in right)
        for place, phrase in enumerate(prediction.phrases)
        if place not in left_out
        for number in range(len(phrase.regions))
    ]
    for doubtful, hit in judged:
        _add(rows, _regions_row(doubtful), hit)
    if judged:
        _add(rows, _descriptions_row(prediction.doubtful), bool(right))


def _add_sizes(rows: Rows, sample: BenchmarkSample, found: Collection[int]) -> None:
    """Labelled instances by their box's share of the image."""
    width, height = sample.image_size_wh
    for index, part in enumerate((box_area(sample.boxes_xyxy()) / (width * height)).tolist()):
        _add(rows, _of_size(next(name for name, low, high in SIZES if low <= part < high)), index in found)


def found_references(sample: BenchmarkSample, prediction: Prediction) -> SampleScore:
    """Phrases that mean one instance each: the best region against its box and mask."""
    rows: Rows = {}
    for asked, found in zip(sample.phrases, prediction.phrases, strict=True):
        best = found.regions[0] if found.regions else None
        truth = sample.instances[asked.targets[0]]
        (hit,) = box_hits_at_50(
            [None if best is None else np.array(best.box_xyxy)], [np.array(truth.box_xyxy, dtype=np.float64)]
        )
        _add(rows, REFERRING_BOX, hit)
        if truth.mask is not None:
            both, either = joined_pixels([] if best is None or best.mask is None else [best.mask], [truth.mask])
            _add(rows, REFERRING_MASK, overlap_iou(both, either))
            before = rows.get(REFERRING_CIOU, (0.0, 0.0, 0.0))
            rows[REFERRING_CIOU] = (before[0] + both, before[1] + either, before[2] + 1)
    state: State = "answered" if any(one.regions for one in prediction.phrases) else "empty"
    return SampleScore(sample.id, sample.image, sample.kind, state, rows)


def short_answer(sample: BenchmarkSample, prediction: Prediction, words: Lexicon) -> SampleScore:
    """A short answer under its kind, and what is asked in words alone once more without regions."""
    said, truth = prediction.text, truth_of(sample.answer)
    name, right = _right(sample, said, words)
    rows: Rows = (
        {f"{SHORT}{name}": (float(right is True), 1.0)}
        if truth is None
        else {name: yes_no_row(parse_yes_no(said), truth)}
    )
    if sample.kind != POPE and not sample.prompts:
        rows[IN_WORDS] = (float(right is True), 1.0)
        if prediction.plain_text is not None:
            rows[IN_WORDS + PLAIN] = (float(_right(sample, prediction.plain_text, words)[1] is True), 1.0)
    state: State = "answered" if right is not None else "unparsable"
    return SampleScore(sample.id, sample.image, sample.kind, state, rows)


def _right(sample: BenchmarkSample, said: str, words: Lexicon) -> tuple[str, bool | None]:
    """The key of what is scored, and whether the answer is right; None when it cannot be read."""
    kind, truth = sample.kind, sample.answer
    expected = truth_of(truth)
    if expected is not None:
        opening = parse_yes_no(said)
        return "pope" if kind == POPE else "yes_no", None if opening is None else opening is expected
    if kind == "count":
        number = first_number(said)
        return "count", None if number is None else number == first_number(truth)
    if kind == "colour":
        colours = words_among(said, _COLOURS)
        return "colour", None if not colours else colours == words_among(truth, _COLOURS)
    if kind == "region":
        named = {mention.categories[0] for mention in words.find(said)}
        return "region_naming", None if not named else named == {m.categories[0] for m in words.find(truth)}
    return f"{kind}_exact", exact_match(said, truth)


def truth_of(answer: str) -> bool | None:
    """The truth of an answer that opens with yes or no; None for others."""
    return {"yes": True, "no": False}.get(answer.split(",")[0].strip(". ").lower())


def with_captions(
    samples: Sequence[BenchmarkSample], predictions: Sequence[Prediction | None], scores: Iterable[SampleScore]
) -> list[SampleScore]:
    """The scores with rows of CIDEr-D where there are references; words are weighed by the references of all images."""
    found = list(scores)
    described = [
        (place, sample.references, prediction)
        for place, (sample, prediction) in enumerate(zip(samples, predictions, strict=True))
        if sample.references and sample.kind == DESCRIPTION and prediction is not None and prediction.error is None
    ]
    references = [one for _, one, _ in described]
    grounded = cider_d([prediction.text for *_, prediction in described], references)
    plain = cider_d([prediction.plain_text or "" for *_, prediction in described], references)
    for (place, _, prediction), one, other in zip(described, grounded, plain, strict=True):
        rows = {_CIDER: (one, 1.0)}
        if prediction.plain_text is not None:
            rows[_CIDER + PLAIN] = (other, 1.0)
        found[place] = replace(found[place], rows={**found[place].rows, **rows})
    return found


def statistics(rows: Collection[str]) -> list[Statistic]:
    """The numbers in the order of printing, given the keys of the rows that there are."""

    def kinds(opening: str) -> list[str]:
        return sorted(row.removeprefix(opening) for row in rows if row.startswith(opening))

    sources = kinds(SOURCE)
    found = [*grounding_counts("box IoU 0.5", BY_BOX), *grounding_counts("mask IoU 0.5", BY_MASK)]
    if len(sources) > 1:
        for source in sources:
            f1 = grounding_counts("", f"{SOURCE}{source}")[-1]
            found.append(replace(f1, name=f"grounded F1 of {source or 'no source'}"))
    found += [share(f"grounded recall of {name} things", _of_size(name)) for name, _, _ in SIZES]
    found.append(share("mask IoU of right regions", MASK_IOU))
    found.append(
        Statistic("regions not judged", NOT_JUDGED, lambda sums: sums[:, 0], 0, False, "regions", has_interval=False)
    )
    if _regions_row(True) in rows:
        for doubtful, word in ((True, "doubtful"), (False, "other")):
            found.append(share(f"precision of {word} regions", _regions_row(doubtful)))
            found.append(share(f"{word} descriptions with a right region", _descriptions_row(doubtful)))
    found += [share("referring box acc@0.5", REFERRING_BOX), share("referring mask mIoU", REFERRING_MASK)]
    found.append(Statistic("referring mask cIoU", REFERRING_CIOU, share_statistic, 2, has_interval=False))
    found += [share("CIDEr-D", _CIDER), share("CIDEr-D, without regions", _CIDER + PLAIN)]
    if BY_BOX in rows:  # else nothing is labelled
        found += [share("objects named: precision", OBJECTS_PRECISION), share("objects named: recall", OBJECTS_RECALL)]
    found.append(share("answers in words right", IN_WORDS))
    found.append(share("answers in words right, without regions", IN_WORDS + PLAIN))
    found += [share(f"{kind.replace('_', ' ')} accuracy", f"{SHORT}{kind}") for kind in kinds(SHORT)]
    for row, test in YES_NO.items():
        accuracy, _, _, f1, said_yes = yes_no(test, row)
        found += [accuracy, replace(f1, has_interval=False), replace(said_yes, has_interval=False)]
    found.append(Statistic("seconds per description", SECONDS, share_statistic, 1, False, "s", has_interval=False))
    return found


def _of_size(name: str) -> str:
    return f"grounded_recall_of_{name}"


def _regions_row(doubtful: bool) -> str:
    return "doubtful_regions" if doubtful else "other_regions"


def _descriptions_row(doubtful: bool) -> str:
    """Row of whole descriptions, which count as right where any region is."""
    return "doubtful_descriptions" if doubtful else "other_descriptions"
