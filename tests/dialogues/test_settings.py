"""Settings of dialogues: read from plain values, checked all at once."""

from __future__ import annotations

import pytest

from llava_grounding.dialogues.settings import DialogueSettings, PromptSettings, dialogue_settings
from llava_grounding.errors import ConfigError


def test_settings_come_back_from_their_plain_values() -> None:
    settings = DialogueSettings(captions=0.5, marks=0.1, prompts=PromptSettings(clicks=1.0, masks=0.0))
    assert dialogue_settings(settings.to_dict()) == settings
    assert dialogue_settings({"mirror": 1}) == DialogueSettings(mirror=1.0)


def test_numbers_are_read_in_any_way_a_recipe_writes_them() -> None:
    settings = dialogue_settings({"mirror": "1e-1", "prompts": {"jitter": "2e-1"}})
    assert settings == DialogueSettings(mirror=0.1, prompts=PromptSettings(jitter=0.2))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"caption": 1.0, "max_turns": "two"},
            "unknown key `caption`; did you mean `captions`.*`max_turns` must be a whole number",
        ),
        ({"captions": 10**400}, "`captions` must be at most 1.7976931348623157e\\+308, got `1000"),
        ({"captions": float("inf")}, "^`captions` must be a finite number, got `inf`$"),
        ({"mirror": float("nan")}, "^`mirror` must be a finite number, got `nan`$"),
        ({"max_turns": 10**10}, "`max_turns` must be at most 4294967295, got `10000000000`"),
        (
            {"prompts": {"click": 1}, "max_marks": 0.5},
            "unknown key `prompts.click`.*`max_marks` must be a whole number",
        ),
        ({"prompts": {"clicks": True}}, "`prompts.clicks` must be a number, got `True`"),
        ({"prompts": 3}, "`prompts` must be a mapping"),
        ({"captions": -1.0}, "`captions` must be a weight of at least 0"),
        ({"mirror": 1.5}, "`mirror` must be between 0 and 1"),
        ({"max_turns": 0}, "`max_turns` must be at least 1"),
        ({"prompts": {"jitter": 1.0}}, "`jitter` must be below 1"),
        (
            {"captions": 0, "grounded_captions": 0, "referring": 0, "region_captions": 0, "dialogues": 0},
            "one of captions",
        ),
    ],
)
def test_what_is_wrong_is_named(values: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        dialogue_settings(values)
