"""A stream gives what the whole gives, however a sound is cut into pieces."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo
from decoders import ConvNeXtBackbone, ISTFTHead, SEANetDecoder, VocosDecoder
from encoders import SEANetEncoder, SpectralEncoder
from quantizers import VQ, Residual
from zoo.families import AudioCodec, EnCodec


@cache
def codec(kind: str) -> AudioCodec:
    torch.manual_seed(0)
    quantizer = Residual(VQ(8, 16), 3)
    if kind == "spectral":
        spectral = SpectralEncoder(8, 1000, 10, 40, bands=8, width=8, depth=1, causal=True)
        torch.nn.init.normal_(spectral.head.weight)  # starts as zeros, which would hide the network from the test
        vocos = VocosDecoder(ConvNeXtBackbone(8, 8, 2, causal=True), ISTFTHead(8, 10))
        return AudioCodec(spectral, quantizer, vocos, 1000).eval()
    options = {"encodec": {}, "plain": {"edges": "constant", "conv_shortcut": False, "lstm": 0, "last_kernel": 3}}[kind]
    encoder = SEANetEncoder(dim=8, width=4, strides=(2, 5), **options)  # type: ignore[arg-type]
    decoder = SEANetDecoder(dim=8, width=4, strides=(5, 2), **options)  # type: ignore[arg-type]
    return AudioCodec(encoder, quantizer, decoder, 1000).eval()


@settings(deadline=None, max_examples=30)
@given(
    kind=st.sampled_from(["encodec", "plain", "spectral"]),
    pieces=st.lists(st.integers(0, 90), min_size=1, max_size=8).filter(sum),
    groups=st.lists(st.integers(0, 5), max_size=6),
)
def test_any_split_gives_the_whole(kind: str, pieces: list[int], groups: list[int]) -> None:
    tokenizer = codec(kind)
    x = torch.rand(2, 1, sum(pieces), generator=torch.Generator().manual_seed(sum(pieces))) * 2 - 1
    with torch.no_grad():
        whole = tokenizer.encode(x)
        sound = tokenizer.decode(whole)
    with tokenizer.streaming(batch=2) as stream:
        found = [stream.encode(chunk) for chunk in x.split(pieces, dim=-1)] + [stream.finish_encode()]
        heard = [stream.decode(tokens) for tokens in found] + [stream.finish_decode()]
        assert sum(int(tokens.size[0, 0]) for tokens in found if tokens.size is not None) == x.shape[-1]
        stream.reset()
        cuts = [0]
        for count in [*groups, whole.num_tokens]:
            cuts.append(min(cuts[-1] + count, whole.num_tokens))
        parts = [tokenizer.part(whole, start, stop) for start, stop in pairwise(cuts)]
        again = [stream.decode(part) for part in parts] + [stream.finish_decode()]
    assert torch.equal(torch.cat([tokens.indices for tokens in found], dim=1), whole.indices)
    joined = torch.cat(heard, dim=-1)
    assert joined.shape == sound.shape
    scale = float(sound.abs().max()) or 1.0
    assert float((joined - sound).abs().max()) <= 1e-5 * scale
    assert float((torch.cat(again, dim=-1)[..., : x.shape[-1]] - sound).abs().max()) <= 1e-5 * scale


def test_latency_is_one_token_once_it_runs() -> None:
    tokenizer = codec("plain")
    assert tokenizer.latency == tokenizer.hop_length == 10
    x = torch.rand(1, 1, 200)
    with tokenizer.streaming() as stream:
        counts = [stream.decode(stream.encode(chunk)).shape[-1] for chunk in x.split(10, dim=-1)]
    assert counts == [10] * 20


def test_a_spectral_codec_is_late_by_what_its_windows_read_ahead() -> None:
    """Windows of four hops, in the encoder and in the decoder, reach one and a half hops ahead."""
    tokenizer = codec("spectral")
    assert tokenizer.latency == 10 + 15 + 20
    x = torch.rand(1, 1, 200, generator=torch.Generator().manual_seed(0))
    other = torch.cat((x[..., :100], -x[..., 100:]), dim=-1)
    with torch.no_grad():
        one, two = (tokenizer.decode_latents(tokenizer.encode_latents(sound), None, (200,)) for sound in (x, other))
    first = int((one != two).flatten().nonzero()[0])
    assert 100 - tokenizer.latency < first < 100
    with tokenizer.streaming() as stream:
        counts = [stream.decode(stream.encode(chunk)).shape[-1] for chunk in x.split(10, dim=-1)]
    assert set(counts[5:]) == {10} and 200 - sum(counts) <= tokenizer.latency


def test_mirrored_edges_delay_the_beginning_alone() -> None:
    """The last convolution of the encoder and the first of the decoder wait for 7 steps; then nothing is late."""
    with codec("encodec").streaming() as stream:
        counts = [stream.decode(stream.encode(chunk)).shape[-1] for chunk in torch.rand(1, 1, 300).split(10, dim=-1)]
    first = next(number for number, count in enumerate(counts) if count)
    assert 6 <= first <= 20 and set(counts[first + 1 :]) == {10} and sum(counts) >= 280


def test_fewer_codebooks() -> None:
    tokenizer, x = codec("plain"), torch.rand(1, 1, 95)
    with tokenizer.streaming(codebooks=2) as stream:
        found = [stream.encode(x), stream.finish_encode()]
    assert torch.equal(torch.cat([tokens.indices for tokens in found], 1), tokenizer.encode(x, codebooks=2).indices)


def test_what_cannot_stream_says_so() -> None:
    with pytest.raises(ValueError, match="reads ahead"):
        zoo.build("speechtokenizer_tiny").eval().streaming()
    with pytest.raises(ValueError, match=r"eval\(\)"):
        zoo.build("encodec_tiny").train().streaming()
    both = codec("plain")
    mixed = AudioCodec(both.encoder, both.quantizer, SEANetDecoder(dim=8, width=4, strides=(5, 2), causal=False), 1000)
    with mixed.eval().streaming() as stream:
        tokens = stream.encode(torch.rand(1, 1, 30))
        with pytest.raises(ValueError, match="the decoder of AudioCodec reads ahead"):
            stream.decode(tokens)
    with pytest.raises(ValueError, match="whole sound"):
        _ = mixed.latency
    windows = EnCodec(both.encoder, both.quantizer, both.decoder, 1000, segment=0.1)
    assert windows.latency == 100
    with pytest.raises(ValueError, match="reads ahead"):
        windows.eval().streaming()


def test_misuse_of_a_stream_is_named() -> None:
    stream = codec("plain").streaming(batch=2)
    with pytest.raises(ValueError, match="inside"):
        stream.encode(torch.zeros(2, 1, 5))  # type: ignore[attr-defined]
    with stream as s:
        for wrong in (torch.zeros(1, 1, 5), torch.zeros(2, 5), torch.zeros(2, 1, 5).long()):
            with pytest.raises(ValueError, match="a chunk is float"):
                s.encode(wrong)
        with pytest.raises(ValueError, match="NaN"):
            s.encode(torch.full((2, 1, 5), torch.nan))
        with pytest.raises(ValueError, match="2 sounds"):
            s.decode(codec("plain").encode(torch.zeros(1, 1, 50)))
        s.finish_encode()
        with pytest.raises(ValueError, match="has ended"):
            s.encode(torch.zeros(2, 1, 5))
