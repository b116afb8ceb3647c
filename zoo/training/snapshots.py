"""Checkpoints by the clock, on signals and at the end; and finding them again."""

from __future__ import annotations

import itertools
import os
import re
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed.tensor import DTensor

__all__ = ["Snapshots", "last_checkpoint"]

PATTERN = re.compile(r"step-(\d+)\.ckpt")


class Snapshots(Callback):
    """Writes `step-N.ckpt` every few minutes, when SIGTERM or SIGINT arrives, and at the end of training.

    A file is written under a temporary name and renamed, so that a kill at any moment leaves the previous ones
    intact. A signal ends training after the current step; a second SIGINT interrupts at once.

    Args:
        folder: where checkpoints go.
        minutes: between two checkpoints; 0 writes one after every step.
        keep: newest files that are kept.
        max_minutes: training stops itself after this time, or None.
        fresh: training does not go on with this folder's newest checkpoint: what lies there is set aside.
    """

    def __init__(
        self, folder: Path, minutes: float, keep: int = 2, max_minutes: float | None = None, *, fresh: bool = False
    ) -> None:
        if minutes < 0 or keep < 1:
            raise ValueError(f"checkpoints expect minutes >= 0 and keep >= 1, got {minutes} and {keep}")
        self.folder, self.minutes, self.keep, self.max_minutes = folder, minutes, keep, max_minutes
        self.fresh = fresh
        self.received: int | None = None
        self._handlers: dict[int, Any] = {}
        self._written = self._step = -1
        self._started = self._last = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock and take over the signals."""
        if self.fresh and trainer.is_global_zero and self.folder.exists():
            number = next(n for n in itertools.count(1) if not self.folder.with_suffix(f".{n}").exists())
            self.folder.rename(self.folder.with_suffix(f".{number}"))
        if trainer.is_global_zero:
            for cut_short in self.folder.glob("*.partial"):
                cut_short.unlink()
        self._started = self._last = time.monotonic()
        self._step = self._written = trainer.global_step
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handlers[number] = signal.signal(number, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save or stop, between two optimizer steps only."""
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        now = time.monotonic()
        over = self.max_minutes is not None and now - self._started >= 60 * self.max_minutes
        stop = _any_rank(trainer, self.received is not None or over)
        due = _any_rank(trainer, now - self._last >= 60 * self.minutes)
        if stop or due:
            self.save(trainer)
        if stop:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save what the clock has not saved yet, and give the signals back."""
        if trainer.global_step > self._written:
            self.save(trainer)
        self._release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self._release()

    def _release(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}

    def save(self, trainer: Trainer) -> None:
        """Write one checkpoint and remove the oldest beyond `keep`.

        Raises:
            FloatingPointError: a weight is NaN or infinite; the checkpoints written before stay.
        """
        if _any_rank(trainer, not all(map(_finite, trainer.lightning_module.parameters()))):
            raise FloatingPointError(
                f"weights are NaN or infinite at step {trainer.global_step}; the checkpoints in {self.folder} are from "
                "before. Lower optimizer.lr or trainer.gradient_clip, raise schedule.warmup_steps, or use precision=32"
            )
        path = self.folder / f"step-{trainer.global_step:09d}.ckpt"
        partial = path.with_suffix(".partial")
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
        trainer.save_checkpoint(partial)
        if trainer.is_global_zero:
            os.replace(partial, path)
            for old in checkpoints(self.folder)[: -self.keep]:
                old.unlink()
        self._written, self._last = trainer.global_step, time.monotonic()


def checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints in a folder, by step."""
    found = [(int(match[1]), path) for path in folder.glob("step-*.ckpt") if (match := PATTERN.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def last_checkpoint(run: Path) -> Path | None:
    """The newest complete checkpoint of a run folder, or None."""
    found = checkpoints(run / "checkpoints")
    return found[-1] if found else None


def _finite(parameter: Tensor) -> bool:
    local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
    return bool(torch.isfinite(local.detach()).all())


def _any_rank(trainer: Trainer, flag: bool) -> bool:
    """Whether the flag is set on any rank; every rank must ask."""
    return bool(trainer.strategy.reduce_boolean_decision(flag, all=False)) if trainer.world_size > 1 else flag
