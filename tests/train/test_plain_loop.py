"""A run is nothing but steps: the Trainer's weights are those of a few lines of plain torch."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from small_training import training_setup
from torch import nn

from llava_grounding.train.plan import parameter_groups
from llava_grounding.train.run import run_stage
from llava_grounding.train.trainer import lr_factor


def plain_loop(folder: Path, **values: object) -> dict[str, torch.Tensor]:
    """Seed, losses, backward, clip, step: the whole of it."""
    setup = training_setup(folder, **values)
    recipe, training_module = setup.recipe, setup.training_module
    setup.model.language_model.set_attn_implementation("eager")
    optimizer = torch.optim.AdamW(
        parameter_groups(training_module.named_parameters(), recipe), betas=(0.9, recipe.beta2)
    )
    peaks = [group["lr"] for group in optimizer.param_groups]
    for step, delivery in enumerate(setup.stream()):
        seed = (1_000_003 * recipe.seed + step) % 2**32
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * lr_factor(step, recipe.steps, recipe.warmup_ratio)
        training_module.train()
        optimizer.zero_grad()
        training_module(delivery.batch)["loss"].backward()
        nn.utils.clip_grad_norm_(training_module.parameters(), recipe.max_grad_norm)
        optimizer.step()
    return training_module.state_dict()


@pytest.mark.parametrize("stage", ["pretrain_grounder", "chat", "visual_prompt"])
def test_the_trainer_does_what_a_plain_loop_does(stage: str, tmp_path: Path) -> None:
    values = {"stage": stage, "num_points": 16, "weight_decay": 0.1, "warmup_ratio": 0.5}
    setup = training_setup(tmp_path / "run", **values)
    run_stage(setup, "cpu")
    ours, plain = setup.training_module.state_dict(), plain_loop(tmp_path, **values)
    before = training_setup(tmp_path, **values).training_module.state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in ours.items())
    far = {name: float((value - plain[name]).abs().max()) for name, value in ours.items() if value.is_floating_point()}
    assert max(far.values()) <= 1e-6, max(far, key=far.__getitem__)
