"""How near reconstructions come to their originals, measured in validation beside the objective."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchmetrics import Metric

from zoo.data.shapes_batch import Shapes
from zoo.metrics.audio import SISDR, LogMelDistance
from zoo.metrics.shapes import VolumeIoU
from zoo.spec import TokenizerSpec

__all__ = ["Fidelity", "fidelity"]


class Fidelity(nn.Module):
    """Takes in batches of reconstructions and originals; subclasses say what is measured.

    Attributes:
        headline: name of the number that a progress bar shows.
    """

    headline: str

    def forward(self, output: Tensor, x: Any) -> dict[str, Tensor | Metric]:
        """Take in a batch of reconstructions (B, ...) and originals.

        Returns:
            Named numbers of the batch, or metrics that have seen it and are computed at the end of an epoch.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward")


class ImageFidelity(Fidelity):
    """PSNR in dB after clamping to [-1, 1]."""

    headline = "psnr"

    def forward(self, output: Tensor, x: Tensor) -> dict[str, Tensor | Metric]:
        """Mean over a batch (B, C, H, W)."""
        error = (output.float().clamp(-1, 1) - x).square().flatten(1).mean(1) / 4
        return {"psnr": -10 * error.clamp_min(1e-10).log10().mean()}


class AudioFidelity(Fidelity):
    """Log-mel distance, and SI-SDR in dB.

    Args:
        sample_rate: Hz.
    """

    headline = "mel_distance"

    def __init__(self, sample_rate: int) -> None:
        super().__init__()
        self.metrics = nn.ModuleDict({"mel_distance": LogMelDistance(sample_rate), "si_sdr": SISDR(sample_rate)})

    def forward(self, output: Tensor, x: Tensor) -> dict[str, Tensor | Metric]:
        """Take in a batch (B, C, T)."""
        metrics: dict[str, Tensor | Metric] = {}
        for name, metric in self.metrics.items():
            assert isinstance(metric, Metric)
            metric.update(output, x)
            metrics[name] = metric
        return metrics


class ShapeFidelity(Fidelity):
    """IoU at the queries that are uniform in the volume."""

    headline = "iou"

    def __init__(self) -> None:
        super().__init__()
        self.iou = VolumeIoU()

    def forward(self, output: Tensor, x: Shapes) -> dict[str, Tensor | Metric]:
        """Take in fields (B, Q') at the Q queries of shapes and, ignored here, at others."""
        self.iou.update(output[:, : x.values.shape[1]], x.values, ~x.near)
        return {"iou": self.iou}


def fidelity(spec: TokenizerSpec) -> Fidelity:
    """What suits the modality of a tokenizer."""
    if spec.modality == "audio":
        assert spec.sample_rate is not None
        return AudioFidelity(spec.sample_rate)
    return ImageFidelity() if spec.modality == "image" else ShapeFidelity()
