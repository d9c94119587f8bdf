"""Makes the Auto classes of transformers know the model.

Imports neither transformers nor torch by itself: `import llava_grounding` stays quick.
"""

from __future__ import annotations

import sys
from importlib import import_module

# Those whose users are about to load a model or processor, and pay for torch anyway.
_AUTO = tuple(f"transformers.models.auto.{name}" for name in ("modeling_auto", "processing_auto"))
# Each registers its classes at its end.
_OURS = ("llava_grounding.model.llava_grounding", "llava_grounding.processing.processor")


def register() -> None:
    """Let `AutoConfig`, `AutoModel...`, `AutoProcessor` and `pipeline` find our classes; a second time does nothing.

    Importing `LlavaGroundingForConditionalGeneration` and `LlavaGroundingProcessor` does the same.
    """
    for name in _OURS:
        import_module(name)


def register_if_loaded() -> None:
    """Register at once where somebody has loaded the Auto classes of models or processors already.

    For programs that import transformers first; in any other order `register()` says it.
    """
    if any(name in sys.modules for name in _AUTO):
        register()
