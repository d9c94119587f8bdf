"""The folder that ships: half the size, the same answers, one threshold in both places."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hand_made import four_samples
from safetensors import safe_open
from small_training import chat_batch, class_phrases, training_processor, training_setup

from llava_grounding.errors import UsageError
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.processing.processor import LlavaGroundingProcessor
from llava_grounding.train.checkpoint import save_whole
from llava_grounding.train.publish import publish
from llava_grounding.train.training_setup import TrainingSetup


def _learn(setup: TrainingSetup, steps: int) -> None:
    """A few steps, so that batch statistics and weights are no round numbers."""
    optimizer = torch.optim.AdamW(setup.training_module.parameters(), lr=1e-3)
    for delivery in islice(setup.stream(), steps):
        optimizer.zero_grad()
        setup.training_module.train()(delivery.batch)["loss"].backward()
        optimizer.step()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A stage's last weights, and what is published of them."""
    root = tmp_path_factory.mktemp("stage")
    setup = training_setup(root, batch_size=1)
    _learn(setup, 2)
    save_whole(setup.training_module, setup.processor, root / "last")
    size = publish(root / "last", root / "out", score_threshold=0.42)
    assert size == (root / "out/model.safetensors").stat().st_size
    return root / "last", root / "out"


def test_whoever_may_read_one_file_may_read_all(folders: tuple[Path, Path]) -> None:
    for folder in folders:
        modes = {path.name: path.stat().st_mode for path in folder.iterdir()}
        assert len(modes) > 5
        assert set(modes.values()) == {modes["config.json"]}


def test_every_weight_takes_half_the_space(folders: tuple[Path, Path]) -> None:
    sizes = []
    for folder in folders:
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            tensors = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118
            sizes.append(sum(tensor.nbytes for tensor in tensors if tensor.is_floating_point()))
            wanted = torch.float32 if len(sizes) == 1 else torch.float16
            assert {tensor.dtype for tensor in tensors if tensor.is_floating_point()} == {wanted}
    assert sizes[1] * 2 == sizes[0]
    files = [(folder / "model.safetensors").stat().st_size for folder in folders]
    assert files[1] < 0.6 * files[0]  # names and shapes take their part in so small a model


def test_answers_are_those_of_the_rounded_weights(folders: tuple[Path, Path]) -> None:
    batch = chat_batch(four_samples(), training_processor(), class_phrases().index, 2, np.random.default_rng(0))
    before, after = (
        LlavaGroundingForConditionalGeneration.from_pretrained(folder, dtype=torch.float32) for folder in folders
    )
    rounded = {name: value.half().float() for name, value in before.state_dict().items() if value.is_floating_point()}
    before.load_state_dict(rounded, strict=False)
    results = []
    for model in (before, after):
        with torch.no_grad():
            output = model(
                input_ids=batch.texts["input_ids"],
                attention_mask=batch.texts["attention_mask"],
                grounder_pixel_values=batch.images["grounder_pixel_values"],
                region_prompts=batch.prompts,
            )
            grounding = model.ground(
                output.image_features.memory,
                *model.phrase_states(output.last_hidden_state, batch.texts["input_ids"]),
            )
        results.append((output.logits, grounding.phrase_logits, grounding.boxes_cxcywh_norm))
    # To the bit: with random weights a rounded one more or less makes other queries the best.
    for expected, published in zip(*results, strict=True):
        torch.testing.assert_close(published, expected, atol=0, rtol=0)


def test_the_threshold_stands_in_model_and_processor(folders: tuple[Path, Path]) -> None:
    before, after = folders
    assert LlavaGroundingProcessor.from_pretrained(after).settings.selection.score_threshold == 0.42
    assert json.loads((after / "config.json").read_text())["score_threshold"] == 0.42
    assert json.loads((before / "config.json").read_text())["score_threshold"] != 0.42
    kept = LlavaGroundingProcessor.from_pretrained(before).settings.selection
    assert LlavaGroundingProcessor.from_pretrained(after).settings.selection.nms_iou == kept.nms_iou


def test_leftovers_of_training_stay_behind(folders: tuple[Path, Path]) -> None:
    names = {path.name for path in folders[1].iterdir()}
    assert not {name for name in names if name.endswith((".pt", ".bin", ".jsonl"))}
    assert {"class_phrases.json", "class_phrases.safetensors"} <= names  # training can start from what ships
    assert {"config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= names


def test_without_a_threshold_the_old_one_stays_and_publishing_twice_changes_nothing(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    publish(folders[0], tmp_path / "once")
    publish(tmp_path / "once", tmp_path / "twice")
    once, twice = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("once", "twice"))
    assert once == twice
    old = LlavaGroundingProcessor.from_pretrained(folders[0]).settings
    assert LlavaGroundingProcessor.from_pretrained(tmp_path / "twice").settings == old


def test_a_stage_without_class_phrases_is_published_too(tmp_path: Path) -> None:
    setup = training_setup(tmp_path, stage="grounded_chat", batch_size=1)
    save_whole(setup.training_module, setup.processor, tmp_path / "last")
    publish(tmp_path / "last", tmp_path / "out")
    assert (tmp_path / "out/model.safetensors").is_file()
    assert not list((tmp_path / "out").glob("class_phrases*"))


def test_two_stages_are_averaged(tmp_path: Path) -> None:
    models = []
    for seed in (0, 1):
        setup = training_setup(tmp_path, seed=seed, stage="grounded_chat", batch_size=1)
        save_whole(setup.training_module, setup.processor, tmp_path / f"last{seed}")
        models.append(setup.model.state_dict())
    publish(tmp_path / "last0", tmp_path / "out", averaged_with=tmp_path / "last1")
    mean = LlavaGroundingForConditionalGeneration.from_pretrained(tmp_path / "out", dtype=torch.float32).state_dict()
    for name in ("lm_head.weight", "phrase_projector.weight"):
        assert not torch.equal(models[0][name], models[1][name])
        torch.testing.assert_close(mean[name], (models[0][name] + models[1][name]) / 2, atol=1e-3, rtol=1e-3)
    with pytest.raises(UsageError, match="is the folder that is read"):
        publish(tmp_path / "last0", tmp_path / "last1", averaged_with=tmp_path / "last1")


def test_models_of_two_architectures_are_not_averaged(tmp_path: Path) -> None:
    for flavour in ("shared", "siglip"):
        setup = training_setup(tmp_path, flavour=flavour, stage="grounded_chat", batch_size=1)
        save_whole(setup.training_module, setup.processor, tmp_path / flavour)
    with pytest.raises(UsageError, match="only models of one architecture"):
        publish(tmp_path / "shared", tmp_path / "out", averaged_with=tmp_path / "siglip")
