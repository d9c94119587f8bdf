"""Learns eight pictures by heart from every kind of source, and prints what is left of the losses.

    python tests/train/overfit_kinds.py [STEPS] [KIND ...]

Starts from the embedded model and takes some minutes a kind; not part of the tests. F1 is that of the same pictures,
with other questions drawn; words of sources without phrases have only a language loss.
"""

import json
import logging
import sys
import tempfile
from pathlib import Path

from scene_files import write_every_kind

from llava_grounding.train.recipe import recipe_of
from llava_grounding.train.run import train


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 80
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        sources = write_every_kind(root / "data")
        for kind in sys.argv[2:] or sources:
            recipe = recipe_of(
                {
                    "stage": "marks" if kind == "marks" else "chat",
                    "start_from": "nano",
                    "class_task": False,
                    "data": [sources[kind]],
                    "validation": [sources[kind]],
                    "steps": steps,
                    "batch_size": 8,
                    "learning_rate": 1e-3,
                    "weight_decay": 0.0,
                    "num_points": 0,
                    "log_every": max(1, steps // 8),
                    "validate_every": 10_000,
                    "save_every": 10_000,
                    "pictures": 0,
                    "report_to": [],
                }
            )
            metrics = train(recipe, root / kind, root / "data", "cpu")
            rows = [json.loads(line) for line in (root / kind / "log.jsonl").read_text().splitlines()]
            losses = [row for row in rows if "loss" in row]
            names = ("language", "phrase_loss_class", "phrase_loss_dice", "phrase_loss_box")
            shown = ", ".join(f"{name} {losses[0].get(name, 0):.3f} -> {losses[-1].get(name, 0):.3f}" for name in names)
            print(f"{kind}: {shown}; {json.dumps(metrics)}", flush=True)


if __name__ == "__main__":
    main()
