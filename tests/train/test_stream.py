"""Batches by step number: the same whoever makes them, in order, with what broke told once."""

import gc
import hashlib
import os
import pickle
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hand_made import NAMES, SCENES, TURNS, four_samples, sample
from small_training import training_processor

from llava_grounding.data.readers.coco import PhotoPack
from llava_grounding.data.sample import Sample
from llava_grounding.errors import DataError
from llava_grounding.train.batching.batches import ChatBatch, ClassBatch, chat_item
from llava_grounding.train.batching.mixture import Broken, Mixture
from llava_grounding.train.batching.source_kinds import Photos, Scenes
from llava_grounding.train.batching.stream import (
    BatchMaker,
    BatchStream,
    Delivery,
    Portion,
    SkippedSamples,
    batch_loader,
)

INDEX = {name: column for column, name in enumerate(NAMES, start=1)}


@dataclass(frozen=True)
class Few:
    """Samples made by hand, some of them broken."""

    broken: tuple[int, ...] = ()
    error: type[Exception] = DataError
    name: str = "few"
    size: int = 8

    def sample(self, number: int, rng: np.random.Generator) -> Sample:
        if number in self.broken:
            raise self.error(f"{number} is broken")
        return replace(four_samples()[number % 4], id=str(number))


def maker(chat: bool = True, max_turns: int = 4, max_tokens: int | None = None, seed: int = 0) -> BatchMaker:
    return BatchMaker(training_processor(), INDEX, chat, max_turns, max_tokens, seed)


def stream(source: object = Few(), steps: int = 6, first_step: int = 0, **portion: int) -> BatchStream:
    mixed = Mixture([(source, 2.0), (Scenes(SCENES), 1.0)], 3, 0)  # type: ignore[list-item]
    return BatchStream(mixed, maker(), Portion(**portion), steps, first_step)


def digest(deliveries: Iterable[Delivery]) -> list[str]:
    """All that is in batches, each in one number."""
    return [hashlib.sha256(pickle.dumps(plain(one.batch))).hexdigest() for one in deliveries]


def plain(value: object) -> object:
    if isinstance(value, torch.Tensor):
        return str(value.dtype), value.numpy().tobytes()
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    return {name: plain(one) for name, one in vars(value).items()} if hasattr(value, "__dict__") else value


class TestOrder:
    def test_batches_are_the_same_from_whatever_step_on(self) -> None:
        whole = digest(stream())
        assert len(set(whole)) == 6
        assert digest(stream(first_step=4)) == whole[4:]
        assert digest([stream().batch(3), stream().batch(1)]) == [whole[3], whole[1]]

    @pytest.mark.parametrize("workers", [1, 2])
    def test_worker_processes_make_the_batches_of_one_process_in_order(self, workers: int) -> None:
        alone = digest(stream(micro_batches=2, steps=3))
        assert digest(batch_loader(stream(micro_batches=2, steps=3), 0)) == alone
        assert digest(batch_loader(stream(micro_batches=2, steps=3), workers)) == alone

    def test_processes_and_pieces_see_the_samples_of_a_step_each_once(self) -> None:
        def seen(one: Delivery) -> list[bytes]:
            assert isinstance(one.batch, ChatBatch)
            return [image.numpy().tobytes() for image in one.batch.images["grounder_pixel_values"]]

        for step in range(2):
            whole = sorted(seen(stream().batch(step)))
            ranks = [image for rank in (0, 1, 2) for image in seen(stream(rank=rank, world_size=3).batch(step))]
            pieces = [image for micro in (0, 1) for image in seen(stream(micro_batches=2).batch(step, micro))]
            assert sorted(ranks) == sorted(pieces) == whole

    def test_a_dialogue_is_the_same_however_a_step_is_split(self) -> None:
        def texts(*deliveries: Delivery) -> list[list[int]]:
            return sorted(
                row[mask.bool()].tolist()
                for one in deliveries
                for row, mask in zip(one.batch.texts["input_ids"], one.batch.texts["attention_mask"], strict=True)
            )

        pieces = [stream(rank=rank, world_size=3).batch(1) for rank in range(3)]
        assert texts(*pieces) == texts(stream().batch(1))

    def test_each_place_of_the_run_throws_dice_of_its_own(self) -> None:
        @dataclass(frozen=True)
        class One(Few):
            size: int = 1

            def sample(self, number: int, rng: np.random.Generator) -> Sample:
                return sample()

        few_turns = BatchStream(Mixture([(One(), 1.0)], 2, 0), maker(max_turns=1), Portion(), 6)
        said = [tuple(row.tolist()) for one in few_turns for row in one.batch.texts["input_ids"]]
        assert len({tuple(token for token in row if token) for row in said}) > 2

    def test_a_stream_sent_to_another_process_is_the_same_stream(self, mini_pack_root: Path) -> None:
        sent = pickle.loads(pickle.dumps(photo_stream(mini_pack_root)))
        assert digest(sent) == digest(photo_stream(mini_pack_root))


