"""How a critic's verdicts become losses."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.objectives.audio.critic import AudioCritic, Verdict
from zoo.objectives.audio.spectrum import Waveform

__all__ = ["Adversary"]


class Adversary(nn.Module):
    """A critic, the form of its game, and the weights that it has in the tokenizer's loss.

    Args:
        net: the critic.
        loss: "hinge" (mean relu(1 - real) + relu(1 + fake) against relu(1 - fake)) or "least_squares"
            (mean (1 - real)^2 + fake^2 against (1 - fake)^2).
        reduction: "mean" or "sum" over discriminators, of all losses.
        weight: of the adversarial loss.
        features: weight of feature matching: mean absolute differences of feature maps.
        maps: "sum" or "mean" over the maps of a discriminator.
        logits: whether logits are matched like a feature map.
        relative: divide each difference by the mean magnitude of the real map (arXiv 2210.13438, Eq. 5).
        normalize: show waveforms without their mean and with a peak of 0.8.
        condition: row of the embedding of a conditioned critic.
    """

    def __init__(
        self,
        net: AudioCritic,
        *,
        loss: Literal["hinge", "least_squares"] = "hinge",
        reduction: Literal["mean", "sum"] = "mean",
        weight: float = 1.0,
        features: float = 1.0,
        maps: Literal["mean", "sum"] = "sum",
        logits: bool = False,
        relative: bool = False,
        normalize: bool = False,
        condition: int = 0,
    ) -> None:
        super().__init__()
        if loss not in ("hinge", "least_squares"):
            raise ValueError(f"loss is hinge or least_squares, got {loss!r}")
        for name, value in (("reduction", reduction), ("maps", maps)):
            if value not in ("mean", "sum"):
                raise ValueError(f"{name} is mean or sum, got {value!r}")
        self.net = net
        self.hinge = loss == "hinge"
        self.reduction, self.maps = reduction, maps
        self.weight, self.features = weight, features
        self.logits, self.relative, self.normalize, self.condition = logits, relative, normalize, condition

    def shown(self, x: Waveform | Tensor) -> Waveform:
        """What the critic hears of waveforms (B, C, T)."""
        wave = Waveform.of(x)
        return wave.derive("normalized", normalized) if self.normalize else wave

    def judge(self, x: Waveform | Tensor) -> list[Verdict]:
        """Verdicts on waveforms (B, C, T)."""
        return self.net(self.shown(x), self.condition)

    def pull(self, real: Waveform, fake: Waveform) -> dict[str, Tensor]:
        """What the tokenizer minimises, each (): "adversarial" and, where it has a weight, "features".

        Args:
            real: waveforms (B, C, T).
            fake: their reconstructions.
        """
        verdicts = self.judge(fake)
        terms = {"adversarial": self._over([self._fooled(verdict.logits.float()) for verdict in verdicts])}
        if self.features:
            with torch.no_grad():
                wanted = self.judge(real)
            pairs = zip(verdicts, wanted, strict=True)
            terms["features"] = self._over([self._matched(ours, theirs) for ours, theirs in pairs])
        return terms

    def push(self, real: Waveform, fake: Waveform) -> dict[str, Tensor]:
        """What the critic minimises under "loss", and the mean logits "real" and "fake", each ().

        Args:
            real: waveforms (B, C, T).
            fake: their reconstructions, without gradient.
        """
        reals = [verdict.logits.float() for verdict in self.judge(real)]
        fakes = [verdict.logits.float() for verdict in self.judge(fake)]
        losses = [self._told_apart(*pair) for pair in zip(reals, fakes, strict=True)]
        means = {
            name: torch.stack([logits.detach().mean() for logits in both]).mean()
            for name, both in (("real", reals), ("fake", fakes))
        }
        return {"loss": self._over(losses), **means}

    def _told_apart(self, real: Tensor, fake: Tensor) -> Tensor:
        if self.hinge:
            return F.relu(1 - real).mean() + F.relu(1 + fake).mean()
        return (1 - real).square().mean() + fake.square().mean()

    def _fooled(self, fake: Tensor) -> Tensor:
        return F.relu(1 - fake).mean() if self.hinge else (1 - fake).square().mean()

    def _matched(self, ours: Verdict, theirs: Verdict) -> Tensor:
        pairs = list(zip(ours.features, theirs.features, strict=True))
        if self.logits:
            pairs.append((ours.logits, theirs.logits))
        distances = torch.stack([self._distance(fake.float(), real.float()) for fake, real in pairs])
        return distances.sum() if self.maps == "sum" else distances.mean()

    def _distance(self, fake: Tensor, real: Tensor) -> Tensor:
        distance = F.l1_loss(fake, real)
        return distance / real.abs().mean().clamp_min(1e-5) if self.relative else distance

    def _over(self, losses: list[Tensor]) -> Tensor:
        stacked = torch.stack(losses)
        return stacked.mean() if self.reduction == "mean" else stacked.sum()


def normalized(x: Tensor) -> Tensor:
    """(B, C, T) without its mean, and with a peak of 0.8; silence stays silence."""
    x = x - x.mean(-1, keepdim=True)
    return 0.8 * x / (x.abs().amax(-1, keepdim=True) + 1e-9)
