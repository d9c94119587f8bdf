"""The loop: rates, steps left out, checkpoints, and a run that was stopped being the run that was not."""

import json
import logging
import math
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from unittest import mock

import pytest
import torch
from hand_made import NAMES, four_samples
from small_training import recipe, workshop
from torch import Tensor

from llava_grounding.errors import CheckpointError
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from llava_grounding.processing.processor import LlavaGroundingProcessor
from llava_grounding.train import loop
from llava_grounding.train.batches import ChatBatch, ClassBatch
from llava_grounding.train.loop import (
    BatchStream,
    Workshop,
    load_class_phrases,
    parameter_groups,
    rate_factor,
    run_stage,
    save_weights,
)


class StoppedError(Exception):
    """Somebody pulled the plug."""


def run_until(step: int, shop: Workshop) -> None:
    """Run the stage and let it die when it comes to this step, counted from 0."""
    honest, done = loop._step, [0]

    def mortal(*arguments: object) -> dict[str, float]:
        if done[0] == step:
            raise StoppedError
        done[0] += 1
        return honest(*arguments)

    with mock.patch.object(loop, "_step", mortal), pytest.raises(StoppedError):
        run_stage(shop)


def weights(shop: Workshop) -> dict[str, Tensor]:
    phrases = {f"phrases.{name}": value for name, value in shop.phrases.state_dict().items()}
    return {**shop.model.state_dict(), **phrases}


def assert_equal_weights(first: Workshop, second: Workshop) -> None:
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    assert [name for name, value in ours.items() if not torch.equal(value, theirs[name])] == []


def log_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("values", [{"stage": "pretrain_grounder"}, {"stage": "chat", "num_points": 16}])
def test_two_steps_a_stop_and_two_steps_are_four_steps(values: dict[str, object], tmp_path: Path) -> None:
    straight = workshop(tmp_path / "straight", **values)
    run_stage(straight)
    run_until(3, workshop(tmp_path / "stopped", **values))
    assert torch.load(tmp_path / "stopped/state.pt", weights_only=True)["step"] == 2
    resumed = workshop(tmp_path / "stopped", seed=5, **values)  # its fresh weights must not matter
    resumed.stream = straight.stream
    run_stage(resumed)
    assert_equal_weights(resumed, straight)
    before = workshop(tmp_path / "unused", **values)
    assert any(not torch.equal(value, weights(before)[name]) for name, value in weights(straight).items())


def test_other_seeds_give_other_weights_and_the_same_seed_the_same(tmp_path: Path) -> None:
    shops = [workshop(tmp_path / str(number), seed=seed, steps=2) for number, seed in enumerate((0, 0, 1))]
    for shop in shops:
        run_stage(shop)
    assert_equal_weights(shops[0], shops[1])
    assert not torch.equal(shops[0].phrases.embeds, shops[2].phrases.embeds)


def test_the_best_validation_survives_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.3, 0.9, 0.5, 0.4])
    monkeypatch.setattr(loop, "_validate", lambda shop: {"class_f1": next(scores)})
    values = {"stage": "pretrain_grounder", "validate_every": 1, "batch_size": 1}
    run_until(2, workshop(tmp_path, **values))
    best = (tmp_path / "best/model.safetensors").read_bytes()
    assert run_stage(workshop(tmp_path, **values)) == {"class_f1": 0.4}
    assert (tmp_path / "best/model.safetensors").read_bytes() == best
    assert (tmp_path / "last/model.safetensors").read_bytes() != best
    assert [row["class_f1"] for row in log_of(tmp_path) if "class_f1" in row] == [0.3, 0.9, 0.5, 0.4]


def test_a_checkpoint_without_a_best_validation_still_loads(tmp_path: Path) -> None:
    values = {"stage": "pretrain_grounder", "steps": 2, "batch_size": 1}
    run_stage(workshop(tmp_path, **values))
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    del state["best"]
    torch.save(state, tmp_path / "state.pt")
    assert "class_f1" in run_stage(workshop(tmp_path, **values))


