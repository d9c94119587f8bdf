"""Categories of which every visible thing is labelled: only those may be counted, listed or called absent.

`FileCoverage` is what readers ask while they read a file; it holds what the file says of itself and every label that
could not be used. `exhaustive_names` and `missing_names` are what makers of questions ask of a record. Knows no masks.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from llava_grounding.data.readers.parts.image_rows import ImageRow
from llava_grounding.data.readers.parts.numbers import Key, key_or_none
from llava_grounding.data.record import Record
from llava_grounding.language.nouns import other_names, plural, spoken_name
from llava_grounding.typed_values import is_whole

ABSENT, INCOMPLETE = "neg_category_ids", "not_exhaustive_category_ids"
"""Keys of an image in files of LVIS's form: categories known to be absent, and those of which some are not labelled."""

_NO_CATEGORY = frozenset(
    {"background", "unlabeled", "unlabelled", "unlabeled area", "not labeled", "void", "dontcare", "don t care"}
    | {"ignore", "ignored", "ignore region", "ignore regions", "ignored region", "ignored regions", "dont care"}
    | {"unknown", "undefined", "other", "others", "none", "null", "misc", "miscellaneous", "na", "n a"}
)
_UNLABELLED = frozenset(name for name in _NO_CATEGORY if re.match("unlabel|not label|void|ignore|don", name))
_LETTERS = re.compile(r"[^\w]+|_+")
_MARKS = re.compile(r"[^\w]|_")


def is_no_category(name: str) -> bool:
    """Whether a file's list has the name for what is of none of its categories, as `_background_` or `other`."""
    return _plain(name) in _NO_CATEGORY


def is_unlabelled_region(name: str) -> bool:
    """Whether the name stands for a region in which nothing was labelled, as `void` or `ignore`."""
    return _plain(name) in _UNLABELLED


class Coverage(NamedTuple):
    """What is known of one image, small enough to be packed with it; `FileCoverage.names` makes names of it.

    Args:
        label_set: the set that the image states, None where it states none.
        known: ids of the categories that are complete, where the file says so image by image; else None.
        lost: names of which a label is left out or hidden; None = nobody knows of which.
    """

    label_set: str | None
    known: frozenset[Key] | None
    lost: frozenset[str] | None


class FileCoverage:
    """Which categories of a file are labelled exhaustively, image by image.

    A file that says nothing of itself covers, as COCO does, all its categories, but for those that no annotation
    bears, headings over others (`supercategory`), and names such as `background`. In LVIS's form, where an image has
    `neg_category_ids` or `not_exhaustive_category_ids`, it covers those known to be absent and those that are labelled
    there and not said to be incomplete. An image's `label_set` says it by name.

    Whatever label is left out takes its category from its image, and each that may name the same thing, as `dog` does a
    `puppy`; a label of which not even its category is known takes all.

    Args:
        categories: rows of the file's list.
        names: of the categories that can be used, by id.
        label_sets: category names by label set.
        everything: whether a file that says nothing of itself is complete at all.
    """

    def __init__(
        self,
        categories: Iterable[Any],
        names: Mapping[Key, str],
        label_sets: Mapping[str, frozenset[str]] | None = None,
        everything: bool = True,
    ) -> None:
        self._ids, self._label_sets, self._everything = dict(names), dict(label_sets or {}), everything
        self._same = _same_when_spoken(self._ids.values())
        self._forms = {name: _singular_too(spoken_name(name)) for name in self._ids.values()}
        self._may_be: dict[str, frozenset[str]] = {}
        self._ids_said_alike: dict[str, set[Key]] = {name: set() for name in self._same}
        for number, name in self._ids.items():
            for other in self._same[name]:
                self._ids_said_alike[other].add(number)
        over = {_plain(name) for name in _headings(categories)}
        self._doubtful = {
            name
            for name in self._ids.values()
            if is_no_category(name) or not over.isdisjoint((_plain(name), _plain(spoken_name(name))))
        }
        self._used: set[Key] = set()
        self._lost: dict[Key, set[str] | None] = {}
        self._lost_anywhere: set[str] | None = set()
        self._federated = False
        self._base: dict[str | None, frozenset[str]] = {}

    def see_image(self, image: ImageRow) -> None:
        """Look whether the file says image by image what it covers."""
        self._federated |= ABSENT in image.row or INCOMPLETE in image.row

    def see(self, category_id: Any) -> None:
        """Note that a label, usable or not, bears this category, as the file has it."""
        if (number := key_or_none(category_id)) is not None:
            self._used.add(number)

    def see_all(self, category_ids: Iterable[Key]) -> None:
        """Note that labels bear these categories."""
        self._used.update(category_ids)

    def lose(self, image_ids: Iterable[Key] | None, category_id: Key | None) -> None:
        """Note that a label is left out, or hides others.

        Args:
            image_ids: the images it may be of; None if nobody knows.
            category_id: None if nobody knows.
        """
        name = None if category_id is None else self._ids.get(category_id)
        if image_ids is None:
            if name is None:
                self._lost_anywhere = None
            elif self._lost_anywhere is not None:
                self._lost_anywhere.add(name)
            return
        for image_id in image_ids:
            lost = self._lost.setdefault(image_id, set())
            if name is None:
                self._lost[image_id] = None
            elif lost is not None:
                lost.add(name)

    def of(self, image: ImageRow, label_set: str | None, labelled: Iterable[str]) -> Coverage:
        """What is known of an image, when all labels of the file have been seen.

        Args:
            labelled: names of the categories that are labelled in it.
        """
        lost = self._lost.get(image.id, set())
        both = None if lost is None or self._lost_anywhere is None else frozenset(lost | self._lost_anywhere)
        known = None
        if self._federated and label_set is None:
            names, incomplete = set(labelled), _ids(image.row, INCOMPLETE)
            seen = {number for number, name in self._ids.items() if name in names}
            absent = _ids(image.row, ABSENT) or set()
            known = frozenset() if incomplete is None else frozenset(absent - incomplete | seen - incomplete)
        return Coverage(label_set, known, both)

    def fill(self, record: Record, coverage: Coverage) -> Record:
        """The record with what is known of its image."""
        return replace(record, exhaustive=self.names(coverage))

    def names(self, coverage: Coverage) -> frozenset[str]:
        """Categories of which every visible thing is labelled in the image."""
        if coverage.lost is None:
            return frozenset()
        named = self._stated(coverage.label_set) if coverage.known is None else self._known(coverage.known)
        return named.difference(*map(self._names_of_one_called, coverage.lost)) if coverage.lost else named

    def _known(self, known: frozenset[Key]) -> frozenset[str]:
        """Names of these ids, where all ids of names that are said alike are among them."""
        names = {self._ids[number] for number in known if number in self._ids} - self._doubtful
        return frozenset(name for name in names if self._ids_said_alike[name] <= known)

    def _stated(self, label_set: str | None) -> frozenset[str]:
        if label_set not in self._base:
            if label_set is not None:
                self._base[label_set] = self._label_sets.get(label_set, frozenset())
            elif not self._everything:
                self._base[label_set] = frozenset()
            else:
                used = {self._ids[number] for number in self._used if number in self._ids}
                everything = frozenset(self._ids.values())
                self._base[label_set] = self._without(everything, (everything - used) | self._doubtful)
        return self._base[label_set]

    def _names_of_one_called(self, lost: str) -> frozenset[str]:
        """All categories that a thing of this one may be called by: what is no `puppy` may still be a `dog`."""
        if lost not in self._may_be:
            forms = self._forms[lost]
            called = forms.union(*map(other_names, forms))
            wider = {name for name, other in self._forms.items() if not called.isdisjoint(other)}
            self._may_be[lost] = self._same[lost] | wider
        return self._may_be[lost]

    def _without(self, names: frozenset[str], lost: Iterable[str]) -> frozenset[str]:
        return names.difference(*(self._same.get(name, {name}) for name in lost))


