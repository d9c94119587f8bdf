"""The Auto classes know our model once it is registered, and nothing else of the program is changed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import llava_grounding

KNOWN = """
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.models.auto.processing_auto import processor_class_from_name
config = AutoConfig.for_model("llava_grounding")
assert MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)].__name__ == "LlavaGroundingForConditionalGeneration"
assert processor_class_from_name("LlavaGroundingProcessor").__module__.startswith("llava_grounding.")
"""


UNKNOWN = """
assert "llava_grounding" not in transformers.models.auto.configuration_auto.CONFIG_MAPPING
assert not {name for name in sys.modules if name.startswith(("llava_grounding.model", "llava_grounding.processing"))}
"""


@pytest.mark.slow
def test_importing_the_package_registers_nothing_whatever_was_imported_before() -> None:
    run("import sys, transformers.models.auto.configuration_auto, llava_grounding", UNKNOWN)


@pytest.mark.slow
def test_the_auto_classes_know_the_model_and_no_module_loader_is_changed() -> None:
    before = "import sys; finders, hooks = list(sys.meta_path), list(sys.path_hooks)"
    after = "assert (sys.meta_path, sys.path_hooks) == (finders, hooks)"
    run(before, "import llava_grounding", after, "llava_grounding.register()", KNOWN)


def run(*code: str) -> None:
    """Run code by itself."""
    source = str(Path(llava_grounding.__file__).parents[1])
    paths = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths}
    subprocess.run([sys.executable, "-c", "\n".join(code)], check=True, env=environment)
