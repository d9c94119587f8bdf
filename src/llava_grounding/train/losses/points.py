"""Random points at which masks are compared, and bilinear sampling at such points.

Points are (x, y) in [0, 1] of the canvas. By default torch's generator draws them in the order of the original code,
so that the same seed gives the same losses; a mapping or a callable can feed recorded ones instead.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PointSource = Callable[[str, tuple[int, ...]], Tensor] | Mapping[str, Tensor]
"""Gives the points called `final.matcher.0`, `aux1.mask_loss.oversampled`, ... of a wanted shape."""


@dataclass(frozen=True)
class PointDraws:
    """All random points of one loss computation; D predictions, B images, P pairs."""

    matcher: Tensor | None
    """[D, B, points, 2], shared by all queries and objects of an image."""
    oversampled: Tensor | None
    """[D, P, candidates, 2], of which the most uncertain are kept."""
    random_tail: Tensor | None
    """[D, P, rest, 2], kept whatever the prediction says there."""


@dataclass(frozen=True)
class PointPlan:
    """How many points of which sort to draw; None or 0 for none."""

    matcher: int | None
    oversampled: int
    random_tail: int

    @classmethod
    def of_masks(
        cls, num_points: int | None, oversample_ratio: float, importance_ratio: float, matcher: int | None = None
    ) -> "PointPlan":
        """What judges masks at `num_points`: candidates, and those of the points that are left to chance."""
        total = num_points or 0
        return cls(matcher, int(total * oversample_ratio), total - int(importance_ratio * total))

    def draw(
        self,
        names: tuple[str, ...],
        num_images: int,
        num_pairs: int,
        device: torch.device,
        source: PointSource | None = None,
        generator: torch.Generator | None = None,
    ) -> PointDraws:
        """Draw for the predictions `names` in the original's order: per prediction its images, then its pairs."""

        def one(name: str, *shape: int) -> Tensor:
            if source is None:
                return torch.rand(shape, device=device, generator=generator)
            points = source(name, shape) if callable(source) else source[name]
            return points.to(device).expand(shape)

        matcher, oversampled, tail = [], [], []
        for name in names:
            if self.matcher:
                images = [one(f"{name}.matcher.{image}", 1, self.matcher, 2) for image in range(num_images)]
                matcher.append(torch.cat(images))
            if num_pairs and self.oversampled + self.random_tail:
                oversampled.append(one(f"{name}.mask_loss.oversampled", num_pairs, self.oversampled, 2))
                tail.append(one(f"{name}.mask_loss.random_tail", num_pairs, self.random_tail, 2))
        return PointDraws(
            torch.stack(matcher) if matcher else None,
            torch.stack(oversampled) if oversampled else None,
            torch.stack(tail) if tail else None,
        )


def sample_maps(maps: Tensor, points: Tensor) -> Tensor:
    """Values of maps [n, C, h, w] at points [n, K, 2], as [n, C, K]: bilinear between cell centres, zero outside."""
    grid = 2.0 * points.unsqueeze(1) - 1.0
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False).squeeze(2)


def sample_masks(masks: Tensor, rows: Tensor, points: Tensor) -> Tensor:
    """Values of byte masks [N, H, W] as `sample_maps` gives them: for row r [R] at points [R, K, 2], [R, K] floats.

    The masks stay bytes and are not copied per row: only the four corners of each point are read.
    """
    bordered = F.pad(masks, (1, 1, 1, 1))
    height, width = bordered.shape[1:]
    # Pixel centres lie at +0.5, the border adds 1; points in [0, 1] then fall inside of the bordered mask.
    x = points[..., 0] * (width - 2) + 0.5
    y = points[..., 1] * (height - 2) + 0.5
    left, top = x.floor().clamp_(0, width - 2), y.floor().clamp_(0, height - 2)
    right_part, lower_part = x - left, y - top
    corner = (rows.unsqueeze(1) * height + top.long()) * width + left.long()
    flat = bordered.flatten()
    upper = torch.lerp(flat[corner].float(), flat[corner + 1].float(), right_part)
    corner = corner + width
    lower = torch.lerp(flat[corner].float(), flat[corner + 1].float(), right_part)
    return torch.lerp(upper, lower, lower_part)


def keep_uncertain(logits: Tensor, points: Tensor, count: int) -> Tensor:
    """The `count` points of [n, K, 2] whose mask logits [n, K] are nearest to the mask's border, in any order."""
    chosen = logits.abs().topk(count, dim=1, largest=False, sorted=False).indices
    return points.gather(1, chosen.unsqueeze(2).expand(-1, -1, 2))
