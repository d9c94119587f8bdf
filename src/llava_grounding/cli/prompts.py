"""Clicks, boxes, scribbles and masks from the command line or a dialogue, in the order they were given."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand

from llava_grounding.errors import PromptError, UsageError, quoted

if TYPE_CHECKING:
    from llava_grounding.image_files import ImageLimits
    from llava_grounding.structures import VisualPrompt

PROMPT_OPTIONS = ("click", "box", "scribble", "mask")
_ORDER = "llava_grounding.prompt_order"
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)")
_AROUND_COMMA = re.compile(r"\s*,\s*")
_EXAMPLES = {
    "click": "X,Y as in `120,80`",
    "box": "X0,Y0,X1,Y1 as in `10,20,90,200`",
    "scribble": 'points "x,y x,y ..." as in `"10,10 40,35 80,30"`',
}


class InOrder(TyperCommand):
    """A command that remembers in which order its prompt options came, across kinds.

    Each kind arrives as a list of its own; the k-th `<region>` of the question means the k-th on the command line.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the order first, then parse as usual."""
        if not ctx.resilient_parsing:
            *_, parameters = self.make_parser(ctx).parse_args(args=list(args))
            ctx.meta[_ORDER] = [parameter.name for parameter in parameters if parameter.name in PROMPT_OPTIONS]
        return super().parse_args(ctx, args)


def prompts_in_order(
    meta: Mapping[str, Any], values: Mapping[str, Sequence[str]], limits: ImageLimits | None = None
) -> list[VisualPrompt]:
    """The prompts as given, from the order an `InOrder` command kept and the values of each kind."""
    left = {kind: list(given) for kind, given in values.items()}
    return [read_prompt(kind, left[kind].pop(0), f"--{kind}", limits) for kind in meta[_ORDER]]


def read_prompt(kind: str, value: str, said: str, limits: ImageLimits | None = None) -> VisualPrompt:
    """One prompt from its text; `said` is what the user called it, `limits` are of the file of a mask.

    Raises:
        UsageError: if the text does not have the form of its kind.
        ImageError: if the file of a mask cannot be read.
    """
    from llava_grounding.structures import VisualPrompt

    if kind == "mask":
        from llava_grounding.image_files import DEFAULT_LIMITS, load_mask

        return VisualPrompt.mask_of(load_mask(value, limits or DEFAULT_LIMITS))
    joined = _AROUND_COMMA.sub(",", value.strip())
    points = [_numbers(part) for part in (joined.split() if kind == "scribble" else [joined])]
    wanted = 4 if kind == "box" else 2
    if not points or any(point is None or len(point) != wanted for point in points):
        raise UsageError(f"{said} must be {_EXAMPLES[kind]}, in pixels, got {quoted(value)}")
    if kind == "scribble":
        return VisualPrompt.scribble([(x, y) for x, y in filter(None, points)])
    numbers = points[0] or []
    return VisualPrompt.box(*numbers) if kind == "box" else VisualPrompt.click(*numbers)


def check_prompts(question: str, prompts: Sequence[VisualPrompt], image_size_wh: tuple[int, int]) -> None:
    """Refuse what does not fit before the model is loaded.

    Raises:
        PromptError: if a prompt is outside the image, or there is not one `<region>` per prompt.
    """
    from llava_grounding.markup import REGION
    from llava_grounding.processing.conversation import check_question

    if prompts and question.strip() and REGION not in question:
        given = f"{len(prompts)} region prompt{'s' * (len(prompts) != 1)}"
        raise PromptError(
            f'the question has no {REGION} for the {given} given; write it where it is meant, as in "What is {REGION}?"'
        )
    check_question(question, len(prompts))
    for number, prompt in enumerate(prompts, start=1):
        try:
            prompt.validate(image_size_wh)
        except PromptError as error:
            raise PromptError(f"region {number}: {error}") from None


def _numbers(text: str) -> list[float] | None:
    parts = [part.strip() for part in text.split(",")]
    return [float(part) for part in parts] if all(map(_NUMBER.fullmatch, parts)) else None
