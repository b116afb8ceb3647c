"""Direct3D: three planes of latents, and the reference's config."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from decoders import RolloutTriplane
from encoders import TriplaneEncoder
from quantizers import FSQ, KL, VQ, Quantizer
from zoo.families import Direct3D
from zoo.store.build import build

CONFIG = {
    "triplane_res": 4,
    "latent_dim": 4,
    "triplane_dim": 8,
    "num_freqs": 4,
    "num_attention_heads": 2,
    "attention_head_dim": 16,
    "num_encoder_layers": 1,
    "num_geodecoder_layers": 3,
    "final_activation": None,
    "block_out_channels": [32, 32],
    "mid_block_add_attention": True,
}


def direct3d(quantizer: Quantizer) -> Direct3D:
    torch.manual_seed(0)
    encoder = TriplaneEncoder(dim=quantizer.input_dim, resolution=4, width=32, depth=1, heads=2, bands=4)
    decoder = RolloutTriplane(dim=quantizer.dim, resolution=4, width=32, channels=[32, 32], plane_channels=8, depth=2)
    return Direct3D(encoder, quantizer, decoder, 64).eval()


def cloud(points: int = 64) -> Tensor:
    normals = nn.functional.normalize(torch.randn(2, points, 3, generator=torch.Generator().manual_seed(1)), dim=-1)
    return torch.cat([normals * torch.tensor([0.9, 0.6, 0.3]), normals], dim=-1)


@pytest.mark.parametrize("quantizer", [KL(4), FSQ([8, 5, 5]), VQ(6, 32)], ids=["kl", "fsq", "vq"])
def test_any_quantizer_gives_planes_and_values(quantizer: Quantizer) -> None:
    tokenizer, queries = direct3d(quantizer), torch.rand(2, 30, 3) * 2 - 1
    with torch.no_grad():
        tokens = tokenizer.encode(cloud())
        assert tokens.num_tokens == tokenizer.spec.num_tokens == 48 and tokens.order == "raster"
        field = tokenizer.field(tokens)
        assert isinstance(field.state, Tensor) and field.state.shape == (2, 3, 8, 8, 8)
        torch.testing.assert_close(field(queries), tokenizer(cloud(), queries).output)
        torch.testing.assert_close(field[1](queries[1:]), field(queries)[1:])


def test_order_of_points_has_no_influence() -> None:
    tokenizer, x = direct3d(KL(4)), cloud(100)
    with torch.no_grad():
        shuffled = tokenizer.encode(x[:, torch.randperm(100)]).latents
        torch.testing.assert_close(shuffled, tokenizer.encode(x).latents, rtol=1e-4, atol=1e-5)


def test_reference_config() -> None:
    tokenizer = build(Direct3D.reference_recipe(CONFIG), device="meta")
    assert tokenizer.spec.num_tokens == 48 and tokenizer.spec.dim == 4
    other: dict[str, Any] = CONFIG | {"final_activation": "sigmoid"}
    with pytest.raises(ValueError, match="gives logits"):
        Direct3D.reference_recipe(other)
