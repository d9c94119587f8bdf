"""Overfits eight pictures from every kind of source, then asks: losses, answers word by word, boxes and masks.

    PYTHONPATH=tests python tests/train/overfit_kinds.py [STEPS] [KIND ...]

Starts from the embedded model and takes some minutes a kind; photos are those of the pack at LLAVA_GROUNDING_DATA. Not
part of the tests. Each picture has one question, drawn once; pictures take different kinds of questions in turn.
"""

import json
import logging
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from running import Listed
from scene_files import write_every_kind

from llava_grounding.data.sample import Sample
from llava_grounding.inference.conversation import Conversation
from llava_grounding.inference.runtime import Runtime
from llava_grounding.markup import strip_markup
from llava_grounding.train.batching.mixture import Mixture
from llava_grounding.train.recipe import Recipe, recipe_of
from llava_grounding.train.run import run_stage
from llava_grounding.train.training_setup import TrainingSetup, build_training_setup
from mask_overlaps import mask_iou

COUNT = 8
LOSSES = ("language", "phrase_loss_class", "phrase_loss_mask", "phrase_loss_dice", "phrase_loss_box")


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 80
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        sources = write_every_kind(root / "data", COUNT) | {"scenes": {"kind": "scenes"}, "photos": {"kind": "photos"}}
        for kind in sys.argv[2:] or sources:
            recipe = recipe_of(
                {
                    "stage": "marks" if kind == "set_of_mark" else "chat",
                    "start_from": "nano",
                    "class_task": False,
                    "data": [sources[kind]],
                    "validation": [sources[kind]],
                    "steps": steps,
                    "batch_size": COUNT,
                    "learning_rate": 1e-3,
                    "weight_decay": 0.0,
                    "num_points": 0,
                    "max_turns": 1,
                    "logging_steps": max(1, steps // 8),
                    "eval_steps": 10_000,
                    "save_steps": 10_000,
                    "pictures": 0,
                    "report_to": [],
                }
            )
            print(kind, overfit(recipe, root / kind, None if kind == "photos" else root / "data"), sep=": ", flush=True)


def overfit(recipe: Recipe, folder: Path, data: Path) -> str:
    """What is left of the losses, and how much of the samples the model says and shows when asked."""
    setup = build_training_setup(recipe, folder, data, "cpu")
    samples = fixed_samples(setup)
    setup.mixture, setup.held_out = Mixture([(Listed(samples), 1.0)], COUNT, 0), samples
    metrics = run_stage(setup, "cpu")
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    first, *_, last = [row for row in rows if "loss" in row]
    left = ", ".join(f"{name} {first[name]:.3f} -> {last[name]:.4f}" for name in LOSSES if name in first)
    numbers = ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
    return f"{left}; {numbers}; {examination(setup, samples)}"


def fixed_samples(setup: TrainingSetup) -> list[Sample]:
    """One sample of every picture with one of its questions."""
    (source,) = setup.mixture.sources
    samples = []
    for number in range(4 * COUNT if source.size is None else min(source.size, 4 * COUNT)):
        sample = source.sample(number, np.random.default_rng(number))
        if sample.turns and picture(sample) not in map(picture, samples):
            samples.append(replace(sample, turns=(sample.turns[len(samples) % len(sample.turns)],)))
    return samples[:COUNT]


def picture(sample: Sample) -> str:
    """What all samples of one picture have in common."""
    return sample.id.partition("#")[0]


def examination(setup: TrainingSetup, samples: Sequence[Sample]) -> str:
    """Every question asked once more, as a user would."""
    runtime = Runtime(setup.model.eval(), setup.processor)
    exact, overlaps, right, wanted = 0, [], 0, 0
    for sample in samples:
        (turn,) = sample.turns
        seen = runtime.encode_images([Image.fromarray(sample.image)])[0]
        answer = Conversation(runtime, seen, "learnt").ask(turn.question, turn.prompts, turn.grounded)
        exact += answer.text == strip_markup(turn.answer)
        wanted += len(turn.targets)
        for phrase, target in zip(answer.phrases, turn.targets, strict=False):
            right += len(phrase.regions) == len(target or ())
            found = np.array([region.mask for region in phrase.regions if region.mask is not None])
            for row in target or ():
                if sample.instances[row].has_mask:
                    overlaps.append(mask_iou(found, sample.masks[[row]]).max() if len(found) else 0.0)
    shown = f"; mask IoU mean {np.mean(overlaps):.3f}, least {min(overlaps):.3f} of {len(overlaps)}" if overlaps else ""
    regions = f"; right number of regions in {right} of {wanted} phrases" if wanted else ""
    return f"{exact} of {len(samples)} answers word by word{regions}{shown}"


if __name__ == "__main__":
    main()
