"""What a model was unsure of in a mask: handed out with a region, and read again when that region is pointed at."""

import numpy as np
import pytest
import torch

from llava_grounding.errors import ShapeError
from llava_grounding.geometry import Letterbox
from llava_grounding.inference.engine import GroundedChat
from llava_grounding.structures import GroundedAnswer, Message, Region, VisualPrompt
from tiny_model import picture, saying, tiny_chat

KINDS = pytest.mark.parametrize("kind", ["shared", "separate"])


def regions_of(chat: GroundedChat) -> tuple[Region, ...]:
    found = chat.ground(picture(), ["the red dog", "two white cats to the left", "it"])
    regions = tuple(region for phrase in found for region in phrase.regions)
    assert regions
    return regions


@KINDS
def test_the_logits_of_a_region_are_its_mask_before_it_was_brought_to_the_image(kind: str) -> None:
    chat = tiny_chat(kind)
    side = chat.processor.settings.canvas.size
    letterbox = Letterbox.fit(picture().size, (side, side))
    for region in regions_of(chat):
        assert region.mask_logits is not None
        assert (region.mask_logits.shape, region.mask_logits.dtype) == ((side // 4, side // 4), np.float32)
        np.testing.assert_array_equal(letterbox.mask_to_image(region.mask_logits[None])[0], region.mask)


@KINDS
def test_a_region_pointed_at_with_its_logits_is_read_as_it_was_found(kind: str) -> None:
    chat = tiny_chat(kind)
    region = regions_of(chat)[0]
    assert region.mask is not None
    assert region.mask_logits is not None
    image = chat.runtime.encode_images([picture()])[0]

    def read(logits: np.ndarray | None) -> torch.Tensor:
        message = Message("user", "What is <region>?", (VisualPrompt.mask_of(region.mask, logits),))
        return chat.runtime.embed(chat.processor.encode_question(message, False, True, image.letterbox), image)

    distance = (read(region.mask_logits) - read(None)).abs().max()
    assert distance > 1e-3
    assert (read(50 * region.mask_logits) - read(None)).abs().max() < distance  # the surer, the more like the bare mask
    prompt = VisualPrompt.mask_of(region.mask, region.mask_logits)
    assert chat.ask(picture(), "What is <region>?", [prompt], max_new_tokens=3).completion_tokens == 3


def test_the_json_of_an_answer_has_no_logits_and_reads_back_as_equal() -> None:
    chat = tiny_chat()
    with saying(chat, "<g_s> it <g_e> <seg>."):
        answer = chat.ask(picture(), "What?", score_threshold=0.0)
    regions = [region for phrase in answer.phrases for region in phrase.regions]
    again = GroundedAnswer.from_dict(answer.to_dict())
    assert again == answer
    assert regions
    assert all(region.mask_logits is not None for region in regions)
    assert all(region.mask_logits is None for phrase in again.phrases for region in phrase.regions)


def test_logits_of_a_region_are_two_axes_of_float32() -> None:
    with pytest.raises(ShapeError, match=r"^mask_logits must be \(h, w\) float32, got \(1, 2, 2\) float32$"):
        Region(np.zeros(4), 0.5, None, np.zeros((1, 2, 2), dtype=np.float32))
