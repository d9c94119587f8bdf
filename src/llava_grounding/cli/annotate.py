"""`llava-grounding annotate`: captions or dialogues and labelled instances in, grounded visual chat data out."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from llava_grounding.cli.annotate_folder import STORE, inputs_of, work_folder
from llava_grounding.cli.annotate_run import Limits, run_annotation, settings_of
from llava_grounding.cli.outputs import given_path
from llava_grounding.cli.report import say
from llava_grounding.errors import UsageError, quoted

BATCHES = "batches"
"""Folder below `--out` for batch files."""


class AnswerForms(StrEnum):
    """How a model is asked to answer."""

    auto = "auto"
    schema = "schema"
    brackets = "brackets"


annotate = typer.Typer(
    help="Make grounded visual chat data from captions or dialogues and labelled instances.", no_args_is_help=False
)

InstancesOption = Annotated[
    Path, typer.Option(metavar="FILE", parser=given_path, help="COCO instances file of the images.")
]
CaptionsOption = Annotated[
    Path | None, typer.Option(metavar="FILE", parser=given_path, help="COCO captions file; or give --dialogues.")
]
DialoguesOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", parser=given_path, help="LLaVA-style dialogues, .json or .jsonl; or give --captions."),
]
OutOption = Annotated[
    Path, typer.Option("--out", metavar="FOLDER", parser=given_path, help="Folder for the data and what was asked.")
]
ShardOption = Annotated[
    str, typer.Option(metavar="K/N", help="Take the K-th of N disjoint parts of the images.", show_default=False)
]
LimitOption = Annotated[int | None, typer.Option(min=1, metavar="N", help="Stop after N samples.")]
ModelOption = Annotated[
    str, typer.Option(metavar="NAME", help="Name of the model at the endpoint; builtin matches words and needs none.")
]
FormOption = Annotated[
    AnswerForms,
    typer.Option("--answers", help="JSON held to a schema, or brackets in the text; auto tries the schema."),
]
RoundsOption = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=1,
        max=5,
        help="Maximum number of requests about one sample: an answer that cannot be used is asked for once more.",
    ),
]
ParamOption = Annotated[
    list[str] | None,
    typer.Option(
        "--param", metavar="KEY=JSON", help="Parameter of the request, as temperature=0.2; null leaves one out."
    ),
]
PricesOption = Annotated[
    tuple[float, float],
    typer.Option(metavar="IN OUT", help="Price of a million prompt and completion tokens.", show_default=False),
]
BaseUrlOption = Annotated[
    str | None, typer.Option(metavar="URL", help="Address of an OpenAI-compatible server, as http://127.0.0.1:8000/v1.")
]
KeyVariableOption = Annotated[str, typer.Option(metavar="NAME", help="Environment variable that holds the key.")]
MaxTokensSpentOption = Annotated[
    int | None,
    typer.Option(
        "--budget-tokens", metavar="N", min=1, help="Limit of the tokens of all answers in the store together."
    ),
]
MaxCostOption = Annotated[
    float | None,
    typer.Option(
        "--budget-cost", metavar="X", min=0, help="Limit of the cost of all answers in the store, by --prices."
    ),
]
EstimateOption = Annotated[bool, typer.Option("--estimate", help="Print the expected cost and time, and send nothing.")]
SamplesOption = Annotated[
    int | None, typer.Option("--estimate-for", min=1, metavar="N", help="Scale the estimate to so many samples.")
]
AskOption = Annotated[
    bool, typer.Option("--ask/--no-ask", help="--no-ask writes the files from what is answered already.")
]
AskBatchedOption = Annotated[
    bool, typer.Option("--ask-batched", help="Also ask what is in a batch file and has not come back.")
]
SecondModelOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Second model, builtin too, whose agreement with the first is reported."),
]
PromptsOption = Annotated[
    bool, typer.Option("--prompts", help="Write a click, box, scribble or mask for whatever GVC-R points at.")
]


@annotate.command()
def run(
    instances: InstancesOption,
    out: OutOption,
    captions: CaptionsOption = None,
    dialogues: DialoguesOption = None,
    model: ModelOption = "builtin",
    base_url: BaseUrlOption = None,
    key_variable: KeyVariableOption = "OPENAI_API_KEY",
    answers: FormOption = AnswerForms.auto,
    rounds: RoundsOption = 2,
    param: ParamOption = None,
    concurrency: Annotated[
        int, typer.Option(metavar="N", min=1, max=4096, help="Maximum number of concurrent requests.")
    ] = 16,
    rpm: Annotated[
        float | None, typer.Option("--rpm", metavar="X", min=0.001, help="Maximum number of requests a minute.")
    ] = None,
    tpm: Annotated[
        float | None, typer.Option("--tpm", metavar="X", min=1, help="Maximum number of tokens a minute.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="Time limit of one request, seconds.")
    ] = 120.0,
    attempts: Annotated[
        int, typer.Option(metavar="N", min=1, help="Retries of one request before it counts as failed.")
    ] = 6,
    prices: PricesOption = (0.0, 0.0),
    max_tokens_spent: MaxTokensSpentOption = None,
    max_cost: MaxCostOption = None,
    estimate: EstimateOption = False,
    samples: SamplesOption = None,
    ask: AskOption = True,
    ask_batched: AskBatchedOption = False,
    second_model: SecondModelOption = None,
    second_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Address of its server, if it is another one.")
    ] = None,
    prompts: PromptsOption = False,
    limit: LimitOption = None,
    shard: ShardOption = "1/1",
) -> None:
    """Annotate: what is answered already is not asked again."""
    run_annotation(
        inputs_of(instances, captions, dialogues, shard),
        out,
        [(model, base_url), *([(second_model, second_url or base_url)] if second_model else [])],
        Limits(
            key_variable=key_variable,
            concurrency=concurrency,
            rpm=rpm,
            tpm=tpm,
            timeout=timeout,
            attempts=attempts,
            prices=prices,
            max_tokens=max_tokens_spent,
            max_cost=max_cost,
            ask_batched=ask_batched,
        ),
        model_parameters(param),
        answers.value,
        rounds,
        estimate=estimate,
        estimate_for=samples,
        ask=ask,
        prompts=prompts,
        limit=limit,
    )


@annotate.command("export-batch")
def export_batch(
    instances: InstancesOption,
    out: OutOption,
    model: ModelOption,
    captions: CaptionsOption = None,
    dialogues: DialoguesOption = None,
    answers: Annotated[
        AnswerForms, typer.Option("--answers", help="JSON held to a schema, or brackets in the text.")
    ] = AnswerForms.schema,
    rounds: RoundsOption = 2,
    param: ParamOption = None,
    again: Annotated[
        bool, typer.Option("--again", help="Also ask what is in an earlier batch file and has not come back.")
    ] = False,
    limit: LimitOption = None,
    shard: ShardOption = "1/1",
) -> None:
    """Write what is not answered as files for a batch service, into FOLDER/batches."""
    from llava_grounding.annotate.batch_files import iter_batch_lines, write_batches
    from llava_grounding.endpoints.store import Store

    if model == "builtin":
        raise UsageError("the builtin matcher needs no batch files; `annotate run` uses it")
    inputs = inputs_of(instances, captions, dialogues, shard)
    with work_folder(out, inputs) as index:
        store = Store(out / STORE)
        try:
            settings = settings_of(store, model, answers.value, rounds, model_parameters(param))
            lines = iter_batch_lines(inputs.tasks(index, limit), settings, store, again)
            written = write_batches(lines, out / BATCHES, model, store)
        finally:
            store.close()
    for path, count in written:
        say(f"{path}: {count} requests\n")
    if not written:
        say("nothing is left to be asked\n")


@annotate.command("import-batch")
def import_batch(
    results: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Result files of batches, in any order.")],
    out: OutOption,
    model: ModelOption,
) -> None:
    """Take the results of batch files into the store; `run` then writes the data. May be repeated."""
    from llava_grounding.annotate.batch_files import import_batch as take
    from llava_grounding.endpoints.locking import locked
    from llava_grounding.endpoints.store import STORE_FILE, Store

    if not (out / STORE / STORE_FILE).is_file():
        raise UsageError(f"{quoted(str(out), 300)} holds no store; give the --out of export-batch")
    with locked(out / STORE, "share the work with --shard K/N and another --out"):
        store = Store(out / STORE)
        try:
            for path in results:
                taken = take(path, store, model)
                failed = "".join(f", {reason} {count}" for reason, count in sorted(taken.failed.items()))
                say(f"{path}: {taken.new} new, {taken.known} known already{failed}\n")
        finally:
            store.close()


def model_parameters(pairs: list[str] | None) -> dict[str, Any]:
    """Parameters of requests, `--param` over the defaults.

    Raises:
        UsageError: if one is not KEY=JSON, or a key that is ours.
    """
    from json import loads

    parameters: dict[str, Any] = {"temperature": 0, "max_tokens": 1500}
    for pair in pairs or ():
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UsageError(f"--param must be KEY=JSON, got {quoted(pair)}")
        if key in ("model", "messages", "stream", "n", "response_format"):
            raise UsageError(f"--param cannot set `{key}`")
        try:
            parameters[key] = loads(value)
        except ValueError:
            parameters[key] = value
    return parameters
