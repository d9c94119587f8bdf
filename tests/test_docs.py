"""Words: what README and docs say is true: their Python runs, links lead somewhere, help texts are current."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator
from contextlib import ExitStack
from fnmatch import fnmatch
from itertools import takewhile
from pathlib import Path
from typing import Any
from unittest import mock
from xml.etree import ElementTree

import jsonschema
import pytest
import torch
from PIL import Image

import llava_grounding
from house import CLI_PAGE, PACKAGE, ROOT, Block, blocks, help_text, pages, with_current_help
from llava_grounding import GroundedAnswer
from llava_grounding.benchmark.samples import BenchmarkSample, SampleSet
from llava_grounding.benchmark.tasks import TASKS
from llava_grounding.checkpoints import find_checkpoint
from llava_grounding.cli.main import app
from llava_grounding.data.readers.registry import READERS
from llava_grounding.errors import LlavaGroundingError
from llava_grounding.labelling.exporters import EXPORTERS
from llava_grounding.model.presets import PRESETS, preset
from llava_grounding.scenes.synthetic import draw_scene
from llava_grounding.train.plan import STAGES
from llava_grounding.train.recipe import load_recipe
from llava_grounding.train.recipe_file import shipped_recipes

NEEDS_MODEL = "<!-- needs: model -->"
_LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
_MODULE = re.compile(r"`([\w/]+\.py)`")
_COMMAND = re.compile(r"^(?:    |\$ )?llava-grounding ([a-z]+)(.*)$", re.MULTILINE)
_MAKE = re.compile(r"(?:^    |`)make ([a-z-]+)", re.MULTILINE)

PAGES = {str(page.relative_to(ROOT)): page for page in pages()}
EXAMPLES = {
    "ask_many.py": ["What is in the image?", "photo.jpg", "photo.jpg"],
    "draw_scene.py": ["scene.png", "7"],
    "publish_checkpoint.py": [str(ROOT / "src/llava_grounding/weights/nano"), "published", "0.4"],
    "plot_log.py": ["curves.svg", "run", "run"],
    "talk_about_photo.py": ["photo.jpg", "What is in the image?", "How many things are there?"],
    "write_data_set.py": ["mydata", "2"],
    "lmms_eval_adapter.py": ["set.jsonl", "task"],
    "time_grounder.py": ["--preset", "nano", "--image-size", "160", "160", "--threads", "1", "--runs", "1"],
}
NEED_MODEL = {"ask_many.py", "publish_checkpoint.py", "talk_about_photo.py"}


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in, with a picture called photo.jpg and the log of a training in `run`; what a page registers is
    forgotten afterwards."""
    Image.fromarray(draw_scene(10**9).image).resize((640, 480)).save(tmp_path / "photo.jpg")
    (tmp_path / "run").mkdir()
    rows = [{"step": 50, "loss": 3.0, "language": 2.0}, {"step": 100, "phrase_f1": 0.25}]
    (tmp_path / "run/log.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (tmp_path / "run/recipe.json").write_text(json.dumps({"steps": 100, "batch_size": 10}))
    one = BenchmarkSample("1", "photo.jpg", (640, 480), answer="yes")
    SampleSet("pope", "one", (one,)).write(tmp_path / "set.jsonl")
    monkeypatch.chdir(tmp_path)
    with ExitStack() as registries:
        for registry in (READERS, PRESETS, TASKS, EXPORTERS):
            registries.enter_context(mock.patch.dict(registry))
        yield tmp_path


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Puts back what an example may set."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def model_is_here() -> bool:
    """Whether the embedded model is in this checkout."""
    try:
        find_checkpoint(None)
    except LlavaGroundingError:
        return False
    return True


def python_blocks(page: Path) -> list[Block]:
    return [block for block in blocks(page) if block.language == "python"]


def test_the_api_reference_names_everything_public() -> None:
    named = set(re.findall(r"^::: llava_grounding\.(\w+)$", PAGES["docs/api.md"].read_text(), re.MULTILINE))
    assert set(llava_grounding.__all__) - {"__version__", "LlavaGroundingError"} == named - {"errors"}


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if python_blocks(page)])
def test_the_python_on_a_page_runs_from_top_to_bottom(name: str, workplace: Path) -> None:
    space: dict[str, Any] = {"__name__": "__main__"}
    for block in python_blocks(PAGES[name]):
        # Blank lines in front: a traceback then shows the line of the page.
        code = compile("\n" * (block.line - 1) + block.text, name, "exec")
        if block.note != NEEDS_MODEL or model_is_here():
            exec(code, space)


