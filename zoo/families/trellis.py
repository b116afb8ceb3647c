"""TRELLIS' sparse structures: the cells of a 64^3 grid that a surface touches, as a 16^3 grid (arXiv 2412.01506)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from decoders import VoxelDecoder
from encoders import VoxelEncoder
from encoders.layers.voxels import voxelize
from quantizers import Quantizer
from zoo.families.shape import Placement, ShapeTokenizer

__all__ = ["Trellis"]

KL_WEIGHT = 1e-3  # on the mean over positions and channels, where quantizers.KL sums
RESOLUTION = 64  # of the published models, which their configs do not hold
KEYS = {
    r"\.input_layer\.": ".conv_in.",
    r"\.middle_block\.": ".middle.",
    r"\.out_layer\.0\.": ".norm_out.",
    r"\.out_layer\.2\.": ".conv_out.",
    r"^encoder\.blocks\.(\d+)\.conv\.": r"encoder.blocks.\1.",
}


class Trellis(ShapeTokenizer):
    """The variational autoencoder of TRELLIS' first stage.

    What it codes are the cells that the surface touches, not those inside: its `Field` is positive in a shell of about
    one cell around the surface, and a mesh extracted from it has an outer and an inner wall.

    A cloud is turned into the cells that hold a point of it, so it should be dense: cells that no point falls into
    count as empty. `encode` and `forward` also take the grid itself, (B, 1, R, R, R) of 0 and 1.

    Args:
        encoder, quantizer, decoder: Gaussian latents with `quantizers.KL`, codes with any other.
        num_points: P of a typical cloud.
        placement, bounds: see `ShapeTokenizer`.

    Raises:
        ValueError: parts that do not fit each other.
    """

    encoder: VoxelEncoder
    decoder: VoxelDecoder

    def __init__(
        self,
        encoder: VoxelEncoder,
        quantizer: Quantizer,
        decoder: VoxelDecoder,
        num_points: int = 1 << 18,
        placement: Placement | None = None,
        bounds: float | None = None,
    ) -> None:
        super().__init__(encoder, quantizer, decoder, num_points, placement, bounds, encoder.resolution)

    def voxelize(self, points: Tensor) -> Tensor:
        """The cells (B, 1, R, R, R) float32 that hold a point of clouds (B, P, 3 or more)."""
        return voxelize(points[..., :3], self.encoder.resolution, self.bounds)[:, None]

    def encode_latents(self, x: Tensor) -> Tensor:
        """Clouds (B, P, 3) or grids (B, 1, R, R, R) -> (B, N, D)."""
        return self.encoder(self.voxelize(x).to(x.dtype) if x.ndim == 3 else x)

    def query(self, state: Tensor, queries: Tensor) -> Tensor:
        """Logits (B, Q) of being touched by the surface, at points (B, Q, 3)."""
        return self.decoder.query(state, queries / self.bounds)

    def check_input(self, x: Tensor, *, finite: bool = False) -> None:
        """Raise ValueError unless x is a cloud as `spec` says, or a grid of the encoder's resolution."""
        if x.ndim != 5:
            return super().check_input(x, finite=finite)
        side = self.encoder.resolution
        if x.shape[1:] != (1, side, side, side) or not x.is_floating_point():
            raise ValueError(
                f"{type(self).__name__} expects clouds (B, P, 3), or grids (B, 1, {side}, {side}, {side}) of floats 0 "
                f"and 1, got {tuple(x.shape)} of {x.dtype}"
            )
        if finite and not ((x == 0) | (x == 1)).all():
            raise ValueError(f"{type(self).__name__} expects grids of 0 and 1; threshold yours first")

    @classmethod
    def reference_recipe(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The node for {encoder: its config, decoder: its config} of microsoft/TRELLIS, which keeps two models.

        Raises:
            ValueError: another norm than LayerNorm, other channels than one, or halves that do not fit each other.
        """
        encoder, decoder = config["encoder"], config["decoder"]
        for half, channels in ((encoder, "in_channels"), (decoder, "out_channels")):
            if half[channels] != 1 or half.get("norm_type", "layer") != "layer":
                raise ValueError(
                    f"Trellis supports {channels} 1 and norm_type layer, the config has {half[channels]} and "
                    f"{half.get('norm_type')}"
                )
        dim, resolution = int(encoder["latent_channels"]), int(config.get("resolution", RESOLUTION))
        if dim != decoder["latent_channels"] or len(encoder["channels"]) != len(decoder["channels"]):
            raise ValueError("the encoder and the decoder have different latents; are they of the same model?")
        tokens = (resolution >> (len(encoder["channels"]) - 1)) ** 3

        def part(target: str, half: Mapping[str, Any], **extra: int) -> dict[str, Any]:
            depths = {"depth": int(half["num_res_blocks"]), "middle": int(half["num_res_blocks_middle"])}
            return {"_target_": target, "channels": [int(width) for width in half["channels"]], **depths, **extra}

        return {
            "_target_": "zoo.families.Trellis",
            "encoder": part("encoders.VoxelEncoder", encoder, dim=2 * dim, resolution=resolution),
            "quantizer": {"_target_": "quantizers.KL", "dim": dim, "weight": KL_WEIGHT / (tokens * dim)},
            "decoder": part("decoders.VoxelDecoder", decoder, dim=dim),
        }

    @classmethod
    def convert(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keys of the reference's two files under `encoder.` and `decoder.` -> ours."""
        renamed: dict[str, Tensor] = {}
        for key, tensor in state.items():
            for pattern, ours in KEYS.items():
                key = re.sub(pattern, ours, key)
            renamed[key] = tensor
        return renamed
