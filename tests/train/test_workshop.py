"""A stage put together from its recipe: what starts from nothing, what from an earlier stage, and what is refused."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from hand_made import NAMES
from safetensors.torch import load_file, save_file
from small_training import recipe, training_config

from llava_grounding.data.synthetic import SceneConfig
from llava_grounding.errors import CheckpointError, ConfigError
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.processing.processor import LlavaGroundingProcessor
from llava_grounding.train import stream, workshop
from llava_grounding.train.publish import publish
from llava_grounding.train.recipe import Recipe
from llava_grounding.train.workshop import load_start, open_workshop, train

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _small_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models by the name of a preset, small scenes of three kinds, and a corpus of a few dialogues."""
    monkeypatch.setattr(workshop, "preset", lambda name: training_config(name))
    monkeypatch.setattr(workshop, "KINDS", NAMES)
    monkeypatch.setattr(workshop, "_TOKENIZER_SAMPLES", 3)
    monkeypatch.setattr(
        workshop,
        "SceneConfig",
        lambda **values: SceneConfig(kinds=tuple(NAMES), num_objects=(1, 2), short_side=(48, 64), **values),
    )
    held_out = SceneConfig(kinds=tuple(NAMES), num_objects=(1, 2), short_side=(48, 64))
    drawn = [stream.draw_scene(stream.VALIDATION_SEED + index, held_out) for index in range(2)]
    monkeypatch.setattr(workshop, "validation_scenes", lambda count: drawn[:count])


def small(stage: str, **values: object) -> Recipe:
    return recipe(stage, **{"preset": "shared", "steps": 1, "batch_size": 1, **values})


def test_both_stages_follow_each_other_and_the_result_can_be_published(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="llava_grounding"):
        first = train(small("pretrain_grounder"), tmp_path / "first")
        assert "class_f1" in first
        assert "learning: vision_tower" in caplog.text
        second = train(small("chat", start_from=str(tmp_path / "first/best")), tmp_path / "second")
    assert {"class_f1", "phrase_f1", "language_loss"} <= second.keys()
    assert "starting fresh" not in caplog.text
    ours = LlavaGroundingProcessor.from_pretrained(tmp_path / "second/best")
    assert (
        ours.tokenizer.get_vocab()
        == LlavaGroundingProcessor.from_pretrained(tmp_path / "first/best").tokenizer.get_vocab()
    )
    assert publish(tmp_path / "second/best", tmp_path / "out") > 0
    model = LlavaGroundingForConditionalGeneration.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert bool(torch.isfinite(model.lm_head.weight).all())


def test_a_later_stage_starts_with_the_weights_of_the_earlier(tmp_path: Path) -> None:
    train(small("pretrain_grounder"), tmp_path / "first")
    start = tmp_path / "first/last"
    shop = open_workshop(small("chat", start_from=str(start), seed=9), tmp_path, None, CPU)
    saved = load_file(start / "model.safetensors")
    state = shop.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in saved.items())
    assert shop.model.lm_head.weight is shop.model.get_input_embeddings().weight
    assert shop.phrases.names == NAMES
    assert torch.equal(shop.phrases.embeds, load_file(start / "class_phrases.safetensors")["embeds"])


def test_the_same_seed_starts_from_the_same_weights(tmp_path: Path) -> None:
    shops = [open_workshop(small("chat", seed=seed), tmp_path, None, CPU) for seed in (1, 1, 2)]
    weights = [shop.model.grounder.mask_head.layers[0].weight for shop in shops]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_vision_pretraining_draws_no_dialogues_but_its_tokenizer_has_read_some(tmp_path: Path) -> None:
    shop = open_workshop(small("pretrain_grounder"), tmp_path, None, CPU)
    assert shop.stream[0].turns == ()
    assert len(shop.processor.tokens.encode_plain(" ASSISTANT:")) < len(" ASSISTANT:")
    assert open_workshop(small("chat"), tmp_path, None, CPU).stream[0].turns
    assert shop.processor.settings.image_sequence_length == shop.model.config.image_sequence_length
    assert shop.processor.settings.canvas.size == shop.model.config.grounder_config.image_size


def test_an_unknown_stage_gets_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        train(small("caht"), tmp_path)
    assert str(caught.value) == "stage must be one of pretrain_grounder, chat, got `caht`; did you mean `chat`?"


def test_a_preset_with_a_tower_of_its_own_cannot_start_from_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        open_workshop(small("chat", preset="official"), tmp_path, None, CPU)
    assert str(caught.value) == "preset `official` has a tower or tokenizer of its own, so it needs start_from"


def test_classes_the_earlier_stage_has_not_seen_are_named_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(small("pretrain_grounder"), tmp_path / "first")
    start = tmp_path / "first/last"
    monkeypatch.setattr(workshop, "KINDS", [*NAMES, "zebra", "apple"])
    with pytest.raises(ConfigError) as caught:
        open_workshop(small("chat", start_from=str(start)), tmp_path, None, CPU)
    assert str(caught.value) == (
        f"`{start}` does not know the classes apple, zebra of this stage's samples; "
        "train it with the same data, or this stage with photo_share=0"
    )


class TestLoadStart:
    def model(self) -> LlavaGroundingForConditionalGeneration:
        return LlavaGroundingForConditionalGeneration(training_config("shared"))

    def test_parts_the_file_lacks_start_fresh_and_are_named(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        model = self.model()
        state = {name: value + 1 for name, value in model.state_dict().items() if name != "lm_head.weight"}
        del state["phrase_projector.weight"]
        save_file(state, tmp_path / "model.safetensors")
        fresh = model.phrase_projector.weight.clone()
        with caplog.at_level(logging.INFO, logger="llava_grounding"):
            load_start(model, tmp_path)
        assert caplog.messages == ["starting fresh: phrase_projector.weight"]
        assert torch.equal(model.phrase_projector.weight, fresh)
        assert torch.equal(model.phrase_projector.bias, state["phrase_projector.bias"])

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda state: state.update(extra=torch.zeros(1)), "holds tensors the model has no place for: extra"),
            (lambda state: state.update({"phrase_projector.bias": torch.zeros(3)}), "does not fit the model: .*bias"),
        ],
    )
    def test_tensors_without_a_place_or_of_another_shape_are_refused(
        self, change: object, message: str, tmp_path: Path
    ) -> None:
        state = {name: value for name, value in self.model().state_dict().items() if name != "lm_head.weight"}
        change(state)
        save_file(state, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match=message):
            load_start(self.model(), tmp_path)

    def test_a_missing_or_damaged_file_is_named(self, tmp_path: Path) -> None:
        for content in (None, b"", np.zeros(9).tobytes()):
            if content is not None:
                (tmp_path / "model.safetensors").write_bytes(content)
            with pytest.raises(CheckpointError, match=r"model.safetensors` is missing or damaged"):
                load_start(self.model(), tmp_path)
