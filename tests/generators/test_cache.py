"""Steps over the static cache say what a pass over the whole sequence says: plain, in bf16, and compiled."""

from __future__ import annotations

import pytest
import torch

from zoo.generators import GPT, Levels, Stream, Vocabulary
from zoo.generators.layers.cache import KVCache
from zoo.generators.layers.packed import packed

GRID = Vocabulary([50], 16, grid=[4, 4])


def made(head: Stream | Levels | None = None, vocabulary: Vocabulary = GRID) -> GPT:
    torch.manual_seed(0)
    return GPT(vocabulary, head, classes=3, width=64, depth=3, heads=4).eval()


def steps(model: GPT, codes: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    """What the model says of every slot, read step by step over the cache."""
    ids = model.head.ids(codes)
    hidden, context = model.start(condition)
    assert context is not None
    said = [hidden]
    for slot in range(ids.shape[1] - 1):
        said.append(model.advance(model.head.embed_ids(ids[:, slot : slot + 1]), context))
    return torch.cat(said, dim=1)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_equal_one_pass(dtype: torch.dtype) -> None:
    model = made().to(dtype)
    codes = torch.randint(50, (2, 16, 1), generator=torch.Generator().manual_seed(0))
    condition = model.condition(torch.tensor([0, 2]), 2)
    whole, parts = model.hidden(codes, condition), steps(model, codes, condition)
    assert parts.dtype == dtype
    assert torch.allclose(whole, parts, atol=1e-5 if dtype == torch.float32 else 0.1)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_packed_steps_equal_one_pass(dtype: torch.dtype) -> None:
    model = made().to(dtype)
    for part in model.modules():
        if isinstance(part, torch.nn.RMSNorm):
            part.weight.uniform_(0.5, 2.0)
    codes = torch.randint(50, (2, 16, 1), generator=torch.Generator().manual_seed(0))
    condition = model.condition(torch.tensor([0, 2]), 2)
    whole = model.hidden(codes, condition)
    with packed(model):
        parts = steps(model, codes, condition)
        assert model.transformer.packed is not None and model.transformer.packed.weights is not None
    assert model.transformer.packed is None
    assert torch.allclose(whole, parts, atol=1e-5 if dtype != torch.bfloat16 else 0.1)


def test_packed_weights_are_those_of_the_moment() -> None:
    """Training between two draws changes the second."""
    model, label = made(), torch.tensor([1])
    first = model.generate(label, temperature=0.0)
    with torch.no_grad():
        for part in model.parameters():
            part.copy_(torch.randn(part.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    second = model.generate(label, temperature=0.0)
    assert not torch.equal(first, second)
    assert torch.equal(second, model.generate(label, temperature=0.0, cached=False))


@torch.no_grad()
def test_prefill_then_steps() -> None:
    """A prompt that is read at once leaves what the same codes leave when they are read one by one."""
    model = made()
    codes = torch.randint(50, (2, 16, 1), generator=torch.Generator().manual_seed(1))
    condition = model.condition(torch.tensor([1, 1]), 2)
    drawn = model.head.known(codes[:, :9])
    hidden, context = model.start(condition, drawn)
    assert context is not None and context.length == 10
    assert torch.allclose(hidden[:, -1], steps(model, codes, condition)[:, 9], atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_steps_compile_as_one_graph(backend: str) -> None:
    model, labels = made(), torch.tensor([0, 2])
    options = {"guidance": 1.5, "temperature": 0.0}
    plain = model.generate(labels, **options)
    model.compile_steps(backend=backend)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = model.generate(labels, **options)
    assert torch.equal(plain, compiled)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


@torch.no_grad()
def test_levels_compile_too() -> None:
    model = made(Levels(), Vocabulary([20], 14, "scales", scales=[1, 4, 9]))
    plain = model.generate(torch.tensor([1]), temperature=0.0)
    model.compile_steps(backend="eager")
    assert torch.equal(plain, model.generate(torch.tensor([1]), temperature=0.0))


@torch.no_grad()
def test_autocast() -> None:
    model = made()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        drawn = model.generate(torch.tensor([0, 1]), generator=torch.Generator().manual_seed(0))
        loss = model.loss(drawn, torch.tensor([0, 1]))
    assert loss.total.isfinite() and loss.nll is not None and loss.nll.dtype == torch.float32


def test_memory_rows_and_copies() -> None:
    cache = KVCache(2, 4, 3, 10, 8)
    assert cache.bytes == 2 * 2 * 4 * 3 * 10 * 8 * 4
    cache.layers[0][:, 3] = 1.0
    picked = cache.select(torch.tensor([3, 0]))
    assert bool((picked.layers[0][:, 0] == 1).all()) and not picked.layers[0][:, 1].any()
    first = cache.first(2)
    first.layers[1][:, 0] = 2.0
    assert bool((cache.layers[1][:, 0] == 2).all()), "the first rows are a view"
