"""Our tensors against one recorded file, name by name, and the lines that a group's comparison comes to.

Names are matched against patterns: `{i}` stands for a number, `*` for anything. A recorded tensor without a pattern or
without a counterpart, and a counterpart that was not recorded, are findings too: nothing passes by not being looked at.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from tolerances import TOLERANCES, Difference, compare
from torch import Tensor

Tensors = Mapping[str, Tensor]
ZERO_GRADIENT_SHARE = 0.01
"""Of the norm of a weight's gradient: less than any bias has that is not in front of a normalisation."""


@dataclass(frozen=True)
class Table:
    """What a kind of file holds."""

    compared: Mapping[str, str]
    """Pattern of a tensor's name to its tolerance class; the first that fits counts."""
    inputs: tuple[str, ...] = ()
    """Patterns of tensors that are read, not compared."""
    optional: tuple[str, ...] = ()
    """Patterns of tensors that the recording leaves out of some files."""


@dataclass
class Line:
    """All tensors of one pattern."""

    pattern: str
    tolerance: str
    count: int = 0
    worst: Difference = field(default_factory=lambda: Difference(0.0, 0.0))
    where: str = ""
    """File and name of the worst."""

    @property
    def ok(self) -> bool:
        """All of them are close enough."""
        return self.worst.ok


@dataclass
class Ledger:
    """The comparison of one group of recordings."""

    name: str
    lines: dict[str, Line] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    """What is missing or unknown."""
    notes: list[str] = field(default_factory=list)
    """What was not recorded and need not be."""

    @property
    def ok(self) -> bool:
        """Everything was there and close enough, and there was something."""
        return bool(self.lines) and not self.problems and all(line.ok for line in self.lines.values())

    @property
    def num_tensors(self) -> int:
        """Tensors compared."""
        return sum(line.count for line in self.lines.values())

    def compare_file(self, file: str, recorded: Tensors, ours: Tensors, table: Table) -> None:
        """Compare all tensors of one file."""
        names = [name for name in recorded if first_fit(name, table.inputs) is None]
        fits = {name: first_fit(name, table.compared) for name in names}
        for pattern, tolerance in table.compared.items():
            for name in names:
                if fits[name] == pattern and name in ours:
                    scale = gradient_scale(name, recorded) if tolerance == "G" else 0.0
                    difference = compare(ours[name], recorded[name], TOLERANCES[tolerance], scale)
                    self._enter(pattern, tolerance, f"{file} {name}", difference)
        for name in names:
            if fits[name] is None or name not in ours:
                self.problems.append(f"unknown tensor `{name}` in {file}: nothing of ours to compare it with")
        missing = [name for name in ours if name not in recorded]
        optional = [name for name in missing if first_fit(name, table.optional) is not None]
        self.problems += [f"missing tensor `{name}` in {file}" for name in missing if name not in optional]
        if optional:
            self.notes.append(f"not recorded in {file}: {', '.join(optional)}")

    def require(self, recorded: Tensors, names: Iterable[str], file: str) -> bool:
        """Note the inputs that a file lacks; False if it cannot be checked at all."""
        missing = [name for name in names if name not in recorded]
        self.problems += [f"missing tensor `{name}` in {file}: the file is not checked" for name in missing]
        return not missing

    def _enter(self, pattern: str, tolerance: str, where: str, difference: Difference) -> None:
        line = self.lines.setdefault(pattern, Line(pattern, tolerance))
        line.count += 1
        if line.count == 1 or difference.allowed_share > line.worst.allowed_share:
            line.worst, line.where = difference, where


def as_recorded(values: Mapping[str, object]) -> dict[str, Tensor]:
    """Numbers and lists of numbers of a JSON file as if they were recorded tensors."""
    return {name: torch.as_tensor(value, dtype=torch.float64) for name, value in values.items()}


def gradient_scale(name: str, recorded: Tensors) -> float:
    """The least norm that a gradient's difference is measured by: a share of that of the weight beside a bias.

    A bias in front of a normalisation has a gradient of zero in theory, and in a recording the noise of its sum: there
    is nothing in it that a difference could be relative to. Gradients that are no noise are far larger than the share.
    """
    kind, _, parameter = name.partition(".")
    if kind not in ("grad", "grad_norms") or not parameter.endswith("bias"):
        return 0.0
    weight = parameter.removesuffix("bias") + "weight"
    found = [recorded[place] for place in (f"grad.{weight}", f"grad_norms.{weight}") if place in recorded]
    return ZERO_GRADIENT_SHARE * max((value.double().norm().item() for value in found), default=0.0)


def first_fit(name: str, patterns: Iterable[str]) -> str | None:
    return next((pattern for pattern in patterns if re.fullmatch(_expression(pattern), name)), None)


def _expression(pattern: str) -> str:
    return re.escape(pattern).replace(r"\{i\}", r"\d+").replace(r"\*", ".*")
