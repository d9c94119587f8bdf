"""The faster product of a linear layer: when it is taken, and that nothing but time tells."""

import pickle
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from llava_grounding.model import linear
from llava_grounding.model.linear import Linear, with_fast_linears

TOLERANCES = {torch.float32: {"atol": 1e-5, "rtol": 1e-5}, torch.bfloat16: {"atol": 2e-2, "rtol": 2e-2}}


def layer_and_rows(rows: int, dtype: torch.dtype = torch.float32, bias: bool = True) -> tuple[Linear, torch.Tensor]:
    torch.manual_seed(0)
    return Linear(24, 40, bias=bias).to(dtype), torch.randn(2, rows, 24, dtype=dtype)


def taken(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The activations of the products that went through oneDNN from now on."""

    seen: list[str] = []
    original = linear._onednn_product

    def product(layer: nn.Linear, x: torch.Tensor, activation: Literal["none", "relu"]) -> torch.Tensor:
        seen.append(activation)
        return original(layer, x, activation)

    monkeypatch.setattr(linear, "_onednn_product", product)
    return seen


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
def test_the_fast_product_equals_torch(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, bias: bool) -> None:
    layer, x = layer_and_rows(100, dtype, bias)
    seen = taken(monkeypatch)
    with torch.no_grad():
        plain, rectified = layer(x), layer.relu(x)
        expected = F.linear(x, layer.weight, layer.bias)
    assert seen == ["none", "relu"]
    torch.testing.assert_close(plain, expected, **TOLERANCES[dtype])
    torch.testing.assert_close(rectified, expected.relu(), **TOLERANCES[dtype])
    assert plain.dtype == rectified.dtype == dtype


def test_rows_without_order_in_memory_are_read_rightly(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = layer_and_rows(100)
    seen = taken(monkeypatch)
    strided = x.transpose(0, 1)
    with torch.no_grad():
        torch.testing.assert_close(layer(strided), F.linear(strided, layer.weight, layer.bias), atol=1e-5, rtol=1e-5)
    assert seen


def test_gradients_few_rows_autocast_and_mixed_types_stay_with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = layer_and_rows(100)
    seen = taken(monkeypatch)
    layer.relu(x).sum().backward()
    assert layer.weight.grad is not None
    with torch.no_grad():
        layer(x[:, :2])
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
    with torch.inference_mode(), pytest.raises(RuntimeError):
        layer(x.double())
    assert not seen


def test_without_onednn_torch_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: False)
    layer, x = layer_and_rows(100)
    seen = taken(monkeypatch)
    with torch.no_grad():
        assert torch.equal(layer.relu(x), F.linear(x, layer.weight, layer.bias).relu())
    assert not seen


def test_layers_of_others_are_taken_over_with_their_weights() -> None:
    class Own(nn.Linear):
        """Somebody's own layer is left alone."""

    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Sequential(Own(4, 5), nn.Linear(5, 2)))
    state = {name: value.clone() for name, value in module.state_dict().items()}
    assert with_fast_linears(module) is module
    assert [type(part) for part in module.modules() if isinstance(part, nn.Linear)] == [Linear, Own, Linear]
    assert all(torch.equal(module.state_dict()[name], value) for name, value in state.items())


def test_it_is_a_linear_layer_to_everyone_else() -> None:
    layer, _ = layer_and_rows(1)
    assert isinstance(layer, nn.Linear)
    again = pickle.loads(pickle.dumps(layer))
    assert torch.equal(again.weight, layer.weight)
