"""`llava-grounding ground IMAGE PHRASE…`: where the things named are, without chat."""

from __future__ import annotations

from typing import Annotated

import typer

from llava_grounding.cli import common
from llava_grounding.cli.common import (
    ANSWER_FILES,
    DeviceOption,
    ImageArgument,
    JsonOption,
    MegapixelsOption,
    ModelOption,
    OutOption,
    ThresholdOption,
)
from llava_grounding.cli.outputs import check_out, write_files
from llava_grounding.cli.report import phrase_lines, say


def ground(
    image: ImageArgument,
    phrases: Annotated[
        list[str], typer.Argument(metavar="PHRASE...", help='What to find, as in "the red bus" people.')
    ],
    model: ModelOption = None,
    device: DeviceOption = None,
    threshold: ThresholdOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
    max_megapixels: MegapixelsOption = None,
) -> None:
    """Find what each phrase names in an image."""
    from llava_grounding.image_files import load_image
    from llava_grounding.processing.conversation import referring_turn
    from llava_grounding.processing.found_phrases import as_answer

    check_out(out, ANSWER_FILES, [("image", image)])
    for phrase in phrases:
        referring_turn(phrase)  # refuses an empty one, or one with special tokens, before the model is loaded
    limits = common.image_limits(max_megapixels)
    picture = load_image(image, limits)
    with common.clean_stdout(as_json):
        engine = common.load_engine(model, device, limits)
        answer = as_answer(picture, engine.ground(picture, phrases, threshold), engine.name)
        if out is not None:
            write_files(out, common.answer_files(picture, answer))
    if as_json:
        common.print_json(common.answer_json(answer))
        return
    for line in phrase_lines(answer):
        say(f"{line}\n")
