"""Snake, the periodic activation of the audio codecs (arXiv 2006.08195)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Snake"]

TINY = 1e-9  # added to alpha where it divides, as in the published models
BLOCK = 2**17  # numbers whose phases stay in a CPU's cache


class Snake(nn.Module):
    """x + sin(alpha x)^2 / alpha with a frequency for each channel, which starts at 1.

    Eager mode reads x once and writes the result once: phases live in a small buffer, and the backward pass computes
    them again instead of keeping them. Half precision is computed in float32, because a phase would be off by whole
    degrees.

    Args:
        width: channels.

    Attributes:
        alpha: (width,).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor, *, spare: bool = False) -> Tensor:
        """(..., width) -> the same shape and dtype; without gradients, x may be overwritten where it is `spare`."""
        if torch.compiler.is_compiling():
            alpha, y = _at_least_float32(self.alpha), _at_least_float32(x)
            return (y + (alpha * y).sin().square() / (alpha + TINY)).to(x.dtype)
        if torch.is_grad_enabled():
            return _Snake.apply(x, self.alpha)
        return _snake(x, self.alpha, spare)


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _snake(x: Tensor, alpha: Tensor, spare: bool) -> Tensor:
    alpha = _at_least_float32(alpha)
    inverse = (alpha + TINY).reciprocal()
    if x.device.type != "cpu" or x.dtype != alpha.dtype or not (matrices := _matrices(x)):
        y = torch.mul(x, alpha).sin_().square_()
        return torch.addcmul(x, y, inverse, out=y).to(x.dtype)
    out = x if spare else torch.empty(x.shape, dtype=x.dtype)
    count = max(BLOCK // x.shape[-1], 1)
    phases = x.new_empty(min(count, len(matrices[0])), x.shape[-1])
    outs = matrices if spare else out.view(len(matrices), -1, x.shape[-1])
    for matrix, result in zip(matrices, outs, strict=True):
        for rows, results in zip(matrix.split(count), result.split(count), strict=True):
            y = torch.mul(rows, alpha, out=phases[: len(rows)]).sin_().square_()
            torch.addcmul(rows, y, inverse, out=results)
    return out


def _matrices(x: Tensor) -> list[Tensor]:
    """x (..., width) as one contiguous matrix, or one for each item; none where items are not contiguous."""
    if x.is_contiguous():
        return [x.view(-1, x.shape[-1])]
    return list(x) if x.ndim == 3 and x[0].is_contiguous() else []


class _Snake(torch.autograd.Function):
    """The formula, with its derivatives by x, 1 + sin(2 alpha x), and by alpha."""

    @staticmethod
    def forward(ctx, x: Tensor, alpha: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, alpha)
        return _snake(x, alpha, spare=False)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[no-untyped-def]
        x, frequency = ctx.saved_tensors
        alpha = _at_least_float32(frequency)
        inverse = (alpha + TINY).reciprocal()
        phase = x * alpha
        double = (2 * phase).sin()
        of_x = of_alpha = None
        if ctx.needs_input_grad[0]:
            of_x = (grad + grad * double * (alpha * inverse)).to(x.dtype)
        if ctx.needs_input_grad[1]:
            slope = x * double - phase.sin().square() * inverse
            of_alpha = ((grad * slope).flatten(0, -2).sum(0) * inverse).to(frequency.dtype)
        return of_x, of_alpha
