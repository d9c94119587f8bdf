"""The chat template: a dialogue to pieces of text, and which of them count in the loss.

Pure strings. `(with grounding)` at the end of a question is how the model knows that boxes are wanted.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from llava_grounding.errors import ConfigError, PromptError, shown
from llava_grounding.markup import REGION, SPECIAL_TOKENS, format_markup
from llava_grounding.processing.tokens import IMAGE
from llava_grounding.structures import Message

GROUNDING_SUFFIX = " (with grounding)"
MAX_PHRASES = 10_000
"""Phrases that one call finds at most."""
PieceKind = Literal["begin", "image", "question", "answer", "whole"]
_REFERRING_QUESTION = "Find {}."
_HALF = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class PromptPiece:
    """A stretch of the prompt."""

    text: str
    kind: PieceKind
    """`image`, `question`, `answer`; `begin` and `whole` occur in dialogues of converted checkpoints."""
    num_regions: int = 0
    """How many `<region>` of it are placeholders."""
    in_loss: bool = False
    """The language model's loss counts it."""


@dataclass(frozen=True)
class ChatTemplate:
    """How turns are written; defaults: the layout of Vicuna 1.1 that LLaVA uses, without its system sentence."""

    system: str = ""
    user: str = "USER: "
    assistant: str = " ASSISTANT:"
    answer_prefix: str = " "
    image: str = f"{IMAGE}\n"
    begin: bool = False
    """The token that begins a text stands before everything; the original has it."""

    def __post_init__(self) -> None:
        if not isinstance(self.begin, bool):
            raise ConfigError(f"template.begin must be true or false, got {self.begin!r:.80}")
        for name, text in [(name, text) for name, text in vars(self).items() if name != "begin"]:
            if not isinstance(text, str):
                raise ConfigError(f"template.{name} must be a text, got {text!r:.80}")
        if self.image.count(IMAGE) != 1 or not self.assistant:
            raise ConfigError(f"template.image must have {IMAGE} once, and template.assistant must not be empty")

    def question(self, text: str, num_regions: int, grounded: bool, first: bool) -> list[PromptPiece]:
        """The pieces of one question, up to where the answer begins."""
        before = (f"{self.system} " if first and self.system else "") + self.user
        after = text.strip() + (GROUNDING_SUFFIX if grounded else "") + self.assistant
        if not first:
            return [PromptPiece(before + after, "question", num_regions)]
        image, _, rest = self.image.partition(IMAGE)
        return [
            *([PromptPiece("", "begin")] if self.begin else []),
            PromptPiece(before + image, "question"),
            PromptPiece(IMAGE, "image"),
            PromptPiece(rest + after, "question", num_regions),
        ]

    def answer(self, raw: str, in_loss: bool = True) -> PromptPiece:
        """The piece of one answer; the end token follows it."""
        return PromptPiece(self.answer_prefix + raw, "answer", in_loss=in_loss)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file."""
        return asdict(self)


def check_question(text: str, num_prompts: int) -> None:
    """Refuse a question that cannot be asked.

    Raises:
        PromptError: if it is empty or no text, or has not one `<region>` per prompt.
    """
    check_words(text)
    placeholders = text.count(REGION)
    if placeholders != num_prompts:
        raise PromptError(
            f"the question must have one {REGION} per region prompt, "
            f"got {_counted(placeholders, 'placeholder')} for {_counted(num_prompts, 'prompt')}"
        )


def check_words(text: str) -> None:
    """Refuse a question that is empty or no text.

    Raises:
        PromptError: if so.
    """
    if not text.strip():
        raise PromptError("the question must not be empty")
    check_characters(text)


def check_characters(text: str) -> None:
    """Refuse halves of a surrogate pair, which a program makes of bytes that are no text; tokenizers fail on them.

    Raises:
        PromptError: if there is one.
    """
    half = _HALF.search(text)
    if half is not None:
        raise PromptError(f"text must be valid Unicode, got half of a surrogate pair at character {half.start()}")


def referring_turn(phrase: str) -> tuple[Message, Message]:
    """The question and answer that do nothing but name a phrase, worded as in training; the answer has one `<seg>`.

    Raises:
        PromptError: if there is no word in it, or it holds special tokens.
    """
    phrase = phrase.strip()
    if not phrase:
        raise PromptError("a phrase to ground must not be empty")
    check_characters(phrase)
    found = next((token for token in SPECIAL_TOKENS if token in phrase), None)
    if found is not None:
        raise PromptError(f"a phrase to ground must hold no special tokens, got `{found}` in {shown(phrase)}")
    said = phrase[0].upper() + phrase[1:]
    answer = format_markup(f"{said}.", [(0, len(said))])
    return Message("user", _REFERRING_QUESTION.format(phrase)), Message("assistant", answer)


def dialogue_pieces(
    template: ChatTemplate,
    messages: Sequence[Message],
    grounded: Sequence[bool],
    in_loss: Sequence[bool] | None = None,
) -> list[PromptPiece]:
    """The pieces of a whole dialogue: user and assistant in turn, beginning with the user.

    Args:
        grounded: per question, whether the answer shall be grounded.
        in_loss: per question, whether its answer counts in the loss; None: all do.

    Raises:
        PromptError: if roles do not alternate, or a question cannot be asked.
    """
    check_roles(messages)
    pieces: list[PromptPiece] = []
    for index, message in enumerate(messages):
        if message.role == "user":
            check_question(message.text, len(message.prompts))
            pieces += template.question(message.text, len(message.prompts), grounded[index // 2], first=index == 0)
        else:
            pieces.append(template.answer(message.text, in_loss is None or in_loss[index // 2]))
    return pieces


def check_roles(messages: Sequence[Message]) -> None:
    """Refuse a dialogue in which user and assistant do not take turns, or whose answers are no text.

    Raises:
        PromptError: if so.
    """
    for index, message in enumerate(messages):
        expected = "user" if index % 2 == 0 else "assistant"
        if message.role != expected:
            raise PromptError(f"message {index} must be from the {expected}, got `{message.role}`")
        if expected == "assistant":
            check_characters(message.text)


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"
