"""Grounding-Bench from the files of the original: question lists, reference answers, image ids, labels.

Reads `qa90_questions_with_grounding.jsonl` and its like (`question_id`, `image`, `text`, `category`), answers
(`question_id`, `text`), `q_image_set.txt`, and as labels a COCO instances file or `caps_boxes_coco2014_val_80.jsonl`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from llava_grounding.benchmark.building import Building, BuildInputs, labelled, picture_size, rounded_box
from llava_grounding.benchmark.chat_scores import KIND_OF_CATEGORY
from llava_grounding.benchmark.files import read_lines
from llava_grounding.benchmark.samples import BenchmarkSample, LabelledInstance, SampleSet, as_box
from llava_grounding.data.image_names import coco_number
from llava_grounding.data.plain_files import read_file
from llava_grounding.data.readers.coco import CocoPhotos
from llava_grounding.data.readers.gvc import SUFFIX
from llava_grounding.data.readers.parts.files import read_json
from llava_grounding.data.readers.parts.reading import naming
from llava_grounding.errors import VALUE_ERRORS, DataError, shown

_IMAGE_PREFIX = "COCO_val2014_"


@dataclass(frozen=True)
class _ImageLabels:
    """What is known of one image.

    Args:
        things: in pixels, where its size is known.
        things_norm: else category and box_xyxy_norm of each.
    """

    captions: tuple[str, ...]
    name: str = ""
    size_wh: tuple[int, int] | None = None
    things: tuple[LabelledInstance, ...] = ()
    things_norm: tuple[tuple[str, tuple[float, ...]], ...] = ()


_Labels = Mapping[int | str | None, _ImageLabels]


def official_samples(inputs: BuildInputs) -> SampleSet:
    """A set of these files; images of the list of ids without a question of their own are asked to be described."""
    from llava_grounding.benchmark.grounding_bench import DESCRIBE

    assert inputs.questions is not None
    assert inputs.instances is not None
    building = Building(inputs, "grounding-bench")
    labels = _labels(inputs.instances, building)
    answers = {} if inputs.answers is None else dict(_texts(inputs.answers, building))
    asked = set()
    for number, question in read_lines(inputs.questions):
        if not isinstance(question, Mapping) or not isinstance(question.get("text"), str):
            building.left_out["line of the questions that is no question"] += 1
            continue
        kind = KIND_OF_CATEGORY.get(str(question.get("category", "detail")))
        name = str(question.get("image", ""))
        image = coco_number(name if "." in name else f"{name}.jpg")
        if kind is None or image is None or image not in labels:
            building.left_out["unknown category" if kind is None else "image without labels"] += 1
            continue
        asked.add(image)
        key = str(question.get("question_id", number))
        text = question["text"].removesuffix(SUFFIX).strip()
        _add(building, labels, image, key, kind, text, answers.get(key, ""))
    for image in _ids(inputs.ids) if inputs.ids is not None else ():
        if image not in labels:
            building.left_out["image without labels"] += 1
        elif image not in asked:
            _add(building, labels, image, f"{image:012d}", "detail", inputs.question or DESCRIBE, "")
    return building.finish(inputs.questions.stem)


def _add(building: Building, labels: _Labels, image: int, key: str, kind: str, question: str, answer: str) -> None:
    known = labels[image]
    name = known.name or f"{_IMAGE_PREFIX}{image:012d}.jpg"
    size_wh = known.size_wh or picture_size(building.inputs, name)
    if size_wh is None:
        building.left_out["size of the image not known; give --images"] += 1
        return
    scaled = (
        LabelledInstance(category, rounded_box([part * side for part, side in zip(box_norm, size_wh * 2, strict=True)]))
        for category, box_norm in known.things_norm
    )
    things = (*known.things, *scaled)
    building.samples.append(
        BenchmarkSample(
            key,
            name,
            size_wh,
            kind,
            question,
            instances=things,
            references=known.captions,
            answer=answer,
            split="val2014",
        )
    )


def _labels(path: Path, building: Building) -> _Labels:
    inputs = building.inputs
    if path.suffix == ".jsonl":
        return dict(_caps_boxes(path))
    with naming(path):
        photos = CocoPhotos(
            read_json(path), inputs.pictures(), read_json(inputs.captions) if inputs.captions else None, name=path.stem
        )
    building.take_dropped(photos)
    return {
        one.image_id: _ImageLabels(one.captions, one.image_name or one.id, one.image_size_wh, labelled(one))
        for one in photos
    }


def _caps_boxes(path: Path) -> Iterator[tuple[int, _ImageLabels]]:
    for number, line in read_lines(path):
        try:
            name = str(line["id"] if "id" in line else line["image"])
            image = coco_number(name if "." in name else f"{name}.jpg")
            things = tuple((str(one["category"]), as_box(one["bbox"])) for one in line["instances"])
            captions = tuple(str(one) for one in line.get("captions", ()))
        except VALUE_ERRORS as error:
            raise DataError(
                f"{path}, line {number}: expected `id`, `captions` and `instances`, got {shown(line)}"
            ) from error
        if any(side > 1 for _, box_norm in things for side in box_norm):
            raise DataError(f"{path}, line {number}: boxes must be shares of the image, in 0 to 1")
        if image is not None:
            yield image, _ImageLabels(captions, things_norm=things)


def _texts(path: Path, building: Building) -> Iterator[tuple[str, str]]:
    for _, line in read_lines(path):
        if isinstance(line, Mapping) and isinstance(line.get("text"), str) and "question_id" in line:
            yield str(line["question_id"]), line["text"]
        else:
            building.left_out["line of the answers that is no answer"] += 1


def _ids(path: Path) -> list[int]:
    try:
        text = read_file(path).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    return [int(number) for number in dict.fromkeys(re.findall(r"\d{1,12}", text.replace(_IMAGE_PREFIX, "")))]
