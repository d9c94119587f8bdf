"""The paper's numbers, and where each of its tables, figures and claims stands with us: the one table of both.

Reports show the rows of their task beside ours; `docs/paper.md` is made of `LEDGER` (`make docs`). Plain data.

Source: LLaVA-Grounding (arXiv:2312.02949).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One row of a table of the paper.

    Args:
        task: of ours that measures it.
        table: of the paper.
        system: as the paper calls it.
        values: by metric; in percent, as printed.
    """

    task: str
    table: str
    system: str
    values: Mapping[str, float]


def _grounding(system: str, *row: float | None) -> Published:
    names = (
        "recall (1000 images)",
        "precision (1000 images)",
        "F1 (1000 images)",
        "recall (30 images)",
        "precision (30 images)",
        "F1 (30 images)",
        "chat detail",
        "chat conversation",
        "chat reasoning",
        "chat all",
        "phrase grounding",
    )
    values = {name: value for name, value in zip(names, row, strict=False) if value is not None}
    return Published("grounding-bench", "4", system, values)


def _referring(table: str, system: str, data: str, acc: float, mean_iou: float, cumulative_iou: float) -> Published:
    values = {"box acc@0.5": acc, "mask mIoU": mean_iou, "mask cIoU": cumulative_iou}
    return Published("referring", table, f"{system}, {data}", values)


_NONE = (None,) * 6
PUBLISHED: tuple[Published, ...] = (
    _grounding("LLaVA", *_NONE, 69.1, 82.0, 92.6, 81.2),
    _grounding("BuboGPT", 26.2, 37.2, 30.7, 25.7, 31.3, 28.2, 65.0, 75.9, 93.4, 78.2),
    _grounding("Shikra", 21.1, 39.8, 27.6, 21.6, 38.4, 27.7, 64.7, 75.4, 86.4, 75.5, 64.29),
    _grounding("Shikra*", 22.0, 44.6, 29.4, 28.7, 48.6, 36.1, 41.8),
    _grounding("miniGPT-v2", 20.6, 33.6, 25.6, 25.3, 39.1, 30.7, 48.0, 51.0, 38.7, 45.8),
    _grounding("CogVLM-Grounding", 22.3, 56.3, 32.0, 27.5, 62.5, 38.2, 35.8, 47.8, 22.2, 34.9),
    _grounding("CogVLM-Chat", *_NONE, 73.1, 86.9, 92.1, 84.2),
    _grounding("GPT-4V+SoM", None, None, None, 55.1, 73.5, 63.2, 67.3, 104.3, 108.4, 93.3),
    _grounding("LLaVA-G", 28.6, 52.7, 37.1, 36.3, 53.4, 43.2, 67.2, 78.7, 91.1, 79.3, 81.6),
    _referring("5", "LLaVA-G-7B", "RefCOCO", 89.16, 79.68, 77.13),
    _referring("5", "LLaVA-G-7B", "RefCOCO+", 81.68, 72.92, 68.79),
    _referring("5", "LLaVA-G-7B", "RefCOCOg", 84.82, 74.39, 71.54),
    Published("phrase-grounding", "5", "LLaVA-G-7B", {"Flickr30K val R@1": 83.03, "Flickr30K test R@1": 83.62}),
    Published("marks", "6", "LLaVA-G, mask 0.4, mark 0.4, size 20", {"first set": 72.1, "second set": 73.7}),
    Published("marks", "6", "LLaVA-G, mask 0.4, mark 0.2, size 30", {"first set": 75.1, "second set": 75.4}),
    Published("marks", "6", "LLaVA-G, mask 0.2, mark 0.2, size 30", {"first set": 76.6, "second set": 77.9}),
    Published("classification", "7", "LLaVA", {"accuracy": 40.0}),
    Published("classification", "7", "Shikra", {"accuracy": 53.9}),
    Published("classification", "7", "GPT4ROI", {"accuracy": 64.0}),
    Published("classification", "7", "PVIT", {"accuracy": 64.5}),
    Published("classification", "7", "LLaVA-G", {"accuracy, click": 70.8, "accuracy, box": 71.5}),
    Published(
        "chat", "12", "LLaVA-G, COCO, with GVC", {"conversation": 74.8, "detail": 68.5, "reasoning": 95.3, "all": 79.7}
    ),
    Published(
        "chat", "12", "LLaVA-G, COCO, without", {"conversation": 79.3, "detail": 71.2, "reasoning": 92.8, "all": 81.2}
    ),
    Published(
        "chat", "12", "LLaVA-G, wild, with GVC", {"conversation": 38.5, "detail": 40.1, "reasoning": 75.1, "all": 55.8}
    ),
    Published(
        "chat", "12", "LLaVA-G, wild, without", {"conversation": 47.7, "detail": 44.6, "reasoning": 70.0, "all": 57.2}
    ),
    Published("chat", "12", "LLaVA, wild", {"conversation": 42.6, "detail": 51.9, "reasoning": 68.9, "all": 57.1}),
    _referring("13", "LLaVA-G, 50 queries", "RefCOCO", 86.71, 77.6, 74.77),
    _referring("13", "LLaVA-G, 100 queries", "RefCOCO", 86.58, 77.40, 74.70),
    _referring("13", "LLaVA-G, 300 queries", "RefCOCO", 86.35, 77.19, 74.26),
    _referring("13", "LLaVA-G, 50 queries", "RefCOCO+", 77.91, 69.68, 64.97),
    _referring("13", "LLaVA-G, 100 queries", "RefCOCO+", 77.23, 69.02, 64.08),
    _referring("13", "LLaVA-G, 300 queries", "RefCOCO+", 77.78, 69.54, 64.68),
    _referring("13", "LLaVA-G, 50 queries", "RefCOCOg", 82.37, 72.43, 68.46),
    _referring("13", "LLaVA-G, 100 queries", "RefCOCOg", 81.99, 72.06, 68.02),
    _referring("13", "LLaVA-G, 300 queries", "RefCOCOg", 81.92, 71.85, 67.89),
    Published(
        "grounding-bench",
        "14",
        "LLaVA-G, gradient detached",
        {
            "recall (30 images)": 25.1,
            "precision (30 images)": 58.2,
            "F1 (30 images)": 35.1,
            "chat detail": 61.6,
            "chat conversation": 86.3,
            "chat reasoning": 94.9,
            "chat all": 81.2,
        },
    ),
)


