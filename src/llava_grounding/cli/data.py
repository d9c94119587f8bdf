"""`llava-grounding data FILE_OR_FOLDER`: what data is, what is wrong with it, how it looks; `data convert`: as COCO."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llava_grounding.cli.outputs import check_out, given_path, refuse_overwriting, write_files
from llava_grounding.cli.report import note, say
from llava_grounding.errors import DataError, UsageError, quoted

if TYPE_CHECKING:
    from llava_grounding.data.recognise import Recognised
    from llava_grounding.data.record import Dataset

_COCO_FILES = ("instances.json", "captions.json")


class _LooksByDefault(typer.core.TyperGroup):
    """`data PATH` is `data look PATH`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = ["look", *args]
        return list(super().parse_args(ctx, args))


data = typer.Typer(
    cls=_LooksByDefault,
    help="Say what a file or a folder of data is: `data PATH`. `data convert` writes it as COCO.",
    no_args_is_help=False,
)

PlaceArgument = Annotated[
    Path, typer.Argument(metavar="PATH", parser=given_path, help="File or folder of any format that is read.")
]
KindOption = Annotated[
    str | None, typer.Option(metavar="KIND", help="Format to read it as, instead of the recognised one.")
]
KeysArgument = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Keys of the source, such as images=FOLDER.")
]
DrawOption = Annotated[
    int, typer.Option(min=0, max=1000, metavar="N", help="Number of pictures to draw with labels and dialogues.")
]
OutOption = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", parser=given_path, help="Folder for the drawings.  [default: drawings]"),
]
QuickOption = Annotated[bool, typer.Option("--quick", help="Check that the pictures exist without reading them.")]


@data.command()
def look(
    place: PlaceArgument,
    keys: KeysArgument = None,
    kind: KindOption = None,
    draw: DrawOption = 0,
    out: OutOption = None,
    quick: QuickOption = False,
) -> None:
    """Say what it is, how much is in it, what is missing or odd, and the lines of a recipe for it."""
    from llava_grounding.data.check import check_dataset
    from llava_grounding.data.recognise import kinds_below

    out = Path("drawings") if out is None else out
    names = [f"{number:03}.png" for number in range(1, draw + 1)]
    check_out(out if draw else None, names)
    fine = True
    found = _recognised(place, kind, keys)
    for one in found:
        say(f"{place}: {one.what} (`kind: {one.kind}`)\n")
        if one.splits:
            say(f"  other splits: {', '.join(one.splits)}\n")
        if one.kind == "coco_captions":
            say("  belongs beside an instances file, as its `captions`\n")
            continue
        for key, what in one.missing.items():
            say(f"  not found: `{key}`, {what}; say {key}=PATH\n")
        if not one.missing:
            dataset = _opened(one)
            report = check_dataset(dataset, read_images=not quick)
            fine = fine and report.ok
            for line in report.lines():
                say(f"{line}\n")
            _draw(dataset, one.dialogue, draw, out)
        else:
            fine = False
    others = kinds_below(place, found) if place.is_dir() else {}
    if others:
        told = ", ".join(f"{what} ({folder})" for folder, what in others.items())
        say(f"Of other kinds, each to be looked at on its own: {told}\n")
    lines = [one.recipe_line(Path.cwd()) for one in found if one.kind != "coco_captions"]
    if lines:
        say("\n".join(["In a recipe:", "", "data:", *lines, ""]))
    if not fine:
        raise typer.Exit(1)


@data.command()
def convert(
    place: PlaceArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", parser=given_path, help="Folder to write.")],
    keys: KeysArgument = None,
    kind: KindOption = None,
) -> None:
    """Write labels, expressions and captions as COCO files; the pictures stay where they are."""
    from llava_grounding.data.coco_writer import coco_captions, coco_instances, json_bytes

    check_out(out, _COCO_FILES)
    found = [one for one in _recognised(place, kind, keys) if one.kind != "coco_captions"]
    if len(found) != 1:
        raise UsageError(f"{quoted(str(place))} must be of one kind, got {', '.join(one.what for one in found)}")
    (one,) = found
    read = [("labels", value) for value in one.values.values() if isinstance(value, Path)]
    refuse_overwriting(read, [out / name for name in _COCO_FILES])
    if one.missing:
        key, what = next(iter(one.missing.items()))
        raise UsageError(f"`{key}`, {what}, was not found; say {key}=PATH")
    records = [_sized(record) for record in _opened(one)]
    if len({record.image_name or record.id for record in records}) != len(records):
        records = _one_per_picture(records)
    contents = {_COCO_FILES[0]: json_bytes(coco_instances(records))}
    if any(record.captions or record.grounded_captions for record in records):
        contents[_COCO_FILES[1]] = json_bytes(coco_captions(_with_ids(records)))
    write_files(out, contents)
    say(f"Written to {out}: {', '.join(contents)} ({len(records)} pictures, named as in their folder)\n")
    if any(record.dialogues for record in records):
        note("Dialogues are not written: COCO has no place for them")


