"""What `annotate run` does: estimate or ask, with a progress bar, then write."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from llava_grounding.cli.annotate_folder import STORE, work_folder, write_out
from llava_grounding.cli.common import progress_bar
from llava_grounding.cli.report import note, say
from llava_grounding.errors import DataError, UsageError, quoted

if TYPE_CHECKING:
    from llava_grounding.annotate.assemble import Answers, Inputs
    from llava_grounding.annotate.label_index import LabelIndex
    from llava_grounding.annotate.rounds import ModelSettings
    from llava_grounding.endpoints.asking import AskingProgress
    from llava_grounding.endpoints.store import Store

_BUILTIN = "builtin"
_INTERRUPTED = 130


@dataclass(frozen=True)
class Limits:
    """How endpoints are treated; see the options of the command."""

    key_variable: str
    concurrency: int
    rpm: float | None
    tpm: float | None
    timeout: float
    attempts: int
    prices: tuple[float, float]
    max_tokens: int | None
    max_cost: float | None
    ask_batched: bool


def run_annotation(
    inputs: Inputs,
    out: Path,
    models: Sequence[tuple[str, str | None]],
    limits: Limits,
    parameters: Mapping[str, Any],
    form: str,
    rounds: int,
    *,
    estimate: bool,
    estimate_for: int | None,
    ask: bool,
    prompts: bool,
    limit: int | None,
) -> None:
    """Ask what is not answered, then write all files.

    Args:
        models: names with the addresses of their servers; of a second one only the agreement is told.
    """
    from llava_grounding.endpoints.store import Store

    with work_folder(out, inputs) as index:
        store = Store(out / STORE)
        try:
            answers = []
            for model, base_url in models:
                settings = None if model == _BUILTIN else settings_of(store, model, form, rounds, parameters)
                if estimate:
                    _estimate(inputs, index, store, settings, limits, estimate_for, limit)
                    continue
                if settings is not None and ask:
                    settings = _ask(inputs, index, store, settings, base_url, limits, form, limit)
                answers.append(_answers(store, settings, limits))
            if not estimate:
                with store.snapshot():
                    write_out(out, inputs, index, answers[0], limit, prompts, *answers[1:])
        finally:
            store.close()


def settings_of(store: Store, model: str, form: str, rounds: int, parameters: Mapping[str, Any]) -> ModelSettings:
    """The model, with the form of its answers that an earlier run found out."""
    from llava_grounding.annotate.rounds import ModelSettings, form_key

    known = store.about(form_key(model)) or "schema"
    chosen = known if form == "auto" else form
    return ModelSettings(model, "schema" if chosen == "schema" else "brackets", rounds, parameters)


def _answers(store: Store, settings: ModelSettings | None, limits: Limits) -> Answers:
    from llava_grounding.annotate.assemble import BuiltinAnswers
    from llava_grounding.annotate.rounds import StoredAnswers

    return BuiltinAnswers() if settings is None else StoredAnswers(store, settings, limits.prices)


def _estimate(
    inputs: Inputs,
    index: LabelIndex,
    store: Store,
    settings: ModelSettings | None,
    limits: Limits,
    scale_to: int | None,
    limit: int | None,
) -> None:
    from llava_grounding.annotate.estimate import LOOKED_AT
    from llava_grounding.annotate.estimate import estimate as count

    if settings is None:
        say("the builtin matcher sends nothing\n")
        return
    found = count(inputs.tasks(index, limit), settings, store, anew=scale_to is not None)
    total = scale_to or (_count(inputs, limit) if found.samples == LOOKED_AT else found.samples)
    if found.samples:
        found = found.scaled(total / found.samples)
    for line in found.lines(limits.prices, limits.rpm, limits.tpm):
        say(f"{line}\n")


def _count(inputs: Inputs, limit: int | None) -> int:
    """How many samples there are."""
    from llava_grounding.annotate.samples import iter_samples

    total = sum(1 for _ in iter_samples(inputs.texts, inputs.kind, inputs.shard))
    return total if limit is None else min(total, limit)


def _ask(
    inputs: Inputs,
    index: LabelIndex,
    store: Store,
    settings: ModelSettings,
    base_url: str | None,
    limits: Limits,
    form: str,
    limit: int | None,
) -> ModelSettings:
    """Ask what is not answered.

    Returns:
        The settings, with the form of answers that the endpoint takes.

    Raises:
        Exit: if not all could be asked; the store has the rest.
    """
    from llava_grounding.annotate.rounds import AnnotationQuestioner
    from llava_grounding.endpoints.asking import AskOptions, RequestRunner
    from llava_grounding.endpoints.client import OpenAIEndpoint
    from llava_grounding.endpoints.limits import Budget, RateLimiter

    url = base_url or os.environ.get("OPENAI_BASE_URL")
    if not url:
        raise UsageError("give the address of the server with --base-url, such as http://127.0.0.1:8000/v1")
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"--base-url must begin with http:// or https://, got {quoted(url)}")
    key = os.environ.get(limits.key_variable, "")
    endpoint = OpenAIEndpoint(url, key or "none", limits.timeout)
    spent = store.usage(settings.model)
    budget = Budget(limits.max_tokens, limits.max_cost, limits.prices, spent.prompt_tokens, spent.completion_tokens)
    questioner = AnnotationQuestioner(settings, fixed_form=form != "auto")
    with _bar(settings.model, _count(inputs, limit)) as on_progress:
        runner = RequestRunner(
            store,
            endpoint,
            questioner,
            AskOptions(limits.concurrency, limits.attempts, ask_batched=limits.ask_batched),
            RateLimiter(limits.rpm, limits.tpm),
            budget,
            on_progress=on_progress,
        )
        progress = runner.run(inputs.tasks(index, limit))
    _report_progress(progress)
    return questioner.settings


def _report_progress(progress: AskingProgress) -> None:
    note(
        f"{progress.answered} answered, {progress.refused} refused, {progress.failed} failed, "
        f"{progress.retries} tries repeated, cost so far {progress.budget.cost:.2f}"
    )
    if progress.stopped == "interrupted":
        note("What was answered is kept, and the same command resumes from here")
        raise typer.Exit(_INTERRUPTED)
    if progress.unfinished:
        why = progress.stopped or (
            f"{progress.waiting} wait for a batch file" if progress.waiting else "requests failed"
        )
        raise DataError(
            f"not all samples are answered: {why}; the same command resumes from here, and --no-ask writes the files "
            "from what is answered"
        )


@contextmanager
def _bar(model: str, total: int) -> Iterator[Callable[[AskingProgress], None]]:
    """A progress bar on stderr with rate, cost and time left; silent where nobody is looking."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("cost {task.fields[cost]}"),
        TimeRemainingColumn(),
    )
    with progress_bar(model, total, *columns, cost="0.00") as show:
        yield lambda progress: show(progress.samples, cost=f"{progress.budget.cost:.2f}")
