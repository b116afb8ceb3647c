"""Long sounds through models that cut them into windows themselves (EnCodec at 48 kHz, S3): some windows at a time.

Windows are coded by themselves, so what comes out is the code, and the sound, of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.data.signals import blocks
from zoo.tokens import Tokens

if TYPE_CHECKING:
    from zoo.families.audio import AudioTokenizer

__all__ = ["decode_windows", "encode_stretches", "encode_windows"]


def encode_windows(tokenizer: AudioTokenizer, encode: Callable[[int, int], Tokens], length: int, frames: int) -> Tokens:
    """Codes of `length` samples, of which `encode(start, stop)` gives those of a stretch; about `frames` at a time."""
    grid = Grid(tokenizer, length)
    indices, gains = [], []
    for first, last in blocks(grid.count, grid.at_once(frames)):
        end = min(length, (last - 1) * grid.stride + grid.window)
        tokens = encode(first * grid.stride, end)
        indices.append(tokens.indices[:, : grid.tokens(first, last)])
        if tokens.gains is not None:
            gains.append(tokens.gains[:, : last - first])
    return replace(
        tokens,
        indices=torch.cat(indices, 1),
        gains=torch.cat(gains, 1) if gains else None,
        size=torch.full((len(tokens), 1), length),
    )


def encode_stretches(
    tokenizer: AudioTokenizer, read: Callable[[int, int], Tensor], length: int, codebooks: int | None
) -> Tokens:
    """Codes of `length` samples, of which `read(start, stop)` gives (B, 1, stop - start), by `encoder.stretches`."""
    option: dict[str, Any] = {} if codebooks is None else {"codebooks": codebooks}

    def checked(start: int, stop: int) -> Tensor:
        x = read(start, stop)
        tokenizer.check_input(x, finite=True)
        return x[:, 0]

    some = read(0, 1)
    parts = [
        tokenizer.as_tokens(tokenizer.quantizer(z, **option), some).to("cpu")
        for z in tokenizer.encoder.stretches(checked, length)
    ]
    return replace(
        parts[0],
        indices=torch.cat([part.indices for part in parts], 1),
        size=torch.full((len(parts[0]), 1), length),
    )


def decode_windows(tokenizer: AudioTokenizer, tokens: Tokens, length: int, frames: int) -> Iterator[Tensor]:
    """Consecutive pieces (B, C, n) of the sound.

    A piece needs the windows that reach into it from before. The windows behind it are there for the last of its own to
    be whole, and are cut off again.
    """
    grid = Grid(tokenizer, length)
    around = -(-grid.window // grid.stride) - 1
    for first, last in blocks(grid.count, grid.at_once(frames)):
        start, stop = max(0, first - around), min(grid.count, last + around)
        size = min(length, stop * grid.stride) - start * grid.stride
        own = Grid(tokenizer, size)
        rows = []
        for number in range(own.count):
            place = grid.tokens(0, start + number)
            rows.append(tokens.indices[:, place : place + own.tokens(number, number + 1)])
        part = replace(
            tokens,
            indices=torch.cat(rows, 1),
            gains=None if tokens.gains is None else tokens.gains[:, start : start + own.count],
            size=torch.full((len(tokens), 1), size),
        )
        sound = tokenizer.decode(part.to(tokenizer.device))
        ends = length if last == grid.count else last * grid.stride
        yield sound[..., (first - start) * grid.stride : ends - start * grid.stride]


class Grid:
    """Where the windows of a sound lie.

    Attributes:
        window, stride: samples of a window, and between the beginnings of two.
        count: windows.
    """

    def __init__(self, tokenizer: Any, length: int) -> None:
        self.hop: int = tokenizer.hop_length
        self.window: int = tokenizer.window
        self.stride: int = tokenizer.stride
        self.length, self.count = length, -(-length // self.stride)

    def at_once(self, frames: int) -> int:
        """Windows of a chunk of about so many frames."""
        return max(1, frames * self.hop // self.stride)

    def tokens(self, first: int, last: int) -> int:
        """Tokens of windows first to last."""
        lengths = (min(self.window, self.length - number * self.stride) for number in range(first, last))
        return sum(-(-samples // self.hop) for samples in lengths)
