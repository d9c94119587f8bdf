"""How an answer is written: settings, the next token, the stop signal."""

from __future__ import annotations

import threading

import pytest
import torch

from llava_grounding.errors import LlavaGroundingError, UsageError
from llava_grounding.inference.decoding import Decoding, TokenSampler, stop_requested


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number from 1 to 2000, got 0"),
        ({"max_new_tokens": 2001}, "got 2001"),
        ({"max_new_tokens": 2.5}, "got 2.5"),
        ({"max_new_tokens": True}, "got True"),
        ({"temperature": -0.1}, "temperature must be a number from 0 to 100, got -0.1"),
        ({"temperature": float("nan")}, "got nan"),
        ({"temperature": "hot"}, "got 'hot'"),
        ({"seed": -1}, r"seed must be a whole number from 0 to 2\^63 - 1, got -1"),
        ({"seed": 1.0}, "got 1.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Decoding(**settings)  # type: ignore[arg-type]


def test_without_temperature_the_likeliest_token_is_taken() -> None:
    logits = torch.tensor([0.1, 3.0, 2.9, -1.0])
    assert TokenSampler(Decoding()).sample(logits) == 1
    assert TokenSampler(Decoding(temperature=1e-5, seed=1)).sample(logits) == 1


def test_a_seed_makes_sampling_repeatable_and_temperature_spreads_it() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -50.0])

    def draw(temperature: float, seed: int | None) -> list[int]:
        chooser = TokenSampler(Decoding(temperature=temperature, seed=seed))
        return [chooser.sample(logits) for _ in range(300)]

    assert draw(1.0, 7) == draw(1.0, 7)
    assert draw(1.0, 7) != draw(1.0, 8)
    assert draw(1.0, None) != draw(1.0, None)
    shares = [draw(1.0, 3).count(token) / 300 for token in range(4)]
    assert shares == pytest.approx([0.09, 0.245, 0.665, 0], abs=0.08)
    assert draw(0.05, 3).count(2) == 300
    assert draw(100, 3).count(0) > 60


def test_logits_that_are_no_numbers_are_an_error_not_an_answer() -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(LlavaGroundingError, match=r"not finite; .*\(try float32\)"):
            TokenSampler(Decoding()).sample(torch.tensor([0.0, value]))


def test_a_stop_signal_is_a_function_or_an_event() -> None:
    event = threading.Event()
    assert not stop_requested(None)
    assert not stop_requested(event)
    event.set()
    assert stop_requested(event)
    assert stop_requested(lambda: True)
