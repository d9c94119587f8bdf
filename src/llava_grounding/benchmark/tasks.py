"""What a task is, and the public list of tasks. Adding one is one file: a subclass of `Task`, and its line in `TASKS`.

A task says what is asked about a sample, what an answer is worth, and which numbers are made of that. Who answers is
the business of `systems`, who judges of `judging`, what is shown of `results`. Imports no task: listing them is quick.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, ClassVar

from llava_grounding.errors import UsageError, did_you_mean, shown

if TYPE_CHECKING:
    from llava_grounding.benchmark.building import BuildInputs
    from llava_grounding.benchmark.judging import Judge, JudgeQuestion, Verdict
    from llava_grounding.benchmark.predictions import Prediction
    from llava_grounding.benchmark.report import Metric
    from llava_grounding.benchmark.samples import BenchmarkSample, SampleSet
    from llava_grounding.benchmark.scores import SampleScore, Statistic
    from llava_grounding.visual_prompts import VisualPrompt


@dataclass(frozen=True)
class Ask:
    """What a system is given beside the image: a question, or phrases to be found.

    Args:
        prompts: what the k-th `<region>` of the question points at.
        grounded: whether regions are asked for.
        also_plain: whether the question is asked once more without regions.
        phrases: found one after the other, instead of a question.
        marks: instances whose numbers are drawn into the picture first.
    """

    question: str = ""
    prompts: tuple[VisualPrompt, ...] = ()
    grounded: bool = True
    also_plain: bool = False
    phrases: tuple[str, ...] = ()
    marks: tuple[int, ...] = ()

    @property
    def num_questions(self) -> int:
        """Phrases count one by one, and a question once more where it is asked again."""
        return 1 + self.also_plain if self.question else len(self.phrases)


@dataclass(frozen=True)
class Scored:
    """Scores in the order of the samples, and what a judge was asked for them."""

    scores: tuple[SampleScore, ...]
    questions: tuple[JudgeQuestion, ...] = ()
    verdicts: tuple[Verdict | None, ...] = ()


class Task(ABC):
    """One kind of measurement.

    Attributes:
        name: on the command line.
        title: in reports.
        in_a_line: what it measures, for lists; those that ship have it in `TASKS`, which imports none of them.
        table: of the paper, where it has one.
        rules_version: changes whenever the same predictions may get other numbers.
        rules: a sentence or two on how it is counted.
        pictures: where its pictures are, if it brings them; else `run` is told with `--images`.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    in_a_line: ClassVar[str] = ""
    table: ClassVar[str] = ""
    rules_version: ClassVar[str] = "1"
    rules: ClassVar[str]
    pictures: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        if cls.score is Task.score and cls.score_all is Task.score_all:  # found out before minutes of asking
            raise TypeError(f"{cls.__name__} must have `score`, or `score_all` where samples are scored together")

    @abstractmethod
    def build(self, inputs: BuildInputs) -> SampleSet:
        """Samples from files as they are published.

        Raises:
            UsageError: saying which files it needs.
            DataError: if one of them cannot be used.
        """

    def ask(self, sample: BenchmarkSample) -> Ask:
        """What a system is asked about a sample: its question, or else its phrases."""
        if sample.question:
            return Ask(sample.question, sample.visual_prompts(), marks=sample.marks)
        return Ask(phrases=tuple(phrase.text for phrase in sample.phrases))

    def score(self, sample: BenchmarkSample, prediction: Prediction) -> SampleScore:
        """What an answer is worth; of a task that scores its samples one by one, without a judge."""
        raise NotImplementedError

    def score_all(
        self, samples: Sequence[BenchmarkSample], predictions: Sequence[Prediction | None], judge: Judge
    ) -> Scored:
        """Scores of all samples; one without a usable prediction is counted as such and has no rows.

        A task of which a judge or all samples together decide has this in place of `score`.
        """
        scores = [
            unanswered(sample, prediction)
            if prediction is None or prediction.error is not None
            else self.score(sample, prediction)
            for sample, prediction in zip(samples, predictions, strict=True)
        ]
        return Scored(tuple(scores))

    @abstractmethod
    def statistics(self, rows: Collection[str]) -> list[Statistic]:
        """The numbers, given the names of the rows that there are."""

    def extra_metrics(
        self, samples: Sequence[BenchmarkSample], predictions: Sequence[Prediction | None]
    ) -> list[Metric]:
        """Numbers that are no sums over samples, such as average precision; without intervals."""
        return []


def unanswered(sample: BenchmarkSample, prediction: Prediction | None) -> SampleScore:
    """The score of a sample without an answer: counted, never taken for wrong."""
    from llava_grounding.benchmark.scores import SampleScore

    detail = {} if prediction is None else {"error": prediction.error}
    return SampleScore(
        sample.id, sample.image, sample.kind, state="missing" if prediction is None else "failed", detail=detail
    )


@dataclass(frozen=True)
class TaskPlace:
    """A task of this package that is imported once it is asked for.

    Args:
        place: its module in here, and its class.
        in_a_line: as of a `Task`.
    """

    place: str
    in_a_line: str


TASKS: dict[str, TaskPlace | type[Task]] = {
    "scenes": TaskPlace("quality:Scenes", "Drawn scenes: descriptions, references, short answers."),
    "photos": TaskPlace("quality:Photos", "Photos of a pack: the same, and POPE."),
    "grounding-bench": TaskPlace(
        "grounding_bench:GroundingBench", "Grounded descriptions, chat scores, phrases (table 4)."
    ),
    "referring": TaskPlace("referring:Referring", "REC and RES: RefCOCO, RefCOCO+, RefCOCOg (table 5)."),
    "generalized-referring": TaskPlace(
        "generalized_referring:GeneralizedReferring", "Several things or none: gRefCOCO."
    ),
    "phrase-grounding": TaskPlace("phrase_grounding:PhraseGrounding", "Flickr30K Entities, R@1, 5, 10 (table 5)."),
    "classification": TaskPlace("classification:Classification", "What click, box, scribble, mask point at (table 7)."),
    "marks": TaskPlace("marks:Marks", "Numbers drawn into the picture (table 6)."),
    "chat": TaskPlace("chat_scores:ChatScores", "LLaVA-Bench, with and without grounding (table 12)."),
    "pope": TaskPlace("yes_no:Pope", "Is there a ...?"),
    "vsr": TaskPlace("yes_no:SpatialStatements", "Spatial statements, true or not."),
    "grounded-captions": TaskPlace("grounded_captions:GroundedCaptions", "GCG: AP50, mIoU, recall, CIDEr, METEOR."),
}
"""Tasks by name: the class of each, or where it is. A program adds its own by `register_task`."""

DEFAULT_SCENES = 300
"""How many scenes `scenes` asks about where no limit is given."""


def register_task(task: type[Task]) -> None:
    """Add a task under its name."""
    TASKS[task.name] = task


def find_task(name: str) -> Task:
    """The task of this name.

    Raises:
        UsageError: if there is none.
    """
    if name not in TASKS:
        hint = did_you_mean(name, TASKS)
        raise UsageError(f"there is no task {shown(name)}{hint or ';'} known are {', '.join(TASKS)}")
    known = TASKS[name]
    if isinstance(known, TaskPlace):
        module, _, kind = known.place.partition(":")
        known = getattr(import_module(f"llava_grounding.benchmark.{module}"), kind)
    task: Task = known()
    return task
