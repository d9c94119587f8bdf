"""Answers written side by side equal those written alone, whoever joins and leaves meanwhile."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from answer_checks import CHATS, KINDS, RAW
from llava_grounding.inference.decoding import Decoding, Reader, TokenLoop
from llava_grounding.inference.engine import GroundedChat
from llava_grounding.serve.batching import KeysAndValues, PrefixReader, RunningBatch, Writing
from llava_grounding.serve.caches import ByteBudgetCache
from tiny_model import saying

LENGTHS = (7, 40, 3, 25, 12, 300)


def texts(chat: GroundedChat, lengths: Sequence[int] = LENGTHS) -> list[torch.Tensor]:
    """Embeddings `[1, T, D]` of random words."""
    generator = torch.Generator().manual_seed(5)
    embed = chat.model.get_input_embeddings()
    with torch.inference_mode():
        return [embed(torch.randint(20, 400, (1, length), generator=generator)) for length in lengths]


def alone(chat: GroundedChat, text: torch.Tensor, decoding: Decoding) -> tuple[list[int], list[torch.Tensor]]:
    """Tokens and phrase states as the loop of the engine writes them."""
    reader = Reader(chat.model)
    hidden = reader.feed(text)[:, -1]
    tokens, states = [], []
    for step in TokenLoop(chat.model, reader, hidden, [decoding]).steps():
        states += [state for _, state in step.states]
        tokens += [token for token in step.tokens if token is not None]
    return tokens, states


def begin(chat: GroundedChat, batch: RunningBatch, text: torch.Tensor, decoding: Decoding) -> Writing:
    return batch.join(decoding, *PrefixReader(chat.model).read(text))


def take(writing: Writing, into: tuple[list[int], list[torch.Tensor]]) -> None:
    into[1].extend(writing.states_before)
    if writing.token is not None:
        into[0].append(writing.token)
    into[1].extend(writing.states_after)


def assert_same(given: tuple[list[int], list[torch.Tensor]], expected: tuple[list[int], list[torch.Tensor]]) -> None:
    assert given[0] == expected[0]
    assert len(given[1]) == len(expected[1])
    for one, other in zip(given[1], expected[1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


@KINDS
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_answers_that_come_and_go_equal_those_written_alone(kind: str, temperature: float) -> None:
    chat = CHATS[kind]
    decodings = [Decoding(limit, temperature, seed=3) for limit in (9, 4, 30, 1, 30, 9)]
    expected = [alone(chat, text, one) for text, one in zip(texts(chat), decodings, strict=True)]
    batch = RunningBatch(chat.model)
    waiting = list(zip(texts(chat), decodings, strict=True))
    collected: dict[int, tuple[list[int], list[torch.Tensor]]] = {}
    numbers: dict[int, Writing] = {}
    while waiting or len(batch):
        if waiting and len(batch) < 3:
            numbers[len(numbers)] = begin(chat, batch, *waiting.pop(0))
            collected[len(collected)] = ([], [])
        running = [(number, writing) for number, writing in numbers.items() if not writing.done]
        batch.step()
        for number, writing in running:
            take(writing, collected[number])
    for number, wanted in enumerate(expected):
        assert_same(collected[number], wanted)


@KINDS
def test_phrase_states_come_with_their_tokens_and_what_was_read_can_be_read_on(kind: str) -> None:
    chat = CHATS[kind]
    short, long, *_ = texts(chat)
    with saying(chat, RAW, RAW, RAW):
        expected = alone(chat, short, Decoding(60))
        batch = RunningBatch(chat.model)
        first = begin(chat, batch, short, Decoding(60))
        begin(chat, batch, long, Decoding(60))
        given: tuple[list[int], list[torch.Tensor]] = ([], [])
        while not first.done:
            batch.step()
            take(first, given)
    assert len(expected[1]) == 3
    assert_same(given, expected)

    assert first.kept is not None
    ids = torch.tensor([given[0][first.kept.length - short.shape[1] :] or [7]])
    embed = chat.model.get_input_embeddings()
    with torch.inference_mode():
        hidden, read = PrefixReader(chat.model, first.kept).read(embed(ids))
        whole = torch.cat([short, embed(torch.tensor([given[0]]))], dim=1)
        directly, _ = PrefixReader(chat.model).read(whole)
    torch.testing.assert_close(hidden, directly, atol=1e-3, rtol=1e-3)
    assert read.length == whole.shape[1]
    assert first.kept.length < read.length  # it stays as it was


def test_an_answer_that_has_no_numbers_leaves_and_harms_no_other() -> None:
    chat = CHATS["shared"]
    good, bad, *_ = texts(chat)
    expected = alone(chat, good, Decoding(12))
    batch = RunningBatch(chat.model)
    hidden, read = PrefixReader(chat.model).read(bad)
    broken = KeysAndValues([(keys, values * float("nan")) for keys, values in read.layers])
    lost = batch.join(Decoding(12), hidden, broken)
    kept = begin(chat, batch, good, Decoding(12))
    given: tuple[list[int], list[torch.Tensor]] = ([], [])
    while len(batch):
        batch.step()
        take(kept, given)
        if lost.done and kept.written == 3:
            begin(chat, batch, bad, Decoding(2))  # in the row that the lost one had
    assert "not finite" in str(lost.error)
    assert_same(given, expected)


def test_a_cache_keeps_what_was_used_last_within_its_budget() -> None:
    cache: ByteBudgetCache[str, int] = ByteBudgetCache(10)
    cache.put("a", 1, 4)
    cache.put("b", 2, 4)
    assert cache.get("a") == 1
    cache.put("c", 3, 4)
    assert (cache.get("a"), cache.get("b"), cache.get("c"), cache.nbytes) == (1, None, 3, 8)
    cache.put("a", 9, 2)
    assert (cache.get("a"), cache.nbytes) == (9, 6)
    cache.put("huge", 5, 11)
    assert (cache.get("huge"), cache.nbytes, len(cache)) == (None, 6, 2)
