"""Seeded samples of longer runs of `mutated_inputs.py`: damaged inputs give a value or one of our errors."""

from collections import Counter

import pytest
from mutated_inputs import KINDS, try_one

COUNTS = {"pictures": 1500, "masks": 1200, "markup": 1500, "polygons": 600, "forms": 1500}


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_inputs_are_read_or_refused(kind: str) -> None:
    found = Counter(try_one(kind, f"7 {kind} {number}") for number in range(COUNTS[kind]))
    assert found.keys() == {"read", "refused"} or found.keys() == {"read"}, found
    assert found["read"] > COUNTS[kind] // 15


def test_a_fault_of_a_reader_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "faulty", lambda rng: {}[rng.random()])
    assert "KeyError: 0." in (try_one("faulty", "7") or "")