def photo_stream(root: str | Path) -> BatchStream:
    """Photos of the miniature pack and scenes, a few steps of both."""
    photos = Photos(PhotoPack(root).split("val"))
    classes = BatchMaker(training_processor(), INDEX, False, 4, None, 0)
    return BatchStream(Mixture([(photos, 1.0), (Scenes(SCENES), 1.0)], 2, 5), classes, Portion(), 4)


class TestMaking:
    def test_class_names_need_no_dialogue(self) -> None:
        silent = replace(sample(), turns=())
        batch = maker(chat=False).collate([silent, *four_samples()])
        assert isinstance(batch, ClassBatch)
        assert batch.phrase_mask.shape == (5, 4)

    def test_without_class_names_a_dialogue_has_none(self) -> None:
        plain_maker = replace(maker(), class_index=None)
        batch = plain_maker.collate([plain_maker.item(sample(), np.random.default_rng(0))])
        assert isinstance(batch, ChatBatch)
        assert (batch.classes, batch.words) == (None, None)

    def test_later_turns_are_left_out_where_the_dialogue_would_be_too_long(self) -> None:
        def ids(max_tokens: int | None) -> list[int]:
            item = chat_item(sample(), training_processor(), 10, np.random.default_rng(0), max_tokens)
            return [int(one) for one in item.text.input_ids]

        whole = ids(None)
        assert ids(len(whole)) == whole
        shorter = ids(len(whole) - 1)
        assert len(shorter) < len(whole)
        assert whole[: len(shorter)] == shorter
        lengths = {len(ids(limit)) for limit in range(len(whole), 100, -1)}
        assert len(lengths) >= 3
        assert all(len(ids(limit)) <= limit for limit in (120, 150, 200))

    def test_what_is_left_out_takes_its_phrases_and_prompts_along(self) -> None:
        turns = tuple(turn for turn in TURNS if turn.kind in ("describe", "region"))
        told = replace(sample(), turns=turns)
        for seed in range(6):
            both = chat_item(told, training_processor(), 10, np.random.default_rng(seed))
            one = chat_item(told, training_processor(), 10, np.random.default_rng(seed), len(both.text.input_ids) - 1)
            segs = int((np.array(one.text.input_ids) == training_processor().tokens.ids.seg).sum())
            assert both.phrase_map.shape == (3, 4)
            assert one.phrase_map.shape == (3, segs) == (3, len(one.known))
            assert np.array_equal(one.phrase_map, both.phrase_map[:, :2])
            batch = maker().collate([one])
            regions = int((batch.texts["input_ids"] == training_processor().tokens.ids.region).sum())
            assert regions == (0 if batch.prompts is None else int(batch.prompts.valid.sum()))

    def test_a_first_turn_that_is_too_long_breaks_its_sample(self) -> None:
        with pytest.raises(DataError, match=r"^the dialogue of `drawn by hand` takes \d+ tokens of 20 allowed$"):
            chat_item(sample(), training_processor(), 10, np.random.default_rng(0), 20)
        tight = BatchStream(Mixture([(Few(), 1.0)], 2, 0), maker(max_tokens=20), Portion(), 2)
        with pytest.raises(DataError, match="100 samples of few in a row could not be used: the dialogue of"):
            tight.batch(0)


