"""Convolutions with channels last are those of PyTorch, and weights keep their shapes and their order in memory."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from encoders.layers import channels_last
from encoders.layers.channels_last import convolve, convolve_transposed, lies_last, suits
from encoders.layers.conv1d import Conv1d, Edges, TransposedConv1d


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small works count as large ones."""
    for name in ("NARROW", "SIGNAL", "WEIGHT"):
        monkeypatch.setattr(channels_last, name, 0)


def near(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [12, 300])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("inputs", "outputs", "kernel", "stride", "padding", "dilation"),
    [
        (8, 4, 3, 1, 2, 1),
        (8, 4, 3, 1, 0, 2),
        (4, 8, 1, 1, 0, 1),
        (1, 8, 7, 1, 6, 1),
        (130, 4, 6, 3, 3, 1),
        (8, 4, 4, 2, 1, 1),
    ],
)
def test_convolutions_are_pytorchs(
    inputs: int, outputs: int, kernel: int, stride: int, padding: int, dilation: int, batch: int, length: int
) -> None:
    x, bias = torch.randn(batch, inputs, length), torch.randn(outputs)
    weight = torch.randn(outputs, inputs, kernel) * (inputs * kernel) ** -0.5
    expected = F.conv1d(x, weight, bias, stride, padding, dilation)
    for signal in (x, x.mT.contiguous().mT):
        near(convolve(signal, weight, bias, stride, padding, dilation), expected)
    near(convolve(x, weight, None, stride, padding, dilation), expected - bias[:, None])


@pytest.mark.parametrize("length", [5, 300])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(("kernel", "stride"), [(8, 4), (3, 1), (7, 3), (2, 2)])
def test_transposed_convolutions_are_pytorchs(kernel: int, stride: int, batch: int, length: int) -> None:
    x, weight, bias = torch.randn(batch, 6, length), torch.randn(6, 5, kernel), torch.randn(5)
    near(convolve_transposed(x, weight, bias, stride), F.conv_transpose1d(x, weight, bias, stride))
    near(convolve_transposed(x, weight, None, stride), F.conv_transpose1d(x, weight, None, stride))


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("edges", ["reflect", "constant", "replicate"])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [2, 9, 40])
def test_layers_do_not_depend_on_the_way(edges: Edges, causal: bool, length: int) -> None:
    torch.manual_seed(0)
    layers = [
        Conv1d(1, 4, 7, causal=causal, edges=edges),
        Conv1d(4, 6, 3, dilation=2, causal=causal, edges=edges),
        Conv1d(6, 8, 4, stride=2, causal=causal, edges=edges),
        TransposedConv1d(8, 4, 4, stride=2, causal=causal),
        Conv1d(4, 1, 3, causal=causal, edges=edges, norm=True),
    ]
    net, x = torch.nn.Sequential(*layers), torch.randn(2, 1, length)
    learned = net(x)
    with torch.no_grad():
        quick = net(x)
        assert suits(x, layers[0].weight) and lies_last(layers[0](x))
    near(quick, learned)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("make", [lambda: Conv1d(4, 6, 5), lambda: TransposedConv1d(4, 6, 5, stride=2)])
def test_weights_keep_shape_and_order(make: Any) -> None:
    layer = make()
    order = layer.weight.stride()
    assert not layer.weight.is_contiguous()
    state = {key: value.contiguous() for key, value in layer.state_dict().items()}
    with torch.device("meta"):
        ghost = make()
    ghost.load_state_dict(state, assign=True)
    again = make()
    again.load_state_dict(state)
    for other in (ghost, again, copy.deepcopy(layer)):
        assert torch.equal(other.weight, layer.weight) and other.weight.stride() == order


def test_small_works_gradients_and_autocast_take_the_plain_way() -> None:
    x, small, large = torch.randn(1, 32, 10), torch.randn(32, 32, 3), torch.randn(256, 32, 8)
    assert suits(x, large) and not suits(x, small) and not suits(x, large, groups=2)
    assert suits(torch.randn(1, 32, 5000), small)
    assert not suits(x, large.requires_grad_())
    with torch.no_grad():
        assert suits(x, large)
        with torch.autocast("cpu", torch.bfloat16):
            assert not suits(x, large)
