"""Distillation of a speech model into the first level of a code (SpeechTokenizer, arXiv 2308.16692)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoders import HuBERTEncoder
from zoo.objectives.frozen import Frozen
from zoo.tokenizer import Reconstruction, Tokenizer

__all__ = ["SpeechDistillation"]

FILE = "pytorch_model.bin"  # of a hub repository


class SpeechDistillation(nn.Module):
    """How far the course of a tokenizer's features is from that of HuBERT's, channel by channel.

        loss = -mean over d of log sigmoid(cos(a[:, d], s[:, d]))

    with a and s (N, D) the tokenizer's and the teacher's features along time: the paper's D-axis loss (Sec. 3.3). The
    teacher is a frozen `encoders.HuBERTEncoder`, and no part of what is saved. `prepare` loads it.

    Args:
        weights: hub id or file of a `HubertModel` of transformers; None for random weights, which is for tests only.
        net: options of the encoder, where it is not HuBERT-base with its 12 blocks.
        block: whose output teaches, from 1; None for the mean of all of them and what they read (the published
            models' "avg").
        feature: name in `Reconstruction.extras` of the tokenizer's features (B, N, D).
        weight: in the objective.

    Raises:
        ValueError: the teacher has no such block.
    """

    def __init__(
        self,
        weights: str | Path | None = "facebook/hubert-base-ls960",
        *,
        net: Mapping[str, Any] | None = None,
        block: int | None = None,
        feature: str = "semantic",
        weight: float = 120.0,
    ) -> None:
        super().__init__()
        self.weights, self.net = weights, {"depth": 12, **(net or {})}
        self.block, self.feature, self.weight = block, feature, weight
        if block is not None and not 1 <= block <= self.net["depth"]:
            raise ValueError(f"block lies in 1 to {self.net['depth']}, got {block}")
        self.teacher: Frozen | None = None

    def prepare(self, tokenizer: Tokenizer) -> None:
        """Load the teacher.

        Raises:
            ValueError: the tokenizer is for another sample rate, or the file is none of HuBERT's.
            RuntimeError: the weights cannot be had, or are those of another size.
        """
        rate = tokenizer.spec.sample_rate
        if rate != HuBERTEncoder.sample_rate:
            raise ValueError(
                f"HuBERT hears {HuBERTEncoder.sample_rate} Hz, the tokenizer {rate}; leave distillation out"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            teacher = HuBERTEncoder(**self.net)
        if self.weights is not None:
            load(teacher, self.weights)
        self.teacher = Frozen(teacher)

    def forward(self, x: Tensor, reconstruction: Reconstruction) -> Tensor:
        """The loss ().

        Args:
            x: (B, 1, T) in [-1, 1], what was encoded.
            reconstruction: of x, with the features in `extras`, 50 a second.

        Raises:
            RuntimeError: there is no teacher yet.
            ValueError: the tokenizer gives no such features, or of another width.
        """
        if self.teacher is None:
            raise RuntimeError("SpeechDistillation has no teacher; call prepare(tokenizer) first")
        found = reconstruction.extras.get(self.feature)
        width = self.teacher.net.dim
        if found is None or found.ndim != 3 or found.shape[-1] != width:
            given = "none of that name" if found is None else str(tuple(found.shape))
            raise ValueError(f"SpeechDistillation expects {self.feature!r} as (B, N, {width}) in extras, got {given}")
        taught = self.features(x)
        count = min(found.shape[1], taught.shape[1])  # HuBERT counts whole windows only
        cosine = F.cosine_similarity(found[:, :count].float(), taught[:, :count], dim=1)
        return -F.logsigmoid(cosine).mean()

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """The teacher's (B, N, D) float32 for x (B, 1, T) in [-1, 1]."""
        from zoo.families.sylber import standardize

        assert self.teacher is not None
        net: Any = self.teacher.net
        states: list[Tensor] = []
        hooks = [block.register_forward_hook(lambda *call: states.append(call[-1])) for block in net.blocks]
        hooks.append(net.blocks[0].register_forward_pre_hook(lambda _, inputs: states.append(inputs[0])))
        try:
            with torch.autocast(x.device.type, enabled=False):
                net(standardize(x.float()))
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack(states).mean(0) if self.block is None else states[self.block]


def load(teacher: HuBERTEncoder, source: str | Path) -> None:
    """Put the weights of a file or of a hub repository into the teacher, strictly."""
    from zoo.families.sylber import Sylber
    from zoo.store.hub import fetch
    from zoo.store.weights import load_strict, read_state

    path = Path(source)
    try:
        if not path.is_file():
            path = fetch(str(source), FILE)
    except (OSError, ValueError) as error:
        raise RuntimeError(
            f"SpeechDistillation needs HuBERT's weights from {source}, which could not be had ({error}). Run once with "
            "network access, give a file in objective.distillation.weights, or leave the distillation out: "
            "objective.distillation=null"
        ) from error
    state = {key.removeprefix("hubert."): tensor for key, tensor in read_state(path).items()}
    state.pop("masked_spec_embed", None)
    converted = Sylber.convert(state)
    load_strict(teacher, {key.removeprefix("encoder."): tensor for key, tensor in converted.items()}, source=str(path))
