"""The token loop: choosing tokens, the cache, when it ends, phrase states."""

from __future__ import annotations

import threading

import pytest
import torch

from llava_grounding.errors import LlavaGroundingError, UsageError
from llava_grounding.inference.decoding import (
    Decoding,
    Reader,
    Step,
    StopSignal,
    TokenLoop,
    TokenSampler,
    stop_requested,
)
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from tiny_model import saying, tiny_chat, tiny_parts

SEG, END = 8, 1


def prefix(model: LlavaGroundingForConditionalGeneration, rows: int, length: int = 6, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(20, 300, (rows, length), generator=generator)
    with torch.inference_mode():
        return model.get_input_embeddings()(ids)


def run(
    kind: str, scripts: list[list[int]], limit: int = 50, stop: StopSignal | None = None
) -> tuple[list[Step], Reader, torch.Tensor]:
    """Steps of a loop that writes these ids, its reader, and the embeddings read before."""
    chat = tiny_chat(kind)
    reader = Reader(chat.model)
    embeds = prefix(chat.model, len(scripts))
    with saying(chat, *scripts):
        loop = TokenLoop(chat.model, reader, reader.feed(embeds)[:, -1], [Decoding(limit)] * len(scripts), stop)
        return list(loop.steps()), reader, embeds


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
    assert TokenSampler(Decoding()).choose(logits) == 1
    assert TokenSampler(Decoding(temperature=1e-5, seed=1)).choose(logits) == 1


def test_a_seed_makes_sampling_repeatable_and_temperature_spreads_it() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0, -50.0])

    def draw(temperature: float, seed: int | None) -> list[int]:
        chooser = TokenSampler(Decoding(temperature=temperature, seed=seed))
        return [chooser.choose(logits) for _ in range(300)]

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
            TokenSampler(Decoding()).choose(torch.tensor([0.0, value]))


def test_rows_end_by_their_end_token_or_the_limit() -> None:
    steps, _, _ = run("separate", [[40, 41, END], [50, END], [60, 61, 62, 63, 64]], limit=4)
    assert [step.tokens for step in steps] == [(40, 50, 60), (41, END, 61), (END, None, 62), (None, None, 63)]


@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_phrase_states_are_those_of_the_whole_sequence(kind: str) -> None:
    scripts = [[40, SEG, 41, SEG, END], [50, 51, SEG, 52, END], [60, 61, 62, 63, END]]
    steps, _, embeds = run(kind, scripts)
    model, _ = tiny_parts(kind)
    ids = torch.tensor(scripts)
    with torch.inference_mode():
        whole = torch.cat([embeds, model.get_input_embeddings()(ids)], dim=1)
        hidden = model.language_model(inputs_embeds=whole).last_hidden_state
        padded = torch.cat([torch.full((3, embeds.shape[1]), 40), ids], dim=1)
        expected, mask = model.phrase_states(hidden, padded)
    assert mask.tolist() == [[True, True], [True, False], [False, False]]
    found: list[list[torch.Tensor]] = [[], [], []]
    for step in steps:
        for row, state in step.states:
            found[row].append(state)
    for row, states in enumerate(found):
        assert len(states) == int(mask[row].sum())
        for number, state in enumerate(states):
            torch.testing.assert_close(state, expected[row, number], atol=1e-4, rtol=1e-4)


def test_a_seg_that_is_cut_off_by_the_limit_still_gives_its_state() -> None:
    for kind, extra in (("shared", True), ("separate", False)):
        steps, reader, embeds = run(kind, [[40, SEG, 41]], limit=2)
        assert [token for step in steps for token in step.tokens] == ([40, SEG, None] if extra else [40, SEG])
        assert sum(len(step.states) for step in steps) == 1
        assert reader.length == embeds.shape[1] + (2 if extra else 1)


def test_the_last_token_is_not_read_without_need() -> None:
    _, reader, embeds = run("shared", [[40, 41, END]])
    assert reader.length == embeds.shape[1] + 2


def test_stopping_ends_every_row_between_two_tokens() -> None:
    asked = iter([False, False, True])
    steps, _, _ = run("separate", [[40] * 9, [41] * 9], stop=lambda: next(asked))
    assert [step.tokens for step in steps] == [(40, 41), (40, 41)]
    event = threading.Event()
    event.set()
    assert run("separate", [[40] * 9], stop=event)[0] == []
    assert not stop_requested(None)
    assert not stop_requested(threading.Event())


def test_reading_on_equals_reading_at_once() -> None:
    model, _ = tiny_parts("shared")
    embeds = prefix(model, 2, 9)
    with torch.inference_mode():
        whole = model.language_model(inputs_embeds=embeds).last_hidden_state
    reader = Reader(model)
    parts = [reader.feed(embeds[:, start:end]) for start, end in ((0, 4), (4, 5), (5, 9))]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-4)
    assert reader.length == 9


def test_what_was_cut_back_leaves_no_trace() -> None:
    model, _ = tiny_parts("shared")
    embeds, other = prefix(model, 1, 9), prefix(model, 1, 5, seed=1)
    reader = Reader(model)
    reader.feed(embeds[:, :4])
    reader.feed(other)
    reader.cut_back(4)
    assert reader.length == 4
    again = reader.feed(embeds[:, 4:])
    fresh = Reader(model)
    fresh.feed(embeds[:, :4])
    assert torch.equal(again, fresh.feed(embeds[:, 4:]))
    reader.cut_back(0)
    assert torch.equal(reader.feed(embeds), Reader(model).feed(embeds))


def test_padding_on_the_left_changes_nothing() -> None:
    model, _ = tiny_parts("shared")
    short, long = prefix(model, 1, 3, seed=2), prefix(model, 1, 7, seed=3)
    padded = torch.cat([torch.zeros(1, 4, short.shape[2]), short], dim=1)
    mask = torch.tensor([[False] * 4 + [True] * 3, [True] * 7])
    both, alone = Reader(model), Reader(model)
    positions: list[list[list[int]]] = []
    handle = model.language_model.register_forward_pre_hook(
        lambda _module, _args, kwargs: positions.append(kwargs["position_ids"].tolist()), with_kwargs=True
    )
    hidden = both.feed(torch.cat([padded, long]), mask)
    handle.remove()
    assert positions == [[[0, 0, 0, 0, 0, 1, 2], [0, 1, 2, 3, 4, 5, 6]]]  # for models with absolute positions
    torch.testing.assert_close(hidden[:1, 4:], alone.feed(short), atol=1e-5, rtol=1e-4)
    following = prefix(model, 1, 1, seed=4)
    later = both.feed(following.expand(2, -1, -1))
    torch.testing.assert_close(later[:1], alone.feed(following), atol=1e-5, rtol=1e-4)
