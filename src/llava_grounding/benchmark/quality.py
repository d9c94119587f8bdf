"""`scenes` and `photos`: everything that can be asked of an image, of a model beside baselines that do not look at it.

Kinds of samples: `describe`, `refer` (phrases that mean one instance), `POPE`, and the kinds of short questions
(`count`, `colour`, `region`, ...). What answers are worth is in `quality_scores`. Knows no tensors and no result files.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from typing import ClassVar

import numpy as np
from PIL.Image import Image

from llava_grounding.benchmark.baselines import AnsweringSystem, CentreBoxBaseline, MostFrequentAnswerBaseline
from llava_grounding.benchmark.building import Building, BuildInputs, referring_phrases, sized, spread
from llava_grounding.benchmark.judging import DeterministicJudge, Judge
from llava_grounding.benchmark.predictions import Prediction
from llava_grounding.benchmark.quality_scores import (
    DESCRIPTION,
    POPE,
    described,
    found_references,
    short_answer,
    statistics,
    truth_of,
    with_captions,
)
from llava_grounding.benchmark.results import Results
from llava_grounding.benchmark.runs import OnProgress, answer_block
from llava_grounding.benchmark.samples import BenchmarkSample, LabelledInstance, LabelledPhrase, SampleSet
from llava_grounding.benchmark.scored_runs import results_of_runs, score_run
from llava_grounding.benchmark.scores import SampleScore, Statistic
from llava_grounding.benchmark.systems import ChatSystem
from llava_grounding.benchmark.tasks import DEFAULT_SCENES, Ask, Scored, Task
from llava_grounding.data.images import ImageStore, open_images
from llava_grounding.data.readers.coco import PhotoPack
from llava_grounding.data.sample import Sample, Turn
from llava_grounding.dialogues.photos import photo_sample
from llava_grounding.language.nouns import Lexicon, lexicon_with
from llava_grounding.markup import strip_markup
from llava_grounding.masks import encode_rle, resize_mask
from llava_grounding.scenes.categories import CATEGORIES
from llava_grounding.scenes.records import HELD_OUT, SCENE_PICTURES, ScenePictures
from llava_grounding.scenes.synthetic import draw_scene
from llava_grounding.structures import GroundedAnswer, VisualPrompt
from llava_grounding.visual_prompts import prompt_to_dict

FIRST_UNSEEN_SEED = HELD_OUT + 10**6
"""Training draws scenes with seeds below `HELD_OUT` and chooses its thresholds on those from there on."""

DESCRIBE = "Describe the image."
_MOST_REFERRED = 4  # of one image
_SHORT_KINDS = ("count", "colour", "where", "absent", "relation")
_NOTES = (
    "Intervals are 95 % bootstrap intervals over images.",
    "Small things have a box under 1 % of the image, large ones from 10 %; regions and descriptions are doubtful where "
    "the model says so of itself.",
)
_PHOTO_NOTE = "Regions whose phrase names only categories that were not labelled in the photo are not judged."

_MOST_DRAWN = 20  # descriptions


OnDrawn = Callable[[str, Image], None]
"""Called with the number of a photo in its split, or the seed of a scene, and its description drawn into it."""


class _Quality(Task):
    """A description, phrases that mean one thing, and short questions about every image."""

    rules: ClassVar[str] = (
        "A region is right when it overlaps an instance by IoU 0.5 or more and its phrase's head noun, or a synonym, "
        "names the instance's category; precision and recall count all regions and all labelled instances."
    )

    def words(self, sample: BenchmarkSample) -> Lexicon:
        """Which categories a phrase names."""
        return lexicon_with(one.category for one in sample.instances)

    def ask(self, sample: BenchmarkSample) -> Ask:
        ask = super().ask(sample)
        if sample.kind == DESCRIPTION:
            return replace(ask, also_plain=bool(sample.references))
        return replace(ask, also_plain=bool(sample.question) and sample.kind != POPE and not sample.prompts)

    def score(self, sample: BenchmarkSample, prediction: Prediction) -> SampleScore:
        if sample.kind == DESCRIPTION:
            return described(sample, prediction, self.words(sample))
        return (
            found_references(sample, prediction)
            if sample.phrases
            else short_answer(sample, prediction, self.words(sample))
        )

    def score_all(
        self, samples: Sequence[BenchmarkSample], predictions: Sequence[Prediction | None], judge: Judge
    ) -> Scored:
        scores = super().score_all(samples, predictions, judge).scores
        counted = (
            replace(score, questions=self.ask(sample).num_questions)
            for sample, score in zip(samples, scores, strict=True)
        )
        return Scored(tuple(with_captions(samples, predictions, counted)))

    def statistics(self, rows: Collection[str]) -> list[Statistic]:
        return statistics(rows)


class Scenes(_Quality):
    """Drawn scenes that nobody has trained on."""

    name: ClassVar[str] = "scenes"
    title: ClassVar[str] = "Scenes"
    pictures: ClassVar[str] = SCENE_PICTURES

    def words(self, sample: BenchmarkSample) -> Lexicon:
        return _scene_words(frozenset(one.category for one in sample.instances if one.category not in CATEGORIES))

    def build(self, inputs: BuildInputs) -> SampleSet:
        building = Building(replace(inputs, limit=None), self.name)  # the limit is of images
        for seed in _unseen_seeds(inputs.limit or DEFAULT_SCENES, inputs.seed):
            sample = draw_scene(seed)
            said = [strip_markup(turn.answer) for turn in sample.turns if turn.kind == "describe"]
            common = BenchmarkSample(str(seed), f"{seed}.png", sample.image_size_wh)
            building.samples += _samples(sample, common, said[:1])
        return building.finish("unseen drawn scenes", _NOTES)


class Photos(_Quality):
    """A split of a photo pack, evenly spread over it."""

    name: ClassVar[str] = "photos"
    title: ClassVar[str] = "Photos"

    def build(self, inputs: BuildInputs) -> SampleSet:
        inputs.need(self.name, ["data"])
        building = Building(replace(inputs, limit=None), self.name)
        photos = PhotoPack(inputs.data).split(inputs.split)
        number_of = {photos[number].id: number for number in spread(range(len(photos)), inputs.limit)}
        for record, size_wh in sized(photos, building, (photos[number] for number in number_of.values())):
            sample = photo_sample(record, np.random.default_rng([inputs.seed, record.seed]))
            common = BenchmarkSample(
                str(number_of[record.id]),
                record.image_name or record.id,
                size_wh,
                split=inputs.split,
                source=record.source,
            )
            yes_no = [Turn(question, truth, kind=POPE) for question, truth in record.questions]
            building.samples += _samples(sample, common, record.captions, yes_no)
        return building.finish(f"the photo pack's {inputs.split} split", (*_NOTES, _PHOTO_NOTE))


def _unseen_seeds(count: int, seed: int) -> range:
    first = FIRST_UNSEEN_SEED + seed * 10**6
    return range(first, first + count)


@lru_cache(maxsize=64)
def _scene_words(more: frozenset[str]) -> Lexicon:
    """Kinds of the drawn world with their wider words, and names of cut-outs."""
    return Lexicon((*CATEGORIES, *sorted(more)), {one.name: one.group for one in CATEGORIES.values() if one.group})


def _samples(
    sample: Sample, common: BenchmarkSample, references: Sequence[str], yes_no: Sequence[Turn] = ()
) -> Iterator[BenchmarkSample]:
    """What is asked about one image.

    Args:
        common: what its samples share; its id is the number of the image.
        references: descriptions by people, or of the scene.
        yes_no: questions of a published test.
    """
    size_wh, number = common.image_size_wh, common.id
    scale = np.tile(np.array(size_wh) / sample.image_size_wh, 2)
    things = tuple(
        LabelledInstance(
            one.category,
            tuple((one.box_xyxy * scale).tolist()),
            encode_rle(resize_mask(mask, size_wh)) if one.has_mask else None,
        )
        for one, mask in zip(sample.instances, sample.masks, strict=True)
    )
    yield replace(
        common,
        id=f"{number}#{DESCRIPTION}",
        kind=DESCRIPTION,
        question=DESCRIBE,
        instances=things,
        references=tuple(references),
        exhaustive=None if sample.exhaustive is None else tuple(sorted(sample.exhaustive)),
    )
    referring = list(dict(referring_phrases(sample.turns)).items())[:_MOST_REFERRED]
    if referring:
        phrases = tuple(LabelledPhrase(words, (index,)) for words, index in referring)
        yield replace(common, id=f"{number}#refer", kind="refer", phrases=phrases, instances=things)
    for place, turn in enumerate([*_questions(sample), *yes_no]):
        yield replace(
            common,
            id=f"{number}#{turn.kind}.{place}",
            kind=turn.kind,
            question=turn.question,
            prompts=tuple(prompt_to_dict(_scaled(one, scale, size_wh)) for one in turn.prompts),
            # What a name may mean.
            instances=tuple(replace(one, mask=None) for one in things) if turn.prompts else (),
            answer=strip_markup(turn.answer),
        )


def _questions(sample: Sample) -> list[Turn]:
    """The first question of each kind, for yes/no questions the first of either answer; those that point first.

    Of regions only what they are is asked: one prompt, answered by a name.
    """
    chosen: dict[tuple[str, bool | None], Turn] = {}
    for turn in sample.turns:
        truth = strip_markup(turn.answer)
        named = turn.kind == "region" and len(turn.prompts) == 1 and truth.startswith(("It is ", "They are "))
        if turn.grounded and (named or turn.kind in _SHORT_KINDS):
            chosen.setdefault((turn.kind, truth_of(truth)), turn)
    return sorted(chosen.values(), key=lambda turn: not turn.prompts)


def _scaled(prompt: VisualPrompt, scale: np.ndarray, size_wh: tuple[int, int]) -> VisualPrompt:
    """A prompt on a picture that was made smaller, on the picture itself."""
    if prompt.mask is not None:
        return VisualPrompt.mask_of(resize_mask(prompt.mask, size_wh))
    if prompt.box_xyxy is not None:
        return VisualPrompt.box(*(prompt.box_xyxy * scale).tolist())
    assert prompt.points_xy is not None
    points = (prompt.points_xy * scale[:2]).tolist()
    return VisualPrompt.click(*points[0]) if prompt.kind == "click" else VisualPrompt.scribble(points)


def evaluate_scenes(
    chat: AnsweringSystem,
    count: int | None = None,
    seed: int = 0,
    model: str = "model",
    model_hash: str = "",
    baseline_scenes: int = 200,
    on_progress: OnProgress | None = None,
    on_drawn: OnDrawn | None = None,
) -> Results:
    """Scores a chat on drawn scenes it has not been trained on, beside two blind baselines.

    Args:
        count: number of scenes; None = `DEFAULT_SCENES`.
        seed: chooses which scenes, and the bootstrap's draws.
        baseline_scenes: training scenes that the baselines copy from; 0 = no baselines.
        on_progress: called with images done and their number.
        on_drawn: called for at most twenty descriptions, spread over the images that have labels.
    """
    chats = {model: chat, **_baselines([draw_scene(index) for index in range(baseline_scenes)])}
    inputs = BuildInputs(limit=count, seed=seed)
    return _evaluate(Scenes(), inputs, chats, ScenePictures(), model_hash, on_progress, on_drawn)


def evaluate_photos(
    chat: AnsweringSystem,
    pack: PhotoPack,
    limit: int | None = None,
    seed: int = 0,
    model: str = "model",
    model_hash: str = "",
    baseline_photos: int = 300,
    on_progress: OnProgress | None = None,
    on_drawn: OnDrawn | None = None,
) -> Results:
    """Scores a chat on the `val` photos of a pack, beside two blind baselines made from its `train` photos, if any.

    Args:
        limit: number of photos, spread evenly over the split; None = all.
        seed: chooses which questions are made from the labels, and the bootstrap's draws.
        baseline_photos: training photos that the baselines copy from; 0 = no baselines.
        on_progress: called with images done and their number.
        on_drawn: called for at most twenty descriptions, spread over the images that have labels.
    """
    training: list[Sample] = []
    if baseline_photos and "train" in pack.splits:
        train = pack.split("train")
        some = spread(range(len(train)), baseline_photos)
        training = [photo_sample(train[index], np.random.default_rng(index)) for index in some]
    chats, pictures = {model: chat, **_baselines(training)}, open_images(pack.root)
    inputs = BuildInputs(data=pack.root, images=pack.root, limit=limit, seed=seed)
    return _evaluate(Photos(), inputs, chats, pictures, model_hash, on_progress, on_drawn)


def _baselines(training: Sequence[Sample]) -> dict[str, AnsweringSystem]:
    if not training:
        return {}
    found = CentreBoxBaseline(training), MostFrequentAnswerBaseline(training)
    return {baseline.name: baseline for baseline in found}


def _evaluate(
    task: Task,
    inputs: BuildInputs,
    chats: Mapping[str, AnsweringSystem],
    pictures: ImageStore,
    model_hash: str,
    on_progress: OnProgress | None,
    on_drawn: OnDrawn | None,
) -> Results:
    """The steps of a task for several systems at once, image by image, without files; the first is the model."""
    samples, judge = task.build(inputs), DeterministicJudge()
    model, *baselines = chats
    systems = {name: ChatSystem(chat, pictures) for name, chat in chats.items()}
    if on_drawn is not None:
        systems[model] = ChatSystem(chats[model], pictures, on_answer=_drawing(samples.samples, on_drawn))
    predictions: dict[str, dict[str, Prediction]] = {name: {} for name in systems}
    images = [tuple(group) for _, group in groupby(samples.samples, key=lambda one: one.image)]
    for done, image in enumerate(images, start=1):
        for name, system in systems.items():
            for block in (image[:1], image[1:]):  # a description alone, for its seconds
                predictions[name] |= {one.id: one for one in answer_block(system, task, block)}
        if on_progress is not None:
            on_progress(done, len(images))
    abouts = [{"kind": "model", "model": model, "model_hash": model_hash}]
    abouts += [{"kind": "baseline", "name": name} for name in baselines]
    runs = [score_run(samples, predictions[name], judge, about) for name, about in zip(chats, abouts, strict=True)]
    return results_of_runs(runs, inputs.seed)


def _drawing(
    samples: Sequence[BenchmarkSample], on_drawn: OnDrawn
) -> Callable[[BenchmarkSample, np.ndarray, GroundedAnswer], None]:
    """What draws some descriptions, spread evenly over the labelled images, as they are answered."""
    described = [one.id for one in samples if one.kind == DESCRIPTION and one.instances]
    chosen = frozenset(spread(described, _MOST_DRAWN))

    def draw(sample: BenchmarkSample, picture: np.ndarray, answer: GroundedAnswer) -> None:
        if sample.id in chosen:
            on_drawn(sample.id.partition("#")[0], answer.draw(picture))

    return draw
