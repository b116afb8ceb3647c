"""`--target psnr=24`: codes as short as a goal allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from zoo.cli.jobs import Sample
    from zoo.cli.sampling import Sampling
    from zoo.fit import Fitted
    from zoo.tokenizer import Tokenizer
    from zoo.tokens import Tokens

__all__ = ["Goal", "read_goal", "require_lpips"]

KINDS = ("psnr", "ssim", "lpips", "bits", "bpp")


@dataclass(frozen=True, slots=True)
class Goal:
    """What each picture is to reach.

    Attributes:
        kind: "psnr" (dB) and "ssim" at least, "lpips" at most; "bits" and "bpp" (bits per pixel) as a budget.
        value: the number.
    """

    kind: str
    value: float

    def __str__(self) -> str:
        return f"{self.kind}={self.value:g}"

    def cut(self, tokenizer: Tokenizer, code: Tokens, samples: Sequence[Sample], sampling: Sampling) -> Fitted:
        """The codes of pictures, each cut to its own length; what was added as a border does not count."""
        import torch

        from zoo import metrics
        from zoo.fit import bisect, fit_bits

        seen = [sample.fit.trim(sample.image)[None] for sample in samples]
        if self.kind in ("bits", "bpp"):
            unit = [image[0, 0].numel() if self.kind == "bpp" else 1 for image in seen]
            return fit_bits(code, self.value * torch.tensor(unit, device=code.indices.device).double())
        measure, sign = getattr(metrics, self.kind), -1 if self.kind == "lpips" else 1

        def quality(tokens: Tokens) -> torch.Tensor:
            outputs = tokenizer.decode(tokens, **sampling.options(tokenizer)).float().cpu()
            given = [sample.fit.trim(output)[None] for sample, output in zip(samples, outputs, strict=True)]
            return sign * torch.cat([measure(*pair) for pair in zip(given, seen, strict=True)])

        return bisect(code, quality, sign * self.value)


def read_goal(text: str | None, tokenizer: Tokenizer) -> Goal | None:
    """The goal that `--target` names.

    Raises:
        ValueError: it is not KIND=NUMBER, or the tokenizer cannot have one.
        RuntimeError: it is lpips, whose weights cannot be had.
    """
    if text is None:
        return None
    kind, _, number = text.partition("=")
    try:
        goal = Goal(kind.strip().lower(), float(number))
    except ValueError as error:
        raise ValueError(f"--target expects psnr=24 or another of {', '.join(KINDS)}, got {text!r}") from error
    if goal.kind not in KINDS:
        raise ValueError(f"--target knows {', '.join(KINDS)}, got {kind!r}")
    if not tokenizer.spec.flexible:
        raise ValueError("--target needs a model whose prefixes decode; `zoo info NAME` says which do")
    if goal.kind in ("bits", "bpp") and tokenizer.spec.continuous:
        raise ValueError(f"--target {kind} needs a model with codes; this one is continuous")
    if goal.kind == "lpips":
        require_lpips()
    return goal


def require_lpips() -> None:
    """Have LPIPS look once, so that a missing network is one error and not one a picture.

    Raises:
        RuntimeError: its weights cannot be had.
    """
    import torch

    from zoo.metrics import lpips

    blank = torch.zeros(1, 3, 64, 64)
    lpips(blank, blank)
