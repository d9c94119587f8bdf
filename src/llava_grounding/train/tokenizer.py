"""A small byte-level BPE tokenizer trained on the dialogues a model will read. Any text encodes; nothing is unknown."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from llava_grounding.errors import ConfigError
from llava_grounding.markup import PHRASE_END, PHRASE_START, REGION, SEG
from llava_grounding.processing.tokens import IMAGE

PAD, END, START, UNKNOWN, MARK = "<pad>", "</s>", "<s>", "<unk>", "<mark>"
SPECIAL_TOKENS = (PAD, END, START, UNKNOWN, MARK, IMAGE, PHRASE_START, PHRASE_END, SEG, REGION)
"""Ids 0 to 9, in this order; the `nano` preset states the same ids."""


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Learn merges from plain texts (no markup in them).

    Raises:
        ConfigError: if `vocab_size` cannot hold every byte; the vocabulary would be larger than the model's.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    smallest = len(alphabet) + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise ConfigError(
            f"vocab_size must be at least {smallest}, for {len(alphabet)} bytes and {len(SPECIAL_TOKENS)} special "
            f"tokens, got {vocab_size}"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, bos_token=START, unk_token=UNKNOWN
    )
