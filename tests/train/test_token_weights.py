"""Words that decide an answer count more in the language loss; all others as before."""

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hand_made import sample
from small_training import chat_batch, recipe, shrink_world, training_model, training_processor

from llava_grounding.checkpoints import find_checkpoint
from llava_grounding.processing.processor import LlavaGroundingProcessor
from llava_grounding.processing.tokens import MarkupTokenizer
from llava_grounding.train.losses.step_losses import forward_dialogues
from llava_grounding.train.losses.token_weights import answer_word_weights
from llava_grounding.train.training_setup import build_training_setup


@pytest.fixture(scope="module")
def tokens() -> MarkupTokenizer:
    return LlavaGroundingProcessor.from_pretrained(find_checkpoint("nano")[1]).tokens


def test_every_word_that_decides_an_answer_counts_and_no_other(tokens: MarkupTokenizer) -> None:
    weights = answer_word_weights(tokens, 2048, 8.0)
    assert weights is not None
    heavy = {tokens.decode([number]).strip() for number in weights.nonzero()[:, 0].tolist() if weights[number] == 8}
    assert {"Yes", "No", "one", "two", "seven", "red", "grey"} <= heavy
    assert all(word.isalpha() for word in heavy)
    assert set(weights.tolist()) == {1.0, 8.0}
    for word in ("There", "dog", "is", "."):
        assert all(weights[number] == 1 for number in tokens.encode_plain(f" {word}")), word


def test_a_word_of_several_tokens_gives_its_pieces_no_weight() -> None:
    tokens = Mock(spec=MarkupTokenizer, encode_plain=lambda text: [3] if text == " Yes" else [1, 2])
    weights = answer_word_weights(tokens, 5, 4.0)
    assert weights is not None
    assert weights.tolist() == [1, 1, 1, 4, 1]


def test_a_weight_of_one_is_the_plain_loss(tokens: MarkupTokenizer) -> None:
    assert answer_word_weights(tokens, 2048, 1.0) is None


def test_the_loss_is_the_weighted_sum_over_the_number_of_learnt_tokens() -> None:
    model, processor = training_model().eval(), training_processor()
    batch = chat_batch([sample()], processor, None, 10, np.random.default_rng(0))
    features = model.encode_image(**batch.images)
    plain = forward_dialogues(model, batch, features)
    labels = batch.texts["labels"][:, 1:]
    learnt = labels != -100
    each = F.cross_entropy(model.logits(plain.last_hidden_state[:, :-1])[learnt], labels[learnt], reduction="none")
    torch.testing.assert_close(plain.loss, each.mean())
    some = labels[learnt][0]
    weights = torch.ones(model.config.text_config.vocab_size)
    weights[some] = 5.0
    heavier = forward_dialogues(model, batch, features, weights)
    torch.testing.assert_close(heavier.loss, (each * (1 + 4 * (labels[learnt] == some))).sum() / len(each))
    assert heavier.loss > plain.loss


def test_a_recipe_asks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink_world(monkeypatch)
    losses = []
    for weight in (1.0, 50.0):
        values = {"preset": "shared", "steps": 1, "batch_size": 4, "loss_weights": {"answer_words": weight}}
        setup = build_training_setup(recipe("chat", **values), tmp_path)
        delivery = next(iter(setup.stream()))
        setup.training_module.eval()
        losses.append(setup.training_module(delivery.batch)["language"].item())
        assert "token_weights" not in setup.training_module.state_dict()
    assert losses[1] > 1.2 * losses[0]
