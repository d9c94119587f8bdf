"""Drawn scenes written as every published format: the same few pictures, ready for each kind of source."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from llava_grounding.data.coco_writer import coco_instances
from llava_grounding.data.readers.gvc import write_gvc
from llava_grounding.data.record import Record
from llava_grounding.geometry import box_xyxy_to_xywh
from llava_grounding.markup import parse
from llava_grounding.scenes.records import DrawnScenes, write_scenes

IMAGES = {"images": "images"}
TALKS: dict[str, dict[str, float]] = {
    "coco": {"categories": 1.0, "referring": 1.0},
    "visual_genome": {"referring": 1.0, "region_captions": 1.0},
    "region_captions": {"region_captions": 1.0},
}


def write_every_kind(root: Path, count: int = 8, seed: int = 0) -> dict[str, dict[str, Any]]:
    """Write so many scenes below `root`, and give the source of each kind as a recipe names it."""
    write_scenes(root, count, seed)
    records = list(DrawnScenes(count, seed))
    instances = coco_instances(records)
    _json(root / "coco.json", instances)
    rows = {row["file_name"]: row for row in instances["images"]}
    ids = {record.id: rows[record.image_name]["id"] for record in records}
    write_gvc(root / "gvc.json", records)
    sources: dict[str, dict[str, Any]] = {
        "custom": {"instances": "instances.json", "captions": "captions.json", "dialogues": "dialogues.jsonl"},
        "coco": {"instances": "coco.json"},
        "coco_panoptic": _panoptic(root, records, ids),
        "refcoco": _refcoco(root, records, ids),
        "visual_genome": _visual_genome(root, records, ids),
        "flickr30k": _entities(root, records, ids),
        "flickr30k_mdetr": _flickr(root, records),
        "llava": _llava(root, records),
        "gvc": {"dialogues": "gvc.json", "instances": "coco.json"},
        "region_captions": _region_captions(root, records),
        "set_of_mark": _marks(root, records),
    }
    return {
        kind: {"kind": kind, **IMAGES, **values, **({"dialogue": TALKS[kind]} if kind in TALKS else {})}
        for kind, values in sources.items()
    }


def _json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values), encoding="utf-8")


def _panoptic(root: Path, records: Sequence[Record], ids: dict[str, int]) -> dict[str, Any]:
    names = sorted({thing.category for record in records for thing in record.instances})
    (root / "segments").mkdir()
    images, annotations = [], []
    for record in records:
        assert record.image_size_wh is not None
        width, height = record.image_size_wh
        pixels, segments = np.zeros((height, width, 3), dtype=np.uint8), []
        for index, thing in enumerate(record.instances):
            mask = record.load_mask(index)
            assert mask is not None
            pixels[mask] = (index + 1, 0, 0)
            box = [float(value) for value in box_xyxy_to_xywh(np.array(thing.box_xyxy))]
            category = names.index(thing.category) + 1
            segments.append({"id": index + 1, "category_id": category, "bbox": box, "area": 1, "iscrowd": 0})
        Image.fromarray(pixels).save(root / "segments" / f"{record.id}.png")
        images.append({"id": ids[record.id], "file_name": record.image_name, "width": width, "height": height})
        name = f"{record.id}.png"
        annotations.append({"image_id": ids[record.id], "file_name": name, "segments_info": segments})
    categories = [{"id": number, "name": name, "isthing": 1} for number, name in enumerate(names, start=1)]
    _json(root / "panoptic.json", {"images": images, "annotations": annotations, "categories": categories})
    return {"panoptic": "panoptic.json", "segments": "segments"}


def _refcoco(root: Path, records: Sequence[Record], ids: dict[str, int]) -> dict[str, Any]:
    refs = [
        {
            "ref_id": 1000 * ids[record.id] + number,
            "image_id": ids[record.id],
            "ann_id": record.instances[expression.targets[0]].id,
            "split": "train",
            "sentences": [{"sent": expression.text, "raw": expression.text}],
        }
        for record in records
        for number, expression in enumerate(record.expressions)
        if len(expression.targets) == 1
    ]
    _json(root / "refs.json", refs)
    return {"refs": "refs.json", "instances": "coco.json"}


def _visual_genome(root: Path, records: Sequence[Record], ids: dict[str, int]) -> dict[str, Any]:
    images, regions = [], []
    for record in records:
        assert record.image_size_wh is not None
        number = ids[record.id]
        url = f"https://example.org/VG_100K/{number}.jpg"
        images.append(
            {"image_id": number, "url": url, "width": record.image_size_wh[0], "height": record.image_size_wh[1]}
        )
        said = []
        for place, expression in enumerate(record.expressions):
            x0, y0, x1, y1 = record.instances[expression.targets[0]].box_xyxy
            box = {"x": int(x0), "y": int(y0), "width": int(x1 - x0), "height": int(y1 - y0)}
            said.append({"region_id": 100 * number + place, "image_id": number, "phrase": expression.text, **box})
        regions.append({"id": number, "regions": said})
    (root / "vg").mkdir()
    for record in records:
        Image.open(root / "images" / record.image_name).convert("RGB").save(root / "vg" / f"{ids[record.id]}.jpg")
    _json(root / "image_data.json", images)
    _json(root / "region_descriptions.json", regions)
    return {"image_data": "image_data.json", "regions": "region_descriptions.json", "images": "vg"}


def _flickr(root: Path, records: Sequence[Record]) -> dict[str, Any]:
    images, annotations = [], []
    for number, record in enumerate(records, start=1):
        caption = record.grounded_captions[0]
        parsed = parse(caption.text)
        assert record.image_size_wh is not None
        width, height = record.image_size_wh
        images.append(
            {"id": number, "file_name": record.image_name, "caption": parsed.text, "width": width, "height": height}
        )
        spans: dict[int, list[list[int]]] = {}
        for phrase, targets in zip(parsed.phrases, caption.targets, strict=True):
            for index in targets or ():
                spans.setdefault(index, []).append(list(phrase.span))
        for index, positive in spans.items():
            box = [float(value) for value in box_xyxy_to_xywh(np.array(record.instances[index].box_xyxy))]
            annotations.append(
                {
                    "id": 100 * number + index,
                    "image_id": number,
                    "bbox": box,
                    "tokens_positive": positive,
                    "segmentation": record.instances[index].segmentation,
                }
            )
    _json(root / "flickr.json", {"images": images, "annotations": annotations})
    return {"captions": "flickr.json"}


def _entities(root: Path, records: Sequence[Record], ids: dict[str, int]) -> dict[str, Any]:
    for folder in ("entities/Annotations", "entities/Sentences", "flickr"):
        (root / folder).mkdir(parents=True)
    for record in records:
        number = ids[record.id]
        caption = record.grounded_captions[0]
        parsed = parse(caption.text)
        said, done, chains = "", 0, {}
        for chain, (phrase, targets) in enumerate(zip(parsed.phrases, caption.targets, strict=True), start=1):
            start, end = phrase.span
            said += f"{parsed.text[done:start]}[/EN#{chain}/other {parsed.text[start:end]}]"
            done = end
            for index in targets or ():
                chains.setdefault(index, []).append(chain)
        (root / f"entities/Sentences/{number}.txt").write_text(f"{said}{parsed.text[done:]}\n", encoding="utf-8")
        assert record.image_size_wh is not None
        width, height = record.image_size_wh
        things = ""
        for index, names in chains.items():
            x0, y0, x1, y1 = (round(value) for value in record.instances[index].box_xyxy)
            corners = {"xmin": x0 + 1, "ymin": y0 + 1, "xmax": x1, "ymax": y1}  # pixels, counted from 1
            box = "".join(f"<{name}>{value}</{name}>" for name, value in corners.items())
            called = "".join(f"<name>{one}</name>" for one in names)
            things += f"<object>{called}<bndbox>{box}</bndbox></object>"
        size = f"<size><width>{width}</width><height>{height}</height></size>"
        annotation = f"<annotation><filename>{number}.jpg</filename>{size}{things}</annotation>\n"
        (root / f"entities/Annotations/{number}.xml").write_text(annotation, encoding="utf-8")
        image = Image.open(root / "images" / record.image_name).convert("RGB")
        image.save(root / f"flickr/{number}.jpg", quality=95)
    numbers = "".join(f"{ids[record.id]}\n" for record in records)
    (root / "entities/train.txt").write_text(numbers, encoding="utf-8")
    return {"entities": "entities", "images": "flickr"}


def _region_captions(root: Path, records: Sequence[Record]) -> dict[str, Any]:
    entries = []
    for record in records:
        pointed, said = [], []
        for one in record.expressions:
            if len(one.targets) == 1:
                pointed.append([record.instances[one.targets[0]].id])
                said.append({"from": "human", "value": "What is <obj>?" if said else "<image>\nWhat is <obj>?"})
                said.append({"from": "gpt", "value": [one.text]})
        if said:
            entry = {"id": record.id, "image": record.image_name, "conversations": said, "q_gd_ls": pointed}
            entries.append(entry)
    _json(root / "regions.json", entries)
    return {"dialogues": "regions.json", "instances": "coco.json"}


def _llava(root: Path, records: Sequence[Record]) -> dict[str, Any]:
    entries = []
    for record in records:
        said = [{"from": "human", "value": "<image>\nDescribe the picture."}]
        said.append({"from": "gpt", "value": record.captions[0]})
        entries.append({"id": record.id, "image": record.image_name, "conversations": said})
    _json(root / "llava.json", entries)
    return {"dialogues": "llava.json"}


def _marks(root: Path, records: Sequence[Record]) -> dict[str, Any]:
    entries = []
    for record in records:
        marks = [thing.id for thing in record.instances]
        said = [{"from": "human", "value": "<image>\nWhat is <1>?"}]
        said.append({"from": "gpt", "value": f"A {record.instances[0].category}."})
        entries.append({"id": record.id, "image": record.image_name, "set_of_mark": marks, "conversations": said})
    _json(root / "marks.json", entries)
    return {"dialogues": "marks.json", "instances": "coco.json"}
