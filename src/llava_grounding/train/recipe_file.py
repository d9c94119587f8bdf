"""Recipe files: found by name or path, and read as plain YAML of bounded size and depth. Knows no field of a recipe."""

from __future__ import annotations

import errno
import stat
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from llava_grounding.errors import ConfigError, did_you_mean, nearest, quoted
from llava_grounding.train.renamed import FORMER_RECIPES, former_name

MAX_BYTES = 2**18
"""Bytes of a recipe file at most."""
MAX_DEPTH = 32
"""Lists and mappings in each other."""
MAX_VALUES = 20_000
"""Values of a recipe file at most, keys counted as well; PyYAML takes a tenth of a millisecond for each."""
_SHIPPED = Path(__file__).parent / "recipes"
_SUFFIX = ".yaml"
_MAX_NUMBER = 300  # characters a number is written in: a float holds it, and PyYAML's time grows with their square
_MERGE = "tag:yaml.org,2002:merge"
_PATH = 300  # characters a message shows of a path


def shipped_recipes() -> dict[str, Path]:
    """The recipes inside the package, by name."""
    return {path.stem: path for path in sorted(_SHIPPED.glob(f"*{_SUFFIX}"))}


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe: one that ships, by its name, or any other by its path.

    Raises:
        ConfigError: if there is none; the message says which there are.
    """
    shipped = shipped_recipes()
    present = FORMER_RECIPES.get(str(name), str(name))
    if present in shipped:
        return shipped[present]
    path = Path(name)
    if str(name) and _exists(path):
        return path
    if renamed := former_name("recipe", str(name)):
        raise ConfigError(renamed)
    if path.suffix not in (_SUFFIX, ".yml", ".json") and path.name in ("", str(name)):
        known = f"those that ship are {', '.join(shipped)}; any other is given by the path of its file"
        raise ConfigError(f"there is no recipe {quoted(str(name), _PATH)}{did_you_mean(str(name), shipped)}; {known}")
    near = nearest(path.stem, shipped)
    hint = f"; `{near}` ships with the package and is found by that name" if near is not None else ""
    raise ConfigError(f"cannot read the recipe {quoted(str(name), _PATH)}: No such file or directory{hint}")


def read_recipe_file(path: Path) -> dict[str, Any]:
    """What a recipe file says: keys and values, unchecked.

    Raises:
        ConfigError: in one sentence with file and line, if it is no plain YAML: with aliases, merge keys, a key that
            stands twice, numbers of hundreds of digits, or more than `MAX_DEPTH` levels, `MAX_VALUES` values or
            `MAX_BYTES` bytes.
    """
    name = quoted(str(path), _PATH)
    try:
        if not stat.S_ISREG(path.stat().st_mode) and not path.is_dir():
            raise ConfigError(f"the recipe {name} is no file, but a device or a pipe; give a file")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the recipe {name}: {getattr(error, 'strerror', None) or error}") from error
    if len(content) > MAX_BYTES:
        raise ConfigError(f"the recipe {name} has more than {MAX_BYTES // 1024} KiB; is it a recipe?")
    try:
        values = parse_yaml(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"the recipe {name} is not UTF-8 text") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"the recipe {name} is not valid YAML: {yaml_problem(error)}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"the recipe {name} must be a mapping of keys to values")
    return values


def parse_yaml(text: str) -> Any:
    """Plain YAML as values.

    Raises:
        yaml.YAMLError: for everything that is none; see `yaml_problem`.
    """
    return yaml.load(text, _PlainLoader)


def yaml_problem(error: yaml.YAMLError) -> str:
    """What is wrong, in some words, with the line."""
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "it cannot be read"
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return f"{problem}, line {mark.line + 1}" if mark is not None else str(problem)


class _PlainLoader(yaml.SafeLoader):
    """YAML without what a recipe has no use for, and what lets a short file mean a huge one."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._values = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _refused("anchors and aliases are not read; write the value out", event)
        self._values += 1
        if self._values > MAX_VALUES:
            raise _refused(f"more than {MAX_VALUES:,} values; is it a recipe?", event)
        if self._depth > MAX_DEPTH:
            raise _refused(f"more than {MAX_DEPTH} lists and mappings in each other", event)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key_node.tag == _MERGE:
                raise _refused("merge keys (`<<`) are not read; write the values out", key_node)
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise _refused("a key must be text", key_node)
            if key in seen:
                raise _refused(f"the key {quoted(key)} stands there twice", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        number = node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        if number and len(node.value) > _MAX_NUMBER:
            raise _refused(f"a number is written in at most {_MAX_NUMBER} characters", node)
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError) as error:  # of a wrong value
            raise _refused(f"{quoted(node.value)} is no {node.tag.rpartition(':')[2]}", node) from error


def _refused(problem: str, where: Any) -> yaml.MarkedYAMLError:
    """The error for an event or a node."""
    return yaml.MarkedYAMLError(problem=problem, problem_mark=where.start_mark)


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError as error:  # else there, but not for us: reading will say so
        return error.errno != errno.ENAMETOOLONG
    return True
