"""The quality report of the small model: one item per sample, the same for the model and for baselines that are blind.

Asks a chat (anything with the `Chat` protocol) about unseen drawn scenes or held-out photos and hands the answers to
`quality_statistics`. Knows no tensors; the judge is `judge.py`, the arithmetic `metrics.py` and `scores.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

import numpy as np
from PIL.Image import Image

import llava_grounding
from llava_grounding.benchmark.baselines import CentreBoxBaseline, Chat, MostFrequentAnswerBaseline, Request
from llava_grounding.benchmark.building import referring_phrases, spread
from llava_grounding.benchmark.judge import Judgement, judge_answer
from llava_grounding.benchmark.metrics import (
    box_hits_at_50,
    exact_match,
    first_number,
    mask_overlap,
    overlap_iou,
    parse_yes_no,
    words_among,
    yes_no_row,
)
from llava_grounding.benchmark.quality_statistics import (
    BY_BOX,
    BY_MASK,
    IN_WORDS,
    MASK_IOU,
    NOT_JUDGED,
    OBJECTS_PRECISION,
    OBJECTS_RECALL,
    PLAIN,
    REFERRING_BOX,
    REFERRING_CIOU,
    REFERRING_MASK,
    SECONDS,
    SHORT,
    SOURCE,
    YES_NO,
    ImageCounts,
    summarise,
)
from llava_grounding.benchmark.report import Report
from llava_grounding.data.readers.coco import PhotoPack
from llava_grounding.data.record import Record
from llava_grounding.data.sample import Sample, Turn
from llava_grounding.dialogues.photos import photo_sample
from llava_grounding.errors import LlavaGroundingError
from llava_grounding.geometry import box_area
from llava_grounding.language.nouns import Lexicon, lexicon_with
from llava_grounding.markup import strip_markup
from llava_grounding.scenes.kinds import KINDS
from llava_grounding.scenes.records import HELD_OUT
from llava_grounding.scenes.synthetic import draw_scene
from llava_grounding.structures import GroundedAnswer, GroundedPhrase, VisualPrompt

FIRST_UNSEEN_SEED = HELD_OUT + 10**6
"""Training draws scenes with seeds below `HELD_OUT` and chooses its thresholds on those from there on."""

DESCRIBE = "Describe the image."
_COLOURS = frozenset(colour for kind in KINDS.values() for colour in kind.colours) | {"gray"}
_MAX_REFERRING = 4
_T = TypeVar("_T")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class EvalItem:
    """What is asked about one image, and the truth.

    Args:
        sample: image, instances, masks.
        words: which categories a phrase names.
        turns: short questions with their answers.
        references: descriptions by people, or of the scene.
        polls: yes/no questions of a published test, with the truth.
        source: where the image is from; empty where all are from one place.
    """

    sample: Sample
    words: Lexicon
    turns: tuple[Turn, ...]
    references: tuple[str, ...]
    polls: tuple[tuple[str, bool], ...] = ()
    source: str = ""

    @property
    def referring(self) -> list[tuple[str, int]]:
        """Phrases that mean one instance, with its index."""
        return list(dict(referring_phrases(self.sample.turns)).items())[:_MAX_REFERRING]


def evaluate_scenes(
    chat: Chat,
    count: int,
    seed: int = 0,
    model: str = "model",
    model_hash: str = "",
    baseline_scenes: int = 200,
    on_progress: Progress | None = None,
) -> Report:
    """Scores a chat on drawn scenes it has not been trained on, beside two blind baselines.

    Args:
        count: number of scenes.
        seed: chooses which scenes, and the bootstrap's draws.
        baseline_scenes: training scenes that the baselines copy from; 0 = no baselines.
        on_progress: called with items done and their number.
    """
    first = FIRST_UNSEEN_SEED + seed * 10**6
    items = (_scene_item(draw_scene(first + index)) for index in range(count))
    baselines = _baselines([draw_scene(index) for index in range(baseline_scenes)])
    systems = {model: chat, **baselines}
    return _evaluate(_Run("scenes", "unseen drawn scenes", count, seed, model, model_hash), systems, items, on_progress)


def evaluate_photos(
    chat: Chat,
    pack: PhotoPack,
    limit: int | None = None,
    seed: int = 0,
    model: str = "model",
    model_hash: str = "",
    baseline_photos: int = 300,
    on_progress: Progress | None = None,
) -> Report:
    """Scores a chat on the `val` photos of a pack, beside two blind baselines made from its `train` photos, if any.

    Args:
        limit: number of photos, spread evenly over the split; None = all.
        seed: chooses which questions are made from the labels, and the bootstrap's draws.
        baseline_photos: training photos that the baselines copy from; 0 = no baselines.
        on_progress: called with items done and their number.
    """
    photos = pack.split("val")
    chosen = spread(range(len(photos)), limit)
    items = (_photo_item(photos[index], seed) for index in chosen)
    training: list[Sample] = []
    if baseline_photos and "train" in pack.splits:
        train = pack.split("train")
        some = spread(range(len(train)), baseline_photos)
        training = [photo_sample(train[index], np.random.default_rng(index)) for index in some]
    systems = {model: chat, **_baselines(training)}
    run = _Run("photos", "the photo pack's val split", len(chosen), seed, model, model_hash)
    return _evaluate(run, systems, items, on_progress)


def draw_descriptions(
    chat: Chat, pack: PhotoPack | None, limit: int | None = None, seed: int = 0, count: int = 20
) -> dict[str, Image]:
    """Some of the images of an evaluation, spread evenly over it, with their descriptions drawn into them.

    Args:
        pack: as `evaluate_photos` takes it; None = the scenes of `evaluate_scenes`.
        limit, seed: as in the evaluation.
        count: at most so many; photos that nobody labelled are passed over.

    Returns:
        pictures by number of the image in the split, or by seed of the scene.
    """
    if pack is None:
        seeds = [FIRST_UNSEEN_SEED + seed * 10**6 + index for index in range(limit or count)]
        images = {str(one): draw_scene(one).image for one in spread(seeds, count)}
    else:
        photos = pack.split("val")
        labelled = [index for index in spread(range(len(photos)), limit) if photos[index].instances]
        images = {str(index): _photo_item(photos[index], seed).sample.image for index in spread(labelled, count)}
    return {name: chat.ask(image, DESCRIBE).draw(image) for name, image in images.items()}


@dataclass(frozen=True)
class _Run:
    task: str
    data: str
    num_images: int
    seed: int
    model: str
    model_hash: str


_NOTES = (
    "A region is right when it overlaps an instance by IoU 0.5 or more and its phrase's head noun, or a synonym, names "
    "the instance's category; precision and recall count all regions and all labelled instances.",
    "Intervals are 95 % bootstrap intervals over images.",
    "Small things have a box under 1 % of the image, large ones from 10 %; regions and descriptions are doubtful where "
    "the model says so of itself.",
)
_PHOTO_NOTE = "Regions whose phrase names only categories that were not labelled in the photo are not judged."


def _evaluate(
    run: _Run, systems: Mapping[str, Chat], items: Iterable[EvalItem], on_progress: Progress | None
) -> Report:
    counts: dict[str, list[ImageCounts]] = {name: [] for name in systems}
    for done, item in enumerate(items, start=1):
        for name, chat in systems.items():
            counts[name].append(evaluate_item(chat, item))
        if on_progress is not None:
            on_progress(done, run.num_images)
    return Report(
        task=run.task,
        data=run.data,
        num_images=run.num_images,
        seed=run.seed,
        model=run.model,
        model_hash=run.model_hash,
        version=llava_grounding.__version__,
        results=tuple(summarise(name, counts[name], run.seed) for name in systems),
        notes=(*_NOTES, _PHOTO_NOTE) if run.task == "photos" else _NOTES,
    )


def evaluate_item(chat: Chat, item: EvalItem) -> ImageCounts:
    """Puts one image's questions to a chat; a question it fails on with one of our errors counts as not answered."""
    evaluator = _Evaluator(chat, item.sample.image)
    _describe(evaluator, item)
    _refer(evaluator, item)
    _short_answers(evaluator, item)
    _polls(evaluator, item)
    return evaluator.counts


