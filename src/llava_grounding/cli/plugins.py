"""Installed packages that add to the registries: those with an entry point in the group `llava_grounding.plugins`.

Only what was installed is loaded; no file, recipe or request names a plug-in.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from llava_grounding.errors import UsageError, quoted

GROUP = "llava_grounding.plugins"


def load_plugins() -> None:
    """Import what each entry point names, and call it if it is a function: it registers readers, tasks and the like.

    Raises:
        UsageError: naming the plug-in that fails, and how.
    """
    for entry in entry_points(group=GROUP):
        try:
            loaded = entry.load()
            if callable(loaded):
                loaded()
        except Exception as error:  # whatever somebody else's package does
            whose = f" of {quoted(entry.dist.name)}" if entry.dist is not None else ""
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise UsageError(f"the plug-in {quoted(entry.name)}{whose} cannot be loaded: {reason}") from error
