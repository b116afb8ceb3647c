"""Learning the codes of another tokenizer instead of pixels (the first stage of TiTok, ALIT and KARL)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
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
        smoothing: share of the target that is spread evenly over all codes.
        code: weight of the squared distance between the teacher's code vector and the one that is expected under the
            predicted probabilities.
        passes: weight of each prediction's cross-entropy where a tokenizer makes several, such as one a roll-out; their
            terms are summed. Empty: all 1.

    Raises:
        ValueError: the teacher has no single raster of codes.
    """

    def __init__(
        self,
        teacher: Tokenizer | str,
        *,
        proxy: float = 1.0,
        quantizer: float = 1.0,
        smoothing: float = 0.0,
        code: float = 0.0,
        passes: Sequence[float] = (),
    ) -> None:
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
        self.proxy, self.quantizer, self.code = proxy, quantizer, code
        self.smoothing, self.passes = smoothing, tuple(passes)

    def prepare(self, tokenizer: Tokenizer, *, fresh: bool = True) -> None:
        """Before training: give a tokenizer the teacher's parts that it holds, so that it renders pictures at once.

        Args:
            fresh: whether its weights are those of the recipe's start; others keep the parts that they have.
        """
        from zoo.families import MaskGITVQGAN

        teacher, adopt = self.teacher.net, getattr(tokenizer, "adopt", None)
        if fresh and adopt and getattr(tokenizer, "proxy_training", False) and isinstance(teacher, MaskGITVQGAN):
            adopt(teacher)

    def forward(self, x: Tensor, reconstruction: Reconstruction, step: int = 0) -> dict[str, Tensor]:
        """Unweighted terms, each (), and their weighted sum under "loss".

        Args:
            x: (B, 3, H, W) in [-1, 1].
            reconstruction: of x, with `extras["proxy_logits"]` (B, K, h, w), or (R, B, K, h, w) for R predictions. If
                `extras["proxy_codes"]` (B, h, w) is there, it is the target, and the teacher is not asked.
            step: optimizer steps so far; without influence.

        Raises:
            ValueError: the tokenizer predicts no proxy codes, or not the teacher's kind, or `passes` are others.
        """
        logits = reconstruction.extras.get("proxy_logits")
        if logits is None:
            raise ValueError("ProxyObjective trains tokenizers that predict proxy codes, such as a two-stage TiTok")
        several = logits.float() if logits.ndim == 5 else logits.float()[None]
        weights = several.new_ones(len(several))
        if logits.ndim == 5 and self.passes:
            weights = several.new_tensor(self.passes)
        if len(weights) != len(several):
            raise ValueError(f"passes has {len(weights)} weights, the tokenizer makes {len(several)} predictions")
        known = reconstruction.extras.get("proxy_codes")
        target = self.targets(x) if known is None else known.flatten(1)
        batch, count, height, width = several.shape[1:]
        if count != self.codes or target.shape[1] != height * width:
            raise ValueError(
                f"the tokenizer predicts {height}x{width} codes out of {count}, the teacher gives {target.shape[1]} "
                f"out of {self.codes}"
            )
        target = target.view(batch, height, width)
        entropies = torch.stack([F.cross_entropy(item, target, label_smoothing=self.smoothing) for item in several])
        terms = {
            "proxy": entropies.mean(),
            "accuracy": (several.detach().argmax(2) == target).float().mean(),
            "quantizer": reconstruction.quantized.loss,
        }
        loss = self.proxy * (weights * entropies).sum() + self.quantizer * terms["quantizer"]
        if self.code:
            distances = self.distances(several, target)
            terms["code"] = distances.mean()
            loss = loss + self.code * distances.sum()
        return terms | {"loss": loss}

    def distances(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean squared error (R,) of the code vectors that logits (R, B, K, h, w) expect, against the target's."""
        teacher = self.teacher.net
        assert isinstance(teacher, Tokenizer)
        codebook = teacher.quantizer.lookup(torch.arange(self.codes, device=target.device)[None, :, None])[0]
        expected = rearrange(logits.softmax(2), "r b k h w -> r b h w k") @ codebook
        return (expected - codebook[target]).square().flatten(1).mean(1)

    @torch.no_grad()
    def targets(self, x: Tensor) -> Tensor:
        """The teacher's codes (B, N) int64 of images (B, 3, H, W) in [-1, 1]."""
        teacher = self.teacher.net
        assert isinstance(teacher, Tokenizer)
        with torch.autocast(x.device.type, enabled=False):
            return teacher.encode(x.float()).indices[..., 0]