@dataclass
class _Evaluator:
    """A chat in front of one image, with the count of what it was asked."""

    chat: Chat
    image: np.ndarray
    counts: ImageCounts = field(default_factory=ImageCounts)

    def ask(
        self, question: str, prompts: tuple[VisualPrompt, ...] = (), grounded: bool = True
    ) -> GroundedAnswer | None:
        return self._counted(1, lambda: [self.chat.ask(self.image, question, prompts, grounded)])[0]

    def ask_all(self, questions: Sequence[str], grounded: bool = True) -> list[GroundedAnswer | None]:
        if not questions:
            return []
        requests: list[Request] = [(self.image, text, (), grounded) for text in questions]
        return self._counted(len(questions), lambda: self.chat.ask_batch(requests))

    def ground(self, phrases: Sequence[str]) -> list[GroundedPhrase | None]:
        return self._counted(len(phrases), lambda: self.chat.ground(self.image, phrases)) if phrases else []

    def _counted(self, count: int, work: Callable[[], Sequence[_T]]) -> list[_T | None]:
        self.counts.asked += count
        try:
            answers: list[_T | None] = list(work())
        except LlavaGroundingError:
            return [None] * count
        self.counts.answered += len(answers)
        return answers


def _describe(evaluator: _Evaluator, item: EvalItem) -> None:
    """The grounded description: its regions, the things it speaks of, its words; and one without regions, its words."""
    sample, counts = item.sample, evaluator.counts
    start = time.perf_counter()
    answer = evaluator.ask(DESCRIBE)
    counts.add(SECONDS, time.perf_counter() - start, 1)
    if answer is None:
        answer = GroundedAnswer("", (), sample.image_size_wh, "", "", 0, 0)
    counts.description, counts.references = answer.text, item.references
    plain = evaluator.ask(DESCRIBE, grounded=False) if item.references else None
    counts.plain_description = "" if plain is None else plain.text
    _count_objects(counts, answer.text, item)
    if not sample.instances:
        return
    judged = judge_answer(answer, sample.instances, sample.masks, item.words, sample.exhaustive)
    counts.add(BY_BOX, *judged.counts.row())
    counts.add(f"{SOURCE}{item.source}", *judged.counts.row())
    for iou in judged.mask_ious:
        counts.add(MASK_IOU, iou, 1)
    if judged.unjudged:
        counts.add(NOT_JUDGED, judged.unjudged)
    _enter_regions(counts, answer, judged, sample)
    if all(instance.has_mask for instance in sample.instances):
        by_mask = judge_answer(answer, sample.instances, sample.masks, item.words, sample.exhaustive, "mask")
        counts.add(BY_MASK, *by_mask.counts.row())


