"""Long sounds in chunks: exact joins where the network is local or causal, and memory that does not grow."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from typing import Any

import pytest
import torch

import zoo
from zoo.data.signals import Array, Resampled, blocks, resample
from zoo.families import AudioTokenizer, EnCodec
from zoo.long_audio import decode_long, encode_long, join_of
from zoo.tokens import Tokens

RATE = 800
SEANET = {"dim": 8, "width": 4, "lstm": 0}
LEVELS = {"_target_": "quantizers.FSQ", "levels": [5] * 8}


def seanet(side: str, **options: Any) -> dict[str, Any]:
    strides = [2, 4] if side == "Encoder" else [4, 2]
    return {"_target_": f"{side.lower()}s.SEANet{side}", "strides": strides, **SEANET, **options}


def both(**options: Any) -> dict[str, Any]:
    return {"encoder": seanet("Encoder", **options), "decoder": seanet("Decoder", **options)}


def dac(name: str, **options: Any) -> dict[str, Any]:
    encoder = {"_target_": f"encoders.{name}Encoder", "dim": 8, "width": 4, "strides": [2, 4], **options}
    decoder = {"_target_": f"decoders.{name}Decoder", "dim": 8, "width": 16, "strides": [4, 2], **options}
    return {"encoder": encoder, "decoder": decoder}


SNAC_LEVELS = {
    "_target_": "quantizers.MultiRate",
    "strides": [4, 2, 1],
    "gradient": "chained",
    "quantizer": {"_target_": "quantizers.VQ", "dim": 8, "codebook_size": 32},
}
NODES: dict[str, tuple[str, dict[str, Any]]] = {
    "causal": ("exact", both()),
    "two-sided": ("exact", both(causal=False)),
    "mirrored zeros": ("exact", both(causal=False, edges="constant")),
    "DAC": ("exact", dac("DAC")),
    "LSTM": ("stream", both(lstm=1)),
    "whole": ("faded", both(causal=False, norm=True)),
    "windows": (
        "windows",
        {"_target_": "zoo.families.EnCodec", "segment": 0.5, "overlap": 0.03, "normalize": True}
        | both(causal=False, norm=True, lstm=1),
    ),
    "SNAC": ("exact", {"_target_": "zoo.families.SNAC", "quantizer": SNAC_LEVELS} | dac("SNAC")),
}
EXACT = [name for name, (join, _) in NODES.items() if join != "faded"]


def build(name: str) -> AudioTokenizer:
    torch.manual_seed(0)
    node = {"_target_": "zoo.families.AudioCodec", "quantizer": LEVELS, "sample_rate": RATE} | NODES[name][1]
    tokenizer = zoo.build(node).eval()
    assert isinstance(tokenizer, AudioTokenizer)
    return tokenizer


def sound(samples: int = 8003, channels: int = 1) -> torch.Tensor:
    return 0.3 * torch.randn(channels, samples, generator=torch.Generator().manual_seed(1))


def whole(signal: Any, size: int = 777) -> torch.Tensor:
    return torch.cat([signal.read(*place) for place in blocks(signal.length, size)], 1)


@pytest.mark.parametrize("seconds", [0.7, 1.3])
@pytest.mark.parametrize("name", EXACT)
def test_chunks_give_what_the_whole_gives(name: str, seconds: float) -> None:
    tokenizer, x = build(name), sound()
    assert join_of(tokenizer, "encoder", 100) == join_of(tokenizer, "decoder", 100) == NODES[name][0]
    with torch.no_grad():
        expected = tokenizer.encode(x[None])
        output = tokenizer.decode(expected)[0]
    found = encode_long(tokenizer, x, seconds=seconds)
    assert replace(found, gains=None).equal(replace(expected, gains=None))
    if expected.gains is not None:
        torch.testing.assert_close(found.gains, expected.gains)
    decoded = decode_long(tokenizer, expected, seconds=seconds)
    assert (decoded.channels, decoded.sample_rate, decoded.length) == (1, RATE, 8003)
    torch.testing.assert_close(whole(decoded), output, rtol=0, atol=1e-5 * float(output.abs().max()))
    torch.testing.assert_close(decoded.read(10, 500), output[:, 10:500], rtol=0, atol=1e-5)  # going back begins anew
    again = Resampled(decoded, 1100, 11_000)
    torch.testing.assert_close(whole(again, 999), resample(output, RATE, 1100)[:, :11_000], rtol=0, atol=1e-5)


@pytest.mark.parametrize("samples", [1, 7, 560, 561, 1120, 4800])
def test_any_length(samples: int) -> None:
    """At and around the borders of chunks."""
    for name in ("two-sided", "LSTM", "windows", "SNAC"):
        tokenizer, x = build(name), sound(samples)
        with torch.no_grad():
            expected = tokenizer.encode(x[None])
            output = tokenizer.decode(expected)[0]
        assert torch.equal(encode_long(tokenizer, x, seconds=0.7).indices, expected.indices)
        torch.testing.assert_close(whole(decode_long(tokenizer, expected, seconds=0.7)), output, rtol=0, atol=1e-5)


def test_a_short_attention_is_local_and_a_long_one_streams() -> None:
    tokenizer = zoo.build("mimi_tiny").eval()
    assert isinstance(tokenizer, AudioTokenizer)
    reach = sum(tokenizer.encoder.context)
    assert join_of(tokenizer, "encoder", reach) == "exact" and join_of(tokenizer, "encoder", 1) == "stream"
    x = sound(4 * tokenizer.hop_length * 20 + 3)
    with torch.no_grad():
        expected = tokenizer.encode(x[None], codebooks=2)
    seconds = 20 * tokenizer.hop_length / tokenizer.spec.input_shape[1]
    assert encode_long(tokenizer, x, seconds=seconds, codebooks=2).equal(expected)


def test_what_reads_the_whole_is_faded_without_clicks() -> None:
    """Chunks differ, but no sample jumps more than the sound of the chunks themselves does."""
    tokenizer, x = build("whole"), sound()
    tokens = encode_long(tokenizer, x, seconds=2.0, overlap=0.5)
    assert tokens.num_tokens == 1001 and tokens.size is not None and tokens.size.tolist() == [[8003]]
    sound_of_it = whole(decode_long(tokenizer, tokens, seconds=2.0, overlap=0.5))
    assert sound_of_it.shape == (1, 8003) and torch.isfinite(sound_of_it).all()


def test_fading_keeps_what_neighbours_agree_on() -> None:
    """A decoder whose chunks agree where they overlap gives the whole, although it does not say how far it reads."""
    tokenizer = build("two-sided")
    with torch.no_grad():
        tokens = tokenizer.encode(sound()[None])
        expected = tokenizer.decode(tokens)[0]
    type(tokenizer.decoder).context, kept = None, type(tokenizer.decoder).context  # type: ignore[misc]
    try:
        assert join_of(tokenizer, "decoder", 100) == "faded"
        found = whole(decode_long(tokenizer, tokens, seconds=2.0, overlap=1.0))
    finally:
        type(tokenizer.decoder).context = kept  # type: ignore[misc]
    # over half of the overlap the neighbours are further from their edges than they read
    edge = 10 * tokenizer.hop_length
    agree = torch.ones(8003, dtype=torch.bool)
    for join in range(0, 8003, 800):
        for near in (join - 400, join + 400):
            agree[max(0, near - edge) : max(0, near + edge)] = False
    torch.testing.assert_close(found[:, agree], expected[:, agree], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NODES)
def test_items_of_a_batch_are_what_they_are_alone(name: str) -> None:
    """What `zoo tokenize` relies on: lengths that end anywhere, and `trim` to take one out."""
    tokenizer, lengths = build(name), torch.tensor([4000, 1234, 401, 3])
    x = sound(4000)[None].expand(4, -1, -1)
    with torch.no_grad():
        batch = tokenizer.encode(x, lengths)
        outputs = tokenizer.decode(batch)
        for number, length in enumerate(lengths.tolist()):
            alone = tokenizer.encode(x[:1, :, :length])
            item = tokenizer.trim(batch[number])
            assert replace(item, gains=None).equal(replace(alone, gains=None))
            torch.testing.assert_close(item.gains, alone.gains)
            output = tokenizer.decode(item)
            assert output.shape == (1, 1, length)
            torch.testing.assert_close(output, tokenizer.decode(alone), rtol=0, atol=1e-5)
            torch.testing.assert_close(outputs[number : number + 1, :, :length], output, rtol=0, atol=1e-5)
            assert not outputs[number, :, length:].any()


def test_channels_alone() -> None:
    tokenizer, x = build("causal"), sound(3000, 3)
    tokens = encode_long(tokenizer, x, seconds=1.0, each=True)
    with torch.no_grad():
        expected = tokenizer.encode(x[:, None])
        output = tokenizer.decode(expected)[:, 0]
    assert tokens.equal(expected)
    torch.testing.assert_close(whole(decode_long(tokenizer, tokens, seconds=1.0)), output, rtol=0, atol=1e-6)


def test_segments_keep_their_places() -> None:
    """Sylber's tokens last several frames: positions count from the start of the sound, in order."""
    tokenizer = zoo.build("sylber_tiny").eval()
    assert isinstance(tokenizer, AudioTokenizer)
    tokenizer.norm_threshold, tokenizer.merge_threshold = 0.0, 0.9999  # type: ignore[assignment]
    x = sound(16_000 * 3)
    tokens = encode_long(tokenizer, x, seconds=1.0, overlap=0.4)
    assert tokens.positions is not None and tokens.durations is not None and tokens.num_tokens > 3
    places = tokens.positions[0]
    assert (
        bool((places.diff() > 0).all()) and int(places[-1]) > 100 and int(places[-1] + tokens.durations[0, -1]) <= 150
    )


