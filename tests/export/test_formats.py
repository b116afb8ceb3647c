"""Every format gives back what the tokenizer made, bit for bit, to us and to the libraries it is meant for."""

from __future__ import annotations

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from zoo.data.audio import read_audio
from zoo.data.images import fit, read_image
from zoo.export.digest import describe_file
from zoo.export.format import Layout, Manifest, Row, Shard
from zoo.export.formats import FORMATS, Format, find_format
from zoo.export.job import run_export
from zoo.export.request import Request
from zoo.vocabulary import VocabularyLayout

ASSETS = Path(__file__).parents[1] / "assets"
NAMES = ["cats/cat_64.png", "cats/chelsea.jpg", "food/coffee.jpg", "space/astronaut.jpg", "space/rocket.webp"]


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("which", ["flexible", "grid"])
def test_every_format_gives_the_tokens_back(
    which: str, to: str, photos: Path, export: Callable[..., Path], request: pytest.FixtureRequest
) -> None:
    model = request.getfixturevalue(which)
    folder = export(model, photos, to, max_side=64)
    data, tokenizer = zoo.TokenDataset(folder), zoo.load(model)
    data.verify()
    assert [record.id for record in data] == NAMES
    assert [record.label for record in data] == [0, 0, 1, 2, 2] and data.labels == ("cats", "food", "space")
    assert [record.caption for record in data] == [None, "a cat looks", "a cup", None, None]
    assert [record.metadata["stars"] for record in data] == [None, 5, 3, None, None]
    assert data[1].metadata["width"] == 451
    assert [data[number].metadata["hash"] for number in (1, 2)] == [str(2**63), str(-(2**63))], "beyond 64 bits: text"
    assert json.loads(data[1].metadata["source"]) == {"by": "Stéfan"}
    for record, name in zip(data, NAMES, strict=True):
        image = read_image(photos / name)
        if which == "flexible":
            image = fit(image, 32)[0]
        else:
            scale = min(1.0, 64 / max(image.shape[1:]))
            image = fit(image, (round(image.shape[1] * scale), round(image.shape[2] * scale)), "stretch")[0]
        with torch.inference_mode():
            wanted = tokenizer.encode(image[None])
            assert record.tokens.equal(wanted)
            assert torch.equal(data.decode(NAMES.index(name), tokenizer), tokenizer.decode(wanted)[0])
    failed = data.manifest.failed
    assert [one.id for one in failed] == ["food/broken.jpg"] and "not an image" in failed[0].message
    errors = [json.loads(line) for line in (folder / "errors.jsonl").read_text().splitlines()]
    assert errors == [{"input": "food/broken.jpg", "error": "ValueError", "message": failed[0].message}]
    assert data.manifest.items == 5 and data.manifest.tokens == sum(int(r.tokens.mask.sum()) for r in data)


@pytest.mark.parametrize("to", FORMATS)
def test_bytes_do_not_depend_on_threads_or_the_run(
    to: str,
    flexible: str,
    photos: Path,
    export: Callable[..., Path],
    same: Callable[[Path, Path], None],
    tmp_path: Path,
) -> None:
    first = export(flexible, photos, to)
    request = Request(flexible, str(photos), to, shard_items=2, batch_size=2)
    run_export(request, tmp_path / "second", workers=5)
    same(first, tmp_path / "second")
    run_export(request, first)
    same(first, tmp_path / "second")


@pytest.mark.parametrize("to", FORMATS)
def test_a_residual_codec_goes_through(to: str, export: Callable[..., Path]) -> None:
    order = "delay" if to in ("megatron", "bin") else "flat"
    folder = export("rvq_tiny_24k", ASSETS, to, codebooks=4, order=order)
    data, tokenizer = zoo.TokenDataset(folder), zoo.load("rvq_tiny_24k")
    assert data.manifest.layout.codebook_sizes == tokenizer.spec.codebook_sizes[:4]
    with torch.inference_mode():
        wanted = tokenizer.encode(read_audio(ASSETS / "speech.flac", 24000, 1)[None], codebooks=4)
        assert data[0].tokens.equal(wanted)
        assert torch.equal(data.decode(0), tokenizer.decode(wanted)[0])


@pytest.mark.parametrize("to", ["parquet", "mds", "bin"])
def test_shapes_keep_their_place(to: str, export: Callable[..., Path]) -> None:
    data = zoo.TokenDataset(export("vat_tiny", ASSETS, to))
    assert [record.id for record in data] == ["blob.obj", "horse.glb"]
    assert all(record.tokens.size is not None and record.tokens.size.is_floating_point() for record in data)
    assert data[0].tokens.scales == (1, 2, 4, 8, 16, 32, 64)


