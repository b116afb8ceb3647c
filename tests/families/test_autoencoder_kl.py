"""AutoencoderKL gives what diffusers' class gives for the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from zoo.families import AutoencoderKL

CONFIG: dict[str, Any] = {
    "block_out_channels": [16, 32],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "sample_size": 16,
}


@pytest.mark.parametrize("convs", [True, False])
def test_same_numbers_as_diffusers(convs: bool) -> None:
    from diffusers import AutoencoderKL as Reference

    config = CONFIG | {"use_quant_conv": convs, "use_post_quant_conv": convs, "mid_block_add_attention": convs}
    torch.manual_seed(0)
    reference = Reference(**config).eval()
    ours, x = AutoencoderKL.from_reference(config, reference.state_dict()), torch.rand(2, 3, 16, 24) * 2 - 1
    with torch.no_grad():
        posterior = reference.encode(x).latent_dist
        tokens = ours.encode(x)
        assert tokens.latents is not None
        torch.testing.assert_close(tokens.latents.mT.unflatten(2, (8, 12)), posterior.mean)
        torch.testing.assert_close(ours.decode(tokens), reference.decode(posterior.mean).sample)


def test_other_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="AttnDownEncoderBlock2D"):
        AutoencoderKL.reference_recipe(CONFIG | {"down_block_types": ["AttnDownEncoderBlock2D"] * 2})
    with pytest.raises(ValueError, match="gelu"):
        AutoencoderKL.reference_recipe(CONFIG | {"act_fn": "gelu"})
