"""What goes wrong, as HTTP says it: a status and an error of OpenAI's shape, in our own words.

The text of any library's error stays inside; it is logged. Knows no framework.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llava_grounding.errors import DataError, LlavaGroundingError, UsageError, quoted

_RETRY_SECONDS = 2
_LONGEST_PARAM = 120


class ApiError(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP.
        message: one sentence for the person who made the request.
        code: short, for programs.
        param: which part of the request it is about.
        retry_after: seconds after which to try again.
    """

    def __init__(
        self, status: int, message: str, code: str, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers: dict[str, str] = {} if retry_after is None else {"Retry-After": str(retry_after)}
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"

    def body(self) -> dict[str, Any]:
        """The error as OpenAI's API writes it."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = {401: "authentication_error", 429: "rate_limit_error"}.get(self.status, kind)
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def busy() -> ApiError:
    """Too many requests are waiting already."""
    return ApiError(503, "the server is busy; try again in a moment", "overloaded", retry_after=_RETRY_SECONDS)


def too_many() -> ApiError:
    """One client has too many requests under way."""
    said = "too many of your requests are under way; wait for one of them"
    return ApiError(429, said, "rate_limit_exceeded", retry_after=_RETRY_SECONDS)


def stopping() -> ApiError:
    """The server is being stopped."""
    return ApiError(503, "the server is being stopped; try again in a moment", "stopping", retry_after=_RETRY_SECONDS)


def too_slow() -> ApiError:
    """The deadline has passed."""
    return ApiError(504, "the answer took longer than this server allows", "timeout")


def internal() -> ApiError:
    """A fault of ours; what it was is in the log."""
    return ApiError(500, "something went wrong in the server; its log says what", "internal_error")


def from_error(error: Exception, param: str | None = None) -> ApiError:
    """What an exception says to a client: our own sentence where the request was at fault, else nothing of it."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, (UsageError, DataError)):
        code = {"ImageError": "invalid_image", "PromptError": "invalid_prompt"}.get(
            type(error).__name__, "invalid_value"
        )
        return ApiError(400, str(error), code, param)
    if isinstance(error, LlavaGroundingError):
        return ApiError(500, "the model could not answer this; the server's log says why", "model_error")
    return internal()


_SAID = {
    "missing": "is missing",
    "extra_forbidden": "is not known",
    "json_invalid": "is not valid JSON",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "string_unicode": "must be valid Unicode",
    "list_type": "must be a list",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "dict_type": "must be an object",
    "union_tag_not_found": "must have a `type`",
    "recursion_loop": "is nested too deep",
}
_WITH_CONTEXT = {
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be greater than {gt}",
    "less_than_equal": "must be at most {le}",
    "too_long": "must have at most {max_length} items",
    "too_short": "must have at least {min_length} items",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} characters",
    "literal_error": "must be {expected}",
    "union_tag_invalid": "must be {expected_tags}",
}


def from_validation(errors: Sequence[Mapping[str, Any]], value: Any) -> ApiError:
    """A request that has not the form of the API, from what pydantic found; its most exact fault is told.

    Args:
        value: the request, as plain values.
    """
    error = max(errors, key=lambda one: (len(one["loc"]), not one["type"].endswith("_type")))
    kind, context = str(error["type"]), error.get("ctx", {})
    place = ".".join(_path(error["loc"], value))[:_LONGEST_PARAM]
    if kind == "value_error" and isinstance(context.get("error"), UsageError):
        return ApiError(400, str(context["error"]), "invalid_value", place or None)
    said = _SAID.get(kind, "")
    if not said and kind in _WITH_CONTEXT:
        said = _WITH_CONTEXT[kind].format(**context)
    code = {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}.get(kind, "invalid_value")
    what = quoted(place, _LONGEST_PARAM) if place else "the body"
    return ApiError(400, f"{what} {said or 'is not what this API expects there'}", code, place or None)


def _path(location: Sequence[str | int], value: Any) -> list[str]:
    """Where in the request a fault is; pydantic's own names for alternatives of a type are left out."""
    path = []
    for number, part in enumerate(location):
        inside = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if inside or (isinstance(value, dict) and part in value):
            path.append(str(part))
            value = value[part]
        elif number == len(location) - 1 and isinstance(value, dict):
            path.append(str(part))  # what is missing
    return path
