"""Which stored tensor fills which of ours: settled and checked for the whole checkpoint before anything is written.

Every stored tensor has a place or a reason to have none, every one of ours is filled exactly once or starts fresh, and
several names of one tensor hold the same values. Knows no names itself.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from llava_grounding.convert.shards import Stored, read_tensors
from llava_grounding.errors import CheckpointError

_SHOWN = 3
_LETTERS = "qkv"
FLOATS = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32", torch.float64: "float64"}
"""Types of the weights that are read."""
_SUMMED_ROWS = 4096
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Rows:
    """A table that is cut and grown on its way."""

    stored: int
    """Rows of the stored table."""
    kept: int
    """The first of them, which stay."""
    added: int = 0
    """New ones after those, each the mean of the rows that stay."""

    def apply(self, table: Tensor) -> Tensor:
        """The table that becomes of a stored one."""
        kept = table[: self.kept]
        if not self.added:
            return kept
        total = torch.zeros(table.shape[1:], dtype=torch.float64)
        for some in kept.split(_SUMMED_ROWS):  # never a second whole table in another type
            total += some.sum(0, dtype=torch.float64)
        mean = (total / self.kept).to(table.dtype)
        return torch.cat([kept, mean.expand(self.added, *mean.shape)])


@dataclass(frozen=True)
class Move:
    """A stored tensor and what it becomes."""

    stored: Stored
    names: tuple[str, ...]
    """Our names of it: one, or three that share its rows (queries, keys, values)."""
    rows: Rows | None = None
    """How many rows ours has, if not as many."""

    @property
    def part_shape(self) -> tuple[int, ...]:
        """Shape of each of our parts."""
        shape = self.stored.shape
        if self.rows is not None:
            return (self.rows.kept + self.rows.added, *shape[1:])
        return shape if len(self.names) == 1 else (shape[0] // len(self.names), *shape[1:])

    def parts(self, tensor: Tensor) -> list[tuple[str, Tensor]]:
        """Name and values of each."""
        if self.rows is not None:
            return [(self.names[0], self.rows.apply(tensor))]
        if len(self.names) == 1:
            return [(self.names[0], tensor)]
        return list(zip(self.names, tensor.chunk(len(self.names)), strict=True))


@dataclass
class Plan:
    """What happens to each stored tensor."""

    moves: list[Move] = field(default_factory=list)
    aliases: list[tuple[Move, Stored]] = field(default_factory=list)
    """Further names of a tensor that is moved already."""
    left_out: list[Stored] = field(default_factory=list)
    fresh: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """What no checkpoint holds, by name."""


def make_plan(
    stored: Sequence[Stored],
    rename: Callable[[str], str | None],
    expected: Shapes,
    may_be_fresh: Callable[[str], bool],
    what: str = "the checkpoint",
) -> Plan:
    """Settle where everything goes.

    Args:
        what: is planned, for messages.
        rename: our name of a key, None to leave it out; `{qkv}` in it stands for three tensors.
        expected: shapes of ours.
        may_be_fresh: whether one of ours need not be stored.

    Raises:
        CheckpointError: naming what is unknown, missing or of another shape; all of it at once.
    """
    plan = Plan()
    unknown: list[str] = []
    misshapen: list[str] = []
    filled: set[str] = set()
    first: dict[tuple[str, ...], Move] = {}
    for entry in stored:
        try:
            name = rename(entry.key)
        except CheckpointError:
            unknown.append(entry.key)
            continue
        if name is None:
            plan.left_out.append(entry)
            continue
        names = tuple(name.replace("{qkv}", letter) for letter in _LETTERS) if "{qkv}" in name else (name,)
        if any(one not in expected for one in names):
            unknown.append(entry.key)
        elif (wanted := _joined(expected[names[0]], len(names))) != entry.shape:
            misshapen.append(f"`{entry.key}` is {_shown(entry.shape)}, expected {_shown(wanted)}")
            filled.update(names)
        elif entry.dtype not in FLOATS:
            misshapen.append(f"`{entry.key}` is of the type {_named(entry.dtype)}, expected {_listed(FLOATS.values())}")
            filled.update(names)
        elif names in first:
            plan.aliases.append((first[names], entry))
        else:
            first[names] = Move(entry, names)
            plan.moves.append(first[names])
            filled.update(names)
    empty = [name for name in expected if name not in filled]
    plan.fresh = {name: expected[name] for name in empty if may_be_fresh(name)}
    missing = [name for name in empty if name not in plan.fresh]
    _complain(what, unknown, misshapen, missing)
    return plan


def check_aliases(plan: Plan) -> None:
    """Hold names of one tensor to it, whatever files they are in.

    Raises:
        CheckpointError: if two of them hold different values.
    """
    wanted = {move.stored: None for move, _ in plan.aliases} | {entry: None for _, entry in plan.aliases}
    in_files = sorted(wanted, key=lambda entry: str(entry.path))
    digests = {entry: _digest(tensor) for entry, tensor in read_tensors(in_files)}
    for move, entry in plan.aliases:
        if digests[move.stored] != digests[entry]:
            raise CheckpointError(
                f"`{move.stored.key}` in {move.stored.path.name} and `{entry.key}` in {entry.path.name} "
                f"name one shared tensor but hold different values"
            )


def _digest(tensor: Tensor) -> bytes:
    values = tensor.to(torch.float64).reshape(-1).contiguous().view(torch.uint8)
    return hashlib.blake2b(values.numpy().data, digest_size=16).digest()


def _joined(shape: tuple[int, ...], count: int) -> tuple[int, ...]:
    return shape if count == 1 else (shape[0] * count, *shape[1:])


def _complain(what: str, unknown: list[str], misshapen: list[str], missing: list[str]) -> None:
    problems = []
    if unknown:
        problems.append(
            f"unknown key{'s' * (len(unknown) > 1)} {_listed(f'`{key}`' for key in unknown)}: "
            f"neither a counterpart nor known to be without use"
        )
    if misshapen:
        problems.append(_listed(misshapen))
    if missing:
        problems.append(f"nothing is stored for {_listed(f'`{name}`' for name in missing)}")
    if problems:
        raise CheckpointError(f"{what} is not of the expected kind: {'; '.join(problems)}")


def _listed(items: Iterable[str]) -> str:
    items = list(items)
    rest = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _shown(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"
