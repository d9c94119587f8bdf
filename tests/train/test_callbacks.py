"""Between the steps of a run: the log, rates, trackers, steps and samples left out, the best weights."""

import logging
import math
import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hand_made import four_samples
from running import Listed, differences, finish, finish_with, log_of, weights
from small_training import training_setup
from torch import Tensor
from transformers import TrainerCallback

from llava_grounding.data.sample import Sample
from llava_grounding.errors import CheckpointError, ConfigError, DataError
from llava_grounding.train import trainer as trainer_module
from llava_grounding.train.callbacks import BestCheckpoint
from llava_grounding.train.trainer import GroundingTrainer, lr_factor
from llava_grounding.train.training_module import TrainingModule

QUICK: dict[str, Any] = {"stage": "pretrain_grounder", "batch_size": 1}
NOBODY: tuple[Any, Any, Any] = (None, None, None)  # who calls a callback, where it does not ask


class TestTheLog:
    def test_it_has_every_loss_by_name_but_none_of_inner_layers(self, tmp_path: Path) -> None:
        finish(tmp_path, steps=2, eval_steps=2)
        rows = log_of(tmp_path)
        assert [row["step"] for row in rows] == [1, 2, 2]
        kinds = {f"{task}_loss_{kind}" for task in ("class", "phrase") for kind in ("class", "mask", "dice", "box")}
        others = {"loss", "grad_norm", "learning_rate", "language", "class_loss", "class_naming", "class_cells"}
        assert kinds | others | {"class_words", "phrase_loss", "samples_s", "time"} <= rows[0].keys()
        assert not any("aux" in name or "interm" in name or "epoch" in name for row in rows for name in row)
        assert {"class_f1", "phrase_f1", "language_loss"} <= rows[2].keys()
        whole = rows[0]["language"] + rows[0]["class_loss"] + rows[0]["class_words"] + rows[0]["phrase_loss"]
        assert rows[0]["loss"] == pytest.approx(whole, rel=1e-5)
        assert all(row["samples_s"] > 0 for row in rows[:2])

    @pytest.mark.parametrize("micro_batch_size", [None, 1])
    def test_its_lines_are_means_over_the_steps_since_the_last(
        self, micro_batch_size: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        values = {**QUICK, "batch_size": 2, "micro_batch_size": micro_batch_size, "steps": 6, "save_steps": 3}
        asked: list[int] = []

        def losses(training_module: TrainingModule, batch: object, totals: object) -> dict[str, Tensor]:
            asked.append(len(asked))
            parts = 1 if micro_batch_size is None else 2
            known = 0.0 * sum(one.sum() for one in training_module.parameters() if one.requires_grad)
            step = asked[-1] // parts + 1
            return {"loss": known + step**2 / parts, "cells": torch.tensor(step / parts)}

        monkeypatch.setattr(TrainingModule, "forward", losses)
        monkeypatch.setattr("llava_grounding.train.run.Validation.__call__", lambda *_: {"class_f1": 0.5})
        finish(tmp_path, **values, logging_steps=3)
        rows = [row for row in log_of(tmp_path) if "loss" in row]
        assert [(row["step"], row["loss"], row["cells"]) for row in rows] == [
            (3, pytest.approx(14 / 3, abs=1e-5), 2.0),
            (6, pytest.approx(77 / 3, abs=1e-5), 5.0),
        ]
        asked.clear()
        finish(tmp_path, **{**values, "steps": 8}, logging_steps=4)  # resumed at 6: steps 7 and 8 are logged alone
        last = [row for row in log_of(tmp_path) if "loss" in row][-1]
        assert (last["step"], last["loss"], last["cells"]) == (8, 2.5, 1.5)

    def test_trackers_write_where_they_are_asked_to_and_only_there(self, tmp_path: Path) -> None:
        pytest.importorskip("tensorboard")
        finish(tmp_path / "with", **QUICK, steps=1, report_to=["tensorboard"])
        finish(tmp_path / "without", **QUICK, steps=1)
        assert list((tmp_path / "with").rglob("events.out.tfevents*"))
        assert not list((tmp_path / "without").rglob("events.out.tfevents*"))

    def test_a_run_that_goes_on_has_the_rhythm_of_its_own_recipe(self, tmp_path: Path) -> None:
        finish(tmp_path, **QUICK, steps=1, save_steps=1, logging_steps=1, eval_steps=1)
        finish(tmp_path, **QUICK, steps=5, save_steps=2, logging_steps=3, eval_steps=4, save_total_limit=9)
        rows = [(row["step"], "loss" in row) for row in log_of(tmp_path)]
        assert rows == [(1, True), (1, False), (3, True), (4, False), (5, False)]
        assert {path.name for path in tmp_path.glob("checkpoint-*")} == {f"checkpoint-{step}" for step in (1, 2, 4, 5)}

    def test_rates_rise_then_fall(self, tmp_path: Path) -> None:
        finish(tmp_path, **QUICK, steps=5, warmup_ratio=0.4, learning_rate=0.01, save_steps=100)
        rates = [row["learning_rate"] for row in log_of(tmp_path) if "loss" in row]
        assert rates == pytest.approx([0.005, 0.01, 0.01, 0.0075, 0.0025], abs=1e-6)


def test_the_rate_follows_the_time_where_that_is_ahead_of_the_steps() -> None:
    assert lr_factor(10, 100, 0.0, 0.5) == pytest.approx(0.5)
    assert lr_factor(75, 100, 0.0, 0.5) == lr_factor(75, 100, 0.0)
    assert lr_factor(10, 100, 0.0, 1.7) == pytest.approx(0, abs=1e-12)
    assert lr_factor(0, 100, 0.1, 0.9) == pytest.approx(0.1)  # a warm-up takes its steps


class TestMinutes:
    """A run that ends by the clock: one second a step."""

    @pytest.fixture(autouse=True)
    def _clock(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(trainer_module.time, "monotonic", lambda: self.now)
        step = GroundingTrainer.training_step

        def timed(trainer: GroundingTrainer, *args: Any, **kwargs: Any) -> Any:
            self.now += 1.0
            return step(trainer, *args, **kwargs)

        monkeypatch.setattr(GroundingTrainer, "training_step", timed)

    def test_the_run_ends_when_they_are_over_as_if_all_steps_were_done(self, tmp_path: Path) -> None:
        metrics = finish(
            tmp_path, **QUICK, steps=100, minutes=4 / 60, warmup_ratio=0.0, learning_rate=0.01, save_steps=100
        )
        rows = [row for row in log_of(tmp_path) if "loss" in row]
        assert [row["step"] for row in rows] == [1, 2, 3, 4]
        assert [row["learning_rate"] for row in rows] == sorted((row["learning_rate"] for row in rows), reverse=True)
        assert rows[-1]["learning_rate"] < 0.002
        assert metrics
        assert (tmp_path / "last" / "model.safetensors").is_file()

    def test_a_resumed_run_has_what_was_left(self, tmp_path: Path) -> None:
        finish(tmp_path, **QUICK, steps=2, minutes=4 / 60, save_steps=2)
        finish(tmp_path, **QUICK, steps=100, minutes=4 / 60, save_steps=2)
        assert max(row["step"] for row in log_of(tmp_path)) == 4

    def test_a_checkpoint_that_does_not_say_how_long_it_took_is_refused(self, tmp_path: Path) -> None:
        finish(tmp_path, **QUICK, steps=2, minutes=4 / 60, save_steps=2)
        for name in ("contents.json", "seconds.json"):  # as an earlier version left it
            (tmp_path / "checkpoint-2" / name).unlink()
        with pytest.raises(CheckpointError, match=r"does not say in seconds\.json how long the run had taken"):
            finish(tmp_path, **QUICK, steps=100, minutes=4 / 60, save_steps=2)


def test_the_rate_rises_then_falls_along_a_cosine_to_zero() -> None:
    factors = [lr_factor(step, 100, 0.1) for step in range(101)]
    assert factors[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert factors[10] == 1
    assert factors[55] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0, abs=1e-12)
    assert all(later <= earlier for earlier, later in pairwise(factors[10:]))
    assert lr_factor(0, 4, 0.0) == 1
    assert all(np.isfinite(lr_factor(step, 1, 1.0)) for step in range(3))


class Watching(TrainerCallback):
    """Weights after each step, and the gradient's norm before each."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.norms: list[float] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        grads = [one.grad.norm() for one in kwargs["model"].parameters() if one.grad is not None]
        self.norms.append(float(torch.stack(grads).norm()) if grads else 0.0)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.weights.append({name: one.detach().clone() for name, one in kwargs["model"].named_parameters()})


class TestGradients:
    @pytest.mark.parametrize("clip", [1.0, 0.0])
    def test_a_step_whose_gradient_is_not_finite_is_left_out(
        self, clip: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        honest, asked = TrainingModule.forward, [0]

        def exploding(training_module: TrainingModule, *arguments: Any) -> dict[str, Tensor]:
            losses = honest(training_module, *arguments)
            asked[0] += 1
            return losses if asked[0] != 2 else {**losses, "loss": losses["loss"] * float("inf")}

        monkeypatch.setattr(TrainingModule, "forward", exploding)
        watching = Watching()
        with caplog.at_level(logging.WARNING, logger="llava_grounding"):
            finish_with(watching, tmp_path, **QUICK, steps=3, save_steps=100, max_grad_norm=clip)
        assert caplog.text.count("a step was left out: its gradient was not finite") == 1
        one, two, three = watching.weights
        assert differences(one, two) == []
        assert differences(two, three)
        assert all(bool(torch.isfinite(value).all()) for value in three.values())

    @pytest.mark.parametrize(("clip", "norms"), [(1e-3, (0.0, 1.01e-3)), (0.0, (1.0, np.inf))])
    def test_they_are_cut_to_the_largest_norm_or_left_alone(
        self, clip: float, norms: tuple[float, float], tmp_path: Path
    ) -> None:
        watching = Watching()
        finish_with(watching, tmp_path, **QUICK, steps=1, max_grad_norm=clip)
        assert norms[0] < watching.norms[0] < norms[1]
        assert log_of(tmp_path)[0]["grad_norm"] > 1.0

    def test_recomputed_activations_change_none(self, tmp_path: Path) -> None:
        found = []
        for again in (False, True):
            setup = training_setup(tmp_path, flavour="official", stage="grounded_chat", gradient_checkpointing=again)
            if again:
                part = setup.model.language_model  # the lowest transformers has the second name only
                name = "activation_checkpointing_enable"
                getattr(part, name, part.gradient_checkpointing_enable)({"use_reentrant": False})
            torch.manual_seed(0)
            setup.training_module.train()(setup.stream().batch(0).batch)["loss"].backward()
            found.append(
                {name: one.grad for name, one in setup.training_module.named_parameters() if one.grad is not None}
            )
        assert found[0].keys() == found[1].keys()
        for name, value in found[0].items():
            torch.testing.assert_close(found[1][name], value, msg=name)

    def test_a_run_that_recomputes_activations_is_the_run_that_does_not(self, tmp_path: Path) -> None:
        setups = [
            finish(tmp_path / str(again), steps=1, num_points=16, gradient_checkpointing=again)[0]
            for again in (False, True)
        ]
        first, second = (weights(setup) for setup in setups)
        assert all(torch.allclose(value, second[name], atol=1e-5) for name, value in first.items())


class Breaking(Listed):
    """Some of its samples cannot be read."""

    name = "old photos"

    def __init__(self, samples: Sequence[Sample], broken: set[int]) -> None:
        super().__init__(samples)
        self.broken = broken

    def sample(self, number: int, rng: np.random.Generator) -> Sample:
        if number in self.broken:
            raise DataError(f"photo {number} is torn")
        return self.samples[number]


class TestBrokenSamples:
    @pytest.mark.parametrize("workers", [0, 1])
    def test_one_is_passed_over_and_named_once(
        self, workers: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        source = Breaking(four_samples(), {2})
        with caplog.at_level(logging.WARNING, logger="llava_grounding"):
            finish(tmp_path, source=source, stage="pretrain_grounder", workers=workers, max_skipped_samples=1)
        assert caplog.text.count("left out number 2 of old photos: photo 2 is torn") == 1

    @pytest.mark.parametrize("workers", [0, 1])
    def test_too_many_stop_the_run_and_so_does_a_source_of_nothing_else(self, workers: int, tmp_path: Path) -> None:
        values = {**QUICK, "batch_size": 4, "workers": workers}
        with pytest.raises(DataError, match="2 samples could not be read, more than the 1 of `max_skipped_samples`; "):
            finish(tmp_path / "many", source=Breaking(four_samples(), {1, 2}), **values, max_skipped_samples=1)
        with pytest.raises(DataError) as caught:
            finish(tmp_path / "all", source=Breaking(four_samples(), {0, 1, 2, 3}), **values)
        assert str(caught.value).startswith("100 samples of old photos in a row could not be used: photo ")
        assert "\n" not in str(caught.value)


class TestTheBest:
    def best(self, folder: Path, rows: list[dict[str, float]], metric: str | None = None) -> dict[str, float]:
        """The row that was saved last."""
        saved: list[dict[str, float]] = []
        kept = BestCheckpoint(folder, metric, lambda place, values: saved.append(dict(values)))
        for row in rows:
            kept.on_evaluate(*NOBODY, {f"eval_{name}": value for name, value in row.items()})
        return saved[-1]

    def test_is_by_phrases_before_classes_unless_told(self, tmp_path: Path) -> None:
        rows = [
            {"class_f1": 0.1, "phrase_f1": 0.9, "language_loss": 3.0},
            {"class_f1": 0.3, "phrase_f1": 0.2, "language_loss": 4.0},
            {"class_f1": 0.2, "phrase_f1": 0.3, "language_loss": 2.0},
        ]
        assert self.best(tmp_path, rows) == rows[0]
        assert self.best(tmp_path, rows, "class_f1") == rows[1]
        assert self.best(tmp_path, rows, "language_loss") == rows[2]

    def test_a_number_that_is_none_is_never_the_best(self, tmp_path: Path) -> None:
        nothing, some = {"language_loss": math.nan}, {"language_loss": 4.0}
        assert self.best(tmp_path, [nothing, some]) == some
        assert self.best(tmp_path, [some, nothing], "language_loss") == some
        with pytest.raises(IndexError):  # nothing was kept
            self.best(tmp_path, [nothing, nothing])

    def test_a_number_the_validation_lacks_ends_the_run_with_those_it_has(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            self.best(tmp_path, [{"class_f1": 0.1, "class_threshold": 0.5}], "phrase_f1")
        assert str(caught.value) == (
            "`metric` must be a number of the validation, which are class_f1, class_threshold; got `phrase_f1`"
        )


class Throwing(TrainerCallback):
    """Draws a random number once a step."""

    def __init__(self) -> None:
        self.thrown: list[tuple[float, float]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.thrown.append((float(torch.rand(())), random.random()))


def test_a_step_has_the_same_seed_whatever_happened_before_it(tmp_path: Path) -> None:
    first, second = Throwing(), Throwing()
    finish_with(first, tmp_path, **QUICK, steps=1)
    finish_with(second, tmp_path, **QUICK, steps=2)
    again = Throwing()
    torch.manual_seed(7)
    finish_with(again, tmp_path / "again", **QUICK, steps=2)
    assert again.thrown == first.thrown + second.thrown
    assert again.thrown[0] != again.thrown[1]
