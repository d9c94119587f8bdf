"""XML of labelling tools, read without document types and entities: nothing but the file itself is ever touched.

`xml.etree` with three refusals, rather than one more library: a document type (entities can be declared nowhere else),
elements too deep in each other (they are freed one inside the other), and files beyond a size.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from llava_grounding.data.plain_files import read_file
from llava_grounding.data.readers.parts.numbers import EntryError

MAX_BYTES = 2**30
_DEEPEST = 100


class _Builder(ElementTree.TreeBuilder):
    _depth = 0

    def start(self, tag: Any, attrs: Any) -> ElementTree.Element:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise EntryError("XML that is too deep", f"XML must have at most {_DEEPEST} elements inside each other")
        return super().start(tag, attrs)

    def end(self, tag: Any) -> ElementTree.Element:
        self._depth -= 1
        return super().end(tag)

    def doctype(self, *declared: str | None) -> None:
        """Called for a document type, before anything in it is used."""
        raise EntryError("XML with a document type", f"XML with a document type is not read, got {declared[:1]}")


def parse_xml(path: Path, max_bytes: int = MAX_BYTES) -> ElementTree.Element:
    """The root element of a file.

    Raises:
        EntryError: if it cannot be read, is no XML, or has a document type.
    """
    try:
        if path.stat().st_size > max_bytes:
            raise EntryError("XML that is too large", f"XML must have at most {max_bytes} bytes")
        data = read_file(path)
    except OSError as error:
        raise EntryError("file that cannot be read", f"cannot read it: {error.strerror or error}") from error
    parser = ElementTree.XMLParser(target=_Builder())
    try:
        parser.feed(data)
        root: ElementTree.Element = parser.close()
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise EntryError("file that is no XML", f"it is no whole XML file: {error}") from error
    return root


def text_of(element: ElementTree.Element, path: str) -> str:
    """The text of an element below, without white space around it; empty where there is none."""
    return (element.findtext(path) or "").strip()