class Endless:
    """A sound of any length that is nowhere, and counts what is asked for at once."""

    channels, sample_rate, most = 1, RATE, 0

    def __init__(self, length: int) -> None:
        self.length = length

    def read(self, start: int, stop: int) -> torch.Tensor:
        self.most = max(self.most, stop - start)
        return torch.sin(torch.arange(start, stop) * 0.1)[None]


@pytest.mark.parametrize("name", ["causal", "LSTM", "whole", "windows"])
def test_memory_is_constant(name: str) -> None:
    """Neither what is read, nor what goes into the network, nor what is held grows with the length."""
    tokenizer = build(name)
    seen: list[int] = []
    tokenizer.encoder.register_forward_pre_hook(lambda module, args: seen.append(args[0].numel()))
    tokenizer.decoder.register_forward_pre_hook(lambda module, args: seen.append(args[0].numel()))  # 8 a frame of 8
    for minutes in (1, 4):
        seen.clear()
        signal = Endless(minutes * 60 * RATE)
        tokens = encode_long(tokenizer, signal, seconds=10.0)
        decoded, held = decode_long(tokenizer, tokens, seconds=10.0), 0
        for start, stop in blocks(decoded.length, 4000):
            decoded.read(start, stop)
            held = max(held, decoded._held.shape[1])
        assert max(signal.most, held, *seen) <= 15 * RATE


