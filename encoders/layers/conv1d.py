"""Convolutions along time that keep whole windows: causal or centred, ragged batches, streams (arXiv 2210.13438)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.channels_last import ArrangedWeight, convolve, convolve_transposed, lies_last, suits
from encoders.layers.masked import MaskedGroupNorm, blank
from encoders.layers.streaming import Stream

__all__ = ["Conv1d", "Edges", "TransposedConv1d", "keep_scale", "pad_edges"]

Edges = Literal["reflect", "constant", "replicate"]

FEW = 32  # inputs of an output that one matrix product reads from windows


class Conv1d(ArrangedWeight, nn.Conv1d):
    """A convolution that turns T steps into ceil(T / stride), output n reading the window of its own `stride` steps.

    The margin `dilation * (kernel - 1) + 1 - stride` lies before the window if `causal`, else half of it (the smaller
    half) behind. A last window that is cut short is completed like a margin.

    Args:
        channels_in, channels_out, kernel, stride, dilation, groups, bias: as in `torch.nn.Conv1d`.
        causal: whether no output reads past its window.
        edges: what stands beyond the signal: its mirror image, zeros, or its outermost value.
        norm: whether a `GroupNorm` of one group follows, over channels and the whole time.

    Raises:
        ValueError: a stride that leaves out steps, or `edges` of another name.
    """

    memory = (0, 2, 1)

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        causal: bool = False,
        edges: Edges = "reflect",
        norm: bool = False,
    ) -> None:
        super().__init__(channels_in, channels_out, kernel, stride=stride, dilation=dilation, groups=groups, bias=bias)
        self.step = stride
        self.margin = dilation * (kernel - 1) + 1 - stride
        if self.margin < 0:
            raise ValueError(f"a stride of {stride} leaves out steps between windows of {self.margin + stride}")
        if edges not in ("reflect", "constant", "replicate"):
            raise ValueError(f"edges are 'reflect', 'constant' or 'replicate', got {edges!r}")
        self.causal, self.edges = causal, edges
        self.after = 0 if causal else self.margin // 2
        self.before = self.margin - self.after
        self.norm = MaskedGroupNorm(1, channels_out) if norm else None
        self.arrange()

    @property
    def reach(self) -> tuple[int, int]:
        """Steps before and behind its own window that an output reads."""
        return self.before, self.after

    def forward(self, x: Tensor, lengths: Tensor | None = None, stream: Stream | None = None) -> Tensor:
        """Convolve.

        Args:
            x: (B, channels_in, T).
            lengths: (B,) int64 real steps of each item, which are convolved as if they stood alone; None for all.
            stream: continues a signal, if causal.

        Returns:
            (B, channels_out, ceil(T / stride)), meaningful in the first ceil(lengths / stride).
        """
        if stream is not None:
            return self._continue(x, stream)
        extra = -x.shape[-1] % self.step
        if lengths is not None:
            x = _pad_items(x, lengths, self.before, self.after, self.step, self.edges)
            return _normed(self.norm, self._convolve(x), -(-lengths // self.step))
        if (
            self.edges == "constant"
            and self.after + extra <= self.before
            and (self.after == self.before or suits(x, self.weight, self.groups))
        ):
            y = self._convolve(x, self.before)[..., : -(-x.shape[-1] // self.step)]
            return _normed(self.norm, y)
        return _normed(self.norm, self._convolve(pad_edges(x, self.before, self.after + extra, self.edges)))

    def _convolve(self, x: Tensor, padding: int = 0) -> Tensor:
        if suits(x, self.weight, self.groups):
            return convolve(x, self.weight, self.bias, self.step, padding, self.dilation[0])
        return F.conv1d(x, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)

    def _continue(self, x: Tensor, stream: Stream) -> Tensor:
        self._check_streamable()
        kept = stream.get(self)
        started = kept is not None and kept[1]
        if kept is not None:
            x = torch.cat((kept[0], x), dim=-1)
        if not started:
            wanted = {"reflect": self.before + 1, "replicate": 1, "constant": 1}[self.edges]
            if stream.last and x.shape[-1]:
                return self.forward(x)
            if x.shape[-1] < wanted:
                stream.put(self, (x, False))
                return x.new_zeros(len(x), self.out_channels, 0)
            x = pad_edges(x, self.before, 0, self.edges)
        fresh = x.shape[-1] - self.margin
        if stream.last:
            x = pad_edges(x, 0, -fresh % self.step, self.edges)
        count = (x.shape[-1] - self.margin) // self.step
        stream.put(self, (x[..., count * self.step :].clone(), True))
        return self._convolve(x) if count else x.new_zeros(len(x), self.out_channels, 0)

    def _check_streamable(self) -> None:
        if not self.causal or self.norm is not None:
            raise ValueError("a convolution streams if it is causal and not normalised over time")
        if self.edges == "reflect" and self.margin < self.step - 1:
            raise ValueError("with mirrored edges a streamed kernel spans at least twice its stride less one")


class TransposedConv1d(ArrangedWeight, nn.ConvTranspose1d):
    """A transposed convolution that turns T steps into T * stride.

    What a kernel spans beyond the stride is cut off behind the signal if `causal`, else half of it (the larger half)
    before.

    Args:
        channels_in, channels_out, kernel, stride, groups, bias: as in `torch.nn.ConvTranspose1d`.
        causal: whether no output needs a later input.
        norm: whether a `GroupNorm` of one group follows, over channels and the whole time, that which is then cut off
            included (as in EnCodec).

    Raises:
        ValueError: a kernel shorter than the stride.
    """

    memory = (2, 1, 0)

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        *,
        stride: int,
        groups: int = 1,
        bias: bool = True,
        causal: bool = False,
        norm: bool = False,
    ) -> None:
        super().__init__(channels_in, channels_out, kernel, stride=stride, groups=groups, bias=bias)
        if kernel < stride:
            raise ValueError(f"a kernel of {kernel} leaves gaps at a stride of {stride}")
        self.step, self.overlap, self.causal = stride, kernel - stride, causal
        self.before = 0 if causal else self.overlap - self.overlap // 2
        self.norm = MaskedGroupNorm(1, channels_out) if norm else None
        self.arrange()

    @property
    def reach(self) -> tuple[int, int]:
        """Input steps before and behind its own that an output needs."""
        return (self.overlap + self.step - 1 - self.before) // self.step, (self.step - 1 + self.before) // self.step

    def forward(  # type: ignore[override]
        self, x: Tensor, lengths: Tensor | None = None, stream: Stream | None = None
    ) -> Tensor:
        """(B, channels_in, T) -> (B, channels_out, T * stride); `lengths` and `stream` as in `Conv1d`."""
        if stream is not None:
            return self._continue(x, stream)
        x = blank(x, lengths)
        surplus = 2 * self.before - self.overlap  # samples that equal cuts on both sides would take too many
        if self.norm is None and 0 <= surplus < self.step:
            return self._convolve(x, self.bias, self.before, surplus)
        y = self._convolve(x, self.bias)
        y = _normed(self.norm, y, None if lengths is None else lengths * self.step + self.overlap)
        return y[..., self.before : self.before + x.shape[-1] * self.step]

    def _convolve(self, x: Tensor, bias: Tensor | None, padding: int = 0, surplus: int = 0) -> Tensor:
        if suits(x, self.weight, self.groups):
            y = convolve_transposed(x, self.weight, bias, self.step)
            return y[..., padding : y.shape[-1] - padding + surplus] if padding else y
        return F.conv_transpose1d(x, self.weight, bias, self.stride, padding, surplus, self.groups)

    def _continue(self, x: Tensor, stream: Stream) -> Tensor:
        if not self.causal or self.norm is not None:
            raise ValueError("a transposed convolution streams if it is causal and not normalised over time")
        total = x.shape[-1] * self.step
        if total == 0:
            return x.new_zeros(len(x), self.out_channels, 0)
        y = self._convolve(x, None)
        kept = stream.get(self)
        if kept is not None:
            y[..., : self.overlap] += kept
        stream.put(self, y[..., total:].clone())
        y = y[..., :total]
        return y if self.bias is None else y + self.bias[:, None]


def keep_scale(module: nn.Module) -> None:
    """Weights of `Conv1d` and `TransposedConv1d` that give outputs of the inputs' variance, and biases of 0.

    PyTorch's start divides the variance by 3 at every layer: a deep encoder then says next to nothing, and a quantizer
    without a codebook of its own scale, such as FSQ, hears silence. For `nn.Module.apply`.
    """
    if isinstance(module, Conv1d):
        inputs = module.weight[0].numel()
    elif isinstance(module, TransposedConv1d):
        inputs = module.weight[:, 0].numel() // (module.groups * module.step)
    else:
        return
    nn.init.normal_(module.weight, std=max(inputs, 1) ** -0.5)
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def _normed(norm: MaskedGroupNorm | None, x: Tensor, lengths: Tensor | None = None) -> Tensor:
    if norm is None:
        return x
    if lengths is None and lies_last(x):
        return F.group_norm(x.unsqueeze(2), 1, norm.weight, norm.bias, norm.eps).squeeze(2)
    return norm(x, lengths)


def pad_edges(x: Tensor, before: int, after: int, edges: Edges) -> Tensor:
    """Extend x (B, C, T) on both sides.

    A signal too short to be mirrored is first extended by zeros behind, which are cut off again in the end.
    """
    if not before and not after:
        return x
    if lies_last(x):
        return _pad_last(x.mT, before, after, edges).mT
    if edges != "reflect":
        return F.pad(x, (before, after), edges)
    length = x.shape[-1]
    short = max(before, after) + 1 - length
    if short <= 0:
        return F.pad(x, (before, after), "reflect")
    return F.pad(F.pad(x, (0, short)), (before, after), "reflect")[..., : before + length + after]


def _pad_last(x: Tensor, before: int, after: int, edges: Edges) -> Tensor:
    """`pad_edges` of (B, T, C), in one copy."""
    if edges == "constant":
        return F.pad(x, (0, 0, before, after))
    if edges == "replicate":
        return torch.cat((x[:, :1].expand(-1, before, -1), x, x[:, -1:].expand(-1, after, -1)), dim=1)
    length = x.shape[1]
    if (short := max(before, after) + 1 - length) > 0:
        x = F.pad(x, (0, 0, 0, short))
    front, back = x[:, 1 : before + 1].flip(1), x[:, x.shape[1] - 1 - after : -1].flip(1)
    return torch.cat((front, x, back), dim=1)[:, : before + length + after]


def _pad_items(x: Tensor, lengths: Tensor, before: int, after: int, step: int, edges: Edges) -> Tensor:
    """`pad_edges` of every item at its own end: (B, C, T) -> (B, C, before + T rounded up to whole steps + after)."""
    count = -(-x.shape[-1] // step) * step
    if not before and not after and count == x.shape[-1] and step == 1:
        return x
    ends = lengths[:, None]
    places = torch.arange(-before, count + after, device=x.device).expand(len(x), -1)
    if edges == "replicate":
        source = places.clamp_min(0).minimum(ends - 1)
    elif edges == "constant":
        source = places
    else:
        widest = torch.maximum(-ends % step + after, torch.full_like(ends, before))
        turn = torch.maximum(ends, widest + 1) - 1
        source = turn - (turn - places.abs()).abs()
    real = (source >= 0) & (source < ends)
    source = source.clamp(0, x.shape[-1] - 1)
    found = x.gather(-1, source[:, None].expand(-1, x.shape[1], -1))
    return found.masked_fill(~real[:, None], 0)
