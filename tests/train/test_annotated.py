"""Files that `annotate run` writes are trained on, from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from small_training import training_model, training_processor

from llava_grounding.cli.main import run

SIZE_WH = (96, 80)
BOXES = {"person": ((4, 8, 28, 72), (34, 12, 56, 74)), "dog": ((62, 44, 90, 74),)}
CAPTIONS = ("Two people walk a dog.", "The dog is seen with two people.")


def write_labels(folder: Path, count: int) -> None:
    """Pictures, each with two people and a dog, and captions of them."""
    (folder / "photos").mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    captions: list[dict[str, Any]] = []
    colours = {"person": (200, 60, 60), "dog": (60, 60, 200)}
    for number in range(1, count + 1):
        images.append({"id": number, "file_name": f"{number}.png", "width": SIZE_WH[0], "height": SIZE_WH[1]})
        picture = np.full((*SIZE_WH[::-1], 3), 20 * number, dtype=np.uint8)
        for category, (name, boxes) in enumerate(BOXES.items(), start=1):
            for x0, y0, x1, y1 in boxes:
                picture[y0:y1, x0:x1] = colours[name]
                corners = [x0, y0, x1, y0, x1, y1, x0, y1]
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": number, "category_id": category, "iscrowd": 0,
                     "bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "segmentation": [corners]}
                )  # fmt: skip
        Image.fromarray(picture).save(folder / f"photos/{number}.png")
        captions.append({"id": number, "image_id": number, "caption": CAPTIONS[number % len(CAPTIONS)]})
    names = [{"id": number, "name": name} for number, name in enumerate(BOXES, start=1)]
    labels = {"images": images, "annotations": annotations, "categories": names}
    (folder / "instances.json").write_text(json.dumps(labels))
    (folder / "captions.json").write_text(json.dumps({"annotations": captions}))


def test_what_annotate_writes_is_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_labels(tmp_path, 4)
    assert run(["annotate", "run", "--instances", "instances.json", "--captions", "captions.json", "--out", "gvc"]) == 0
    assert "GVC 4, GVC-R 4, marks 4" in capsys.readouterr().out
    training_model().save_pretrained("start")
    training_processor().save_pretrained("start")
    files = {"instances": "gvc/instances.json", "images": "photos"}
    data: list[dict[str, Any]] = [
        {"kind": "gvc", "dialogues": "gvc/gvc.json", **files},
        {"kind": "gvc", "name": "gvc_r", "dialogues": "gvc/gvc_r.json", **files},
        {"kind": "set_of_mark", "dialogues": "gvc/marks.json", **files},
    ]
    recipe = {
        "stage": "chat",
        "start_from": "start",
        "class_task": False,
        "num_points": 0,
        "bf16": False,
        "learning_rate": 1e-2,
        "loss_weights": {"grounding": 0.03},  # the words are what tells soon
        "data": data,
        "validation": [dict(data[0])],
        "validation_samples": 1,
    }
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert run(["train", "recipe.yaml", "--data", ".", "--check"]) == 0, capsys.readouterr()
    said = capsys.readouterr().out
    assert said.count(": ok") == 4, said
    quick = ["steps=8", "batch_size=4", "logging_steps=1", "save_steps=100", "workers=0", "pictures=0", "report_to=[]"]
    assert run(["train", "recipe.yaml", *quick, "--data", ".", "--out", "run"]) == 0, capsys.readouterr()
    rows = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
    for name in ("loss", "language"):
        values = [row[name] for row in rows if name in row]
        assert len(values) == 8, name
        assert max(values[-3:]) < min(values[:3]), (name, values)
    assert any("phrase_loss" in row for row in rows)
