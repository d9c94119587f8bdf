"""How close two tensors must be: the classes of the recorded numbers, and the comparison itself.

Knows nothing of the groups. Every class is 5 to 20 times the noise that the original shows against itself.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

PADDED_PHRASE_LOGIT = -100.0


@dataclass(frozen=True)
class Tolerance:
    """One class; exactly one of `atol`/`rtol`, `differing` and `frobenius` speaks."""

    meaning: str
    atol: float = 0.0
    """Largest absolute difference, added to `rtol` times the recorded value."""
    rtol: float = 0.0
    differing: float | None = None
    """Largest share of pixels that differ."""
    frobenius: float | None = None
    """Largest norm of the difference, relative to the recorded norm."""
    padding_agrees: bool = False
    """Entries of -100 must be the same ones."""

    def __str__(self) -> str:
        if self.differing is not None:
            return f"{self.differing:.1%} of pixels"
        if self.frobenius is not None:
            return f"relative norm {self.frobenius:g}"
        return f"atol {self.atol:g} rtol {self.rtol:g}" if self.atol or self.rtol else "equal"


TOLERANCES = {
    "E": Tolerance("equal"),
    "E1": Tolerance("resized bytes", atol=1.0),
    "P": Tolerance("plain arithmetic", atol=1e-5, rtol=1e-5),
    "F": Tolerance("features, hidden states, boxes", atol=3e-4, rtol=1e-3),
    "L": Tolerance("logits, mask logits, costs", atol=5e-3, rtol=1e-3, padding_agrees=True),
    "R": Tolerance("shares of the picture, content rounded to whole pixels of the canvas", atol=8e-3),
    "B": Tolerance("binary masks", differing=0.002),
    "S": Tolerance("losses", atol=1e-5, rtol=1e-4),
    "S2": Tolerance("losses of a whole training step", atol=1e-4, rtol=1e-3),
    "G": Tolerance("gradients", frobenius=2e-3),
}


@dataclass(frozen=True)
class Difference:
    """How far one tensor is from the recorded one."""

    error: float
    """In the unit of the class: largest absolute difference, share of pixels, or relative norm."""
    allowed_share: float
    """1 is as far as the class allows; more is a failure."""
    note: str = ""
    """What is wrong when numbers cannot say it."""

    @property
    def ok(self) -> bool:
        """Within the class."""
        return self.allowed_share <= 1.0


def compare(ours: Tensor, recorded: Tensor, tolerance: Tolerance, scale: float = 0.0) -> Difference:
    """Compare in double precision. Infinities must agree in place and sign, NaN agrees with nothing.

    Args:
        scale: for a `frobenius` class: the norm that the difference is relative to, where the recorded one is smaller.
    """
    ours, recorded = ours.detach().cpu(), recorded.detach().cpu()
    if ours.shape != recorded.shape:
        return _wrong(f"shape {tuple(ours.shape)}, recorded {tuple(recorded.shape)}")
    if recorded.numel() == 0:
        return Difference(0.0, 0.0)
    ours, recorded = ours.double(), recorded.double()
    finite = recorded.isfinite()
    if not torch.equal(finite, ours.isfinite()) or not torch.equal(ours[~finite], recorded[~finite]):
        return _wrong("infinities or NaN in other places")
    if tolerance.padding_agrees and not torch.equal(ours == PADDED_PHRASE_LOGIT, recorded == PADDED_PHRASE_LOGIT):
        return _wrong("entries of -100 in other places")
    return _measure(ours[finite], recorded[finite], tolerance, scale)


def _measure(ours: Tensor, recorded: Tensor, tolerance: Tolerance, scale: float) -> Difference:
    if len(recorded) == 0:
        return Difference(0.0, 0.0)
    if tolerance.differing is not None:
        share = ((ours > 0) != (recorded > 0)).double().mean().item()
        return Difference(share, share / tolerance.differing)
    gap = (ours - recorded).abs()
    if tolerance.frobenius is not None:
        norm = max(recorded.norm().item(), scale)
        if norm == 0.0:
            return Difference(gap.norm().item(), torch.inf if gap.any() else 0.0)
        error = gap.norm().item() / norm
        return Difference(error, error / tolerance.frobenius)
    allowed = tolerance.atol + tolerance.rtol * recorded.abs()
    share = torch.where(gap == 0, 0.0, gap / allowed).max().item()
    return Difference(gap.max().item(), share)


def _wrong(note: str) -> Difference:
    return Difference(torch.inf, torch.inf, note)
