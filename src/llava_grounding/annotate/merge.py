"""Finished shards as one folder: the same bytes as one run over everything.

Goes through all shards side by side, in the order of their samples, one line at a time.
"""

from __future__ import annotations

import heapq
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

from llava_grounding.annotate.assemble import hash_label_sets, make_manifest, read_manifest, write_manifest
from llava_grounding.annotate.json_stream import Row, iter_rows
from llava_grounding.annotate.json_writer import InstancesFile, JsonList
from llava_grounding.annotate.samples import Shard
from llava_grounding.annotate.write import (
    DROPPED,
    GVC,
    GVC_R,
    INSTANCES,
    MARKS,
    RECORDS,
    REJECTED,
)
from llava_grounding.data.readers.coco import LABEL_SETS
from llava_grounding.endpoints.limits import cost_of
from llava_grounding.errors import VALUE_ERRORS, DataError, shown

_PARTS = {"gvc": GVC, "gvc_r": GVC_R, "marks": MARKS}
_SAME = ("inputs", "answers", "limit")


def merge(shards: Sequence[Path], folder: Path) -> dict[str, Any]:
    """Write the files of all shards into an empty folder, and give the manifest, which is one of them.

    Raises:
        DataError: if one is not finished, they are not all shards of one run, or one is missing or there twice.
        OSError: if something cannot be written.
    """
    manifests = [read_manifest(shard) for shard in shards]
    check_shards(shards, manifests)
    files = {name: _merge_lines(shards, folder, name) for name in (REJECTED, DROPPED)}
    files = {**_merge_records(shards, folder), **files}
    files[INSTANCES] = _merge_instances(shards, folder)
    for shard in shards:
        if (shard / LABEL_SETS).is_file() and not (folder / LABEL_SETS).exists():
            shutil.copyfile(shard / LABEL_SETS, folder / LABEL_SETS)
    files |= hash_label_sets(folder)
    usage: dict[str, Any] = dict(_sum(manifests, "usage", ("requests", "prompt_tokens", "completion_tokens")))
    prices = manifests[0]["usage"].get("prices", [0.0, 0.0])
    cost = cost_of(usage["prompt_tokens"], usage["completion_tokens"], (prices[0], prices[1]))
    manifest = make_manifest(
        inputs=manifests[0]["inputs"],
        shard=Shard(),
        limit=manifests[0]["limit"],
        answers=manifests[0]["answers"],
        usage={**usage, "cost": round(cost, 6), "prices": prices},
        counts=_sum(manifests, "counts"),
        rejections=_sum(manifests, "rejections"),
        dropped=_sum(manifests, "dropped_phrases"),
        repairs=_sum(manifests, "repairs"),
        files=files,
    )
    if reviews := [review for one in manifests for review in one.get("reviews", ())]:
        manifest["reviews"] = reviews
    write_manifest(folder, manifest)
    return manifest


def check_shards(shards: Sequence[Path], manifests: Sequence[dict[str, Any]]) -> None:
    """See that these are all shards of one run, each once.

    Raises:
        DataError: saying which is not.
    """
    if not shards:
        raise DataError("there is nothing to merge")
    first = manifests[0]
    numbers: dict[int, Path] = {}
    count = Shard.parse(str(first.get("shard"))).count
    for path, manifest in zip(shards, manifests, strict=True):
        for key in _SAME:
            if manifest.get(key) != first.get(key):
                raise DataError(f"{path} must be of the same run as {shards[0]}, but its manifest has other {key}")
        shard = Shard.parse(str(manifest.get("shard")))
        if shard.count != count:
            raise DataError(f"{path} is shard {shard}, but {shards[0]} is one of {count}")
        if shard.number in numbers:
            raise DataError(f"{path} and {numbers[shard.number]} are both shard {shard}")
        numbers[shard.number] = path
    missing = [str(number) for number in islice((one for one in range(1, count + 1) if one not in numbers), 10)]
    if missing:
        raise DataError(f"shards {', '.join(missing)} of {count} are missing")


