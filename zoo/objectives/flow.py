"""What families with a flow decoder minimise: the error of the velocity, and nothing about pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from decoders import RectifiedFlow
from zoo.objectives.alignment import Alignment
from zoo.tokenizer import Reconstruction, Tokenizer

__all__ = ["FlowObjective"]


class FlowObjective(nn.Module):
    """Mean squared error of `extras["velocity"]` against `extras["target"]`, the quantizer's loss, and alignments.

    Args:
        flow: weight of the velocity's error.
        quantizer: weight of `Quantized.loss`.
        alignment: one or several distances of inner features from those of a vision network; each has its own weight.
        vae: what `zoo.load` takes to give the VAE whose latents are painted; None where the tokenizer has none, or
            where `init_from` brings its weights.
    """

    def __init__(
        self,
        *,
        flow: float = 1.0,
        quantizer: float = 1.0,
        alignment: Alignment | Sequence[Alignment] | None = None,
        vae: str | None = None,
    ) -> None:
        super().__init__()
        self.flow, self.quantizer, self.vae = flow, quantizer, vae
        several = [alignment] if isinstance(alignment, Alignment) else list(alignment or [])
        self.alignments = nn.ModuleList(several)

    def prepare(self, tokenizer: Tokenizer, *, fresh: bool = True) -> None:
        """Before training: give a fresh tokenizer its VAE, and ask it for the features that are aligned.

        Args:
            fresh: whether its weights are those of the recipe's start; others keep the VAE that they have.

        Raises:
            ValueError: `vae` names something that is no VAE, or not this tokenizer's.
        """
        for alignment in self.alignments:
            alignment.prepare(tokenizer)  # type: ignore[operator]
        if self.vae is None or not fresh:
            return
        from zoo.families import FlexTok, GridTokenizer
        from zoo.store.load import load

        if not isinstance(tokenizer, FlexTok):
            raise ValueError(f"objective.vae is for tokenizers with a VAE inside; this is a {type(tokenizer).__name__}")
        source = load(self.vae)
        if not isinstance(source, GridTokenizer):
            raise ValueError(f"objective.vae={self.vae} is a {type(source).__name__}, not a grid tokenizer")
        tokenizer.adopt(source)

    def forward(self, x: Tensor, reconstruction: Reconstruction, step: int = 0) -> dict[str, Tensor]:
        """Unweighted terms, each (), and their weighted sum under "loss".

        Args:
            x: (B, 3, H, W) in [-1, 1].
            reconstruction: of x, with "velocity" and "target" in `extras`.
            step: optimizer steps so far; without influence.

        Raises:
            ValueError: the tokenizer predicts no velocity.
        """
        extras = reconstruction.extras
        if "velocity" not in extras or "target" not in extras:
            raise ValueError("FlowObjective trains tokenizers with a flow decoder, such as zoo.families.FlexTok")
        terms = {"flow": RectifiedFlow.loss(extras["velocity"], extras["target"])}
        loss = self.flow * terms["flow"]
        if self.alignments:
            distances = [alignment(x, reconstruction) for alignment in self.alignments]
            terms["alignment"] = torch.stack(distances).sum()
            for alignment, distance in zip(self.alignments, distances, strict=True):
                loss = loss + alignment.weight * distance
        terms["quantizer"] = reconstruction.quantized.loss
        return terms | {"loss": loss + self.quantizer * terms["quantizer"]}
