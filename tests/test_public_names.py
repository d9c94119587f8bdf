"""What `import llava_grounding` offers, and what it costs."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import llava_grounding

NAMES = {
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
    "register",
    "__version__",
}


def test_the_public_names_are_what_we_mean() -> None:
    assert set(llava_grounding.__all__) == NAMES
    assert set(dir(llava_grounding)) >= NAMES


@pytest.mark.parametrize("name", sorted(NAMES - {"__version__"}))
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(llava_grounding, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'llava_grounding' has no attribute 'GroundedChats'"):
        _ = llava_grounding.GroundedChats


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, llava_grounding\n"
        "heavy = {'torch', 'transformers', 'numpy', 'PIL', 'scipy', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from llava_grounding import VisualPrompt, GroundedAnswer\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    source = Path(llava_grounding.__file__).parents[1]
    subprocess.run([sys.executable, "-c", code], check=True, cwd=source)


def test_the_package_is_built_with_the_version_it_states() -> None:
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["hatch"]["version"]["path"] == "src/llava_grounding/__init__.py"
    assert re.fullmatch(r"\d+\.\d+\.\d+", llava_grounding.__version__)
