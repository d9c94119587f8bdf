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
    "yolo": "yolo:Yolo",
    "metadata": "metadata:MetadataFolder",
    "parquet": "parquet:Parquet",
    "flickr30k": "flickr30k:Flickr30kEntities",
    "cvat": "cvat:CvatXml",
    "voc": "voc:PascalVoc",
    "via": "via:Via",
    "labelme": "labelme:Labelme",
    "coco_panoptic": "coco_panoptic:CocoPanoptic",
    "flickr30k_mdetr": "flickr30k:Flickr30kMdetr",
    "refcoco": "refcoco:RefCoco",
    "coco": "coco:CocoPhotos",
    "osprey": "grounded_texts:Osprey",
    "ferret": "grounded_texts:Ferret",
    "shikra": "grounded_texts:Shikra",
    "kosmos2": "grounded_texts:Kosmos2",
    "grandf": "grandf:GranDf",
    "visual_genome_objects": "visual_genome_objects:VisualGenomeObjects",
    "messages": "messages:ChatMessages",
    "gvc": "gvc:GvcDialogues",
    "set_of_mark": "set_of_mark:SetOfMarkDialogues",
    "llava": "llava:LlavaDialogues",
    "custom": "custom:CustomData",
    "label_studio": "label_studio:LabelStudio",
    "visual_genome": "visual_genome:VisualGenome",
    "createml": "createml:CreateMl",
    "region_captions": "gvc:RegionCaptions",
}
"""Kind -> module of this room and class, or a class of another place.

In the order in which those that ship are asked what data is: a form before others that have its keys and fewer.
"""


def register_reader(kind: str, reader: type[Any]) -> None:
    """Make a kind known to recipes, in this process and in its worker processes where they are forked.

    Args:
        reader: a `Dataset` whose class method `from_files` takes the keys of a source, with type annotations. It may
            have `title`, what the kind is called; a class method `recognise`, which takes the path of a file or folder,
            a `Place`, and gives `Found` or simply the keys of a source, or None where it is of another kind; and
            `has_texts = True` where there is more to learn than labels.
    """
    READERS[kind] = reader


def reader_class(kind: str) -> type[Any]:
    """The reader of a kind that has one."""
    reader = READERS[kind]
    if not isinstance(reader, str):
        return reader
    module, _, class_name = reader.partition(":")
    found: type[Any] = getattr(import_module(f"{__package__}.{module}"), class_name)
    return found


def title_of(kind: str) -> str:
    """What data of a kind is called; the kind itself where its reader does not say."""
    return str(getattr(reader_class(kind), "title", kind))


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
    read: Callable[..., Dataset] = reader_class(kind).from_files
    return read
