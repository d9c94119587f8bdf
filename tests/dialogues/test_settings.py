"""Settings of dialogues: read from plain values, checked all at once."""

from __future__ import annotations

import pytest

from llava_grounding.dialogues.settings import DialogueSettings, PromptSettings, dialogue_settings
from llava_grounding.errors import ConfigError


def test_settings_come_back_from_their_plain_values() -> None:
    settings = DialogueSettings(captions=0.5, marks=0.1, prompts=PromptSettings(clicks=1.0, masks=0.0))
    assert dialogue_settings(settings.to_dict()) == settings
    assert dialogue_settings({"mirror": 1}) == DialogueSettings(mirror=1.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"caption": 1.0, "max_turns": "two"},
            "unknown key `caption`; did you mean `captions`.*`max_turns` must be int",
        ),
        ({"prompts": {"clicks": True}}, "`clicks` must be float, got `True`"),
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
