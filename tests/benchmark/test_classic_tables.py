"""The classic tables: a case by hand for each, published files as they are, agreement with pycocotools, ranges."""

from __future__ import annotations

import io
import json
import re
import time
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llava_grounding.benchmark.building import BuildInputs
from llava_grounding.benchmark.captions import meteor
from llava_grounding.benchmark.grounded_captions import average_precision
from llava_grounding.benchmark.grounding import mask_overlaps
from llava_grounding.benchmark.judging import DeterministicJudge
from llava_grounding.benchmark.predictions import PredictedPhrase, PredictedRegion, Prediction
from llava_grounding.benchmark.samples import BenchmarkSample, LabelledInstance, LabelledPhrase, SampleSet
from llava_grounding.benchmark.scores import metrics_of
from llava_grounding.benchmark.tasks import TASKS, Task, find_task
from llava_grounding.errors import UsageError
from llava_grounding.masks import decode_rle, encode_rle, mask_to_box


def filled(x0: int, y0: int, x1: int, y1: int, size: tuple[int, int] = (20, 20)) -> np.ndarray:
    mask = np.zeros(size[::-1], dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def thing(mask: np.ndarray, category: str = "dog") -> LabelledInstance:
    box = mask_to_box(mask)
    return LabelledInstance(category, tuple([0.0] * 4 if box is None else box.tolist()), encode_rle(mask))


def found(*masks: np.ndarray, score: float = 0.9) -> PredictedPhrase:
    return PredictedPhrase("it", tuple(PredictedRegion(thing(one).box_xyxy, score, encode_rle(one)) for one in masks))


def values(task: str, samples: list[BenchmarkSample], predictions: list[Prediction | None]) -> dict[str, object]:
    kind = find_task(task)
    scores = kind.score_all(samples, predictions, DeterministicJudge()).scores
    names = {name for score in scores for name in score.rows}
    metrics = [*metrics_of(scores, kind.statistics(names)), *kind.extra_metrics(samples, predictions)]
    assert all(re.fullmatch("[a-z0-9_]+", one.key) for one in metrics)
    assert len({one.key for one in metrics}) == len(metrics)
    return {one.name: one.value for one in metrics}


def test_referring_by_hand() -> None:
    truth = filled(0, 0, 10, 10)
    one = [LabelledPhrase("the dog", (0,))]
    samples = [BenchmarkSample(k, "1", (20, 20), phrases=tuple(one), instances=(thing(truth),)) for k in "abcd"]
    # IoU 1, 0.8, exactly 0.5 (no hit) and nothing.
    answers = [found(truth), found(filled(0, 0, 10, 8)), found(filled(0, 0, 10, 5)), PredictedPhrase("it")]
    predictions = [Prediction(k, "", (phrase,)) for k, phrase in zip("abcd", answers, strict=True)]
    got = values("referring", samples, predictions)
    assert (got["box acc@0.5"], got["box acc@0.75"], got["box acc@0.9"]) == (0.5, 0.5, 0.25)
    assert got["mask mIoU"] == pytest.approx((1 + 0.8 + 0.5 + 0) / 4)
    assert got["mask cIoU"] == pytest.approx((100 + 80 + 50) / 400)


@pytest.mark.parametrize(
    ("task", "metric", "value"),
    [
        ("referring", "box acc@0.5", 0.0),
        ("referring", "mask acc@0.5", 0.0),
        ("grounding-bench", "phrase grounding accuracy (any box, IoU 0.5)", 0.0),
        ("grounding-bench", "grounded precision (box IoU 0.5)", 1.0),
        ("grounding-bench", "grounded recall (mask IoU 0.5)", 1.0),
        ("phrase-grounding", "R@1 (any box)", 1.0),
        ("phrase-grounding", "R@1 (merged boxes)", 1.0),
        ("generalized-referring", "Pr@(F1=1, IoU 0.5)", 1.0),
        ("grounded-captions", "AP50 (masks, one category)", 1.0),
        ("grounded-captions", "recall (IoU 0.5, judged)", 1.0),
    ],
)
def test_what_an_overlap_of_exactly_half_counts(task: str, metric: str, value: float) -> None:
    truth, half = thing(filled(0, 0, 10, 10)), found(filled(0, 0, 10, 5))
    described = not metric.startswith("phrase grounding") and task in ("grounding-bench", "grounded-captions")
    asked: dict[str, Any] = (
        {"question": "?", "references": ("a dog",)} if described else {"phrases": (LabelledPhrase("a dog", (0,)),)}
    )
    sample = BenchmarkSample("s", "1", (20, 20), instances=(truth,), **asked)
    said = Prediction("s", "a dog", (replace(half, text="a dog"),))
    assert values(task, [sample], [said])[metric] == pytest.approx(value)


def test_expressions_that_mean_many_or_nothing_by_hand() -> None:
    left, right = filled(0, 0, 8, 8), filled(10, 0, 18, 8)
    many = (LabelledPhrase("both", (0, 1)),)
    two = [BenchmarkSample(k, k, (20, 20), phrases=many, instances=(thing(left), thing(right))) for k in "abc"]
    none = [BenchmarkSample(k, k, (20, 20), phrases=(LabelledPhrase("a cow", ()),)) for k in "de"]
    answers = [
        found(left, right),
        found(left),
        found(left, right, filled(0, 10, 9, 19)),
        PredictedPhrase("it"),
        found(left),
    ]
    predictions = [Prediction(k, "", (phrase,)) for k, phrase in zip("abcde", answers, strict=True)]
    got = values("generalized-referring", [*two, *none], predictions)
    assert got["Pr@(F1=1, IoU 0.5)"] == 2 / 5  # a and d
    assert (got["N-acc"], got["T-acc"]) == (0.5, 1.0)
    assert got["mask mIoU"] == pytest.approx((1 + 0.5 + 128 / 209 + 1 + 0) / 5)
    assert got["mask cIoU"] == pytest.approx((128 + 64 + 128) / (128 + 128 + 209 + 64))


def test_phrases_by_any_box_and_by_merged_boxes_by_hand() -> None:
    left, right = thing(filled(0, 0, 10, 10)), thing(filled(10, 0, 20, 10))
    asked = (LabelledPhrase("two dogs", (0, 1)), LabelledPhrase("a dog", (1,)))
    sample = BenchmarkSample("s", "1", (20, 20), phrases=asked, instances=(left, right))
    both = found(filled(0, 0, 20, 10), filled(0, 12, 3, 15))  # IoU 0.5 with each, 1 with the two as one
    late = found(*[filled(0, 12 + k, 3, 14 + k) for k in range(4)], filled(10, 0, 20, 9))
    got = values("phrase-grounding", [sample], [Prediction("s", "", (both, late))])
    assert [got[f"R@{rank} (any box)"] for rank in (1, 5, 10)] == [0.5, 1.0, 1.0]
    assert [got[f"R@{rank} (merged boxes)"] for rank in (1, 5, 10)] == [0.5, 1.0, 1.0]


def test_names_marks_and_yes_or_no_by_hand() -> None:
    asked = [BenchmarkSample(k, k, (9, 9), kind, "What is <region>?", ({"click": [1, 1]},), answer="dog")
             for k, kind in zip("abc", ("click", "click", "box"), strict=True)]  # fmt: skip
    said = [Prediction("a", "It is a puppy."), Prediction("b", "A cat."), Prediction("c", "Mumble.")]
    got = values("classification", asked, said)
    assert (got["accuracy"], got["accuracy, click"], got["accuracy, box"]) == (1 / 3, 0.5, 0.0)
    marked = [BenchmarkSample(k, k, (9, 9), question="Which?", answer="2") for k in "abc"]
    assert values("marks", marked, [Prediction("a", "<2>"), Prediction("b", "3, not 2"), Prediction("c", "it")]) == {
        "accuracy": 1 / 3
    }
    polls = [BenchmarkSample(str(k), "1", (9, 9), "random", "Is it?", answer=truth)
             for k, truth in enumerate(("yes", "yes", "no", "no", "yes"))]  # fmt: skip
    texts = ("Yes.", "no", "Yes, it is", "No", "maybe")
    got = values("pope", polls, [Prediction(str(k), text) for k, text in enumerate(texts)])
    assert (got["POPE accuracy"], got["POPE precision"], got["POPE recall"]) == (0.4, 0.5, 1 / 3)
    assert (got["POPE F1"], got["POPE share of yes"], got["random accuracy"]) == (0.4, 0.4, 0.4)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword")
def test_average_precision_is_that_of_pycocotools() -> None:
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    rng = np.random.default_rng(3)

    def blob() -> np.ndarray:
        x, y, w, h = rng.integers(0, 12), rng.integers(0, 12), rng.integers(4, 9), rng.integers(4, 9)
        return filled(x, y, x + w, y + h)

    answers, truths, results = [], [], []
    for number in range(12):
        masks = [blob() for _ in range(rng.integers(1, 5))]
        near = [np.roll(one, int(rng.integers(0, 3)), axis=1) for one in masks] + [blob()]
        scores = rng.permutation(100)[: len(near)] / 100 + number / 10_000
        codes = [(encode_rle(mask), float(score)) for mask, score in zip(near, scores, strict=True)]
        regions = [PredictedPhrase("it", (PredictedRegion((0, 0, 1, 1), score, code),)) for code, score in codes]
        sample = BenchmarkSample(str(number), str(number), (20, 20), instances=tuple(map(thing, masks)))
        answers.append((sample, Prediction(str(number), "", tuple(regions))))
        for mask in masks:
            row = {"image_id": number, "category_id": 1, "iscrowd": 0, "bbox": [0, 0, 1, 1]}
            area = int(mask.sum())
            truths.append({"id": len(truths) + 1, **row, "segmentation": encode_rle(mask), "area": area})
        results += [{"image_id": number, "category_id": 1, "segmentation": encode_rle(m), "score": float(s)}
                    for m, s in zip(near, scores, strict=True)]  # fmt: skip
    with redirect_stdout(io.StringIO()):
        labels = coco.COCO()
        labels.dataset = {"images": [{"id": n, "width": 20, "height": 20} for n in range(12)],
                          "annotations": truths, "categories": [{"id": 1}]}  # fmt: skip
        labels.createIndex()
        evaluation = cocoeval.COCOeval(labels, labels.loadRes(results), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ours = average_precision(answers, mask_overlaps(answers))
    assert 0.2 < ours < 0.95
    assert ours == pytest.approx(float(evaluation.stats[1]), abs=1e-9)


def test_a_task_without_a_score_is_refused_before_anything_is_asked() -> None:
    with pytest.raises(TypeError, match="Silent must have `score`, or `score_all`"):
        type("Silent", (Task,), {"build": None, "statistics": None})


def test_grounded_captions_by_hand() -> None:
    dog, cat = thing(filled(0, 0, 10, 10)), thing(filled(10, 10, 20, 20), "cat")
    words = ("a dog sits", "the dog and a cat")
    sample = BenchmarkSample("s", "1", (20, 20), question="?", instances=(dog, cat), references=words)
    regions = (
        PredictedRegion(dog.box_xyxy, 0.9, dog.mask),
        PredictedRegion(cat.box_xyxy, 0.8, encode_rle(filled(10, 10, 20, 18))),
    )
    said = Prediction(
        "s", "a dog sits", (PredictedPhrase("a dog", regions[:1]), PredictedPhrase("a mouse", regions[1:]))
    )
    got = values("grounded-captions", [sample], [said])
    assert got["mask mIoU"] == pytest.approx((1 + 0.8) / 2)
    assert got["recall (IoU 0.5, judged)"] == 0.5
    assert got["AP50 (masks, one category)"] == pytest.approx(1.0)
    assert got["METEOR (exact words and plurals)"] == 1.0
    # Precision 2/3, recall 2/4, in two chunks.
    assert meteor("dogs run here", ["a dog now runs", "here"]) > 0
    mean = 10 * (2 / 3) * (2 / 4) / (2 / 4 + 9 * 2 / 3)
    assert meteor("dogs b here", ["here c d dog"]) == pytest.approx(mean * (1 - 0.5 * (2 / 2) ** 3))
    assert meteor("", ["a"]) == 0.0


def test_meteor_of_a_word_said_a_thousand_times_takes_no_minute() -> None:
    began = time.process_time()
    score = meteor("a " * 1000, ["a " * 300])
    assert score == pytest.approx(10 * 0.3 / (1 + 9 * 0.3) * (1 - 0.5 * (1 / 300) ** 3), abs=0.05)
    assert 0 < meteor("the dog " * 250, ["the dog and the cat sit beside the other dog in the garden " * 3] * 5) < 1
    assert time.process_time() - began < 10  # 45 where every place was tried


@pytest.mark.parametrize(
    ("text", "references", "score"),
    [
        ("a dog runs on the grass", ["a dog is running across the grass"], 0.5434782608695652),
        (
            "two people ride bikes down a street",
            ["two people on bikes ride down the street", "a street with cars"],
            0.539732770745429,
        ),
        ("the cat sat on the mat", ["on the mat sat the cat"], 0.9375),
        ("a man in a red shirt holds a white dog", ["a man holding a white dog wears a red shirt"], 0.77890625),
        ("a bus parked at the corner", ["a red bus waits at the corner of the street"], 0.46458333333333335),
        ("the dog and the cat and the bird", ["the bird and the dog and the cat"], 0.9736328125),
        ("nothing here agrees", ["some other words"], 0.0),
        ("a a a b", ["b a a"], 0.8243727598566309),
        (
            "people sit at a table with plates of food and drinks",
            ["a group of people sitting at a table with food on plates"],
            0.5902048319327731,
        ),
        ("a tall building next to a river", ["a tall building next to a river"], 1.0),
    ],
)
def test_meteor_is_what_the_program_says(text: str, references: list[str], score: float) -> None:
    """By METEOR 1.5 with `-m exact -w 1.0 -p "0.9 3.0 0.5 0.5"`, once."""
    assert meteor(text, references) == pytest.approx(score, abs=1e-12)


def write(path: Path, value: object) -> Path:
    lines = value if isinstance(value, list) and path.suffix == ".jsonl" else [value]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An instances file of COCO val2014 with one image."""
    images = [{"id": 42, "file_name": "COCO_val2014_000000000042.jpg", "width": 100, "height": 50}]
    rows = [{"id": 1, "image_id": 42, "category_id": 18, "bbox": [0, 0, 40, 40], "area": 1600, "iscrowd": 0,
             "segmentation": [[0, 0, 40, 0, 40, 40, 0, 40]]},
            {"id": 2, "image_id": 42, "category_id": 17, "bbox": [50, 0, 40, 40], "area": 1600, "iscrowd": 0,
             "segmentation": [[50, 0, 90, 0, 90, 40, 50, 40]]}]  # fmt: skip
    names = [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}]
    data = {"images": images, "annotations": rows, "categories": names}
    return write(tmp_path_factory.mktemp("coco") / "instances_val2014.json", data)


def test_published_files_are_read_as_they_are(coco: Path, tmp_path: Path) -> None:
    refs = [
        {"ref_id": 1, "image_id": 42, "ann_id": 1, "split": "testA", "sentences": [{"sent": "the dog"}]},
        {"ref_id": 2, "image_id": 42, "ann_id": [1, 2], "split": "testA", "sentences": [{"sent": "both"}]},
        {
            "ref_id": 3,
            "image_id": 42,
            "ann_id": [-1],
            "split": "testA",
            "no_target": True,
            "sentences": [{"sent": "a cow"}],
        },
    ]
    inputs = BuildInputs(refs=write(tmp_path / "grefs.json", refs), instances=coco, split="testA")
    one = find_task("referring").build(inputs).samples
    assert [(s.phrases[0].text, s.instances[0].box_xyxy, s.split) for s in one] == [
        ("the dog", (0, 0, 40, 40), "testA")
    ]
    assert int(decode_rle(one[0].instances[0].mask).sum()) == 1600
    whole = find_task("generalized-referring").build(inputs)
    many = whole.samples
    assert sum(whole.left_out.values()) == 0
    assert [(s.phrases[0].text, len(s.instances)) for s in many] == [("the dog", 1), ("both", 2), ("a cow", 0)]
    (marked,) = find_task("marks").build(inputs).samples
    assert (marked.question, marked.answer, marked.marks) == ("Which mark is on the dog?", "1", (0, 1))

    poll = {"question_id": 1, "image": "COCO_val2014_000000000042.jpg", "text": "Is there a dog?", "label": "yes"}
    polls = write(tmp_path / "coco_pope_random.jsonl", [poll, {"text": "?"}])
    asked = find_task("pope").build(BuildInputs(questions=polls))
    assert [(s.kind, s.answer, s.image) for s in asked.samples] == [("random", "yes", poll["image"])]
    assert asked.left_out == {"line that is no question with an answer": 1}
    text = "Is there a dog?\nAnswer the question using a single word or phrase."
    kinds = write(tmp_path / "llava_pope_test.jsonl", [
        {"question_id": 1, "image": poll["image"], "text": text, "category": "adversarial"},
        {"question_id": 10000001, "image": poll["image"], "text": text, "category": "random"},
    ])  # fmt: skip
    asked = find_task("pope").build(BuildInputs(questions=kinds, answers=polls))
    assert [(s.id, s.kind, s.answer, s.question) for s in asked.samples] == [("10000001", "random", "yes", text)]
    assert asked.left_out == {"question of another kind than the answers": 1}

    said = {"image": "000000000042.jpg", "caption": "The cat is left of the dog.", "label": 0, "relation": "left of"}
    (statement,) = find_task("vsr").build(BuildInputs(questions=write(tmp_path / "vsr.jsonl", [said]))).samples
    assert (statement.question, statement.answer) == (
        "Is this true? The cat is left of the dog. Answer yes or no.",
        "no",
    )

    kinds = find_task("classification").build(BuildInputs(instances=coco)).samples
    assert [(s.kind, s.answer) for s in kinds[:4]] == [(kind, "dog") for kind in ("click", "box", "scribble", "mask")]


@pytest.mark.parametrize("name", ["sa_1", "0028"])
def test_the_files_of_grand_f_say_of_an_image_its_id_alone(name: str, tmp_path: Path) -> None:
    codes = [encode_rle(filled(0, 0, 9, 9)), encode_rle(filled(9, 9, 19, 19))]
    rows = [{"id": k, "image_id": name, "category_id": 1, "segmentation": code} for k, code in enumerate(codes)]
    masks = tmp_path / "val_gcg_coco_mask_gt.json"
    masks.write_text(
        json.dumps({"images": [{"id": name}], "annotations": rows, "categories": [{"id": 1, "name": "object"}]})
    )
    captions = tmp_path / "val_gcg_coco_caption_gt.json"
    said = {"id": 0, "image_id": name, "caption": "A man by a blurb.", "labels": ["A man", "a blurb"]}
    captions.write_text(json.dumps({"images": [{"id": name}], "annotations": [said]}))
    (sample,) = find_task("grounded-captions").build(BuildInputs(instances=masks, captions=captions)).samples
    assert (sample.id, sample.image, sample.image_size_wh) == (f"{name}.jpg", f"{name}.jpg", (20, 20))
    assert [(one.category, one.mask) for one in sample.instances] == [("person", codes[0]), ("blurb", codes[1])]


def test_the_files_of_the_original_bench_are_read_as_they_are(coco: Path, tmp_path: Path) -> None:
    name = "000000000042.jpg"
    questions = write(tmp_path / "qa90.jsonl", [
        {"question_id": 7, "image": name, "text": "What is it? (with grounding)", "category": "conv"},
        {"question_id": 8, "image": name, "text": "Describe it. (with grounding)", "category": "detail"},
        {"question_id": 9, "image": "000000000043.jpg", "text": "?", "category": "complex"},
    ])  # fmt: skip
    answers = write(tmp_path / "answers.jsonl", [{"question_id": 7, "text": "A dog."}])
    inputs = BuildInputs(questions=questions, instances=coco, answers=answers)
    built = find_task("grounding-bench").build(inputs)
    assert [(s.id, s.kind, s.question, s.answer, len(s.instances)) for s in built.samples] == [
        ("7", "conversation", "What is it?", "A dog.", 2),
        ("8", "detail", "Describe it.", "", 2),
    ]
    assert built.left_out == {"image without labels": 1}
    assert set(built.built_from) == {"qa90.jsonl", "answers.jsonl", "instances_val2014.json"}
    shares = {
        "id": "000000000042",
        "captions": ["A dog."],
        "instances": [{"category": "dog", "bbox": [0, 0, 0.4, 0.8]}],
    }
    from PIL import Image

    Image.new("RGB", (100, 50)).save(tmp_path / "COCO_val2014_000000000042.jpg")
    inputs = BuildInputs(
        questions=questions, instances=write(tmp_path / "caps_boxes.jsonl", [shares]), images=tmp_path,
        ids=write(tmp_path / "q_image_set.txt", 42),
    )  # fmt: skip
    built = find_task("grounding-bench").build(inputs)
    assert built.samples[0].instances[0].box_xyxy == (0, 0, 40, 40)
    assert built.samples[0].references == ("A dog.",)


def test_dialogues_of_annotate_become_questions_with_reference_answers(coco: Path, tmp_path: Path) -> None:
    turns = [("<image>\nWhat is there? (with grounding)", "<g_s> A dog <g_e> <seg> sits."), ("Why?", "It waits.")]
    said = [{"from": who, "value": text} for turn in turns for who, text in zip(("human", "gpt"), turn, strict=True)]
    entry = {"id": "42", "image": "COCO_val2014_000000000042.jpg", "conversations": said, "gd_ls": [[1]]}
    broken = {**entry, "id": "43", "gd_ls": []}
    inputs = BuildInputs(instances=coco, dialogues=write(tmp_path / "gvc.json", [entry, broken]))
    made = find_task("grounding-bench").build(inputs)
    built = made.samples
    assert sum(made.left_out.values()) == 1
    assert [(s.kind, s.question, s.answer) for s in built] == [
        ("detail", "What is there?", "A dog sits."),
        ("conversation", "Why?", "It waits."),
    ]
    assert find_task("grounding-bench").ask(built[0]).also_plain


def test_flickr_entities_are_read_as_they_are(tmp_path: Path) -> None:
    for folder in ("Annotations", "Sentences"):
        (tmp_path / folder).mkdir()
    (tmp_path / "test.txt").write_text("7\n")
    (tmp_path / "Sentences/7.txt").write_text("[/EN#1/people Two men] see [/EN#0/notvisual it] .\n")
    boxes = "".join(f"<object><name>1</name><bndbox><xmin>{x}</xmin><ymin>1</ymin><xmax>{x + 9}</xmax><ymax>9</ymax>"
                    "</bndbox></object>" for x in (1, 21))  # fmt: skip
    size = "<size><width>60</width><height>40</height><depth>3</depth></size>"
    (tmp_path / "Annotations/7.xml").write_text(f"<annotation><filename>7.jpg</filename>{size}{boxes}</annotation>")
    (sample,) = find_task("phrase-grounding").build(BuildInputs(entities=tmp_path, split="test")).samples
    assert [(phrase.text, phrase.targets) for phrase in sample.phrases] == [("Two men", (0, 1))]


def test_a_photo_pack_gives_sets_and_each_task_says_what_it_needs(mini_pack_root: Path) -> None:
    built: dict[str, SampleSet] = {}
    for name in ("grounding-bench", "classification", "referring"):
        built[name] = find_task(name).build(BuildInputs(data=mini_pack_root))
        assert built[name].samples == find_task(name).build(BuildInputs(data=mini_pack_root)).samples
    asked = find_task("grounding-bench").build(BuildInputs(data=mini_pack_root, question="What is there?", limit=1))
    assert [one.question for one in asked.samples if one.kind == "detail"] == ["What is there?"]
    kinds = {sample.kind for sample in built["grounding-bench"].samples}
    assert kinds == {"detail", "phrases"}
    (phrases,) = [one for one in built["grounding-bench"].samples if one.kind == "phrases"]
    assert ("Two dogs", (0, 1)) in [(one.text, one.targets) for one in phrases.phrases]
    for name in TASKS.keys() - {"scenes"}:  # which are drawn
        with pytest.raises(UsageError, match=f"building {name} needs --"):
            find_task(name).build(BuildInputs())
