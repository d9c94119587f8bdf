"""Sources mixed by weight: exact parts, no sample twice in an epoch, and any step without those before it."""

import pickle
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hand_made import sample
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llava_grounding.data.sample import Sample
from llava_grounding.errors import ConfigError, DataError
from llava_grounding.train.batching.mixture import Broken, Mixture, Slot
from llava_grounding.train.batching.stream import Portion

SAMPLE = sample()
BLOCK = 4096  # steps that a mixture counts at once


@dataclass
class Numbers:
    """So many samples, or endlessly many; some of them broken."""

    size: int | None = None
    broken: tuple[int, ...] = ()
    name: str = "numbers"

    def sample(self, number: int, rng: np.random.Generator) -> Sample:
        if number in self.broken or self.broken == (-1,):
            raise DataError(f"{number} is broken")
        return Sample(str(number), SAMPLE.image, (), SAMPLE.masks[:0], (), None, f"{rng.random():.6f}")


def mixture(*sources: tuple[int | None, float], batch_size: int = 4, seed: int = 0) -> Mixture:
    return Mixture([(Numbers(size), weight) for size, weight in sources], batch_size, seed)


def numbers(mixed: Mixture, steps: range, source: int = 0) -> list[int]:
    slots = [slot for step in steps for slot in mixed.slots(step) if slot.source == source]
    return [int(mixed.fill(slot, lambda one: one)[0].id) for slot in sorted(slots, key=lambda slot: slot.number)]


weights = st.lists(st.floats(0, 100, allow_subnormal=False) | st.integers(0, 9), min_size=1, max_size=6).filter(
    lambda found: sum(found) > 1e-3
)


class TestParts:
    @given(weights=weights, batch_size=st.integers(1, 200), step=st.integers(0, 10**7))
    @example(weights=[0, 1, 0], batch_size=3, step=5)
    @example(weights=[1 / 3, 1 / 3, 1 / 3], batch_size=3, step=1)
    def test_they_sum_up_to_the_batch_and_none_is_negative(
        self, weights: list[float], batch_size: int, step: int
    ) -> None:
        parts = mixture(*((None, weight) for weight in weights), batch_size=batch_size).parts(step)
        assert sum(parts) == batch_size
        assert min(parts) >= 0
        assert all(part == 0 for part, weight in zip(parts, weights, strict=True) if weight == 0)

    @given(
        parts=st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any),
        scale=st.sampled_from([1, 0.1, 3, 1e-4]),
        step=st.integers(0, 10**7),
    )
    def test_whole_parts_are_exact_in_every_step(self, parts: list[int], scale: float, step: int) -> None:
        mixed = mixture(*((None, part * scale) for part in parts), batch_size=sum(parts))
        assert mixed.parts(step) == parts
        assert mixed.parts(0) == parts

    @given(weights=weights, batch_size=st.integers(1, 50), first=st.integers(0, 10**5))
    @settings(max_examples=40)
    def test_in_the_long_run_shares_are_the_weights(self, weights: list[float], batch_size: int, first: int) -> None:
        mixed, steps = mixture(*((None, weight) for weight in weights), batch_size=batch_size), 4000
        counts = mixed._counts(first, first + steps).sum(0)
        expected = np.array(weights) / sum(weights) * batch_size * steps
        assert np.abs(counts - expected).max() < 10  # of thousands: far better than chance
        assert counts.sum() == steps * batch_size

    def test_a_small_share_comes_evenly(self) -> None:
        steps = [step for step in range(400) if mixture((None, 39), (None, 1), batch_size=4).parts(step)[1]]
        gaps = np.diff(steps)
        assert len(steps) == pytest.approx(40, abs=1)
        assert gaps.min() >= 5
        assert gaps.max() <= 20

    @pytest.mark.parametrize("wrong", [[], [0], [-1, 2], [float("nan")], [float("inf"), 1]])
    def test_weights_that_are_none_are_refused(self, wrong: list[float]) -> None:
        with pytest.raises(ConfigError, match="weights of sources must be positive numbers"):
            mixture(*((None, weight) for weight in wrong))

    def test_an_empty_source_is_named_unless_nothing_is_wanted_of_it(self) -> None:
        with pytest.raises(DataError, match="there is nothing to learn from in numbers"):
            mixture((None, 1), (0, 1))
        assert mixture((None, 1), (0, 0)).parts(3) == [4, 0]


