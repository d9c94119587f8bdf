"""Invented miniatures of every kind of data, laid out where a recipe's source says its files are."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from label_files import SIZE_WH, coco, labelled, picture, write_files, write_json

DOG = [[1, 1, 6, 1, 6, 6, 1, 6]]
INSTANCES = coco(
    [
        labelled(1, [1, 1, 5, 5], segmentation=DOG, expressions=["the left dog"]),
        labelled(2, [6, 2, 3, 4], category=2),
        labelled(3, [0, 0, 9, 7], image_id=2, segmentation=DOG),
    ],
    num_images=2,
)
PICTURES = {"1.png": picture(1), "2.png": picture(2)}


def write_source(values: Mapping[str, Any], root: Path) -> None:
    """Write the files of one source below `root`; sources without files have none."""
    if values["kind"] in _WRITERS:
        _WRITERS[values["kind"]]({name: root / value for name, value in values.items() if isinstance(value, str)})


def dialogue(image: str, *texts: Any, **more: Any) -> dict[str, Any]:
    """An entry of LLaVA's form."""
    turns = [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(texts)]
    return {"id": f"{image}-talk", "image": image, "conversations": turns, **more}


def _json(path: Path, data: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, data)


def _coco(paths: Mapping[str, Path]) -> None:
    _json(paths["instances"], INSTANCES)
    write_files(paths["images"], PICTURES)
    if "captions" in paths:
        _json(paths["captions"], {"annotations": [{"image_id": 1, "caption": "A dog looks at a cat."}]})


def _panoptic(paths: Mapping[str, Path]) -> None:
    ids = np.zeros(SIZE_WH[::-1], dtype=np.uint8)
    ids[:3], ids[4:7, 2:6] = 9, 7
    buffer = io.BytesIO()
    Image.fromarray(np.stack([ids, ids * 0, ids * 0], axis=-1)).save(buffer, "PNG")
    write_files(paths["segments"], {"1.png": buffer.getvalue()})
    write_files(paths["images"], {"1.jpg": picture()})
    segments = [
        {"id": 9, "category_id": 187, "bbox": [0, 0, 10, 3], "area": 30, "iscrowd": 0},
        {"id": 7, "category_id": 18, "bbox": [2, 4, 4, 3], "area": 12, "iscrowd": 0},
    ]
    categories = [{"id": 18, "name": "dog", "isthing": 1}, {"id": 187, "name": "sky-other-merged", "isthing": 0}]
    images = [{"id": 1, "file_name": "1.jpg", "width": SIZE_WH[0], "height": SIZE_WH[1]}]
    row = {"image_id": 1, "file_name": "1.png", "segments_info": segments}
    _json(paths["panoptic"], {"images": images, "annotations": [row], "categories": categories})


def _refcoco(paths: Mapping[str, Path]) -> None:
    refs = [
        {
            "ref_id": number,
            "ann_id": number,
            "image_id": image,
            "file_name": f"COCO_train2014_{image}_0.jpg",
            "category_id": 1,
            "split": split,
            "sentences": [{"raw": text, "sent": text, "tokens": text.split(), "sent_id": number}],
            "sent_ids": [number],
        }
        for number, image, split, text in [(1, 1, "train", "left dog"), (2, 1, "train", "cat"), (3, 2, "val", "dog")]
    ]
    _coco(paths)
    paths["refs"].parent.mkdir(parents=True, exist_ok=True)
    paths["refs"].write_bytes(pickle.dumps(refs, protocol=2))


def _genome(paths: Mapping[str, Path]) -> None:
    row = {"image_id": 7, "width": 10, "height": 8, "url": "https://example.org/rak/VG_100K/7.jpg"}
    region = {"region_id": 1, "phrase": "a red hat", "x": 1, "y": 2, "width": 4, "height": 3}
    _json(paths["image_data"], [row])
    _json(paths["regions"], [{"id": 7, "regions": [region]}])
    write_files(paths["images"], {"VG_100K/7.jpg": picture(7)})