class TestBroken:
    @pytest.mark.parametrize("workers", [0, 2])
    def test_others_take_their_place_and_they_are_reported(self, workers: int) -> None:
        found = list(batch_loader(stream(Few((2, 5)), steps=4), workers))
        assert [len(one.batch.targets) for one in found] == [3] * 4
        told = [broken for one in found for broken in one.broken]
        assert {(one.source, one.number, one.reason) for one in told} == {
            ("few", number, f"{number} is broken") for number in (2, 5)
        }

    @pytest.mark.parametrize("workers", [0, 2])
    @pytest.mark.parametrize(("error", "kind"), [(DataError, DataError), (ZeroDivisionError, ZeroDivisionError)])
    def test_what_ends_a_worker_ends_the_run_with_that_error(
        self, workers: int, error: type[Exception], kind: type[Exception], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)  # the wait for each worker
        with pytest.raises(kind, match="is broken"):
            list(batch_loader(stream(Few(tuple(range(8)), error), steps=2), workers))
        gc.collect()  # or the workers are waited for in whichever test is next

    @pytest.mark.slow
    def test_a_worker_that_dies_ends_the_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.1)
        with pytest.raises(RuntimeError, match=r"DataLoader worker .* exited unexpectedly|killed by signal"):
            list(islice(batch_loader(stream(Deadly()), 1), 2))

    @pytest.mark.slow
    def test_a_program_that_forgets_its_workers_ends_nevertheless(self) -> None:
        lines = [
            "from test_stream import batch_loader, stream",
            "batches = iter(batch_loader(stream(steps=300), 2))",
            "next(batches)",
            "batches.itself = batches",
            "print('forgotten')",
        ]
        folder = Path(__file__).parent
        ended = subprocess.run(
            [sys.executable, "-c", "\n".join(lines)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(folder.parent), *sys.path])},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (ended.returncode, ended.stdout.strip()) == (0, "forgotten")
        assert "Traceback" not in ended.stderr


@dataclass(frozen=True)
class Deadly(Few):
    """Takes its process along."""

    def sample(self, number: int, rng: np.random.Generator) -> Sample:
        os._exit(3)


class TestSkippedSamples:
    def test_each_is_told_once(self) -> None:
        skipped_samples = SkippedSamples(10)
        one, two = Broken("a", 1, "gone"), Broken("b", 1, "gone")
        assert skipped_samples.add([one, two]) == [one, two]
        assert skipped_samples.add([one]) == []
        assert skipped_samples.add([Broken("a", 1, "still gone"), Broken("a", 2, "torn")]) == [Broken("a", 2, "torn")]
        assert skipped_samples.add([]) == []
        assert skipped_samples.found == {("a", 1): "gone", ("b", 1): "gone", ("a", 2): "torn"}

    def test_one_that_broke_twice_on_the_way_to_a_batch_is_told_once(self) -> None:
        one = Broken("a", 1, "gone")
        assert SkippedSamples(1).add([one, one]) == [one]

    def test_as_many_as_allowed_are_fine_and_one_more_ends_the_run(self) -> None:
        skipped_samples = SkippedSamples(2)
        skipped_samples.add([Broken("a", 1, "gone"), Broken("a", 2, "gone")])
        skipped_samples.add([Broken("a", 1, "gone")])
        with pytest.raises(DataError) as caught:
            skipped_samples.add([Broken("a", 7, "torn")])
        assert str(caught.value) == (
            "3 samples could not be read, more than the 2 of `max_skipped_samples`; the last, number 7 of a: torn"
        )
        with pytest.raises(DataError, match="1 samples could not be read"):
            SkippedSamples(0).add([Broken("a", 1, "gone")])
