"""VectorQuantizePytorch: any quantizer of vector-quantize-pytorch behind the protocol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .adapter_options import GROUPED, RESIDUAL, checked
from .base import Quantized, Quantizer
from .distributed import all_reduce_sum, world_size
from .estimators import straight_through
from .upkeep import align_once

__all__ = ["VectorQuantizePytorch"]


class VectorQuantizePytorch(Quantizer):
    """Any quantizer of vector-quantize-pytorch 1.32 (github.com/lucidrains/vector-quantize-pytorch), by its name there.

    One call convention for its 1, 2, 3 or 4 results, losses of shape (), (Q,) or (G, Q), which are summed, and int32 or
    squeezed indices. In eval the latents are what the indices decode to. It is as exact and as fast as the library; the
    classes of its own in this package are faster, and differ as the table in docs/quantizers.md says.

    The library's behaviour is kept while training: value and gradient of the latents (straight-through values off the
    code by a rounding; residual quantizers multiply the gradient to z by their depth, and its rotation trick has no
    bound), losses, updates and random draws. What differs:

    - Everything runs in float32 outside autocast (but matrix products as the process has set them, TF32 included); z
      must be finite.
    - A mask selects the real positions before the library sees them, in place of its own. Padding has the code of a
      zero vector. A training step without a real position on some rank (FSP: with fewer than two) changes no state.
    - k-means happens while training only; before that a codebook that waits for it is all zeros.
    - `quantize_dropout`: indices of dropped levels, -1 in the library, are those of an eval pass.
    - Several ranks start from rank 0's state and share counts, sums, k-means and replaced codes even when built before
      the process group. Entropies of LFQ are wrong over ranks in the library: training them there raises.
    - It cannot be compiled whole nor exported: the library branches on its data. torch.compile breaks the graph here.

    Args:
        name: a class of the library: VectorQuantize, ResidualVQ, GroupedResidualVQ, SimVQ, ResidualSimVQ, FSQ,
            ResidualFSQ, GroupedResidualFSQ, LFQ, ResidualLFQ, GroupedResidualLFQ, FSP, BinaryMapper (codes are one-hot
            vectors) or RandomProjectionQuantizer (codes are those of its inner VectorQuantize).
        options: its keyword arguments: numbers, texts, lists and mappings of them.
        estimator: gradient of the latents to z while training. "library": as it comes; "straight_through" and
            "rotation": one estimate around the whole, projections included; "none".

    Attributes:
        quantizer: the library's module.

    Raises:
        ValueError: an unknown or unsupported name, or options that are not plain data, that the library refuses, or
            that cannot meet the protocol.
    """

    def __init__(
        self,
        name: str,
        options: Mapping[str, Any],
        *,
        estimator: Literal["library", "straight_through", "rotation", "none"] = "library",
    ) -> None:
        super().__init__()
        self.name = name
        self.options = checked(name, options)
        self.quantizer = self._build()
        self.codebook_sizes = _sizes(name, self.quantizer)
        self._input_dim = self._widths()[0]
        self.dim = self._widths()[1]
        self.estimator = estimator

    def reset_parameters(self) -> None:
        """Build the library's module anew."""
        self.quantizer = self._build()

    @property
    def input_dim(self) -> int:
        """Width of the latents that `forward` reads; `dim` but for BinaryMapper and RandomProjectionQuantizer."""
        return self._input_dim

    @property
    def estimator(self) -> str:
        """As the argument."""
        return self._estimator

    @estimator.setter
    def estimator(self, name: str) -> None:
        if name != "library":
            self._check_estimator(name)
            if name != "none" and self.dim != self.input_dim:
                raise ValueError(
                    f"{self.name} turns {self.input_dim} channels into {self.dim}, which {name!r} cannot bridge; "
                    "expected estimator 'library' or 'none'"
                )
        self._estimator = name

    @torch.compiler.disable
    def forward(self, z: Tensor, mask: Tensor | None = None) -> Quantized:
        """Quantize (B, N, input_dim); parts: "auxiliary", the library's weighted loss, which is the loss here.

        Raises:
            ValueError: a mask with codebook_diversity_loss_weight, whose averages the library takes place by place.
            RuntimeError: training over ranks that the library cannot do.
        """
        z = self._check_latents(z, mask)
        if mask is not None and self.options.get("codebook_diversity_loss_weight", 0) > 0:
            raise ValueError(
                f"{self.name} of vector-quantize-pytorch averages its diversity loss over the batch at each position, "
                "which a mask would shift; set codebook_diversity_loss_weight=0 or pass no mask"
            )
        self._follow(z.device)
        with torch.autocast(z.device.type, enabled=False):
            enough = (z.shape[0] * z.shape[1] if mask is None else int(mask.sum())) >= self._least
            if not self.training:
                return self._evaluate(z, mask, enough)
            if world_size() > 1:
                align_once(self)
                enough = not bool(all_reduce_sum(torch.tensor([not enough], dtype=torch.int64, device=z.device)))
            if not enough:
                rest = self._evaluate(z, mask, enough)
                codes = rest.latents.detach()
                latents = straight_through(z, codes) if self._estimator != "none" and z.shape == codes.shape else codes
                return Quantized(latents, rest.indices, rest.loss, rest.parts)
            self._join_ranks()
            return self._train(z, mask)

    @torch.compiler.disable
    def lookup(self, indices: Tensor) -> Tensor:
        """Latents (B, N, dim) of indices (B, N, Q); Q runs over levels, and over the levels of group after group.

        Raises:
            ValueError: wrong shape or dtype, or an index outside its codebook.
        """
        indices = self._check_indices(indices)
        self._follow(indices.device)
        with torch.autocast(indices.device.type, enabled=False):
            return self._decode(indices.flatten(0, 1)).unflatten(0, indices.shape[:2])

    def _evaluate(self, z: Tensor, mask: Tensor | None, enough: bool) -> Quantized:
        """Codes of all positions and the loss of the real ones; changes nothing."""
        indices = z.new_zeros(*z.shape[:2], len(self.codebook_sizes), dtype=torch.int64)
        loss = torch.stack([part.sum() * 0 for part in (z, *self.quantizer.parameters())]).sum()
        with self._resting():
            if mask is None and enough:
                _, found, loss = self._call(z.flatten(0, 1)[None])
                indices = found.view_as(indices)
            elif enough:
                _, found, loss = self._call(z[mask][None])
                indices[mask] = found[0]
            rest = torch.ones_like(indices[..., 0], dtype=torch.bool) if mask is None or not enough else ~mask
            if mask is not None or not enough:
                indices[rest] = self._choose(z[rest])
        return Quantized(self.lookup(indices), indices, loss, {"auxiliary": loss.detach()})

    def _train(self, z: Tensor, mask: Tensor | None) -> Quantized:
        """A training step of the library on the real positions."""
        rows = z if mask is None else z[mask][None]
        dropped = self._choose(rows.flatten(0, 1)).unflatten(0, rows.shape[:2]) if self._drops else None
        padding = None if mask is None else self._choose(z[~mask])
        if self._estimator == "library":
            # Without a gradient to pass on the library skips its estimate, which would round its values differently.
            latents, found, loss = self._call(rows if rows.requires_grad else rows.detach().requires_grad_())
        else:
            inside = rows.detach().requires_grad_()
            latents, found, loss = self._call(inside)
            loss = _carried(loss, inside, rows)
            latents = self._estimate(rows, latents)
        for module in self.quantizer.modules():
            zero = module._buffers.get("zero")
            if zero is not None:  # the library hands it out as a loss, and makes it require a gradient
                module._buffers["zero"] = torch.zeros_like(zero)
        if dropped is not None:
            found = torch.where(found < 0, dropped, found)
        if mask is None or padding is None:
            return Quantized(latents, found, loss, {"auxiliary": loss.detach()})
        indices = found.new_zeros(*z.shape[:2], found.shape[-1])
        indices[mask], indices[~mask] = found[0], padding
        scattered = z.new_zeros(*z.shape[:2], self.dim)
        scattered[~mask] = self._decode(padding).detach()
        scattered[mask] = latents[0]
        return Quantized(scattered, indices, loss, {"auxiliary": loss.detach()})

    def _call(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The library's latents (A, R, D), indices (A, R, Q) int64 and summed loss () for rows (A, R, D)."""
        result = self.quantizer(rows, **({"return_indices": True} if self.name == "BinaryMapper" else {}))
        if isinstance(result, Tensor):
            indices = result.long().reshape(*rows.shape[:2], -1)
            return self._decode(indices.flatten(0, 1)).unflatten(0, rows.shape[:2]).detach(), indices, rows.sum() * 0
        latents, indices, *rest = result
        if self.name in GROUPED:
            indices = indices.movedim(0, -2)
        loss = rest[0].float().sum() if rest else rows.sum() * 0
        return latents, indices.long().reshape(*rows.shape[:2], -1), loss

    @torch.no_grad()
    def _choose(self, rows: Tensor) -> Tensor:
        """Indices (R, Q) of rows (R, D) in eval."""
        if len(rows) == 0:
            return torch.zeros(0, len(self.codebook_sizes), dtype=torch.int64, device=rows.device)
        with self._resting():
            return self._call(rows[None])[1][0]

    def _decode(self, indices: Tensor) -> Tensor:
        """Latents (R, dim) of indices (R, Q)."""
        inner: Any = self.quantizer
        if len(indices) == 0:
            return torch.zeros(0, self.dim, device=indices.device)
        if self.name == "BinaryMapper":
            return F.one_hot(indices[:, 0], inner.num_codes).float()
        if self.name in GROUPED:
            return inner.get_output_from_indices(indices.unflatten(1, (inner.groups, -1)).movedim(1, 0)[:, None])[0]
        if self.name in RESIDUAL:
            return inner.get_output_from_indices(indices[None])[0]
        if self.name in ("VectorQuantize", "RandomProjectionQuantizer"):
            inner = inner if self.name == "VectorQuantize" else inner.vq
            heads = inner.heads > 1 or inner.separate_codebook_per_head
            codes = inner.get_codes_from_indices(indices[None] if heads else indices[None, :, 0])
            return inner.project_out(codes.flatten(2))[0]
        return inner.indices_to_codes(
            indices[None] if getattr(inner, "keep_num_codebooks_dim", False) else indices[None, :, 0]
        )[0]

    @contextmanager
    def _resting(self) -> Iterator[None]:
        """The library's module in eval, with no k-means."""
        training, waiting = self.quantizer.training, [book for book in self._books() if not bool(book.initted)]
        self.quantizer.eval()
        for book in waiting:
            book.initted.fill_(True)
        try:
            yield
        finally:
            for book in waiting:
                book.initted.fill_(False)
            self.quantizer.train(training)

    def _join_ranks(self) -> None:
        """Switch the library's own synchronisation on when there are several ranks; it asks at construction only."""
        from vector_quantize_pytorch import LFQ
        from vector_quantize_pytorch import vector_quantize_pytorch as library

        several = world_size() > 1
        for module in self.quantizer.modules() if several else ():
            if isinstance(module, LFQ) and module.entropy_loss_weight > 0 and module.diversity_gamma > 0:
                raise RuntimeError(
                    f"{self.name} of vector-quantize-pytorch has wrong batch entropies over {world_size()} ranks; "
                    "set entropy_loss_weight=0 or use quantizers.LFQ"
                )
        for book in self._books():
            if several and book.num_codebooks > 1 and not bool(book.initted):
                raise RuntimeError(
                    f"{self.name} of vector-quantize-pytorch cannot start the codebooks of {book.num_codebooks} heads "
                    "from k-means over ranks; set kmeans_init=False"
                )
            book.use_ddp = several
            book.all_reduce_fn = book.kmeans_all_reduce_fn = torch.distributed.all_reduce if several else library.noop
            sample = library.sample_vectors_distributed if several else library.batched_sample_vectors
            book.sample_fn = book.replace_sample_fn = sample

    def _books(self) -> list[Any]:
        return [module for module in self.quantizer.modules() if hasattr(module, "init_embed_")]

    def _follow(self, device: torch.device) -> None:
        """Bring the buffers that no state_dict holds to where the rest is: they stay behind when a module built on the
        meta device is loaded.
        """
        for module in self.quantizer.modules():
            for name in module._non_persistent_buffers_set:
                buffer = module._buffers[name]
                if buffer is not None and buffer.device != device:
                    module._buffers[name] = buffer.to(device)

    def _build(self) -> nn.Module:
        import vector_quantize_pytorch as library

        device = torch.get_default_device()
        with torch.device("cpu"):  # the library reads values of its tensors
            try:
                module: nn.Module = getattr(library, self.name)(**self.options)
            except (AssertionError, TypeError) as error:
                raise ValueError(f"vector-quantize-pytorch's {self.name} refuses {self.options}: {error}") from error
        for part in module.modules():
            if isinstance(part, library.LFQ) and part.spherical:
                part.maybe_l2norm = partial(_onto_sphere, radius=part.codebook_scale)  # a lambda cannot be pickled
        if self.name == "RandomProjectionQuantizer":
            module.requires_grad_(False)
        if device.type == "meta":
            _forget(module)
        return module if device.type in ("cpu", "meta") else module.to(device)

    def _widths(self) -> tuple[int, int]:
        """Widths read and returned."""
        inner: Any = self.quantizer
        if self.name == "BinaryMapper":
            return inner.bits, inner.num_codes
        if self.name == "RandomProjectionQuantizer":
            return self.options["dim"], inner.vq.dim
        dim = getattr(inner, "dim", None) or self.options.get("dim") or len(self.options["levels"])
        return dim, dim

    @property
    def _least(self) -> int:
        """Positions that the library needs; FSP takes variances."""
        return 2 if self.name == "FSP" else 1

    @property
    def _drops(self) -> bool:
        return bool(self.options.get("quantize_dropout", False))

    def extra_repr(self) -> str:
        return f"name={self.name!r}, options={self.options}"


def _sizes(name: str, module: Any) -> tuple[int, ...]:
    if name in GROUPED:
        return tuple(layer.codebook_size for group in module.rvqs for layer in group.layers)
    if name in RESIDUAL:
        return tuple(layer.codebook_size for layer in module.layers)
    if name == "BinaryMapper":
        return (module.num_codes,)
    if name == "RandomProjectionQuantizer":
        return (module.vq.codebook_size,) * module.num_codebooks
    return (module.codebook_size,) * getattr(module, "heads", getattr(module, "num_codebooks", 1))


def _carried(loss: Tensor, inside: Tensor, outside: Tensor) -> Tensor:
    """The loss () of a graph that ends at the leaf `inside`, with its gradient there passed on to `outside`."""
    if not (loss.requires_grad and outside.requires_grad):
        return loss
    (gradient,) = torch.autograd.grad(loss, inside, retain_graph=True, allow_unused=True)
    if gradient is None:
        return loss
    slope = (outside * gradient).sum()
    return loss + (slope - slope.detach())


def _forget(module: nn.Module) -> None:
    """Move what a state_dict holds to the meta device."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(parameter.to("meta"), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None and name not in part._non_persistent_buffers_set:
                part._buffers[name] = buffer.to("meta")


def _onto_sphere(x: Tensor, radius: float) -> Tensor:
    return F.normalize(x, dim=-1) * radius
