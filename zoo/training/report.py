"""What a run says about itself: a progress bar or lines."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning.pytorch import Callback, Trainer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

__all__ = ["Bar", "Lines", "progress"]


def progress(every: int, max_steps: int) -> Callback:
    """A progress bar on a terminal, plain lines in a log file."""
    return Bar(max_steps) if sys.stdout.isatty() else Lines(every, max_steps)


class Bar(Callback):
    """A rich progress bar over the steps, with time left, rate, loss, and what validation says of the fidelity.

    Args:
        max_steps: where the bar ends.
    """

    def __init__(self, max_steps: int) -> None:
        columns = (
            TextColumn("training"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self.max_steps = max_steps
        self._bar = Progress(*columns)
        self._task = self._bar.add_task("", total=max_steps, note="")
        self._clock = Rate()

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Show the bar."""
        self._clock.reset()
        if trainer.is_global_zero:
            self._bar.update(self._task, completed=trainer.global_step)
            self._bar.start()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Tensor, batch_idx: int) -> None:
        """Move the bar; refresh its text once a second."""
        self._clock.add(len(batch) * trainer.world_size)
        if not trainer.is_global_zero:
            return
        self._bar.update(self._task, completed=trainer.global_step)
        if self._clock.seconds >= 1:
            headline = pl_module.fidelity.headline
            shown = {"loss": "train/loss", headline: f"val/{headline}"}
            values = {
                name: trainer.callback_metrics[key] for name, key in shown.items() if key in trainer.callback_metrics
            }
            note = "  ".join(f"{name} {float(value):.4g}" for name, value in values.items())
            self._bar.update(self._task, note=f"{self._clock.per_second:.1f}/s  {note}")
            self._clock.reset()

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Validation time is no training time."""
        self._clock.reset()

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Leave the bar as it stands."""
        self._bar.stop()

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        """Give the terminal back."""
        self._bar.stop()


class Lines(Callback):
    """One line of all training scalars every few steps, and one for each validation.

    Args:
        every: steps between two lines.
        max_steps: shown behind the step.
    """

    def __init__(self, every: int, max_steps: int) -> None:
        self.every, self.max_steps = every, max_steps
        self._step, self._clock = 0, Rate()

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start the clock."""
        self._clock.reset()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Tensor, batch_idx: int) -> None:
        """Print when a multiple of `every` steps is reached."""
        self._clock.add(len(batch) * trainer.world_size)
        step = trainer.global_step
        if step == self._step or step % self.every:
            return
        self._step = step
        if trainer.is_global_zero:
            rate = self._clock.per_second
            print(f"step {step}/{self.max_steps}  {rate:.1f}/s  {_line(trainer, 'train/')}", flush=True)
        self._clock.reset()

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Print the validation scalars."""
        if trainer.is_global_zero:
            print(f"step {trainer.global_step}/{self.max_steps}  validation  {_line(trainer, 'val/')}", flush=True)
        self._clock.reset()


class Rate:
    """Items per second since the last reset."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start again."""
        self._items, self._start = 0, time.monotonic()

    def add(self, items: int) -> None:
        """Count items."""
        self._items += items

    @property
    def seconds(self) -> float:
        """Since the last reset."""
        return time.monotonic() - self._start

    @property
    def per_second(self) -> float:
        """Items per second."""
        return self._items / max(self.seconds, 1e-9)


def _line(trainer: Trainer, prefix: str) -> str:
    values = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(prefix)}
    return "  ".join(f"{name.removeprefix(prefix)} {value:.4g}" for name, value in sorted(values.items()))
