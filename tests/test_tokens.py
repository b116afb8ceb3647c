"""Tokens: every order is reversible, prefixes and batches keep their meaning, files keep their content."""

from __future__ import annotations

import copy
import math
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo import Tokens
from zoo.streams import StreamOrder


@st.composite
def tokens(draw: st.DrawFn, *, order: str | None = None, scaled: bool | None = None) -> Tokens:
    """Batches with unequal codebooks, ragged lengths, several scales, sizes, durations, gains."""
    batch, depth = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    sizes = tuple(draw(st.lists(st.integers(1, 70_000), min_size=depth, max_size=depth)))
    with_scales = draw(st.booleans()) if scaled is None else scaled
    scales: tuple[int, ...] = ()
    if with_scales:
        scales = (draw(st.integers(1, 3)),)
        for ratio in draw(st.lists(st.integers(1, 3), max_size=3)):
            scales += (scales[-1] * ratio,)
    count = sum(scales) or draw(st.integers(0, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    indices = torch.stack([torch.randint(size, (batch, count), generator=generator) for size in sizes], dim=-1)
    lengths = torch.randint(0, count + 1, (batch,), generator=generator) if draw(st.booleans()) else None
    size = torch.randint(1, 999, (batch, 2), generator=generator) if draw(st.booleans()) else None
    chosen = order or draw(st.sampled_from(["raster", "time", "coarse_to_fine", "scales"]))
    durations = torch.randint(1, 99, (batch, count), generator=generator) if draw(st.booleans()) else None
    gains = torch.rand(batch, draw(st.integers(1, 3)), generator=generator) if draw(st.booleans()) else None
    distinct = with_scales and draw(st.booleans())
    return Tokens(
        indices,
        sizes,
        lengths,
        size,
        scales=scales,
        distinct_scales=distinct,
        order=chosen,  # type: ignore[arg-type]
        durations=durations,
        gains=gains,
    )


def back(ids: torch.Tensor, like: Tokens, order: StreamOrder, start: int) -> Tokens:
    return Tokens.from_ids(
        ids,
        like.codebook_sizes,
        order,
        start,
        scales=like.scales,
        distinct_scales=like.distinct_scales,
        token_order=like.order,
        size=like.size,
        durations=like.durations,
        gains=like.gains,
    )


@given(tokens(), st.sampled_from(["flat", "scale_major", "delay"]), st.integers(0, 100_000))
def test_ids_round_trip(batch: Tokens, order: StreamOrder, start: int) -> None:
    ids = batch.to_ids(order, start)
    assert ids.dtype == torch.int64
    depth = len(batch.codebook_sizes)
    extra = (depth - 1) * depth if order == "delay" else 0
    assert ids.shape == (len(batch), batch.num_tokens * depth + extra)
    assert back(ids, batch, order, start).equal(batch)


@given(tokens(scaled=True), st.integers(0, 500))
def test_frames_round_trip(batch: Tokens, start: int) -> None:
    assert back(batch.to_ids("frames", start), batch, "frames", start).equal(batch)


@given(tokens(), st.integers(0, 1000))
def test_codebooks_never_share_ids(batch: Tokens, start: int) -> None:
    ids = batch.to_ids("flat", start).view(batch.indices.shape)
    low = start
    for q, size in enumerate(batch.codebook_sizes):
        if not batch.distinct_scales:
            column = ids[..., q][batch.mask]
            assert ((column >= low) & (column < low + size)).all()
        low += size
    assert (ids[~batch.mask] == start + batch.vocabulary_size).all()


def test_orders_by_hand() -> None:
    indices = torch.tensor([[[0, 10], [1, 11], [2, 12]]])
    batch = Tokens(indices, (5, 20))
    assert batch.to_ids("flat").tolist() == [[0, 15, 1, 16, 2, 17]]
    assert batch.to_ids("scale_major").tolist() == [[0, 1, 2, 15, 16, 17]]
    pad = batch.vocabulary_size
    assert pad == 25
    assert batch.to_ids("delay").tolist() == [[0, pad, 1, 15, 2, 16, pad, 17]]


def test_empty_codes_have_empty_streams() -> None:
    empty = Tokens(torch.zeros(2, 0, 3, dtype=torch.int64), (4, 4, 4))
    assert empty.to_ids().shape == (2, 0)
    assert (empty.to_ids("delay") == empty.vocabulary_size).all()
    assert back(empty.to_ids("delay"), empty, "delay", 0).equal(empty)


def test_frames_follow_snac() -> None:
    """One coarse token, then depth first: c0 m0 f0 f1 m1 f2 f3, as SNAC's language models read it."""
    indices = torch.arange(14).view(1, 14, 1)  # two frames: scales 2, 4, 8
    batch = Tokens(indices, (16,), scales=(2, 4, 8), order="scales")
    assert batch.to_ids("frames").tolist() == [[0, 2, 6, 7, 3, 8, 9, 1, 4, 10, 11, 5, 12, 13]]
    own = Tokens(indices, (16,), scales=(2, 4, 8), distinct_scales=True, order="scales")
    assert own.vocabulary_size == 48
    assert own.to_ids("frames")[0, :4].tolist() == [0, 16 + 2, 32 + 6, 32 + 7]


@pytest.mark.parametrize("depth", [1, 3])
def test_ids_refuse_what_does_not_fit(depth: int) -> None:
    batch = Tokens(torch.zeros(1, 4, depth, dtype=torch.int64), (7,) * depth)
    with pytest.raises(ValueError, match="outside its codebook"):
        Tokens(batch.indices + 7, batch.codebook_sizes).to_ids()
    with pytest.raises(ValueError, match="outside its codebook"):
        Tokens(batch.indices - 1, batch.codebook_sizes).to_ids()
    with pytest.raises(ValueError, match="order is one of"):
        batch.to_ids("backwards")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="id stands where"):
        Tokens.from_ids(batch.to_ids() + 900, batch.codebook_sizes)
    with pytest.raises(ValueError, match="int64"):
        Tokens.from_ids(batch.to_ids().float(), batch.codebook_sizes)
    gap = batch.to_ids()
    gap[0, 0:depth] = batch.vocabulary_size
    with pytest.raises(ValueError, match="padding before its end"):
        Tokens.from_ids(gap, batch.codebook_sizes)


def test_from_ids_refuses_lengths_that_are_no_positions() -> None:
    with pytest.raises(ValueError, match="no whole number of positions"):
        Tokens.from_ids(torch.zeros(1, 5, dtype=torch.int64), (4, 4))
    delayed = Tokens(torch.zeros(1, 2, 2, dtype=torch.int64), (4, 4)).to_ids("delay")
    delayed[0, 1] = 4
    with pytest.raises(ValueError, match="empty places"):
        Tokens.from_ids(delayed, (4, 4), "delay")


def test_frames_need_whole_ratios() -> None:
    batch = Tokens(torch.zeros(1, 5, 1, dtype=torch.int64), (4,), scales=(2, 3), order="scales")
    with pytest.raises(ValueError, match="multiple of the one before"):
        batch.to_ids("frames")


@given(tokens(order="coarse_to_fine"), st.integers(1, 12))
def test_keep_is_a_prefix(batch: Tokens, count: int) -> None:
    short = batch.keep(count)
    full = batch.mask.sum(1)
    assert torch.equal(short.mask.sum(1), full.clamp(max=count))
    width = short.num_tokens
    assert torch.equal(short.indices * short.mask[..., None], batch.indices[:, :width] * short.mask[..., None])
    assert sum(short.scales) == (width if batch.scales else 0)
    assert short.keep(count).equal(short)
    codes, fewer = replace(batch, durations=None), replace(short, durations=None)
    assert (fewer.bits() <= codes.bits()).all()
    if batch.durations is not None:
        assert short.durations is not None
        assert torch.equal(short.durations, batch.durations[:, :width])


def test_keep_takes_a_length_for_each_item() -> None:
    batch = Tokens(torch.arange(12).view(2, 6, 1), (12,), order="coarse_to_fine", scales=(1, 2, 3))
    short = batch.keep(torch.tensor([2, 4]))
    assert short.num_tokens == 4 and short.lengths is not None and short.lengths.tolist() == [2, 4]
    assert short.scales == (1, 2, 1)
    assert short.indices[0, :, 0].tolist() == [0, 1, 0, 0]


def test_keep_refuses_orders_without_prefixes() -> None:
    with pytest.raises(ValueError, match="coarse_to_fine"):
        Tokens(torch.zeros(1, 4, 1, dtype=torch.int64), (4,)).keep(2)
    with pytest.raises(ValueError, match="at least 1"):
        Tokens(torch.zeros(1, 4, 1, dtype=torch.int64), (4,), order="coarse_to_fine").keep(0)


@given(tokens())
def test_by_scale_shows_every_position_once(batch: Tokens) -> None:
    parts = batch.by_scale()
    assert torch.equal(torch.cat(parts, dim=1), batch.indices)
    assert tuple(part.shape[1] for part in parts) == (batch.scales or (batch.num_tokens,))
    if batch.num_tokens:
        assert parts[0].untyped_storage().data_ptr() == batch.indices.untyped_storage().data_ptr()


@given(tokens())
def test_bits_count_valid_positions(batch: Tokens) -> None:
    one = sum(math.log2(size) for size in batch.codebook_sizes)
    expected = [float(length) * one for length in batch.mask.sum(1)]
    assert replace(batch, durations=None).bits().tolist() == pytest.approx(expected)
    assert (batch.bits() >= torch.tensor(expected) - 1e-4).all()


def test_continuous_tokens_have_no_bits() -> None:
    batch = Tokens(torch.zeros(2, 3, 0, dtype=torch.int64), (), latents=torch.randn(2, 3, 4), order="coarse_to_fine")
    with pytest.raises(ValueError, match="no bits"):
        batch.bits()
    assert batch.keep(2).latents is not None and batch.keep(2).latents.shape == (2, 2, 4)  # type: ignore[union-attr]


@given(st.lists(tokens(scaled=False, order="time"), min_size=1, max_size=3), st.data())
def test_cat_and_items_are_inverse(batches: list[Tokens], data: st.DataObject) -> None:
    first = batches[0]
    width = data.draw(st.integers(0, 5))
    second = Tokens(
        torch.zeros(2, width, len(first.codebook_sizes), dtype=torch.int64),
        first.codebook_sizes,
        size=None if first.size is None else torch.ones(2, 2, dtype=torch.int64),
        order="time",
        durations=None if first.durations is None else torch.ones(2, width, dtype=torch.int64),
        gains=None if first.gains is None else torch.ones(2, 4),
    )
    joined = Tokens.cat([first, second])
    assert len(joined) == len(first) + 2
    assert torch.equal(joined.mask.sum(1), torch.cat([first.mask.sum(1), second.mask.sum(1)]))
    for position in range(len(first)):
        ours, theirs = joined[position], first[position]
        valid = int(theirs.mask.sum())
        assert torch.equal(ours.indices[:, :valid], theirs.indices[:, :valid])
        if ours.durations is not None and theirs.durations is not None:
            assert torch.equal(ours.durations[:, :valid], theirs.durations[:, :valid])
        if ours.gains is not None and theirs.gains is not None:
            assert torch.equal(ours.gains[:, : theirs.gains.shape[1]], theirs.gains)
            assert not ours.gains[:, theirs.gains.shape[1] :].any()


def test_cat_joins_prefixes_of_scaled_codes() -> None:
    batch = Tokens(torch.arange(7).view(1, 7, 1), (7,), order="coarse_to_fine", scales=(1, 2, 4))
    joined = Tokens.cat([batch.keep(2), batch])
    assert joined.scales == (1, 2, 4) and joined.lengths is not None and joined.lengths.tolist() == [2, 7]


def test_items_that_end_in_every_scale() -> None:
    """As SNAC codes batches of sounds of different lengths."""
    lengths = torch.tensor([[2, 4, 8], [1, 2, 4]])
    batch = Tokens(
        torch.randint(0, 9, (2, 14, 1)), (9,), lengths, scales=(2, 4, 8), distinct_scales=True, order="scales"
    )
    assert batch.mask.sum(1).tolist() == [14, 7] and batch.mask[1].nonzero()[:, 0].tolist() == [0, 2, 3, 6, 7, 8, 9]
    assert batch.bits()[0] == 2 * batch.bits()[1]
    for order in ("flat", "frames", "scale_major"):
        ids = batch.to_ids(order)
        layout = {"scales": batch.scales, "distinct_scales": True, "token_order": "scales"}
        assert Tokens.from_ids(ids, (9,), order, **layout).equal(batch)
        if order == "frames":  # all that an item has comes first
            assert (ids[1] == batch.vocabulary_size).tolist() == [False] * 7 + [True] * 7
    coarse = batch.keep(6)
    assert coarse.lengths is not None and coarse.lengths.tolist() == [[2, 4], [1, 2]] and coarse.scales == (2, 4)
    coarsest = batch.keep(2)
    assert coarsest.lengths is not None and coarsest.lengths.tolist() == [2, 1]
    assert Tokens.cat([batch[:1], batch[1:]]).equal(batch) and batch[:1].mask.all()
    with pytest.raises(ValueError, match=r"int64 \(2,\) or \(2, 3\), got torch.int64 \(2, 2\)"):
        replace(batch, lengths=lengths[:, :2])


def test_cat_refuses_strangers() -> None:
    batch = Tokens(torch.zeros(1, 4, 1, dtype=torch.int64), (4,))
    with pytest.raises(ValueError, match="at least one"):
        Tokens.cat([])
    with pytest.raises(ValueError, match="codebook_sizes"):
        Tokens.cat([batch, Tokens(batch.indices, (8,))])
    for name, value in (
        ("size", torch.ones(1, 2, dtype=torch.int64)),
        ("latents", torch.ones(1, 4, 8)),
        ("durations", torch.ones(1, 4, dtype=torch.int64)),
        ("gains", torch.ones(1, 2)),
    ):
        with pytest.raises(ValueError, match=f"with and without {name}"):
            Tokens.cat([batch, replace(batch, **{name: value})])  # type: ignore[arg-type]


def test_cat_serves_as_collate_fn() -> None:
    items = [Tokens(torch.full((1, n, 1), n), (9,), order="coarse_to_fine") for n in (3, 5, 2, 4)]
    loader = torch.utils.data.DataLoader(items, batch_size=2, collate_fn=Tokens.cat)  # type: ignore[arg-type]
    assert [batch.mask.sum(1).tolist() for batch in loader] == [[3, 5], [2, 4]]


@settings(max_examples=25)
@given(tokens())
def test_files_pickles_copies_and_devices(batch: Tokens) -> None:
    assert pickle.loads(pickle.dumps(batch)).equal(batch)
    assert copy.deepcopy(batch).equal(batch)
    assert batch.to("cpu").equal(batch)
    assert batch.to("meta").indices.device.type == "meta"


@settings(max_examples=25)
@given(batch=tokens())
def test_save_and_load(batch: Tokens, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("tokens") / "batch.safetensors"
    batch.save(path, model="someone/else")
    assert Tokens.load(path).equal(batch)
    assert Tokens.read_metadata(path)["model"] == "someone/else"
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_files_are_compact(tmp_path: Path) -> None:
    batch = Tokens(torch.randint(64_000, (1, 5000, 1)), (64_000,))
    batch.save(tmp_path / "batch")
    assert (tmp_path / "batch").stat().st_size < 2 * 5000 + 1000


def test_load_refuses_other_files(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / "text").write_text("no tokens")
    save_file({"indices": torch.zeros(1)}, tmp_path / "weights")
    for name in ("text", "weights"):
        with pytest.raises(ValueError, match="not a token file"):
            Tokens.load(tmp_path / name)


def test_construction_names_what_is_wrong() -> None:
    good = torch.zeros(2, 3, 1, dtype=torch.int64)
    for arguments, message in (
        ((good.int(), (4,)), "int64"),
        ((good[..., 0], (4,)), "int64"),
        ((good, (4, 4)), "codebook_sizes"),
        ((good, (4,), torch.ones(3, dtype=torch.int64)), "lengths"),
        ((good, (4,), None, torch.ones(2)), "size"),
        ((good, (4,), None, None, torch.zeros(2, 2, 8)), "latents"),
        ((good, (4,), None, None, None, (1, 1)), "scales"),
    ):
        with pytest.raises(ValueError, match=message):
            Tokens(*arguments)  # type: ignore[arg-type]


def test_files_have_ordinary_permissions(tmp_path: Path) -> None:
    Tokens(torch.zeros(1, 1, 1, dtype=torch.int64), (4,)).save(tmp_path / "tokens")
    (tmp_path / "other").touch()
    assert (tmp_path / "tokens").stat().st_mode == (tmp_path / "other").stat().st_mode


def gapped() -> Tokens:
    """Two items: places 1, 3, 4 of a code, and its first two."""
    return Tokens(
        torch.tensor([[[5], [6], [7]], [[8], [9], [0]]]),
        (16,),
        lengths=torch.tensor([3, 2]),
        order="coarse_to_fine",
        positions=torch.tensor([[1, 3, 4], [0, 1, 0]]),
    )


def test_positions_keep_cat_and_equal(tmp_path: Path) -> None:
    tokens = gapped()
    assert tokens.keep(2).positions.tolist() == [[1, 3], [0, 1]]  # type: ignore[union-attr]
    prefix = Tokens(torch.tensor([[[1], [2], [3], [4]]]), (16,), order="coarse_to_fine")
    joined = Tokens.cat([tokens, prefix])
    assert joined.positions is not None
    assert joined.positions.tolist() == [[1, 3, 4, 0], [0, 1, 0, 0], [0, 1, 2, 3]]
    assert Tokens.cat([prefix, prefix]).positions is None
    assert joined[1].keep(2).equal(replace(prefix, indices=torch.tensor([[[8], [9]]])))  # places of a prefix
    assert not joined[0].keep(3).equal(replace(tokens[0], positions=None))
    tokens.save(tmp_path / "t.safetensors")
    assert Tokens.load(tmp_path / "t.safetensors").equal(tokens)
    back = Tokens.from_ids(tokens.to_ids(), (16,), token_order="coarse_to_fine", positions=tokens.positions)
    assert back.equal(tokens)
    for wrong in (torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2, 3)):
        with pytest.raises(ValueError, match="positions must be int64"):
            replace(tokens, positions=wrong)


def test_positions_cost_bits_where_there_are_gaps() -> None:
    bits = gapped().bits()
    assert bits[1] == 2 * 4
    assert bits[0].item() == pytest.approx(3 * 4 + math.log2(6))  # two of the four places before the last


def segments() -> Tokens:
    """Two items: frames 1-3 and 5 of six, and 0-1, 2 and 4-7 of eight."""
    return Tokens(
        torch.tensor([[[5], [6], [0]], [[7], [8], [9]]]),
        (16,),
        lengths=torch.tensor([2, 3]),
        order="time",
        positions=torch.tensor([[1, 5, 0], [0, 2, 4]]),
        durations=torch.tensor([[3, 1, 0], [2, 1, 4]]),
        gains=torch.tensor([[0.5], [2.0]]),
    )


def test_durations_and_gains_are_part_of_a_batch(tmp_path: Path) -> None:
    tokens = segments()
    assert tokens[1].durations.tolist() == [[2, 1, 4]]  # type: ignore[union-attr]
    assert tokens[1].gains.tolist() == [[2.0]]  # type: ignore[union-attr]
    padded = torch.tensor([[3, 1, 77], [2, 1, 4]])
    assert replace(tokens, durations=padded).equal(tokens)  # past the end of the first item
    assert not replace(tokens, durations=padded + 1).equal(tokens)
    assert not replace(tokens, gains=torch.ones(2, 1)).equal(tokens)
    assert not replace(tokens, durations=None).equal(tokens)
    tokens.save(tmp_path / "t.safetensors")
    assert Tokens.load(tmp_path / "t.safetensors").equal(tokens)
    meta = tokens.to("meta")
    assert meta.durations is not None and meta.durations.is_meta and meta.gains is not None and meta.gains.is_meta
    for name, wrong in (
        ("durations", torch.zeros(2, 2, dtype=torch.int64)),
        ("durations", torch.zeros(2, 3)),
        ("gains", torch.zeros(3, 1)),
        ("gains", torch.zeros(2, 1, dtype=torch.int64)),
    ):
        with pytest.raises(ValueError, match=f"{name} must be"):
            replace(tokens, **{name: wrong})  # type: ignore[arg-type]


def test_latents_past_the_end_do_not_count() -> None:
    batch = Tokens(torch.zeros(1, 3, 0, dtype=torch.int64), (), torch.tensor([2]), latents=torch.zeros(1, 3, 2))
    other = replace(batch, latents=torch.tensor([[[0.0, 0.0], [0.0, 0.0], [9.0, 9.0]]]))
    assert batch.equal(other) and not replace(batch, lengths=None).equal(replace(other, lengths=None))


def test_durations_cost_bits() -> None:
    """By counting: two segments within frames 0-5, the last ending at 6; three that fill seven frames."""
    starts_and_ends = sum(1 for a in range(6) for b in range(a + 1, 7) for _ in range(b, 6))
    assert segments().bits()[0].item() == pytest.approx(2 * 4 + math.log2(starts_and_ends))
    without_gaps = replace(segments()[1], positions=None)
    assert without_gaps.bits().item() == pytest.approx(3 * 4 + math.log2(math.comb(6, 2)))
    assert replace(segments(), lengths=torch.tensor([0, 3])).bits()[0] == 0


def test_printed_in_one_line() -> None:
    many = Tokens(torch.zeros(2, 64, 1, dtype=torch.int64), (512,), size=torch.tensor([[96, 128]] * 2), order="raster")
    assert (
        repr(many)
        == "Tokens(indices=int64 (2, 64, 1), codebook_sizes=(512,), size=[[96, 128], [96, 128]], order='raster')"
    )
    few = Tokens(torch.tensor([[[1], [2]]]), (4,), scales=(1, 1))
    assert repr(few) == "Tokens(indices=[[[1], [2]]], codebook_sizes=(4,), scales=(1, 1), order='raster')"
