"""One call of an OpenAI-compatible endpoint by the official client, and what its failures mean.

Knows no store, no limits and no retries: those are `asking`'s business.
"""

from __future__ import annotations

import email.utils
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from llava_grounding.errors import LlavaGroundingError, missing_extra

_MAX_PAUSE = 600.0  # seconds that a server may ask for
_MOST_TOKENS = 10_000_000  # that are believed of one call
_QUOTA = ("insufficient_quota", "billing")


@dataclass(frozen=True)
class Reply:
    """What a model said; token counts are None where the endpoint does not tell them.

    `more` is what the message holds beside the API's own fields, as the `grounding` of our server.
    """

    text: str
    prompt_tokens: int | None
    completion_tokens: int | None
    more: Mapping[str, Any] = field(default_factory=dict)


class CallError(LlavaGroundingError):
    """A call that came to nothing."""


class BusyError(CallError):
    """It may work later: too many requests, a failure of the server, a broken line.

    Attributes:
        pause: seconds the server asks for; None if it does not.
        connected: whether a server was there at all.
    """

    def __init__(self, message: str, pause: float | None = None, connected: bool = True) -> None:
        super().__init__(message)
        self.pause, self.connected = pause, connected


class RefusedError(CallError):
    """This request will not be taken, others may be."""


class AccessError(CallError):
    """No request will be taken: a wrong key, an unknown model, no credit."""


class Endpoint(Protocol):
    """Something that completes chats."""

    async def complete(self, body: Mapping[str, Any]) -> Reply:
        """Send one request.

        Raises:
            CallError: one of its kinds.
        """

    async def close(self) -> None:
        """Close what is open."""


class OpenAIEndpoint:
    """A server that speaks OpenAI's chat completions.

    Args:
        base_url: such as `http://127.0.0.1:8000/v1`.
        api_key: sent as the bearer; local servers take any.
        timeout: seconds for one call.

    Raises:
        MissingExtraError: if the client is not installed.
    """

    def __init__(self, base_url: str, api_key: str, timeout: float = 120.0) -> None:
        try:
            import openai
        except ImportError as error:
            raise missing_extra("annotate", "asking an endpoint") from error
        self._openai = openai
        self._base_url = base_url
        self._client = openai.AsyncOpenAI(base_url=base_url, api_key=api_key, timeout=timeout, max_retries=0)

    async def complete(self, body: Mapping[str, Any]) -> Reply:
        known = {key: body[key] for key in ("model", "messages")}
        more = {key: value for key, value in body.items() if key not in known}
        completion = await self._called(self._client.chat.completions.create(**known, extra_body=more))
        return _reply(completion, self._base_url)

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Call what the server has beside OpenAI's API, as `/ground` of ours; its JSON as plain data.

        Raises:
            CallError: one of its kinds.
        """
        return await self._called(self._client.post(path, body=dict(body), cast_to=object))

    async def _called(self, call: Awaitable[Any]) -> Any:
        openai = self._openai
        try:
            return await call
        except openai.APIStatusError as error:
            raise self._explained(error) from error
        except openai.APITimeoutError as error:
            raise BusyError(f"{self._base_url} did not answer in time") from error
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            raise BusyError(f"cannot reach {self._base_url}: {cause}", connected=_was_connected(cause)) from error
        except (openai.OpenAIError, ValueError, TypeError, AttributeError) as error:  # no JSON, or of another form
            raise BusyError(f"{self._base_url} did not answer as the API does: {error}") from error

    async def close(self) -> None:
        await self._client.close()

    def _explained(self, error: Any) -> CallError:
        """What a status means."""
        status, said = int(error.status_code), _said(error)
        message = f"{self._base_url} answered {status}: {said}"
        if status in (401, 403):
            return AccessError(f"{message}; is the key right? It is read from the variable that --key-variable names")
        if status == 404:
            return AccessError(f"{message}; is the model's name right, and does the URL end as it should (/v1)?")
        if status == 429 and any(word in said.lower() for word in _QUOTA):
            return AccessError(f"{message}; there is no credit left")
        if status in (408, 409, 425, 429) or status >= 500:
            return BusyError(message, _pause(error.response.headers))
        return RefusedError(message)


def _was_connected(cause: BaseException) -> bool:
    return "connect" not in type(cause).__name__.lower()


def _said(error: Any) -> str:
    body = error.body
    detail = body.get("message") if isinstance(body, Mapping) else None
    code = body.get("code") if isinstance(body, Mapping) else None
    text = " ".join(str(detail or error.message).split())[:300]
    return f"{text} ({code})" if isinstance(code, str) else text


def _pause(headers: Mapping[str, str]) -> float | None:
    """What Retry-After says, in seconds."""
    milliseconds, value = headers.get("retry-after-ms"), headers.get("retry-after")
    try:
        if milliseconds is not None:
            seconds = float(milliseconds) / 1000
        elif value is None:
            return None
        else:
            try:
                seconds = float(value)
            except ValueError:
                seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), _MAX_PAUSE) if seconds == seconds else None


def _reply(completion: Any, base_url: str) -> Reply:
    """The text of a completion, whatever a server has made of it.

    Raises:
        BusyError: if it is none.
    """
    try:
        message = completion.choices[0].message
        text = message.content
        text = getattr(message, "refusal", None) if text is None else text
    except (AttributeError, LookupError, TypeError) as error:
        raise BusyError(f"{base_url} did not answer as the API does: there is no message") from error
    if not isinstance(text, str | None):
        raise BusyError(f"{base_url} did not answer as the API does: the message is no text")
    usage = getattr(completion, "usage", None)
    counts = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
    prompt, said = (one if isinstance(one, int) and 0 <= one <= _MOST_TOKENS else None for one in counts)
    # A store holds text; half of a surrogate pair is none.
    more = getattr(message, "model_extra", None)
    return Reply(
        (text or "").encode("utf-8", "replace").decode(), prompt, said, more if isinstance(more, Mapping) else {}
    )
