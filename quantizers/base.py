"""The one protocol of every quantizer: latents in, `Quantized` out, and `lookup` as its exact inverse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from .checks import check_finite
from .estimators import ESTIMATORS, rotation_trick, straight_through
from .packing import pack, unpack

__all__ = ["Quantized", "Quantizer", "check_codebooks"]


@dataclass(frozen=True, slots=True)
class Quantized:
    """What a quantizer returns.

    Attributes:
        latents: (B, N, D) float32, the chosen codes; while training they carry the estimator's gradient to the input.
        indices: (B, M, Q) int64, one column per codebook, never squeezed; Q = 0 for continuous bottlenecks. M = N but
            for the quantizers of several scales, which put theirs one after the other, coarse to fine.
        loss: () float32, the weighted sum of what the quantizer wants minimised, ready to add.
        parts: the unweighted terms of `loss` and quantities worth logging, each () float32.
    """

    latents: Tensor
    indices: Tensor
    loss: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


class Quantizer(nn.Module):
    """Base of all quantizers.

    A quantizer computes in float32 whatever the autocast state or the dtype of its input, returns float32 latents, and
    its own parameters and buffers stay float32 under `.half()` or `.bfloat16()`: half precision flips codes and stalls
    moving averages.

    Attributes:
        dim: width D of the latents it returns.
        codebook_sizes: entries of each codebook, one per column of `Quantized.indices`; `()` when continuous.
        prefixes: whether the first columns of the indices are decodable alone; `forward` then takes `codebooks`, which
            stops after so many of them.
        estimator: gradient that the returned latents carry to the input while training: "straight_through", "rotation",
            or "none", by which a quantizer made of others takes the estimate upon itself.
    """

    dim: int
    codebook_sizes: tuple[int, ...]
    prefixes: bool = False
    estimator: str = "straight_through"
    _blanks_padding: bool = True  # False inside quantizers whose masks also leave out positions that do have codes

    @property
    def input_dim(self) -> int:
        """Width of the latents that `forward` reads."""
        return self.dim

    def forward(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        """Quantize latents.

        Args:
            z: (B, N, input_dim), any floating dtype, finite.
            mask: (B, N) bool, False for padding, which is read as zeros: whatever stands there changes no code, no loss
                and no statistic, and receives no gradient. None: nothing is padding.

        Raises:
            ValueError: z or mask has another shape or dtype, or z is not finite.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define forward")

    def lookup(self, indices: Tensor) -> Tensor:
        """Turn indices (B, N, Q) int64 into latents (B, N, D), bit-equal to the latents `forward` gives in eval.

        Raises:
            ValueError: wrong rank, wrong number of codebooks, non-integer dtype, or an index outside its codebook.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define lookup")

    def pack(self, indices: Tensor) -> Tensor:
        """One index for each position, (B, N) int64, of the columns (B, N, Q); see `quantizers.pack`."""
        return pack(self._check_indices(indices), self.codebook_sizes)

    def unpack(self, packed: Tensor) -> Tensor:
        """The exact inverse of `pack`: (B, N) to (B, N, Q) int64."""
        return unpack(packed, self.codebook_sizes)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Quantizer:
        """Follow device moves, refuse changes of floating dtype."""

        def keep_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if moved.dtype == tensor.dtype or not tensor.is_floating_point():
                return moved
            return tensor.to(device=moved.device)

        super()._apply(keep_dtype, recurse)
        return self

    def _estimate(self, z: Tensor, codes: Tensor) -> Tensor:
        """Value of `codes`, with the gradient to z that `estimator` names while training."""
        if not self.training or self.estimator == "none":
            return codes
        return rotation_trick(z, codes) if self.estimator == "rotation" else straight_through(z, codes)

    def _check_estimator(self, estimator: str) -> str:
        if estimator not in ESTIMATORS:
            raise ValueError(
                f"{type(self).__name__} expects estimator to be one of {', '.join(ESTIMATORS)}, got {estimator!r}"
            )
        return estimator

    def _check_latents(self, z: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return z as float32 with zeros at the padding, after checking shape, dtype and finiteness."""
        name, width = type(self).__name__, self.input_dim
        if z.ndim != 3 or z.shape[-1] != width:
            raise ValueError(
                f"{name} expects latents (B, N, {width}), got {tuple(z.shape)}; "
                f"set encoder.dim={width} and pass grids as rearrange(z, 'b c h w -> b (h w) c')"
            )
        if not z.is_floating_point():
            raise ValueError(f"{name} expects floating-point latents, got {z.dtype}; call lookup() to decode indices")
        if mask is not None:
            if mask.shape != z.shape[:2] or mask.dtype != torch.bool:
                raise ValueError(
                    f"{name} expects a mask of bool {tuple(z.shape[:2])}, True where latents are real, "
                    f"got {mask.dtype} {tuple(mask.shape)}"
                )
            if self._blanks_padding:
                z = z.masked_fill(~mask[..., None], 0)
        return check_finite(z.float(), name)

    def _check_indices(self, indices: Tensor, sizes: tuple[int, ...] | None = None) -> Tensor:
        """Return indices as int64 after checking shape (B, N, Q), dtype and range; sizes default to `codebook_sizes`.

        The range is not checked while compiling: it depends on the data, and would break the graph.
        """
        sizes = self.codebook_sizes if sizes is None else sizes
        name, count = type(self).__name__, len(sizes)
        if indices.ndim != 3 or indices.shape[-1] != count:
            raise ValueError(
                f"{name} expects indices (B, N, {count}), got {tuple(indices.shape)}; "
                "keep the last axis that forward returns, or add it with indices[..., None]"
            )
        if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
            raise ValueError(f"{name} expects integer indices, got {indices.dtype}; pass Quantized.indices")
        indices = indices.long()
        if not torch.compiler.is_compiling() and indices.device.type != "meta":
            for column, size in enumerate(sizes):
                _check_range(indices[..., column], size, name, column)
        return indices


def _check_range(indices: Tensor, size: int, name: str, column: int) -> None:
    if indices.numel() == 0:
        return
    low, high = (int(bound) for bound in torch.stack(indices.aminmax()).tolist())
    if low < 0 or high >= size:
        raise ValueError(
            f"{name} expects indices of codebook {column} in [0, {size}), got values from {low} to {high}; "
            "were they made by another tokenizer, or do they still carry an offset?"
        )


def mean(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean of all elements of x (B, N, ...) at real positions, 0 (not NaN) where there are none."""
    if mask is None:
        return x.sum() / max(x.numel(), 1)
    weights = mask.to(x.dtype).view(mask.shape + (1,) * (x.ndim - mask.ndim))
    count = weights.sum() * (x.numel() // max(mask.numel(), 1))
    return (x * weights).sum() / count.clamp_min(1)


def check_codebooks(quantizer: Quantizer, codebooks: int) -> int:
    """`codebooks`; ValueError unless the quantizer can do with that many."""
    total = len(quantizer.codebook_sizes)
    if not quantizer.prefixes:
        raise ValueError(f"{type(quantizer).__name__} uses all of its codebooks; leave codebooks={codebooks} out")
    if not 1 <= codebooks <= total:
        raise ValueError(f"codebooks lie in 1 to {total}, got {codebooks}")
    return codebooks
