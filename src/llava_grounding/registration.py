"""Makes the Auto classes of transformers know the model.

transformers has no entry point for that, so somebody has to say it. Imports neither transformers nor torch by itself:
`import llava_grounding` stays quick, and changes nothing of what was imported before or after it.
"""

from __future__ import annotations

from importlib import import_module

# Each registers its classes at its end.
_OURS = ("llava_grounding.model.llava_grounding", "llava_grounding.processing.processor")


def register() -> None:
    """Let `AutoConfig`, `AutoModel...`, `AutoProcessor` and `pipeline` find our classes; a second time does nothing.

    Importing `LlavaGroundingForConditionalGeneration` and `LlavaGroundingProcessor` does the same.
    """
    for name in _OURS:
        import_module(name)
