"""Convolutions with channels last, Snake and windows of attention, against PyTorch's own layers and formulas."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.dilated import DilatedUnits
from encoders.layers.snake import Snake
from encoders.layers.time_conv import TimeConv, TimeDown, TimeUp, from_conv, from_transposed
from encoders.layers.window_attention import WindowAttention


def load(layer: TimeConv | TimeDown | TimeUp, weight: Tensor, bias: Tensor | None) -> None:
    state = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    layer.load_state_dict(state)


@pytest.mark.parametrize("length", [5, 70, 400])  # below and above the size at which the product is computed otherwise
@pytest.mark.parametrize(("dilation", "depthwise"), [(1, False), (3, False), (1, True), (3, True), (9, True)])
def test_time_conv_is_a_convolution(length: int, dilation: int, depthwise: bool) -> None:
    torch.manual_seed(0)
    layer = TimeConv(6, kernel=7, dilation=dilation, depthwise=depthwise)
    theirs = nn.Conv1d(6, 6, 7, padding=3 * dilation, dilation=dilation, groups=6 if depthwise else 1)
    load(layer, from_conv(theirs.weight.detach()), theirs.bias)
    x = torch.randn(2, length, 6)
    torch.testing.assert_close(layer(x), theirs(x.mT).mT, rtol=1e-5, atol=1e-6)


def test_time_conv_of_one_tap_and_other_widths() -> None:
    x = torch.randn(2, 300, 4)
    for kernel in (1, 3):
        theirs = nn.Conv1d(4, 9, kernel, padding=kernel // 2, bias=False)
        layer = TimeConv(4, 9, kernel, bias=False)
        load(layer, from_conv(theirs.weight.detach()), None)
        torch.testing.assert_close(layer(x), theirs(x.mT).mT, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="odd kernel"):
        TimeConv(4, kernel=4)
    with pytest.raises(ValueError, match="keeps the width"):
        TimeConv(4, 8, kernel=3, depthwise=True)


@pytest.mark.parametrize("stride", [2, 3, 5, 8])
@pytest.mark.parametrize("frames", [1, 7, 300])
def test_down_and_up_are_strided_and_transposed(stride: int, frames: int) -> None:
    torch.manual_seed(0)
    margin = (stride + 1) // 2
    down = nn.Conv1d(3, 5, 2 * stride, stride, margin)
    ours = TimeDown(3, 5, stride)
    load(ours, from_conv(down.weight.detach()), down.bias)
    x = torch.randn(2, frames * stride, 3)
    torch.testing.assert_close(ours(x), down(x.mT).mT, rtol=1e-5, atol=1e-6)
    z = torch.randn(2, frames, 5)
    for short in (False, True):
        up = nn.ConvTranspose1d(5, 3, 2 * stride, stride, margin, output_padding=0 if short else stride % 2)
        ours = TimeUp(5, 3, stride, short=short)
        load(ours, from_transposed(up.weight.detach()), up.bias)
        y = ours(z)
        assert y.shape[1] == ours.length(frames) == frames * stride - (stride % 2 if short else 0)
        torch.testing.assert_close(y, up(z.mT).mT, rtol=1e-5, atol=1e-6)


def formula(x: Tensor, alpha: Tensor) -> Tensor:
    return x + (alpha * x).sin().square() / (alpha + 1e-9)


@pytest.mark.parametrize("shape", [(2, 5, 3), (1, 70_000, 3), (4, 3)])
def test_snake_and_its_gradients(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    snake = Snake(3)
    nn.init.uniform_(snake.alpha, 0.2, 3)
    x = torch.randn(shape, requires_grad=True)
    weight = torch.randn(shape)
    expected = formula(x, snake.alpha)
    wanted = torch.autograd.grad((expected * weight).sum(), (x, snake.alpha))
    y = snake(x)
    got = torch.autograd.grad((y * weight).sum(), (x, snake.alpha))
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got[0], wanted[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got[1], wanted[1], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_snake_overwrites_only_what_is_spare() -> None:
    snake, x = Snake(4), torch.randn(2, 9, 4)
    kept = x.clone()
    y = snake(x)
    assert torch.equal(x, kept)
    assert snake(x, spare=True) is x and torch.equal(x, y)
    for sliced in (kept[:, 1:], kept[..., 1:], kept.mT.contiguous().mT):  # whose items are contiguous, and are not
        alone = Snake(sliced.shape[-1])
        torch.testing.assert_close(alone(sliced), formula(sliced, alone.alpha))
    half = snake.to(torch.bfloat16)(kept.to(torch.bfloat16))
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), y, rtol=2e-2, atol=2e-2)


def test_snake_can_be_differentiated_twice() -> None:
    snake = Snake(2).double()
    x = torch.randn(1, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(snake, (x,))


def test_units_are_equal_with_and_without_gradients() -> None:
    torch.manual_seed(0)
    units, x = DilatedUnits(8, depthwise=True), torch.randn(2, 50, 8)
    kept = x.clone()
    with torch.no_grad():
        plain = units(x)
    assert torch.equal(x, kept)
    torch.testing.assert_close(units(x).detach(), plain, rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        longer = torch.cat([x, x], dim=1)
        assert torch.equal(units(x, spare=True), plain) and not torch.equal(x, kept)
        sliced = longer[:, :50]  # items of more than they hold, as transposed convolutions return them
        torch.testing.assert_close(units(sliced, spare=True), plain, rtol=1e-5, atol=1e-6)
        assert units.to(torch.bfloat16)(kept.bfloat16(), spare=True).dtype == torch.bfloat16


@torch.no_grad()
def test_windows_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    layer, x = WindowAttention(16, 4, head_dim=8), torch.randn(2, 12, 16)
    together = layer(x)
    for start in range(0, 12, 4):
        torch.testing.assert_close(layer(x[:, start : start + 4]), together[:, start : start + 4])
    assert layer.reads(5, 6) == (4, 7) and layer.reads(3, 4) == (0, 7)
    q, k, v = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in layer.qkv(layer.norm(x[:, :4])).chunk(3, dim=-1))

    def turned(y: Tensor) -> Tensor:
        angles = torch.arange(4.0)[:, None] * 10000 ** -(torch.arange(4) / 4)
        cosine, sine = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)
        return y * cosine + torch.cat([-y[..., 4:], y[..., :4]], -1) * sine

    scores = F.softmax(turned(q) @ turned(k).mT / 8**0.5, dim=-1)
    expected = x[:, :4] + layer.proj((scores @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(together[:, :4], expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="multiple of head_dim"):
        WindowAttention(12, 4, head_dim=8)
