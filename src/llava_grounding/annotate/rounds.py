"""A task as a talk with a model: what to send next, given what was answered so far, and what it comes to in the end.

A function of the task, the settings and the store alone, so that asking and assembling agree whenever they run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from llava_grounding.annotate.assemble import Answer
from llava_grounding.annotate.marked import Marked
from llava_grounding.annotate.parse import parse_answer
from llava_grounding.annotate.prompt import (
    ANSWER_SCHEMA,
    PROMPT_VERSION,
    AnswerForm,
    Message,
    ask_again,
    messages_of,
    opening,
)
from llava_grounding.annotate.samples import Unusable
from llava_grounding.annotate.tasks import AnnotationTask
from llava_grounding.annotate.verify import verify
from llava_grounding.endpoints.asking import LookUp, Pending, Questioner
from llava_grounding.endpoints.client import RefusedError
from llava_grounding.endpoints.limits import cost_of
from llava_grounding.endpoints.store import Row, Store, request_key

NOT_ANSWERED = "not answered"
"""Reason for which samples are rejected that nobody has answered yet."""
REFUSED = "refused by the endpoint"
_ABOUT_FORM = re.compile(r"response_format|json_schema|schema|guided|grammar|structured", re.IGNORECASE)
_IN_WORDS = {"the answer is a refusal": "refusal", "the answer is empty": "empty answer"}


@dataclass(frozen=True)
class ModelSettings:
    """Which model is asked, and how.

    Args:
        model: as the endpoint calls it.
        form: of its answers.
        rounds: requests about one sample at most.
        parameters: of the request beside model and messages; None leaves one out.
    """

    model: str
    form: AnswerForm = "schema"
    rounds: int = 2
    parameters: Mapping[str, Any] = field(default_factory=lambda: {"temperature": 0, "max_tokens": 1500})

    @cached_property
    def text(self) -> str:
        """Everything that is the same in all requests, the opening of the prompt by its version."""
        return json.dumps([PROMPT_VERSION, self.form, self.model, dict(self.parameters)], sort_keys=True)

    def request(self, messages: list[Message]) -> Request:
        """The call with these messages behind the opening."""
        return Request(request_key(self.text, messages), self, tuple(messages))

    def about(self) -> dict[str, Any]:
        """What a manifest says of it."""
        return {
            "model": self.model,
            "prompt_version": PROMPT_VERSION,
            "form": self.form,
            "rounds": self.rounds,
            "parameters": dict(self.parameters),
        }


@dataclass(frozen=True)
class Request:
    """One call of a model.

    Args:
        key: under which the store keeps it.
        messages: behind the opening of the prompt.
    """

    key: str
    settings: ModelSettings
    messages: tuple[Message, ...]

    @property
    def body(self) -> dict[str, Any]:
        """The request as the API takes it."""
        settings = self.settings
        body: dict[str, Any] = {"model": settings.model, "messages": [*opening(settings.form), *self.messages]}
        if settings.form == "schema":
            schema = {"name": "phrases", "strict": True, "schema": ANSWER_SCHEMA}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        return body | {key: value for key, value in settings.parameters.items() if value is not None}


def next_step(task: AnnotationTask, settings: ModelSettings, look_up: LookUp) -> Pending | Answer:
    """The next request about a task, or what all answers together come to.

    Of several answers the last one that could be read counts.
    """
    messages = messages_of(task)
    best: Marked | None = None
    number = 0
    while True:
        request = settings.request(messages)
        row = look_up(request.key)
        if row is None or row.state != "answered":
            if number and row is not None and row.state == "refused":
                break  # the first answer is all there will be
            return Pending(request, row)
        number += 1
        marked = verify(task, parse_answer(row.answer or "", task, settings.form))
        if marked.failure is None or best is None:
            best = marked
        if number == settings.rounds or not (marked.failure or marked.refused):
            break
        messages = ask_again(messages, row.answer or "", marked.refused, marked.failure)
    assert best is not None
    return Answer(best, number, verified=True)


def form_key(model: str) -> str:
    """Under which a store keeps the form that a model's endpoint answers in."""
    return f"form of {model}"


class AnnotationQuestioner(Questioner[AnnotationTask | Unusable]):
    """Asks for the phrases of samples; about those that cannot be used it asks nothing.

    Args:
        settings: their `form` becomes `brackets` if the endpoint takes no schema, unless `fixed_form`.
    """

    def __init__(self, settings: ModelSettings, fixed_form: bool = False) -> None:
        super().__init__(settings.model)
        self.settings, self._fixed_form = settings, fixed_form

    def next_step(self, task: AnnotationTask | Unusable, look_up: LookUp) -> Pending | Answer | Unusable:
        return task if isinstance(task, Unusable) else next_step(task, self.settings, look_up)

    def note_first_answer(self, store: Store) -> None:
        store.note(form_key(self.model), self.settings.form)

    def change_after_refusal(self, refused: RefusedError, store: Store) -> bool:
        if self._fixed_form or self.settings.form != "schema" or not _ABOUT_FORM.search(str(refused)):
            return False
        self.settings = replace(self.settings, form="brackets")
        store.note(form_key(self.model), self.settings.form)
        return True


class StoredAnswers:
    """What the store holds of a model's answers, for `assemble`.

    Args:
        prices: of a million prompt and completion tokens.
    """

    def __init__(self, store: Store, settings: ModelSettings, prices: tuple[float, float] = (0.0, 0.0)) -> None:
        self._store, self._settings, self._prices = store, settings, prices
        self._requests = self._prompt_tokens = self._completion_tokens = 0

    def about(self) -> Mapping[str, Any]:
        return self._settings.about()

    def usage(self) -> Mapping[str, Any]:
        cost = cost_of(self._prompt_tokens, self._completion_tokens, self._prices)
        return {
            "requests": self._requests,
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._completion_tokens,
            "cost": round(cost, 6),
            "prices": list(self._prices),
        }

    def answer(self, task: AnnotationTask) -> Answer | str:
        found = next_step(task, self._settings, self._look_up)
        if isinstance(found, Pending):
            return REFUSED if found.is_refused else NOT_ANSWERED
        if found.marked.failure is not None:
            return _IN_WORDS.get(found.marked.failure, "unreadable answer")
        return found

    def _look_up(self, key: str) -> Row | None:
        row = self._store.get(key)
        if row is not None and row.state == "answered":
            self._requests += 1
            self._prompt_tokens += row.prompt_tokens
            self._completion_tokens += row.completion_tokens
        return row
