"""Settings of the grounder's losses beside their weights, reachable from a recipe. Knows no tensors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FocalSettings:
    """The focal loss of queries and their focal cost of matching (arXiv:1708.02002); as in the original."""

    alpha: float = 0.25
    """Weight of positive entries, 0 to 1; negative ones have the rest."""
    gamma: float = 2.0
    """Power of the error that multiplies the cross-entropy: 0 weighs easy entries as hard ones."""


@dataclass(frozen=True)
class DenoisingNoise:
    """How noised copies of objects differ from them (arXiv:2203.01305)."""

    label_noise_ratio: float = 0.2
    """Share of copies that begin with a wrong name."""
    box_noise_scale: float = 0.4
    """How far a box strays: its middle by half of this share of its size, each side by this share."""


@dataclass(frozen=True)
class CellTargets:
    """What a memory cell is said to show, in the cross-entropy of cells over class names."""

    background_weight: float = 0.1
    """Weight of a background cell, there being many."""
    min_coverage: float = 0.5
    """Part of a cell from which on a thing's mask makes it that thing's."""
    max_background_coverage: float = 0.05
    """Part of a cell up to which it is still background."""
    box_middle: float = 0.5
    """Part of a box's sides, around its middle, in which a thing without a mask is taken to be seen."""
