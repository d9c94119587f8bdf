"""The Auto classes know our model once it is registered, and nothing else of the program is changed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import llava_grounding
from llava_grounding import registration

KNOWN = """
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
from transformers.models.auto.processing_auto import processor_class_from_name
config = AutoConfig.for_model("llava_grounding")
assert MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)].__name__ == "LlavaGroundingForConditionalGeneration"
assert processor_class_from_name("LlavaGroundingProcessor").__module__.startswith("llava_grounding.")
"""


def test_where_the_auto_classes_are_loaded_the_model_registers_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers.models.auto.processing_auto  # noqa: F401

    imported: list[str] = []
    monkeypatch.setattr(registration, "import_module", imported.append)
    registration.register_if_loaded()
    assert imported == ["llava_grounding.model.llava_grounding", "llava_grounding.processing.processor"]


@pytest.mark.slow
def test_the_auto_classes_know_the_model_and_no_module_loader_is_changed() -> None:
    before = "import sys; finders, hooks = list(sys.meta_path), list(sys.path_hooks)"
    after = "assert (sys.meta_path, sys.path_hooks) == (finders, hooks)"
    code = f"{before}\nimport llava_grounding\n{after}\nllava_grounding.register()\n{KNOWN}"
    source = str(Path(llava_grounding.__file__).parents[1])
    paths = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": paths})
