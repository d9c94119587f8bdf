"""Print what reading costs beside pycocotools, in one run: python tests/performance/measure_reading.py [images]

A generated COCO file of so many pictures (100,000 unless said) with eight annotations each, its polygons as masks, a
photo of 20 megapixels with 40 small polygons, and half as many dialogues again. Each is read in a process of its own.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

_ANNOTATIONS = 8  # per picture
_MASKS = 2000


def write_coco(path: Path, count: int) -> None:
    """An instances file with polygons of 8 to 26 points, in no order."""
    chance = random.Random(0)
    images = [{"id": one, "file_name": f"{one:012d}.jpg", "height": 480, "width": 640} for one in range(1, count + 1)]
    annotations = []
    for number in range(count * _ANNOTATIONS):
        x, y, w, h = chance.uniform(0, 500), chance.uniform(0, 380), chance.uniform(10, 120), chance.uniform(10, 90)
        points = chance.randint(8, 26)
        xs = [round(x + chance.random() * w, 2) for _ in range(points)]
        ys = [round(y + chance.random() * h, 2) for _ in range(points)]
        annotations.append(
            {
                "segmentation": [[place for point in zip(xs, ys, strict=True) for place in point]],
                "area": round(w * h, 4),
                "iscrowd": 0,
                "image_id": number % count + 1,
                "bbox": [min(xs), min(ys), round(max(xs) - min(xs), 2), round(max(ys) - min(ys), 2)],
                "category_id": number % 80 + 1,
                "id": number + 1,
            }
        )
    chance.shuffle(annotations)
    categories = [{"id": one, "name": f"kind{one}"} for one in range(1, 81)]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def read_ours(path: Path) -> Callable[[], Any]:
    from llava_grounding.data.readers.coco import CocoPhotos

    return lambda: CocoPhotos.from_files(path, path.parent)


def read_theirs(path: Path) -> Callable[[], Any]:
    from pycocotools.coco import COCO

    return lambda: COCO(str(path))


def masks_ours(path: Path) -> Callable[[], Any]:
    from llava_grounding.polygons import polygons_to_mask

    rows = json.loads(path.read_text())["annotations"][:_MASKS]
    return lambda: [polygons_to_mask(row["segmentation"], (640, 480)).any() for row in rows]


def masks_theirs(path: Path) -> Callable[[], Any]:
    from pycocotools import mask

    rows = json.loads(path.read_text())["annotations"][:_MASKS]
    return lambda: [mask.decode(mask.merge(mask.frPyObjects(row["segmentation"], 480, 640))).any() for row in rows]


def write_photo(path: Path) -> None:
    """A photo of 20 megapixels with 40 small polygons."""
    row = np.arange(5000, dtype=np.uint32) * 7 % 251
    pixels = np.stack([row[None] + np.arange(4000)[:, None] % 5] * 3, axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(path.with_name("large.jpg"), quality=90)
    annotations = []
    for number in range(40):
        x, y = 40 * (number % 8), 40 * (number // 8)
        polygon = [x, y, x + 30, y, x + 30, y + 20, x, y + 20]
        label = {"id": number + 1, "image_id": 1, "category_id": 1, "bbox": [x, y, 30, 20], "segmentation": [polygon]}
        annotations.append(label)
    images = [{"id": 1, "file_name": "large.jpg", "width": 5000, "height": 4000}]
    labels = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "kettle"}]}
    path.with_name("large.json").write_text(json.dumps(labels))


def write_dialogues(path: Path, count: int) -> None:
    """Dialogues of three turns about 500 pictures that are there."""
    text = "What is the man in the picture doing? " * 2
    said = [{"from": ("human", "gpt")[place % 2], "value": text} for place in range(6)]
    for one in range(500):
        path.with_name(f"{one}.jpg").touch()
    with path.with_name("talk.jsonl").open("w") as file:
        for one in range(count):
            file.write(json.dumps({"id": str(one), "image": f"{one % 500}.jpg", "conversations": said}) + "\n")


def large_photo(path: Path) -> Callable[[], Any]:
    """One sample of the photo."""
    from llava_grounding.data.readers.coco import CocoPhotos
    from llava_grounding.dialogues.builder import build_sample
    from llava_grounding.dialogues.settings import DialogueSettings

    none = dict.fromkeys(("captions", "grounded_captions", "referring", "region_captions", "dialogues"), 0.0)
    record = CocoPhotos.from_files(path.with_name("large.json"), path.parent)[0]
    return lambda: build_sample(record, np.random.default_rng(0), DialogueSettings(**none, categories=1.0))


def dialogues(path: Path) -> Callable[[], Any]:
    """All dialogues."""
    from llava_grounding.data.readers.llava import LlavaDialogues

    return lambda: LlavaDialogues.from_files(path.with_name("talk.jsonl"), path.parent)


MEASURED = {one.__name__: one for one in (read_ours, read_theirs, masks_ours, masks_theirs, large_photo, dialogues)}


def measure(name: str, path: Path) -> None:
    """Print CPU seconds of a task, and megabytes of its process at most."""
    task = MEASURED[name](path)
    start = time.process_time()
    kept = task()
    seconds = time.process_time() - start
    del kept
    print(json.dumps([round(seconds, 2), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024]))


def run(*arguments: str) -> str:
    """A step in a process of its own: what one needs at most, a process begun by it would be said to need."""
    return subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=True).stdout


def main() -> None:
    """Measure everything."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "instances.json"
        run("write", str(path), str(count))
        found = {}
        for name in MEASURED:
            found[name] = json.loads(run(name, str(path)).splitlines()[-1])
            print(f"{name}: {found[name][0]} s of CPU, {found[name][1]} MB at most", flush=True)
    for what, ours, theirs in (("reading", "read_ours", "read_theirs"), ("masks", "masks_ours", "masks_theirs")):
        ratios = [mine / other for mine, other in zip(found[ours], found[theirs], strict=True)]
        print(f"{what}: {ratios[0]:.2f} of the CPU time of pycocotools, {ratios[1]:.2f} of its memory")


if __name__ == "__main__":
    if sys.argv[1:2] == ["write"]:
        write_coco(Path(sys.argv[2]), int(sys.argv[3]))
        write_photo(Path(sys.argv[2]))
        write_dialogues(Path(sys.argv[2]), int(sys.argv[3]) * 3 // 2)
    elif len(sys.argv) == 3:
        measure(sys.argv[1], Path(sys.argv[2]))
    else:
        main()
