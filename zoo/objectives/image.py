"""Image reconstruction: pixels, perception, quantizer and an optional critic."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.objectives.alignment import Alignment
from zoo.objectives.gan import LeCAM, hinge_discriminator_loss, hinge_generator_loss
from zoo.tokenizer import Reconstruction, Tokenizer

__all__ = ["ImageObjective"]


class ImageObjective(nn.Module):
    """Sum of named terms. Pixels are compared, and shown to the critic, on [0, 1], as the published recipes do.

    Args:
        l1: weight of the mean absolute error.
        l2: weight of the mean squared error.
        perceptual: distance `(x, y) -> ()` of images in [-1, 1], or None.
        perceptual_weight: its weight.
        perceptual_start: step from which it counts; before, it is not computed.
        quantizer: weight of `Quantized.loss`.
        critic: images (B, 3, H, W) -> logits, higher for real; or None.
        adversarial: weight of the hinge loss that the critic gives the tokenizer.
        adversarial_start: step from which the critic learns and counts.
        adaptive: multiply `adversarial` by the ratio of the gradient norms that the other terms and the adversarial
            term have at the decoder's last layer (arXiv 2012.09841, Eq. 7).
        lecam: weight of LeCAM regularisation in the critic's loss.
        alignment: one or several distances of inner features from those of a vision network; each has its own weight.
    """

    def __init__(
        self,
        *,
        l1: float = 1.0,
        l2: float = 0.0,
        perceptual: nn.Module | None = None,
        perceptual_weight: float = 1.0,
        perceptual_start: int = 0,
        quantizer: float = 1.0,
        critic: nn.Module | None = None,
        adversarial: float = 0.1,
        adversarial_start: int = 0,
        adaptive: bool = False,
        lecam: float = 0.001,
        alignment: Alignment | Sequence[Alignment] | None = None,
    ) -> None:
        super().__init__()
        self.l1, self.l2, self.perceptual_weight, self.quantizer = l1, l2, perceptual_weight, quantizer
        self.perceptual_start = perceptual_start
        self.adversarial, self.adversarial_start, self.adaptive = adversarial, adversarial_start, adaptive
        self.lecam_weight = lecam
        self.perceptual, self.critic = perceptual, critic
        self.lecam = LeCAM() if critic is not None and lecam > 0 else None
        several = [alignment] if isinstance(alignment, Alignment) else list(alignment or [])
        self.alignments = nn.ModuleList(several)

    def prepare(self, tokenizer: Tokenizer, *, fresh: bool = True) -> None:
        """Before training: ask the tokenizer for the features that are aligned.

        Args:
            fresh: whether its weights are those of the recipe's start; without influence.
        """
        for alignment in self.alignments:
            alignment.prepare(tokenizer)  # type: ignore[operator]

    def forward(
        self, x: Tensor, reconstruction: Reconstruction, step: int = 0, anchor: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Unweighted terms of the tokenizer's loss, each (), and their weighted sum under "loss".

        Args:
            x: (B, 3, H, W) in [-1, 1].
            reconstruction: of x.
            step: optimizer steps so far.
            anchor: the decoder's last weight, where the adaptive weight is measured; None for the fixed weight.
        """
        output = reconstruction.output.float()
        difference = (output - x.float()) / 2
        terms = {"l1": difference.abs().mean(), "l2": difference.square().mean()}
        loss = self.l1 * terms["l1"] + self.l2 * terms["l2"]
        if self.perceptual is not None and step >= self.perceptual_start:
            terms["perceptual"] = self.perceptual(x, output)
            loss = loss + self.perceptual_weight * terms["perceptual"]
        if self.alignments:
            distances = [alignment(x, reconstruction) for alignment in self.alignments]
            terms["alignment"] = torch.stack(distances).sum()
            for alignment, distance in zip(self.alignments, distances, strict=True):
                loss = loss + alignment.weight * distance
        if self.critic is not None and step >= self.adversarial_start:
            terms["adversarial"] = hinge_generator_loss(self._judge(output))
            pull = self.adversarial * terms["adversarial"]
            if self.adaptive and anchor is not None:
                terms["adaptive_weight"] = gradient_ratio(loss, terms["adversarial"], anchor)
                pull = pull * terms["adaptive_weight"]
            loss = loss + pull
        terms["quantizer"] = reconstruction.quantized.loss
        return terms | {"loss": loss + self.quantizer * terms["quantizer"]}

    def criticise(self, x: Tensor, output: Tensor) -> dict[str, Tensor]:
        """Terms of the critic's loss, each (), with the total under "loss"; no gradient reaches the tokenizer.

        Args:
            x: real images (B, 3, H, W) in [-1, 1].
            output: their reconstructions.

        Raises:
            ValueError: the objective has no critic.
        """
        if self.critic is None:
            raise ValueError("this ImageObjective has no critic")
        real, fake = self._judge(x.detach()), self._judge(output.detach())
        loss = hinge_discriminator_loss(real, fake)
        terms = {"critic_real": real.mean(), "critic_fake": fake.mean()}
        if self.lecam is not None:
            terms["lecam"] = self.lecam(real, fake)
            loss = loss + self.lecam_weight * terms["lecam"]
        return terms | {"loss": loss}

    def _judge(self, images: Tensor) -> Tensor:
        assert self.critic is not None
        return self.critic(images.float() / 2 + 0.5).float()


def gradient_ratio(loss: Tensor, adversarial: Tensor, anchor: Tensor) -> Tensor:
    """|d loss / d anchor| / |d adversarial / d anchor| as a () tensor in [0, 1e4], without gradient."""
    ours = torch.autograd.grad(loss, anchor, retain_graph=True)[0]
    theirs = torch.autograd.grad(adversarial, anchor, retain_graph=True)[0]
    return (ours.norm() / (theirs.norm() + 1e-4)).clamp(0, 1e4).detach()
