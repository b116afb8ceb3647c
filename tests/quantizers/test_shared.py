"""SharedVQ: several codebooks under one index."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from quantizers import VQ, SharedVQ


@settings(max_examples=25, deadline=None)
@given(
    parts=st.lists(st.tuples(st.integers(1, 4), st.floats(0.1, 4)), min_size=1, max_size=4),
    codes=st.integers(1, 30),
    tokens=st.integers(0, 7),
    normalize=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_index_minimises_the_weighted_sum_of_distances(
    parts: list[tuple[int, float]], codes: int, tokens: int, normalize: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    dims, weights = zip(*parts, strict=True)
    quantizer = SharedVQ(dims, codes, weights=weights, normalize=normalize).eval()
    torch.nn.init.normal_(quantizer.codebook)
    z = torch.randn(1, tokens, sum(dims))
    out = quantizer(z)
    total = torch.zeros(tokens, codes, dtype=torch.float64)
    for part, code, weight in zip(z[0].split(dims, -1), quantizer.codebook.split(dims, -1), weights, strict=True):
        if normalize:
            part, code = F.normalize(part, dim=-1), F.normalize(code, dim=-1)
        total += weight * torch.cdist(part.double(), code.double()).square()
    chosen = total.gather(-1, out.indices[0])[:, 0]
    torch.testing.assert_close(chosen, total.amin(-1), rtol=1e-4, atol=1e-4)
    assert torch.equal(quantizer.lookup(out.indices), out.latents)


def test_every_part_is_a_unit_vector() -> None:
    quantizer = SharedVQ((5, 2, 1), 20).eval()
    for part in quantizer(torch.randn(2, 9, 8)).latents.split((5, 2, 1), -1):
        torch.testing.assert_close(part.norm(dim=-1), torch.ones(2, 9))


def test_one_part_is_a_vq() -> None:
    torch.manual_seed(0)
    one, two = SharedVQ((6,), 30, entropy=0.1), VQ(6, 30, normalize=True, entropy=0.1)
    two.load_state_dict(one.state_dict())
    z = torch.randn(2, 9, 6)
    first, second = one(z), two(z)
    assert torch.equal(first.indices, second.indices) and torch.equal(first.latents, second.latents)
    torch.testing.assert_close(first.loss, second.loss)


def test_a_part_of_weight_zero_is_carried_along() -> None:
    torch.manual_seed(0)
    quantizer, z = SharedVQ((4, 3), 30, weights=(1, 0)).eval(), torch.randn(1, 9, 7)
    other = torch.cat((z[..., :4], torch.randn(1, 9, 3)), -1)
    assert torch.equal(quantizer(z).indices, quantizer(other).indices)


def test_moving_averages_follow_the_parts() -> None:
    torch.manual_seed(0)
    quantizer = SharedVQ((3, 2), 4, learn="ema", decay=0.5, kmeans_init=True).train()
    centres = F.normalize(torch.randn(4, 5), dim=-1)
    z = centres[torch.arange(64) % 4][None] + 0.01 * torch.randn(1, 64, 5)
    for _ in range(8):
        quantizer(z)
    found = quantizer.eval()(z)
    assert len(found.indices.unique()) == 4
    unit = torch.cat([F.normalize(part, dim=-1) for part in z.split((3, 2), -1)], -1)
    torch.testing.assert_close(found.latents, unit, rtol=0, atol=0.15)


@pytest.mark.parametrize(
    "arguments",
    [
        {"dims": ()},
        {"dims": (4, 0)},
        {"weights": (1,)},
        {"weights": (1, -1)},
        {"weights": (0, 0)},
        {"learn": "norm_ema"},
        {"metric": "cosine"},
    ],
)
def test_wrong_options_are_explained(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"SharedVQ (expects|has)"):
        SharedVQ(**{"dims": (4, 3), "codebook_size": 8, **arguments})