def _enter_regions(counts: ImageCounts, answer: GroundedAnswer, judged: Judgement, sample: Sample) -> None:
    """How sure each judged region was, and how large what was found and missed."""
    right = {(phrase, region) for phrase, region, _ in judged.pairs}
    for place, phrase in enumerate(answer.phrases):
        if place not in judged.left_out:
            for number, region in enumerate(phrase.regions):
                counts.add_region(region.score, phrase.doubtful, (place, number) in right)
    counts.add_doubt(answer.doubtful)
    found = {instance for _, _, instance in judged.pairs}
    width, height = sample.image_size_wh
    shares = box_area(np.stack([instance.box_xyxy for instance in sample.instances])) / (width * height)
    for index, share in enumerate(shares):
        counts.add_size(float(share), index in found)


def _count_objects(counts: ImageCounts, text: str, item: EvalItem) -> None:
    """Enter the categories that the text names against those present; what nobody labelled is left out."""
    present = frozenset(instance.category for instance in item.sample.instances)
    exhaustive = item.sample.exhaustive
    named: set[str] = set()
    for mention in item.words.find(text):
        here = [name for name in mention.categories if name in present]
        judgeable = [name for name in mention.categories if exhaustive is None or name in exhaustive]
        named.update(here or judgeable[:1])
    right = len(named & present)
    counts.add(OBJECTS_PRECISION, right, len(named))  # 1 - precision is CHAIR (arXiv:1809.02156)
    counts.add(OBJECTS_RECALL, right, len(present))


def _refer(evaluator: _Evaluator, item: EvalItem) -> None:
    """Referring phrases, each with one instance: the best region against its box and mask."""
    referring = item.referring
    found = evaluator.ground([phrase for phrase, _ in referring])
    for phrase, (_, index) in zip(found, referring, strict=True):
        best = phrase.regions[0] if phrase is not None and phrase.regions else None
        instance = item.sample.instances[index]
        (hit,) = box_hits_at_50([None if best is None else best.box_xyxy], [instance.box_xyxy])
        evaluator.counts.add(REFERRING_BOX, hit, 1)
        if instance.has_mask:
            both, either = mask_overlap(None if best is None else best.mask, item.sample.masks[index])
            evaluator.counts.add(REFERRING_MASK, overlap_iou(both, either), 1)
            evaluator.counts.add(REFERRING_CIOU, both, either, 1)


def _short_answers(evaluator: _Evaluator, item: EvalItem) -> None:
    """Short questions; those in words alone are asked once more without regions."""
    pointed = [turn for turn in item.turns if turn.prompts]
    in_words = [turn for turn in item.turns if not turn.prompts]
    for turn in pointed:
        _score(evaluator, turn, evaluator.ask(turn.question, turn.prompts), item.words)
    texts = [turn.question for turn in in_words]
    grounded, plain = evaluator.ask_all(texts), evaluator.ask_all(texts, grounded=False)
    for turn, answer, again in zip(in_words, grounded, plain, strict=True):
        evaluator.counts.add(IN_WORDS, _score(evaluator, turn, answer, item.words), 1)
        evaluator.counts.add(IN_WORDS + PLAIN, _right(turn, _said(again), item.words)[1] is True, 1)


