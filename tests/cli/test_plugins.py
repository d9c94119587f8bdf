"""Installed packages that add to the registries."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from fake_engine import FakeEngine, Result

from llava_grounding.cli import plugins

_PLUGIN = """
from llava_grounding.model.presets import PRESETS, register_preset

def register():
    register_preset("of_a_plugin", PRESETS["nano"])

def fail():
    raise RuntimeError("no such  thing")
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Have a package installed whose entry point is this."""
    (tmp_path / "plugin_of_a_test.py").write_text(_PLUGIN, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)

    def install(value: str) -> None:
        entry = EntryPoint("mine", value, plugins.GROUP)
        monkeypatch.setattr(plugins, "entry_points", lambda group: [entry] if group == plugins.GROUP else [])

    return install


def test_commands_know_what_an_installed_package_registers(
    install: Callable[[str], None],
    call: Callable[..., Result],
    engine: FakeEngine,
    photo: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from llava_grounding.model.presets import PRESETS

    monkeypatch.delitem(PRESETS, "of_a_plugin", raising=False)
    install("plugin_of_a_test:register")
    assert call("ground", photo, "a disc").code == 0
    assert PRESETS.pop("of_a_plugin") == PRESETS["nano"]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("plugin_of_a_test:fail", "RuntimeError: no such thing"),
        ("plugin_of_a_test:nothing", "AttributeError: "),
        ("no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_one_that_fails_is_named(
    install: Callable[[str], None], call: Callable[..., Result], photo: Path, value: str, reason: str
) -> None:
    install(value)
    result = call("ground", photo, "a disc")
    assert result.code == 2
    assert result.err.startswith(f"Error: the plug-in `mine` cannot be loaded: {reason}")
    assert result.err.count("\n") == 1
