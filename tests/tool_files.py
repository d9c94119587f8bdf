"""One scene of three pictures as each labelling tool writes it, and what a recipe says of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from label_files import picture, write_files, write_json
from llava_grounding.data.readers.createml import CreateMl
from llava_grounding.data.readers.cvat import CvatXml
from llava_grounding.data.readers.grandf import GranDf
from llava_grounding.data.readers.grounded_texts import Ferret, Kosmos2, Osprey, Shikra
from llava_grounding.data.readers.label_studio import LabelStudio
from llava_grounding.data.readers.labelme import Labelme
from llava_grounding.data.readers.messages import ChatMessages
from llava_grounding.data.readers.metadata import MetadataFolder
from llava_grounding.data.readers.parquet import Parquet
from llava_grounding.data.readers.parts.pictures import PictureRecords
from llava_grounding.data.readers.via import Via
from llava_grounding.data.readers.visual_genome_objects import VisualGenomeObjects
from llava_grounding.data.readers.voc import PascalVoc
from llava_grounding.data.readers.yolo import Yolo

W, H = 40, 32
BOXES = {"a.png": [("dog", (4, 8, 20, 24)), ("cat", (10, 2, 30, 12))], "b.png": [("dog", (0, 0, 40, 16))], "c.png": []}
"""Of each picture its things with their corners."""
TRIANGLE = [4, 8, 20, 8, 4, 24]


def pictures(folder: Path) -> Path:
    return write_files(folder, {name: picture(size_wh=(W, H)) for name in BOXES})


def write_yolo(folder: Path) -> PictureRecords:
    pictures(folder / "train/images")
    (folder / "train/labels").mkdir()
    for name, things in BOXES.items():
        lines = []
        for kind, (x0, y0, x1, y1) in things:
            shares = ((x0 + x1) / 2 / W, (y0 + y1) / 2 / H, (x1 - x0) / W, (y1 - y0) / H)
            lines.append(" ".join(map(str, (("cat", "dog").index(kind), *shares))))
        if lines:
            (folder / f"train/labels/{name[0]}.txt").write_text("\n".join([*lines, lines[0], ""]))
    (folder / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['cat', 'dog']\n")
    return Yolo.from_files(folder)


def voc_xml(name: str, things: str, database: str = "Unknown") -> str:
    size = f"<size><width>{W}</width><height>{H}</height><depth>3</depth></size>"
    source = f"<source><database>{database}</database></source>"
    return f"<annotation><folder>x</folder><filename>{name}</filename>{source}{size}{things}</annotation>"


def voc_object(kind: str, box: tuple[Any, ...], more: str = "") -> str:
    sides = "".join(f"<{key}>{side}</{key}>" for key, side in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{kind}</name><bndbox>{sides}</bndbox>{more}</object>"


def write_voc(folder: Path) -> PictureRecords:
    pictures(folder / "JPEGImages")
    (folder / "Annotations").mkdir()
    for name, things in BOXES.items():
        text = voc_xml(name, "".join(voc_object(kind, box) for kind, box in things))
        (folder / f"Annotations/{name[0]}.xml").write_text(text)
    return PascalVoc.from_files(folder)


def write_labelme(folder: Path) -> PictureRecords:
    pictures(folder)
    for name, things in BOXES.items():
        shapes = [
            {"label": kind, "points": [[x1, y1], [x0, y0]], "shape_type": "rectangle", "group_id": None, "flags": {}}
            for kind, (x0, y0, x1, y1) in things
        ]
        data = {"version": "5.0", "shapes": shapes, "imagePath": f"..\\x\\{name}", "imageWidth": W, "imageHeight": H}
        write_json(folder / f"{name[0]}.json", data | {"imageData": None})
    return Labelme.from_files(folder)


def write_cvat(folder: Path, more: str = "") -> PictureRecords:
    pictures(folder / "images")
    rows = []
    for number, (name, things) in enumerate(BOXES.items()):
        shapes = "".join(
            f'<box label="{kind}" xtl="{x0}.00" ytl="{y0}" xbr="{x1}" ybr="{y1}" occluded="0" z_order="0"></box>'
            for kind, (x0, y0, x1, y1) in things
        )
        shapes += more if name == "a.png" else ""
        rows.append(f'<image id="{number}" name="{name}" width="{W}" height="{H}">{shapes}</image>')
    (folder / "annotations.xml").write_text(f"<annotations><version>1.1</version>{''.join(rows)}</annotations>")
    return CvatXml.from_files(folder)


def write_via(folder: Path) -> PictureRecords:
    pictures(folder)
    data = {
        f"{name}99": {
            "filename": name,
            "size": 99,
            "regions": [
                {
                    "shape_attributes": {"name": "rect", "x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0},
                    "region_attributes": {"kind": {kind: True}},
                }
                for kind, (x0, y0, x1, y1) in things
            ],
            "file_attributes": {},
        }
        for name, things in BOXES.items()
    }
    return Via.from_files(write_json(folder / "via.json", {"_via_settings": {}, "_via_img_metadata": data}))


def write_label_studio(folder: Path) -> PictureRecords:
    pictures(folder)
    tasks = []
    for number, (name, things) in enumerate(BOXES.items()):
        result = [
            {
                "id": f"r{place}",
                "type": "rectanglelabels",
                "original_width": W,
                "original_height": H,
                "value": {
                    "x": x0 * 100 / W,
                    "y": y0 * 100 / H,
                    "width": (x1 - x0) * 100 / W,
                    "height": (y1 - y0) * 100 / H,
                    "rotation": 0,
                    "rectanglelabels": [kind],
                },
            }
            for place, (kind, (x0, y0, x1, y1)) in enumerate(things)
        ]
        done = [{"id": 1, "was_cancelled": True, "result": []}, {"id": 2, "result": result}, {"was_cancelled": True}]
        tasks.append({"id": number, "data": {"image": f"/data/upload/1/0a1b2c3d-{name}"}, "annotations": done})
    return LabelStudio.from_files(write_json(folder / "export.json", tasks))


def write_createml(folder: Path) -> PictureRecords:
    pictures(folder)
    rows = [
        {
            "image": name,
            "annotations": [
                {
                    "label": kind,
                    "coordinates": {"x": (x0 + x1) / 2, "y": (y0 + y1) / 2, "width": x1 - x0, "height": y1 - y0},
                }
                for kind, (x0, y0, x1, y1) in things
            ],
        }
        for name, things in BOXES.items()
    ]
    return CreateMl.from_files(write_json(folder / "labels.createml.json", rows))


def write_metadata(folder: Path) -> PictureRecords:
    pictures(folder / "train")
    rows = [
        {
            "file_name": name,
            "text": "a picture",
            "objects": {
                "bbox": [[x0, y0, x1 - x0, y1 - y0] for _, (x0, y0, x1, y1) in things],
                "categories": [kind for kind, _ in things],
            },
        }
        for name, things in BOXES.items()
    ]
    (folder / "train/metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return MetadataFolder.from_files(folder)


def write_messages(folder: Path) -> PictureRecords:
    pictures(folder)
    said = [{"role": "user", "content": "<image>What is it?"}, {"role": "assistant", "content": "A dog."}]
    rows = [{"messages": said, "images": [name]} for name in BOXES]
    return ChatMessages.from_files(write_json(folder / "chat.json", rows))


def _talk(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(texts)]


def write_osprey(folder: Path) -> PictureRecords:
    pictures(folder)
    regions = [{"bbox": [4, 8, 16, 16], "segmentation": [TRIANGLE]}, {"bbox": [10, 2, 20, 10]}]
    talk = _talk("<image>\nWhat is <region2> beside <region1>?", "A cat at <region1> sits there.")
    entry = {"id": 1, "file_name": "a.png", "height": H, "width": W, "annotation": regions, "conversations": talk}
    rows = [entry | {"description": ["a dog", "a cat"]}, entry]
    return Osprey.from_files(write_json(folder / "osprey.json", rows), folder)


def write_ferret(folder: Path) -> PictureRecords:
    pictures(folder)
    talk = _talk("<image>\nWhat is at <bbox_location0>?", "A dog <bbox_location0> .", "And <bbox_location0>?", "A cat.")
    boxes = [[[[4, 8, 20, 24]]], [[4, 8, 20, 24]], [[10, 2, 30, 12]], []]
    entry = {"id": "1", "image": "a.png", "image_w": W, "image_h": H, "conversations": talk, "box_x1y1x2y2": boxes}
    return Ferret.from_files(write_json(folder / "ferret.json", [entry]), folder)


def write_shikra(folder: Path) -> PictureRecords:
    pictures(folder)
    entry = {
        "img_path": "a.png",
        "question": "What is at <boxes>?",
        "answer": "It is <ph_st>a dog<ph_ed><boxes> beside <ph_st>a cat<ph_ed><boxes>, as <boxes> shows.",
        "boxes": [[4, 8, 20, 24], [10, 2, 30, 12]],
        "question_boxes_seq": [[0]],
        "answer_boxes_seq": [[0], [1], [0]],
    }
    return Shikra.from_files(write_json(folder / "shikra.json", [entry]), folder)


def write_kosmos(folder: Path) -> PictureRecords:
    pictures(folder)
    caption = "A dog and a cat."
    chunks = [[0, 5, 0.1, 0.25, 0.5, 0.75, 0.9], [10, 15, 0.25, 0.0625, 0.75, 0.375, 0.9]]
    text = "<grounding><phrase> A dog</phrase><object><patch_index_0256><patch_index_0752></object> and a cat."
    rows = [{"image": "a.png", "caption": caption, "noun_chunks": chunks}, {"image": "b.png", "text": text}]
    return Kosmos2.from_files(write_json(folder / "kosmos.json", rows), folder)


def write_grandf(folder: Path) -> PictureRecords:
    pictures(folder)
    mask = {"size": [H, W], "counts": [H * 4 + 8, 16, H - 16, 16, H * W - H * 5 - 24]}
    groundings = {"a dog": {"token_positives": [0, 5], "rle_masks": [mask]}, "a fish": {"rle_masks": [mask]}}
    ref = {"sentence": "the cat", "bbox": [10, 2, 20, 10], "segmentation": [[10, 2, 30, 2, 30, 12, 10, 12]]}
    rows = [
        {"file_name": "a.png", "width": W, "height": H, "caption": "A dog sits.", "groundings": groundings},
        {"7": {"img_file_name": "b.png", "caption": "Look at the cat.", "refs": [ref]}},
    ]
    return GranDf.from_files(write_json(folder / "grandf.json", rows), folder)


def write_genome_objects(folder: Path) -> PictureRecords:
    pictures(folder)
    images = [{"image_id": 7, "width": W, "height": H, "url": "https://host.org/VG_100K/a.png"}]
    box = {"object_id": 70, "x": 4, "y": 8, "w": 16, "h": 16, "names": ["dog", "hound"], "attributes": ["red"]}
    write_json(folder / "image_data.json", images)
    objects = write_json(folder / "objects.json", [{"image_id": 7, "objects": [box, {**box, "names": []}, 3]}])
    return VisualGenomeObjects.from_files(folder / "image_data.json", objects, folder)


def write_parquet(folder: Path) -> PictureRecords:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    names = ["cat", "dog"]
    rows = [
        {
            "image": {"bytes": picture(size_wh=(W, H)), "path": name},
            "objects": {
                "bbox": [[float(x0), y0, x1 - x0, y1 - y0] for _, (x0, y0, x1, y1) in things],
                "category": [names.index(kind) for kind, _ in things],
            },
            "messages": [{"role": "user", "content": "<image>What is it?"}, {"role": "assistant", "content": "A dog."}],
            "text": "a picture",
        }
        for name, things in BOXES.items()
    ]
    feature = {"feature": {"names": names, "_type": "ClassLabel"}, "_type": "List"}
    about = {"info": {"features": {"objects": {"category": feature, "bbox": {"_type": "List"}}}}}
    table = pyarrow.Table.from_pylist(rows).replace_schema_metadata({"huggingface": json.dumps(about)})
    (folder / "data").mkdir()
    parquet.write_table(table, folder / "data/train-00000-of-00001.parquet", row_group_size=2)
    return Parquet.from_files(folder, "train")


TOOLS: dict[str, tuple[Callable[[Path], PictureRecords], dict[str, Any]]] = {
    "yolo": (write_yolo, {"data": "data.yaml"}),
    "voc": (write_voc, {"annotations": "."}),
    "labelme": (write_labelme, {"labels": "."}),
    "cvat": (write_cvat, {"labels": "annotations.xml"}),
    "via": (write_via, {"labels": "via.json"}),
    "label_studio": (write_label_studio, {"labels": "export.json"}),
    "createml": (write_createml, {"labels": "labels.createml.json"}),
    "metadata": (write_metadata, {"folder": "."}),
    "messages": (write_messages, {"dialogues": "chat.json"}),
    "parquet": (write_parquet, {"data": "data", "split": "train"}),
    "osprey": (write_osprey, {"dialogues": "osprey.json", "images": "."}),
    "ferret": (write_ferret, {"dialogues": "ferret.json", "images": "."}),
    "shikra": (write_shikra, {"dialogues": "shikra.json", "images": "."}),
    "kosmos2": (write_kosmos, {"captions": "kosmos.json", "images": "."}),
    "grandf": (write_grandf, {"captions": "grandf.json", "images": "."}),
    "visual_genome_objects": (
        write_genome_objects,
        {"objects": "objects.json", "image_data": "image_data.json", "images": "."},
    ),
}
"""Kind -> what writes its files into a folder, and the keys of a source in a recipe."""
