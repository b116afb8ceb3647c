"""Faults of vector-quantize-pytorch 1.32 and of reference code, each measured there, which ours do not have.

Where each is tested ("contract": `test_quantizer_contract`, over every quantizer):

- residual quantizers multiply the gradient to the input by their depth, and the rotation trick shrinks or explodes in
  them: `test_residual`, `test_simvq`, `test_ibq`;
- the rotation trick has no bound, and wrong values near zero and for antiparallel vectors: `test_estimators`;
- the straight-through value is not the code: `test_estimators`, contract; of bf16 input, here;
- a mask raises with projections and heads, or gives NaN when all is padding: contract; an all-true mask, here;
- k-means in eval; equal codes when there are fewer vectors than codes: `test_vq`;
- the returned loss is a buffer; indices are int32 or squeezed; nothing compiles whole: contract;
- ranks drift apart, have wrong batch entropies, or miss a group made after construction: `test_distributed`;
- channel-first latents are misread: contract;
- fewer levels decode only with quantizer dropout: `test_residual`; other kinds of levels, here;
- moving averages in bf16 stall: here;
- EnCodec: a replaced code lasts no step: here; codes reach 8e4 when all are dead: `test_vq`;
- EnCodec: the commitment of the first level alone reaches the latents: `test_residual`;
- LFQ, BSQ: indices are summed in float32 or bf16: `test_lfq`; BSQ under autocast, here;
- LFQ: sign(0) = -1: `test_lfq`; SimVQ: indices decode without the projection: `test_simvq`;
- FQGAN: usage of more than 65,536 tokens is miscounted: here;
- WeTok: grouped training raises; VAR: needs a process group: contract;
- Cosmos: residual FSQ without scales: `test_residual_fsq`;
- DAC: dropout of no item at batch 1: `test_residual`; decoding is not bit-equal: contract;
- TiTok: a 2-D index tensor is taken for probabilities: here;
- half precision flips codes, in deep levels most: contract, `test_residual`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from quantizers import BSQ, FSQ, LFQ, VQ, Product, Projected, Quantizer, Residual, ResidualFSQ

Make = Callable[[], Quantizer]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Projected(VQ(3, 20, learn="ema"), 6),
        lambda: Product(VQ(3, 20, learn="ema"), 2, shared=True),
        lambda: Product(VQ(3, 20, learn="ema"), 2),
        lambda: VQ(6, 20, normalize=True, learn="ema"),
        lambda: VQ(6, 20, metric="cosine"),
    ],
    ids=["projection", "heads", "separate heads", "unit sphere", "cosine"],
)
def test_a_mask_of_real_positions_only_changes_nothing(make: Make) -> None:
    """0.06 became 113.7 where unit codes were compared with raw latents; projections and heads raised."""
    torch.manual_seed(0)
    one = make().train()
    two = make().train()
    two.load_state_dict(one.state_dict())
    z = torch.randn(2, 9, 6) * 10
    for _ in range(2):
        plain, masked = one(z), two(z, torch.ones(2, 9, dtype=torch.bool))
        assert torch.equal(masked.indices, plain.indices) and torch.equal(masked.latents, plain.latents)
        torch.testing.assert_close(masked.loss, plain.loss)
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(two.state_dict()[name], tensor)


@pytest.mark.parametrize("estimator", ["straight_through", "rotation"])
def test_latents_of_bfloat16_input_are_the_codes(estimator: str) -> None:
    """They were off by up to 0.11."""
    torch.manual_seed(0)
    quantizer = VQ(8, 64, estimator=estimator).train()
    torch.nn.init.normal_(quantizer.codebook)
    out = quantizer(torch.randn(2, 50, 8, dtype=torch.bfloat16, requires_grad=True))
    assert torch.equal(out.latents, quantizer.codebook[out.indices[..., 0]])


def test_moving_averages_do_not_stall_in_bfloat16() -> None:
    """Towards 1000 they stopped at 800: a hundredth of what was missing rounded to nothing."""
    quantizer = VQ(1, 1, learn="ema", decay=0.99).train().bfloat16()
    x = torch.full((1, 1, 1), 1000.0, dtype=torch.bfloat16)
    for _ in range(900):
        with torch.autocast("cpu", torch.bfloat16):
            quantizer(x)
    assert abs(quantizer.codebook.item() - 1000) < 1


@pytest.mark.parametrize("reference_bugs", [False, True])
def test_a_replaced_code_lasts(reference_bugs: bool) -> None:
    """EnCodec writes the moving average over it in the same step; `reference_bugs` behaves like that."""
    torch.manual_seed(0)
    quantizer = VQ(4, 16, learn="ema", dead_code_threshold=0.1, reference_bugs=reference_bugs).train()
    quantizer.codebook[1:] = 1000.0
    quantizer.cluster_sum[1:] = 10.0
    quantizer.cluster_size[1:] = 0.01
    x = torch.randn(1, 200, 4)
    for _ in range(3):
        out = quantizer(x)
    assert bool((quantizer.codebook.norm(dim=-1) < 10).all()) != reference_bugs
    assert (len(out.indices.unique()) > 8) != reference_bugs


@pytest.mark.parametrize(
    "make",
    [lambda: ResidualFSQ([5, 4], 3), lambda: Residual(LFQ(2), 3), lambda: Projected(Residual(VQ(2, 9), 3), 2)],
    ids=["fsq", "lfq", "projected"],
)
def test_first_levels_decode_without_quantizer_dropout(make: Make) -> None:
    quantizer = make().eval()
    indices = quantizer(torch.randn(2, 5, 2)).indices
    for count in (1, 2):
        prefix = quantizer.lookup(indices[..., :count])
        assert prefix.shape == (2, 5, 2) and not torch.equal(prefix, quantizer.lookup(indices))


@pytest.mark.parametrize("first_bit", ["least", "most"])
@pytest.mark.parametrize("bits", [18, 36])
def test_bsq_indices_are_integers_throughout(bits: int, first_bit: str) -> None:
    """Summed in float32, 99.8 % were wrong at 36 bits; in bf16 already at 18."""
    quantizer = BSQ(bits, first_bit=first_bit).train()
    with torch.autocast("cpu", torch.bfloat16):
        out = quantizer(torch.randn(4, 50, bits))
    for position, found in zip(out.latents.flatten(0, 1) > 0, out.indices.flatten().tolist(), strict=True):
        ones = [str(int(bit)) for bit in position]
        assert found == int("".join(ones if first_bit == "most" else reversed(ones)), 2)
    assert torch.equal(quantizer.lookup(out.indices), out.latents)


def test_more_than_65536_tokens_are_counted() -> None:
    quantizer = VQ(2, 4, learn="ema", decay=0.0).train()
    out = quantizer(torch.randn(1, 70_001, 2))
    assert torch.equal(quantizer.cluster_size.long(), torch.bincount(out.indices.flatten(), minlength=4))


@pytest.mark.parametrize("make", [lambda: VQ(2, 9), lambda: FSQ([3, 3]), lambda: LFQ(2)], ids=["vq", "fsq", "lfq"])
def test_two_dimensional_indices_are_explained(make: Make) -> None:
    with pytest.raises(ValueError, match=r"indices \(B, N, 1\), got \(2, 3\); .* add it with indices\[\.\.\., None\]"):
        make().lookup(torch.zeros(2, 3, dtype=torch.int64))
