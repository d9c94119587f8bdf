"""Answers as they are sent: OpenAI's objects, and the regions beside them. Plain values for JSON; knows no HTTP."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

from llava_grounding.render.outline import mask_to_polygons
from llava_grounding.serve.jobs import AnswerWritten
from llava_grounding.structures import GroundedAnswer, GroundedPhrase, phrase_to_dict


class Completion:
    """The objects of one answer.

    Args:
        masks: how regions are told: `rle`, `polygons`, `both` or `none`.
    """

    def __init__(self, model: str, masks: str) -> None:
        self._common = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        self._masks = masks

    def whole(self, written: AnswerWritten, answer: GroundedAnswer) -> dict[str, Any]:
        """The answer at once."""
        message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
        if written.grounded:
            message["grounding"] = answer_value(answer, self._masks)
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": written.finish_reason}
        return {**self._common, "object": "chat.completion", "choices": [choice], "usage": usage(written)}

    def first(self) -> dict[str, Any]:
        """The first piece: who speaks."""
        return self._chunk({"role": "assistant", "content": ""})

    def text(self, text: str) -> dict[str, Any]:
        """More text."""
        return self._chunk({"content": text})

    def phrase(self, phrase: GroundedPhrase) -> dict[str, Any]:
        """A phrase that has closed."""
        return self._chunk({"grounding": {"phrase": phrase_value(phrase, self._masks)}})

    def last(self, written: AnswerWritten, answer: GroundedAnswer) -> dict[str, Any]:
        """The end, with the whole grounding as in the answer at once."""
        delta = {"grounding": {"answer": answer_value(answer, self._masks)}} if written.grounded else {}
        return self._chunk(delta, written.finish_reason)

    def usage(self, written: AnswerWritten) -> dict[str, Any]:
        """The lengths, for whoever asked for them."""
        return {**self._common, "object": "chat.completion.chunk", "choices": [], "usage": usage(written)}

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return {**self._common, "object": "chat.completion.chunk", "choices": [choice]}


def usage(written: AnswerWritten) -> dict[str, Any]:
    """Lengths in tokens."""
    prompt, completion = written.prompt_tokens, written.completion_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": written.cached_tokens},
    }


def answer_value(answer: GroundedAnswer, masks: str) -> dict[str, Any]:
    """An answer in the format of `to_dict`, its masks as they are wanted."""
    value = answer.to_dict()
    if masks != "rle":
        value["phrases"] = [phrase_value(phrase, masks) for phrase in answer.phrases]
    return value


def phrase_value(phrase: GroundedPhrase, masks: str) -> dict[str, Any]:
    """A phrase in the format of an answer, its masks as they are wanted."""
    value = phrase_to_dict(phrase, masks in ("rle", "both"))
    if masks in ("polygons", "both"):
        for region, told in zip(phrase.regions, value["regions"], strict=True):
            mask = region.mask
            told["polygons"] = [] if mask is None else mask_to_polygons(mask)
    return value


def event(value: Any) -> bytes:
    """An event of a stream."""
    return b"data: " + json.dumps(value, ensure_ascii=True).encode("ascii") + b"\n\n"


DONE = b"data: [DONE]\n\n"
