"""The Inception network of the Frechet Inception distance, and the ways in use to bring pictures to its 299 pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.inception import (
    BasicConv2d,
    Inception3,
    InceptionA,
    InceptionAux,
    InceptionB,
    InceptionC,
    InceptionD,
    InceptionE,
)

from zoo.metrics.features import Network
from zoo.metrics.weights import weights_file

__all__ = ["DIGEST", "URL", "WIDTHS", "FIDInception", "Resize", "Scaling", "inception", "resize"]

Resize = Literal["tf1_bilinear", "torch_bilinear", "pil_bicubic", "antialias"]
Scaling = Literal["tf", "symmetric"]
SIDE = 299
WIDTHS = {"pool": 2048, "logits": 1008, "spatial": 17 * 17 * 7}
URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
DIGEST = "6726825d"
ALIASES = ("pt_inception-2015-12-05-6726825d.pth",)  # the same file as pytorch-fid publishes it


class FIDInception(nn.Module):
    """Inception v3 as TensorFlow published it in 2015 (arXiv 1512.00567), with 1008 classes.

    It is torchvision's network, but for the pooling branches of seven blocks: means do not count the padding, and the
    last block takes the maximum. Keys are those of torchvision, pytorch-fid and torch-fidelity.
    """

    def __init__(self) -> None:
        super().__init__()
        blocks = [BasicConv2d, MeanA, InceptionB, MeanC, InceptionD, MeanE, InceptionAux]
        net = Inception3(num_classes=WIDTHS["logits"], aux_logits=False, inception_blocks=blocks, init_weights=False)
        net.Mixed_7c = MaxE(2048)
        self.net = net.eval().requires_grad_(False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Look at pictures (B, 3, 299, 299), scaled.

        Returns:
            "spatial", the first seven channels of TensorFlow's `mixed_6/conv`, (B, 2023) with channels last: sFID's;
            "pool" (B, 2048): FID's; "logits" (B, 1008), to which no bias was added: the Inception score's.
        """
        net = self.net
        x = net.maxpool1(net.Conv2d_2b_3x3(net.Conv2d_2a_3x3(net.Conv2d_1a_3x3(x))))
        x = net.maxpool2(net.Conv2d_4a_3x3(net.Conv2d_3b_1x1(x)))
        x = net.Mixed_6a(net.Mixed_5d(net.Mixed_5c(net.Mixed_5b(x))))
        x = net.Mixed_6d(net.Mixed_6c(net.Mixed_6b(x)))
        # Its first channels are those of the 1 x 1 branch, `mixed_6/conv`.
        spatial = rearrange(x[:, :7], "b c h w -> b (h w c)")
        x = net.Mixed_7c(net.Mixed_7b(net.Mixed_7a(net.Mixed_6e(x))))
        pool = x.mean((2, 3))
        return {"pool": pool, "logits": pool @ net.fc.weight.T, "spatial": spatial}


class MeanA(InceptionA):
    """The block on 35 x 35 places."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        return [*super()._forward(x)[:-1], self.branch_pool(mean(x))]


class MeanC(InceptionC):
    """The block on 17 x 17 places."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        return [*super()._forward(x)[:-1], self.branch_pool(mean(x))]


class MeanE(InceptionE):
    """The first block on 8 x 8 places."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        return [*super()._forward(x)[:-1], self.branch_pool(mean(x))]


class MaxE(InceptionE):
    """The second block on 8 x 8 places."""

    def _forward(self, x: Tensor) -> list[Tensor]:
        return [*super()._forward(x)[:-1], self.branch_pool(F.max_pool2d(x, 3, stride=1, padding=1))]


def mean(x: Tensor) -> Tensor:
    """Means of 3 x 3 places, of fewer at the border."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def inception(
    given: str | Path | None = None, *, resize: Resize = "tf1_bilinear", scaling: Scaling | None = None
) -> Network:
    """The network with its published weights.

    Args:
        given: the file of weights; None for torch's cache, into which it is downloaded.
        resize: how pictures are brought to 299 pixels.

            - "tf1_bilinear": TensorFlow 1's bilinear, whose pixels have their centre in the corner: ADM's evaluator,
              torch-fidelity, and torchmetrics with `antialias=False`;
            - "torch_bilinear": torch's bilinear without antialiasing: pytorch-fid;
            - "pil_bicubic": Pillow's bicubic on floats, clipped to [0, 255]: clean-fid;
            - "antialias": torch's bilinear with antialiasing: torchmetrics' default.
        scaling: "tf" for (level - 128) / 128, "symmetric" for 2 x - 1 with x in [0, 1]; None for what the codes named
            above do: "symmetric" for "torch_bilinear", "tf" for the others.

    Raises:
        ValueError: another option, or a file with other weights.
        FileNotFoundError, ConnectionError: the weights cannot be had.
    """
    scaling = scaling or ("symmetric" if resize == "torch_bilinear" else "tf")
    if resize not in get_args(Resize) or scaling not in get_args(Scaling):
        raise ValueError(
            f"inception_fid has the resizes {', '.join(get_args(Resize))} and the scalings "
            f"{', '.join(get_args(Scaling))}, got {resize!r} and {scaling!r}"
        )
    path, digest = weights_file("inception_fid", URL, DIGEST, given=given, aliases=ALIASES)
    net = FIDInception()
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    try:
        net.net.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} does not hold the Inception of FID: {str(error)[:300]}") from error
    about: dict[str, Any] = {"resize": resize, "scaling": scaling}
    return Network(
        f"inception_fid_{digest[:8]}",
        lambda x: net(prepare(x, resize, scaling)),
        WIDTHS,
        sha256=digest,
        about=about,
        module=net,
    )


def prepare(x: Tensor, how: Resize, scaling: Scaling) -> Tensor:
    """Pictures (B, 3, H, W) in [-1, 1] -> what the network reads, (B, 3, 299, 299)."""
    levels = resize((x + 1) * 127.5, how)
    return (levels - 128) / 128 if scaling == "tf" else levels / 127.5 - 1


def resize(levels: Tensor, how: Resize) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 255] -> (B, 3, 299, 299), see `inception`."""
    if how == "tf1_bilinear":
        return bilinear_tf1(levels, SIDE)
    if how == "pil_bicubic":
        return bicubic_pillow(levels, SIDE)
    return F.interpolate(levels, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=how == "antialias")


def bilinear_tf1(x: Tensor, side: int) -> Tensor:
    """`tf.image.resize_bilinear` of TensorFlow 1: place i looks at i * scale, without half pixels."""
    for dim in (3, 2):
        places = torch.arange(side, dtype=torch.float32, device=x.device) * (x.shape[dim] / side)
        low = places.long()
        high = (low + 1).clamp_max(x.shape[dim] - 1)
        weight = (places - low).view([-1 if axis == dim else 1 for axis in range(4)])
        below = x.index_select(dim, low)
        x = below + (x.index_select(dim, high) - below) * weight
    return x


def bicubic_pillow(x: Tensor, side: int) -> Tensor:
    """Pillow's antialiased bicubic of each channel in floats, clipped to [0, 255]."""

    def channel(plane: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(plane).resize((side, side), Image.Resampling.BICUBIC))

    planes: Sequence[np.ndarray] = list(x.flatten(0, 1).float().cpu().numpy())
    resized = np.stack([channel(plane) for plane in planes]).clip(0, 255)
    return torch.from_numpy(resized).to(x.device).view(*x.shape[:2], side, side)
