"""What the model in training says and marks: answers to held-out questions, drawn at every validation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from transformers import TrainerCallback

from llava_grounding.data.sample import Sample, Turn
from llava_grounding.inference.conversation import Conversation
from llava_grounding.inference.runtime import Runtime
from llava_grounding.processing.processor import LlavaGroundingProcessor
from llava_grounding.structures import GroundedAnswer
from llava_grounding.train.checkpoint import remove

if TYPE_CHECKING:
    from llava_grounding.train.trainer import GroundingTrainer

logger = logging.getLogger(__name__)
_MAX_NEW_TOKENS = 128


class AnswerImages(TrainerCallback):
    """Draws answers after each validation.

    Args:
        folder: one folder a validation, by step.
        samples: whose first question is asked.
    """

    def __init__(
        self, folder: Path, samples: Sequence[Sample], processor: LlavaGroundingProcessor, trainer: GroundingTrainer
    ) -> None:
        self.folder, self.processor, self.trainer = folder, processor, trainer
        self.samples = [sample for sample in samples if sample.turns]

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask, draw, and say where the drawings are."""
        if self.trainer.recipe.sharding in ("fsdp", "zero3"):
            return  # no process has the whole model
        place = self.folder / f"step_{state.global_step:07d}"
        remove(place)
        place.mkdir(parents=True)
        lines = []
        for number, sample in enumerate(self.samples):
            turn = sample.turns[0]
            try:
                answer = self._answer(sample, turn)
                answer.draw().save(place / f"{number}.png")
            except Exception as error:  # noqa: BLE001  a model this young may say anything, and no picture is worth a run
                lines.append(f"{number}  {turn.question}\n   failed: {error}\n")
                continue
            lines.append(f"{number}  {turn.question}\n   said:  {answer.text}\n   right: {turn.answer}\n")
        (place / "answers.txt").write_text("".join(lines), encoding="utf-8")
        logger.info("%d answers drawn in %s", len(self.samples), place)

    def _answer(self, sample: Sample, turn: Turn) -> GroundedAnswer:
        runtime = Runtime(self.trainer.training_module.model.eval(), self.processor)
        image = runtime.encode_images([Image.fromarray(sample.image)])[0]
        talk = Conversation(runtime, image, "in training")
        return talk.ask(turn.question, turn.prompts, grounded=turn.grounded, max_new_tokens=_MAX_NEW_TOKENS)