@pytest.mark.parametrize("to", FORMATS)
def test_prefixes_are_kept(to: str, flexible: str, photos: Path, export: Callable[..., Path]) -> None:
    data = zoo.TokenDataset(export(flexible, photos, to, tokens=3))
    assert all(record.tokens.num_tokens == 3 for record in data)
    tokenizer = zoo.load(flexible)
    with torch.inference_mode():
        whole = tokenizer.encode(fit(read_image(photos / NAMES[0]), 32)[0][None])
        assert torch.equal(data.decode(0), tokenizer.decode(whole.keep(3))[0])


def test_parquet_is_plain(flexible: str, photos: Path, export: Callable[..., Path]) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    folder = export(flexible, photos)
    table = pq.read_table(folder / "shard-00000.parquet")
    assert str(table.schema.field("tokens").type) == "list<element: uint16>"
    facts = json.loads(table.schema.metadata[b"zoo"])
    assert facts["tokenizer"] == flexible and facts["spec"]["codebook_sizes"] == [1000]
    datasets = pytest.importorskip("datasets")
    rows = datasets.load_dataset("parquet", data_files=str(folder / "*.parquet"), split="train", cache_dir=folder / "c")
    assert sorted(rows["id"]) == sorted(NAMES)


def test_webdataset_reads_it(flexible: str, photos: Path, export: Callable[..., Path]) -> None:
    webdataset = pytest.importorskip("webdataset")
    folder = export(flexible, photos, "webdataset")
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert [sample["json"]["id"] for sample in samples] == NAMES
    assert samples[1]["txt"] == "a cat looks" and [sample["cls"] for sample in samples] == [0, 0, 1, 2, 2]
    data = zoo.TokenDataset(folder)
    assert all(np.array_equal(s["npy"], r.tokens.indices[0]) for s, r in zip(samples, data, strict=True))


def test_litdata_reads_it(flexible: str, photos: Path, export: Callable[..., Path]) -> None:
    litdata = pytest.importorskip("litdata")
    folder = export(flexible, photos, "litdata")
    samples = list(litdata.StreamingDataset(str(folder)))
    assert [sample["id"] for sample in samples] == NAMES
    assert [sample["label"] for sample in samples] == [0, 0, 1, 2, 2]
    for sample, record in zip(samples, zoo.TokenDataset(folder), strict=True):
        assert sample["tokens"].dtype == np.uint16
        assert np.array_equal(sample["tokens"], record.tokens.indices.reshape(-1))


def mds(tmp_path: Path, *sizes: int) -> tuple[Format, list[Row], Shard]:
    """Rows of so many codes in a file of ours."""
    columns = {"id": "string", "tokens": "codes", "length": "int", "label": "int", "caption": "string"}
    layout = Layout((5000,), "raster")
    manifest = Manifest("mds", "none", "", {}, layout, "flat", None, "uint16", columns, (), 0, 0, (), (), {}, {})
    rows: list[Row] = [
        {"id": f"item {number}", "tokens": np.arange(size, dtype=np.uint16) * 7, "length": size}
        | {"label": number, "caption": "é" * number or None}
        for number, size in enumerate(sizes)
    ]
    kind = find_format("mds")(manifest)
    kind.write(rows, [tmp_path / "shard.00000.mds"])
    shard = Shard("all", len(rows), sum(sizes), (describe_file(tmp_path / "shard.00000.mds", "shard.00000.mds"),))
    kind.finish(tmp_path, [shard])
    return kind, rows, shard


def test_mds_files_are_those_that_the_package_writes(tmp_path: Path) -> None:
    theirs = Path(__file__).with_name("mds")
    kind, rows, shard = mds(tmp_path, 1, 300)
    assert (tmp_path / shard.file).read_bytes() == (theirs / shard.file).read_bytes()
    mine, wanted = (json.loads((folder / "index.json").read_text()) for folder in (tmp_path, theirs))
    assert mine == wanted
    for row, read in zip(rows, kind.open(theirs, shard), strict=True):
        assert np.array_equal(read.pop("tokens"), row.pop("tokens")) and read == row
    shard = mds(tmp_path, 70000)[2]
    assert shard.files[0].sha256 == "cfef922153dc5900b4c3706a131ce70ade1db0a0dc0fa3b6fff4d4d9656f0a2a"  # of theirs


def test_megatron_files_follow_their_layout(flexible: str, photos: Path, export: Callable[..., Path]) -> None:
    folder = export(flexible, photos, "megatron", text_vocab_size=100)
    raw = (folder / "train.idx").read_bytes()
    magic, version, code, sequences, documents = struct.unpack_from("<9sQBQQ", raw)
    assert (magic, version, code, sequences, documents) == (b"MMIDIDX\x00\x00", 1, 8, 5, 6)
    lengths = np.frombuffer(raw, "<i4", 5, 34)
    places = np.frombuffer(raw, "<i8", 5, 34 + 20)
    assert len(raw) == 34 + 5 * 4 + 5 * 8 + 6 * 8
    assert np.frombuffer(raw, "<i8", 6, 34 + 60).tolist() == list(range(6))
    stream = np.fromfile(folder / "train.bin", np.uint16)
    data = zoo.TokenDataset(folder)
    layout = VocabularyLayout.from_dict(data.manifest.vocabulary or {})
    for number, record in enumerate(data):
        start = places[number] // 2
        ids = stream[start : start + lengths[number]]
        assert ids.tolist() == layout.interleave(record.tokens).tolist() and ids.min() >= 100


