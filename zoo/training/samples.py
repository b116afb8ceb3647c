"""What a run shows of its reconstructions after each validation: pictures, sounds and their spectrograms, or shapes."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor
from torchvision.utils import make_grid, save_image

from encoders.layers.voxels import sample_voxels
from zoo.data.audio import write_audio
from zoo.data.images import write_image
from zoo.data.shapes_batch import Shapes
from zoo.data.sheet import Panel, side_by_side
from zoo.data.signals import Array
from zoo.data.spectrogram import draw_spectrogram, spectrogram
from zoo.shapes.extraction import extract
from zoo.shapes.meshes import Cloud, Mesh
from zoo.shapes.render import views
from zoo.spec import TokenizerSpec

__all__ = ["Pictures", "Recordings", "Renders", "Samples", "samples"]

TAG = "val/reconstruction"
WIDTH, HEIGHT = 480, 300  # pixels of a spectrogram
SIDE = 320  # pixels of a drawn shape


class Samples(Callback):
    """After each validation: codebook usage, and the first originals and reconstructions. Subclasses show them.

    Args:
        folder: where files go.
        count: items that are shown; 0 for none.
        every: steps between two reports of the codebook usage in training.
    """

    def __init__(self, folder: Path, count: int, every: int) -> None:
        self.folder, self.count, self.every = folder, count, every
        self._pairs: tuple[Any, Tensor] | None = None
        self._step = 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the codebook usage of the steps since the last report."""
        if trainer.global_step != self._step and trainer.global_step % self.every == 0:
            self._step = trainer.global_step
            pl_module.log_dict(pl_module.usage("train"))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first items."""
        if batch_idx == 0 and self.count and trainer.is_global_zero:
            originals, shown = outputs["x"][: self.count].to("cpu"), outputs["output"][: self.count]
            self._pairs = originals, shown.float().cpu().nan_to_num().clamp(-1, 1)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Log usage; show the items that were kept."""
        pl_module.log_dict(pl_module.usage("val"), sync_dist=True)
        if self._pairs is not None:
            self.show(trainer, *self._pairs)
            self._pairs = None

    def show(self, trainer: Trainer, originals: Any, outputs: Tensor) -> None:
        """Write n items, outputs (n, ...) within [-1, 1], to the folder and to the loggers."""
        raise NotImplementedError(f"{type(self).__name__} must define show")

    def path(self, trainer: Trainer, end: str) -> Path:
        """A file of the current step."""
        return self.folder / f"step-{trainer.global_step:09d}{end}"


class Pictures(Samples):
    """A grid, originals above reconstructions."""

    def show(self, trainer: Trainer, originals: Tensor, outputs: Tensor) -> None:
        """Write a PNG."""
        grid = make_grid(torch.cat([originals.float().clamp(-1, 1), outputs]) / 2 + 0.5, nrow=len(originals))
        self.folder.mkdir(parents=True, exist_ok=True)
        save_image(grid, self.path(trainer, ".png"))
        log_picture(trainer, grid)


class Recordings(Samples):
    """WAV files, and a sheet of spectrograms with originals left of reconstructions.

    Args:
        folder, count, every: as in `Samples`.
        sample_rate: Hz.
    """

    def __init__(self, folder: Path, count: int, every: int, sample_rate: int) -> None:
        super().__init__(folder, count, every)
        self.sample_rate = sample_rate

    def show(self, trainer: Trainer, originals: Tensor, outputs: Tensor) -> None:
        """Write a PNG for all, and two WAV files for each sound."""
        panels = []
        for number, (original, output) in enumerate(zip(originals, outputs, strict=True)):
            write_audio(self.folder / f"original-{number}.wav", original, self.sample_rate)
            write_audio(self.path(trainer, f"-{number}.wav"), output, self.sample_rate)
            log_sound(trainer, f"{TAG}-{number}", output, self.sample_rate)
            found = [
                spectrogram(Array(sound, self.sample_rate), columns=WIDTH, rows=HEIGHT) for sound in (original, output)
            ]
            loudest = float(found[0].levels.max())
            panels += [
                Panel(draw_spectrogram(levels, loudest=loudest, width=WIDTH), f"{name} {number}")
                for name, levels in zip(("original", "reconstruction"), found, strict=True)
            ]
        sheet = side_by_side(panels, columns=2)
        write_image(self.path(trainer, ".png"), sheet)
        log_picture(trainer, pil_to_tensor(sheet) / 255)


