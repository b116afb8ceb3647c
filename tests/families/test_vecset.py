"""VecSet: the fast reader of sets, bottlenecks, queries of either kind, codes, and the reference's configs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from decoders import VecSetDecoder
from decoders.set_reader import SetReader
from encoders import VecSetEncoder
from encoders.layers.points import FourierPoints
from quantizers import FSQ, KL, VQ, Identity, Quantizer
from zoo.families import VecSet
from zoo.store.build import build

AE = {"depth": 1, "dim": 16, "num_inputs": 32, "num_latents": 8, "heads": 2, "dim_head": 4, "output_dim": 1}
X = {
    "depth": 1,
    "dim": 16,
    "num_inputs": 32,
    "num_latents": 8,
    "dim_head": 4,
    "query_type": "point",
    "bottleneck": "KLBottleneck",
    "bottleneck_args": {"dim": 16, "latent_dim": 3},
}


def vecset(quantizer: Quantizer | None = None, *, signed_distance: bool = False, queries: Any = "points") -> VecSet:
    torch.manual_seed(0)
    quantizer = quantizer or KL(4)
    encoder = VecSetEncoder(quantizer.input_dim, 32, 8, queries=queries)
    decoder = VecSetDecoder(quantizer.dim, 32, depth=2, heads=4)
    return VecSet(encoder, quantizer, decoder, 64, signed_distance).eval()


def clouds(count: int = 2, points: int = 64) -> Tensor:
    """Points on ellipsoids."""
    source = torch.Generator().manual_seed(1)
    directions = nn.functional.normalize(torch.randn(count, points, 3, generator=source), dim=-1)
    return directions * torch.tensor([[[0.9, 0.6, 0.3]]])


@pytest.mark.parametrize("norm_output", [False, True])
@pytest.mark.parametrize(("width", "heads"), [(96, 1), (96, 4), (128, 1)])
def test_fast_reader_equals_the_plain_one(width: int, heads: int, norm_output: bool) -> None:
    torch.manual_seed(0)
    fourier = FourierPoints()
    reader, embed = SetReader(width, heads, norm_output=norm_output), nn.Linear(fourier.dim, width)
    for parameter in reader.parameters():
        nn.init.normal_(parameter, std=0.3)
    members, features = torch.randn(2, 9, width), fourier(torch.rand(2, 50, 3) * 2 - 1)
    fast, plain = reader(features, reader.prepare(members, embed)), reader.plain(embed(features), members)
    torch.testing.assert_close(fast, plain, rtol=1e-4, atol=1e-4)
    learning = [*reader.parameters(), *embed.parameters()]
    gradients = [torch.autograd.grad(values.square().sum(), learning) for values in (fast, plain)]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * float(theirs.abs().max()))


@pytest.mark.parametrize("queries", ["points", "learned"])
def test_gradient_in_space_can_be_trained(queries: str) -> None:
    """What an eikonal loss needs: second derivatives."""
    tokenizer = build(VecSet.reference_recipe({**X, "query_type": "learnable" if queries == "learned" else "point"}))
    nn.init.normal_(tokenizer.decoder.reader.head.weight)
    points = (torch.rand(2, 20, 3) - 0.5).requires_grad_()
    (slope,) = torch.autograd.grad(tokenizer(clouds(), points).output.sum(), points, create_graph=True)
    (slope.norm(dim=-1) - 1).square().mean().backward()
    gradient = tokenizer.encoder.embed.weight.grad
    assert gradient is not None and gradient.any()


@pytest.mark.parametrize("quantizer", [FSQ([8, 8, 8]), VQ(6, 32), Identity(5), KL(4)], ids=lambda q: type(q).__name__)
def test_any_quantizer(quantizer: Quantizer) -> None:
    tokenizer = vecset(quantizer)
    with torch.no_grad():
        tokens = tokenizer.encode(clouds())
        assert tokens.indices.shape == (2, 8, len(quantizer.codebook_sizes))
        queries = torch.rand(2, 10, 3) * 2 - 1
        assert torch.equal(tokenizer.field(tokens)(queries), tokenizer(clouds(), queries).output)


def test_learned_queries_do_not_see_the_order_of_points() -> None:
    x = clouds()
    mixed = x[:, torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(2))]
    learned = vecset(queries="learned")
    with torch.no_grad():
        torch.testing.assert_close(learned.encoder(mixed), learned.encoder(x), rtol=1e-4, atol=1e-5)
    assert learned.min_points == 1 and vecset().min_points == 8
    with pytest.raises(ValueError, match="P >= 8"):
        vecset().encode(x[:, :7])


def test_codes_are_a_function_of_the_cloud() -> None:
    tokenizer, x = vecset(FSQ([8, 8, 8])), clouds(3)
    with torch.no_grad():
        tokens = tokenizer.encode(x)
        assert torch.equal(tokenizer.encode(x).indices, tokens.indices)
        assert torch.equal(tokenizer.encode(x[1:2]).indices[0], tokens.indices[1])


def test_signed_distances_are_turned_round() -> None:
    plain, signed, queries = vecset(), vecset(signed_distance=True), torch.rand(2, 10, 3)
    with torch.no_grad():
        assert torch.equal(plain(clouds(), queries).output, -signed(clouds(), queries).output)


def test_half_precision_stays_close() -> None:
    tokenizer, queries = vecset(), torch.rand(2, 200, 3) * 2 - 1
    with torch.no_grad():
        exact = tokenizer(clouds(), queries).output
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(tokenizer(clouds(), queries).output, exact, rtol=0.1, atol=0.05)
        tokenizer.bfloat16()
        values = tokenizer(clouds(), queries).output
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, exact, rtol=0.1, atol=0.05)


def test_codes_learn_a_shape() -> None:
    """Vecset + FSQ finds an ellipsoid; a constant would stay at a loss of 0.5."""
    tokenizer, radii = vecset(FSQ([8, 8, 8])).train(), torch.tensor([0.9, 0.7, 0.6])
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=4e-3)
    losses = []
    for _ in range(70):
        x = nn.functional.normalize(torch.randn(4, 64, 3), dim=-1) * radii
        queries = torch.rand(4, 128, 3) * 2 - 1
        result, inside = tokenizer(x, queries), (queries / radii).square().sum(-1) < 1
        loss = nn.functional.binary_cross_entropy_with_logits(result.output, inside.float())
        optimizer.zero_grad()
        (loss + result.quantized.loss).backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-10:]) / 10 < 0.25


def test_parts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="embeds points once"):
        VecSet(VecSetEncoder(4, 32, 8), Identity(4), VecSetDecoder(4, 16, 1, 2), 64)
    with pytest.raises(ValueError, match="without project"):
        VecSetEncoder(4, 32, 8, project=False)
    with pytest.raises(ValueError, match="without project"):
        VecSetDecoder(4, 32, 1, 2, project=False)
    with pytest.raises(ValueError, match="learned"):
        VecSetEncoder(4, 32, 8, queries="random")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_tie_layers": True}, "weight_tie_layers=False"),
        ({"decoder_ff": True}, "decoder_ff=False"),
        ({"output_dim": 3}, "output_dim=1"),
        ({"query_type": "point", "bottleneck": "VQBottleneck"}, "VQBottleneck"),
    ],
)
def test_configs_that_we_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VecSet.reference_recipe({**AE, **change})
    with pytest.raises(ValueError, match="is it of this family"):
        VecSet.from_reference({"depth": 1}, {})


def test_gaussian_bottleneck_of_vecsetx_loads() -> None:
    """No published file has one; its keys are those of 3DShape2VecSet behind the name of the bottleneck."""
    torch.manual_seed(0)
    source = build(VecSet.reference_recipe(X))
    published: dict[str, Tensor] = {"point_embed.basis": torch.zeros(3, 24)}
    back = {
        "encoder.embed": "point_embed.mlp",
        "encoder.read.norm": "cross_attend_blocks.0.norm",
        "encoder.read.attn.query": "cross_attend_blocks.0.fn.to_q",
        "encoder.read.attn.key_value": "cross_attend_blocks.0.fn.to_kv",
        "encoder.read.attn.proj": "cross_attend_blocks.0.fn.to_out",
        "encoder.read.norm_mlp": "cross_attend_blocks.1.norm",
        "encoder.read.mlp.fc1": "cross_attend_blocks.1.fn.net.0",
        "encoder.read.mlp.fc2": "cross_attend_blocks.1.fn.net.2",
        "decoder.proj": "bottleneck.proj",
        "decoder.blocks.0.norm1": "layers.0.0.norm",
        "decoder.blocks.0.attn.proj": "layers.0.0.fn.to_out",
        "decoder.blocks.0.norm2": "layers.0.1.norm",
        "decoder.blocks.0.mlp.fc1": "layers.0.1.fn.net.0",
        "decoder.blocks.0.mlp.fc2": "layers.0.1.fn.net.2",
        "decoder.reader.norm": "decoder_cross_attn.norm",
        "decoder.reader.attn.query": "decoder_cross_attn.fn.to_q",
        "decoder.reader.attn.key_value": "decoder_cross_attn.fn.to_kv",
        "decoder.reader.attn.proj": "decoder_cross_attn.fn.to_out",
        "decoder.reader.norm_output": "to_outputs.0",
        "decoder.reader.head": "to_outputs.1",
    }
    for key, tensor in source.state_dict().items():
        module, _, leaf = key.rpartition(".")
        if module == "encoder.proj":
            published[f"bottleneck.mean_fc.{leaf}"], published[f"bottleneck.logvar_fc.{leaf}"] = tensor.chunk(2)
        elif module == "decoder.blocks.0.attn.qkv":
            parts = tensor.split([16, 32])
            published["layers.0.0.fn.to_q.weight"], published["layers.0.0.fn.to_kv.weight"] = parts
        else:
            published[f"{back[module]}.{leaf}"] = tensor
    loaded = VecSet.from_reference(X, published)
    assert isinstance(loaded.quantizer, KL) and loaded.signed_distance and loaded.placement.kind == "sphere"
    for key, tensor in source.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor), key


def test_weight_of_the_divergence_is_that_of_the_mean() -> None:
    node = VecSet.reference_recipe({**AE, "latent_dim": 4})
    quantizer = build(node).quantizer
    z = torch.randn(3, 8, 8)
    mean, logvar = z.chunk(2, -1)
    expected = 1e-3 * 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
    torch.testing.assert_close(quantizer(z).loss, expected)
