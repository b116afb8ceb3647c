"""SNAC: codes at several rates, lengths, chunks, and noise that can be fixed, drawn, given or left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from decoders import SNACDecoder
from encoders import SNACEncoder
from zoo.families import SNAC
from zoo.families.snac_noise import fixed_noise
from zoo.long_audio import decode_long, encode_long
from zoo.store.build import build
from zoo.tokens import Tokens

CONFIG: dict[str, Any] = {
    "sampling_rate": 480, "encoder_dim": 16, "encoder_rates": [2, 3], "latent_dim": None, "decoder_dim": 64,
    "decoder_rates": [3, 2], "attn_window_size": None, "codebook_size": 16, "codebook_dim": 4,
    "vq_strides": [4, 2, 1], "noise": True, "depthwise": True,
}  # fmt: skip
HOP = 6


def made(**changes: Any) -> SNAC:
    torch.manual_seed(0)
    built = build(SNAC.reference_recipe({**CONFIG, **changes}))
    assert isinstance(built, SNAC)
    return built.double().eval()


@pytest.fixture(scope="module")
def tok() -> SNAC:
    return made()


@pytest.fixture(scope="module")
def attentive() -> SNAC:
    return made(attn_window_size=8)


def sound(length: int, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(length)
    return torch.rand(batch, 1, length, generator=generator, dtype=torch.float64) * 2 - 1


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 23, 24, 25, 100, 480, 481])
def test_any_length_comes_back(tok: SNAC, length: int) -> None:
    x = sound(length, 2)
    tokens = tok.encode(x)
    blocks = -(-length // (4 * HOP))
    assert tokens.scales == (blocks, 2 * blocks, 4 * blocks) and tokens.distinct_scales
    assert tokens.num_tokens == tok.count(length) == 7 * blocks
    out = tok.decode(tokens)
    assert out.shape == x.shape
    assert torch.equal(out, tok(x).output)


def test_rates_are_in_the_spec(tok: SNAC, attentive: SNAC) -> None:
    assert tok.spec.scales == (20, 40, 80) and tok.spec.num_tokens == 140 and tok.spec.order == "scales"
    assert tok.block == 4 and attentive.block == 8 and attentive.encoder.block == 8
    assert attentive.frames(1) == 8 and attentive.count(1) == 14 and attentive.margin(1) == 47


@torch.no_grad()
def test_streams_of_ids_come_back(tok: SNAC) -> None:
    tokens = tok.encode(sound(48))
    ids = tokens.to_ids("frames")
    coarse, middle, fine = (level[0, :, 0].tolist() for level in tokens.by_scale())
    first = [coarse[0], 16 + middle[0], 32 + fine[0], 32 + fine[1], 16 + middle[1], 32 + fine[2], 32 + fine[3]]
    assert ids[0, :7].tolist() == first
    again = Tokens.from_ids(
        ids, tokens.codebook_sizes, "frames", scales=tokens.scales, distinct_scales=True, token_order="scales",
        size=tokens.size,
    )  # fmt: skip
    assert again.equal(tokens) and torch.equal(tok.decode(again), tok.decode(tokens))
    assert tokens.bits().item() == 14 * 4


@torch.no_grad()
def test_first_levels_decode(tok: SNAC) -> None:
    tokens = tok.encode(sound(200))
    coarse = tokens.keep(sum(tokens.scales[:2]))
    assert coarse.scales == tokens.scales[:2]
    assert tok.decode(coarse).shape == (1, 1, 200)
    assert not torch.equal(tok.decode(coarse), tok.decode(tokens))
    with pytest.raises(ValueError, match="times a whole number, or the first of them"):
        tok.decode(tokens.keep(tokens.scales[0] + 1))


@torch.no_grad()
@pytest.mark.parametrize("which", ["tok", "attentive"])
def test_chunks_of_a_long_sound_join_exactly(which: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(which)
    x = sound(300 * HOP + 5)
    whole = tokenizer.encode(x)
    pieces = encode_long(tokenizer, x[0], seconds=1.0)
    assert pieces.scales == whole.scales and torch.equal(pieces.indices, whole.indices)
    joined = decode_long(tokenizer, whole, seconds=1.0)
    expected = tokenizer.decode(whole)[0].float()
    torch.testing.assert_close(joined.read(0, joined.length), expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("which", ["tok", "attentive"])
def test_padding_of_a_batch_changes_nothing(which: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(which)
    x, lengths = sound(300, 3), torch.tensor([300, 97, 5])
    tokens = tokenizer.encode(x, lengths)
    out = tokenizer.decode(tokens)
    assert tokens.size is not None and tokens.size[:, 0].equal(lengths)
    for item, length in enumerate(lengths.tolist()):
        alone = tokenizer.encode(x[item : item + 1, :, :length])
        assert tokenizer.trim(tokens[item]).equal(alone)
        torch.testing.assert_close(out[item, :, :length], tokenizer.decode(alone)[0], rtol=1e-6, atol=1e-9)
        assert not out[item, :, length:].any()
        assert tokens.bits()[item] == alone.bits()[0]
    layout = {"scales": tokens.scales, "distinct_scales": True, "token_order": "scales"}
    read = Tokens.from_ids(tokens.to_ids("frames"), tokens.codebook_sizes, "frames", **layout)
    assert tokenizer.samples(read).tolist() == (tokenizer.frames(lengths) * tokenizer.hop_length).tolist()
    few = tokens.keep(tokens.scales[0])
    assert torch.equal(tokenizer.samples(few), lengths) and tokenizer.decode(few).shape == out.shape
    with pytest.raises(ValueError, match="levels of an item end together"):
        tokenizer.decode(tokens.keep(torch.tensor([tokens.num_tokens, tokens.scales[0], 1])))


def test_context_is_what_is_read_at_most() -> None:
    torch.manual_seed(0)
    for window in (None, 4):
        shared: dict[str, Any] = {"window": window, "depthwise": True}
        encoder = SNACEncoder(width=16, strides=[2, 3], **shared).double()
        decoder = SNACDecoder(dim=64, width=64, strides=[3, 2], noise=False, **shared).double()
        hop, count, read, needed = encoder.hop_length, 96, [], []
        x = torch.randn(1, 1, count * hop, dtype=torch.float64, requires_grad=True)
        z, latents = encoder(x), torch.randn(1, count, 64, dtype=torch.float64, requires_grad=True)
        y = decoder(latents)
        for place in range(48, 52):
            (slope,) = torch.autograd.grad(z[0, place].sum(), x, retain_graph=True)
            at = slope[0, 0].nonzero()[:, 0]
            read.append((place * hop - int(at[0]), int(at[-1]) - (place + 1) * hop + 1))
            samples = y[0, 0, place * hop : (place + 1) * hop]
            (slope,) = torch.autograd.grad(samples.sum(), latents, retain_graph=True)
            at = slope[0].abs().sum(1).nonzero()[:, 0]
            needed.append((place - int(at[0]), int(at[-1]) - place))
        assert encoder.context == tuple(max(side) for side in zip(*read, strict=True))
        assert decoder.context == tuple(max(side) for side in zip(*needed, strict=True))


@torch.no_grad()
def test_noise_is_fixed_drawn_given_or_left_out(tok: SNAC) -> None:
    tokens = tok.encode(sound(300, 2))
    fixed = tok.decode(tokens)
    assert torch.equal(tok.decode(tokens), fixed)
    torch.testing.assert_close(tok.decode(tokens[1]), fixed[1:])

    def drawn(seed: int) -> Tensor:
        return tok.decode(tokens, generator=torch.Generator().manual_seed(seed))

    assert torch.equal(drawn(1), drawn(1)) and not torch.equal(drawn(1), drawn(2))
    assert not torch.equal(drawn(1), fixed)
    frames = tok.frames(300)
    given = [torch.zeros(1, 1, frames * rate) for rate in tok.decoder.noise_rates]
    silent = tok.decode(tokens, noise=given)
    tok.noisy = False
    assert torch.equal(tok.decode(tokens), silent) and torch.equal(drawn(1), silent)
    tok.noisy = True
    assert not torch.equal(silent, fixed)
    with pytest.raises(ValueError, match="one noise per stage"):
        tok.decode(tokens, noise=given[:1])
    with pytest.raises(ValueError, match="decodes in one step"):
        tok.decode(tokens, steps=3)


def test_training_draws_new_noise(tok: SNAC) -> None:
    copy = made().train()
    x = sound(48)
    assert not torch.equal(copy(x).output, copy(x).output)


def test_fixed_noise_is_a_function_of_the_place() -> None:
    whole = fixed_noise((3, 6), 0, 400)
    for start, frames in ((0, 5), (100, 200), (130, 270)):
        for part, all_of_it, rate in zip(fixed_noise((3, 6), start, frames), whole, (3, 6), strict=True):
            assert torch.equal(part, all_of_it[..., start * rate : (start + frames) * rate])
    assert abs(whole[0].std().item() - 1) < 0.1 and not torch.equal(whole[0][..., :384], whole[0][..., 384:768])


def test_other_trunks_and_quantizers_learn(tmp_path: Path) -> None:
    node: dict[str, Any] = {
        "_target_": "zoo.families.SNAC",
        "sample_rate": 480,
        "encoder": {"_target_": "encoders.SNACEncoder", "dim": 3, "width": 16, "strides": [2, 3], "window": 4},
        "quantizer": {"_target_": "quantizers.FSQ", "levels": [5, 5, 5]},
        "decoder": {"_target_": "decoders.SNACDecoder", "dim": 3, "width": 64, "strides": [3, 2], "depthwise": False},
    }
    tokenizer = build(node)
    assert isinstance(tokenizer, SNAC) and tokenizer.spec.scales == () and tokenizer.spec.num_tokens == 80
    x = sound(100, 2).float()
    shown = tokenizer.train()(x)
    (shown.output.square().mean() + shown.quantized.loss).backward()
    assert not [name for name, parameter in tokenizer.named_parameters() if parameter.grad is None]
    tokenizer.eval()
    with torch.no_grad():
        tokens = tokenizer.encode(x, torch.tensor([100, 30]))
        assert tokens.lengths is not None and tokens.lengths.tolist() == [20, 8]
        out = tokenizer.decode(tokens)
        alone = tokenizer.decode(tokenizer.encode(x[1:, :, :30]))
    assert out.shape == x.shape
    torch.testing.assert_close(out[1:, :, :30], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_compiles_as_one_graph() -> None:
    torch.manual_seed(0)
    encoder = SNACEncoder(width=32, strides=[3], window=4)
    decoder = SNACDecoder(dim=64, width=64, strides=[3], window=4)
    x = sound(120).float()
    z = encoder(x)
    noise = fixed_noise(decoder.noise_rates, 0, z.shape[1])
    compiled = torch.compile(encoder, fullgraph=True, backend="eager")(x)
    torch.testing.assert_close(compiled, z, rtol=1e-4, atol=1e-5)
    compiled = torch.compile(decoder, fullgraph=True, backend="eager")(z, None, noise)
    torch.testing.assert_close(compiled, decoder(z, None, noise), rtol=1e-4, atol=1e-5)


def test_configs_and_shapes_that_do_not_fit_are_refused(tok: SNAC, attentive: SNAC) -> None:
    with pytest.raises(ValueError, match="equal rates both ways"):
        SNAC.reference_recipe({**CONFIG, "latent_dim": 7})
    with pytest.raises(ValueError, match="multiple of 48"):
        attentive.encoder(torch.zeros(1, 1, 24))
    with pytest.raises(ValueError, match="blocks of 8 latents"):
        attentive.decoder(torch.zeros(1, 4, 64))
    with pytest.raises(ValueError, match="whole blocks of 4 frames"):
        tok.part(tok.encode(sound(48)), 0, 2)
