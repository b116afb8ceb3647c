"""Convolutions along time for inference on CPUs: signals (B, C, T) whose memory lies channels last, as (B, T, C).

Tensors keep their axes, only strides differ, and what works elementwise hands them on. Matrix products then read and
write signals as they lie. `ArrangedWeight` keeps large weights in the order in which the products read them; their
shapes stay PyTorch's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ArrangedWeight", "add_product", "convolve", "convolve_transposed", "lies_last", "suits"]

FEW = 256  # steps below which a plain product is faster than a convolution that first reorders its weights
NARROW, SIGNAL, WEIGHT = 32, 2**17, 2**16  # channels, and numbers of a signal or a weight, below which a work is small
WIDE = 128  # inputs from which products of whole hops are faster than a strided convolution


class ArrangedWeight(nn.Module):
    """A mixin: a large `weight` lies in memory in the order of axes `memory`, also after loading."""

    memory: tuple[int, int, int]
    weight: Tensor

    def arrange(self) -> None:
        """Bring `weight` into that order; for the end of `__init__`."""
        with torch.no_grad():
            self.weight = nn.Parameter(_ordered(self.weight, self.memory))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        key = f"{prefix}weight"
        if isinstance(state_dict.get(key), Tensor) and state_dict[key].ndim == 3:
            state_dict[key] = _ordered(state_dict[key], self.memory)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def suits(x: Tensor, weight: Tensor, groups: int = 1) -> bool:
    """Whether `convolve` and `convolve_transposed` are the ones to use: on CPUs, where all channels mix.

    Not for small works, for which nothing is gained; nor where gradients will be asked for, whose computation is slower
    with channels last; nor under autocast.
    """
    if x.device.type != "cpu" or groups != 1 or torch.is_autocast_enabled("cpu"):
        return False
    widest = max(weight.shape[:2])
    if widest < NARROW or (x[:, 0].numel() * widest < SIGNAL and weight.numel() < WEIGHT):
        return False
    return not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))


def lies_last(x: Tensor) -> bool:
    """Whether each item of x (B, C, T) lies in memory as (T, C), and not as it is written."""
    return x.shape[1] > 1 and x.stride(1) == 1 and x.stride(2) == x.shape[1]


def convolve(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0, dilation: int = 1
) -> Tensor:
    """`torch.nn.functional.conv1d`; the result lies channels last.

    Args:
        x: (B, I, T), at best channels last.
        weight: (O, I, K), at best in the memory order (0, 2, 1).
        bias: (O,) or None.
        stride, padding, dilation: as there.
    """
    outputs, inputs, kernel = weight.shape
    rows, flat = weight.mT, _last(x)
    steps = (x.shape[-1] + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    missing = (steps - 1) * stride + dilation * (kernel - 1) + 1 - padding - x.shape[-1]
    if kernel == 1 and stride == 1 and not padding:
        return F.linear(flat, rows[:, 0], bias).mT
    if dilation == 1 and kernel % stride == 0 and 1 < stride < kernel and inputs >= WIDE:
        hops = _padded(flat, padding, missing).unflatten(1, (-1, stride)).flatten(2)
        y = _filled(flat, steps, outputs, bias)
        for hop in range(kernel // stride):
            add_product(y, hops[:, hop : hop + steps], rows[:, hop * stride : (hop + 1) * stride].flatten(1))
        return y.mT
    if dilation == 1 and (len(x) * steps < FEW or inputs == 1):
        windows = _padded(flat, padding, missing).unfold(1, kernel, stride).mT.flatten(2)
        return F.linear(windows, rows.flatten(1), bias).mT
    image, taps = flat.mT.unsqueeze(2), rows.contiguous().mT.unsqueeze(2)
    return F.conv2d(image, taps, bias, (1, stride), (0, padding), (1, dilation)).squeeze(2)


def convolve_transposed(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1) -> Tensor:
    """`torch.nn.functional.conv_transpose1d`; the result lies channels last.

    A step of the input speaks to K outputs: to the `stride` of its own place, and to those of the next ones. For each
    of these places one product gives all outputs side by side.

    Args:
        x: (B, I, T), at best channels last.
        weight: (I, O, K), at best in the memory order (2, 1, 0).
        bias: (O,) or None.
        stride: as there.

    Returns:
        (B, O, (T - 1) * stride + K).
    """
    batch, inputs, length = x.shape
    outputs, kernel = weight.shape[1:]
    places, flat = -(-kernel // stride), _last(x)
    rows = weight.permute(2, 1, 0).contiguous().view(-1, inputs)
    width = stride * outputs
    blocks, phases = rows.split(width), None if bias is None else bias.repeat(stride)
    y = _filled(flat, length + places - 1, width, phases)
    for place, block in enumerate(blocks):
        add_product(y[:, place : place + length, : len(block)], flat, block)
    return y.view(batch, -1, outputs)[:, : (length - 1) * stride + kernel].mT


def add_product(y: Tensor, x: Tensor, block: Tensor) -> Tensor:
    """y (B, L, O) += x (B, L, I) block^T, block (O, I); by items without a copy, unless they are short."""
    if len(x) > 1 and x.shape[1] < FEW:
        y += (x.reshape(-1, x.shape[2]) @ block.T).view(y.shape)
    else:
        for item in range(len(x)):
            y[item].addmm_(x[item], block.T)
    return y


def _last(x: Tensor) -> Tensor:
    """x (B, C, T) as (B, T, C), whose items are contiguous."""
    return x.mT if lies_last(x) else x.mT.contiguous()


def _padded(x: Tensor, before: int, after: int) -> Tensor:
    """x (B, T, C) with zeros in front, and zeros behind or less of it."""
    return F.pad(x, (0, 0, before, after)) if before or after else x


def _filled(like: Tensor, steps: int, width: int, bias: Tensor | None) -> Tensor:
    """(B, steps, width) of `bias` (width,) or zeros."""
    shape = (len(like), steps, width)
    return like.new_zeros(shape) if bias is None else bias.expand(shape).clone()


def _ordered(weight: Tensor, memory: tuple[int, int, int]) -> Tensor:
    if weight.numel() < WEIGHT:
        return weight  # quickly reordered when it is used
    back = [memory.index(axis) for axis in range(len(memory))]
    return weight.permute(memory).contiguous().permute(back)