def published_for(task: str) -> list[Published]:
    """The paper's rows for a task."""
    return [one for one in PUBLISHED if one.task == task]


@dataclass(frozen=True)
class Entry:
    """One table, figure or claim of the paper.

    Args:
        what: as the paper has it.
        command: ours; of a benchmark the one that makes the set from the published files, with which `run` and
            `score` go on.
        needs: data.
        ours: our number or what we have, where the data was at hand; empty where only the command exists.
        difference: known differences, and why.
    """

    what: str
    command: str
    needs: str
    ours: str = ""
    difference: str = ""


_BENCH = "llava-grounding benchmark"
_VAL = "--instances instances_val2014.json --captions captions_val2014.json"
_REFS = '--refs "refcoco/refs(unc).p" --instances refcoco/instances.json'
_JUDGE = "their judge is GPT-4 with a prompt that was not published; ours is any model with our prompt, or none"
_NANO = "[nano on photos](results/nano_photos.md)"
LEDGER: tuple[Entry, ...] = (
    Entry(
        "Worked example of the metric: 7 predicted, 12 labelled, 4 and 3 right",
        f"{_BENCH} grounding-bench score --set bench.jsonl --out results --judgements judgements.jsonl",
        "nothing",
        "P 0.57, R 0.25, F1 0.35 from a recorded judgement, in tests",
    ),
    Entry(
        "Table 4: Grounding-Bench, recall, precision, F1 (1000 and 30 images)",
        f"{_BENCH} grounding-bench build --questions qa1000_questions.jsonl "
        f"--ids q_image_set.txt {_VAL} --out bench.jsonl",
        "COCO val2014; id list and questions of the original",
        f"{_NANO}: another model on other photos, not comparable",
        _JUDGE,
    ),
    Entry(
        "Table 4: chat scores (detail, conversation, reasoning)",
        f"{_BENCH} grounding-bench build --questions qa90_questions_with_grounding.jsonl "
        f"--answers qa90_gpt4_answer.jsonl {_VAL} --out qa90.jsonl",
        "qa90 questions and reference answers; a judge behind an endpoint",
        difference=_JUDGE,
    ),
    Entry(
        "Table 4 and 5: phrase grounding on Flickr30K Entities",
        f"{_BENCH} phrase-grounding build --entities flickr30k_entities --split test "
        "--images flickr30k --out flickr.jsonl",
        "Flickr30K and its Entities",
        difference="phrases are found by name; theirs are read off a teacher-forced caption",
    ),
    Entry(
        "Table 5: RefCOCO, RefCOCO+, RefCOCOg, acc, mIoU, cIoU",
        f"{_BENCH} referring build {_REFS} --split testA --out refcoco_testA.jsonl",
        "refs of each; COCO train2014",
        f"{_NANO}: on expressions made from labels, not comparable",
        "theirs: teacher-forced, a hit on any box of the phrase, areas scaled by image; ours: the best region, pixels",
    ),
    Entry(
        "Table 6: marks as prompts",
        f"{_BENCH} marks build {_REFS} --split val --out marks.jsonl",
        "COCO; referring expressions",
        _NANO,
        "marks are drawn by our own drawing, with one opacity and size",
    ),
    Entry(
        "Table 7: object classification by click and box",
        f"{_BENCH} classification build --instances instances_val2017.json --out classes.jsonl",
        "COCO val2017",
        f"{_NANO}: other photos",
        "scribble and mask besides; a name counts by a table of synonyms",
    ),
    Entry(
        "Table 11: debugging an answer by its regions",
        "llava-grounding chat street.jpg",
        "an image",
        "a dialogue keeps its regions, and the page shows which phrase is where",
        "shown, not measured",
    ),
    Entry(
        "Table 12: LLaVA-Bench COCO and in the wild, with and without grounding",
        f"{_BENCH} chat build --questions questions_with_grounding.jsonl --answers answers_gpt4.jsonl "
        "--captions context.jsonl --out wild.jsonl",
        "questions and reference answers; a judge behind an endpoint",
        difference=_JUDGE,
    ),
    Entry(
        "Table 13: number of queries (50, 100, 300)",
        f"{_BENCH} referring run --set refcoco_testA.jsonl --images train2014 "
        "--model MODEL --queries 50 --out results/50",
        "as table 5; a checkpoint per number, or one with --queries",
        difference="a key of the training recipe (num_queries); `run --queries` changes it for a checkpoint there is",
    ),
    Entry(
        "Table 14: gradient of the grounder detached from the language model",
        f"{_BENCH} grounding-bench run --set bench.jsonl --images val2014 --model MODEL --out results/detached",
        "as table 4; a checkpoint trained either way",
        difference="a key of the training recipe (detach_grounding); the command measures the checkpoint it is given",
    ),
    Entry(
        "Tables 16 to 19: instruction templates of four kinds",
        "llava-grounding train 7b_stage1",
        "nothing",
        "in our own wording",
        "not theirs, so numbers of training on them differ",
    ),
    Entry(
        "Claim: 150K grounded dialogues made by a language model from labels and answers",
        "llava-grounding annotate run --instances instances_train2014.json --dialogues llava_instruct_158k.json "
        "--model MODEL --base-url URL --out gvc",
        "LLaVA-158K; COCO train2014; a language model",
        "the pipeline, tested against a misbehaving endpoint",
        "prompt in our own words; a matcher without a language model besides",
    ),
    Entry(
        "Beside the paper: gRefCOCO, POPE, VSR, GranD-f",
        f'{_BENCH} generalized-referring build --refs "grefs(unc).json" --instances instances.json '
        "--out grefcoco.jsonl",
        "the published files of each",
        f"POPE, VSR and grounded captions: {_NANO}",
        "METEOR without WordNet, recall of captions by our judge: both below those of the published programs",
    ),
)
"""Tables and figures that are not here show examples or related work, and measure nothing."""
