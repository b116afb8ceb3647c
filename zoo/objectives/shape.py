"""What shape tokenizers minimise: errors of a field at queries in the volume and near the surface."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from encoders.layers.voxels import voxelize
from zoo.data.shapes_batch import Shapes
from zoo.families.shape import cell_centres
from zoo.tokenizer import Reconstruction

__all__ = ["DistanceObjective", "GridObjective", "OccupancyObjective"]

Norm = Literal["l1", "l2"]


class ShapeObjective(nn.Module):
    """A field's error at the queries of a batch; subclasses say what an error is.

    Args:
        volume: weight of the mean error at queries that are uniform in the volume.
        near: weight of the mean error at queries near the surface.
        quantizer: weight of `Quantized.loss`, which holds a KL or commitment term with its own weight.
    """

    def __init__(self, *, volume: float, near: float, quantizer: float) -> None:
        super().__init__()
        self.volume, self.near, self.quantizer = volume, near, quantizer

    def targets(self, x: Shapes) -> Shapes:
        """What a batch is compared with: here the queries and values that it holds."""
        return x

    def queries(self, x: Shapes) -> Tensor:
        """Where the objective wants to know the field (B, Q', 3): first the Q queries of the targets x."""
        return x.queries

    def error(self, output: Tensor, values: Tensor) -> Tensor:
        """Error at each query: of outputs (B, Q) against values (B, Q), both positive inside."""
        raise NotImplementedError(f"{type(self).__name__} must define error")

    def more(self, x: Shapes, output: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Further terms, each (), and their weighted sum (), of the whole output (B, Q')."""
        return {}, output.new_zeros(())

    def forward(self, x: Shapes, reconstruction: Reconstruction, step: int = 0) -> dict[str, Tensor]:
        """Unweighted terms, each (), and their weighted sum under "loss".

        Args:
            x: what `targets` gave.
            reconstruction: with output (B, Q'), the field at `queries(x)`.
            step: optimizer steps so far; without influence.

        Raises:
            ValueError: the output is not that of these queries.
        """
        batch, count = x.values.shape
        output = reconstruction.output.float()
        if output.ndim != 2 or len(output) != batch or output.shape[1] < count:
            raise ValueError(f"expected the field at {count} queries (B, Q), got an output {tuple(output.shape)}")
        error = self.error(output[:, :count], x.values)
        terms = {"volume": masked_mean(error, ~x.near), "near": masked_mean(error, x.near)}
        loss = self.volume * terms["volume"] + self.near * terms["near"]
        further, sum_of_them = self.more(x, output)
        terms |= further | {"quantizer": reconstruction.quantized.loss}
        return terms | {"loss": loss + sum_of_them + self.quantizer * terms["quantizer"]}


class OccupancyObjective(ShapeObjective):
    """Binary cross-entropy of occupancy logits, and Dice. The defaults are those of 3DShape2VecSet (arXiv 2301.11445).

    Args:
        volume: weight of the cross-entropy at uniform queries.
        near: weight of that near the surface.
        dice: weight of the Dice loss over the queries of the whole batch (TRELLIS, arXiv 2412.01506).
        quantizer: weight of `Quantized.loss`.
    """

    def __init__(self, *, volume: float = 1.0, near: float = 0.1, dice: float = 0.0, quantizer: float = 1.0) -> None:
        super().__init__(volume=volume, near=near, quantizer=quantizer)
        self.dice = dice

    def error(self, output: Tensor, values: Tensor) -> Tensor:
        """Cross-entropy (B, Q) in nats; inside is where a value is above 0."""
        return F.binary_cross_entropy_with_logits(output, (values > 0).float(), reduction="none")

    def more(self, x: Shapes, output: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Dice, where it counts."""
        if self.dice == 0:
            return super().more(x, output)
        dice = dice_loss(output[:, : x.values.shape[1]], x.values > 0)
        return {"dice": dice}, self.dice * dice


class GridObjective(OccupancyObjective):
    """Occupancy of every cell of a grid, where a cell is occupied if the surface touches it (TRELLIS).

    The targets are made of the cloud alone, which should be dense: a cell that no point falls into counts as empty.

    Args:
        resolution: cells along each axis of [-bounds, bounds]^3.
        bounds: half the side of the cube.
        volume: weight of the cross-entropy.
        dice: weight of the Dice loss over the cells of the whole batch.
        quantizer: weight of `Quantized.loss`.
    """

    def __init__(
        self,
        resolution: int,
        *,
        bounds: float = 1.0,
        volume: float = 0.0,
        dice: float = 1.0,
        quantizer: float = 1.0,
    ) -> None:
        super().__init__(volume=volume, near=0.0, dice=dice, quantizer=quantizer)
        self.resolution, self.bounds = resolution, bounds

    def targets(self, x: Shapes) -> Shapes:
        """The centres of all cells (B, R^3, 3), z fastest, and whether the surface touches them."""
        values = voxelize(x.points[..., :3], self.resolution, self.bounds).flatten(1)
        cells = torch.arange(self.resolution**3, device=values.device)
        queries = cell_centres(cells, self.resolution, self.bounds).expand(len(x), -1, -1)
        return Shapes(x.points, queries, values, torch.zeros_like(values, dtype=torch.bool))


class DistanceObjective(ShapeObjective):
    """Errors of a signed distance field. The default weights are those of VecSetX (1zb/VecSetX).

    Gradients of the field are measured by differences over a small step, which needs no second derivative of the
    network and sees beyond one cell where features are interpolated (Neuralangelo, arXiv 2306.03092, section 3.2).

    Args:
        volume: weight of the mean error at uniform queries.
        near: weight of that near the surface.
        surface: weight of the mean absolute value on the surface, where it should be 0.
        eikonal: weight of the mean squared difference of the gradient's length from 1.
        norm: "l1" for absolute errors, "l2" for squared ones.
        truncation: distances beyond it, on both sides, count as this far; None for no limit.
        points: of the cloud, and of the queries, at which the last two terms are measured; evenly spaced in the batch.
        delta: step of the differences, in units of the frame.
        quantizer: weight of `Quantized.loss`.

    Raises:
        ValueError: an unknown norm, or a number that is not positive.
    """

    def __init__(
        self,
        *,
        volume: float = 1.0,
        near: float = 10.0,
        surface: float = 1.0,
        eikonal: float = 0.001,
        norm: Norm = "l1",
        truncation: float | None = None,
        points: int = 512,
        delta: float = 0.005,
        quantizer: float = 1.0,
    ) -> None:
        super().__init__(volume=volume, near=near, quantizer=quantizer)
        if norm not in get_args(Norm):
            raise ValueError(f"norm is l1 or l2, got {norm!r}")
        if points < 1 or delta <= 0 or (truncation is not None and truncation <= 0):
            raise ValueError(
                f"points, delta and truncation are positive, got points={points}, delta={delta}, "
                f"truncation={truncation}"
            )
        self.surface, self.eikonal, self.norm, self.truncation = surface, eikonal, norm, truncation
        self.points, self.delta = points, delta

    def queries(self, x: Shapes) -> Tensor:
        """Those of the batch, then points on the surface, then neighbours of some queries along each axis."""
        wanted = [x.queries]
        if self.surface:
            wanted.append(spaced(x.points[..., :3], self.points))
        if self.eikonal:
            steps = self.delta * torch.eye(3, device=x.queries.device)
            wanted += [spaced(x.queries, self.points) + step for step in steps]
        return torch.cat(wanted, 1)

    def error(self, output: Tensor, values: Tensor) -> Tensor:
        """Absolute or squared error (B, Q)."""
        if self.truncation is not None:
            values = values.clamp(-self.truncation, self.truncation)
            output = output.clamp(-self.truncation, self.truncation)
        return (output - values).abs() if self.norm == "l1" else (output - values).square()

    def more(self, x: Shapes, output: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The surface and eikonal terms, where they count."""
        terms, total = super().more(x, output)
        here, rest = output[:, : x.values.shape[1]], output[:, x.values.shape[1] :]
        if self.surface:
            count = min(self.points, x.points.shape[1])
            terms["surface"], rest = rest[:, :count].abs().mean(), rest[:, count:]
            total = total + self.surface * terms["surface"]
        if self.eikonal:
            at = spaced(here, self.points)
            slopes = (rest.unflatten(1, (3, at.shape[1])) - at[:, None]) / self.delta
            terms["eikonal"] = (slopes.norm(dim=1) - 1).square().mean()
            total = total + self.eikonal * terms["eikonal"]
        return terms, total


def dice_loss(logits: Tensor, inside: Tensor) -> Tensor:
    """1 - (2 sum(p o) + 1) / (sum(p) + sum(o) + 1) with p = sigmoid(logits), summed over everything: a () tensor.

    Args:
        logits: any shape.
        inside: bool o of the same shape.
    """
    share, inside = logits.sigmoid(), inside.to(logits.dtype)
    return 1 - (2 * (share * inside).sum() + 1) / (share.sum() + inside.sum() + 1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean () of the values at which the mask holds; 0 where it never does."""
    return (values * mask).sum() / mask.sum().clamp_min(1)


def spaced(values: Tensor, count: int) -> Tensor:
    """At most `count` evenly spaced entries of axis 1: (B, Q, ...) -> (B, min(Q, count), ...)."""
    total = values.shape[1]
    if total <= count:
        return values
    return values[:, torch.linspace(0, total - 1, count, device=values.device).long()]