class Renders(Samples):
    """A sheet of drawn shapes, the clouds of originals left of the surfaces of reconstructions.

    Surfaces are those of the grid that the tokenizer gives without queries; one that is empty stays white.
    """

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Shapes,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Reconstruct the first shapes as a grid, on all ranks, of which each may hold a part of the weights."""
        if batch_idx == 0 and self.count:
            first = batch[: self.count]
            grids = pl_module.best(first.points).output.float().cpu()
            self._bounds = pl_module.best.bounds
            self._pairs = (first.to("cpu"), grids) if trainer.is_global_zero else None

    def show(self, trainer: Trainer, originals: Shapes, outputs: Tensor) -> None:
        """Write a PNG of grids (n, 1, R, R, R)."""
        panels = []
        for number, (points, grid) in enumerate(zip(originals.points.double().numpy(), outputs, strict=True)):
            cloud = Cloud(points[:, :3], points[:, 3:] if points.shape[1] == 6 else None)
            for name, shape in (("original", cloud), ("reconstruction", surface(grid, self._bounds))):
                drawn = torch.ones(3, SIDE, SIDE)
                if shape is not None:
                    drawn = views(shape, size=SIDE, like=cloud, angles=((35.0, 25.0),))
                panels.append(Panel(drawn, f"{name} {number}"))
        sheet = side_by_side(panels, columns=4)
        write_image(self.path(trainer, ".png"), sheet)
        log_picture(trainer, pil_to_tensor(sheet) / 255)


def surface(grid: Tensor, bounds: float) -> Mesh | None:
    """The surface in a grid (1, R, R, R) of values at the centres of cells; None if there is none."""

    def field(points: Tensor) -> Tensor:
        return sample_voxels(grid, points / bounds)

    try:
        return extract(field, resolution=grid.shape[-1], bounds=bounds, stride=1).mesh
    except ValueError:  # nothing is inside, or values are not finite
        return None


def log_picture(trainer: Trainer, picture: Tensor) -> None:
    """Send (3, H, W) in [0, 1] to the loggers."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(TAG, picture, trainer.global_step)
        elif isinstance(logger, WandbLogger):
            logger.log_image(TAG, [picture], step=trainer.global_step)


def log_sound(trainer: Trainer, tag: str, sound: Tensor, sample_rate: int) -> None:
    """Send (C, T) in [-1, 1] to the loggers; TensorBoard gets the mean of the channels."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_audio(tag, sound.mean(0, keepdim=True), trainer.global_step, sample_rate)
        elif isinstance(logger, WandbLogger):
            logger.log_audio(tag, [sound.T.numpy()], step=trainer.global_step, sample_rate=[sample_rate])


def samples(spec: TokenizerSpec, folder: Path, count: int, every: int) -> Samples:
    """What suits the modality of a tokenizer; see `Samples`.

    Raises:
        ValueError: shapes are to be shown, and scikit-image is missing.
    """
    if spec.modality == "audio":
        assert spec.sample_rate is not None
        return Recordings(folder, count, every, spec.sample_rate)
    if spec.modality == "shape":
        if count and find_spec("skimage") is None:
            raise ValueError(
                "pictures of shapes need scikit-image; pip install tokenizer-zoo[mesh], or set logging.images=0"
            )
        return Renders(folder, count, every)
    return Pictures(folder, count, every)
