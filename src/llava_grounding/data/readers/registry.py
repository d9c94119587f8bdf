"""The readers by the kind of data that recipes and commands name: adding one is a file and a line here.

A reader is a class whose `from_files` takes what its files are known by; its parameters are the keys of a source.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from llava_grounding.data.record import Dataset
from llava_grounding.errors import ConfigError, did_you_mean, quoted

READERS: dict[str, str | type[Any]] = {
    "coco": "coco:CocoPhotos",
    "coco_panoptic": "coco_panoptic:CocoPanoptic",
    "refcoco": "refcoco:RefCoco",
    "visual_genome": "visual_genome:VisualGenome",
    "visual_genome_objects": "visual_genome_objects:VisualGenomeObjects",
    "flickr30k": "flickr30k:Flickr30kEntities",
    "flickr30k_mdetr": "flickr30k:Flickr30kMdetr",
    "llava": "llava:LlavaDialogues",
    "gvc": "gvc:GvcDialogues",
    "region_captions": "gvc:RegionCaptions",
    "set_of_mark": "set_of_mark:SetOfMarkDialogues",
    "custom": "custom:CustomData",
    "yolo": "yolo:Yolo",
    "voc": "voc:PascalVoc",
    "labelme": "labelme:Labelme",
    "cvat": "cvat:CvatXml",
    "via": "via:Via",
    "label_studio": "label_studio:LabelStudio",
    "createml": "createml:CreateMl",
    "messages": "messages:ChatMessages",
    "metadata": "metadata:MetadataFolder",
    "parquet": "parquet:Parquet",
    "grandf": "grandf:GranDf",
    "osprey": "grounded_texts:Osprey",
    "ferret": "grounded_texts:Ferret",
    "shikra": "grounded_texts:Shikra",
    "kosmos2": "grounded_texts:Kosmos2",
}
"""Kind -> module of this room and class, or a class of another place."""


def register_reader(kind: str, reader: type[Any]) -> None:
    """Make a kind known to recipes, in this process and in its worker processes where they are forked.

    Args:
        reader: a `Dataset` whose class method `from_files` takes the keys of a source, with type annotations. A class
            method `recognise`, if it has one, takes the path of a file or folder and gives the keys of a source for it,
            or None where it is of another kind; `title` says what the kind is called.
    """
    READERS[kind] = reader


def reader_of(kind: str, others: tuple[str, ...] = ()) -> Callable[..., Dataset]:
    """What reads files of a kind.

    Args:
        others: kinds that are known elsewhere, for the message.

    Raises:
        ConfigError: if there is no reader for it.
    """
    if kind not in READERS:
        known = (*others, *READERS)
        raise ConfigError(
            f"unknown kind of data {quoted(kind)}{did_you_mean(kind, known)}; known are {', '.join(known)}"
        )
    reader = READERS[kind]
    if isinstance(reader, str):
        module, _, class_name = reader.partition(":")
        reader = getattr(import_module(f"{__package__}.{module}"), class_name)
    read: Callable[..., Dataset] = reader.from_files
    return read
