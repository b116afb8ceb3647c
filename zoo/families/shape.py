"""Shape tokenizers: a cloud of surface points to tokens, and tokens to a field whose zero level is the surface."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from quantizers import MultiScaleVQ, Quantized, Quantizer
from zoo.spec import Order, TokenizerSpec
from zoo.tokenizer import Reconstruction, Tokenizer
from zoo.tokens import Tokens

if TYPE_CHECKING:
    from decoders.flow import Guidance

__all__ = ["Field", "Placement", "ShapeTokenizer", "cell_centres"]

Kind = Literal["box", "sphere", "none"]
State = Tensor | tuple[Tensor, ...]

QUERIES = 1 << 15  # points of a grid, over the batch, whose values are computed together


@dataclass(frozen=True, slots=True)
class Placement:
    """How a shape is brought into a tokenizer's frame. Pure data: the mesh code applies it.

    Attributes:
        kind: "box" puts the centre of the bounding box to 0 and the longest half side to `extent`; "sphere" puts the
            same centre to 0 and the largest distance from it to `extent`; "none" leaves the shape as it is.
        extent: see `kind`, > 0.
    """

    kind: Kind = "box"
    extent: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind) or not self.extent > 0:
            raise ValueError(
                f"a placement is one of {', '.join(get_args(Kind))} with an extent above 0, "
                f"got {self.kind!r} and {self.extent}"
            )


class Field:
    """Values in space of a batch of decoded shapes: positive inside, zero on the surface, negative outside.

    Args:
        query: state and points (B, Q, 3) to values (B, Q).
        state: what the decoder made of the codes, once: a tensor or a tuple of tensors, (B, ...) each.
        bounds: half the side of the cube around 0 that holds the shapes.

    Attributes:
        bounds: as given.
    """

    def __init__(self, query: Callable[[Any, Tensor], Tensor], state: State, bounds: float = 1.0) -> None:
        self.query, self.state, self.bounds = query, state, bounds

    def __call__(self, queries: Tensor) -> Tensor:
        """Values (B, Q) float32 at points (B, Q, 3), or at the same points (Q, 3) for every shape.

        All points are evaluated together: the caller chooses how many.
        """
        if queries.ndim == 2:
            queries = queries.expand(self.batch, -1, -1)
        if queries.ndim != 3 or queries.shape[2] != 3 or len(queries) != self.batch:
            raise ValueError(f"queries must be ({self.batch}, Q, 3) or (Q, 3), got {tuple(queries.shape)}")
        # Slopes that are differentiated again, as by an eikonal loss, need attention without a fused kernel.
        with sdpa_kernel(SDPBackend.MATH) if queries.requires_grad else nullcontext():
            return self.query(self.state, queries.to(self.device, torch.float32)).float()

    def __getitem__(self, item: int) -> Field:
        """The field of one shape, a batch of one."""
        place = range(self.batch)[item]
        one = slice(place, place + 1)
        state = self.state[one] if isinstance(self.state, Tensor) else tuple(tensor[one] for tensor in self.state)
        return Field(self.query, state, self.bounds)

    @property
    def batch(self) -> int:
        """B, the number of shapes."""
        return len(self._first)

    @property
    def device(self) -> torch.device:
        """Where values are computed."""
        return self._first.device

    @property
    def _first(self) -> Tensor:
        return self.state if isinstance(self.state, Tensor) else self.state[0]

    def grid(self, resolution: int, *, queries: int = QUERIES) -> Tensor:
        """Values (B, R, R, R) at the centres of the R^3 cells of the cube, indexed [x, y, z].

        Args:
            resolution: R >= 1.
            queries: most points evaluated together, over the batch.
        """
        if resolution < 1:
            raise ValueError(f"resolution must be at least 1, got {resolution}")
        count, step = resolution**3, max(queries // self.batch, 1) if self.batch else 1
        parts = []
        for start in range(0, count, step):
            cells = torch.arange(start, min(start + step, count), device=self.device)
            parts.append(self(cell_centres(cells, resolution, self.bounds)))
        return torch.cat(parts, dim=1).view(self.batch, resolution, resolution, resolution)


class ShapeTokenizer(Tokenizer):
    """Clouds of surface points (B, P, C) to tokens, and tokens to a `Field`.

    A cloud holds x, y, z, then features (a normal where C = 6), in the tokenizer's own frame: shapes fill [-1, 1]^3 or
    the unit sphere, as `placement` says. Any number of points P >= `min_points` is taken.

    The encoder has `dim`, `num_tokens` and `channels` (C), and may have `min_points`. The decoder has `dim`, turns
    latents (B, N, D) into a state with one call, and `decoder.query(state, queries (B, Q, 3))` gives values (B, Q),
    positive inside. A family whose parts differ overrides `encode_latents`, `decode_latents` or `query`.

    Args:
        encoder: clouds (B, P, C) to latents (B, N, D).
        quantizer: any. With `quantizers.MultiScaleVQ` tokens are those of its scales, coarse to fine.
        decoder: see above.
        num_points: P of a typical cloud.
        placement: how shapes come into this frame; None for the class's own.
        bounds: half the side of the cube that surfaces are searched in; None for the class's own.
        resolution: R of what `decode` returns where it is not told.

    Raises:
        ValueError: parts that do not fit each other.
    """

    level: ClassVar[float] = 0.0  # value of a field on the surface
    default_placement: ClassVar[Placement] = Placement()
    default_bounds: ClassVar[float] = 1.0
    flexible: ClassVar[bool] = False  # whether prefixes of the code decode

    encoder: Any
    quantizer: Quantizer
    decoder: Any

    def __init__(
        self,
        encoder: Any,
        quantizer: Quantizer,
        decoder: Any,
        num_points: int = 2048,
        placement: Placement | None = None,
        bounds: float | None = None,
        resolution: int = 64,
    ) -> None:
        super().__init__(encoder, quantizer, decoder)
        self.check_widths()
        self.placement = placement or self.default_placement
        self.bounds = self.default_bounds if bounds is None else float(bounds)
        self.resolution = resolution
        self.min_points: int = getattr(encoder, "min_points", 1)
        if not self.bounds > 0 or resolution < 1 or num_points < self.min_points:
            raise ValueError(
                f"bounds must be above 0, resolution at least 1 and num_points at least {self.min_points}; "
                f"got {bounds}, {resolution} and {num_points}"
            )
        scales = quantizer.scales if isinstance(quantizer, MultiScaleVQ) else ()
        if scales and scales[-1] != encoder.num_tokens:
            raise ValueError(f"the last of the scales has {scales[-1]} tokens, the encoder {encoder.num_tokens}")
        order: Order = "scales" if scales else "coarse_to_fine" if self.flexible else "raster"
        self.spec = TokenizerSpec(
            modality="shape",
            input_shape=(num_points, encoder.channels),
            codebook_sizes=quantizer.codebook_sizes,
            dim=quantizer.dim,
            num_tokens=sum(scales) or encoder.num_tokens,
            order=order,
            flexible=self.flexible,
            any_size=True,
            scales=scales,
        )

    def decode_latents(self, latents: Tensor, lengths: Tensor | None = None, size: tuple[int, ...] = ()) -> Any:
        """Quantized latents (B, n, D) -> the state that `query` reads, a tensor or a tuple of tensors (B, ...)."""
        return self.decoder(latents) if lengths is None else self.decoder(latents, lengths)

    def query(self, state: Any, queries: Tensor) -> Tensor:
        """Values (B, Q) of a state at points (B, Q, 3) float32: logits of being inside, or minus signed distances."""
        return self.decoder.query(state, queries)

    def forward(self, x: Tensor, queries: Tensor | None = None) -> Reconstruction:
        """Encode, quantize, regularize (in training) and evaluate the field with gradients.

        Args:
            x: (B, P, C) cloud.
            queries: (B, Q, 3) points in the same frame; None for the grid that `decode` gives.

        Returns:
            Output (B, Q) values, or (B, 1, R, R, R) without queries.
        """
        self.check_input(x)
        quantized = self.quantizer(self.encode_latents(x.to(self.dtype)))
        latents, lengths = self.regularize(quantized.latents) if self.training else (quantized.latents, None)
        field = self._field(latents, lengths)
        output = field.grid(self.resolution)[:, None] if queries is None else field(queries)
        return Reconstruction(output, quantized, lengths)

    def field(self, tokens: Tokens) -> Field:
        """The shapes that codes stand for, decoded once and ready to be evaluated anywhere.

        Raises:
            ValueError: the codes do not belong to this tokenizer.
        """
        return self._field(self.code_latents(tokens), tokens.lengths)

    def decode(
        self,
        tokens: Tokens,
        *,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        guidance: float | Guidance | None = None,
        noise: Tensor | None = None,
        resolution: int | None = None,
    ) -> Tensor:
        """The field of codes on a grid; `field` gives it at any point, and so is what meshes are made from.

        Args:
            tokens: as `encode` returns them.
            steps, generator, guidance, noise: as `Tokenizer.decode`.
            resolution: R; None for `self.resolution`.

        Returns:
            (B, 1, R, R, R) float32 values at the centres of the R^3 cells of [-bounds, bounds]^3, indexed [x, y, z].
        """
        self.check_one_step(steps=steps, guidance=guidance, noise=noise)
        return self.field(tokens).grid(resolution or self.resolution)[:, None]

    def as_tokens(self, quantized: Quantized, x: Tensor) -> Tokens:
        """What the quantizer made of a cloud x (B, P, C); `size` is for who placed the shape to fill in."""
        return replace(super().as_tokens(quantized, x), size=None)

    def check_input(self, x: Tensor, *, finite: bool = False) -> None:
        """Raise ValueError unless x fits `spec`; says what to do about a missing axis, other columns or few points."""
        name, channels = type(self).__name__, self.spec.input_shape[1]
        wanted = f"a cloud (B, P >= {self.min_points}, {channels})"
        if not x.is_floating_point():
            raise ValueError(f"{name} expects {wanted} of floats, got {x.dtype}; use x.float()")
        if x.ndim == 2:
            raise ValueError(f"{name} expects {wanted}, got {tuple(x.shape)}; add the missing axis, x[None]")
        if x.ndim != 3 or not self.takes(tuple(x.shape[1:])):
            advice = "sample more points from the surface"
            if x.shape[-1] != channels:
                advice = f"columns are x, y, z{' and a normal' if channels == 6 else ''}"
                advice += f"; use x[..., :{channels}]" if x.shape[-1] > channels else ""
            raise ValueError(f"{name} expects {wanted}, got {tuple(x.shape)}; {advice}")
        if finite and not torch.isfinite(x).all():
            raise ValueError(f"{name} expects finite points; got NaN or infinity")
        if finite and x.numel() and float(x[..., :3].abs().max()) > 2 * self.bounds:
            raise ValueError(
                f"{name} expects shapes placed within [-{self.bounds:g}, {self.bounds:g}]^3 ({self.placement}), "
                f"got coordinates up to {float(x[..., :3].abs().max()):.4g}; centre and scale the cloud first"
            )

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Clouds of at least `min_points` points, with the columns of `spec`."""
        return shape[0] >= self.min_points and shape[1] == self.spec.input_shape[1]

    def _field(self, latents: Tensor, lengths: Tensor | None) -> Field:
        return Field(self.query, self.decode_latents(latents.to(self.dtype), lengths), self.bounds)


def cell_centres(cells: Tensor, resolution: int, bounds: float = 1.0) -> Tensor:
    """Centres (n, 3) float32 of cells (n,) of the R^3 grid over [-bounds, bounds]^3, numbered with z fastest."""
    places = torch.stack([cells // resolution**2, cells // resolution % resolution, cells % resolution], dim=-1)
    return (places.float() + 0.5) * (2 * bounds / resolution) - bounds