def _sum(manifests: Sequence[dict[str, Any]], key: str, names: Sequence[str] = ()) -> Counter[str]:
    total: Counter[str] = Counter()
    for manifest in manifests:
        for name, number in manifest[key].items():
            if not names or name in names:
                total[name] += number
    return total


def _in_order(shards: Sequence[Path], name: str) -> Iterator[tuple[int, Row]]:
    """Number of the shard and row, by the position of the sample."""

    def rows(number: int) -> Iterator[tuple[int, int, Row]]:
        for row in iter_rows(shards[number] / name):
            yield _number_in(row, "position", shards[number] / name), number, row

    merged = heapq.merge(*map(rows, range(len(shards))), key=lambda one: one[:2])
    return ((number, row) for _, number, row in merged)


def _number_in(row: Row, key: str, path: Path) -> int:
    try:
        return int(row.value[key])
    except VALUE_ERRORS as error:
        raise DataError(f"{path}: {row.key} {row.number} must have a whole number as `{key}`") from error


def _merge_lines(shards: Sequence[Path], folder: Path, name: str) -> dict[str, Any]:
    with JsonList.lines(folder / name) as file:
        for _, row in _in_order(shards, name):
            file.add_text(row.text)
        return file.close()


def _merge_records(shards: Sequence[Path], folder: Path) -> dict[str, Any]:
    """Records, and with each the entries it gave."""
    entries = [{part: iter_rows(shard / name) for part, name in _PARTS.items()} for shard in shards]
    with ExitStack() as opened:
        outputs = {part: opened.enter_context(JsonList(folder / name)) for part, name in _PARTS.items()}
        records = opened.enter_context(JsonList.lines(folder / RECORDS))
        for number, row in _in_order(shards, RECORDS):
            records.add_text(row.text)
            for part in _parts_of(row, shards[number] / RECORDS):
                entry = next(entries[number][part], None)
                if entry is None:
                    raise DataError(f"{shards[number] / _PARTS[part]} has fewer entries than {RECORDS} says")
                outputs[part].add_text(entry.text)
        for number, parts in enumerate(entries):
            for part, rest in parts.items():
                if next(rest, None) is not None:
                    raise DataError(f"{shards[number] / _PARTS[part]} has more entries than {RECORDS} says")
        return {**{_PARTS[part]: file.close() for part, file in outputs.items()}, RECORDS: records.close()}


def _parts_of(row: Row, path: Path) -> list[str]:
    """The files in which a record has an entry."""
    parts = row.value.get("in", [])
    if not isinstance(parts, list) or any(not isinstance(one, str) or one not in _PARTS for one in parts):
        raise DataError(f"{path}, line {row.number}: `in` must be a list of {', '.join(_PARTS)}, got {shown(parts)}")
    return parts


def _merge_instances(shards: Sequence[Path], folder: Path) -> dict[str, Any]:
    """Images by id, each from the first shard that has it, and the annotations of each."""

    def rows(number: int, wanted: str, key: str) -> Iterator[tuple[int, int, Row]]:
        for row in iter_rows(shards[number] / INSTANCES, ("categories", "images", "annotations")):
            if row.key == wanted:
                yield _number_in(row, key, shards[number] / INSTANCES), number, row

    categories = [_categories(shard) for shard in shards]
    if any(one != categories[0] for one in categories):
        raise DataError(f"{INSTANCES} of the shards must have the same categories")

    def in_order(wanted: str, key: str) -> Iterator[tuple[int, int, Row]]:
        return heapq.merge(*(rows(number, wanted, key) for number in range(len(shards))), key=lambda one: one[:2])

    owner: dict[int, int] = {}
    with InstancesFile(folder / INSTANCES, categories[0]) as file:
        for image_id, number, row in in_order("images", "id"):
            if owner.setdefault(image_id, number) == number:
                file.image(row.text)
        for image_id, number, row in in_order("annotations", "image_id"):
            if owner.get(image_id) == number:
                file.annotation(row.text)
        return file.close()


def _categories(shard: Path) -> list[Any]:
    rows = iter_rows(shard / INSTANCES, ("categories", "images", "annotations"))
    categories = []
    for row in rows:  # they come first
        if row.key != "categories":
            break
        categories.append(row.value)
    return categories
