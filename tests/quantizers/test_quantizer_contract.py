"""What every quantizer promises, whatever its kind."""

import copy
import math
import pickle
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from quantizer_cases import CASES, Case
from torch import Tensor, nn

import quantizers
from quantizers import Quantized, Quantizer

discrete = pytest.mark.parametrize("case", [pytest.param(c, id=n) for n, c in CASES.items() if not c.continuous])
every = pytest.mark.parametrize("case", [pytest.param(c, id=n) for n, c in CASES.items()])


def compiling() -> Iterator[object]:
    """Cases that compile, which takes seconds; all but the first of each kind, by the word before "_", are slow."""
    kinds: set[str] = set()
    for name, case in CASES.items():
        if case.compiles:
            kind = name.split("_")[0]
            yield pytest.param(case, id=name, marks=[pytest.mark.slow] if kind in kinds else [])
            kinds.add(kind)


compiled = pytest.mark.parametrize("case", compiling())


def latents(case: Case, quantizer: Quantizer, batch: int = 2, tokens: int | None = None, seed: int = 0) -> Tensor:
    shape = (batch, case.tokens if tokens is None else tokens, quantizer.input_dim)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def padding(case: Case, z: Tensor) -> Tensor:
    """A mask with another number of real positions in each row."""
    lengths = [max(case.tokens - 2 - row, 1) for row in range(len(z))]
    return torch.arange(case.tokens) < torch.tensor(lengths)[:, None]


def run(quantizer: Quantizer, z: Tensor, mask: Tensor | None = None) -> Quantized:
    """A forward pass with the same random numbers every time."""
    torch.manual_seed(1)
    return quantizer(z, mask)


def assert_same_state(one: Quantizer, two: Quantizer) -> None:
    for name, tensor in two.state_dict().items():
        torch.testing.assert_close(tensor, one.state_dict()[name], msg=lambda text, name=name: f"{name}: {text}")


def test_every_export_is_covered() -> None:
    kinds = {type(case.make()).__name__ for case in CASES.values()}
    assert kinds == set(quantizers.__all__) - {"Quantized", "Quantizer", "pack", "unpack"}


@every
@pytest.mark.parametrize("training", [False, True])
def test_shapes_and_dtypes(case: Case, training: bool) -> None:
    quantizer = case.make().train(training)
    out = quantizer(latents(case, quantizer))
    columns = len(quantizer.codebook_sizes)
    assert out.latents.shape == (2, case.tokens, quantizer.dim) and out.latents.dtype == torch.float32
    positions = case.tokens if case.positionwise else out.indices.shape[1]
    assert out.indices.shape == (2, positions, columns) and out.indices.dtype == torch.int64
    assert out.loss.shape == () and out.loss.isfinite()
    assert all(part.shape == () and part.isfinite() for part in out.parts.values())
    for column, size in enumerate(quantizer.codebook_sizes):
        assert out.indices[..., column].min() >= 0 and out.indices[..., column].max() < size


@discrete
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), scale=st.floats(1e-3, 1e3))
def test_lookup_is_bit_equal_to_eval_latents(case: Case, seed: int, scale: float) -> None:
    torch.manual_seed(seed)
    quantizer = case.make().eval()
    z = latents(case, quantizer, seed=seed) * scale
    out = quantizer(z)
    assert torch.equal(quantizer.lookup(out.indices), out.latents)
    if case.positionwise and case.exact_slices:
        assert torch.equal(quantizer.lookup(out.indices[:, 3:4]), out.latents[:, 3:4])
    if case.idempotent:
        again = quantizer(out.latents)
        assert torch.equal(quantizer.lookup(again.indices), again.latents)
        assert torch.equal(again.indices, out.indices)


@every
def test_training_forward_value_is_the_code(case: Case) -> None:
    if not case.codes_in_training:
        pytest.skip("samples while training")
    torch.manual_seed(0)
    quantizer = case.make().train()
    quantizer(latents(case, quantizer))  # starts that wait for data
    twin = copy.deepcopy(quantizer).eval()
    z = latents(case, quantizer, seed=3).requires_grad_()
    out = quantizer(z)
    assert torch.equal(out.latents, twin.lookup(out.indices))
    assert out.latents.requires_grad == case.differentiable


@every
def test_every_input_and_parameter_receives_gradient(case: Case) -> None:
    quantizer = case.make().train()
    z = latents(case, quantizer).requires_grad_()
    out = quantizer(z)
    if not case.differentiable:
        assert not out.latents.requires_grad and not list(quantizer.parameters())
        return
    (out.latents.square().sum() + out.loss).backward()
    assert z.grad is not None and z.grad.isfinite().all() and z.grad.any()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in quantizer.parameters())


@every
def test_loss_is_never_a_buffer(case: Case) -> None:
    quantizer = case.make().train()
    first = quantizer(latents(case, quantizer).requires_grad_())
    storages = {tensor.untyped_storage().data_ptr() for tensor in (*quantizer.buffers(), *quantizer.parameters())}
    for tensor in (first.loss, *first.parts.values()):
        assert tensor.untyped_storage().data_ptr() not in storages
    assert not any(buffer.requires_grad for buffer in quantizer.buffers())


