"""Drawn scenes as a data set like any other: every kind of training can be tried without a download.

`write_scenes` writes them as the files that the kind `custom` reads. Drawing itself is in `synthetic`.
"""

from __future__ import annotations

import io
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import overload

import numpy as np
from PIL import Image

from llava_grounding.data.coco_writer import coco_captions, coco_instances, write_json
from llava_grounding.data.images import NoBytes
from llava_grounding.data.readers.parts.notation import written_dialogue
from llava_grounding.data.record import Annotation, Expression, GroundedText, Record, RecordedTurn
from llava_grounding.dialogues.drafts import Draft
from llava_grounding.errors import ConfigError, shown
from llava_grounding.markup import strip_markup
from llava_grounding.masks import encode_rle
from llava_grounding.scenes.categories import CATEGORIES, confusable
from llava_grounding.scenes.synthetic import SceneConfig, draft_scene, scene_phrases

HELD_OUT = 10**9
"""Scenes with a seed from here on are never trained on."""

SCENE_PICTURES = "drawn scenes"
"""The place of `ScenePictures`, where others have a folder."""

_SCENE_NAME = re.compile(r"\d{1,18}\.png", re.ASCII)
_IDS_PER_SCENE = 1000
_MOST_ROUNDS = 3  # of a dialogue, a follow-up not counted


@dataclass(frozen=True)
class ScenePicture:
    """Draws the scene when called: PNG bytes."""

    seed: int
    config: SceneConfig

    def __call__(self) -> bytes:
        stream = io.BytesIO()
        image = draft_scene(self.seed, replace(self.config, questions=())).facts.image
        Image.fromarray(image).save(stream, "PNG", compress_level=1)
        return stream.getvalue()

    def exists(self) -> bool:
        return True


class ScenePictures:
    """Every scene's picture by its name, `SEED.png`, drawn when it is read."""

    def locate(self, name: str) -> ScenePicture | NoBytes:
        """The scene of this name; as in any store, a name of none fails when it is read."""
        if not self.has(name):
            return NoBytes(f"no drawn scene is called {shown(name)}, only a number with `.png`")
        return ScenePicture(int(name.removesuffix(".png")), SceneConfig())

    def has(self, name: str) -> bool:
        return _SCENE_NAME.fullmatch(name) is not None


class DrawnScenes(Sequence[Record]):
    """So many scenes, drawn when asked for; the same number gives the same scene, everywhere.

    Args:
        count: how many.
        seed_offset: seed of the first; from `HELD_OUT` on for scenes that training never meets.
        config: what they are made of; the default if None.
        name: what the data is called in reports.

    Raises:
        ConfigError: if there are none, or they would run from trained on into held out.
    """

    def __init__(
        self, count: int, seed_offset: int = 0, config: SceneConfig | None = None, name: str = "drawn scenes"
    ) -> None:
        if count < 1 or seed_offset < 0:
            raise ConfigError(f"count must be at least 1 and seed_offset at least 0, got {count} and {seed_offset}")
        if seed_offset < HELD_OUT < seed_offset + count:
            raise ConfigError(f"seeds must stay below {HELD_OUT} or begin there, got {seed_offset} and {count} scenes")
        self.name, self.dropped = name, dict[str, list[str]]()
        self.seed_offset, self.config = seed_offset, config or SceneConfig()
        self._count = count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        numbers = range(self._count)[index]
        if isinstance(numbers, range):
            return [scene_record(self.seed_offset + number, self.config) for number in numbers]
        return scene_record(self.seed_offset + numbers, self.config)

    def __iter__(self) -> Iterator[Record]:
        return (self[index] for index in range(self._count))


def scene_record(seed: int, config: SceneConfig | None = None) -> Record:
    """The scene of this seed as a record: exact masks, grounded captions, expressions and dialogues."""
    config = config or SceneConfig()
    scene = draft_scene(seed, config)
    facts = scene.facts
    descriptions = [turn for turn in scene.drafts if turn.kind == "describe"]
    present = {thing.category for thing in facts.instances}
    return Record(
        id=facts.id,
        image_id=seed,
        image_size_wh=facts.image_size_wh,
        instances=tuple(
            Annotation(
                thing.category, _box(thing.box_xyxy), encode_rle(mask), "thing", seed * _IDS_PER_SCENE + index + 1
            )
            for index, (thing, mask) in enumerate(zip(facts.instances, facts.masks, strict=True))
        ),
        captions=tuple(dict.fromkeys(strip_markup(turn.answer) for turn in descriptions)),
        exhaustive=frozenset(
            present | {name for name in CATEGORIES if not any(confusable(name, one) for one in present)}
        ),
        source=facts.source,
        read_bytes=ScenePicture(seed, config),
        grounded_captions=tuple(dict.fromkeys(GroundedText(turn.answer, turn.targets) for turn in descriptions)),
        expressions=tuple(Expression(text, targets) for text, targets in scene_phrases(facts)),
        dialogues=_dialogues(scene.drafts, random.Random(f"dialogues {seed}")),
        image_name=f"{facts.id}.png",
    )


def write_scenes(folder: str | Path, count: int, seed: int = 0, config: SceneConfig | None = None) -> dict[str, Path]:
    """Write drawn scenes as if they were somebody's data, and give the places as `CustomData.from_files` takes them.

    Pictures in `images/`, labels with masks and expressions in `instances.json`, `captions.json` and
    `dialogues.jsonl`. The same arguments write the same files.
    """
    folder = Path(folder)
    scenes = DrawnScenes(count, seed, config)
    paths = {
        "instances": folder / "instances.json",
        "images": folder / "images",
        "captions": folder / "captions.json",
        "dialogues": folder / "dialogues.jsonl",
    }
    paths["images"].mkdir(parents=True, exist_ok=True)
    records = list(scenes)
    for record in records:
        (paths["images"] / record.image_name).write_bytes(record.read_bytes())
    write_json(paths["instances"], coco_instances(records))
    write_json(paths["captions"], coco_captions(records))
    with paths["dialogues"].open("w", encoding="utf-8") as lines:
        for record in records:
            for dialogue in record.dialogues:
                lines.write(json.dumps(written_dialogue(record, dialogue), ensure_ascii=False) + "\n")
    return paths


def _box(box_xyxy: np.ndarray) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = (float(value) for value in box_xyxy)
    return x0, y0, x1, y1


def _dialogues(drafts: Sequence[Draft], rng: random.Random) -> tuple[tuple[RecordedTurn, ...], ...]:
    """All turns, each with its follow-up, shuffled into dialogues of one to three rounds."""
    rounds: list[list[RecordedTurn]] = []
    for draft in drafts:
        recorded = RecordedTurn(draft.question, draft.answer, draft.targets, draft.regions, draft.grounded)
        if draft.kind == "followup" and rounds:
            rounds[-1].append(recorded)
        else:
            rounds.append([recorded])
    rng.shuffle(rounds)
    dialogues = []
    while rounds:
        taken = [rounds.pop() for _ in range(min(rng.randint(1, _MOST_ROUNDS), len(rounds)))]
        dialogues.append(tuple(turn for one in taken for turn in one))
    return tuple(dialogues)