def test_a_finished_stage_run_again_only_validates(tmp_path: Path) -> None:
    values = {"stage": "pretrain_grounder", "steps": 2, "batch_size": 1}
    first = workshop(tmp_path, **values)
    result = run_stage(first)
    again = workshop(tmp_path, seed=7, **values)
    assert run_stage(again) == result
    assert_equal_weights(again, first)


def test_lines_of_the_log_are_means_over_the_steps_since_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([1.0, 2.0, 6.0, 8.0, 10.0, 12.0])
    monkeypatch.setattr(loop, "_step", lambda *arguments: {"loss": next(losses)})
    monkeypatch.setattr(loop, "_validate", lambda shop: {})
    values = {"stage": "pretrain_grounder", "batch_size": 1, "log_every": 3, "save_every": 1, "steps": 3}
    run_stage(workshop(tmp_path, **values))
    assert [row["loss"] for row in log_of(tmp_path) if "loss" in row] == [3.0]
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    torch.save({**state, "step": 2}, tmp_path / "state.pt")
    run_stage(workshop(tmp_path, **{**values, "steps": 5}))  # resumed at 2: step 3 is logged alone
    assert [(row["step"], row["loss"]) for row in log_of(tmp_path) if "loss" in row][1] == (3, 8.0)


def test_a_run_leaves_its_recipe_its_log_and_folders_that_load(tmp_path: Path) -> None:
    shop = workshop(tmp_path, steps=2, validate_every=2)
    result = run_stage(shop)
    assert {"class_f1", "phrase_f1", "language_loss"} <= result.keys()
    assert json.loads((tmp_path / "recipe.json").read_text())["steps"] == 2
    rows = log_of(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 2]
    assert {"loss", "grad_norm", "language", "class_loss", "samples_s"} <= rows[0].keys()
    assert not any("aux" in name or "interm" in name for name in rows[0])
    for folder in (tmp_path / "best", tmp_path / "last"):
        model = LlavaGroundingForConditionalGeneration.from_pretrained(folder)
        assert torch.equal(model.lm_head.weight, shop.model.lm_head.weight)
        assert LlavaGroundingProcessor.from_pretrained(folder).settings == shop.processor.settings
        phrases = load_class_phrases(folder)
        assert phrases.names == NAMES
        assert torch.equal(phrases.embeds, shop.phrases.embeds)
        assert torch.equal(phrases.cell_head.weight, shop.phrases.cell_head.weight)


def test_vision_pretraining_leaves_the_language_model_alone(tmp_path: Path) -> None:
    shop = workshop(tmp_path, stage="pretrain_grounder", steps=2, weight_decay=0.5)
    before = {name: value.clone() for name, value in weights(shop).items()}
    run_stage(shop)
    moved = {name for name, value in weights(shop).items() if not torch.equal(value, before[name])}
    language = ("language_model.", "lm_head.", "phrase_projector.", "multi_modal_projector.", "visual_prompt_encoder.")
    assert not {name for name in moved if name.startswith(language)}
    assert {"grounder.query_selection.projection.weight", "vision_tower.anything", "phrases.embeds"} <= moved


def test_frozen_parts_do_not_move(tmp_path: Path) -> None:
    shop = workshop(tmp_path, steps=2)
    for part in (shop.model.grounder.backbone, shop.model.language_model):
        part.requires_grad_(False)
    before = {name: value.clone() for name, value in shop.model.named_parameters()}
    run_stage(shop)
    moved = {name for name, value in shop.model.named_parameters() if not torch.equal(value, before[name])}
    assert not {name for name in moved if name.startswith(("grounder.backbone.", "language_model."))}
    assert any(name.startswith("grounder.pixel_decoder.") for name in moved)
    assert any(name.startswith("multi_modal_projector.") for name in moved)