@every
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("empty", ["batch", "tokens", "masked"])
def test_nothing_to_quantize(case: Case, training: bool, empty: str) -> None:
    quantizer = case.make().train(training)
    before = copy.deepcopy(quantizer.state_dict())
    z = latents(case, quantizer, *{"batch": (0,), "tokens": (2, 0), "masked": ()}[empty]).requires_grad_()
    out = quantizer(z, torch.zeros(z.shape[:2], dtype=torch.bool) if empty == "masked" else None)
    assert out.latents.shape == (*z.shape[:2], quantizer.dim)
    assert all(part.isfinite() for part in (out.loss, *out.parts.values()))
    if not case.constant_loss:
        assert out.loss.abs() < 1e-6
    for name, tensor in quantizer.state_dict().items():
        assert tensor.isfinite().all()
        if name.endswith(("codebook", "initialized")):
            torch.testing.assert_close(tensor, before[name])


@every
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("garbage", [1e3, float("nan")])
def test_what_stands_in_the_padding_changes_nothing(case: Case, training: bool, garbage: float) -> None:
    torch.manual_seed(0)
    one = case.make().train(training)
    two = copy.deepcopy(one)
    z = latents(case, one)
    mask = padding(case, z)
    expected = run(one, z, mask)
    dirty = torch.where(mask[..., None], z, garbage).requires_grad_()
    out = run(two, dirty, mask)
    assert torch.equal(out.indices, expected.indices) and torch.equal(out.latents, expected.latents)
    for part, value in {**expected.parts, "loss": expected.loss}.items():
        assert torch.equal(value, out.loss if part == "loss" else out.parts[part])
    assert_same_state(one, two)
    if training and case.differentiable:
        (out.latents.square().sum() + out.loss).backward()
        assert dirty.grad is not None and not dirty.grad[~mask].any() and dirty.grad.isfinite().all()


@every
@pytest.mark.parametrize("training", [False, True])
def test_padding_equals_truncation(case: Case, training: bool) -> None:
    if not case.positionwise or (training and case.random):
        pytest.skip("positions are not quantized one by one")
    torch.manual_seed(0)
    one = case.make().train(training)
    two = copy.deepcopy(one)
    z = latents(case, one)
    mask = torch.arange(case.tokens).expand(2, -1) < 4
    expected, out = run(one, z[:, :4]), run(two, z, mask)
    assert torch.equal(out.indices[:, :4], expected.indices)
    torch.testing.assert_close(out.latents[:, :4], expected.latents)
    torch.testing.assert_close(out.loss, expected.loss)
    for name, part in expected.parts.items():
        torch.testing.assert_close(out.parts[name], part)
    assert_same_state(one, two)


@every
def test_wrong_masks_are_explained(case: Case) -> None:
    quantizer = case.make()
    z = latents(case, quantizer)
    for mask in (torch.ones(2, case.tokens), torch.ones(2, case.tokens + 1, dtype=torch.bool)):
        with pytest.raises(ValueError, match="expects a mask of bool"):
            quantizer(z, mask)


@every
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_non_finite_latents_are_refused(case: Case, bad: float) -> None:
    quantizer = case.make().train()
    z = latents(case, quantizer)
    z[1, 2, 0] = bad
    before = copy.deepcopy(quantizer.state_dict())
    with pytest.raises(ValueError, match=r"finite latents, got -?(nan|inf) at batch 1, position 2, channel 0 \(1 of"):
        quantizer(z)
    for name, tensor in quantizer.state_dict().items():
        assert torch.equal(tensor, before[name])


@every
def test_half_precision_changes_nothing(case: Case) -> None:
    torch.manual_seed(0)
    quantizer = case.make().eval()
    z = latents(case, quantizer, batch=32)
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
def test_training_under_autocast_matches_float32(case: Case) -> None:
    torch.manual_seed(0)
    one = case.make().train()
    two = copy.deepcopy(one)
    z = latents(case, one, batch=8)
    expected = run(one, z)
    with torch.autocast("cpu", torch.bfloat16):
        out = run(two, z)
    assert torch.equal(out.indices, expected.indices)
    torch.testing.assert_close(out.loss, expected.loss)
    assert_same_state(one, two)


@every
def test_deferred_load_and_copies(case: Case) -> None:
    torch.manual_seed(0)
    quantizer = case.make().eval()
    z = latents(case, quantizer)
    expected = quantizer(z).latents
    with torch.device("meta"):
        empty = case.make().eval()
    empty.load_state_dict(quantizer.state_dict(), strict=True, assign=True)
    assert torch.equal(empty(z).latents, expected)
    assert torch.equal(copy.deepcopy(quantizer)(z).latents, expected)
    assert torch.equal(pickle.loads(pickle.dumps(quantizer))(z).latents, expected)