def exhaustive_names(record: Record) -> frozenset[str]:
    """Spoken names of which every visible thing is labelled by itself: a crowd hides some of them."""
    hidden = {letters_of(thing.category) for thing in record.instances if thing.kind == "crowd"}
    hidden |= {letters_of(thing.category) for thing in record.instances if thing.category not in record.exhaustive}
    letters = Counter(letters_of(name) for name in {spoken_name(thing.category) for thing in record.instances})
    hidden |= {one for one, count in letters.items() if count > 1}  # by either name a part would be counted
    names = _spoken(record.exhaustive) - {""}
    return frozenset(name for name in names if letters_of(name) not in hidden) if hidden else names


@lru_cache(maxsize=64)
def _spoken(names: frozenset[str]) -> frozenset[str]:
    return frozenset(map(spoken_name, names))


def missing_names(record: Record) -> list[str]:
    """Spoken names of what is certainly not in the image: none that may name something labelled there."""
    there = {spoken_name(thing.category) for thing in record.instances} - {""}
    called = set(map(letters_of, there.union(*map(other_names, there))))
    return sorted(name for name in exhaustive_names(record) if letters_of(name) not in called)


@lru_cache(maxsize=2**13)
def letters_of(name: str) -> str:
    """The same for names that differ in nothing but marks, blanks, capitals and how accents are composed: what bears a
    label `traffic-light` must not be said to be no `traffic_light`."""
    letters = _MARKS.sub("", unicodedata.normalize("NFKC", spoken_name(name)).casefold())
    return letters or name


@lru_cache(maxsize=2**13)
def _plain(name: str) -> str:
    return " ".join(_LETTERS.sub(" ", name).lower().split())


def _headings(categories: Iterable[Any]) -> set[str]:
    """Names under which the file's list puts categories of another name."""
    return {
        row["supercategory"]
        for row in categories
        if isinstance(row, Mapping) and isinstance(row.get("supercategory"), str) and isinstance(row.get("name"), str)
        if _plain(row["supercategory"]) not in (_plain(row["name"]), _plain(spoken_name(row["name"])))
    }


@lru_cache(maxsize=2**12)
def _singular_too(said: str) -> frozenset[str]:
    """A spoken name, and what it is the plural of."""
    return frozenset({said, *(one for one in other_names(said) if plural(one) == said)}) - {""}


def _same_when_spoken(names: Iterable[str]) -> dict[str, frozenset[str]]:
    """Per name all that are said alike: `mouse_(animal)` and `mouse_(computer)`, `dog` and `dogs`, `Dog`."""
    spoken = {name: letters_of(name) for name in names}
    singular = {letters_of(plural(said)): one for name, one in spoken.items() if (said := spoken_name(name))}
    groups: dict[str, set[str]] = {}
    for name, said in spoken.items():
        groups.setdefault(singular.get(said, said), set()).add(name)
    return {name: frozenset(group) for group in groups.values() for name in group}


def _ids(row: Mapping[str, Any], key: str) -> set[Key] | None:
    """Category ids under a key of an image, none where it lacks; None where it is no such list."""
    value = row.get(key, [])
    if not isinstance(value, list) or not all(is_whole(one) or isinstance(one, str) for one in value):
        return None
    return {number for one in value if (number := key_or_none(one)) is not None}
