"""What programs outside may use and nothing in the package does; vulture reads this file as their user."""

from __future__ import annotations

import llava_grounding
from llava_grounding.benchmark.chat_scores import ChatScores
from llava_grounding.benchmark.classification import Classification
from llava_grounding.benchmark.generalized_referring import GeneralizedReferring
from llava_grounding.benchmark.grounded_captions import GroundedCaptions
from llava_grounding.benchmark.grounding_bench import GroundingBench
from llava_grounding.benchmark.marks import Marks
from llava_grounding.benchmark.phrase_grounding import PhraseGrounding
from llava_grounding.benchmark.predictions import prediction_from
from llava_grounding.benchmark.published import LEDGER
from llava_grounding.benchmark.referring import Referring
from llava_grounding.benchmark.tasks import TASKS, register_task
from llava_grounding.benchmark.yes_no import Pope, SpatialStatements
from llava_grounding.cli.mcp import mcp
from llava_grounding.convert.official_vision import (
    build_official_grounder,
    build_official_prompt_encoder,
    convert_grounder_state,
    convert_prompt_encoder_state,
)
from llava_grounding.convert.vision_files import openseed_state, semantic_sam_state
from llava_grounding.data.readers.grounded_texts import Ferret, Kosmos2, Osprey, Shikra
from llava_grounding.data.readers.gvc import RegionCaptions, write_gvc
from llava_grounding.data.readers.registry import READERS, register_reader
from llava_grounding.dialogues.templates import FAMILIES
from llava_grounding.model.presets import register_preset
from llava_grounding.train.batching.sources import open_source
from llava_grounding.train.recipe import recipe_of

# Registries name these by text, so that a task or a reader is imported only where it is used.
TASK_CLASSES = (
    *(ChatScores, Classification, GeneralizedReferring, GroundedCaptions, GroundingBench, Marks),
    *(PhraseGrounding, Pope, Referring, SpatialStatements),
)
READER_CLASSES = (Ferret, Kosmos2, Osprey, RegionCaptions, Shikra)
# The steps of converting the original, and of working with its files, one by one.
CONVERSION = (
    *(build_official_grounder, build_official_prompt_encoder, convert_grounder_state, convert_prompt_encoder_state),
    *(openseed_state, semantic_sam_state),
)
EXTENDING = (register_preset, register_reader, register_task)
FUNCTIONS = (mcp, open_source, prediction_from, recipe_of, write_gvc)


def test_tasks_and_readers_are_found_by_their_names() -> None:
    places = [str(place) for place in (*TASKS.values(), *READERS.values())]
    assert [
        one for one in (*TASK_CLASSES, *READER_CLASSES) if not any(f":{one.__name__}" in place for place in places)
    ] == []


def test_what_programs_call_can_be_called() -> None:
    model, processor = llava_grounding.LlavaGroundingForConditionalGeneration, llava_grounding.LlavaGroundingProcessor
    methods = (
        *(llava_grounding.GroundedAnswer.to_html, model.ground_generated),
        *(processor.post_process_grounding, processor.post_process_image_text_to_text),
    )
    assert all(map(callable, (*CONVERSION, *EXTENDING, *FUNCTIONS, *methods)))
    assert isinstance(processor.image_processor, property)


def test_tables_of_the_docs_and_of_the_tests_have_rows() -> None:
    assert all(entry.needs for entry in LEDGER)
    assert all(FAMILIES.values())