class TestOrder:
    def test_a_source_is_gone_through_without_repetition_and_anew_in_another_order(self) -> None:
        mixed = mixture((7, 1.5), (None, 2.5))
        found = numbers(mixed, range(40))[:56]
        epochs = [found[start : start + 7] for start in range(0, 56, 7)]
        assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
        assert len(set(map(tuple, epochs))) > 6

    def test_two_sources_of_a_size_and_two_seeds_have_orders_of_their_own(self) -> None:
        mixed = mixture((50, 1), (50, 1), batch_size=10)
        first, second = numbers(mixed, range(10)), numbers(mixed, range(10), source=1)
        other = numbers(mixture((50, 1), (50, 1), batch_size=10, seed=1), range(10))
        assert first != second
        assert first != other
        assert sorted(first) == sorted(second) == sorted(other) == list(range(50))

    def test_a_batch_larger_than_its_source_sees_all_of_it_as_often_as_possible(self) -> None:
        found = Counter(numbers(mixture((3, 1), batch_size=8), range(1)))
        assert sorted(found.values()) == [2, 3, 3]

    @given(
        steps=st.lists(st.integers(0, 3 * BLOCK + 50) | st.sampled_from([BLOCK - 1, BLOCK, BLOCK + 1]), max_size=6),
        seed=st.integers(0, 3),
    )
    @settings(max_examples=25)
    def test_a_step_is_the_same_whatever_was_asked_before(self, steps: list[int], seed: int) -> None:
        asked = mixture((11, 1), (None, 2.3), (5, 0.4), seed=seed)
        for step in steps:
            assert asked.slots(step) == mixture((11, 1), (None, 2.3), (5, 0.4), seed=seed).slots(step)

    def test_numbers_go_on_without_gap_or_overlap_over_the_end_of_a_block(self) -> None:
        mixed = mixture((11, 1), (None, 2.3), (5, 0.4))
        before = [sum(mixed.parts(step)[source] for step in range(BLOCK - 3)) for source in range(3)]
        slots = [slot for step in range(BLOCK - 3, BLOCK + 3) for slot in mixed.slots(step)]
        for source in range(3):
            found = sorted(slot.number for slot in slots if slot.source == source)
            assert found == list(range(before[source], before[source] + len(found)))

    def test_what_fills_a_slot_does_not_depend_on_what_filled_others(self) -> None:
        forwards, backwards = mixture((9, 1), (None, 1)), mixture((9, 1), (None, 1))
        slots = [slot for step in range(9) for slot in forwards.slots(step)]
        one = [forwards.fill(slot, lambda one: one)[0] for slot in slots]
        other = [backwards.fill(slot, lambda one: one)[0] for slot in reversed(slots)]
        assert one == other[::-1]
        assert len({filled.source for filled in one}) == len(one)  # each has a random generator of its own

    def test_sources_are_dealt_out_over_the_places_of_a_batch(self) -> None:
        mixed = mixture((None, 8), (None, 8), batch_size=16)
        halves = [Counter(slot.source for slot in mixed.slots(step)[:8])[0] for step in range(50)]
        assert min(halves) < 4 < max(halves)


class TestPortions:
    @given(
        batch_size=st.integers(1, 40),
        world=st.integers(1, 8),
        micro=st.none() | st.integers(1, 12),
        step=st.integers(0, 2 * BLOCK),
    )
    @settings(max_examples=60)
    def test_processes_share_a_step_without_overlap_in_as_many_pieces_each(
        self, batch_size: int, world: int, micro: int | None, step: int
    ) -> None:
        if batch_size < world:
            with pytest.raises(ConfigError, match=f"at least the number of processes, {world}, got {batch_size}"):
                Portion.of(batch_size, micro, 0, world)
            return
        slots = mixture((5, 1), (None, 2), batch_size=batch_size).slots(step)
        portions = [Portion.of(batch_size, micro, rank, world) for rank in range(world)]
        pieces = [portion.slots(list(slots)) for portion in portions]
        assert {len(piece) for piece in pieces} == {portions[0].micro_batches}
        assert all(one for piece in pieces for one in piece)
        assert Counter(slot for piece in pieces for one in piece for slot in one) == Counter(slots)
        sizes = [len(one) for piece in pieces for one in piece]
        if micro is not None and batch_size % world == 0:
            assert max(sizes) <= micro


class TestBroken:
    def test_others_take_the_place_of_broken_ones_the_same_each_time_and_are_named(self) -> None:
        def filled() -> list[tuple[str, list[Broken]]]:
            mixed = Mixture([(Numbers(20, (3, 4, 5)), 1.0)], 20, 0)
            return [(one.id, lost) for one, lost in (mixed.fill(slot, lambda s: s) for slot in mixed.slots(0))]

        found = filled()
        assert found == filled()
        assert not {name for name, _ in found} & {"3", "4", "5"}
        lost = [one for _, broken in found for one in broken]
        assert {one.number for one in lost} == {3, 4, 5}
        assert Broken("numbers", 4, "4 is broken") in lost
        whole = mixture((20, 1), batch_size=20)
        unharmed = [whole.fill(slot, lambda one: one)[0].id for slot in whole.slots(0)]
        assert [name for name, broken in found if not broken] == [name for name in unharmed if name not in "345"]

    def test_what_cannot_be_made_ready_is_broken_too(self) -> None:
        def picky(one: Sample) -> str:
            if int(one.id) % 2:
                raise DataError(f"{one.id} is odd")
            return one.id

        mixed = mixture((10, 1), batch_size=10)
        found = [mixed.fill(slot, picky) for slot in mixed.slots(0)]
        assert all(int(name) % 2 == 0 for name, _ in found)
        assert {one.number for _, lost in found for one in lost} == {1, 3, 5, 7, 9}

    @pytest.mark.parametrize("size", [1, 100, None])
    def test_ten_in_a_row_end_it(self, size: int | None) -> None:
        mixed = Mixture([(Numbers(size, (-1,)), 1.0)], 2, 0)
        with pytest.raises(DataError, match=r"^100 samples of numbers in a row could not be used: \d+ is broken"):
            mixed.fill(mixed.slots(0)[0], lambda one: one)

    def test_what_is_no_broken_data_is_not_passed_over(self) -> None:
        def faulty(one: Sample) -> None:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            mixture((5, 1)).fill(Slot(0, 0), faulty)


def test_a_mixture_sent_to_another_process_is_the_same_mixture() -> None:
    mixed = mixture((11, 1), (None, 2.3))
    mixed.slots(BLOCK + 1)
    sent = pickle.loads(pickle.dumps(mixed))
    for step in (0, 3, BLOCK, 2 * BLOCK):
        assert sent.slots(step) == mixed.slots(step)
        for slot in mixed.slots(step):
            assert sent.fill(slot, lambda one: one) == mixed.fill(slot, lambda one: one)
