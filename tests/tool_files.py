"""One scene of three pictures as each labelling tool writes it, and what a recipe says of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from label_files import picture, write_files, write_json
from llava_grounding.data.readers.createml import CreateMl
from llava_grounding.data.readers.cvat import CvatXml
from llava_grounding.data.readers.label_studio import LabelStudio
from llava_grounding.data.readers.labelme import Labelme
from llava_grounding.data.readers.messages import ChatMessages
from llava_grounding.data.readers.metadata import MetadataFolder
from llava_grounding.data.readers.pictures import PictureRecords
from llava_grounding.data.readers.via import Via
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
}
"""Kind -> what writes its files into a folder, and the keys of a source in a recipe."""