def test_twenty_minutes_need_no_more_memory_than_two() -> None:
    """Python's own memory; with the counts above, that of tensors as well."""
    tokenizer = build("causal")
    peaks = []
    for seconds in (120, 1200):
        tracemalloc.start()
        encode_long(tokenizer, Endless(seconds * RATE), seconds=60.0)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 2 * peaks[0] + 200_000


@pytest.mark.parametrize(
    ("signal", "message"),
    [
        (Array(sound(), 700), "expected sound at 800 Hz, got 700"),
        (sound(channels=2), "expected 1 channels, got 2; use zoo.data.signals.Mixed"),
        (sound()[:, :0], "at least one sample"),
    ],
)
def test_wrong_sounds(signal: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        encode_long(build("causal"), signal)


def test_wrong_tokens() -> None:
    tokenizer = build("causal")
    with pytest.raises(ValueError, match="has codebooks"):
        decode_long(tokenizer, Tokens(torch.zeros(1, 4, 1, dtype=torch.int64), (7,)))
    with torch.no_grad():
        ragged = tokenizer.encode(sound()[None].expand(2, -1, -1), torch.tensor([8003, 5000]))
    with pytest.raises(ValueError, match=r"got \[5000, 8003\] samples; decode one at a time"):
        decode_long(tokenizer, ragged)
    image = zoo.build("fsq_f8_tiny")
    with pytest.raises(ValueError, match="is for image, expected a tokenizer of sound"):
        encode_long(image, sound())  # type: ignore[arg-type]


def test_windows_keep_their_gains() -> None:
    tokenizer = build("windows")
    assert isinstance(tokenizer, EnCodec)
    tokens = encode_long(tokenizer, torch.linspace(0.01, 1, 4000)[None] * sound(4000), seconds=0.9)
    assert tokens.gains is not None and bool((tokens.gains.diff() > 0).float().mean() > 0.8)
