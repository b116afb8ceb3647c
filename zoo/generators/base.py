"""What every generator of codes has in common: the codes it speaks, its loss, its sampling."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, get_args

import torch
from torch import Tensor, nn

from zoo.spec import Order, TokenizerSpec
from zoo.tokens import Tokens

if TYPE_CHECKING:
    from zoo.generators.schedules import GuidanceSchedule

__all__ = ["ABSENT", "Generator", "Losses", "Vocabulary", "evaluating"]

ABSENT = -1  # stands in indices at positions that an item does not have


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The codes that a generator reads and writes; plain data, so that it can stand in a config.

    Attributes:
        codebook_sizes: entries of each of the Q codebooks at a position.
        num_tokens: N, positions of an item; the most where `flexible`.
        order: what the N axis means (`TokenizerSpec.order`).
        flexible: items may end before N positions.
        scales: how N splits, coarse to fine; empty for a single scale.
        distinct_scales: each scale has codebooks of its own.
        grid: (h, w) of raster codes of pictures, None for others.
        size: (H, W) in pixels or (T,) in samples that N positions decode to; None for the tokenizer's own.

    Raises:
        ValueError: numbers that do not fit each other.
    """

    codebook_sizes: Sequence[int]
    num_tokens: int
    order: Order = "raster"
    flexible: bool = False
    scales: Sequence[int] = ()
    distinct_scales: bool = False
    grid: Sequence[int] | None = None
    size: Sequence[int] | None = None

    def __post_init__(self) -> None:
        for name in ("codebook_sizes", "scales", "grid", "size"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, tuple(int(part) for part in value))
        if not self.codebook_sizes or min(self.codebook_sizes) < 1 or self.num_tokens < 1:
            raise ValueError(
                f"a vocabulary has codebooks and positions, got codebook_sizes={self.codebook_sizes} and "
                f"num_tokens={self.num_tokens}; continuous latents have no codes to generate"
            )
        if self.order not in get_args(Order):
            raise ValueError(f"order is one of {get_args(Order)}, got {self.order!r}")
        if self.scales and sum(self.scales) != self.num_tokens:
            raise ValueError(f"scales {self.scales} sum to {sum(self.scales)}, not to num_tokens={self.num_tokens}")
        if self.grid is not None and (len(self.grid) != 2 or math.prod(self.grid) != self.num_tokens):
            raise ValueError(f"grid {self.grid} does not have num_tokens={self.num_tokens} cells")

    @classmethod
    def of(cls, spec: TokenizerSpec, *, num_tokens: int | None = None, size: Sequence[int] | None = None) -> Self:
        """The codes of a tokenizer.

        Args:
            spec: of the tokenizer.
            num_tokens: N, where inputs have another size than `spec.input_shape`.
            size: of those inputs.

        Raises:
            ValueError: the tokenizer is continuous.
        """
        count = spec.num_tokens if num_tokens is None else num_tokens
        sides = spec.input_shape[1:] if size is None else tuple(size)
        grid = None
        if spec.modality == "image" and spec.order == "raster" and spec.downsample is not None:
            rows = tuple(-(-side // spec.downsample) for side in sides)
            grid = rows if math.prod(rows) == count else None
        scales = spec.scales if sum(spec.scales) == count else ()
        return cls(
            spec.codebook_sizes,
            count,
            spec.order,
            spec.flexible,
            scales,
            spec.distinct_scales,
            grid,
            None if spec.modality == "shape" else sides,
        )

    @property
    def depth(self) -> int:
        """Q, codebooks at a position."""
        return len(self.codebook_sizes)

    def tokens(self, indices: Tensor) -> Tokens:
        """Generated indices (B, N, Q) as `Tokens` that a tokenizer decodes; what is `ABSENT` becomes `lengths`."""
        valid = (indices != ABSENT).all(-1)
        counts = valid.sum(1)
        size = None if self.size is None else torch.tensor(self.size, device=indices.device).expand(len(indices), -1)
        return Tokens(
            indices=indices.masked_fill(~valid[..., None], 0),
            codebook_sizes=tuple(self.codebook_sizes),
            lengths=None if bool(valid.all()) else counts,
            size=size,
            scales=tuple(self.scales) if sum(self.scales) == indices.shape[1] else (),
            distinct_scales=self.distinct_scales,
            order=self.order,
        )


@dataclass(frozen=True, slots=True)
class Losses:
    """What a training step learns from.

    Attributes:
        total: () float32, ready for `backward`.
        parts: unweighted terms for the log.
        nll: (B, N, Q) float32, negative log-likelihood in nats of every code under teacher forcing, detached; NaN where
            none was scored. None for generators without one.
    """

    total: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    nll: Tensor | None = None


class Generator(nn.Module):
    """Turns a condition into codes. Subclasses define `loss` and `generate`.

    Indices are (B, N, Q) int64; positions that an item does not have hold -1 (`ABSENT`), in training data and in
    results alike. A condition is int64 (B,) of class labels in [0, classes), float (B, T, D) embeddings for generators
    built with `condition_dim`, or None for unconditional ones.

    Attributes:
        vocabulary: the codes.
        classes: number of class labels; None where the condition is something else.
        config: the node that built this object (`zoo.generators.build`), so that it can be saved and rebuilt.
        tokenizer: name, folder or hub id of the tokenizer whose codes these are; None if unknown.
        labels: names of the classes, or empty.
    """

    vocabulary: Vocabulary
    classes: int | None

    def __init__(self, vocabulary: Vocabulary, classes: int | None = None) -> None:
        super().__init__()
        if classes is not None and classes < 1:
            raise ValueError(f"classes is at least 1, or None for no class condition, got {classes}")
        self.vocabulary = vocabulary
        self.classes = classes
        self.config: dict[str, Any] = {}
        self.tokenizer: str | None = None
        self.labels: tuple[str, ...] = ()

    def loss(self, indices: Tensor, condition: Tensor | None = None) -> Losses:
        """What to minimise on a batch; conditions are dropped at random in training, as guidance needs.

        Args:
            indices: (B, N, Q) int64, -1 at absent positions.
            condition: see the class.
        """
        raise NotImplementedError(f"{type(self).__name__} must define loss")

    def generate(
        self,
        condition: Tensor | None = None,
        *,
        count: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance: float | GuidanceSchedule | None = None,
        steps: int | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw codes.

        Args:
            condition: of each item; see the class.
            count: items, for generators without a condition.
            temperature, top_k, top_p: see `zoo.generators.sampling.sample`.
            guidance: scale of classifier-free guidance u + s (c - u), 1 or None for none, or a schedule of it.
            steps: passes, for generators that choose their number (MaskGIT).
            generator: source of the draws.

        Returns:
            (B, N, Q) int64, -1 past the end of items that end early.
        """
        raise NotImplementedError(f"{type(self).__name__} must define generate")

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next((tensor.device for tensor in chain(self.parameters(), self.buffers())), torch.device("cpu"))

    def check_indices(self, indices: Tensor) -> None:
        """Raise ValueError unless indices are (B, N, Q) int64 of this vocabulary."""
        want = (self.vocabulary.num_tokens, self.vocabulary.depth)
        if indices.dtype != torch.int64 or indices.ndim != 3 or tuple(indices.shape[1:]) != want:
            raise ValueError(
                f"{type(self).__name__} expects indices int64 (B, {want[0]}, {want[1]}), got {indices.dtype} "
                f"{tuple(indices.shape)}; cut or pad with -1 to {want[0]} positions"
            )

    def check_finite(self, said: Tensor) -> None:
        """Raise ValueError if what the network says holds NaN or infinity: no code could be drawn from it."""
        if not bool(said.isfinite().all()):
            raise ValueError(
                f"{type(self).__name__} gives NaN or infinity: its weights are damaged, or too large for {said.dtype}"
            )

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write `config.json`, `model.safetensors` and `README.md`, which `zoo.generators.pipeline.load` reads."""
        from zoo.generators.pipeline import save_pretrained

        return save_pretrained(self, folder)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in eval mode, and as it was afterwards."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
