"""What a run would cost and take before anything is sent: counted over samples, or scaled to any number of images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from llava_grounding.annotate.assemble import Answer
from llava_grounding.annotate.rounds import ModelSettings, next_step
from llava_grounding.annotate.samples import Unusable
from llava_grounding.annotate.tasks import AnnotationTask
from llava_grounding.endpoints.asking import Pending
from llava_grounding.endpoints.limits import cost_of, guess_tokens
from llava_grounding.endpoints.store import Store

LOOKED_AT = 3000
"""Samples from which all others are estimated."""
_ENOUGH = 20  # answered requests, from which on they are the measure
_AGAIN = 0.1  # of the samples, asked a second time where nothing is measured yet
_ANSWER_PER_TEXT = 1.3  # tokens of an answer by those of its texts


@dataclass(frozen=True)
class Estimate:
    """What one run will ask for and cost.

    Args:
        samples: looked at.
        requests: that are left to be sent.
        prompt_tokens, completion_tokens: of these.
        measured: whether tokens are as earlier answers had them.
    """

    samples: int
    requests: float
    prompt_tokens: float
    completion_tokens: float
    measured: bool

    def scaled(self, factor: float) -> Estimate:
        """The estimate for so many times as many samples."""
        return Estimate(
            round(self.samples * factor),
            self.requests * factor,
            self.prompt_tokens * factor,
            self.completion_tokens * factor,
            self.measured,
        )

    def cost(self, prices: tuple[float, float]) -> float:
        """The cost in the unit of the prices, which are of a million tokens."""
        return cost_of(round(self.prompt_tokens), round(self.completion_tokens), prices)

    def minutes(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> float | None:
        """How long limits make it last; None without limits."""
        waits = []
        if requests_per_minute:
            waits.append(self.requests / requests_per_minute)
        if tokens_per_minute:
            waits.append((self.prompt_tokens + self.completion_tokens) / tokens_per_minute)
        return max(waits, default=None)

    def lines(self, prices: tuple[float, float], rpm: float | None, tpm: float | None) -> Iterator[str]:
        """The estimate in lines for a person."""
        yield f"{self.samples} samples, about {self.requests:.0f} requests"
        how = "as measured in this store" if self.measured else "guessed from the length of the texts"
        yield f"about {self.prompt_tokens:,.0f} prompt and {self.completion_tokens:,.0f} completion tokens ({how})"
        if any(prices):
            yield f"about {self.cost(prices):,.2f} at {prices[0]} and {prices[1]} per million tokens"
        minutes = self.minutes(rpm, tpm)
        if minutes is not None:
            yield f"at least {minutes / 60:.1f} hours by the limits on requests and tokens"


def estimate(
    tasks: Iterable[AnnotationTask | Unusable], settings: ModelSettings, store: Store, anew: bool = False
) -> Estimate:
    """What is left to be asked about the first `LOOKED_AT` samples at most.

    Args:
        anew: as if none of them were answered, which stand for others that are not.
    """
    usage = store.usage(settings.model)
    samples = prompt = said = finished = rounds = 0
    requests = 0.0
    for task in islice(tasks, LOOKED_AT):
        samples += 1
        if isinstance(task, Unusable):
            continue
        step = next_step(task, settings, store.get)
        if isinstance(step, Answer):
            finished, rounds = finished + 1, rounds + step.rounds
            step = next_step(task, settings, _nothing) if anew else step
        if isinstance(step, Pending) and not step.is_refused:
            requests += 1
            prompt += guess_tokens(sum(len(message["content"]) for message in step.request.body["messages"]))
            said += round(_ANSWER_PER_TEXT * guess_tokens(sum(map(len, task.texts.values()))))
    again = rounds / finished if finished >= _ENOUGH else 1 + (_AGAIN if settings.rounds > 1 else 0.0)
    if usage.requests >= _ENOUGH:
        per_prompt, per_answer = usage.prompt_tokens / usage.requests, usage.completion_tokens / usage.requests
        requests *= again
        return Estimate(samples, requests, requests * per_prompt, requests * per_answer, True)
    return Estimate(samples, requests * again, prompt * again, said * again, False)


def _nothing(_key: str) -> None:
    """What a store without answers holds of a request."""
