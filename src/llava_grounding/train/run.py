"""One stage from its recipe to its end: `train`. Puts the Trainer's arguments together and watches for stop signals."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers import TrainerCallback, TrainingArguments
from transformers.integrations import INTEGRATION_TO_CALLBACK

from llava_grounding.checkpoints import choose_device
from llava_grounding.errors import ConfigError, did_you_mean, missing_extra
from llava_grounding.train.answer_images import AnswerImages
from llava_grounding.train.autocast import use_bfloat16
from llava_grounding.train.batching.stream import Portion
from llava_grounding.train.callbacks import (
    BestCheckpoint,
    FiniteSteps,
    LogFile,
    RecipeIntervals,
    StepSeed,
    StopWhenAsked,
    TimeBudget,
)
from llava_grounding.train.checkpoint import last_checkpoint, require_whole
from llava_grounding.train.plan import parameter_groups, part_plans, plan_lines
from llava_grounding.train.recipe import Recipe, recipe_to_dict
from llava_grounding.train.resume import check_resumable, needed_files, steps_done
from llava_grounding.train.run_folder import LOG_FILE, RECIPE_FILE, held, write_recipe
from llava_grounding.train.trainer import GroundingTrainer
from llava_grounding.train.training_setup import TrainingSetup, build_training_setup
from llava_grounding.train.validation import Validation

logger = logging.getLogger(__name__)

_DEEPSPEED: dict[str, Any] = {
    "train_micro_batch_size_per_gpu": "auto",
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "bf16": {"enabled": "auto"},
    "zero_optimization": {"overlap_comm": True, "contiguous_gradients": True},
}


def train(recipe: Recipe, folder: Path, root: Path | None = None, device: str | None = None) -> dict[str, float]:
    """Run one stage, from its last checkpoint if there is one, alone or as one process of several (torchrun).

    Args:
        folder: where logs, checkpoints and results go: `best` and `last` are models to load.
        root: what relative paths of sources are relative to, and the photo pack; None reads LLAVA_GROUNDING_DATA.
        device: "cpu", "cuda" or "mps"; None takes a CUDA device if there is one, else the CPU.

    Returns:
        The last validation.

    Raises:
        UsageError: if the recipe asks for what is not there, or what does not fit together.
        DataError: if too many samples cannot be read.
    """
    if folder.exists() and os.environ.get("RANK", "0") == "0":
        with held(folder):  # so that a second run is refused before anything is loaded
            pass
    return run_stage(build_training_setup(recipe, folder, root, device), device)


def run_stage(setup: TrainingSetup, device: str | None = None) -> dict[str, float]:
    """Train a setup's model to the end of its recipe; see `train`."""
    arguments = training_arguments(setup.recipe, setup.folder, device)
    with held(setup.folder) if arguments.process_index == 0 else nullcontext():
        return _run(setup, arguments)


def _run(setup: TrainingSetup, arguments: TrainingArguments) -> dict[str, float]:
    recipe, folder = setup.recipe, setup.folder
    if arguments.process_index == 0:
        _write_recipe(recipe, folder)
        for line in plan_lines(part_plans(setup.model, setup.phrases, recipe), recipe, setup.plan.tasks):
            logger.info("%s", line)
    if arguments.device.type == "cpu" and not recipe.independent_turns:
        # The fused kernel is slow on its way back: 32 dialogues took 1.5 s a step with it, 1.1 s with plain products.
        # Of 16 images with seven turns each, twice as long in tokens, it takes 4.6 s of processor time, those 5.8 s.
        setup.model.language_model.set_attn_implementation("eager")
    if recipe.sharding == "fsdp":
        setup.training_module.lengthen_scalars()
    if recipe.gradient_checkpointing:
        # Whose method older versions of transformers have under its older name.
        name = "activation" if hasattr(setup.model, "activation_checkpointing_enable") else "gradient"
        getattr(setup.model, f"{name}_checkpointing_enable")({"use_reentrant": False})
    checkpoint = last_checkpoint(folder)
    if checkpoint is not None:
        require_whole(checkpoint, needed_files(checkpoint, sharded=recipe.sharding != "none"))
        if recipe.sharding == "none":
            check_resumable(checkpoint, parameter_groups(setup.training_module.named_parameters(), recipe))
    trainer = _trainer(setup, arguments, 0 if checkpoint is None else steps_done(checkpoint))
    with _stop_signals() as stopped:
        trainer.add_callback(StopWhenAsked(stopped))
        if checkpoint is not None:
            logger.info("resuming from %s", checkpoint.name)
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        # On every process, whichever of them was asked.
        if trainer.state.global_step < recipe.steps and not trainer.out_of_time:
            logger.info("stopped at step %d; the same command resumes from there", trainer.state.global_step)
            return {}
    metrics = {name.removeprefix("eval_"): value for name, value in _last_validation(trainer).items()}
    trainer.save_whole(folder / "last")
    return metrics


