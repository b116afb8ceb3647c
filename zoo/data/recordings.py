"""Training and validation sounds as a Lightning data module."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from zoo.data.base import SampledData
from zoo.data.clips import Clips, Floor, Level
from zoo.data.loudness import Measure
from zoo.data.sources import SOUNDS, Source

__all__ = ["AudioData"]


class AudioData(SampledData):
    """Random stretches of sound for training, fixed ones for validation; batches (B, C, T) float32 in [-1, 1].

    The training batch of a step depends on `seed` and the step alone: not on workers, restarts, or what was drawn
    before. Unreadable files are recorded, counted and replaced by the next readable one. Of a file, only the clip is
    decoded.

    Args:
        root: a folder of sound files, WebDataset shards (`.tar`, a folder or pattern of them) or a data set written by
            `datasets.save_to_disk`.
        sample_rate: Hz; files of other rates are resampled.
        seconds: length of a clip, which has `round(seconds * sample_rate)` samples.
        batch_size: clips per device and step.
        channels: 1 or 2. Files with more or fewer give the mean of their channels.
        val_root: a separate source for validation; otherwise `val_fraction` of `root` is held out.
        val_fraction: share of the files of `root` that is held out, chosen by name; 0 for no validation.
        val_size: fixed clips in the validation set.
        split: which part of a saved `DatasetDict`.
        num_workers: processes that prepare batches. With `cache: ram` none is fastest for small models.
        cache: "ram" decodes every file once and keeps it as 16-bit samples (115 MB for an hour of 16 kHz mono);
            "none" reads the file for each clip.
        draw: "files" draws each file equally often, "seconds" long files more often; see `Clips`.
        short: "tile" repeats sounds that are shorter than a clip, "pad" puts silence behind them.
        normalize: what `level` sets: "peak" or "rms" of a clip in dB of full scale, or its loudness in "lufs"
            (ITU-R BS.1770); "gain" makes it louder or softer by `level`; "none" leaves it alone. Clips are amplified by
            at most 40 dB, and scaled down where they would leave [-1, 1].
        level: [low, high] in dB, drawn evenly in training; validation uses the middle.
        min_peak: dB of full scale that some sample of a clip must reach, or None; other stretches of the file are tried
            ten times.
        min_rms: the same for the root mean square.
        seed: of order and augmentation.

    Raises:
        ValueError: nothing readable at a root, or an option outside its range.
    """

    kind = SOUNDS

    def __init__(
        self,
        root: str,
        sample_rate: int,
        seconds: float = 1.0,
        batch_size: int = 32,
        *,
        channels: int = 1,
        val_root: str | None = None,
        val_fraction: float = 0.02,
        val_size: int = 64,
        split: str = "train",
        num_workers: int = 4,
        cache: Literal["none", "ram"] = "none",
        draw: Literal["files", "seconds"] = "files",
        short: Literal["tile", "pad"] = "tile",
        normalize: Literal["none", "gain", "peak", "rms", "lufs"] = "none",
        level: Sequence[float] = (0.0, 0.0),
        min_peak: float | None = None,
        min_rms: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            root,
            batch_size,
            val_root=val_root,
            val_fraction=val_fraction,
            val_size=val_size,
            split=split,
            num_workers=num_workers,
            seed=seed,
        )
        choices = {"cache": ("none", "ram"), "draw": ("files", "seconds"), "short": ("tile", "pad")}
        choices["normalize"] = ("none", *get_args(Measure))
        for name, value in {"cache": cache, "draw": draw, "short": short, "normalize": normalize}.items():
            if value not in choices[name]:
                raise ValueError(f"data.{name} is one of {', '.join(choices[name])}, got {value!r}")
        if sample_rate < 1 or channels not in (1, 2) or round(seconds * sample_rate) < 1:
            raise ValueError(
                "data.sample_rate and data.seconds are above 0, data.channels is 1 or 2; "
                f"got {sample_rate}, {seconds} and {channels}"
            )
        if len(level) != 2 or level[0] > level[1]:
            raise ValueError(f"data.level is [low, high] in dB with low <= high, got {list(level)}")
        if normalize in ("peak", "rms", "lufs") and level[1] > 0:
            raise ValueError(f"data.level is at most 0 dB for normalize={normalize}, got {list(level)}")
        if max(min_peak or -1.0, min_rms or -1.0) > 0:
            raise ValueError(f"data.min_peak and min_rms are in dB of full scale, below 0; got {min_peak}, {min_rms}")
        self.sample_rate, self.samples, self.channels = sample_rate, round(seconds * sample_rate), channels
        self._level = None if normalize == "none" else Level(normalize, level[0], level[1])
        floors = {name: value for name, value in (("peak", min_peak), ("rms", min_rms)) if value is not None}
        self._view: dict[str, Any] = {"short": short, "floor": Floor(**floors) if floors else None}
        self._view |= {"by": draw, "cache": cache == "ram", "errors": self.errors}

    def samples_of(self, source: Source, indices: Sequence[int], *, training: bool) -> Clips:
        """Clips of some sounds of a source."""
        level = self._level
        if level is not None and not training:
            middle = (level.low + level.high) / 2
            level = Level(level.measure, middle, middle)
        seed = self.seed if training else 0
        return Clips(
            source, indices, self.samples, self.sample_rate, self.channels, seed=seed, level=level, **self._view
        )