def _recognised(place: Path, kind: str | None, keys: list[str] | None) -> list[Recognised]:
    """What is there, with what the user says of it."""
    from llava_grounding.data.readers.registry import READERS, reader_of
    from llava_grounding.data.recognise import Recognised, recognise

    given: dict[str, Path | str | None] = {}
    for text in keys or []:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise UsageError(f"expected KEY=VALUE, such as images=FOLDER, got {quoted(text)}")
        given[key] = None if value == "null" else Path(value) if key not in ("split", "attribute") else value
    if kind is None:
        found = recognise(place)
    else:
        reader_of(kind)
        first = next(iter(_parameters(kind)))
        found = [Recognised(kind, {first: place})]
    for one in found:
        if one.kind in READERS:
            known = _parameters(one.kind)
            for key, meant in given.items():
                if key not in known:
                    raise UsageError(f"a source of kind `{one.kind}` has no key `{key}`, only {', '.join(known)}")
                if meant is None and known[key]:
                    raise UsageError(f"a source of kind `{one.kind}` needs `{key}`, which cannot be null")
    return [
        Recognised(
            one.kind,
            {**one.values, **given},
            {key: what for key, what in one.missing.items() if key not in given},
            one.splits,
        )
        for one in found
    ]


def _parameters(kind: str) -> dict[str, bool]:
    """Keys of a source, each with whether it must be given."""
    import inspect

    from llava_grounding.data.readers.registry import reader_of

    parameters = inspect.signature(reader_of(kind)).parameters.values()
    return {one.name: one.default is one.empty for one in parameters}


def _opened(one: Recognised) -> Dataset:
    from llava_grounding.data.readers.registry import reader_of

    broken = {"strict": False} if "strict" in _parameters(one.kind) else {}  # entries are counted, not refused
    return reader_of(one.kind)(**one.values, **broken)


def _draw(dataset: Dataset, dialogue: Mapping[str, Any], count: int, out: Path) -> None:
    """Some records, spread over all, drawn with their labels; what is learnt of them is printed."""
    from llava_grounding.cli.common import png_bytes
    from llava_grounding.cli.data_drawing import draw_record
    from llava_grounding.data.images import FileBytes
    from llava_grounding.dialogues.settings import dialogue_settings

    total = len(dataset)
    numbers = [place * total // count for place in range(count)] if count < total else range(total)
    drawn = {}
    names = [f"{place:03}.png" for place in range(1, count + 1)]
    for place, number in enumerate(numbers if count else (), start=1):
        try:
            record = dataset[number]
            if isinstance(record.read_bytes, FileBytes):
                folder = record.read_bytes.path.parent
                refuse_overwriting([("picture", folder / name) for name in names], [out / name for name in names])
            picture, lines = draw_record(record, dialogue_settings(dialogue), seed=number)
        except DataError as error:
            note(f"{dataset[number].id}: not drawn: {error}")
            continue
        drawn[f"{place:03}.png"] = png_bytes(picture)
        say("\n".join([f"{out / f'{place:03}.png'}: {dataset[number].id}", *(f"    {line}" for line in lines), ""]))
    if drawn:
        write_files(out, drawn)


def _sized(record: Any) -> Any:
    """The record with the size of its picture."""
    from dataclasses import replace

    return record if record.image_size_wh is not None else replace(record, image_size_wh=record.open_image(64)[1])


def _one_per_picture(records: list[Any]) -> list[Any]:
    """Records of one picture as one, so that its labels and captions stand once."""
    from dataclasses import replace

    merged: dict[str, Any] = {}
    for record in records:
        name = record.image_name or record.id
        before = merged.get(name)
        if before is None:
            merged[name] = record
            continue
        moved = len(before.instances)
        shifted = [replace(one, targets=tuple(place + moved for place in one.targets)) for one in record.expressions]
        texts = [
            replace(one, targets=tuple(None if t is None else tuple(place + moved for place in t) for t in one.targets))
            for one in record.grounded_captions
        ]
        merged[name] = replace(
            before,
            instances=before.instances + record.instances,
            captions=(*before.captions, *record.captions),
            expressions=(*before.expressions, *shifted),
            grounded_captions=(*before.grounded_captions, *texts),
        )
    return list(merged.values())


def _with_ids(records: list[Any]) -> list[Any]:
    """Records whose annotations have the ids that `coco_instances` writes."""
    from dataclasses import replace

    ids = [thing.id for record in records for thing in record.instances]
    if len({one for one in ids if isinstance(one, int)}) == len(ids):
        return records
    number, numbered = 0, []
    for record in records:
        things = []
        for thing in record.instances:
            number += 1
            things.append(replace(thing, id=number))
        numbered.append(replace(record, instances=tuple(things)))
    return numbered
