"""The house: versions and pins, sizes of files and functions, what is imported and what may not be written anywhere."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.licenses import canonicalize_license_expression
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import llava_grounding
from house import PACKAGE, ROOT, files

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 80
FRAGMENTS = "Of|For|By|As|With|Without|Its|Sent|Where|What|Whether|Which|How|Another|The same|Chooses"  # no nouns
TEXT_SUFFIXES = {".py", ".md", ".toml", ".yaml", ".txt", ".in", ".json", ".css", ".html", ".js", ""}
# Written in pieces, so that this file does not hold them itself.
MACHINE_PLACES = ["/" + "work/", "/" + "opt/", "/" + "root/", "/" + "home/", "/" + "Users/", "/" + "tmp/"]
REGISTRIES = ["pypi" + ".org", "python" + "hosted.org", "download.py" + "torch.org"]
DISTRIBUTIONS = {
    "PIL": "pillow",
    "distributed": "dask",
    "yaml": "pyyaml",
    "huggingface_hub": "huggingface-hub",
    "prometheus_client": "prometheus-client",
    "pydantic_core": "pydantic-core",
}
"""Of imports that are named otherwise than what is installed."""
FURTHER_EXTRAS = {
    "data": ["parquet"],
    "detections.py": ["supervision"],
    "endpoints": ["annotate"],
    "labelling": ["cluster"],
}
"""Of rooms, beside the one that is called as they are."""

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MODULES = sorted(PACKAGE.rglob("*.py"))


def test_the_version_is_written_in_one_place() -> None:
    assert "version" not in PROJECT["project"]
    assert PROJECT["project"]["dynamic"] == ["version"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "src/llava_grounding/__init__.py"
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", llava_grounding.__version__)


def test_the_licence_names_the_terms_of_all_that_the_wheel_holds() -> None:
    project = PROJECT["project"]
    assert canonicalize_license_expression(project["license"]) == project["license"]
    assert "LicenseRef-nano-weights" in project["license"].split(" AND ")
    assert "LicenseRef-nano-weights" in (ROOT / "NOTICE").read_text(encoding="utf-8")
    assert project["license-files"] == ["LICENSE", "NOTICE", "src/llava_grounding/weights/nano/README.md"]
    assert [name for name in project["license-files"] if not (ROOT / name).is_file()] == []


def requirements() -> dict[str, list[Requirement]]:
    """What pyproject.toml asks for, by extra; the package's own extras left out."""
    groups = {"core": PROJECT["project"]["dependencies"], **PROJECT["project"]["optional-dependencies"]}
    parsed = {name: [Requirement(line) for line in lines] for name, lines in groups.items()}
    return {name: [r for r in lines if r.name != PROJECT["project"]["name"]] for name, lines in parsed.items()}


def pins() -> dict[str, str]:
    """Version by name, as constraints.txt has them."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    parsed = dict(line.split("==") for line in lines)
    return {canonicalize_name(name): version for name, version in parsed.items()}


def test_constraints_pin_every_dependency_to_a_version_it_allows() -> None:
    pinned = pins()
    for requirement in (r for lines in requirements().values() for r in lines):
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} has no pin; run `make constraints`"
        assert requirement.specifier.contains(version, prereleases=True)


def test_constraints_hold_names_and_versions_and_nothing_else() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line)] == []


def test_every_lower_bound_is_one() -> None:
    unbounded = [r.name for lines in requirements().values() for r in lines if not r.specifier]
    assert [name for name in unbounded if not name.startswith("types-")] == []


def third_party_imports(path: Path) -> Iterator[str]:
    """Top-level names a module imports, wherever in it, that are neither ours nor Python's."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module]
        for name in names:
            top = name.partition(".")[0]
            if top not in sys.stdlib_module_names and top != "llava_grounding":
                yield top


@pytest.mark.parametrize("room", sorted({path.relative_to(PACKAGE).parts[0] for path in MODULES}))
def test_a_room_imports_only_what_its_installation_brings(room: str) -> None:
    asked = requirements()
    allowed = {r.name for group in ("core", room, *FURTHER_EXTRAS.get(room, [])) for r in asked.get(group, [])}
    place = PACKAGE / room
    imported = {
        DISTRIBUTIONS.get(name, name)
        for path in MODULES
        if path == place or place in path.parents
        for name in third_party_imports(path)
    }
    assert imported - allowed == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_says_what_it_is_and_stays_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "it must open with what is inside"
    assert len(text.splitlines()) <= MAX_FILE_LINES
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {f.name: length for f in functions if (length := (f.end_lineno or 0) - f.lineno + 1) > MAX_FUNCTION_LINES}
    assert long == {}
    cut = re.findall(r'"""(?:Of|For|In|By|As) [^"\n]{0,60}"""', text)
    assert cut == [], "a docstring must say what the thing is"
    cut = re.findall(rf'(?:help=|description=|_file\()f?"(?:{FRAGMENTS}) [^"\n]*', text)
    assert cut == [], "a help text must name what is given"


def test_no_file_names_a_place_on_somebodys_machine_or_a_registry() -> None:
    found = []
    for path in files():
        if path.suffix not in TEXT_SUFFIXES or path.name == "LICENSE":
            continue
        text = path.read_text(encoding="utf-8")
        found += [f"{path.relative_to(ROOT)}: {word}" for word in MACHINE_PLACES + REGISTRIES if word in text]
    assert found == []


def test_make_needs_nothing_that_the_make_of_macos_lacks() -> None:
    # GNU make 3.81 has neither `!=`, `::=`, `$(file ...)`, `.ONESHELL` nor `&:`.
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.findall(r"^\S+ *(?:!=|::=)|\$\(file |^\.ONESHELL|&:", text, re.MULTILINE) == []
