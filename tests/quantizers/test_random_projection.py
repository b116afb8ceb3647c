"""RandomProjection: labels from frozen random codes."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from vector_quantize_pytorch import RandomProjectionQuantizer

from quantizers import RandomProjection


@pytest.mark.parametrize("num_codebooks", [1, 3])
@pytest.mark.parametrize("norm", [True, False])
def test_matches_vector_quantize_pytorch(num_codebooks: int, norm: bool) -> None:
    """One reference for each codebook: with several, it puts a further layer, which learns, before its codes."""
    torch.manual_seed(0)
    references = [
        RandomProjectionQuantizer(dim=20, codebook_size=50, codebook_dim=6, norm=norm) for _ in range(num_codebooks)
    ]
    quantizer = RandomProjection(20, 6, 50, num_codebooks, norm=norm).eval()
    projections = torch.cat([reference.rand_projs for reference in references])
    codes = torch.cat([reference.vq._codebook.embed for reference in references])
    quantizer.load_state_dict({"projection": projections, "codebook": codes})
    x = torch.randn(3, 40, 20) * 3 + 1
    assert torch.equal(quantizer(x).indices, torch.stack([reference(x) for reference in references], -1))


@settings(max_examples=25, deadline=None)
@given(
    tokens=st.integers(0, 7),
    input_dim=st.integers(2, 9),
    width=st.integers(1, 6),
    codes=st.integers(1, 30),
    count=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_nearest_unit_code_of_the_projection(
    tokens: int, input_dim: int, width: int, codes: int, count: int, seed: int
) -> None:
    torch.manual_seed(seed)
    quantizer = RandomProjection(input_dim, width, codes, count)
    x = torch.randn(1, tokens, input_dim)
    out = quantizer(x)
    projected = torch.einsum("bnd,qdc->bnqc", F.layer_norm(x, (input_dim,)), quantizer.projection)
    cosines = torch.einsum("bnqc,qkc->bnqk", F.normalize(projected, dim=-1), quantizer.codebook)
    chosen = cosines.gather(-1, out.indices[..., None])[..., 0]
    torch.testing.assert_close(chosen, cosines.amax(-1), rtol=0, atol=1e-5)
    assert out.latents.shape == (1, tokens, count * width) and quantizer.codebook_sizes == (codes,) * count
    assert torch.equal(quantizer.lookup(out.indices), out.latents)
    norms = out.latents.unflatten(-1, (count, width)).norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms))


def test_nothing_learns() -> None:
    quantizer = RandomProjection(8, 4, 30, 2).train()
    before = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    x = torch.randn(2, 6, 8, requires_grad=True)
    out = quantizer(x)
    assert not out.latents.requires_grad and not out.loss.requires_grad and out.loss == 0
    assert not list(quantizer.parameters()) and set(before) == {"projection", "codebook"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in quantizer.state_dict().items())


def test_normalised_input_does_not_collapse() -> None:
    """Features far from zero all project to one direction, unless they are normalised first."""
    torch.manual_seed(0)
    x = torch.randn(1, 2000, 16) + 100
    used = {}
    for norm in (True, False):
        torch.manual_seed(1)
        used[norm] = len(RandomProjection(16, 8, 64, norm=norm)(x).indices.unique())
    assert used[False] < 8 and used[True] > 32, used


@pytest.mark.parametrize("sizes", [(0, 4, 8, 1), (4, 0, 8, 1), (4, 4, 0, 1), (4, 4, 8, 0)])
def test_wrong_sizes_are_explained(sizes: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="RandomProjection expects input_dim"):
        RandomProjection(*sizes)