@pytest.mark.parametrize(
    ("to", "text", "dtype"),
    [("megatron", 1240, "uint16"), ("megatron", 1241, "int32"), ("bin", 1277, "uint16"), ("bin", 1278, "uint32")],
)
def test_large_vocabularies_get_wide_ids(
    to: str, text: int, dtype: str, grid: str, crops: Path, export: Callable[..., Path]
) -> None:
    data = zoo.TokenDataset(export(grid, crops, to, shard_items=60, text_vocab_size=text))
    assert (data.manifest.dtype, (data.manifest.vocabulary or {})["size"]) == (dtype, text + 64259)
    assert data[59].tokens.equal(zoo.TokenDataset(export(grid, crops, shard_items=60))[59].tokens)


def test_nano_gpt_files_say_what_is_in_them(flexible: str, photos: Path, export: Callable[..., Path]) -> None:
    folder = export(flexible, photos, "bin")
    facts = json.loads((folder / "train.json").read_text())
    stream = np.memmap(folder / "train.bin", facts["dtype"], "r")
    assert len(stream) == facts["ids"] == 5 * (8 + 2) and stream.max() < facts["vocab_size"]
    segments = VocabularyLayout.from_dict(facts["vocabulary"]).parse(stream.astype(np.int64).tolist(), strict=True)
    wanted = [record.tokens for record in zoo.TokenDataset(folder)]
    assert all(s.tokens is not None and s.tokens.equal(w) for s, w in zip(segments, wanted, strict=True))


def test_continuous_latents_go_to_parquet(photos: Path, tmp_path: Path, export: Callable[..., Path]) -> None:
    model = str(zoo.build("kl_f8_tiny").save_pretrained(tmp_path / "kl"))
    data = zoo.TokenDataset(export(model, photos, max_side=32))
    tokenizer = zoo.load(model)
    with torch.inference_mode():
        image = fit(read_image(photos / NAMES[0]), (32, 32), "stretch")[0]
        assert data[0].tokens.equal(tokenizer.encode(image[None]))
    assert data.manifest.vocabulary is None
    with pytest.raises(ValueError, match="only parquet holds"):
        export(model, photos, "mds")


@pytest.mark.parametrize("to", FORMATS)
def test_parts_and_workers_see_every_item_once(
    to: str, flexible: str, photos: Path, export: Callable[..., Path]
) -> None:
    data = zoo.TokenDataset(export(flexible, photos, to))
    for world in (1, 2, 3, 7):
        found = [record.id for rank in range(world) for record in data.shard(rank, world)]
        assert found == NAMES
    assert data.shard(1, 2)[-1].id == NAMES[-1] and data[-1].id == NAMES[-1]
    assert [record.id for record in data[1:4]] == NAMES[1:4] and [record.id for record in data[::-2]] == NAMES[::-2]
    again = pickle.loads(pickle.dumps(data))
    assert [record.id for record in again.shard(0, 2).shard(0, 2)] == NAMES[:1]
    loader = torch.utils.data.DataLoader(data, batch_size=2, num_workers=1, collate_fn=list)
    assert [record.id for batch in loader for record in batch] == NAMES
    with pytest.raises(IndexError, match="has 5 items"):
        data[5]
    with pytest.raises(ValueError, match="0 <= rank < world"):
        data.shard(2, 2)


@pytest.mark.parametrize("to", FORMATS)
def test_damage_is_told_with_the_files_name(to: str, flexible: str, photos: Path, export: Callable[..., Path]) -> None:
    folder = export(flexible, photos, to)
    name = zoo.TokenDataset(folder).manifest.shards[-1].file
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=f"{name} has sha256"):
        zoo.TokenDataset(folder).verify()
    (folder / name).write_bytes(whole[:-3])
    with pytest.raises(ValueError, match=f"{name} has {len(whole) - 3} bytes, the manifest says {len(whole)}"):
        zoo.TokenDataset(folder)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        zoo.TokenDataset(folder)


def test_other_folders_and_weights_are_refused(
    flexible: str, grid: str, photos: Path, export: Callable[..., Path]
) -> None:
    folder = export(flexible, photos)
    with pytest.raises(ValueError, match="load the one that it was made with"):
        zoo.TokenDataset(folder).decode(0, zoo.load(grid))
    with pytest.raises(FileNotFoundError, match=r"has no manifest\.json"):
        zoo.TokenDataset(photos)
    (folder / "manifest.json").write_text('{"zoo": 99}')
    with pytest.raises(ValueError, match="version 99"):
        zoo.TokenDataset(folder)
