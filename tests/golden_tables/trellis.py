"""Calls of ours for the tensors of the TRELLIS cases, and the two files of a published model as one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from einops import rearrange
from golden import Case, Manifest
from torch import Tensor

from zoo.families import Trellis
from zoo.objectives.shape import dice_loss

__all__ = ["Halves", "trellis"]


@dataclass(frozen=True)
class Halves(Manifest):
    """The encoder's and the decoder's manifest of a model, known by either."""

    @cached_property
    def content(self) -> dict[str, Any]:
        files = {
            part: self.file.with_name(re.sub("ss_(enc|dec)_", f"ss_{part[:3]}_", self.file.name))
            for part in ("encoder", "decoder")
        }
        halves = {part: json.loads(file.read_text()) for part, file in files.items()}
        return {
            "config": {part: half["config"] for part, half in halves.items()},
            "state": {f"{part}.{key}": shape for part, half in halves.items() for key, shape in half["state"].items()},
            "params": sum(half["params"] for half in halves.values()),
        }


def trellis(case: Case) -> Mapping[str, Callable[[re.Match[str]], Tensor] | None]:
    """Pattern of a tensor's name -> the call that gives it."""
    io = case.io
    grid = io["occupancy"].float()
    side = grid.shape[-1]
    tokenizer = Trellis.from_reference({**case.config, "resolution": side}, case.state)
    quantizer, decoder = tokenizer.quantizer, tokenizer.decoder
    moments, tokens = tokenizer.encode_latents(grid), tokenizer.encode(grid)
    mean, logvar = quantizer.posterior(moments)

    def layout(latents: Tensor) -> Tensor:
        return rearrange(latents, "b (x y z) d -> b d x y z", x=side // 4, y=side // 4)

    def drawn() -> Tensor:
        """A draw of the bottleneck, with the recorded noise in place of its own."""
        return mean + (logvar / 2).exp() * rearrange(io["posterior_noise"], "b d x y z -> b (x y z) d")

    def logits() -> Tensor:
        return decoder(drawn())[:, None]

    return {
        "occupancy|posterior_noise": None,
        "mean": lambda _: layout(tokens.latents),
        "logvar": lambda _: layout(logvar),
        "z": lambda _: layout(drawn()),
        "logits": lambda _: logits(),
        "logits_from_mean": lambda _: tokenizer.decode(tokens),
        "dice_loss": lambda _: dice_loss(logits(), grid > 0)[None],
        "kl": lambda _: quantizer.divergence(mean, logvar).mean()[None] / quantizer.dim,
    }
