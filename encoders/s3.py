"""The encoders of CosyVoice's supervised semantic speech (S3) tokenizers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Literal, TypeVar, get_args

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.fixed import Fixed
from encoders.layers.log_mel import LogMel
from encoders.layers.masked import blank, past
from encoders.layers.rotary import line_positions, rotary_table
from encoders.layers.whisper import WhisperBlock

__all__ = ["S3Encoder"]

Positions = Literal["table", "rotary"]
Count = TypeVar("Count", int, Tensor)


class S3Encoder(nn.Module):
    """Speech at 16 kHz to one latent per 20 or 40 ms: the lower half of a speech recogniser, cut where it quantizes.

    A log-mel spectrum (`LogMel`), two convolutions of kernel 3 that shorten it, and transformer blocks: those of
    Whisper in version 1 (arXiv 2407.05407, Sec. 2.1), with rotary positions and a memory branch in version 2 (arXiv
    2412.10117, Sec. 2.2).

    Clips longer than `window` frames are cut into windows that overlap by `overlap` frames; half an overlap of tokens
    is dropped on either side of a join. The spectrum is that of the whole clip. Short clips get at least one latent.

    Args:
        dim: D of the latents, by a last linear layer; None for `width` and no such layer.
        width: of the transformer.
        depth: blocks.
        heads: attention heads; rotary positions want `width / heads` even.
        bands: of the mel spectrum.
        stride: of the first convolution, 1 or 2; the second halves again.
        positions: "table" of sines and cosines (Whisper), or "rotary".
        memory: taps of the memory branch; 0 for none.
        eps: of the norms in front of attention.
        normalize: give latents unit length.
        rows: of the table of positions; None for as many as a window needs.
        window: frames that are encoded together, 10 ms each.
        overlap: frames that neighbouring windows share.

    Attributes:
        hop_length: samples of a latent.
        context: None; attention, and the loudest frame of a clip, reach everywhere.
        any_length: sounds need not be whole hops.

    Raises:
        ValueError: a stride, kind or number of positions, window or overlap that does not fit.
    """

    sample_rate = 16000
    channels = 1
    context: tuple[int, int] | None = None
    any_length = True
    positions: Tensor | None

    def __init__(
        self,
        *,
        dim: int | None = None,
        width: int = 1280,
        depth: int = 6,
        heads: int = 20,
        bands: int = 128,
        stride: int = 2,
        positions: Positions = "rotary",
        memory: int = 31,
        eps: float = 1e-6,
        normalize: bool = False,
        rows: int | None = None,
        window: int = 3000,
        overlap: int = 400,
    ) -> None:
        super().__init__()
        step = 2 * stride
        if stride not in (1, 2) or positions not in get_args(Positions):
            raise ValueError(f"stride is 1 or 2 and positions table or rotary, got {stride} and {positions!r}")
        if not 0 <= overlap < window or window % step or overlap % (2 * step):
            raise ValueError(
                f"window is a multiple of {step} frames and overlap a smaller one of {2 * step}, "
                f"got {window} and {overlap}"
            )
        rows = window // step if rows is None else rows
        if positions == "table" and rows < window // step:
            raise ValueError(f"a window of {window} frames needs {window // step} rows of positions, got {rows}")
        self.dim = width if dim is None else dim
        self.stride, self.normalize, self.window, self.overlap = stride, normalize, window, overlap
        self.mel = LogMel(bands, sample_rate=self.sample_rate)
        self.hop_length = self.mel.hop_length * step
        self.conv1 = nn.Conv1d(bands, width, 3, stride=stride, padding=1)
        self.conv2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        rotary = positions == "rotary"
        self.register_buffer("positions", None if rotary else sinusoids(rows, width))
        self.table = Fixed(lambda: rotary_table(line_positions(rows, axes=1), width // heads)) if rotary else None
        self.blocks = nn.ModuleList(WhisperBlock(width, heads, memory, eps) for _ in range(depth))
        self.head = nn.Identity() if dim is None else nn.Linear(width, dim)

    def count(self, samples: Count) -> Count:
        """Latents of a clip: of its whole 10 ms frames, every 2nd or 4th, from the first."""
        return self._tokens(self.mel.count(samples))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Encode.

        Args:
            x: (B, 1, T) in [-1, 1].
            lengths: (B,) int64 real samples, None for all.

        Returns:
            (B, count(T), dim), zeros past an item's end.
        """
        mel = self.mel(x[:, 0], lengths)
        frames = None if lengths is None else self.mel.count(lengths)
        z = self.finish(self.transform(mel, frames) if mel.shape[-1] <= self.window else self._windows(mel, frames))
        return z if frames is None else z.masked_fill(past(self._tokens(frames), z.shape[1])[..., None], 0)

    def stretches(self, read: Callable[[int, int], Tensor], samples: int) -> Iterator[Tensor]:
        """Latents of a clip of any length, window after window: those of `forward`, in memory that does not grow.

        The clip is read twice: how loud it is at most decides about its whole spectrum.

        Args:
            read: gives samples start to stop of the clip, (B, stop - start).
            samples: of the clip.

        Yields:
            (B, n, dim), of `count(samples)` latents in all.
        """
        frames, step, known = self.mel.count(samples), 2 * self.stride, self.overlap
        starts = [start for start in range(0, frames, self.window - known) if not start or frames - known > start]
        spans = [(start, min(start + self.window, frames)) for start in starts]
        tops = [self.mel.stretch(read, samples, *span).amax((1, 2), keepdim=True) for span in spans]
        loudest = torch.stack(tops).amax(0)
        for start, stop in spans:
            x = self.finish(self.transform(self.mel.scaled(self.mel.stretch(read, samples, start, stop), loudest)))
            first = known // 2 // step if start else 0
            last = x.shape[1] if start == starts[-1] else (self.window - known + known // 2) // step
            yield x[:, first:last]

    def finish(self, x: Tensor) -> Tensor:
        """What follows the transformer: (B, N, width) -> (B, N, dim)."""
        x = self.head(x)
        return F.normalize(x, dim=-1) if self.normalize else x

    def transform(self, mel: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Convolutions and transformer.

        Args:
            mel: (B, M, F), F at most `window`.
            lengths: (B,) int64 real frames, None for all.

        Returns:
            (B, ceil(F / step), width).
        """
        x = mel.to(self.conv1.weight.dtype)
        middle = None if lengths is None else -(-lengths // self.stride)
        x = F.gelu(self.conv1(blank(x, lengths)))
        x = F.gelu(self.conv2(blank(x, middle)))
        x = rearrange(x, "b w l -> b l w")
        count = None if middle is None else -(-middle // 2)
        mask = None if count is None else ~past(count, x.shape[1])[:, None, None]
        table = None if self.table is None else self.table(x.device)[:, : x.shape[1]]
        if self.positions is not None:
            x = x + self.positions[: x.shape[1]]
        for block in self.blocks:
            x = block(x, count, mask, table)
        return x

    def _tokens(self, frames: Count) -> Count:
        return -(-frames // (2 * self.stride))

    def _windows(self, mel: Tensor, lengths: Tensor | None) -> Tensor:
        """As `transform`, for F above `window`."""
        step, frames = 2 * self.stride, mel.shape[-1]
        real = torch.full((len(mel),), frames, device=mel.device) if lengths is None else lengths
        parts = mel.new_zeros(len(mel), self._tokens(frames), self.conv1.out_channels, dtype=self.conv1.weight.dtype)
        for start in range(0, frames, self.window - self.overlap):
            known = self.overlap if start else 0  # frames that the window before has seen as well
            held = (real - known > start).nonzero()[:, 0]
            if len(held):
                part = mel[held, :, start : start + self.window]
                x = self.transform(part, (real[held] - start).clamp_max(self.window))
                dropped = known // 2 // step
                first = start // step + dropped
                parts[held, first : first + x.shape[1] - dropped] = x[:, dropped:]
        return parts


def sinusoids(count: int, width: int) -> Tensor:
    """Whisper's positions (count, width): sines, then cosines, of frequencies from 1 down to 1 / 10000."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) / (half - 1) * torch.arange(half))
    angles = torch.arange(count)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)