def _flickr(paths: Mapping[str, Path]) -> None:
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>6</xmax><ymax>6</ymax></bndbox>"
    thing = f"<object><name>5</name>{box}</object>"
    size = "<size><width>10</width><height>8</height></size>"
    files = {
        "Annotations/11.xml": f"<annotation><filename>11.jpg</filename>{size}{thing}</annotation>".encode(),
        "Sentences/11.txt": b"[/EN#5/animals A dog] sleeps .\n",
        "train.txt": b"11\n",
        "val.txt": b"11\n",
    }
    write_files(paths["entities"], files)
    write_files(paths["images"], {"11.jpg": picture(11)})


def _mdetr(paths: Mapping[str, Path]) -> None:
    row = {"id": 7, "file_name": "11.jpg", "caption": "A dog sleeps.", "width": 10, "height": 8, "original_img_id": 11}
    label = {"id": 1, "image_id": 7, "category_id": 1, "iscrowd": 0, "bbox": [1, 1, 4, 4], "tokens_positive": [[0, 5]]}
    data = {"images": [row], "annotations": [label], "categories": [{"id": 1, "name": "object"}]}
    _json(paths["captions"], data)
    write_files(paths["images"], {"11.jpg": picture(11)})


def _llava(paths: Mapping[str, Path]) -> None:
    _json(paths["dialogues"], [dialogue("1.png", "<image>\nWhat is it?", "A dog.")])
    write_files(paths["images"], PICTURES)


def _gvc(paths: Mapping[str, Path]) -> None:
    asked, said = "<image>\nWhat is it? (with grounding)", "It is <g_s> a dog <g_e> <seg>."
    pointing = dialogue("2.png", "<image>\nWhat is <obj>?", "A dog.", q_gd_ls=[[3]])
    _json(paths["dialogues"], [dialogue("1.png", asked, said, gd_ls=[[1]]), pointing])
    _json(paths["instances"], INSTANCES)
    write_files(paths["images"], PICTURES)


def _regions(paths: Mapping[str, Path]) -> None:
    _json(paths["dialogues"], [dialogue("1.png", "<image>\nWhat is <obj>?", ["the left dog"], q_gd_ls=[[1]])])
    _json(paths["instances"], INSTANCES)
    write_files(paths["images"], PICTURES)


_WRITERS: dict[str, Callable[[Mapping[str, Path]], None]] = {
    "coco": _coco,
    "custom": _coco,
    "coco_panoptic": _panoptic,
    "refcoco": _refcoco,
    "visual_genome": _genome,
    "flickr30k": _flickr,
    "flickr30k_mdetr": _mdetr,
    "llava": _llava,
    "set_of_mark": _llava,
    "gvc": _gvc,
    "region_captions": _regions,
}
SOURCES: dict[str, dict[str, Any]] = {
    "coco": {"instances": "c/instances.json", "images": "c/images", "captions": "c/captions.json"},
    "custom": {"instances": "o/instances.json", "images": "o/images", "captions": "o/captions.json"},
    "coco_panoptic": {"panoptic": "p/panoptic.json", "segments": "p/png", "images": "p/images"},
    "refcoco": {"refs": "r/refs(unc).p", "instances": "r/instances.json", "images": "r/images"},
    "visual_genome": {"image_data": "v/images.json", "regions": "v/regions.json", "images": "v"},
    "flickr30k": {"entities": "f/entities", "images": "f/images", "split": "train"},
    "flickr30k_mdetr": {"captions": "m/captions.json", "images": "m/images"},
    "llava": {"dialogues": "l/talk.json", "images": "l/images"},
    "gvc": {"dialogues": "g/talk.json", "instances": "g/instances.json", "images": "g/images"},
    "region_captions": {"dialogues": "n/talk.json", "instances": "n/instances.json", "images": "n/images"},
    "set_of_mark": {"dialogues": "k/talk.json", "images": "k/images"},
}
"""One source of each kind, without its `kind`."""


def source(kind: str, **more: Any) -> dict[str, Any]:
    """A recipe's mapping of that kind, its paths relative."""
    return {"kind": kind, **SOURCES[kind], **more}
