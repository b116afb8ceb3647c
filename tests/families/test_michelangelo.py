"""Michelangelo: the token of the whole shape, normals, and files that hold CLIP as well."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import zoo
from decoders import MichelangeloDecoder
from encoders import MichelangeloEncoder
from quantizers import FSQ, KL, VQ, Quantizer
from zoo.families import Michelangelo

CONFIG = {
    "num_latents": 4,
    "point_feats": 3,
    "embed_dim": 2,
    "num_freqs": 2,
    "include_pi": False,
    "width": 8,
    "heads": 2,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
    "init_scale": 0.25,
    "qkv_bias": False,
    "use_ln_post": True,
}


def model(quantizer: Quantizer | None = None, *, aligned: bool = True, features: int = 3) -> Michelangelo:
    torch.manual_seed(0)
    quantizer = quantizer or KL(4)
    encoder = MichelangeloEncoder(quantizer.input_dim, 32, 2, 4, 8, features, aligned)
    return Michelangelo(encoder, quantizer, MichelangeloDecoder(quantizer.dim, 32, 2, 4), 64).eval()


def clouds(count: int = 2, points: int = 64, channels: int = 6) -> Tensor:
    return torch.rand(count, points, channels, generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_the_whole_shape_has_a_token_that_is_no_part_of_the_code() -> None:
    aligned = model()
    with torch.no_grad():
        assert aligned.describe(clouds()).shape == (2, 32)
        assert aligned.encode(clouds()).num_tokens == aligned.spec.num_tokens == 8
    with pytest.raises(ValueError, match="not aligned"):
        model(aligned=False).describe(clouds())
    with pytest.raises(ValueError, match="normal"):
        aligned.describe(clouds(channels=3))


def test_order_of_points_has_no_meaning_but_their_normals_have() -> None:
    tokenizer, x = model(), clouds()
    flipped = torch.cat([x[..., :3], -x[..., 3:]], -1)
    with torch.no_grad():
        z = tokenizer.encoder(x)
        torch.testing.assert_close(tokenizer.encoder(x.flip(1)), z, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(tokenizer.encoder(flipped), z, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("quantizer", [FSQ([8, 8, 8]), VQ(6, 32), KL(4)], ids=lambda q: type(q).__name__)
def test_any_quantizer(quantizer: Quantizer) -> None:
    tokenizer = model(quantizer)
    queries = clouds(2, 10, 3)
    with torch.no_grad():
        tokens = tokenizer.encode(clouds())
        assert torch.equal(tokenizer.field(tokens)(queries), tokenizer(clouds(), queries).output)
    assert tokenizer.field(tokens).bounds == 1.25


def test_gradient_in_space_can_be_trained() -> None:
    tokenizer = model(features=0)
    queries = (torch.rand(2, 20, 3) - 0.5).requires_grad_()
    (slope,) = torch.autograd.grad(tokenizer(clouds(channels=3), queries).output.sum(), queries, create_graph=True)
    slope.square().mean().backward()
    gradient = tokenizer.decoder.embed.weight.grad
    assert gradient is not None and gradient.any()


def published(aligned: bool) -> dict[str, Tensor]:
    """A state of the reference's layout: rows of fused projections by head and then kind."""
    torch.manual_seed(0)
    width, count = 8, 4 + aligned
    state = {"encoder.query": torch.randn(count, width), "encoder.input_proj.weight": torch.randn(width, 18)}
    state |= {
        "geo_decoder.query_proj.weight": torch.randn(width, 15),
        "geo_decoder.output_proj.weight": torch.randn(1, width),
    }
    state |= {"geo_decoder.output_proj.bias": torch.randn(1), "pre_kl.weight": torch.randn(4, width)}
    state |= {
        "pre_kl.bias": torch.randn(4),
        "post_kl.weight": torch.randn(width, 2),
        "post_kl.bias": torch.randn(width),
    }
    state |= {f"{name}.bias": torch.randn(width) for name in ("encoder.input_proj", "geo_decoder.query_proj")}
    blocks = ["encoder.cross_attn", "encoder.self_attn.resblocks.0", "transformer.resblocks.0"]
    for block in [*blocks, "geo_decoder.cross_attn_decoder"]:
        crossing = "cross" in block
        kinds = {"c_q": 1, "c_kv": 2} if crossing else {"c_qkv": 3}
        state |= {f"{block}.attn.{name}.weight": torch.randn(kind * width, width) for name, kind in kinds.items()}
        for name, shape in {"attn.c_proj": (8, 8), "mlp.c_fc": (32, 8), "mlp.c_proj": (8, 32)}.items():
            state |= {f"{block}.{name}.weight": torch.randn(shape), f"{block}.{name}.bias": torch.randn(shape[0])}
        for number in range(1, 3 + crossing):
            state |= {f"{block}.ln_{number}.{leaf}": torch.randn(width) for leaf in ("weight", "bias")}
    for name in ("encoder.ln_post", "geo_decoder.ln_post"):
        state |= {f"{name}.{leaf}": torch.randn(width) for leaf in ("weight", "bias")}
    return state


@pytest.mark.parametrize("aligned", [False, True])
def test_file_with_clip_beside_the_shape_model(aligned: bool) -> None:
    state = published(aligned)
    whole = {f"model.shape_model.{key}": tensor for key, tensor in state.items()}
    whole |= {"model.shape_projection": torch.zeros(8, 4), "model.clip_model.logit_scale": torch.zeros(())}
    alone, taken = Michelangelo.from_reference(CONFIG, state), Michelangelo.from_reference(CONFIG, whole)
    assert alone.encoder.aligned == taken.encoder.aligned == aligned
    for key, tensor in alone.state_dict().items():
        assert torch.equal(tensor, taken.state_dict()[key])
    fused = state["transformer.resblocks.0.attn.c_qkv.weight"]
    qkv = alone.decoder.blocks[0].attn.qkv.weight
    assert torch.equal(qkv[:4], fused[:4]) and torch.equal(qkv[4:8], fused[12:16])  # queries of heads 0 and 1
    assert torch.equal(qkv[8:12], fused[4:8])  # keys of head 0


def test_missing_keys_are_named() -> None:
    state = published(True)
    state.pop("pre_kl.bias")
    with pytest.raises(RuntimeError, match=r"encoder\.proj\.bias"):
        Michelangelo.from_reference(CONFIG, state)
    with pytest.raises(ValueError, match="is it of this family"):
        Michelangelo.from_reference({"heads": 2, "num_latents": 4}, {})


def test_recipe_reads_normals() -> None:
    assert zoo.build("michelangelo_tiny", device="meta").spec.input_shape == (512, 6)
