"""What a conversion did: where everything went, what was left out and why, what starts fresh."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from llava_grounding.convert.plan import Plan


@dataclass(frozen=True)
class PartReport:
    """One part of the model."""

    name: str
    keys: int
    """Stored tensors that went into it, further names of shared ones not counted."""
    parameters: int
    dtype: str


@dataclass(frozen=True)
class ConversionReport:
    """What became of every part of a converted checkpoint."""

    source: Path
    out: Path
    files: tuple[str, ...]
    """Written weight files."""
    parts: tuple[PartReport, ...]
    aliases: int
    """Further names of shared tensors; all were equal."""
    left_out: dict[str, int]
    """Keys without a place here, counted by reason."""
    fresh: dict[str, int] = field(default_factory=dict)
    """Parameters that were not stored and start fresh, by tensor."""
    token_ids: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Number of parameters of the converted model."""
        return sum(part.parameters for part in self.parts) + sum(self.fresh.values())

    def fresh_parts(self) -> dict[str, int]:
        """Parameters that start fresh: by part where all of it does, else by what is in it."""
        filled = {part.name for part in self.parts}
        grouped: dict[str, list[str]] = {}
        for name in self.fresh:
            part, inner = name.split(".")[:2]
            grouped.setdefault(f"{part}.{inner}" if part in filled else part, []).append(name)
        return {
            names[0] if len(names) == 1 else group: sum(self.fresh[name] for name in names)
            for group, names in grouped.items()
        }

    def lines(self) -> list[str]:
        """The report as text."""
        width = max(len(part.name) for part in self.parts)
        rows = [
            f"{part.name:{width}}  {part.keys:5d} keys  {part.parameters:13,d} parameters  {part.dtype}"
            for part in self.parts
        ]
        rows += [f"{'all':{width}}  {sum(part.keys for part in self.parts):5d} keys  {self.parameters:13,d} parameters"]
        if self.aliases:
            rows.append(f"{self.aliases} keys were further names of shared tensors, and equal")
        rows += [f"{count} keys left out: what they hold {reason}" for reason, count in sorted(self.left_out.items())]
        rows += [f"starts fresh: {name}, {count:,d} parameters" for name, count in self.fresh_parts().items()]
        if self.token_ids:
            rows.append("ids: " + ", ".join(f"{name} {number}" for name, number in self.token_ids.items()))
        return [*rows, *self.notes, f"{len(self.files)} weight file{'s' * (len(self.files) > 1)} in {self.out}"]


def count_parts(plan: Plan, part_of: Callable[[str], str], dtype_of: Callable[[str], object]) -> tuple[PartReport, ...]:
    """Keys and parameters by part, in the order in which parts come first."""
    keys: Counter[str] = Counter()
    parameters: Counter[str] = Counter()
    dtypes: dict[str, set[str]] = {}
    for move in plan.moves:
        part = part_of(move.names[0])
        keys[part] += 1
        parameters[part] += torch.Size(move.part_shape).numel() * len(move.names)
        dtypes.setdefault(part, set()).add(str(dtype_of(move.names[0])).removeprefix("torch."))
    return tuple(PartReport(part, keys[part], parameters[part], "/".join(sorted(dtypes[part]))) for part in keys)
