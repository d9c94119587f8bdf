"""Installed packages that add to the registries."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from fake_engine import FakeEngine, Result

from llava_grounding.cli import plugins
from llava_grounding.data.readers.labelme import Labelme
from llava_grounding.data.readers.registry import READERS
from tool_files import write_labelme

_PLUGIN = """
from llava_grounding.model.presets import PRESETS, register_preset

def register():
    register_preset("of_a_plugin", PRESETS["nano"])

def add_reader():
    from llava_grounding.data.readers.labelme import Labelme
    from llava_grounding.data.readers.registry import register_reader

    class Notes(Labelme):
        title = "notes of a plug-in"

        @classmethod
        def recognise(cls, path):
            return {"labels": path} if (path / "notes.txt").is_file() else None

    register_reader("notes", Notes)

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


def test_what_a_plug_in_reads_is_recognised_and_called_by_its_title(
    install: Callable[[str], None], call: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(READERS, "notes", Labelme)  # taken away again afterwards
    write_labelme(tmp_path / "photos")
    (tmp_path / "photos/notes.txt").touch()
    install("plugin_of_a_test:add_reader")
    result = call("data", tmp_path / "photos", "--quick")
    assert result.code == 0
    assert result.out.startswith(f"{tmp_path}/photos: notes of a plug-in (`kind: notes`)\n")
    assert "- {kind: notes, labels: " in result.out


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
