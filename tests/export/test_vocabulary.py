"""`zoo.VocabularyLayout`: ids of several modalities, mixed streams and their parse, for every kind of code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo
from zoo.streams import StreamOrder
from zoo.tokens import Tokens

ONE = zoo.TokenizerSpec("image", (3, 64, 64), (50,), 4, 16, "coarse_to_fine", flexible=True)
SCALES = zoo.TokenizerSpec("image", (3, 64, 64), (40,), 4, 21, "scales", scales=(1, 4, 16))
GRID = zoo.TokenizerSpec("image", (3, 64, 64), (30,), 4, 64, "raster", any_size=True, downsample=8)
RVQ = zoo.TokenizerSpec("audio", (1, 800), (16, 16, 8), 4, 5, "time", any_size=True, downsample=160, sample_rate=800)
SNAC = zoo.TokenizerSpec(
    "audio", (1, 800), (16,), 4, 14, "time", any_size=True, downsample=100, scales=(2, 4, 8), distinct_scales=True,
    sample_rate=800,
)  # fmt: skip
SHAPE = zoo.TokenizerSpec("shape", (64, 3), (64, 64), 4, 7, "scales", scales=(1, 2, 4))
CASES: list[tuple[zoo.TokenizerSpec, StreamOrder]] = [
    *((spec, order) for spec in (ONE, GRID, RVQ, SHAPE) for order in ("flat", "scale_major", "delay")),
    *((spec, order) for spec in (SCALES, SNAC, SHAPE) for order in ("flat", "scale_major", "frames")),
]  # type: ignore[list-item]


def item(spec: zoo.TokenizerSpec, units: int, seed: int) -> Tokens:
    """Random codes of one item, of so many units where it may have any size."""
    count, scales, size = spec.num_tokens, spec.scales, list(spec.input_shape[1:])
    if spec.any_size:
        least = tuple(part // scales[0] for part in scales)
        scales = tuple(part * units for part in least)
        count = sum(scales) if scales else 3 * units
        side = spec.downsample or 1
        size = [units * side, 3 * side] if spec.modality == "image" else [(scales[-1] if scales else count) * side]
    noise = torch.Generator().manual_seed(seed)
    books = [torch.randint(book, (1, count), generator=noise) for book in spec.codebook_sizes]
    known = None if spec.modality == "shape" else torch.tensor([size])
    layout: Any = {"scales": scales, "distinct_scales": spec.distinct_scales, "order": spec.order}
    return Tokens(torch.stack(books, -1), spec.codebook_sizes, None, known, **layout)


@pytest.mark.parametrize(("spec", "order"), CASES, ids=lambda value: getattr(value, "modality", value))
@settings(max_examples=20)
@given(st.data())
def test_mixed_streams_come_back(spec: zoo.TokenizerSpec, order: StreamOrder, data: st.DataObject) -> None:
    layout = zoo.VocabularyLayout(100, {"first": ONE, "second": spec}, {"second": order})
    text = st.lists(st.integers(0, 99), min_size=1, max_size=4)
    before, after = data.draw(text), data.draw(text)
    one, two = item(ONE, 1, data.draw(st.integers(0, 99))), item(spec, data.draw(st.integers(1, 5)), 7)
    stream = layout.interleave(before, {"first": one}, {"second": two}, {"second": two}, torch.tensor(after))
    assert int(stream.max()) < layout.size
    segments = layout.parse(stream, strict=True)
    assert [segment.kind for segment in segments] == ["text", "first", "second", "second", "text"]
    assert (list(segments[0].ids), list(segments[-1].ids)) == (before, after)
    for segment, wanted in zip(segments[1:4], (one, two, two), strict=True):
        assert segment.tokens is not None and segment.tokens.equal(wanted)
    assert [number for segment in segments for number in segment.ids] == stream.tolist()


@pytest.mark.parametrize(("spec", "order"), CASES, ids=lambda value: getattr(value, "modality", value))
@settings(max_examples=20)
@given(st.data())
def test_a_truncated_item_gives_its_valid_prefix(
    spec: zoo.TokenizerSpec, order: StreamOrder, data: st.DataObject
) -> None:
    layout = zoo.VocabularyLayout(10, {"it": spec}, order)
    whole = item(spec, data.draw(st.integers(1, 4)), 3)
    stream = layout.interleave([1, 2], whole)
    kept = data.draw(st.integers(3, len(stream) - 1))
    text, last = layout.parse(stream[:kept])
    assert text.ids == (1, 2) and not last.complete and "ends before </it>" in last.note
    assert last.ids == tuple(stream[2:kept].tolist())
    if last.tokens is None:
        return
    found = last.tokens
    if order == "frames" and spec.any_size:
        for part, wanted in zip(found.by_scale(), whole.by_scale(), strict=True):
            assert torch.equal(part, wanted[:, : part.shape[1]])
    else:
        assert torch.equal(found.indices, whole.indices[:, : found.num_tokens])
    if order == "flat" and not (spec.any_size and spec.scales):
        ids = kept - 3 - (spec is GRID)
        assert found.num_tokens == ids // len(spec.codebook_sizes)
    with pytest.raises(ValueError, match="not complete"):
        layout.parse(stream[:kept], strict=True)


def test_a_prefix_of_a_flexible_code_is_an_item() -> None:
    layout = zoo.VocabularyLayout(0, {"image": ONE})
    code = item(ONE, 1, 0)
    for short in (code.keep(5), replace(code, lengths=torch.tensor([5]))):
        (segment,) = layout.parse(layout.interleave(short), strict=True)
        assert segment.tokens is not None and torch.equal(segment.tokens.indices, code.indices[:, :5])


def test_garbage_is_told_apart() -> None:
    layout = zoo.VocabularyLayout(10, {"image": SCALES, "sound": RVQ})
    image, sound = layout.blocks["image"], layout.blocks["sound"]
    good = layout.interleave({"image": item(SCALES, 1, 0)}).tolist()
    text_inside = layout.parse([*good[:5], 3, *good])
    assert [(one.kind, one.complete) for one in text_inside] == [("image", False), ("text", True), ("image", True)]
    stray = layout.parse([image.start, image.start + 1, image.end, 4])
    assert [(one.kind, one.complete) for one in stray] == [("image", False), ("text", True)]
    assert stray[0].tokens is None and "without <image>" in stray[0].note
    (wrong_book,) = layout.parse([sound.begin, sound.start, sound.start + 40, sound.start + 35, sound.end])
    assert not wrong_book.complete and wrong_book.tokens is None
    longer = layout.parse([*good[:-1], image.start, good[-1]])
    assert not longer[0].complete and longer[0].tokens is not None and longer[0].tokens.num_tokens == 21
    (empty,) = layout.parse([sound.begin, sound.end])
    assert not empty.complete and empty.tokens is None
    two = layout.parse([*good[:4], *good])
    assert [one.complete for one in two] == [False, True]
    assert layout.parse([]) == []


def test_ids_are_those_of_the_tokens_behind_the_text() -> None:
    layout = zoo.VocabularyLayout(1000, {"image": SCALES, "audio": SNAC}, {"audio": "frames"})
    image, audio = layout.blocks["image"], layout.blocks["audio"]
    assert (image.begin, image.end, image.start, image.pad) == (1000, 1001, 1002, 1042)
    assert (audio.begin, audio.codes, layout.size) == (1043, 48, 1043 + 2 + 48 + 1)
    code = item(SNAC, 3, 1)
    ids = layout.interleave({"audio": code})
    assert torch.equal(ids[1:-1], code.to_ids("frames", start=audio.start)[0])
    assert len(layout.names()) == layout.size - 1000
    assert layout.names()[0] == "<image>" and layout.names()[-1] == "<audio:pad>"


def test_layouts_are_kept_as_json(tmp_path: Path) -> None:
    layout = zoo.VocabularyLayout(7, {"image": GRID, "audio": RVQ}, {"audio": "delay"}, max_rows=32)
    path = layout.save(tmp_path / "vocab_map.json")
    assert zoo.VocabularyLayout.load(path) == layout
    values = json.loads(path.read_text())
    values["modalities"]["audio"]["begin"] += 1
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"vocab_map.json.*changed by hand"):
        zoo.VocabularyLayout.load(path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="not a vocabulary layout"):
        zoo.VocabularyLayout.load(path)


def test_a_tokenizer_stands_for_its_spec() -> None:
    tokenizer = zoo.build("onedpiece_tiny")
    layout = zoo.VocabularyLayout(5, {"image": tokenizer})
    assert layout == zoo.VocabularyLayout(5, {"image": tokenizer.spec})
    assert "text below 5" in repr(layout) and hash(layout) == hash(zoo.VocabularyLayout(5, {"image": tokenizer.spec}))


def test_mistakes_are_told() -> None:
    continuous = replace(ONE, codebook_sizes=())
    for arguments, said in (
        ((-1, {"image": ONE}), "text_vocab_size >= 0"),
        ((1, {}), "at least one modality"),
        ((1, {"text": ONE}), "called like a variable"),
        ((1, {"image": continuous}), "quantize them first"),
        ((1, {"image": ONE}, "backwards"), "order is one of"),
    ):
        with pytest.raises(ValueError, match=said):
            zoo.VocabularyLayout(*arguments)  # type: ignore[arg-type]
    layout = zoo.VocabularyLayout(3, {"image": ONE, "shape": replace(ONE, modality="shape")})
    code = item(ONE, 1, 0)
    for part, said in (
        ([3], "text is ids"),
        (code, "name one"),
        ({"sound": code}, "modalities are"),
        ({"image": Tokens.cat([code, code])}, "one item at a time"),
        ({"image": item(SCALES, 1, 0)}, "takes whole items"),
    ):
        with pytest.raises(ValueError, match=said):
            layout.interleave(part)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"ids lie in \[0"):
        layout.parse([layout.size])
    with pytest.raises(ValueError, match="one stream"):
        layout.parse(torch.zeros(2, 2, dtype=torch.int64))
    wide = zoo.VocabularyLayout(3, {"image": GRID}, max_rows=2)
    with pytest.raises(ValueError, match="max_rows=2"):
        wide.interleave(item(GRID, 3, 0))


def test_a_transformers_tokenizer_and_model_are_extended(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.models.WordLevel({"[UNK]": 0, "a": 1, "cat": 2}, unk_token="[UNK]")
    plain = tokenizers.Tokenizer(words)
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="[UNK]")
    config = transformers.GPT2Config(vocab_size=3, n_embd=8, n_layer=1, n_head=1, n_positions=64)
    model = transformers.GPT2LMHeadModel(config)
    layout = zoo.VocabularyLayout(len(tokenizer), {"image": ONE})
    assert layout.extend(tokenizer, model) == layout.size == len(tokenizer)
    assert model.get_input_embeddings().weight.shape[0] == layout.size
    assert tokenizer.convert_tokens_to_ids(layout.names()) == list(range(3, layout.size))
    code = item(ONE, 1, 4)
    stream = layout.interleave(tokenizer("a cat")["input_ids"], code)
    written = tokenizer.decode(stream)
    assert tokenizer(written)["input_ids"] == stream.tolist()
    assert tokenizer.decode(stream, skip_special_tokens=True).strip() == "a cat"
    assert torch.isfinite(model(stream[None]).logits).all()
    with pytest.raises(ValueError, match="begins behind 3"):
        layout.extend(tokenizer)
    with pytest.raises(ValueError, match="of its own"):
        zoo.VocabularyLayout(len(tokenizer), {"image": ONE}).extend(tokenizer)
