"""What a run shows: console lines, reconstruction grids, codebook usage."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor
from torchvision.utils import make_grid, save_image

__all__ = ["ConsoleLines", "Pictures", "progress"]


def progress(every: int, max_steps: int) -> Callback:
    """A rich progress bar on a terminal, plain lines in a log file."""
    return RichProgressBar() if sys.stdout.isatty() else ConsoleLines(every, max_steps)


class ConsoleLines(Callback):
    """One line of all training scalars every few steps, and one for each validation."""

    def __init__(self, every: int, max_steps: int) -> None:
        self.every, self.max_steps = every, max_steps
        self._step, self._images, self._time = 0, 0, 0.0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start the clock."""
        self._time = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Tensor, batch_idx: int) -> None:
        """Print when a multiple of `every` steps is reached."""
        self._images += len(batch) * trainer.world_size
        step = trainer.global_step
        if step == self._step or step % self.every:
            return
        self._step = step
        if trainer.is_global_zero:
            rate = self._images / max(1e-9, time.monotonic() - self._time)
            print(f"step {step}/{self.max_steps}  {rate:.1f}/s  {_line(trainer, 'train/')}", flush=True)
        self._images, self._time = 0, time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Print the validation scalars."""
        if trainer.is_global_zero and not trainer.sanity_checking:
            print(f"step {trainer.global_step}/{self.max_steps}  validation  {_line(trainer, 'val/')}", flush=True)
        self._images, self._time = 0, time.monotonic()


class Pictures(Callback):
    """After each validation: originals above reconstructions, to `samples/` and to the loggers; codebook usage.

    Args:
        folder: where PNG grids go.
        count: images in a grid; 0 for none.
        every: steps between two reports of the codebook usage in training.
    """

    def __init__(self, folder: Path, count: int, every: int) -> None:
        self.folder, self.count, self.every = folder, count, every
        self._pairs: tuple[Tensor, Tensor] | None = None
        self._step = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Tensor, batch_idx: int) -> None:
        """Log the codebook usage of the steps since the last report."""
        if trainer.global_step != self._step and trainer.global_step % self.every == 0:
            self._step = trainer.global_step
            pl_module.log_dict(pl_module.usage("train"))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Tensor,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first images for the grid."""
        if batch_idx == 0 and self.count and trainer.is_global_zero and not trainer.sanity_checking:
            self._pairs = batch[: self.count], outputs["output"][: self.count].float()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Log usage; write and log the grid."""
        usage = pl_module.usage("val")
        if trainer.sanity_checking:
            return
        pl_module.log_dict(usage, sync_dist=True)
        if self._pairs is None:
            return
        originals, outputs = self._pairs
        self._pairs = None
        grid = make_grid(torch.cat([originals, outputs]).cpu().clamp(-1, 1) / 2 + 0.5, nrow=len(originals))
        self.folder.mkdir(parents=True, exist_ok=True)
        save_image(grid, self.folder / f"step-{trainer.global_step:09d}.png")
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_image("val/reconstruction", grid, trainer.global_step)
            elif isinstance(logger, WandbLogger):
                logger.log_image("val/reconstruction", [grid], step=trainer.global_step)


def _line(trainer: Trainer, prefix: str) -> str:
    values = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(prefix)}
    return "  ".join(f"{name.removeprefix(prefix)} {value:.4g}" for name, value in sorted(values.items()))