def _score(evaluator: _Evaluator, turn: Turn, answer: GroundedAnswer | None, words: Lexicon) -> bool:
    """Enter an answer under its kind; whether it is right."""
    counts, said = evaluator.counts, _said(answer)
    name, right = _right(turn, said, words)
    counts.unparsable += answer is not None and right is None
    truth = _opening(strip_markup(turn.answer))
    if truth is None:
        counts.add(f"{SHORT}{name}", bool(right), 1)
    else:
        counts.add(f"{YES_NO}{name}", *yes_no_row(parse_yes_no(said), truth))
    return right is True


def _said(answer: GroundedAnswer | None) -> str:
    return "" if answer is None else answer.text


def _right(turn: Turn, said: str, words: Lexicon) -> tuple[str, bool | None]:
    """What is scored and whether the answer is right; None when it cannot be read."""
    truth = strip_markup(turn.answer)
    expected = _opening(truth)
    if expected is None:
        return _mark(turn.kind, said, truth, words)
    opening = parse_yes_no(said)
    return "yes/no", None if opening is None else opening is expected


def _mark(kind: str, said: str, truth: str, words: Lexicon) -> tuple[str, bool | None]:
    """What is scored and whether the answer is right; None when it cannot be read."""
    if kind == "count":
        number = first_number(said)
        return "count", None if number is None else number == first_number(truth)
    if kind == "colour":
        colours = words_among(said, _COLOURS)
        return "colour", None if not colours else colours == words_among(truth, _COLOURS)
    if kind == "region":
        named = {mention.categories[0] for mention in words.find(said)}
        return "region naming", None if not named else named == {m.categories[0] for m in words.find(truth)}
    return f"{kind} exact", exact_match(said, truth)


def _opening(truth: str) -> bool | None:
    """The truth of an answer that opens with yes or no; None for others."""
    return {"yes": True, "no": False}.get(truth.split(",")[0].strip(". ").lower())


def _polls(evaluator: _Evaluator, item: EvalItem) -> None:
    answers = evaluator.ask_all([question for question, _ in item.polls])
    for answer, (_, truth) in zip(answers, item.polls, strict=True):
        opening = parse_yes_no(_said(answer))
        evaluator.counts.add(f"{YES_NO}POPE", *yes_no_row(opening, truth))
        evaluator.counts.unparsable += answer is not None and opening is None


def _scene_item(sample: Sample) -> EvalItem:
    described = [strip_markup(turn.answer) for turn in sample.turns if turn.kind == "describe"]
    categories = {instance.category for instance in sample.instances}
    return EvalItem(
        sample, _scene_words(frozenset(categories - KINDS.keys())), _questions(sample), tuple(described[:1])
    )


@lru_cache(maxsize=64)
def _scene_words(more: frozenset[str]) -> Lexicon:
    """Kinds of the drawn world with their wider words, and names of cut-outs."""
    return Lexicon((*KINDS, *sorted(more)), {kind.name: kind.group for kind in KINDS.values() if kind.group})


def _photo_item(record: Record, seed: int) -> EvalItem:
    sample = photo_sample(record, np.random.default_rng([seed, record.seed]))
    words = lexicon_with(instance.category for instance in sample.instances)
    polls = tuple((question, truth == "yes") for question, truth in record.questions)
    return EvalItem(sample, words, _questions(sample), record.captions, polls, record.source)


def _questions(sample: Sample) -> tuple[Turn, ...]:
    """The first question of each kind, for yes/no questions the first of either answer.

    Of regions only what they are is asked: one prompt, answered by a name.
    """
    chosen: dict[tuple[str, bool | None], Turn] = {}
    for turn in sample.turns:
        truth = strip_markup(turn.answer)
        named = turn.kind == "region" and len(turn.prompts) == 1 and truth.startswith(("It is ", "They are "))
        if turn.grounded and (named or turn.kind in ("count", "colour", "where", "absent", "relation")):
            chosen.setdefault((turn.kind, _opening(truth)), turn)
    return tuple(chosen.values())


def _baselines(training: Sequence[Sample]) -> dict[str, Chat]:
    if not training:
        return {}
    found = CentreBoxBaseline(training), MostFrequentAnswerBaseline(training)
    return {baseline.name: baseline for baseline in found}
