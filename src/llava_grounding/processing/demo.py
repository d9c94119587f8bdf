"""Dialogues written as the original's demo writes them, faults included; only to compare answers with the original's.

No end token stands between turns, so a question is glued to the answer before it. Every percent sign with a blank
before it is a place for a region, and the first prompt of the last question goes to all of them.
"""

from collections.abc import Sequence

from llava_grounding.markup import REGION
from llava_grounding.processing.conversation import ChatTemplate, PromptPiece, check_roles, check_words
from llava_grounding.processing.tokens import IMAGE
from llava_grounding.structures import Message, VisualPrompt

_REGION_IN_DATA = "<obj>"  # what the original's data has instead of `<region>`


def demo_pieces(template: ChatTemplate, messages: Sequence[Message], grounded: Sequence[bool]) -> list[PromptPiece]:
    """The pieces of a dialogue; everything behind the image is one, of the kind `whole`.

    Raises:
        PromptError: if roles do not alternate, or a text is empty or no text.
    """
    check_roles(messages)
    before = template.question("", 0, False, first=True)
    text = template.image.partition(IMAGE)[2]
    for index, message in enumerate(messages):
        if index % 2:
            text += template.answer(message.text).text
            continue
        check_words(message.text)
        question = message.text.replace(_REGION_IN_DATA, "% ").replace(REGION, "%")
        [piece] = template.question(question, 0, grounded[index // 2], first=False)
        text += piece.text.removeprefix(template.user) if index == 0 else piece.text
    return [*before[:-1], PromptPiece(text, "whole")]


def demo_prompts(messages: Sequence[Message]) -> tuple[VisualPrompt, ...]:
    """The one prompt the demo knows: the first of the last question."""
    questions = [message for message in messages if message.role == "user"]
    return questions[-1].prompts[:1] if questions else ()
