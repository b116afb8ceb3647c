"""Fidelity of reconstructed pictures over a whole data set and all ranks, as torchmetrics metrics.

All read pictures (B, C, H, W) in [-1, 1] and clamp reconstructions to it, as a picture file would. Every picture has
the same share in a mean, whatever the batches; sums are kept in float64.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor
from torchmetrics import Metric

from zoo.metrics import images
from zoo.metrics.images import Channels, Window, lpips, ms_ssim, psnr, ssim

if TYPE_CHECKING:
    from zoo.objectives.perceptual import Backbone

__all__ = ["LPIPS", "MSSSIM", "PSNR", "SSIM", "Average"]

Average = Literal["pictures", "pixels"]


class PictureMean(Metric):
    """Mean of a number that every picture has; subclasses define `score`.

    Args:
        **kwargs: of `torchmetrics.Metric`, such as `sync_on_compute`.

    Attributes:
        count: () int64 pictures in the mean.
        skipped: () int64 pictures for which the number is not finite, such as a reconstruction with NaN in it.
    """

    is_differentiable = False
    full_state_update = False

    total: Tensor
    count: Tensor
    skipped: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("skipped", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    @property
    def protocol(self) -> dict[str, Any]:
        """What belongs beside the number, as plain data: the convention it follows."""
        raise NotImplementedError(f"{type(self).__name__} must define protocol")

    @torch.no_grad()
    def update(self, output: Tensor, target: Tensor) -> None:
        """Measure a batch.

        Args:
            output: (B, C, H, W), clamped to [-1, 1].
            target: (B, C, H, W) in [-1, 1].

        Raises:
            ValueError: shapes differ, or the pictures are too small for the measure.
        """
        values = self.score(output, target).to(self.total)
        measured = values.isfinite()
        self.total += values[measured].sum()
        self.count += measured.sum()
        self.skipped += (~measured).sum()

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """Number of each picture: (B, C, H, W) twice -> (B,); not finite where undefined."""
        raise NotImplementedError(f"{type(self).__name__} must define score")

    def compute(self) -> Tensor:
        """Mean over the pictures, () float64; NaN where nothing was measured."""
        return self.total / self.count


class PSNR(PictureMean):
    """Peak signal-to-noise ratio in dB; higher is better.

    A picture that comes back without any error has an infinite ratio; it is skipped and counted where pictures are
    averaged.

    Args:
        average: "pictures" for the mean of every picture's ratio, as most papers report; "pixels" for the ratio of the
            mean squared error of all pixels, as torchmetrics' `PeakSignalNoiseRatio` computes by default. The second is
            never higher: one JPEG file of nine photos had 26.77 and 26.37 dB.
        **kwargs: of `torchmetrics.Metric`.

    Raises:
        ValueError: another average.
    """

    higher_is_better = True

    def __init__(self, average: Average = "pictures", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if average not in get_args(Average):
            raise ValueError(f"average is one of {', '.join(get_args(Average))}, got {average!r}")
        self.average = average
        self.add_state("pixels", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    pixels: Tensor

    @property
    def protocol(self) -> dict[str, Any]:
        """What was averaged."""
        return {"average": self.average}

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """Ratio of each picture, or the sum of its squared errors where pixels are averaged."""
        if self.average == "pictures":
            return psnr(output, target)
        if output.shape != target.shape:
            raise ValueError(f"expected two batches of one shape, got {tuple(output.shape)}, {tuple(target.shape)}")
        errors = (output.clamp(-1, 1).double() - target.double()).square().flatten(1).sum(1)
        self.pixels += errors.isfinite().sum() * target[0].numel()
        return errors

    def compute(self) -> Tensor:
        """() float64 in dB; NaN where nothing was measured."""
        if self.average == "pictures":
            return super().compute()
        return 10 * (math.log10(4) - (self.total / self.pixels).log10())


class SSIM(PictureMean):
    """Mean structural similarity; higher is better. Arguments as in `zoo.metrics.ssim`.

    Args:
        window: "gaussian" (Wang et al. 2004) or "uniform" (scikit-image's default).
        data_range: of pictures in [0, 1].
        channels: "rgb" or "grey".
        **kwargs: of `torchmetrics.Metric`.
    """

    higher_is_better = True

    def __init__(
        self, window: Window = "gaussian", data_range: float = 1.0, channels: Channels = "rgb", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if window not in get_args(Window) or channels not in get_args(Channels) or not data_range > 0:
            raise ValueError(
                f"SSIM expects a window of {', '.join(get_args(Window))}, channels of {', '.join(get_args(Channels))} "
                f"and a positive data_range, got {window!r}, {channels!r}, {data_range!r}"
            )
        self.window, self.data_range, self.channels = window, data_range, channels

    @property
    def protocol(self) -> dict[str, Any]:
        """Window, range and channels."""
        return {"window": self.window, "data_range": self.data_range, "channels": self.channels}

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """Similarity of each picture."""
        return ssim(output, target, window=self.window, data_range=self.data_range, channels=self.channels)


class MSSSIM(PictureMean):
    """Mean structural similarity over five scales; higher is better. Pictures have sides of at least 161.

    Args:
        channels: "rgb" or "grey".
        **kwargs: of `torchmetrics.Metric`.
    """

    higher_is_better = True

    def __init__(self, channels: Channels = "rgb", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if channels not in get_args(Channels):
            raise ValueError(f"channels is one of {', '.join(get_args(Channels))}, got {channels!r}")
        self.channels = channels

    @property
    def protocol(self) -> dict[str, Any]:
        """Window, scales and channels."""
        return {"window": "gaussian", "scales": 5, "channels": self.channels}

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """Similarity of each picture."""
        return ms_ssim(output, target, channels=self.channels)


class LPIPS(PictureMean):
    """Mean learned perceptual image patch similarity (arXiv 1801.03924); lower is better.

    Args:
        net: "alex", "vgg" or "squeeze"; numbers of different nets cannot be compared.
        **kwargs: of `torchmetrics.Metric`.

    Raises:
        ValueError: another net.
        RuntimeError: the net's ImageNet weights are not in torch's cache and cannot be downloaded.
    """

    higher_is_better = False

    def __init__(self, net: Backbone = "alex", **kwargs: Any) -> None:
        from zoo.objectives.perceptual import Backbone

        super().__init__(**kwargs)
        if net not in get_args(Backbone):
            raise ValueError(f"LPIPS nets are {', '.join(get_args(Backbone))}, got {net!r}")
        self.net: Backbone = net
        images._judge(net)

    @property
    def protocol(self) -> dict[str, Any]:
        """The net."""
        return {"net": self.net}

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """Distance of each picture."""
        return lpips(output, target, self.net)

    def compute(self) -> Any:
        """The mean under the net's name."""
        return {self.net: super().compute()}
