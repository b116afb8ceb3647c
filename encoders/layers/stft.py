"""Short-time Fourier framing and its inverse."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.fixed import Fixed
from encoders.layers.streaming import Stream

__all__ = ["Framing", "InverseSTFT", "OverlapAdd", "frame_offset", "reflect"]

Framing = Literal["center", "same"]


def frame_offset(frame: int, hop: int, framing: Framing) -> int:
    """Samples by which frame n begins before sample n * hop.

    "center": its middle is on that sample; "same": its middle is that of the hop that begins there.

    Raises:
        ValueError: another framing, or a frame that does not overlap its neighbours.
    """
    if framing not in get_args(Framing):
        raise ValueError(f"framing is one of {', '.join(get_args(Framing))}, got {framing!r}")
    if hop < 1 or frame < 2 * hop or frame % 2 or (framing == "same" and (frame - hop) % 2):
        raise ValueError(
            "a frame has an even number of samples, at least two hops, and under 'same' frame - hop is even; "
            f"got {frame} and {hop}"
        )
    return frame // 2 if framing == "center" else (frame - hop) // 2


def reflect(x: Tensor, left: int, right: int, lengths: Tensor | None = None) -> Tensor:
    """Extend x (B, T) on both sides by its mirror image, at the end of each item where `lengths` (B,) are given.

    Items shorter than what is asked for are mirrored again and again. Past the mirror image stands what is left of it.
    """
    steps = x.shape[-1]
    if lengths is None and max(left, right) < steps:
        return F.pad(x[:, None], (left, right), mode="reflect")[:, 0]
    place = torch.arange(-left, steps + right, device=x.device)
    last = torch.full_like(x[:, :1], steps - 1, dtype=torch.int64) if lengths is None else lengths[:, None] - 1
    period = (2 * last).clamp_min(1)
    folded = place % period
    return x.gather(1, torch.minimum(folded, period - folded).clamp_max(last))


class OverlapAdd(nn.Module):
    """Adds frames that begin a hop apart: (B, N, frame) -> (B, N * hop), as the framing places them.

    Args:
        frame: samples of a frame.
        hop: samples from one frame to the next.
        framing: "center": after N - 1 hops, where the last frame is centred, one hop more is given; "same".
        window: (frame,) whose squares, added like the frames, divide the sum (Griffin and Lim 1984, Eq. 6); None: no
            division.
    """

    def __init__(self, frame: int, hop: int, framing: Framing = "same", window: Tensor | None = None) -> None:
        super().__init__()
        self.frame, self.hop, self.offset = frame, hop, frame_offset(frame, hop, framing)
        self.parts = -(-frame // hop)  # frames that overlap at a sample
        self.scale = None if window is None else Fixed(lambda: self._scales(window))

    @property
    def context(self) -> tuple[int, int]:
        """Frames before and after n that the samples of hop n depend on."""
        return (self.frame - 1 - self.offset) // self.hop, (self.hop - 1 + self.offset) // self.hop

    def forward(self, frames: Tensor, lengths: Tensor | None = None, stream: Stream | None = None) -> Tensor:
        """frames (B, N, frame), zeros after the end of an item; lengths (B,) real frames, None for all.

        With a stream the frames go on from earlier ones; only samples that no later frame changes come out.
        """
        if stream is not None:
            return self._continue(frames, stream)
        count, total = frames.shape[1], self._sum(frames)
        if self.scale is not None:
            slots = torch.arange(total.shape[1], device=frames.device)
            ends = count if lengths is None else lengths[:, None]
            first = (slots - ends + 1).clamp(0, self.parts - 1)
            total *= self.scale(frames.device)[first, slots.clamp_max(self.parts - 1)]
        return total.flatten(1)[:, self.offset : self.offset + count * self.hop]

    def _sum(self, frames: Tensor) -> Tensor:
        """Frames (B, N, frame), added -> slots (B, N + parts - 1, hop), the first where frame 0 begins."""
        batch, count = frames.shape[:2]
        parts = F.pad(frames, (0, self.parts * self.hop - self.frame)).unflatten(-1, (self.parts, self.hop))
        total = frames.new_zeros(batch, count + self.parts - 1, self.hop)
        for part in range(self.parts):
            total[:, part : part + count] += parts[:, :, part]
        return total

    def _continue(self, frames: Tensor, stream: Stream) -> Tensor:
        count, total = frames.shape[1], self._sum(frames)
        kept, start = stream.get(self, (None, 0))  # sums that wait for later frames; frames before these
        if kept is not None:
            total[:, : kept.shape[1]] += kept
        ready = count + self.parts - 1 if stream.last else count
        stream.put(self, (total[:, ready:].clone(), start + count))
        slots = torch.arange(start, start + ready, device=frames.device)
        done = total[:, :ready]
        if self.scale is not None:
            first = (slots - start - count + 1).clamp(0, self.parts - 1)
            done = done * self.scale(frames.device)[first, slots.clamp_max(self.parts - 1)]
        last = (start + count) * self.hop + self.offset if stream.last else (start + ready) * self.hop
        return done.flatten(1)[:, max(self.offset - start * self.hop, 0) : max(last - start * self.hop, 0)]

    def _scales(self, window: Tensor) -> Tensor:
        """(parts, parts, hop) float32: one over the sum of squares where parts i to j of frames overlap."""
        squares = F.pad(window.double().square(), (0, self.parts * self.hop - self.frame)).view(self.parts, self.hop)
        sums = [[squares[first : last + 1].sum(0) for last in range(self.parts)] for first in range(self.parts)]
        return torch.stack([torch.stack(row) for row in sums]).clamp_min(1e-11).reciprocal().float()


class InverseSTFT(nn.Module):
    """Complex spectra to samples, with a Hann window: (B, N, frame / 2 + 1) -> (B, N * hop).

    Args:
        frame, hop, framing: as of `OverlapAdd`.
    """

    def __init__(self, frame: int, hop: int, framing: Framing = "same") -> None:
        super().__init__()
        self.frame = frame
        self.window = Fixed(lambda: torch.hann_window(frame))
        self.add = OverlapAdd(frame, hop, framing, self.window.value)

    @property
    def context(self) -> tuple[int, int]:
        """Frames before and after n that the samples of hop n depend on."""
        return self.add.context

    def forward(self, spectrum: Tensor, lengths: Tensor | None = None, stream: Stream | None = None) -> Tensor:
        """spectrum (B, N, F) complex, zeros after the end of an item; `lengths` and `stream` as of `OverlapAdd`."""
        if spectrum.shape[1]:
            frames = torch.fft.irfft(spectrum, self.frame) * self.window(spectrum.device)
        else:
            frames = spectrum.real.new_zeros(len(spectrum), 0, self.frame)
        return self.add(frames, lengths, stream)
