"""What metrics of sound have in common: a mean over recordings, exact whatever the batches, padding and ranks."""

from __future__ import annotations

import hashlib
import importlib.util
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["RecordingMean", "Remembered", "paired", "require", "unpadded"]

Found = TypeVar("Found")


class RecordingMean(Metric):
    """Mean of what every recording has one of; subclasses define `score`.

    A channel of a clip counts as one recording, a recording's padding is cut off before it is measured, and every
    recording has the same share in the mean.

    Args:
        sample_rate: Hz of what comes in.
        rate: Hz at which it is measured, after resampling; None for `sample_rate`.
        **kwargs: of `torchmetrics.Metric`, such as `sync_on_compute`.

    Attributes:
        names: of the numbers of one recording; empty where it is only one.
        count: recordings in the mean, int64: (), or (names,) where there are several numbers.
        skipped: likewise, recordings for which the number is not defined, such as silence.
        channels: C of the clips seen last, each of which makes C recordings.

    Raises:
        ValueError: a rate below 1.
    """

    is_differentiable = False
    full_state_update = False
    names: tuple[str, ...] = ()

    total: Tensor
    count: Tensor
    skipped: Tensor

    def __init__(self, sample_rate: int, *, rate: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for value in (sample_rate, sample_rate if rate is None else rate):
            if value < 1:
                raise ValueError(f"sample_rate is positive, got {value}")
        self.channels = 1
        self.sample_rate, self.rate = sample_rate, sample_rate if rate is None else rate
        shape = (len(self.names),) if self.names else ()
        self.add_state("total", torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("skipped", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    @torch.no_grad()
    def update(self, output: Tensor, target: Tensor, lengths: Tensor | None = None) -> None:
        """Measure a batch.

        Args:
            output: (B, C, T), clamped to [-1, 1] as an audio file would.
            target: (B, C, T) in [-1, 1].
            lengths: (B,) int64 samples of each clip that are no padding; None for all.

        Raises:
            ValueError: shapes differ, or lengths do not fit.
        """
        output, target = paired(output, target)
        pairs = unpadded(output, target, lengths)
        self.channels = output.shape[1]
        # Only when all are judged does anything count, so that a batch that fails can be given anew in parts.
        scores = [self.score(self._resampled(ours), self._resampled(theirs)) for ours, theirs in pairs]
        for found in scores:
            found = found.to(self.total)
            measured = found.isfinite()
            self.total += found.nan_to_num(0.0, 0.0, 0.0).sum(0)
            self.count += measured.sum(0)
            self.skipped += (~measured).sum(0)

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """Numbers of each recording: (R, T) float32 twice -> (R,) or (R, names); not finite where undefined."""
        raise NotImplementedError(f"{type(self).__name__} must define score")

    def compute(self) -> Any:
        """Mean over the recordings, () float64, or one for each of `names`; NaN where nothing was measured."""
        means = self.total / self.count
        return dict(zip(self.names, means, strict=True)) if self.names else means

    def details(self) -> dict[str, Any]:
        """What belongs beside the number, as plain data: the rate, and networks with their digests."""
        return {"rate": self.rate}

    def _resampled(self, x: Tensor) -> Tensor:
        from torchaudio.functional import resample

        return x if self.rate == self.sample_rate else resample(x, self.sample_rate, self.rate)


class Remembered(Generic[Found]):
    """A function of a recording whose last answers are kept: settings of one tokenizer share their originals.

    Args:
        function: of (T,) float32.
        room: answers that are kept.
    """

    def __init__(self, function: Callable[[Tensor], Found], room: int = 64) -> None:
        self.function, self.room = function, room
        self.kept: OrderedDict[bytes, Found] = OrderedDict()

    def __call__(self, x: Tensor) -> Found:
        key = hashlib.sha1(x.detach().cpu().contiguous().numpy().tobytes()).digest()
        if key not in self.kept:
            self.kept[key] = self.function(x)
        self.kept.move_to_end(key)
        while len(self.kept) > self.room:
            self.kept.popitem(last=False)
        return self.kept[key]


def paired(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both as float32, the output clamped to [-1, 1]; ValueError unless they are (B, C, T) of one shape."""
    if output.shape != target.shape or output.ndim != 3:
        raise ValueError(
            f"expected two batches (B, C, T) of one shape, got {tuple(output.shape)}, {tuple(target.shape)}"
        )
    return output.detach().float().clamp(-1, 1), target.detach().float()


def unpadded(output: Tensor, target: Tensor, lengths: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Recordings (R, t) of output and target (B, C, T), those of one length together where all have it.

    Raises:
        ValueError: lengths do not fit.
    """
    full = output.shape[-1]
    if lengths is None:
        yield output.flatten(0, 1), target.flatten(0, 1)
        return
    counts = lengths.tolist()
    if len(counts) != len(output) or not all(0 < count <= full for count in counts):
        raise ValueError(f"expected {len(output)} lengths from 1 to {full}, got {counts}")
    for ours, theirs, count in zip(output, target, counts, strict=True):
        yield ours[:, :count], theirs[:, :count]


def require(metric: str, extra: str, *packages: str) -> None:
    """Raise ModuleNotFoundError, with what to install, unless all packages are there."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f"{metric} needs {' and '.join(missing)}: pip install tokenizer-zoo[{extra}]")
