"""Makes the Auto classes of transformers know the model, whichever of the two packages is imported first.

Imports neither transformers nor torch itself: `import llava_grounding` stays quick, and the model is imported once
somebody loads the part of transformers that could ask for it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_AUTO = "transformers.models.auto.configuration_auto"
_WATCHED = ("transformers.", "llava_grounding.")
# Each registers its classes at its end.
_OURS = ("llava_grounding.model.llava_grounding", "llava_grounding.processing.processor")


def register_when_needed() -> None:
    """Register now if transformers has its Auto classes already, else at the end of the import that brings them."""
    if _AUTO in sys.modules:
        _register()
    elif not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())


def _register() -> None:
    for name in _OURS:
        import_module(name)


class _Watcher(MetaPathFinder):
    """Waits for the outermost import of a module of either package to end: inside one, half of both is not there yet.

    Finds no module of its own: it asks the other finders, and learns from the loader when a module is done.
    """

    def __init__(self) -> None:
        self._depth = threading.local()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """What the other finders find, with a loader that reports back."""
        if not fullname.startswith(_WATCHED):
            return None
        others = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, "find_spec")]
        for finder in others:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    self._watch(spec.loader, spec.loader.exec_module)
                return spec
        return None

    def _watch(self, loader: object, exec_module: Callable[[ModuleType], None]) -> None:
        def watched(module: ModuleType) -> None:
            self._depth.value = getattr(self._depth, "value", 0) + 1
            try:
                exec_module(module)
            finally:
                self._depth.value -= 1
            if self._depth.value == 0:
                self._outermost_done()

        # On the loader itself, which is made anew for every module: whoever asks it for sources still gets them.
        loader.exec_module = watched  # type: ignore[attr-defined]

    def _outermost_done(self) -> None:
        if _AUTO in sys.modules and self in sys.meta_path:
            sys.meta_path.remove(self)
            _register()
