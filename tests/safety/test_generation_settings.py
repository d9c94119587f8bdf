"""What a file says about generating: a closed list, each setting of one type and within one range."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from llava_grounding import generation_settings
from llava_grounding.checkpoint_files import check_folder, read_object
from llava_grounding.checkpoints import without_progress_bars
from llava_grounding.errors import CheckpointError
from llava_grounding.generation_settings import check_generation, check_generation_within
from llava_grounding.model.llava_grounding import LlavaGroundingForConditionalGeneration
from tiny_model import tiny_parts

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"compile_config": {"a": 1}}, "`compile_config` is up to the caller"),
    ({"watermarking_config": {"a": 1}}, "`watermarking_config` is up to the caller"),
    ({"continuous_batching_config": {"a": 1}}, "`continuous_batching_config` is up to the caller"),
    ({"early_stopping": "maybe"}, "`early_stopping` must be true, false or \"never\", got 'maybe'"),
    ({"max_new_tokens": "x"}, "`max_new_tokens` must be a whole number from 0"),
    ({"max_new_tokens": -5}, "`max_new_tokens` must be a whole number from 0"),
    ({"max_new_tokens": True}, "`max_new_tokens` must be a whole number from 0"),
    ({"pad_token_id": "q"}, "`pad_token_id` must be a whole number"),
    ({"eos_token_id": [1, "q"]}, "`eos_token_id` must be a token id or a list"),
    ({"bad_words_ids": [[1], 2]}, "`bad_words_ids` must be lists of token ids"),
    ({"stop_strings": 5}, "`stop_strings` must be a text"),
    ({"temperature": "hot"}, "`temperature` must be a number from 0 to 100"),
    ({"top_p": 2}, "`top_p` must be a number from 0 to 1"),
    ({"do_sample": 1}, "`do_sample` must be true or false"),
    ({"num_return_sequences": 2}, "`num_return_sequences` must be 1, got 2"),
    ({"cache_implementation": "nope"}, "`cache_implementation` chooses a cache of a size"),
    ({"cache_implementation": "static", "max_new_tokens": 2**50}, "`cache_implementation` chooses a cache of a size"),
    ({"cache_implementation": "quantized"}, "`cache_implementation` chooses a cache of a size"),
    ({"penalty_alpha": 0.6, "top_k": 4}, "`penalty_alpha` chooses code of another repository"),
    ({"dola_layers": "high"}, "`dola_layers` chooses code of another repository"),
    ({"force_words_ids": [[1]]}, "`force_words_ids` chooses code of another repository"),
    ({"num_beam_groups": 2}, "`num_beam_groups` must be 1, got 2"),
    ({"streamer": None}, "'streamer' is no setting of generating"),
    ({"to_dict": 1}, "'to_dict' is no setting of generating"),
]


@pytest.mark.parametrize(("values", "words"), REFUSED, ids=lambda value: str(value)[:30])
def test_what_no_file_may_say_is_one_sentence(values: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        check_generation(values, "generation_config.json in `here`")
    assert str(caught.value).startswith("generation_config.json in `here`: ")
    if not words.startswith("'") and "_token_id`" not in words:
        with pytest.raises(CheckpointError, match=words):
            check_generation_within(values, "config.json in `here`")


def test_every_setting_of_transformers_is_either_allowed_or_refused() -> None:
    written = {*vars(GenerationConfig())} - {"_original_object_hash", "_user_set_attributes"}
    known = {*generation_settings._SETTINGS, *generation_settings._REFUSED}
    assert sorted(written - known) == []


def test_what_transformers_saves_is_read_and_lengths_are_cut_to_the_model(tmp_path: Path) -> None:
    model, processor = tiny_parts("shared")
    settings = {"do_sample": True, "temperature": 0.7, "top_k": 5, "max_new_tokens": 2**50, "stop_strings": ["."]}
    before = model.generation_config
    try:
        model.generation_config = GenerationConfig(**settings, eos_token_id=[1, 2], pad_token_id=0, bos_token_id=1)
        for part in (model, processor):
            part.save_pretrained(tmp_path)
    finally:
        model.generation_config = before
    check_folder(tmp_path)
    assert settings.items() <= read_object(tmp_path / "generation_config.json").items()
    with without_progress_bars():
        again = LlavaGroundingForConditionalGeneration.from_pretrained(tmp_path)
    assert again.generation_config.top_k == 5
    assert again.generation_config.max_new_tokens == again.config.text_config.max_position_embeddings


def test_what_older_versions_wrote_down_without_effect_is_read() -> None:
    neutral = {"penalty_alpha": None, "diversity_penalty": 0.0, "num_beam_groups": 1, "low_memory": False}
    check_generation({**neutral, "max_length": 4096, "early_stopping": False}, "here")
    check_generation_within({**neutral, "pad_token_id": -1, "max_length": 20, "hidden_size": 64}, "here")
