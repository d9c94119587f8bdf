"""Questions with yes or no: POPE (is there a ...?), and VSR (is this spatial statement true?).

POPE's files (`coco_pope_random.json`: `question_id`, `image`, `text`, `label`), its questions as LLaVA asks them
(`llava_pope_test.jsonl`, of all three kinds and without labels; those come from one of POPE's files) and VSR's
(`image`, `caption`, `label`) are read as they are published; a photo pack has its own. An answer that is neither yes
nor no is wrong.

Source: POPE (arXiv:2305.10355), VSR (arXiv:2205.00363).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar
from urllib.parse import urlsplit

from llava_grounding.benchmark.building import Building, BuildInputs, photo_records, sized
from llava_grounding.benchmark.files import read_lines
from llava_grounding.benchmark.metrics import parse_yes_no, yes_no_row
from llava_grounding.benchmark.predictions import Prediction
from llava_grounding.benchmark.samples import BenchmarkSample, SampleSet
from llava_grounding.benchmark.scores import SampleScore, State, Statistic, yes_no
from llava_grounding.benchmark.tasks import Ask, Task
from llava_grounding.data.record import Record


class _YesNo(Task):
    """Asks for yes or no."""

    rules: ClassVar[str] = (
        "The first yes or no of the answer counts; precision, recall and F1 are of the answer yes. An answer with "
        "neither is unparsable, and wrong."
    )

    def build(self, inputs: BuildInputs) -> SampleSet:
        inputs.need(self.name, ["questions"], ["data"])
        building = Building(inputs, self.name)
        if inputs.questions is not None:
            kind = (inputs.answers or inputs.questions).stem.rpartition("_")[2] if self.name == "pope" else ""
            truths = {} if inputs.answers is None else dict(self._truths(inputs.answers))
            for number, line in read_lines(inputs.questions):
                if inputs.answers is not None and isinstance(line, Mapping) and line.get("category", kind) != kind:
                    building.left_out["question of another kind than the answers"] += 1
                    continue
                found = self._published(line, truths) if isinstance(line, Mapping) else None
                if found is None:
                    building.left_out["line that is no question with an answer"] += 1
                    continue
                image, question, truth = found
                key = str(line.get("question_id", number))
                building.samples.append(_sample(key, image, (1, 1), kind, question, truth, inputs.split))
            return building.finish(inputs.questions.stem)
        records = photo_records(inputs)
        for record, size_wh in sized(records, building):
            for number, (question, truth) in enumerate(self._of_record(record)):
                image = record.image_name or record.id
                building.samples.append(_sample(f"{image}#{number}", image, size_wh, "", question, truth, inputs.split))
        return building.finish(f"{records.name}, {self.title}")

    def _truths(self, path: Path) -> Iterator[tuple[tuple[str, str], str]]:
        """Image and question, and the label, of the lines of another file."""
        for _, line in read_lines(path):
            found = self._published(line, {}) if isinstance(line, Mapping) else None
            if found is not None:
                yield found[:2], "yes" if found[2] else "no"

    @abstractmethod
    def _published(
        self, line: Mapping[str, Any], truths: Mapping[tuple[str, str], str]
    ) -> tuple[str, str, bool] | None:
        """Image, question and truth of a line; None if it is none.

        Args:
            truths: labels by image and question, of lines that have none.
        """

    @abstractmethod
    def _of_record(self, record: Record) -> Iterator[tuple[str, bool]]:
        """Questions about a photo with their truth."""

    def ask(self, sample: BenchmarkSample) -> Ask:
        return Ask(sample.question, grounded=False)

    def score(self, sample: BenchmarkSample, prediction: Prediction) -> SampleScore:
        said, truth = parse_yes_no(prediction.text), sample.answer == "yes"
        row = yes_no_row(said, truth)
        state: State = "answered" if said is not None else "unparsable" if prediction.text.strip() else "empty"
        rows = {"all": row} | ({sample.kind: row} if sample.kind else {})
        detail = {"question": f"{sample.question} ({sample.answer})", "text": prediction.text[:200]}
        return SampleScore(
            sample.id, sample.image, sample.kind, state=state, rows=rows, quality=float(said is truth), detail=detail
        )

    def statistics(self, rows: Collection[str]) -> list[Statistic]:
        kinds = sorted(name for name in rows if name != "all")
        return [one for name in ("all", *kinds) for one in yes_no(self.title if name == "all" else name, name)]


class Pope(_YesNo):
    """Whether things are there that are, and are not."""

    name: ClassVar[str] = "pope"
    title: ClassVar[str] = "POPE"

    def _published(
        self, line: Mapping[str, Any], truths: Mapping[tuple[str, str], str]
    ) -> tuple[str, str, bool] | None:
        question, label, image = (
            line.get("text", line.get("question")),
            line.get("label", line.get("answer")),
            line.get("image"),
        )
        if not isinstance(question, str) or not isinstance(image, str):
            return None
        if label is None:  # how to answer stands in a line of its own
            label = truths.get((image, question.partition("\n")[0]))
        return None if label not in ("yes", "no") else (image, question, label == "yes")

    def _of_record(self, record: Record) -> Iterator[tuple[str, bool]]:
        yield from ((question, truth == "yes") for question, truth in record.questions)


class SpatialStatements(_YesNo):
    """Whether statements about where things are hold."""

    name: ClassVar[str] = "vsr"
    title: ClassVar[str] = "VSR"

    def _published(
        self, line: Mapping[str, Any], truths: Mapping[tuple[str, str], str]
    ) -> tuple[str, str, bool] | None:
        statement, label, image = line.get("caption"), line.get("label"), line.get("image_link", line.get("image"))
        if not isinstance(statement, str) or label not in (0, 1) or not isinstance(image, str):
            return None
        return PurePosixPath(urlsplit(image).path).name, as_question(statement), label == 1

    def _of_record(self, record: Record) -> Iterator[tuple[str, bool]]:
        yield from ((as_question(statement), truth) for statement, truth in record.statements)


def as_question(statement: str) -> str:
    """A statement as what is asked."""
    return f"Is this true? {statement.strip()} Answer yes or no."


def _sample(
    key: str, image: str, size_wh: tuple[int, int], kind: str, question: str, truth: bool, split: str
) -> BenchmarkSample:
    return BenchmarkSample(key, image, size_wh, kind, question, answer="yes" if truth else "no", split=split)
