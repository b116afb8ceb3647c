"""The noise of SNAC's decoder: fixed by place, drawn, or given."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["checked_noise", "drawn_noise", "fixed_noise"]

TILE = 128  # frames whose noise is drawn together


def fixed_noise(rates: Sequence[int], start: int, frames: int) -> list[Tensor]:
    """Noise that is a function of the place alone: whatever the length of a sound, wherever it is cut.

    Args:
        rates: steps of noise per frame, for each stage.
        start: first frame.
        frames: number of frames.

    Returns:
        (1, 1, frames * rate) standard normal float32 for each stage, on the CPU.
    """
    first, last = start // TILE, -(-(start + frames) // TILE)
    noise = []
    for stage, rate in enumerate(rates):
        tiles = []
        for tile in range(first, last):
            generator = torch.Generator().manual_seed((stage << 27) + tile)
            tiles.append(torch.randn(1, 1, TILE * rate, generator=generator))
        begin = (start - first * TILE) * rate
        noise.append(torch.cat(tiles, -1)[..., begin : begin + frames * rate])
    return noise


def drawn_noise(
    rates: Sequence[int],
    batch: int,
    frames: int,
    generator: torch.Generator | None = None,
    device: str | torch.device = "cpu",
) -> list[Tensor]:
    """(batch, 1, frames * rate) standard normal float32 for each stage, in the order in which the reference draws.

    Args:
        generator: source, whose device the result has; None for the global one of `device`.
    """
    device = device if generator is None else generator.device
    return [torch.randn(batch, 1, frames * rate, generator=generator, device=device) for rate in rates]


def checked_noise(noise: Tensor | Sequence[Tensor], rates: Sequence[int], batch: int, frames: int) -> list[Tensor]:
    """`noise` as a list; ValueError unless it holds (batch or 1, 1, frames * rate) for each stage."""
    given = [noise] if isinstance(noise, Tensor) else list(noise)
    wanted = [(batch, 1, frames * rate) for rate in rates]
    found = [tuple(one.shape) for one in given]
    fits = [one in (want, (1, *want[1:])) for one, want in zip(found, wanted, strict=False)]
    if len(found) != len(wanted) or not all(fits):
        raise ValueError(f"SNAC expects one noise per stage, {wanted} with a batch of {batch} or 1, got {found}")
    return given
