"""Of built dialogues answers and their end tokens are learnt, nothing else; phrases keep what is known of them."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest

from hand_record import RECORD
from llava_grounding.dialogues.builder import build_sample
from llava_grounding.dialogues.settings import DIALOGUE_KINDS, DialogueSettings
from llava_grounding.geometry import Letterbox
from llava_grounding.processing.processor import LlavaGroundingProcessor
from llava_grounding.train.batching.batches import dialogue_phrase_map, encode_dialogue
from small_release import release_processor
from tiny_model import tiny_config, tiny_processor

TALK = DialogueSettings(**dict.fromkeys(DIALOGUE_KINDS, 1.0), max_kinds=4)  # type: ignore[arg-type]
PROCESSORS = {"markup": tiny_processor(tiny_config("shared")), "sentencepiece": release_processor()}


@pytest.mark.parametrize("tokenisation", PROCESSORS)
def test_answers_and_their_end_tokens_are_learnt_and_nothing_else(tokenisation: str) -> None:
    processor: LlavaGroundingProcessor = PROCESSORS[tokenisation]
    tokens, prefix = processor.tokens, processor.settings.template.answer_prefix
    for seed in range(40):
        sample = build_sample(RECORD, np.random.default_rng(seed), TALK)
        letterbox = Letterbox.fit(sample.image_size_wh, (64, 64))
        text = encode_dialogue(sample.turns, processor, letterbox)
        runs = groupby(zip(text.input_ids, text.loss_mask, strict=True), key=lambda pair: pair[1])
        learnt = [[token for token, _ in run] for in_loss, run in runs if in_loss]
        assert learnt == [[*tokens.encode_answer(prefix + turn.answer), tokens.ids.eos] for turn in sample.turns]
        labels = processor.collate_texts([text])["labels"][0]
        assert labels[labels != -100].tolist() == [token for run in learnt for token in run]
        assert text.input_ids.count(tokens.ids.region) == len(text.prompts.types)
        assert text.input_ids.count(tokens.ids.seg) == sum(len(turn.targets) for turn in sample.turns)


def test_a_phrase_may_name_several_things_and_a_thing_several_phrases() -> None:
    seen = []
    for seed in range(60):
        sample = build_sample(RECORD, np.random.default_rng(seed), TALK)
        targets = [target for turn in sample.turns for target in turn.targets]
        phrase_map, known = dialogue_phrase_map(sample.turns, len(sample.instances))
        assert [tuple(np.flatnonzero(column)) for column in phrase_map.T] == [target or () for target in targets]
        assert known.tolist() == [target is not None for target in targets]
        seen.append((phrase_map.sum(0).max(initial=0), phrase_map.sum(1).max(initial=0), known.all()))
    several, often, all_known = zip(*seen, strict=True)
    assert max(several) > 1
    assert max(often) > 1
    assert not all(all_known)
