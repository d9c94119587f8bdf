"""Makes the Auto classes of transformers know the model.

Imports neither transformers nor torch by itself: `import llava_grounding` stays quick.
"""

from __future__ import annotations

import sys
from importlib import import_module

_AUTO = "transformers.models.auto.configuration_auto"
# Each registers its classes at its end.
_OURS = ("llava_grounding.model.llava_grounding", "llava_grounding.processing.processor")


def register() -> None:
    """Let `AutoConfig`, `AutoModel...`, `AutoProcessor` and `pipeline` find our classes; a second time does nothing.

    Importing `LlavaGroundingForConditionalGeneration` and `LlavaGroundingProcessor` does the same.
    """
    for name in _OURS:
        import_module(name)


def register_if_loaded() -> None:
    """Register at once where somebody has loaded the Auto classes already: it costs next to nothing then."""
    if _AUTO in sys.modules:
        register()