@every
def test_training_goes_on_from_a_state_dict(case: Case) -> None:
    torch.manual_seed(0)
    one = case.make().train()
    for step in range(3):
        run(one, latents(case, one, seed=step))
        two = case.make().train()
        two.load_state_dict(one.state_dict(), strict=True)
        three = pickle.loads(pickle.dumps(copy.deepcopy(one)))
        z = latents(case, one, seed=10 + step)
        expected = run(copy.deepcopy(one), z)
        for other in (two, three):
            out = run(other, z)
            assert torch.equal(out.indices, expected.indices) and torch.equal(out.loss, expected.loss)


@compiled
@pytest.mark.parametrize(
    ("training", "masked"),
    [
        (False, True),
        (True, False),
        pytest.param(False, False, marks=pytest.mark.slow),
        pytest.param(True, True, marks=pytest.mark.slow),
    ],
)
def test_compiles_whole(case: Case, training: bool, masked: bool) -> None:
    torch.manual_seed(0)
    quantizer = case.make().train(training)
    twin = copy.deepcopy(quantizer)
    z = latents(case, quantizer)
    mask = padding(case, z) if masked else None
    torch.compiler.reset()
    compiled = torch.compile(quantizer, fullgraph=True, backend="aot_eager")
    torch.manual_seed(1)
    out = compiled(z, mask)
    expected = run(twin, z, mask)
    assert torch.equal(out.indices, expected.indices)
    torch.testing.assert_close(out.latents, expected.latents)
    torch.testing.assert_close(out.loss, expected.loss)
    assert_same_state(quantizer, twin)


@compiled
def test_compiled_graphs_refuse_non_finite_latents(case: Case) -> None:
    quantizer = case.make().eval()
    z = latents(case, quantizer)
    torch.compiler.reset()
    compiled = torch.compile(quantizer, fullgraph=True, backend="aot_eager")
    compiled(z)
    with pytest.raises(RuntimeError, match="expects finite latents"):
        compiled(torch.where(torch.rand(z.shape) < 0.2, torch.nan, z))


@compiled
def test_lookup_compiles_whole(case: Case) -> None:
    if case.continuous:
        pytest.skip("nothing to look up")
    quantizer = case.make().eval()
    indices = quantizer(latents(case, quantizer)).indices
    torch.compiler.reset()
    compiled = torch.compile(quantizer.lookup, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(indices), quantizer.lookup(indices))


class Exported(nn.Module):
    """What leaves an exported program: plain tensors."""

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        self.quantizer = quantizer

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        out = self.quantizer(z)
        return out.latents, out.indices


@compiled
def test_exports_in_eval(case: Case) -> None:
    quantizer = case.make().eval()
    z = latents(case, quantizer)
    with torch.no_grad():
        program = torch.export.export(Exported(quantizer), (z,))
        found, indices = program.module()(z)
        expected = quantizer(z)
    assert torch.equal(indices, expected.indices)
    torch.testing.assert_close(found, expected.latents)


@pytest.mark.slow
@compiled
@pytest.mark.parametrize("training", [False, True])
def test_inductor_compiles_whole(case: Case, training: bool) -> None:
    if training and (case.random or not case.inductor_trains):
        pytest.skip("inductor draws other random numbers, or emits code that does not run")
    torch.manual_seed(0)
    quantizer = case.make().train(training)
    twin = copy.deepcopy(quantizer)
    z = latents(case, quantizer).requires_grad_(training)
    torch.compiler.reset()
    out = run(torch.compile(quantizer, fullgraph=True), z)
    assert torch.equal(out.indices, run(twin, z).indices)
    if training and case.differentiable:
        (out.latents.square().sum() + out.loss).backward()
        assert z.grad is not None and z.grad.isfinite().all()


@discrete
def test_packs_into_one_index(case: Case) -> None:
    quantizer = case.make().eval()
    indices = quantizer(latents(case, quantizer)).indices
    if math.prod(quantizer.codebook_sizes) > 2**63:
        with pytest.raises(ValueError, match=r"2\*\*63 combinations"):
            quantizer.pack(indices)
        return
    packed = quantizer.pack(indices)
    assert packed.shape == indices.shape[:2] and packed.dtype == torch.int64
    assert packed.min() >= 0 and int(packed.max()) < math.prod(quantizer.codebook_sizes)
    assert torch.equal(quantizer.unpack(packed), indices)


@every
def test_wrong_latents_are_explained(case: Case) -> None:
    quantizer = case.make()
    z = latents(case, quantizer)
    width = z.shape[-1]
    with pytest.raises(ValueError, match=rf"expects latents \(B, N, {width}\), got \(2, 7, {width + 1}\)"):
        quantizer(torch.randn(2, 7, width + 1))
    with pytest.raises(ValueError, match=r"rearrange"):
        quantizer(torch.randn(2, width, 4, 4))
    with pytest.raises(ValueError, match=r"floating-point latents, got torch\.int64"):
        quantizer(torch.zeros(2, 7, width, dtype=torch.int64))


@discrete
def test_wrong_indices_are_explained(case: Case) -> None:
    quantizer = case.make().eval()
    indices = quantizer(latents(case, quantizer)).indices
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
