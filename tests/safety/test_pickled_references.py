"""Pickles of a few hundred bytes whose keys would be hashed for ever, or that ask for gigabytes."""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
import time
from typing import Any

import pytest

from llava_grounding.data.readers.parts.plain_pickle import load_plain_pickle
from llava_grounding.errors import DataError

DOUBLED = b"q\x00h\x00\x86" * 60
PRIME = sys.hash_info.modulus
ALIKE = [pickle.dumps(number * PRIME, 2)[2:-1] + b"K\x00" for number in range(60_000)]
ENDLESS = {
    "set": (b"\x80\x04\x8f(K\x01" + DOUBLED + b"\x90.", "holds a set"),
    "frozenset": (b"\x80\x04(K\x01" + DOUBLED + b"\x91.", "holds a set"),
    "key": (b"\x80\x02}K\x01" + DOUBLED + b"K\x01s.", "keys must be texts or whole numbers, got a tuple"),
    "keys": (b"\x80\x02}(K\x01" + DOUBLED + b"K\x01u.", "keys must be texts or whole numbers, got a tuple"),
    "dict": (b"(K\x01" + b"p0\n0g0\n(g0\ng0\nt" * 60 + b"K\x01d.", "keys must be texts or whole numbers, got a tuple"),
    "equal": (b"\x80\x02}(" + b"".join(ALIKE) + b"u.", "keys that are numbers must have at most 64 bits"),
    "digits": (b"(" + b"".join(b"L%dL\nI1\n" % (n * PRIME) for n in range(60_000)) + b"d.", "at most 64 bits"),
    "floats": (b"\x80\x02}G" + struct.pack(">d", 0.5) + b"K\x00s.", "whole numbers, got a float"),
    "long": (b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".", "ends before"),
}
LOAD = """
import sys
from llava_grounding.data.readers.parts.plain_pickle import load_plain_pickle
load_plain_pickle(sys.stdin.buffer.read(), "x")
"""


@pytest.mark.parametrize("kind", ENDLESS)
def test_keys_that_are_hashed_for_ever_and_values_beyond_the_file_are_refused(kind: str) -> None:
    data, message = ENDLESS[kind]
    done = subprocess.run(  # a hash in C heeds no alarm: only another process can be ended
        [sys.executable, "-c", LOAD], input=data, capture_output=True, timeout=60, check=False
    )
    assert "DataError: cannot read the pickle x" in done.stderr.decode()
    assert message in done.stderr.decode()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_tuples_that_are_no_keys_are_read(protocol: int) -> None:
    value: Any = [{"a": (1, "b", (2.5, None)), 2**61: {"c": (4,), None: ()}}, ("d", [5, 6, 7, 8])]
    assert load_plain_pickle(pickle.dumps(value, protocol), "x") == value


def test_a_cut_pickle_with_tuples_is_an_error_of_ours() -> None:
    start = time.process_time()
    whole = pickle.dumps([{"a": (1000, "b", 2.5)}, (2**70,)], 2)
    for length in range(len(whole)):
        with pytest.raises(DataError, match="cannot read the pickle"):
            load_plain_pickle(whole[:length], "x")
    assert time.process_time() - start < 5