def test_a_frozen_grounder_stays_with_its_statistics_while_the_language_side_learns(tmp_path: Path) -> None:
    shop = workshop(tmp_path, steps=2, freeze_vision=True)
    before = {name: value.clone() for name, value in shop.model.state_dict().items()}
    run_stage(shop)
    after = shop.model.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert not {name for name in moved if name.startswith("grounder.")}
    for part in ("language_model.", "multi_modal_projector.", "phrase_projector.", "visual_prompt_encoder."):
        assert any(name.startswith(part) for name in moved), part
    names = log_of(tmp_path)[0].keys()
    assert {"language", "phrase_loss"} <= names
    assert not {name for name in names if name.startswith("class_")}


class TestParameterGroups:
    def groups(self, tmp_path: Path, **values: float) -> tuple[Workshop, dict[int, tuple[float, float]]]:
        """Rate and weight decay of each parameter, by its identity."""
        shop = workshop(tmp_path, learning_rate=0.1, vision_rate=0.5, weight_decay=0.02, **values)
        shop.model.grounder.backbone.requires_grad_(False)
        found: dict[int, tuple[float, float]] = {}
        for group in parameter_groups(shop):
            for parameter in group["params"]:
                assert id(parameter) not in found
                found[id(parameter)] = (group["lr"], group["weight_decay"])
        return shop, found

    def test_each_learning_parameter_is_in_exactly_one(self, tmp_path: Path) -> None:
        shop, found = self.groups(tmp_path)
        learning = {id(p) for p in [*shop.model.parameters(), *shop.phrases.parameters()] if p.requires_grad}
        assert found.keys() == learning
        assert len(learning) < len([*shop.model.parameters(), *shop.phrases.parameters()])

    def test_vision_and_language_have_their_rates(self, tmp_path: Path) -> None:
        shop, found = self.groups(tmp_path)
        model = shop.model
        vision = (model.grounder.mask_head, model.vision_tower, model.visual_prompt_encoder, shop.phrases)
        for part, rate in (
            *((part, 0.05) for part in vision),
            *((part, 0.1) for part in (model.language_model, model.multi_modal_projector, model.phrase_projector)),
        ):
            assert {found[id(parameter)][0] for parameter in part.parameters()} == {rate}

    def test_matrices_decay_and_norms_and_biases_do_not(self, tmp_path: Path) -> None:
        shop, found = self.groups(tmp_path)
        for part in (shop.model.language_model, shop.model.grounder.query_decoder, shop.phrases):
            for parameter in part.parameters():
                assert found[id(parameter)][1] == (0.02 if parameter.ndim > 1 else 0.0)


def test_the_rate_rises_then_falls_along_a_cosine_to_zero() -> None:
    plan = recipe(steps=100, warmup=0.1)
    factors = [rate_factor(step, plan) for step in range(101)]
    assert factors[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0, abs=1e-12)
    assert all(later <= earlier for earlier, later in pairwise(factors[10:]))
    assert rate_factor(0, recipe(steps=4, warmup=0.0)) == 1
    assert all(math.isfinite(rate_factor(step, recipe(steps=1, warmup=1.0))) for step in range(3))


def test_a_step_with_a_gradient_that_is_not_finite_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    honest, asked = loop.pretrain_losses, [0]

    def exploding(*arguments: object) -> dict[str, Tensor]:
        losses = honest(*arguments)
        asked[0] += 1
        return losses if asked[0] != 2 else {**losses, "loss": losses["loss"] * float("inf")}

    snapshots: list[dict[str, Tensor]] = []
    step = loop._step

    def watched(shop: Workshop, *arguments: object) -> dict[str, float]:
        losses = step(shop, *arguments)
        snapshots.append({name: value.detach().clone() for name, value in shop.model.named_parameters()})
        return losses

    monkeypatch.setattr(loop, "pretrain_losses", exploding)
    monkeypatch.setattr(loop, "_step", watched)
    shop = workshop(tmp_path, stage="pretrain_grounder", steps=3)
    with caplog.at_level(logging.WARNING, logger="llava_grounding"):
        run_stage(shop)
    assert "a step was left out: its gradient was not finite" in caplog.text

    def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
        return all(torch.equal(value, second[name]) for name, value in first.items())

    assert same(snapshots[0], snapshots[1])
    assert not same(snapshots[1], snapshots[2])
    assert all(bool(torch.isfinite(value).all()) for value in snapshots[2].values())