@pytest.mark.parametrize("name", PAGES)
def test_every_relative_link_leads_to_a_file(name: str) -> None:
    page = PAGES[name]
    prose = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    prose = re.sub(r"`[^`\n]*`", "", prose)
    targets = [link.partition("#")[0] for link in _LINK.findall(prose) if not re.match(r"[a-z]+:", link)]
    assert [target for target in targets if target and not (page.parent / target).exists()] == []


def test_every_module_that_a_page_names_is_there() -> None:
    known = {path.name for folder in ("src", "tests", "examples") for path in (ROOT / folder).rglob("*.py")}
    past = ("CHANGELOG", "experiments", "decisions")  # what was there once
    now = {name: page.read_text(encoding="utf-8") for name, page in PAGES.items() if not any(p in name for p in past)}
    named = {(name, Path(module).name) for name, text in now.items() for module in _MODULE.findall(text)}
    assert not [one for one in named if one[1] not in known]


def test_every_module_stands_in_a_table_of_files() -> None:
    lines = [line for path in CLI_PAGE.parent.glob("*.md") for line in path.read_text(encoding="utf-8").splitlines()]
    cells = [line.split("|")[1] for line in lines if line.startswith("| ")]
    named = {Path(one).name.removesuffix(".py") for cell in cells for one in re.findall(r"`([\w/.*]+)`", cell)}
    modules = [path for path in PACKAGE.rglob("*.py") if not path.stem.startswith("__")]
    assert [
        str(path.relative_to(PACKAGE)) for path in modules if not any(fnmatch(path.stem, one) for one in named)
    ] == []


