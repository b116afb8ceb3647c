"""VAT: scales along a line, prefixes of whole scales, places along the curve."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from decoders import InContextTriplane
from encoders import InContextEncoder
from encoders.in_context import grouped
from quantizers import FSQ, KL, VQ, VVQ, Quantizer
from zoo.families import VAT

SMALL: dict[str, Any] = {"num_tokens": 9, "width": 32, "depth": 1, "heads": 2, "bands": 4}


def vat(quantizer: Quantizer, *, group: int = 4, place: bool = True) -> VAT:
    torch.manual_seed(0)
    encoder = InContextEncoder(dim=quantizer.input_dim, group=group, place=place, **SMALL)
    decoder = InContextTriplane(dim=quantizer.dim, resolution=4, channels=[16, 8], place=place, **SMALL)
    return VAT(encoder, quantizer, decoder, 64).eval()


def cloud(points: int = 64) -> Tensor:
    normals = nn.functional.normalize(torch.randn(2, points, 3, generator=torch.Generator().manual_seed(1)), dim=-1)
    return torch.cat([normals * torch.tensor([0.9, 0.6, 0.3]), normals], dim=-1)


@pytest.mark.parametrize("place", [False, True])
@pytest.mark.parametrize(
    "quantizer",
    [lambda: VVQ(VQ(6, 32), (1, 4, 9)), lambda: KL(4), lambda: FSQ([8, 5, 5]), lambda: VQ(6, 32)],
    ids=["vvq", "kl", "fsq", "vq"],
)
def test_any_quantizer_gives_values(quantizer: Any, place: bool) -> None:
    tokenizer, queries = vat(quantizer(), place=place), torch.rand(2, 30, 3) * 2 - 1
    with torch.no_grad():
        field = tokenizer.field(tokenizer.encode(cloud()))
        assert isinstance(field.state, Tensor) and field.state.shape == (2, 3, 8, 16, 16)
        torch.testing.assert_close(field(queries), tokenizer(cloud(), queries).output)


def test_whole_scales_decode_alone() -> None:
    tokenizer, queries = vat(VVQ(VQ(6, 32), (1, 4, 9))), torch.rand(2, 30, 3) * 2 - 1
    spec = tokenizer.spec
    assert spec.scales == (1, 4, 9) and spec.num_tokens == 14 and spec.order == "scales"
    with torch.no_grad():
        tokens = tokenizer.encode(cloud())
        assert [part.shape[1] for part in tokens.by_scale()] == [1, 4, 9]
        values = [tokenizer.field(tokens.keep(count))(queries) for count in (1, 5, 14)]
        assert not torch.equal(values[0], values[1]) and not torch.equal(values[1], values[2])
        assert torch.equal(values[2], tokenizer.field(tokens)(queries))
        with pytest.raises(ValueError, match="whole scales, 1, 5, 14"):
            tokenizer.field(tokens.keep(3))


@pytest.mark.parametrize("group", [1, 4])
def test_order_of_points_has_no_influence(group: int) -> None:
    tokenizer, x = vat(KL(4), group=group), cloud(61)
    with torch.no_grad():
        shuffled = tokenizer.encode(x[:, torch.randperm(61)]).latents
        torch.testing.assert_close(shuffled, tokenizer.encode(x).latents, rtol=1e-4, atol=1e-5)


def test_groups_hold_neighbours_and_every_point() -> None:
    x = cloud(500)
    groups = grouped(x, 16)
    assert groups.shape == (2, 32, 16, 6)
    assert {tuple(point) for point in groups[0].flatten(0, 1).tolist()} == {tuple(point) for point in x[0].tolist()}
    spread = groups[..., :3].std(2).mean()
    assert spread < 0.5 * x[:, :, :3].std(1).mean()


def test_a_start_at_places_shows_the_decoder_the_input() -> None:
    """Share of what the plane features of different clouds do not have in common, before any training."""

    def share(place: bool) -> float:
        tokenizer = vat(KL(4), place=place)
        planes = tokenizer.decoder(torch.randn(16, 9, 4, generator=torch.Generator().manual_seed(0)))
        return float(planes.var(0).mean() / planes.var())

    with torch.no_grad():
        assert share(True) > 0.2 > 5 * share(False)


def test_published_size_has_twelve_scales_and_the_bytes_that_the_paper_claims() -> None:
    spec = zoo.build("vat", device="meta").spec
    assert spec.scales == (1, 4, 9, 16, 25, 36, 64, 100, 169, 256, 576, 1024)
    assert spec.bits / 8 == 3990


def test_group_is_checked() -> None:
    with pytest.raises(ValueError, match="group must be at least 1, got 0"):
        InContextEncoder(dim=4, group=0, **SMALL)
