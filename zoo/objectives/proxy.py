"""Learning the codes of another tokenizer instead of pixels (TiTok's first stage)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.objectives.frozen import Frozen
from zoo.tokenizer import Reconstruction, Tokenizer

__all__ = ["ProxyObjective"]


class ProxyObjective(nn.Module):
    """Cross-entropy between predicted proxy codes and a teacher's codes of the same image (arXiv 2406.07550, Sec. 3.3).

    Args:
        teacher: a tokenizer with one codebook and a raster of codes, or what `zoo.load` takes to give one.
        proxy: weight of the cross-entropy.
        quantizer: weight of `Quantized.loss`.

    Raises:
        ValueError: the teacher has no single raster of codes.
    """

    def __init__(self, teacher: Tokenizer | str, *, proxy: float = 1.0, quantizer: float = 1.0) -> None:
        super().__init__()
        if isinstance(teacher, str):
            from zoo.store.load import load

            teacher = load(teacher)
        spec = teacher.spec
        if len(spec.codebook_sizes) != 1 or spec.order != "raster":
            raise ValueError(
                f"a teacher has one codebook in raster order; {type(teacher).__name__} has {len(spec.codebook_sizes)} "
                f"in {spec.order} order"
            )
        self.teacher = Frozen(teacher)
        self.codes = spec.codebook_sizes[0]
        self.proxy, self.quantizer = proxy, quantizer

    def prepare(self, tokenizer: Tokenizer) -> None:
        """Give a fresh two-stage TiTok the teacher's pixel stage, so that it renders pictures from its first step."""
        from zoo.families import MaskGITVQGAN, TiTok

        teacher = self.teacher.net
        if isinstance(tokenizer, TiTok) and tokenizer.proxy_training and isinstance(teacher, MaskGITVQGAN):
            tokenizer.adopt(teacher)

    def forward(self, x: Tensor, reconstruction: Reconstruction, step: int = 0) -> dict[str, Tensor]:
        """Unweighted terms, each (), and their weighted sum under "loss".

        Args:
            x: (B, 3, H, W) in [-1, 1].
            reconstruction: of x, with `extras["proxy_logits"]` (B, K, h, w).
            step: optimizer steps so far; without influence.

        Raises:
            ValueError: the tokenizer predicts no proxy codes, or not the teacher's kind.
        """
        logits = reconstruction.extras.get("proxy_logits")
        if logits is None:
            raise ValueError("ProxyObjective trains tokenizers that predict proxy codes, such as a two-stage TiTok")
        target = self.targets(x)
        batch, count, height, width = logits.shape
        if count != self.codes or target.shape[1] != height * width:
            raise ValueError(
                f"the tokenizer predicts {height}x{width} codes out of {count}, the teacher gives {target.shape[1]} "
                f"out of {self.codes}"
            )
        target = target.view(batch, height, width)
        logits = logits.float()
        cross_entropy = F.cross_entropy(logits, target)
        accuracy = (logits.detach().argmax(1) == target).float().mean()
        penalty = reconstruction.quantized.loss
        loss = self.proxy * cross_entropy + self.quantizer * penalty
        return {"proxy": cross_entropy, "accuracy": accuracy, "quantizer": penalty, "loss": loss}

    @torch.no_grad()
    def targets(self, x: Tensor) -> Tensor:
        """The teacher's codes (B, N) int64 of images (B, 3, H, W) in [-1, 1]."""
        teacher = self.teacher.net
        assert isinstance(teacher, Tokenizer)
        with torch.autocast(x.device.type, enabled=False):
            return teacher.encode(x.float()).indices[..., 0]
