# ruff: noqa: T201
"""Small data sets of every kind, damaged at random, through the check and through training's own reading.

    python tests/safety/mutated_data.py [how many] [seed]

What comes out must be an error of ours, or none. Run it with tests/ on PYTHONPATH.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from mutated_inputs import other_value

from label_files import write_files, write_tar, write_zip
from llava_grounding.errors import LlavaGroundingError
from llava_grounding.train.batching.sources import check_sources, open_source
from train.data_sets import INSTANCES, SOURCES, dialogue, source, write_source

SECONDS = 5.0
"""More than a damaged file of a few hundred bytes may take, on a busy machine."""

TALK = {"absent": 1.0, "categories": 1.0, "region_names": 1.0, "marks": 0.2, "mirror": 0.2}
PIECES = (
    *(b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"[", b"]", b"{", b"}", b'"', b",", b"1e999", b"null", b"9" * 40),
    *(b"[" * 60, b"<!DOCTYPE x>", b"<name>5</name>", b"[/EN#5/animals A dog]", b"\n", b"r\xff\xff\xff\x7f", b"x" * 200),
    *(b"cos\nsystem\n", b".", b"(", b"\x85R.", b"\x80\x04", b"-512", b"\x80" + b"\xff" * 11),
)


class DamagedData:
    """Files of every kind of source below a folder, one of them damaged at a time.

    Args:
        root: an empty folder.
        seed: of the damage.
    """

    def __init__(self, root: Path, seed: int) -> None:
        self.root, self.draw = root, random.Random(seed)
        self.files: dict[str, dict[Path, bytes]] = {}
        self.recipes: dict[str, dict[str, Any]] = {kind: source(kind) for kind in SOURCES}
        for kind in SOURCES:
            write_source(self.recipes[kind], root)
        talk = [{"image": "1.png", "turns": [{"question": "What is [](1)?", "answer": "[A dog](1) and [a cat](2)."}]}]
        (root / "o/talk.json").write_text(json.dumps(talk))
        self.recipes["custom"]["dialogues"] = "o/talk.json"
        marked = [dialogue("1.png", "<image>\nWhat is <1>?", "A cat beside <2>.", marks=[2, 1])]
        (root / "k/talk.json").write_text(json.dumps(marked))
        (root / "k/instances.json").write_text(json.dumps(INSTANCES))
        self.recipes["set_of_mark"]["instances"] = "k/instances.json"
        federated = json.loads(json.dumps(INSTANCES))
        federated["images"][0] |= {"neg_category_ids": [2], "not_exhaustive_category_ids": [1]}
        write_files(root / "e", {"instances.json": json.dumps(federated).encode()})
        self.recipes["federated"] = {**source("coco"), "instances": "e/instances.json"}
        pictures = {path.name: path.read_bytes() for path in sorted((root / "c/images").iterdir())}
        write_tar(root / "t/images/0.tar", pictures)
        write_zip(root / "z/images/0.zip", pictures)
        for name in "tz":
            (root / name / "instances.json").write_text(json.dumps(INSTANCES))
        self.recipes["tar"] = {"kind": "custom", "instances": "t/instances.json", "images": "t/images"}
        self.recipes["zip"] = {"kind": "coco", "instances": "z/instances.json", "images": "z/images"}
        for name, recipe in self.recipes.items():
            if recipe["kind"] in ("custom", "coco", "refcoco"):
                recipe["dialogue"] = TALK
            folders = {Path(value).parts[0] for value in recipe.values() if isinstance(value, str) and "/" in value}
            places = (path for folder in folders for path in sorted((root / folder).rglob("*")) if path.is_file())
            self.files[name] = {path: path.read_bytes() for path in places}

    def once(self) -> str:
        """Damage a file of one source, read it as a run would, and mend it again; what was damaged."""
        name = self.draw.choice(list(self.recipes))
        path = self.draw.choice(
            [path for path in self.files[name] if self.draw.random() < 0.3 or path.suffix != ".png"]
        )
        whole = self.files[name][path]
        path.write_bytes(self._damaged(path, whole))
        try:
            start = time.process_time()
            self._read(self.recipes[name])
            taken = time.process_time() - start
            assert taken < SECONDS, f"{name}: {path.name} took {taken:.1f} s"
        finally:
            path.write_bytes(whole)
        return f"{name}: {path.name}"

    def _read(self, recipe: dict[str, Any]) -> None:
        lines: list[str] = []
        if self.draw.random() < 0.2:
            recipe = {
                **recipe,
                **self.draw.choice(({"crowds_as_things": True}, {"exhaustive": False}, {"strict": False})),
            }
        for read in (self._check, self._sample)[: 1 + (self.draw.random() < 0.4)]:
            try:
                read(recipe, lines)
            except LlavaGroundingError as error:
                lines.append(str(error))
        assert all(len(line) < 3000 for line in lines), max(map(len, lines))

    def _check(self, recipe: dict[str, Any], lines: list[str]) -> None:
        check_sources([recipe], self.root, lines.append)

    def _sample(self, recipe: dict[str, Any], lines: list[str]) -> None:
        opened = open_source(recipe, self.root)
        for number in range(min(opened.size or 0, 2)):
            opened.sample(number, np.random.default_rng(number))

    def _damaged(self, path: Path, whole: bytes) -> bytes:
        if path.suffix == ".json" and self.draw.random() < 0.8:
            value = json.loads(whole)
            for _ in range(self.draw.choice((1, 1, 1, 2, 5))):
                value = other_value(value, self.draw)
            return json.dumps(value).encode()
        data = bytearray(whole)
        for _ in range(self.draw.choice((1, 1, 2, 8))):
            place = self.draw.randrange(len(data) + 1)
            end = min(place + self.draw.choice((0, 1, 4, 12, 100)), len(data))
            how = self.draw.randrange(4)
            if how == 0 and end > place:
                data[place:end] = self.draw.randbytes(end - place)
            elif how == 1:
                data[place:end] = self.draw.choice(PIECES)
            elif how == 2:
                data[place:place] = data[place:end] * self.draw.choice((1, 3))
            else:
                del data[place : len(data) if self.draw.random() < 0.2 else end]
        return bytes(data)


def main() -> None:
    """Damage so many files, and say what was no error of ours."""
    count, seed = (int(word) for word in [*sys.argv[1:], *("1000", "0")[len(sys.argv) - 1 :]])
    with tempfile.TemporaryDirectory() as folder:
        damaged = DamagedData(Path(folder), seed)
        start, found = time.time(), 0
        for number in range(count):
            try:
                damaged.once()
            except Exception as error:  # noqa: BLE001  whatever it is, it is what is looked for
                found += 1
                trace = error.__traceback__
                while trace is not None and trace.tb_next is not None:
                    trace = trace.tb_next
                where = "" if trace is None else f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
                print(f"{number}: {type(error).__name__}: {str(error)[:200]} at {where}", flush=True)
            if number % 5000 == 4999:
                print(f"{number + 1} after {time.time() - start:.0f} s", flush=True)
        print(
            f"{count} damaged files, {found} that ended otherwise than by an error of ours, {time.time() - start:.0f} s"
        )


if __name__ == "__main__":
    main()
