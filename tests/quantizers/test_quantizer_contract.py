"""What every quantizer promises, whatever its kind."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import quantizers
from quantizers import FSQ, KL, LFQ, VQ, Quantizer

Make = Callable[[], Quantizer]
DISCRETE: dict[str, Make] = {
    "vq": lambda: VQ(6, 40),
    "vq_cosine": lambda: VQ(6, 40, normalize=True),
    "vq_cosine_metric": lambda: VQ(6, 40, metric="cosine"),
    "vq_rotation": lambda: VQ(6, 40, estimator="rotation"),
    "vq_ema": lambda: VQ(6, 40, learn="ema", dead_code_threshold=0.1),
    "vq_ema_cosine": lambda: VQ(6, 40, learn="ema", normalize=True),
    "vq_norm_ema": lambda: VQ(6, 40, learn="norm_ema", normalize=True),
    "vq_kmeans": lambda: VQ(6, 40, kmeans_init=True),
    "vq_entropy": lambda: VQ(6, 40, entropy=0.1),
    "fsq": lambda: FSQ([8, 5, 4]),
    "fsq_symmetric": lambda: FSQ([8, 5, 4, 2], symmetric=True),
    "lfq": lambda: LFQ(5),
    "lfq_most": lambda: LFQ(5, first_bit="most", entropy_floor="clamp"),
    "lfq_spherical": lambda: LFQ(4, num_codebooks=3, spherical=True),
    "lfq_wide": lambda: LFQ(40, entropy_bits=10),
}
ALL: dict[str, Make] = {**DISCRETE, "kl": lambda: KL(4)}
discrete = pytest.mark.parametrize("make", DISCRETE.values(), ids=DISCRETE.keys())
every = pytest.mark.parametrize("make", ALL.values(), ids=ALL.keys())


def latents(quantizer: Quantizer, batch: int = 2, tokens: int = 7, seed: int = 0) -> Tensor:
    width = 2 * quantizer.dim if isinstance(quantizer, KL) else quantizer.dim
    return torch.randn(batch, tokens, width, generator=torch.Generator().manual_seed(seed))


def test_every_export_is_covered() -> None:
    kinds = {type(make()).__name__ for make in ALL.values()}
    assert kinds == set(quantizers.__all__) - {"Quantized", "Quantizer", "pack", "unpack"}


@every
@pytest.mark.parametrize("training", [False, True])
def test_shapes_and_dtypes(make: Make, training: bool) -> None:
    quantizer = make().train(training)
    out = quantizer(latents(quantizer))
    columns = len(quantizer.codebook_sizes)
    assert out.latents.shape == (2, 7, quantizer.dim) and out.latents.dtype == torch.float32
    assert out.indices.shape == (2, 7, columns) and out.indices.dtype == torch.int64
    assert out.loss.shape == () and out.loss.isfinite()
    assert all(part.shape == () and part.isfinite() for part in out.parts.values())
    for column, size in enumerate(quantizer.codebook_sizes):
        assert out.indices[..., column].min() >= 0 and out.indices[..., column].max() < size


@discrete
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), scale=st.floats(1e-3, 1e3))
def test_lookup_is_bit_equal_to_eval_latents(make: Make, seed: int, scale: float) -> None:
    torch.manual_seed(seed)
    quantizer = make().eval()
    z = latents(quantizer, seed=seed) * scale
    out = quantizer(z)
    assert torch.equal(quantizer.lookup(out.indices), out.latents)
    assert torch.equal(quantizer.lookup(out.indices[:, 3:4]), out.latents[:, 3:4])
    again = quantizer(out.latents)
    if not isinstance(quantizer, FSQ):  # FSQ bounds its input: its codes are not fixed points
        assert torch.equal(quantizer.lookup(again.indices), again.latents)
        assert torch.equal(again.indices, out.indices)


@discrete
def test_training_forward_value_is_the_code(make: Make) -> None:
    torch.manual_seed(0)
    quantizer = make().train()
    twin = copy.deepcopy(quantizer).eval()
    if isinstance(quantizer, VQ) and quantizer.kmeans_init:
        quantizer(latents(quantizer))
        twin.load_state_dict(quantizer.state_dict())
    z = latents(quantizer, seed=3).requires_grad_()
    out = quantizer(z)
    assert torch.equal(out.latents, twin.lookup(out.indices))
    assert out.latents.requires_grad and not twin(z).latents.requires_grad


@every
def test_every_input_and_parameter_receives_gradient(make: Make) -> None:
    quantizer = make().train()
    z = latents(quantizer).requires_grad_()
    out = quantizer(z)
    (out.latents.square().sum() + out.loss).backward()
    assert z.grad is not None and z.grad.isfinite().all() and z.grad.any()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in quantizer.parameters())


@every
def test_loss_is_never_a_buffer(make: Make) -> None:
    quantizer = make().train()
    first = quantizer(latents(quantizer).requires_grad_())
    storages = {tensor.untyped_storage().data_ptr() for tensor in (*quantizer.buffers(), *quantizer.parameters())}
    for tensor in (first.loss, *first.parts.values()):
        assert tensor.untyped_storage().data_ptr() not in storages
    assert not any(buffer.requires_grad for buffer in quantizer.buffers())


@every
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("shape", [(0, 7), (2, 0)])
def test_empty_batch(make: Make, training: bool, shape: tuple[int, int]) -> None:
    quantizer = make().train(training)
    before = copy.deepcopy(dict(quantizer.named_buffers()))
    out = quantizer(latents(quantizer, *shape).requires_grad_())
    assert out.latents.shape == (*shape, quantizer.dim)
    assert out.loss.isfinite() and all(part.isfinite() for part in out.parts.values())
    assert all(buffer.isfinite().all() for buffer in quantizer.buffers())
    for name in ("codebook", "initialized"):
        if name in before:
            torch.testing.assert_close(quantizer.get_buffer(name), before[name])


@every
def test_half_precision_changes_nothing(make: Make) -> None:
    torch.manual_seed(0)
    quantizer = make().eval()
    z = latents(quantizer, batch=8, tokens=32)
    expected = quantizer(z)
    with torch.autocast("cpu", torch.bfloat16):
        out = quantizer(z)
    assert torch.equal(out.indices, expected.indices) and torch.equal(out.latents, expected.latents)
    nested = nn.Sequential(quantizer).bfloat16()
    assert all(tensor.dtype != torch.bfloat16 for tensor in nested.state_dict().values())
    assert torch.equal(quantizer(z).latents, expected.latents)
    assert quantizer(z.bfloat16()).latents.dtype == torch.float32
    assert torch.equal(quantizer(z.bfloat16()).latents, quantizer(z.bfloat16().float()).latents)


@every
def test_training_under_autocast_matches_float32(make: Make) -> None:
    torch.manual_seed(0)
    one = make().train()
    two = copy.deepcopy(one)
    z = latents(one, batch=4, tokens=16)
    torch.manual_seed(1)
    expected = one(z)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        out = two(z)
    assert torch.equal(out.indices, expected.indices)
    torch.testing.assert_close(out.loss, expected.loss)
    for name, tensor in two.state_dict().items():
        torch.testing.assert_close(tensor, one.state_dict()[name])


@every
def test_deferred_load_and_copies(make: Make) -> None:
    torch.manual_seed(0)
    quantizer = make().eval()
    z = latents(quantizer)
    expected = quantizer(z).latents
    with torch.device("meta"):
        empty = make().eval()
    empty.load_state_dict(quantizer.state_dict(), strict=True, assign=True)
    assert torch.equal(empty(z).latents, expected)
    assert torch.equal(copy.deepcopy(quantizer)(z).latents, expected)
    assert torch.equal(pickle.loads(pickle.dumps(quantizer))(z).latents, expected)


@pytest.mark.parametrize("training", [False, True])
@every
def test_compiles_whole(make: Make, training: bool) -> None:
    torch.manual_seed(0)
    quantizer = make().train(training)
    z = latents(quantizer)
    if training:
        quantizer(z)  # the k-means start is data-dependent and runs outside the compiled graph
    twin = copy.deepcopy(quantizer)
    torch.compiler.reset()
    compiled = torch.compile(quantizer, fullgraph=True, backend="aot_eager")
    torch.manual_seed(1)
    out = compiled(z)
    torch.manual_seed(1)
    expected = twin(z)
    assert torch.equal(out.indices, expected.indices)
    torch.testing.assert_close(out.latents, expected.latents)
    torch.testing.assert_close(out.loss, expected.loss)


@discrete
def test_lookup_compiles_whole(make: Make) -> None:
    quantizer = make().eval()
    indices = quantizer(latents(quantizer)).indices
    torch.compiler.reset()
    compiled = torch.compile(quantizer.lookup, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(indices), quantizer.lookup(indices))


@pytest.mark.slow
@every
def test_inductor_compiles_whole(make: Make) -> None:
    quantizer = make().eval()
    z = latents(quantizer)
    torch.compiler.reset()
    compiled = torch.compile(quantizer, fullgraph=True)
    with torch.no_grad():
        assert torch.equal(compiled(z).indices, quantizer(z).indices)


@every
def test_wrong_latents_are_explained(make: Make) -> None:
    quantizer = make()
    z = latents(quantizer)
    width = z.shape[-1]
    with pytest.raises(ValueError, match=rf"expects latents \(B, N, {width}\), got \(2, 7, {width + 1}\)"):
        quantizer(torch.randn(2, 7, width + 1))
    with pytest.raises(ValueError, match=r"rearrange"):
        quantizer(torch.randn(2, width, 4, 4))
    with pytest.raises(ValueError, match=r"floating-point latents, got torch\.int64"):
        quantizer(torch.zeros(2, 7, width, dtype=torch.int64))


@discrete
def test_wrong_indices_are_explained(make: Make) -> None:
    quantizer = make().eval()
    indices = quantizer(latents(quantizer)).indices
    size = quantizer.codebook_sizes[-1]
    with pytest.raises(ValueError, match="expects indices"):
        quantizer.lookup(indices[..., 0])
    with pytest.raises(ValueError, match=r"integer indices, got torch\.float32"):
        quantizer.lookup(indices.float())
    for bad in (-1, size):
        wrong = indices.clone()
        wrong[1, 2, -1] = bad
        with pytest.raises(ValueError, match=rf"\[0, {size}\), got values from .*{bad}"):
            quantizer.lookup(wrong)
    if size < 2**31:
        assert torch.equal(quantizer.lookup(indices.int()), quantizer.lookup(indices))
