"""`llava-grounding convert KIND SOURCE OUT`: checkpoints of others into folders of ours, with a report."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llava_grounding.cli.report import say

if TYPE_CHECKING:
    from llava_grounding.convert.report import ConversionReport

convert = typer.Typer(rich_markup_mode=None, no_args_is_help=False)


class WeightDtype(StrEnum):
    """Types the language side's weights can be written in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


SourceFolder = Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder with the released files.")]
OutFolder = Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; must be new or empty.")]
DtypeOption = Annotated[
    WeightDtype | None,
    typer.Option(help="Dtype of the language model's weights; vision stays float32.  [default: as stored]"),
]
CanvasSide = Annotated[int, typer.Option(metavar="N", min=32, help="Side of the canvas of the vision modules, pixels.")]
Queries = Annotated[int, typer.Option(metavar="N", min=1, help="Object queries of the grounder.")]
OpenSeeDFile = Annotated[
    Path | None, typer.Option("--openseed", metavar="FILE", help="OpenSeeD checkpoint, for the grounder.")
]
SemanticSamFile = Annotated[
    Path | None,
    typer.Option("--semantic-sam", metavar="FILE", help="Semantic-SAM checkpoint, for the visual prompt encoder."),
]
PromptTokens = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Queries per visual prompt to keep.  [default: as many as the file has]"),
]
Seed = Annotated[int, typer.Option(metavar="N", help="Seed of weights that are initialised.")]


@convert.callback()
def kinds() -> None:
    """Turn a checkpoint of somebody else into a folder that `--model` takes."""


@convert.command()
def official(
    source: SourceFolder,
    out: OutFolder,
    dtype: DtypeOption = None,
    demo_quirks: Annotated[
        bool, typer.Option("--demo-quirks", help="Keep the faults of the original's demo, to compare with it.")
    ] = False,
    image_size: CanvasSide = 1024,
    queries: Queries = 300,
    tower: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="config.json of the vision tower, if it is not one of OpenAI's CLIPs."),
    ] = None,
) -> None:
    """Convert a released LLaVA-Grounding checkpoint."""
    from llava_grounding.convert.official import convert_official
    from llava_grounding.convert.sizes import OfficialSettings

    settings = OfficialSettings(image_size, queries, _tower_fields(tower))
    _print(convert_official(source, out, settings, dtype=_dtype(dtype), demo_quirks=demo_quirks))


@convert.command()
def llava(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Folder of LLaVA-1.x, in either layout, or a Llama.")
    ],
    out: OutFolder,
    openseed: OpenSeeDFile = None,
    semantic_sam: SemanticSamFile = None,
    vision_tower: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="CLIP checkpoint, folder or file, where SOURCE has no vision tower."),
    ] = None,
    projector: Annotated[
        Path | None, typer.Option(metavar="FILE", help="LLaVA's mm_projector.bin, where SOURCE has no projector.")
    ] = None,
    dtype: DtypeOption = None,
    image_size: CanvasSide = 1024,
    queries: Queries = 300,
    prompt_tokens: PromptTokens = None,
    seed: Seed = 0,
) -> None:
    """Put public parts together: a model that training can begin with."""
    from llava_grounding.convert.llava import LlavaSettings, PublicParts, convert_llava

    parts = PublicParts(openseed, semantic_sam, vision_tower, projector)
    settings = LlavaSettings(image_size, queries, prompt_tokens, seed)
    _print(convert_llava(source, out, parts, settings, dtype=_dtype(dtype)))


@convert.command()
def language(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="Folder of a causal language model of transformers.")
    ],
    out: OutFolder,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Preset to build around it: qwen3_4b, gemma3_1b, nano and so on.  [default: by model_type]",
        ),
    ] = None,
    vision_tower: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="SigLIP or CLIP checkpoint, where the preset has a vision tower."),
    ] = None,
    openseed: OpenSeeDFile = None,
    semantic_sam: SemanticSamFile = None,
    dtype: DtypeOption = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=32, help="Side of the canvas of the vision modules, pixels.  [default: the preset's]"
        ),
    ] = None,
    queries: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Object queries of the grounder.  [default: the preset's]")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Put a language model of another family into a model that training can begin with."""
    from llava_grounding.convert.language import LanguageParts, LanguageSettings, convert_language

    parts = LanguageParts(vision_tower, openseed, semantic_sam)
    settings = LanguageSettings(preset, image_size, queries, seed)
    _print(convert_language(source, out, parts, settings, dtype=_dtype(dtype)))


@convert.command()
def vision(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="Folder of a converted or trained checkpoint.")],
    out: OutFolder,
    openseed: OpenSeeDFile = None,
    semantic_sam: SemanticSamFile = None,
    prompt_tokens: PromptTokens = None,
    seed: Seed = 0,
) -> None:
    """Replace the vision modules of a folder of ours."""
    from llava_grounding.convert.vision import convert_vision

    _print(convert_vision(source, out, openseed, semantic_sam, prompt_tokens=prompt_tokens, seed=seed))


def _print(report: ConversionReport) -> None:
    for line in report.lines():
        say(f"{line}\n")


def _dtype(name: WeightDtype | None) -> Any:
    if name is None:
        return None
    from llava_grounding.checkpoints import choose_dtype

    return choose_dtype(name.value)


def _tower_fields(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    from llava_grounding.convert.sizes import read_tower_fields

    return read_tower_fields(path)