def test_the_table_of_stages_has_every_stage_and_no_other() -> None:
    page = PAGES["docs/training.md"].read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| stage \|.*\n\|[-|]+\n((?:\|.*\n)+)", page, re.MULTILINE)
    assert sorted(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == sorted(STAGES)


def test_kinds_of_data_on_the_pages_are_kinds_that_are_read() -> None:
    now = [page.read_text(encoding="utf-8") for name, page in PAGES.items() if "CHANGELOG" not in name]
    listed = [kinds for text in now for kinds in re.findall(r"\(kinds? ((?:`\w+`(?:, | and | or )?)+)", text)]
    named = {kind for kinds in listed for kind in re.findall(r"`(\w+)`", kinds)}
    named |= {kind for text in now for kind in re.findall(r"\{kind: (\w+)", text)}
    assert len(named) > 5
    assert named - {*READERS, "photos", "scenes"} == set()


def test_the_help_texts_on_the_page_of_commands_are_current() -> None:
    page = CLI_PAGE.read_text(encoding="utf-8")
    assert with_current_help(page) == page, "bring them up to date with `make docs`"


def test_values_of_options_have_names_not_types() -> None:
    page = CLI_PAGE.read_text(encoding="utf-8")
    assert re.findall(r"^ +(--\S+) <(?:str|int|float|path)[ >]", page, re.MULTILINE) == []
    assert "; default " not in page  # it stands behind the sentence, in brackets


def test_every_command_has_its_help_on_the_page_of_commands() -> None:
    page = CLI_PAGE.read_text(encoding="utf-8")
    assert [name for name in command_names() if f"$ llava-grounding {name} --help" not in page] == []


def command_names() -> list[str]:
    single = [command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands]
    return single + [group.name or "" for group in app.registered_groups]


@pytest.mark.parametrize("name", PAGES)
def test_the_command_lines_on_a_page_name_commands_and_options_that_exist(name: str) -> None:
    for command, rest in _COMMAND.findall(PAGES[name].read_text(encoding="utf-8")):
        assert command in command_names()
        is_group = command in {group.name for group in app.registered_groups}
        kind = list(takewhile(re.compile(r"[a-z][a-z-]*").fullmatch, rest.split()))[: 2 if is_group else 0]
        known = help_text(command, *kind)
        said = re.sub(r'"[^"]*"', "", rest).partition(" #")[0]
        assert [option for option in re.findall(r"--[a-z-]+", said) if f"{option} " not in f"{known} "] == []


@pytest.mark.parametrize("name", PAGES)
def test_the_make_targets_on_a_page_exist(name: str) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(_MAKE.findall(PAGES[name].read_text(encoding="utf-8"))) <= set(targets)


def test_the_tree_in_the_readme_shows_exactly_the_rooms_there_are() -> None:
    (block,) = [block for block in blocks(ROOT / "README.md") if block.note == "<!-- rooms: src/llava_grounding -->"]
    shown = [line.split("/")[0].strip() for line in block.text.splitlines()[1:]]
    assert sorted(shown) == sorted(path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name[0] != "_")


@pytest.mark.parametrize("folder", ["docs", "docs/decisions"])
def test_the_index_of_a_folder_names_each_of_its_pages(folder: str) -> None:
    index = (ROOT / folder / "README.md").read_text(encoding="utf-8")
    here = [page.name for page in (ROOT / folder).glob("*.md") if page.name != "README.md"]
    assert [name for name in here if f"({name})" not in index] == []


def test_the_answer_on_the_page_of_its_format_is_one() -> None:
    (block,) = [block for block in blocks(ROOT / "docs" / "answer-format.md") if block.language == "json"]
    data = json.loads(block.text)
    schema = json.loads((PACKAGE / "schemas" / "answer.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(data, schema)
    assert GroundedAnswer.from_dict(data).to_dict() == data


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_configuration(name: str) -> None:
    assert preset(name).image_sequence_length > 0


@pytest.mark.parametrize("path", shipped_recipes().values(), ids=lambda path: path.name)
def test_every_recipe_loads_and_opens_with_the_line_that_runs_it(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.stage in STAGES
    assert recipe.preset in PRESETS
    first = path.read_text(encoding="utf-8").splitlines()[0]
    command = r"(llava-grounding|torchrun --nproc-per-node \d+ -m llava_grounding)"
    assert re.match(rf"# {command} train {path.stem} ", first)


def test_every_example_has_a_line_that_runs_it_here() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == EXAMPLES.keys()


@pytest.mark.parametrize("name", EXAMPLES)
@pytest.mark.usefixtures("workplace", "one_thread")
def test_every_example_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in NEED_MODEL and not model_is_here():
        pytest.skip("the embedded model is not in this checkout")
    monkeypatch.setattr("sys.argv", [name, *EXAMPLES[name]])
    runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")


def test_curves_of_several_stages_follow_each_other(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["plot_log.py", *EXAMPLES["plot_log.py"]])
    runpy.run_path(str(ROOT / "examples/plot_log.py"), run_name="__main__")
    drawing = ElementTree.parse(workplace / "curves.svg").getroot()
    lines = drawing.findall("{*}polyline")
    assert len(lines) == 4  # two numbers in two stages
    first, second, *_ = (float(line.get("points").split(",")[0]) for line in lines)
    axis = drawing.find("{*}line")
    start, end = float(axis.get("x1")), float(axis.get("x2"))
    assert first == pytest.approx(start + (end - start) / 4, abs=0.2)  # after 500 of 2,000 samples
    assert second == pytest.approx(start + (end - start) * 3 / 4, abs=0.2)
    assert [text.text for text in drawing.findall("{*}text")].count("run") == 4
