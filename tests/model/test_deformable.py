"""Deformable attention: its two ways to sample against each other and against bilinear sampling written out by hand."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from llava_grounding.errors import ConfigError
from llava_grounding.model.deformable import (
    MultiScaleDeformableAttention,
    pad_levels,
    sample_by_grid_sample,
    sample_padded_levels,
)

Sizes = tuple[tuple[int, int], ...]
SIZES: Sizes = ((2, 3), (5, 4), (1, 1))
CELLS = sum(height * width for height, width in SIZES)
level_sizes = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4).map(tuple)


def random_case(sizes: Sizes, seed: int, batch: int = 2, heads: int = 2, reach: float = 1.0) -> tuple[Tensor, ...]:
    """Value, points and weights; with reach 1 about half of the points lie outside their level."""
    generator = torch.Generator().manual_seed(seed)
    cells = sum(height * width for height, width in sizes)
    sides = torch.tensor([(width, height) for height, width in sizes], dtype=torch.float32)[:, None]
    value = torch.randn(batch, cells, heads, 3, generator=generator)
    places = torch.rand(batch, 5, heads, len(sizes), 2, 2, generator=generator)
    points = ((places - 0.5) * (1 + reach) + 0.5) * sides
    weights = torch.randn(batch, 5, heads, len(sizes), 2, generator=generator)
    return value, points, weights


def sample_by_gather(value: Tensor, sizes: Sizes, points: Tensor, weights: Tensor) -> Tensor:
    return sample_padded_levels(pad_levels(value, sizes), sizes, points, weights)


def gradients(sample: Callable[..., Tensor], case: tuple[Tensor, ...], sizes: Sizes) -> tuple[Tensor, ...]:
    leaves = [tensor.clone().requires_grad_() for tensor in case]
    result = sample(leaves[0], sizes, *leaves[1:])
    pull = torch.randn(result.shape, generator=torch.Generator().manual_seed(1))
    return torch.autograd.grad((result * pull).sum(), leaves)


@settings(deadline=None, max_examples=40)
@given(sizes=level_sizes, seed=st.integers(0, 999), reach=st.sampled_from([0.0, 1.0, 50.0]))
def test_gather_and_grid_sample_agree_inside_and_outside_of_any_levels(sizes: Sizes, seed: int, reach: float) -> None:
    value, points, weights = random_case(sizes, seed, reach=reach)
    ours = sample_by_gather(value, sizes, points, weights)
    torch.testing.assert_close(ours, sample_by_grid_sample(value, sizes, points, weights), atol=4e-6, rtol=1e-4)


@settings(deadline=None, max_examples=20)
@given(sizes=level_sizes, seed=st.integers(0, 999))
def test_gather_and_grid_sample_agree_in_all_gradients(sizes: Sizes, seed: int) -> None:
    case = random_case(sizes, seed)
    pairs = zip(gradients(sample_by_gather, case, sizes), gradients(sample_by_grid_sample, case, sizes), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_sampling_is_bilinear_with_zeros_outside() -> None:
    level = torch.tensor([[1.0, 2.0], [10.0, 20.0]])

    def at(x: float, y: float) -> float:
        points = torch.tensor([x, y]).view(1, 1, 1, 1, 1, 2)
        return sample_by_gather(level.reshape(1, 4, 1, 1), ((2, 2),), points, torch.ones(1, 1, 1, 1, 1)).item()

    assert at(0.5, 0.5) == 1.0  # the centre of the first cell
    assert at(1.0, 0.5) == 1.5
    assert at(1.0, 1.0) == pytest.approx(8.25)
    assert at(0.0, 0.5) == 0.5  # half of it hangs over the border
    assert at(-0.5, 0.5) == at(2.5, 1.5) == at(0.5, 2.5) == at(1e9, -1e9) == 0.0


def attention(implementation: str = "auto") -> MultiScaleDeformableAttention:
    torch.manual_seed(0)
    module = MultiScaleDeformableAttention(8, 2, len(SIZES), 3, implementation)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def by_hand(module: MultiScaleDeformableAttention, query: Tensor, references: Tensor, memory: Tensor) -> Tensor:
    """One image; a loop over everything, straight from the definition."""
    value = module.value_proj(memory).view(CELLS, 2, 4)
    offsets = module.sampling_offsets(query).view(-1, 2, len(SIZES), 3, 2)
    weights = module.attention_weights(query).view(-1, 2, len(SIZES) * 3).softmax(-1).view(-1, 2, len(SIZES), 3)
    mixed = torch.zeros(len(query), 2, 4)
    for q, head, level, point in torch.cartesian_prod(*map(torch.arange, weights.shape)).tolist():
        start = sum(height * width for height, width in SIZES[:level])
        height, width = SIZES[level]
        offset, reference = offsets[q, head, level, point], references[q]
        if len(reference) == 4:
            place = reference[:2] + offset / 3 * reference[2:] * 0.5
        else:
            place = reference + offset / torch.tensor([width, height])
        x, y = (place * torch.tensor([width, height]) - 0.5).tolist()
        for column in (math.floor(x), math.floor(x) + 1):
            for row in (math.floor(y), math.floor(y) + 1):
                if 0 <= column < width and 0 <= row < height:
                    share = (1 - abs(x - column)) * (1 - abs(y - row)) * weights[q, head, level, point]
                    mixed[q, head] += share * value[start + row * width + column, head]
    return module.output_proj(mixed.flatten(1))


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["gather", "grid_sample"])
@pytest.mark.parametrize("numbers", [2, 4])
def test_attention_equals_its_definition(implementation: str, numbers: int) -> None:
    module = attention(implementation=implementation)
    query, memory = torch.randn(1, 5, 8), torch.randn(1, CELLS, 8)
    references = torch.rand(1, 5, numbers)
    expected = by_hand(module, query[0], references[0], memory[0])
    torch.testing.assert_close(module(query, references, memory, SIZES)[0], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["gather", "grid_sample"])
def test_one_memory_serves_a_whole_batch(implementation: str) -> None:
    module = attention(implementation=implementation)
    query, references, memory = torch.randn(3, 5, 8), torch.rand(3, 5, 4), torch.randn(1, CELLS, 8)
    shared = module(query, references, memory, SIZES)
    torch.testing.assert_close(shared, module(query, references, memory.expand(3, -1, -1), SIZES))


def test_the_way_to_sample_follows_device_gradients_and_number_of_queries() -> None:
    module, memory = attention(), torch.randn(1, CELLS, 8)
    assert not module.project_value(memory, SIZES, 5).padded
    assert module.project_value(memory, SIZES, CELLS).padded
    with torch.no_grad():
        assert module.project_value(memory, SIZES, 5).padded
    assert not attention(implementation="grid_sample").project_value(memory, SIZES, CELLS).padded


@pytest.mark.parametrize("implementation", ["gather", "grid_sample"])
def test_sampling_stays_in_single_precision_under_autocast_and_with_half_weights(implementation: str) -> None:
    value, points, _ = random_case(SIZES, 0)
    module, query, references = attention(implementation=implementation), torch.randn(2, 5, 8), torch.rand(2, 5, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert module.project_value(torch.randn(2, CELLS, 8), SIZES, 5).tensor.dtype == value.dtype
        assert module._points(query, references, SIZES).dtype == points.dtype
    half = module.bfloat16()
    result = half(query.bfloat16(), references, torch.randn(2, CELLS, 8).bfloat16(), SIZES)
    assert result.dtype == torch.bfloat16
    assert result.isfinite().all()


def test_padding_puts_zeros_around_each_level_and_moves_nothing_else() -> None:
    value = torch.arange(1.0, 7.0).view(1, 6, 1, 1)
    table = pad_levels(value, ((2, 3),)).flatten()
    assert table.tolist() == [0] * 5 + [0, 1, 2, 3, 0] + [0, 4, 5, 6, 0] + [0] * 10 + [0]


def test_heads_start_by_looking_in_different_directions() -> None:
    module = MultiScaleDeformableAttention(16, 8, 2, 4)
    offsets = module.sampling_offsets.bias.detach().view(8, 2, 4, 2)
    assert len({tuple(round(number, 3) for number in offsets[head, 0, 0].tolist()) for head in range(8)}) == 8
    torch.testing.assert_close(offsets.abs().amax(-1), torch.arange(1.0, 5.0).expand(8, 2, 4))
    assert not module.attention_weights.weight.any()


def test_impossible_settings_are_named() -> None:
    with pytest.raises(ConfigError, match="hidden_size must be divisible by num_heads, got 10 and 4"):
        MultiScaleDeformableAttention(10, 4, 1, 1)
    with pytest.raises(ConfigError, match="implementation must be one of auto, gather, grid_sample, got `cuda`"):
        MultiScaleDeformableAttention(8, 4, 1, 1, implementation="cuda")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_points_that_are_no_numbers_index_nothing(value: float) -> None:
    table = torch.randn(1, 30, 2, 4)
    points, weights = torch.full((1, 3, 2, 1, 2, 2), 2.0), torch.rand(1, 3, 2, 1, 2)
    points[0, 1, 0, 0, 0, 0] = value
    mixed = sample_by_gather(table, ((5, 6),), points, weights)
    assert mixed.shape == (1, 3, 8)
    assert mixed[0, [0, 2]].isfinite().all()
    assert mixed[0, 1, :4].isnan().all() == (value != value)