def _write_recipe(recipe: Recipe, folder: Path) -> None:
    """Keep every value, and say which are others than those of the steps already done."""
    values = recipe_to_dict(recipe)
    if last_checkpoint(folder) is not None:
        before = _kept_recipe(folder)
        for key, value in values.items():
            if key in before and before[key] != value:
                logger.warning("going on with another `%s`: %s, until now %s", key, value, before[key])
    elif recipe.start_from and (repeated := _repeated(values, _kept_recipe(Path(recipe.start_from).parent))):
        logger.warning(
            "`%s` was trained with seed %d as well, so samples of %s that it began with come first again; another seed "
            "orders and draws them anew",
            recipe.start_from,
            recipe.seed,
            ", ".join(repeated),
        )
    write_recipe(folder, json.dumps(values, indent=1) + "\n")


def _repeated(values: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """Names of the sources of a recipe whose samples come as in an earlier one, by seed and place among the sources."""
    earlier = before.get("data")
    if before.get("seed") != values["seed"] or not isinstance(earlier, list):
        return []
    pairs = zip(values["data"], earlier, strict=False)
    known = [(one, other) for one, other in pairs if isinstance(other, Mapping)]
    same = [one for one, other in known if one | {"weight": 0} == {**other, "weight": 0}]
    return [str(one.get("name", one["kind"])) for one in same]


def _kept_recipe(folder: Path) -> dict[str, Any]:
    """The recipe that a run kept in its folder; nothing where there is none, or it cannot be read."""
    try:
        return dict(json.loads((folder / RECIPE_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        return {}


def _trainer(setup: TrainingSetup, arguments: TrainingArguments, first_step: int) -> GroundingTrainer:
    recipe = setup.recipe
    rank, world = arguments.process_index, arguments.world_size
    # Where weights are shared, all processes must pass through the model together, so each looks at everything.
    looks = (0, 1) if recipe.sharding in ("fsdp", "zero3") else (rank, world)
    portion = Portion.of(recipe.batch_size, recipe.micro_batch_size, rank, world)
    arguments.gradient_accumulation_steps = portion.micro_batches
    validation = Validation(
        setup.held_out,
        setup.processor,
        chat="language" in setup.plan.tasks,
        batch_size=recipe.micro_batch_size or 16,
        rank=looks[0],
        world_size=looks[1],
        max_turns=recipe.max_turns,
        max_tokens=recipe.max_tokens,
    )
    trainer = GroundingTrainer(
        training_module=setup.training_module,
        processor=setup.processor,
        recipe=recipe,
        stream=setup.stream(first_step, portion),
        validation=validation,
        args=arguments,
        callbacks=[StepSeed(recipe.seed), RecipeIntervals(), FiniteSteps()],
        earlier_phrases=setup.earlier_phrases,
    )
    callbacks: list[TrainerCallback] = [
        LogFile(setup.folder / LOG_FILE, recipe.batch_size),
        BestCheckpoint(setup.folder, recipe.metric, trainer.save_whole),
    ]
    if recipe.minutes:
        callbacks.append(TimeBudget(lambda: trainer.out_of_time))
    if recipe.pictures and "language" in setup.plan.tasks and rank == 0:
        callbacks.append(
            AnswerImages(setup.folder / "pictures", setup.held_out[: recipe.pictures], setup.processor, trainer)
        )
    for callback in callbacks:
        trainer.add_callback(callback)
    return trainer


def training_arguments(recipe: Recipe, folder: Path, device: str | None = None) -> TrainingArguments:
    """The recipe in the Trainer's words.

    Raises:
        ConfigError: if it names a tracker that does not exist, or the device is not there.
        MissingExtraError: if the packages for training are not installed.
    """
    check_trackers(recipe.report_to)
    chosen = choose_device(device)
    if chosen.index:
        raise ConfigError(
            f"a run takes the first CUDA device that it sees: choose `{chosen}` by CUDA_VISIBLE_DEVICES={chosen.index} "
            f"and the device `cuda`"
        )
    values: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": recipe.steps,
        "per_device_train_batch_size": recipe.micro_batch_size or recipe.batch_size,
        "learning_rate": recipe.learning_rate,
        "max_grad_norm": recipe.max_grad_norm,
        "bf16": use_bfloat16(recipe.bf16, chosen),
        "logging_steps": recipe.logging_steps,
        "logging_nan_inf_filter": False,
        "save_strategy": "steps",
        "save_steps": recipe.save_steps,
        "eval_strategy": "steps",
        "eval_steps": recipe.eval_steps,
        "seed": recipe.seed,
        "ignore_data_skip": True,  # batches are made by their number
        "remove_unused_columns": False,
        "average_tokens_across_devices": False,  # the counts of a step are those of all devices already
        "ddp_find_unused_parameters": True,  # a step without phrases leaves the grounder's heads out
        "report_to": list(recipe.report_to) if recipe.report_to else "none",
        "disable_tqdm": not sys.stderr.isatty(),
        "use_cpu": chosen.type == "cpu",
        **_sharding_arguments(recipe.sharding),
    }
    try:
        arguments = TrainingArguments(**values)
    except ImportError as error:
        if recipe.sharding in ("zero2", "zero3") and find_spec("deepspeed") is None:
            raise missing_extra("deepspeed", f"`sharding` {recipe.sharding}") from error
        raise missing_extra("train", "training") from error
    if recipe.sharding == "fsdp" and arguments.fsdp_plugin_args is not None:
        # Autocast chooses what is computed in bfloat16, as without sharding: boxes and masks need their precision.
        arguments.fsdp_plugin_args["mixed_precision_policy"] = MixedPrecisionPolicy()
    if arguments.device.type != chosen.type:  # the Trainer's own choice, where a machine has devices of several kinds
        raise ConfigError(f"the run would be on `{arguments.device.type}` where `{chosen.type}` is meant")
    if arguments.device.type == "cuda":
        arguments._n_gpu = 1  # several devices are for several processes, never for torch's DataParallel
    return arguments


def _sharding_arguments(sharding: str) -> dict[str, Any]:
    """What the Trainer is told of how weights, gradients and optimizer states are spread over devices."""
    if sharding == "fsdp":
        config = {
            "version": 2,
            "state_dict_type": "FULL_STATE_DICT",
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        }
        return {"fsdp": True, "fsdp_config": config}
    if sharding in ("zero2", "zero3"):
        zero = {**_DEEPSPEED["zero_optimization"], "stage": int(sharding[-1])}
        if zero["stage"] == 3:
            zero["stage3_gather_16bit_weights_on_model_save"] = True
        return {"deepspeed": {**_DEEPSPEED, "zero_optimization": zero}}
    return {}


def check_trackers(names: Sequence[str]) -> None:
    """Before anything is loaded: they would be missed only then."""
    for name in names:
        if name not in INTEGRATION_TO_CALLBACK:
            raise ConfigError(f"`report_to` names no tracker: `{name}`{did_you_mean(name, INTEGRATION_TO_CALLBACK)}")
    if "tensorboard" in names and find_spec("tensorboard") is None:
        raise missing_extra("train", "`report_to` tensorboard")


def _last_validation(trainer: GroundingTrainer) -> dict[str, float]:
    """That of the last step; looked at now if it fell on no validation."""
    for row in reversed(trainer.state.log_history):
        if row["step"] != trainer.state.global_step:
            break
        found = {name: value for name, value in row.items() if name.startswith("eval_")}
        if found:
            return found
    return trainer.evaluate()


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Whether the process was asked to end; while inside, being asked does not end it."""
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        del frame
        asked.append(number)

    try:
        before = signal.signal(signal.SIGTERM, note)
    except ValueError:  # not in the main thread, which alone may
        yield lambda: False
        return
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGTERM, before)
