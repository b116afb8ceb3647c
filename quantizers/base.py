"""The one protocol of every quantizer: latents in, `Quantized` out, and `lookup` as its exact inverse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

__all__ = ["Quantized", "Quantizer"]


@dataclass(frozen=True, slots=True)
class Quantized:
    """What a quantizer returns.

    Attributes:
        latents: (B, N, D) float32, the chosen codes; while training they carry the estimator's gradient to the input.
        indices: (B, N, Q) int64, one column per codebook, never squeezed; Q = 0 for continuous bottlenecks.
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
    """

    dim: int
    codebook_sizes: tuple[int, ...]

    def forward(self, z: Tensor) -> Quantized:
        """Quantize latents (B, N, D), any floating dtype."""
        raise NotImplementedError(f"{type(self).__name__} does not define forward")

    def lookup(self, indices: Tensor) -> Tensor:
        """Turn indices (B, N, Q) int64 into latents (B, N, D), bit-equal to the latents `forward` gives in eval.

        Raises:
            ValueError: wrong rank, wrong number of codebooks, non-integer dtype, or an index outside its codebook.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define lookup")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Quantizer:
        """Follow device moves, refuse changes of floating dtype."""

        def keep_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if moved.dtype == tensor.dtype or not tensor.is_floating_point():
                return moved
            return tensor.to(device=moved.device)

        super()._apply(keep_dtype, recurse)
        return self

    def _check_latents(self, z: Tensor, width: int | None = None) -> Tensor:
        """Return z as float32 after checking that it is floating and (B, N, width); width defaults to `dim`."""
        width = self.dim if width is None else width
        name = type(self).__name__
        if z.ndim != 3 or z.shape[-1] != width:
            raise ValueError(
                f"{name} expects latents (B, N, {width}), got {tuple(z.shape)}; "
                f"set encoder.dim={width} and pass grids as rearrange(z, 'b c h w -> b (h w) c')"
            )
        if not z.is_floating_point():
            raise ValueError(f"{name} expects floating-point latents, got {z.dtype}; call lookup() to decode indices")
        return z.float()

    def _check_indices(self, indices: Tensor) -> Tensor:
        """Return indices as int64 after checking shape (B, N, Q), dtype and range.

        The range is not checked while compiling: it depends on the data, and would break the graph.
        """
        name, count = type(self).__name__, len(self.codebook_sizes)
        if indices.ndim != 3 or indices.shape[-1] != count:
            raise ValueError(
                f"{name} expects indices (B, N, {count}), got {tuple(indices.shape)}; "
                "keep the last axis that forward returns, or add it with indices[..., None]"
            )
        if indices.is_floating_point() or indices.is_complex() or indices.dtype == torch.bool:
            raise ValueError(f"{name} expects integer indices, got {indices.dtype}; pass Quantized.indices")
        indices = indices.long()
        if not torch.compiler.is_compiling() and indices.device.type != "meta":
            for column, size in enumerate(self.codebook_sizes):
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


def mean(x: Tensor) -> Tensor:
    """Mean of all elements, 0 (not NaN) for an empty tensor."""
    return x.sum() / max(x.numel(), 1)
