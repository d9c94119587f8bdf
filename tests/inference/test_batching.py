"""The token loop: when answers end, phrase states, reading on, and answers side by side as those written alone."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
import torch

from answer_checks import CHATS, KINDS, RAW
from llava_grounding.inference.batching import (
    GenerationState,
    KVCache,
    RunningBatch,
    forward_padded,
    prefill,
    prefill_batch,
)
from llava_grounding.inference.decoding import Decoding, StopSignal
from llava_grounding.inference.engine import GroundedChat
from llava_grounding.serve.caches import ByteBudgetCache
from tiny_model import saying

LENGTHS = (7, 40, 3, 25, 12, 300)
SEG, END = 8, 1
Written = tuple[list[int], list[torch.Tensor]]


def texts(chat: GroundedChat, lengths: Sequence[int] = LENGTHS) -> list[torch.Tensor]:
    """Embeddings `[1, T, D]` of random words."""
    generator = torch.Generator().manual_seed(5)
    embed = chat.model.get_input_embeddings()
    with torch.inference_mode():
        return [embed(torch.randint(20, 400, (1, length), generator=generator)) for length in lengths]


def begin(chat: GroundedChat, batch: RunningBatch, text: torch.Tensor, decoding: Decoding) -> GenerationState:
    return batch.join(decoding, *prefill(chat.model, text))


def take(generation: GenerationState, into: Written) -> None:
    """What is new: called after each token is chosen, and after it is read."""
    if generation.num_generated > len(into[0]):
        assert generation.token is not None
        into[0].append(generation.token)
    into[1].extend(generation.states)
    generation.states = []


def write(
    kind: str, scripts: list[list[int]], limit: int = 50, stop: StopSignal | None = None
) -> tuple[list[GenerationState], list[Written], list[torch.Tensor]]:
    """Answers that are these ids, what came of them, and the texts before."""
    chat = CHATS[kind]
    before = texts(chat, [6] * len(scripts))
    batch = RunningBatch(chat.model)
    with saying(chat, *scripts):
        generations = [batch.join(Decoding(limit), *read) for read in prefill_batch(chat.model, before)]
        written: list[Written] = [([], []) for _ in scripts]
        for _ in batch.generate(stop):
            for generation, into in zip(generations, written, strict=True):
                take(generation, into)
    return generations, written, before


def alone(chat: GroundedChat, text: torch.Tensor, decoding: Decoding) -> Written:
    """An answer written by the language model itself, which reads the whole text again for every token."""
    written: Written = ([], [])
    generation = GenerationState(decoding, torch.empty(0), 0)
    config, embed = chat.model.config, chat.model.get_input_embeddings()
    with torch.inference_mode():
        while len(written[0]) < decoding.max_new_tokens and config.eos_token_id not in written[0]:
            whole = torch.cat([text, embed(torch.tensor([written[0]], dtype=torch.long))], dim=1)
            hidden = chat.model.language_model(inputs_embeds=whole, use_cache=False).last_hidden_state[0, -1]
            written[0].append(generation.sampler.sample(chat.model.logits(hidden)))
        ids = torch.tensor([written[0]])
        whole = torch.cat([text, embed(ids)], dim=1)
        hidden = chat.model.language_model(inputs_embeds=whole, use_cache=False).last_hidden_state
        padded = torch.cat([torch.full((1, text.shape[1]), 40), ids], dim=1)
        written[1].extend(chat.model.phrase_states(hidden, padded)[0][0])
    return written


def assert_same(given: Written, expected: Written) -> None:
    assert given[0] == expected[0]
    assert len(given[1]) == len(expected[1])
    for one, other in zip(given[1], expected[1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_answers_end_by_their_end_token_or_the_limit() -> None:
    scripts = [[40, 41, END], [50, END], [60, 61, 62, 63, 64]]
    generations, written, _ = write("separate", scripts, limit=4)
    assert [tokens for tokens, _ in written] == [[40, 41, END], [50, END], [60, 61, 62, 63]]
    assert all(generation.done for generation in generations)


@KINDS
def test_phrase_states_are_those_of_the_whole_sequence(kind: str) -> None:
    scripts = [[40, SEG, 41, SEG, END], [50, 51, SEG, 52, END], [60, 61, 62, 63, END]]
    chat = CHATS[kind]
    _, written, before = write(kind, scripts)
    assert [len(states) for _, states in written] == [2, 1, 0]
    for script, given, text in zip(scripts, written, before, strict=True):
        with saying(chat, script):
            assert_same(given, alone(chat, text, Decoding(50)))


def test_a_seg_that_is_cut_off_by_the_limit_still_gives_its_state() -> None:
    for kind, read in (("shared", 2), ("separate", 1)):
        (generation,), ((tokens, states),), (before,) = write(kind, [[40, SEG, 41]], limit=2)
        assert tokens == [40, SEG]
        assert len(states) == 1
        assert generation.kv_cache is not None
        assert generation.kv_cache.length == before.shape[1] + read


def test_the_last_token_is_not_read_without_need() -> None:
    (generation,), _, (before,) = write("shared", [[40, 41, END]])
    assert generation.kv_cache is not None
    assert generation.kv_cache.length == before.shape[1] + 2


def test_stopping_ends_every_answer_between_two_tokens() -> None:
    asked = iter([False, False, True])
    _, written, _ = write("separate", [[40] * 9, [41] * 9], stop=lambda: next(asked))
    assert [tokens for tokens, _ in written] == [[40, 40], [41, 41]]
    event = threading.Event()
    event.set()
    (generation,), ((tokens, _),), (before,) = write("separate", [[40] * 9], stop=event)
    assert tokens == []
    assert generation.kv_cache is not None
    assert generation.kv_cache.length == before.shape[1]


def test_reading_on_equals_reading_at_once_and_leaves_what_was_read_before_as_it_was() -> None:
    model = CHATS["shared"].model
    whole, other = texts(CHATS["shared"], [9, 5])
    _, start = prefill(model, whole[:, :4])
    prefill(model, other, start)
    hidden, read = prefill(model, whole[:, 4:], start)
    expected, directly = prefill(model, whole)
    assert (start.length, read.length) == (4, 9)
    torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(read.layers[-1], directly.layers[-1], atol=1e-5, rtol=1e-4)
    for (state, _), alone in zip(
        prefill_batch(model, [whole[:, 4:], other], [start, None]), (hidden, prefill(model, other)[0]), strict=True
    ):
        torch.testing.assert_close(state, alone)


def test_padding_on_the_left_changes_nothing() -> None:
    model = CHATS["shared"].model
    several = texts(CHATS["shared"], [3, 7])
    positions: list[list[list[int]]] = []
    handle = model.language_model.register_forward_pre_hook(
        lambda _module, _args, kwargs: positions.append(kwargs["position_ids"].tolist()), with_kwargs=True
    )
    together = prefill_batch(model, several)
    handle.remove()
    assert positions == [[[0, 0, 0, 0, 0, 1, 2], [0, 1, 2, 3, 4, 5, 6]]]  # for models with absolute positions
    for (hidden, read), text in zip(together, several, strict=True):
        expected, alone = prefill(model, text)
        torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=1e-4)
        assert read.length == alone.length
        torch.testing.assert_close(read.layers[0], alone.layers[0], atol=1e-5, rtol=1e-4)
    assert forward_padded(model, several)[1].sum(dim=1).tolist() == [3, 7]


@KINDS
@pytest.mark.parametrize("temperature", [0.0, 1.5])
@pytest.mark.parametrize("chosen_at_once", [False, True])
def test_answers_that_come_and_go_equal_those_written_alone(
    kind: str, temperature: float, chosen_at_once: bool
) -> None:
    chat = CHATS[kind]
    decodings = [Decoding(limit, temperature, seed=3) for limit in (9, 4, 30, 1, 30, 9)]
    expected = [alone(chat, text, one) for text, one in zip(texts(chat), decodings, strict=True)]
    batch = RunningBatch(chat.model)
    waiting = list(zip(texts(chat), decodings, strict=True))
    collected: dict[int, tuple[list[int], list[torch.Tensor]]] = {}
    numbers: dict[int, GenerationState] = {}
    while waiting or len(batch):
        while waiting and len(batch) < 3:
            numbers[len(numbers)] = begin(chat, batch, *waiting.pop(0))
            collected[len(collected)] = ([], [])
            if chosen_at_once:  # the others have a token that has not been read when the next one joins
                batch.sample_tokens()
                for number, generation in numbers.items():
                    take(generation, collected[number])
        running = [(number, generation) for number, generation in numbers.items() if not generation.done]
        for step in (batch.sample_tokens, batch.decode_tokens):
            step()
            for number, generation in running:
                take(generation, collected[number])
    for number, wanted in enumerate(expected):
        assert_same(collected[number], wanted)


@KINDS
def test_phrase_states_come_with_their_tokens_and_what_was_read_can_be_read_on(kind: str) -> None:
    chat = CHATS[kind]
    short, long, *_ = texts(chat)
    with saying(chat, RAW):
        expected = alone(chat, short, Decoding(60))
    with saying(chat, RAW, RAW):
        batch = RunningBatch(chat.model)
        first = begin(chat, batch, short, Decoding(60))
        begin(chat, batch, long, Decoding(60))
        given: tuple[list[int], list[torch.Tensor]] = ([], [])
        for _ in batch.generate():
            take(first, given)
    assert len(expected[1]) == 3
    assert_same(given, expected)

    assert first.kv_cache is not None
    ids = torch.tensor([given[0][first.kv_cache.length - short.shape[1] :] or [7]])
    embed = chat.model.get_input_embeddings()
    with torch.inference_mode():
        hidden, read = prefill(chat.model, embed(ids), first.kv_cache)
        whole = torch.cat([short, embed(torch.tensor([given[0]]))], dim=1)
        directly, _ = prefill(chat.model, whole)
    torch.testing.assert_close(hidden, directly, atol=1e-3, rtol=1e-3)
    assert read.length == whole.shape[1]
    assert first.kv_cache.length < read.length  # it stays as it was


def test_an_answer_that_has_no_numbers_leaves_and_harms_no_other() -> None:
    chat = CHATS["shared"]
    good, bad, *_ = texts(chat)
    expected = alone(chat, good, Decoding(12))
    batch = RunningBatch(chat.model)
    hidden, read = prefill(chat.model, bad)
    broken = KVCache([(keys, values * float("nan")) for keys, values in read.layers])
    lost = batch.join(Decoding(12), hidden, broken)
    kept = begin(chat, batch, good, Decoding(12))
    given: tuple[list[int], list[torch.Tensor]] = ([], [])
    while len(batch):
        for step in (batch.sample_tokens, batch.decode_tokens):
            step()
            take(kept, given)
        if lost.done and kept.num_generated == 3:
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
