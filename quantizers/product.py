"""Product: several quantizers side by side, each on channels of its own."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .base import Quantized, Quantizer, mean
from .copies import copies
from .estimators import straight_through

__all__ = ["Product"]


class Product(Quantizer):
    """Quantizers that share the channels out among them: product quantization, heads, groups, factorized codes.

        z = (z_1, ..., z_G),    q = (q_1(z_1), ..., q_G(z_G)),    columns of indices in the same order
        loss = mean or sum over g of loss_g + disentanglement * mean over pairs g < h of mean(cos(q_g, q_h)^2)

    - `Product(VQ(4, 1024), 4)`: a codebook for each head, as vector-quantize-pytorch has them;
    - `Product(Residual(...), 2)`: grouped residual quantization (HiFi-Codec, arXiv 2305.02765);
    - `Product([VQ(8, 16384, normalize=True), VQ(8, 16384, normalize=True)], disentanglement=0.1, reduce="sum")`:
      FQGAN's dual code (arXiv 2411.16681); its triple code averages over the three pairs, as here.

    Args:
        quantizers: one quantizer for each group of channels, or a single one to build `groups` alike.
        groups: how many to make of a single quantizer; each starts with parameters of its own.
        shared: keep the single quantizer as it is and give all groups to it, so that they have one codebook in common.
            It then sees N * groups positions, and its loss counts as that of each group.
        disentanglement: weight of the mean squared cosine between the codes of two groups (FQGAN). Its gradient
            reaches the latents by the estimator, not the codebooks; all groups must have the same width.
        reduce: of the losses and parts of the groups, "mean" or "sum"; a part that a group does not have counts 0.

    Raises:
        ValueError: no quantizer, `groups` with several quantizers, or an option out of range.
    """

    def __init__(
        self,
        quantizers: Quantizer | Sequence[Quantizer],
        groups: int | None = None,
        *,
        shared: bool = False,
        disentanglement: float = 0.0,
        reduce: Literal["mean", "sum"] = "mean",
    ) -> None:
        super().__init__()
        if isinstance(quantizers, Quantizer):
            count = 1 if groups is None else groups
            if count < 1:
                raise ValueError(f"Product expects at least one group, got groups={groups}")
            members = [quantizers] if shared else copies(quantizers, count)
        elif shared or groups is not None or not quantizers:
            raise ValueError(
                f"Product expects a list of quantizers, or one quantizer with groups, got {len(quantizers)} quantizers "
                f"with groups={groups}, shared={shared}"
            )
        else:
            members, count = list(quantizers), len(quantizers)
        if reduce not in ("mean", "sum"):
            raise ValueError(f"Product expects reduce to be mean or sum, got {reduce!r}")
        widths = {member.dim for member in members}
        if disentanglement > 0 and (len(widths) > 1 or count < 2):
            raise ValueError(
                f"Product's disentanglement compares two or more groups of one width, got {count} of {sorted(widths)}"
            )
        self.quantizers = nn.ModuleList(members)
        self.groups = count
        self.shared = shared
        self.disentanglement = disentanglement
        self.reduce = reduce
        each = [members[0]] * count if shared else members
        self.dim = sum(member.dim for member in each)
        self.codebook_sizes = tuple(size for member in each for size in member.codebook_sizes)
        self._input_dims = [member.input_dim for member in each]

    @property
    def input_dim(self) -> int:
        """Width of the latents that `forward` reads."""
        return sum(self._input_dims)

    @property
    def estimator(self) -> str:
        """The first quantizer's; setting it sets that of all."""
        return self._members[0].estimator

    @estimator.setter
    def estimator(self, name: str) -> None:
        for member in self._members:
            member.estimator = self._check_estimator(name)

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        """Quantize (B, N, input_dim); parts are those of the quantizers, reduced alike, and "disentanglement" (when its
        weight is not 0).
        """
        z = self._check_latents(z, mask)
        scale = 1 / self.groups if self.reduce == "mean" else 1.0
        if self.shared:
            found, scale = [self._together(z, mask)], scale * self.groups
        else:
            inputs = z.split(self._input_dims, dim=-1)
            found = [member(part, mask) for member, part in zip(self._members, inputs, strict=True)]
        latents = torch.cat([each.latents for each in found], dim=-1)
        indices = torch.cat([each.indices for each in found], dim=-1)
        loss = torch.stack([each.loss for each in found]).sum() * scale
        parts: dict[str, Tensor] = {}
        for each in found:
            for name, part in each.parts.items():
                parts[name] = parts[name] + part * scale if name in parts else part * scale
        if self.disentanglement > 0:
            parts["disentanglement"] = self._overlap(z, latents, mask)
            loss = loss + self.disentanglement * parts["disentanglement"]
        return Quantized(latents, indices, loss, parts)

    def lookup(self, indices: Tensor) -> Tensor:
        """Latents (B, N, dim) of indices (B, N, Q), the columns of the first quantizer first."""
        indices = self._check_indices(indices)
        if self.shared:
            batch, tokens, columns = indices.shape
            folded = indices.reshape(batch, tokens * self.groups, columns // self.groups)
            return self._members[0].lookup(folded).reshape(batch, tokens, self.dim)
        split = indices.split([len(member.codebook_sizes) for member in self._members], dim=-1)
        return torch.cat([member.lookup(part) for member, part in zip(self._members, split, strict=True)], dim=-1)

    @property
    def _members(self) -> list[Quantizer]:
        return list(self.quantizers)  # type: ignore[arg-type]

    def _together(self, z: Tensor, mask: Tensor | None) -> Quantized:
        """All groups through the one quantizer, as further positions."""
        batch, tokens = z.shape[:2]
        folded = z.reshape(batch, tokens * self.groups, self._input_dims[0])
        found = self._members[0](folded, None if mask is None else mask.repeat_interleave(self.groups, dim=1))
        latents = found.latents.reshape(batch, tokens, self.dim)
        indices = found.indices.reshape(batch, tokens, len(self.codebook_sizes))
        return Quantized(latents, indices, found.loss, found.parts)

    def _overlap(self, z: Tensor, latents: Tensor, mask: Tensor | None) -> Tensor:
        """Mean squared cosine between groups, over pairs and positions."""
        if self.training and self.estimator == "none":
            latents = straight_through(z, latents.detach())
        unit = [F.normalize(part, dim=-1) for part in latents.chunk(self.groups, dim=-1)]
        pairs = [mean((one * two).sum(-1).square(), mask) for one, two in combinations(unit, 2)]
        return torch.stack(pairs).mean()

    def extra_repr(self) -> str:
        return f"groups={self.groups}, shared={self.shared}, reduce={self.reduce!r}"
