"""The second pass: inputs and answers in, the files of one finished folder out; the same bytes every time.

Asks nobody. Where answers come from is an `Answers`: the matcher, or the store of what was asked.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from llava_grounding.annotate import matcher
from llava_grounding.annotate.agreement import Agreement
from llava_grounding.annotate.label_index import LabelIndex
from llava_grounding.annotate.marked import Marked
from llava_grounding.annotate.samples import Shard, SourceKind, Unusable, iter_samples
from llava_grounding.annotate.tasks import AnnotationTask, iter_tasks
from llava_grounding.annotate.verify import verify
from llava_grounding.annotate.write import COUNTS, MANIFEST, Writer
from llava_grounding.data.images import ImageStore
from llava_grounding.data.plain_files import file_hash, parse_json, read_file
from llava_grounding.data.readers.coco import LABEL_SETS
from llava_grounding.data.readers.parts.numbers import are_numbers
from llava_grounding.errors import DataError
from llava_grounding.typed_values import is_whole

MANIFEST_VERSION = 1
_COUNTED = ("counts", "rejections", "dropped_phrases", "repairs")
_USED = ("requests", "prompt_tokens", "completion_tokens")
_TOLD_EVERY = 500  # samples


@dataclass(frozen=True)
class Inputs:
    """What is annotated.

    Args:
        instances: COCO instances file.
        texts: captions or dialogues.
        kind: which of them.
        images: where pixels come from; only their names matter here.
        shard: the part of the images that is meant.
    """

    instances: Path
    texts: Path
    kind: SourceKind
    images: ImageStore
    shard: Shard = field(default_factory=Shard)

    def tasks(self, index: LabelIndex, limit: int | None = None) -> Iterable[AnnotationTask | Unusable]:
        """The samples with their images, in order; at most `limit` of them."""
        for number, task in enumerate(iter_tasks(iter_samples(self.texts, self.kind, self.shard), index, self.images)):
            if limit is not None and number >= limit:
                return
            yield task


@dataclass(frozen=True)
class Answer:
    """What is known of a task.

    Args:
        rounds: requests it took.
        verified: whether it holds by the way it was found.
    """

    marked: Marked
    rounds: int = 0
    verified: bool = False


class Answers(Protocol):
    """Where answers come from."""

    def about(self) -> Mapping[str, Any]:
        """What the manifest says of it: model, versions, parameters."""

    def usage(self) -> Mapping[str, Any]:
        """What the manifest says of its cost, when all answers have been taken."""

    def answer(self, task: AnnotationTask) -> Answer | str:
        """What is known of a task, or the reason why nothing is."""


class BuiltinAnswers:
    """The matcher; it needs no request."""

    def about(self) -> Mapping[str, Any]:
        return {"model": matcher.NAME, "version": matcher.VERSION}

    def usage(self) -> Mapping[str, Any]:
        return {"requests": 0, "prompt_tokens": 0, "completion_tokens": 0, "cost": 0.0, "prices": [0.0, 0.0]}

    def answer(self, task: AnnotationTask) -> Answer | str:
        return Answer(matcher.match(task), verified=True)


def assemble(
    inputs: Inputs,
    index: LabelIndex,
    answers: Answers,
    folder: Path,
    limit: int | None = None,
    with_prompts: bool = True,
    on_progress: Callable[[int], None] = lambda done: None,
    second: Answers | None = None,
) -> dict[str, Any]:
    """Write all files into an empty folder, and give the manifest, which is one of them.

    Args:
        limit: of samples.
        with_prompts: sample visual prompts for GVC-R.
        on_progress: called with the number of samples done now and then.
        second: whose agreement the manifest tells; nothing of it is written.

    Raises:
        DataError: if an input cannot be read, or no text is about a labelled image.
        OSError: if something cannot be written.
    """
    writer = Writer(folder, index, with_prompts)
    agreement = None if second is None else Agreement(second.about())
    try:
        _take_all(inputs, index, answers, writer, limit, on_progress, second, agreement)
    except BaseException:
        writer.abandon()
        raise
    files = writer.close() | hash_label_sets(folder)
    manifest = make_manifest(
        inputs={
            "instances": {"name": inputs.instances.name, "sha256": index.digest},
            inputs.kind: {"name": inputs.texts.name, "sha256": file_hash(inputs.texts)},
        },
        shard=inputs.shard,
        limit=limit,
        answers=answers.about(),
        usage=answers.usage(),
        counts=writer.counts,
        rejections=writer.rejections,
        dropped=writer.dropped,
        repairs=writer.repairs,
        files=files,
    )
    if agreement is not None:
        manifest["agreement"] = agreement.to_dict()
    write_manifest(folder, manifest)
    return manifest


def _take_all(
    inputs: Inputs,
    index: LabelIndex,
    answers: Answers,
    writer: Writer,
    limit: int | None,
    on_progress: Callable[[int], None],
    second: Answers | None,
    agreement: Agreement | None,
) -> None:
    """Everything there is, sample by sample."""
    unknown = 0
    for task in inputs.tasks(index, limit):
        if isinstance(task, Unusable):
            unknown += task.reason == "unknown image"
            writer.reject(task)
        else:
            found = answers.answer(task)
            if isinstance(found, str):
                writer.reject(Unusable(task.sample.position, task.sample.id, found, found))
            else:
                marked = _verified(task, found)
                writer.accept(task, marked, found.rounds)
                if second is not None and agreement is not None and isinstance(other := second.answer(task), Answer):
                    agreement.add(marked, _verified(task, other))
        if writer.counts["samples"] % _TOLD_EVERY == 0:
            on_progress(writer.counts["samples"])
    total = writer.counts["samples"]
    on_progress(total)
    check_images(inputs, total, unknown)


def make_manifest(
    inputs: Mapping[str, Any],
    shard: Shard,
    limit: int | None,
    answers: Mapping[str, Any],
    usage: Mapping[str, Any],
    counts: Mapping[str, int],
    rejections: Mapping[str, int],
    dropped: Mapping[str, int],
    repairs: Mapping[str, int],
    files: Mapping[str, Any],
) -> dict[str, Any]:
    """What a folder says of itself; the same for the same content, whenever and in how many shards it was made."""
    return {
        "version": MANIFEST_VERSION,
        "kind": "llava-grounding annotations",
        "inputs": dict(inputs),
        "shard": str(shard),
        "limit": limit,
        "answers": dict(answers),
        "usage": dict(usage),
        "counts": dict(sorted(counts.items())),
        "rejections": dict(sorted(rejections.items())),
        "dropped_phrases": dict(sorted(dropped.items())),
        "repairs": dict(sorted(repairs.items())),
        "files": dict(sorted(files.items())),
    }


def hash_label_sets(folder: Path) -> dict[str, Any]:
    """What a manifest says of the copied label sets, if there are any."""
    path = folder / LABEL_SETS
    if not path.is_file():
        return {}
    data = read_file(path)
    return {LABEL_SETS: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}}


def _verified(task: AnnotationTask, answer: Answer) -> Marked:
    return answer.marked if answer.verified else verify(task, answer.marked)


def check_images(inputs: Inputs, total: int, unknown: int) -> None:
    """Refuse texts of which none is about an image of the instances file.

    Raises:
        DataError: naming both files.
    """
    if total and unknown == total:
        raise DataError(
            f"none of the {total} {inputs.kind} of {inputs.texts} is about an image of {inputs.instances}; "
            "give the instances file of the same images"
        )


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Put the manifest into a folder."""
    (folder / MANIFEST).write_text(json.dumps(manifest, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a finished folder.

    Raises:
        DataError: if there is none, it is of another version, or not as this release writes it.
    """
    path = folder / MANIFEST
    try:
        manifest = parse_json(read_file(path))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{folder} holds no finished annotations: cannot read {path}: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("version") != MANIFEST_VERSION:
        raise DataError(f"{path} must be a manifest of version {MANIFEST_VERSION}; annotate again with this release")
    wrong = next(_misshapen(manifest), None)
    if wrong is not None:
        raise DataError(f"{path} is damaged: `{wrong}` is not as this release writes it; annotate again")
    return manifest


def _misshapen(manifest: Mapping[str, Any]) -> Iterator[str]:
    """The keys of a manifest whose values are of another form, first those that later ones are looked for in."""
    yield from (key for key in ("inputs", "answers", "usage", *_COUNTED) if not isinstance(manifest.get(key), dict))
    for key in _COUNTED:
        yield from (f"{key}.{name}" for name, count in manifest[key].items() if not _is_count(count))
    yield from (f"counts.{name}" for name in COUNTS if name not in manifest["counts"])
    usage, reviews = manifest["usage"], manifest.get("reviews", [])
    yield from (f"usage.{name}" for name in _USED if not _is_count(usage.get(name)))
    if not are_numbers(usage.get("prices", [0, 0]), 2):
        yield "usage.prices"
    if not isinstance(reviews, list):
        yield "reviews"
    if not isinstance(manifest.get("shard"), str):
        yield "shard"
    if "limit" not in manifest or not isinstance(manifest["limit"], int | None):
        yield "limit"


def _is_count(value: Any) -> bool:
    return is_whole(value) and 0 <= value < 2**63
