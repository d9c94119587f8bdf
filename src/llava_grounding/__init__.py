"""Grounded visual chat: answers whose noun phrases are tied to boxes and pixel masks.

Public names are imported when first used, so that `import llava_grounding` is quick and needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from llava_grounding.registration import register, register_if_loaded

if TYPE_CHECKING:
    from llava_grounding.errors import LlavaGroundingError
    from llava_grounding.inference.answering import TextDelta
    from llava_grounding.inference.conversation import AnswerDone, Conversation, RegionsFound
    from llava_grounding.inference.engine import GroundedChat, Question
    from llava_grounding.model.config import LlavaGroundingConfig
    from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
    from llava_grounding.processing.processor import LlavaGroundingProcessor
    from llava_grounding.structures import GroundedAnswer, GroundedPhrase, Message, Region, VisualPrompt

__version__ = "0.1.0"

_HOMES = {
    "AnswerDone": "inference.conversation",
    "Conversation": "inference.conversation",
    "GroundedAnswer": "structures",
    "GroundedChat": "inference.engine",
    "GroundedPhrase": "structures",
    "LlavaGroundingConfig": "model.config",
    "LlavaGroundingError": "errors",
    "LlavaGroundingForConditionalGeneration": "model.llava_grounding",
    "LlavaGroundingProcessor": "processing.processor",
    "Message": "structures",
    "Question": "inference.engine",
    "Region": "structures",
    "RegionsFound": "inference.conversation",
    "TextDelta": "inference.answering",
    "VisualPrompt": "structures",
}

__all__ = [
    "AnswerDone",
    "Conversation",
    "GroundedAnswer",
    "GroundedChat",
    "GroundedPhrase",
    "LlavaGroundingConfig",
    "LlavaGroundingError",
    "LlavaGroundingForConditionalGeneration",
    "LlavaGroundingProcessor",
    "Message",
    "Question",
    "Region",
    "RegionsFound",
    "TextDelta",
    "VisualPrompt",
    "__version__",
    "register",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


# So that `AutoProcessor`, `AutoModelForImageTextToText` and `pipeline` read our checkpoints.
register_if_loaded()