def test_gradients_are_cut_to_the_largest_norm(tmp_path: Path) -> None:
    shop = workshop(tmp_path, stage="pretrain_grounder", steps=1, clip=1e-9, learning_rate=0.1)
    run_stage(shop)
    parameters = [p.grad.norm() for p in [*shop.model.parameters(), *shop.phrases.parameters()] if p.grad is not None]
    assert float(torch.stack(parameters).norm()) <= 1.1e-9
    assert log_of(tmp_path)[0]["grad_norm"] > 0.1


def batch_values(batch: ClassBatch | ChatBatch) -> list[Tensor]:
    values = [*batch.images.values(), batch.phrase_mask, *(target.phrase_map for target in batch.targets)]
    return [*values, *batch.texts.values()] if isinstance(batch, ChatBatch) else values


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
@pytest.mark.parametrize("workers", [1, 3])
def test_worker_processes_make_the_batches_of_one_process_in_order(workers: int, tmp_path: Path) -> None:
    shop = workshop(tmp_path, steps=5, workers=workers)
    alone = BatchStream(shop, 1)
    loader = torch.utils.data.DataLoader(alone, batch_size=None, num_workers=workers, worker_init_fn=loop._worker_init)
    made = [batch_values(batch) for batch in loader]
    assert len(made) == 4
    for step, values in enumerate(made, start=1):
        assert all(torch.equal(a, b) for a, b in zip(values, batch_values(alone.batch(step)), strict=True))


def test_batches_take_the_samples_of_the_stream_one_after_the_other(tmp_path: Path) -> None:
    shop = workshop(tmp_path, stage="pretrain_grounder", batch_size=3)
    asked: list[int] = []

    class Noting:
        def __getitem__(self, index: int) -> object:
            asked.append(index)
            return four_samples()[index % 4]

    shop.stream = Noting()
    list(BatchStream(shop, 2))
    assert asked == [6, 7, 8, 9, 10, 11]


def test_a_batch_moves_to_another_device_whole(tmp_path: Path) -> None:
    for stage in ("chat", "pretrain_grounder"):
        batch = BatchStream(workshop(tmp_path, stage=stage), 0).batch(0)
        moved = loop._to_device(batch, torch.device("meta"))
        assert type(moved) is type(batch)
        for field in fields(moved):
            assert devices(getattr(moved, field.name)) <= {"meta"}, field.name


def devices(value: object) -> set[str]:
    if isinstance(value, Tensor):
        return {value.device.type}
    if isinstance(value, dict | list | tuple):
        return {kind for part in (value.values() if isinstance(value, dict) else value) for kind in devices(part)}
    if hasattr(value, "__dataclass_fields__"):
        return {kind for field in fields(value) for kind in devices(getattr(value, field.name))}
    return set()


def test_class_phrases_come_back_and_a_folder_without_them_is_named(tmp_path: Path) -> None:
    shop = workshop(tmp_path)
    save_weights(shop, tmp_path / "last")
    again = load_class_phrases(tmp_path / "last")
    assert again.index == {"cat": 1, "dog": 2, "tree": 3}
    assert torch.equal(again.embeds, shop.phrases.embeds)
    with pytest.raises(CheckpointError) as caught:
        load_class_phrases(tmp_path)
    assert str(caught.value) == f"`{tmp_path}` holds no class phrases of an earlier stage"
    (tmp_path / "last/class_phrases.json").write_text("[")
    with pytest.raises(CheckpointError, match="holds no class phrases"):
        load_class_phrases(tmp_path / "last")


def test_bfloat16_products_train_too(tmp_path: Path) -> None:
    shop = workshop(tmp_path, steps=1, bf16=True)
    result = run_stage(shop)
    assert all(math.isfinite(value) for value in result.values())
    assert {parameter.dtype for parameter in shop.model.parameters()} == {torch.float32}
