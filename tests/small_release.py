"""The vocabulary of the recorded small release, and the processor a conversion of it gets."""

from __future__ import annotations

import json
import tempfile
from base64 import b64decode
from dataclasses import replace
from functools import cache
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from llava_grounding.convert.vocabulary import read_tokenizer
from llava_grounding.processing.conversation import ChatTemplate
from llava_grounding.processing.image import CanvasSettings
from llava_grounding.processing.processor import LlavaGroundingProcessor, ProcessorSettings

RECORDED = Path(__file__).parent / "golden" / "C_inference"
FIXTURE = json.loads((RECORDED / "tokenizer_fixture.json").read_text(encoding="utf-8"))
ROWS = 1403


@cache
def release_tokenizer() -> PreTrainedTokenizerFast:
    """As a conversion makes it of tokenizer.model and added_tokens.json."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "tokenizer.model").write_bytes(b64decode(FIXTURE["sentencepiece_model_base64"]))
        (folder / "added_tokens.json").write_text(json.dumps(FIXTURE["added_tokens"]), encoding="utf-8")
        (folder / "tokenizer_config.json").write_text(json.dumps(FIXTURE["tokenizer_config"]), encoding="utf-8")
        return read_tokenizer(folder, ROWS)


def release_processor(demo_quirks: bool = False) -> LlavaGroundingProcessor:
    """With the original's tokenisation and a short system sentence."""
    settings = ProcessorSettings(
        image_sequence_length=4,
        canvas=CanvasSettings(size=160),
        template=ChatTemplate(system="Be kind.", begin=True),
        tokenisation="sentencepiece",
    )
    return LlavaGroundingProcessor(release_tokenizer(), replace(settings, demo_quirks=demo_quirks))
