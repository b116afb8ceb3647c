"""Bits of codes against counts by hand, the coder's own output, zlib and lzma; batches and ranks change nothing."""

from __future__ import annotations

import lzma
import math
import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import torch

from zoo.metrics import (
    CodeCompression,
    CodeInnovation,
    CodeNgrams,
    CodePairs,
    CodePositions,
    CodeRate,
    alphabets,
    range_encode,
)
from zoo.metrics.coder import INCREMENTS
from zoo.tokens import Tokens

ROOT = Path(__file__).parents[2]
SIZES = (1000, 20)


def draw(items: int, seed: int = 0, sizes: tuple[int, ...] = SIZES, width: int = 30) -> Tokens:
    """Items of different lengths, small codes frequent."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(items, width, len(sizes), generator=generator, dtype=torch.float64)
    lengths = torch.randint(1, width + 1, (items,), generator=generator)
    return Tokens((uniform**3 * torch.tensor(sizes)).long(), sizes, lengths)


def test_rate_by_hand() -> None:
    tokens, extent = draw(40), torch.full((40,), 2.0, dtype=torch.float64)
    metric = CodeRate(SIZES, per="extent")
    metric.update(tokens[:13], extent[:13])
    metric.update(tokens[13:], extent[13:])
    found = {name: float(value) for name, value in metric.compute().items()}
    count = int(tokens.mask.sum())
    assert found["positions"] == count and found["tokens"] == count / 80
    assert found["nominal"] == pytest.approx(float(tokens.bits().sum()) / 80, rel=1e-12)
    entropy = 0.0
    for book in range(2):
        _, counts = tokens.indices[..., book][tokens.mask].unique(return_counts=True)
        share = counts.double() / count
        entropy += count * float(-(share * share.log2()).sum()) + (len(counts) - 1) / (2 * math.log(2))
    assert found["entropy"] == pytest.approx(entropy / 80, rel=1e-12)
    assert found["entropy"] < found["coded"] < found["nominal"]


@pytest.mark.parametrize("context", ["codebook", "position", "previous"])
def test_coded_bits_are_those_of_the_real_coder(context: str) -> None:
    tokens = draw(60)
    metric = CodeRate(SIZES, context=context)  # type: ignore[arg-type]
    metric.update(tokens)
    real = 0
    for book, size in enumerate(SIZES):
        symbols, known = [], []
        for row, length in zip(tokens.indices[..., book].tolist(), tokens.lengths.tolist(), strict=True):
            symbols += row[:length]
            before = {"codebook": [0] * length, "position": range(length), "previous": [-1, *row[: length - 1]]}
            known += before[context]
        real += 3 + min(8 * len(range_encode(symbols, size, known, increment=step)) for step in INCREMENTS)
    ideal = float(metric.compute()["coded"]) * 60
    assert ideal - 2 <= real <= ideal * 1.001 + 48


def test_context_pays_where_positions_differ() -> None:
    """Codes that only their position tells apart cost almost nothing in its context."""
    tokens = Tokens(torch.arange(64).expand(200, 64)[..., None], (64,))
    found = {}
    for context in ("codebook", "position"):
        metric = CodeRate((64,), context=context)  # type: ignore[arg-type]
        metric.update(tokens)
        found[context] = float(metric.compute()["coded"])
    assert found["codebook"] == pytest.approx(64 * 6, rel=0.01) and found["position"] < 0.02 * found["codebook"]


def test_places_and_kilobits() -> None:
    """What durations cost is part of every number; kbit/s divide by 1000."""
    indices = torch.zeros(1, 4, 1, dtype=torch.int64)
    tokens = Tokens(indices, (2,), positions=torch.tensor([[0, 2, 3, 9]]), durations=torch.tensor([[2, 1, 6, 1]]))
    metric = CodeRate((2,), per="kilo")
    metric.update(tokens, torch.tensor([0.5]))
    found = metric.compute()
    places = float(tokens.bits()) - 4
    assert float(found["nominal"]) == pytest.approx(float(tokens.bits()) / 500)
    assert float(found["entropy"]) == pytest.approx(places / 500) and float(found["tokens"]) == 8


def test_compression_of_known_bytes() -> None:
    tokens = Tokens(draw(1, sizes=(300,), width=9000).indices, (300,))
    metric = CodeCompression((300,))
    metric.update(tokens)
    codes = tokens.indices[0, :, 0]
    data = codes.numpy().astype("uint16").tobytes()
    nominal = len(codes) * math.log2(300)
    found = metric.compute()
    assert float(found["zlib"]) == pytest.approx(1 - 8 * len(zlib.compress(data, 9)) / nominal)
    packed = lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)
    assert float(found["lzma"]) == pytest.approx(1 - 8 * len(packed) / nominal)
    assert 0 < float(found["adaptive"]) < float(found["huffman"]) < 1


def test_order_of_items_and_batches_does_not_matter() -> None:
    tokens = draw(50)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    for build in (CodeCompression, CodeRate, CodeNgrams, CodeInnovation, CodePairs, CodePositions):
        whole, parts = build(SIZES), build(SIZES)
        whole.update(tokens)
        for start in range(0, 50, 7):
            parts.update(tokens[order[start : start + 7]])
        assert same(whole.compute(), parts.compute()), build.__name__


def test_scales_of_their_own_and_huge_codebooks() -> None:
    sizes = (2**40,)
    tokens = Tokens(torch.tensor([[[7], [2**40 - 1], [7]]]), sizes, scales=(1, 2), distinct_scales=True, order="scales")
    metric = CodeRate(alphabets(tokens))
    metric.update(tokens)
    assert float(metric.compute()["nominal"]) == 120
    # 7 alone at its scale is certain; of the two codes at the other, each is one bit
    assert float(metric.compute()["huffman"]) == 1 + 2
    packed = CodeCompression(alphabets(tokens))
    packed.update(tokens)
    assert float(packed.compute()["huffman"]) == 1 - 3 / 120


@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
def test_nothing_counted() -> None:
    for build in (CodeRate, CodeCompression, CodeNgrams, CodeInnovation, CodePairs, CodePositions):
        metric = build((8,))
        empty = metric.compute()
        metric.update(Tokens(torch.zeros(2, 3, 1, dtype=torch.int64), (8,), torch.tensor([0, 0])))
        metric.reset()
        assert same(empty, metric.compute()), build.__name__


def test_wrong_input_is_explained() -> None:
    tokens = draw(2)
    with pytest.raises(ValueError, match="need extent"):
        CodeRate(SIZES, per="extent").update(tokens)
    with pytest.raises(ValueError, match=r"extent \(2,\) above 0"):
        CodeRate(SIZES, per="kilo").update(tokens, torch.tensor([1.0, 0.0]))
    with pytest.raises(ValueError, match=r"codebooks \(5,\), got \(1000, 20\)"):
        CodeCompression((5,)).update(tokens)
    with pytest.raises(ValueError, match=r"\[0, 20\), got 0 to 20"):
        CodeRate(SIZES).update(Tokens(torch.tensor([[[0, 0], [0, 20]]]), SIZES))
    with pytest.raises(ValueError, match="context is one of"):
        CodeRate(SIZES, context="book")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="continuous latents have no codes"):
        alphabets(Tokens(torch.zeros(1, 1, 0, dtype=torch.int64), (), latents=torch.zeros(1, 1, 3)))


def same(first: object, second: object) -> bool:
    """Equal, NaN being equal to itself, floats to 1e-12."""
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(same(first[name], second[name]) for name in first)
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(same(*pair) for pair in zip(first, second, strict=True))
    if isinstance(first, (float, torch.Tensor)):
        return float(first) == pytest.approx(float(second), rel=1e-12, nan_ok=True)  # type: ignore[arg-type]
    return first == second


RANK = """
import sys
import torch
import torch.distributed as dist
from zoo.metrics import CodeCompression, CodeInnovation, CodeNgrams, CodePairs, CodePositions, CodeRate
from zoo.tokens import Tokens

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
indices, lengths = torch.load(f"{folder}/tokens.pt")
tokens = Tokens(indices, (1000, 20), lengths)
found = []
for used in (len(tokens), 1):  # in the second epoch, rank 1 sees nothing
    for build in (CodeCompression, CodeRate, CodeNgrams, CodeInnovation, CodePairs, CodePositions):
        metric = build((1000, 20))
        for item in range(rank, used, 2):
            metric.update(tokens[item])
        found.append(metric.compute())
torch.save(found, f"{folder}/rank{rank}.pt")
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The ``compute`` method:UserWarning")
def test_ranks_count_together(tmp_path: Path) -> None:
    tokens = draw(9)
    torch.save((tokens.indices, tokens.lengths), tmp_path / "tokens.pt")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen([sys.executable, "-c", RANK, str(rank), str(tmp_path)], env=environment) for rank in range(2)
    ]
    try:
        assert [rank.wait(120) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    expected = []
    for used in (9, 1):
        for build in (CodeCompression, CodeRate, CodeNgrams, CodeInnovation, CodePairs, CodePositions):
            metric = build(SIZES)
            metric.update(tokens[:used])
            expected.append(metric.compute())
    for rank in range(2):
        assert same(torch.load(tmp_path / f"rank{rank}.pt"), expected)
