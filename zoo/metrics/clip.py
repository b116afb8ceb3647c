"""The CLIP network that CMMD is defined on (arXiv 2401.09603)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.metrics.features import Network
from zoo.metrics.weights import digest_of

__all__ = ["HUB", "clip"]

HUB = "openai/clip-vit-large-patch14-336"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def clip(given: str | Path | None = None) -> Network:
    """CLIP's image tower with its projection, embeddings of unit length; pictures are resized by torch's bicubic.

    Args:
        given: a folder written by transformers' `save_pretrained`; None for the hub's.

    Raises:
        ImportError: transformers is missing.
        ConnectionError: the weights cannot be had.
    """
    try:
        from transformers import CLIPVisionModelWithProjection
    except ImportError as error:
        raise ImportError(f"CMMD's CLIP needs transformers ({error}); run `pip install tokenizer-zoo[text]`") from error
    try:
        net = CLIPVisionModelWithProjection.from_pretrained(str(given or HUB)).eval().requires_grad_(False)
    except OSError as error:
        raise ConnectionError(
            f"clip_vit_l14_336 needs the weights {given or HUB}, which could not be had "
            f"({str(error).splitlines()[0]}). Run once with network access, pass --weights clip_vit_l14_336=FOLDER as "
            "transformers saves it, or measure cmmd_efficientnet_lite0, whose weights come with pip"
        ) from error
    side = net.config.image_size
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))

    def look(x: Tensor) -> dict[str, Tensor]:
        resized = F.interpolate(x / 2 + 0.5, (side, side), mode="bicubic", align_corners=False)
        rows = net((resized - mean.to(x)) / std.to(x)).image_embeds
        return {"embedding": F.normalize(rows, dim=1)}

    file = Path(given) / "model.safetensors" if given else None
    digest = digest_of(file) if file and file.is_file() else None
    about = {"resize": "torch bicubic", "size": side, "unit length": True}
    return Network(
        "clip_vit_l14_336", look, {"embedding": net.config.projection_dim}, sha256=digest, about=about, module=net
    )
