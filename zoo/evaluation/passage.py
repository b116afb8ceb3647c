"""Batches on their way through a tokenizer, with a clock beside it."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.evaluation.outcome import Setting
from zoo.tokens import Tokens

if TYPE_CHECKING:
    from zoo.spec import TokenizerSpec
    from zoo.tokenizer import Tokenizer

__all__ = ["Clock", "Passage"]


@dataclass(slots=True)
class Clock:
    """Time spent on one kind of work; the first batch warms up and counts only while it is the only one.

    Attributes:
        items, extent, seconds: of the batches that count.
        batches: all that ran.
    """

    items: int = 0
    extent: float = 0.0
    seconds: float = 0.0
    batches: int = 0

    def add(self, items: int, extent: float, seconds: float) -> None:
        """Count a batch."""
        if self.batches == 1:
            self.items, self.extent, self.seconds = 0, 0.0, 0.0
        self.items += items
        self.extent += extent
        self.seconds += seconds
        self.batches += 1


class Passage:
    """A tokenizer as an evaluation uses it: without gradients, in one precision, with fixed sampling, timed.

    Args:
        tokenizer: on its device.
        dtype: autocast of encoder and decoder; float32 for none.
        steps, guidance: of iterative decoders; None leaves them to the tokenizer.
        seed: of a stochastic decoder's noise, drawn anew for every call; None for the tokenizer's fixed noise.

    Attributes:
        encoding: the clock of `encode`.
        decoding: the clocks of `decode`, by setting.

    Raises:
        ValueError: steps or guidance for a decoder without use for them, or a tokenizer that only encodes.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        dtype: torch.dtype = torch.float32,
        steps: int | None = None,
        guidance: float | None = None,
        seed: int | None = None,
    ) -> None:
        kind = type(tokenizer).__name__
        if not tokenizer.spec.decodes:
            raise ValueError(f"{kind} only encodes and gives nothing back that could be measured")
        for name, value in (("steps", steps), ("guidance", guidance)):
            if value is not None and not tokenizer.iterative:
                raise ValueError(f"{name} is for decoders that paint in steps, such as FlexTok's; {kind}'s does not")
        self.tokenizer, self.dtype, self.seed = tokenizer, dtype, seed
        self.options = {name: value for name, value in (("steps", steps), ("guidance", guidance)) if value is not None}
        self.beside = _caption(tokenizer)
        self.encoding = Clock()
        self.decoding: defaultdict[Setting, Clock] = defaultdict(Clock)

    @property
    def spec(self) -> TokenizerSpec:
        """Of the tokenizer."""
        return self.tokenizer.spec

    @property
    def device(self) -> torch.device:
        """Of the tokenizer."""
        return self.tokenizer.device

    @contextmanager
    def timed(self, setting: Setting | None, extent: Tensor) -> Iterator[None]:
        """Without gradients and in the passage's precision, the block's time counts for encoding (None) or decoding.

        Args:
            extent: (B,) of the batch, as in `Outcome`. A block that raises does not count.
        """
        clock = self.encoding if setting is None else self.decoding[setting]
        casts = self.dtype != torch.float32
        with torch.no_grad(), torch.autocast(self.device.type, self.dtype if casts else None, enabled=casts):
            self._wait()
            start = time.perf_counter()
            yield
            self._wait()
            clock.add(len(extent), float(extent.sum()), time.perf_counter() - start)

    def encode(self, batch: Tensor, extent: Tensor) -> Tokens:
        """Codes of a batch (B, C, ...) in [-1, 1], which is moved to the tokenizer's device."""
        batch = batch.to(self.device)
        with self.timed(None, extent):
            return self.tokenizer.encode(batch, **self.beside)

    def decode(self, tokens: Tokens, setting: Setting, extent: Tensor) -> Tensor:
        """What codes, cut already, stand for: (B, C, ...) float32 on the tokenizer's device, not clamped."""
        with self.timed(setting, extent):
            output = self.tokenizer.decode(tokens, **self.decode_options(), **self.beside)
        return output.float()

    def decode_options(self) -> dict[str, Any]:
        """Arguments of `decode`: the same noise for every call, so that lengths can be compared."""
        if self.seed is None:
            return dict(self.options)
        return {**self.options, "generator": torch.Generator(self.device).manual_seed(self.seed)}

    @staticmethod
    def cut(tokens: Tokens, setting: Setting) -> Tokens:
        """The part of a code that a setting keeps."""
        if setting.codebooks is not None:
            tokens = tokens.keep_codebooks(setting.codebooks)
        return tokens if setting.tokens is None else tokens.keep(setting.tokens)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _caption(tokenizer: Tokenizer) -> dict[str, Any]:
    """What tokenizers that read captions are told: an empty one."""
    from zoo.families.text import TextConditioned

    return {"text": tokenizer.describe(None, 1)} if isinstance(tokenizer, TextConditioned) else {}
