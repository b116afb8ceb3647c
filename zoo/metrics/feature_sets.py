"""What metrics of two sets of pictures have in common: features of either side, gathered over batches and ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities.data import dim_zero_cat

from zoo.metrics.features import Features

__all__ = ["FeatureMetric", "RowMetric", "by_content"]


class FeatureMetric(Metric):
    """Reads pictures through a network, leaves out rows that are not finite, and counts both sides.

    Args:
        features: a tap of a network; or an int D for `update` with rows (B, D) in place of pictures.
        **kwargs: of `torchmetrics.Metric`, such as `sync_on_compute`.

    Attributes:
        count: () int64 outputs that were measured.
        skipped: () int64 outputs whose features are not finite.
        notes: of the last `compute`, what a reader of the number should know.
    """

    is_differentiable = False
    full_state_update = False

    count: Tensor
    target_count: Tensor
    skipped: Tensor
    dim: int

    def __init__(self, features: Features | int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.features = features if isinstance(features, Features) else None
        self.dim = features.dim if isinstance(features, Features) else features
        for name in ("count", "target_count", "skipped"):
            self.add_state(name, torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.notes: list[str] = []

    @property
    def protocol(self) -> dict[str, Any]:
        """What belongs beside the number, as plain data; the notes are those of the last `compute`."""
        network: Mapping[str, Any] = {} if self.features is None else self.features.describe()
        return {**network, **({"notes": list(self.notes)} if self.notes else {})}

    @torch.no_grad()
    def update(self, output: Tensor | None = None, target: Tensor | None = None) -> None:
        """Take in a batch of either side or of both, of any sizes.

        Args:
            output: reconstructions or samples (B, 3, H, W), clamped to [-1, 1]; or rows (B, D).
            target: originals or other references, likewise.

        Raises:
            ValueError: neither pictures nor rows of the expected shape.
        """
        if output is not None:
            rows = self._rows(output)
            self.skipped += len(output) - len(rows)
            self.count += len(rows)
            self.add_output(rows)
        if target is not None:
            rows = self._rows(target)
            self.target_count += len(rows)
            self.add_target(rows)

    def add_output(self, rows: Tensor) -> None:
        """Take in finite features (B, D) of outputs."""
        raise NotImplementedError(f"{type(self).__name__} must define add_output")

    def add_target(self, rows: Tensor) -> None:
        """Take in finite features (B, D) of targets; nothing where none are read."""

    def _rows(self, batch: Tensor) -> Tensor:
        rows = batch if self.features is None else self.features(batch)
        if rows.ndim != 2 or rows.shape[1] != self.dim:
            raise ValueError(f"expected features (B, {self.dim}), got {tuple(rows.shape)}")
        return rows[rows.isfinite().all(1)].to(self.device)


class RowMetric(FeatureMetric):
    """Keeps every row: 4 D bytes for each picture, exchanged between ranks at `compute`.

    Args:
        features: as in `FeatureMetric`.
        reference: rows (N, D) to compare with instead of targets.
        **kwargs: of `torchmetrics.Metric`.
    """

    output_rows: list[Tensor]
    target_rows: list[Tensor]

    def __init__(self, features: Features | int, *, reference: Tensor | None = None, **kwargs: Any) -> None:
        super().__init__(features, **kwargs)
        if reference is not None and (reference.ndim != 2 or reference.shape[1] != self.dim):
            raise ValueError(f"expected reference rows (N, {self.dim}), got {tuple(reference.shape)}")
        self.reference = reference
        self.add_state("output_rows", [], dist_reduce_fx="cat")
        self.add_state("target_rows", [], dist_reduce_fx="cat")
        self._open()

    def add_output(self, rows: Tensor) -> None:
        """Keep rows."""
        self.output_rows.append(rows.float())

    def add_target(self, rows: Tensor) -> None:
        """Keep rows, unless there is a reference."""
        if self.reference is None:
            self.target_rows.append(rows.float())

    def reset(self) -> None:
        """Forget everything seen."""
        super().reset()
        self._open()

    @property
    def outputs(self) -> Tensor:
        """(N, D) float32 in an order that depends on nothing but the rows."""
        return by_content(dim_zero_cat(self.output_rows))

    @property
    def targets(self) -> Tensor:
        """(M, D) float32, likewise."""
        rows = dim_zero_cat(self.target_rows) if self.reference is None else self.reference.to(self.device).float()
        return by_content(rows)

    def _open(self) -> None:
        """Start with no rows: an empty list cannot be synchronised by a rank that saw nothing."""
        for rows in (self.output_rows, self.target_rows):
            rows.append(torch.zeros(0, self.dim, device=self.device))


def by_content(rows: Tensor) -> Tensor:
    """Rows (N, D) sorted by a fixed projection, so that what is drawn by number does not depend on batches or ranks."""
    direction = torch.randn(rows.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    keys = [(part.double() * direction.to(rows.device)).sum(1) for part in rows.split(4096)]
    return rows[torch.cat(keys).argsort(stable=True)] if keys else rows
