"""EnCodec: bandwidths, and sounds cut into windows with a loudness each."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

import zoo
from decoders import SEANetDecoder
from encoders import SEANetEncoder
from quantizers import VQ, Residual
from zoo.families import EnCodec
from zoo.families.encodec import fade
from zoo.store.build import build


@cache
def windowed(normalize: bool = True, segment: float | None = 0.1) -> EnCodec:
    """Windows of 100 samples, one every 90."""
    torch.manual_seed(0)
    shape = {"dim": 8, "width": 4, "channels": 2, "causal": False, "norm": True}
    encoder, decoder = SEANetEncoder(strides=(2, 5), **shape), SEANetDecoder(strides=(5, 2), **shape)  # type: ignore[arg-type]
    quantizer = Residual(VQ(8, 16), 4)
    return EnCodec(encoder, quantizer, decoder, 1000, [0.8, 1.6], segment, 0.1, normalize).eval()


def test_bandwidths() -> None:
    tokenizer = build("encodec_24k", device="meta")
    assert isinstance(tokenizer, EnCodec)
    counts = [tokenizer.codebooks_at(value) for value in tokenizer.bandwidths]
    assert counts == [2, 4, 8, 16, 32] and tokenizer.latency == 320
    with pytest.raises(ValueError, match=r"1.5, 3, 6, 12, 24 kbit/s, got 5"):
        tokenizer.codebooks_at(5)
    small = zoo.build("encodec_tiny").eval()
    assert isinstance(small, EnCodec)
    x = torch.rand(1, 1, 3200) * 2 - 1
    tokens = small.encode(x, bandwidth=1.0)
    assert len(tokens.codebook_sizes) == 2 and tokens.bits().item() == 10 * 2 * 10
    assert tokens.equal(small.encode(x).keep_codebooks(2))
    with pytest.raises(ValueError, match="not both"):
        small.encode(x, bandwidth=1.0, codebooks=2)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("length", [1, 95, 100, 185, 190, 271, 400])
def test_windows(length: int, normalize: bool) -> None:
    tokenizer = windowed(normalize)
    x = torch.rand(2, 2, length) * 2 - 1
    with torch.no_grad():
        tokens = tokenizer.encode(x)
        ends = [min(100, length - start) for start in range(0, length, 90)]
        assert tokens.num_tokens == tokenizer.count(length) == sum(-(-end // 10) for end in ends)
        if normalize:
            assert tokens.gains is not None and tokens.gains.shape == (2, len(ends))
            first = x[..., :100].mean(1).square().mean(1).sqrt() + 1e-8
            torch.testing.assert_close(tokens.gains[:, 0], first)
        else:
            assert tokens.gains is None
        sound = tokenizer.decode(tokens)
        assert sound.shape == x.shape and torch.equal(sound, tokenizer(x).output)
        alone = tokenizer.encode(x[..., :100])
        assert torch.equal(alone.indices[:, :10], tokens.indices[:, :10])


def test_windows_of_a_ragged_batch(tmp_path: Path) -> None:
    tokenizer, lengths = windowed(), torch.tensor([271, 100, 7])
    x = torch.rand(3, 2, 271) * 2 - 1
    with torch.no_grad():
        tokens = tokenizer.encode(x, lengths)
        tokens.save(tmp_path / "tokens.safetensors")
        tokens = zoo.Tokens.load(tmp_path / "tokens.safetensors")
        sound = tokenizer.decode(tokens)
        for item, end in enumerate(lengths.tolist()):
            alone = tokenizer.decode(tokenizer.encode(x[item : item + 1, :, :end]))
            torch.testing.assert_close(sound[item, :, :end], alone[0], rtol=1e-4, atol=1e-5)
            assert not sound[item, :, end:].any()


def test_loudness_alone() -> None:
    tokenizer, x = windowed(segment=None), torch.rand(1, 2, 95)
    with torch.no_grad():
        loud, quiet = tokenizer.encode(x), tokenizer.encode(x * 0.01)
        assert torch.equal(loud.indices, quiet.indices)
        torch.testing.assert_close(tokenizer.decode(quiet), tokenizer.decode(loud) * 0.01, rtol=1e-3, atol=1e-6)


def test_windows_need_what_belongs_to_them() -> None:
    tokenizer = windowed()
    tokens = tokenizer.encode(torch.rand(1, 2, 200))
    for wrong in (replace(tokens, size=None), replace(tokens, gains=None)):
        with pytest.raises(ValueError, match="size and the gains"):
            tokenizer.decode(wrong)
    with pytest.raises(ValueError, match=r"a sound of 300 samples has \d+ tokens"):
        tokenizer.decode(replace(tokens, size=torch.tensor([[300]])))
    with pytest.raises(ValueError, match="cannot be coded"):
        EnCodec(tokenizer.encoder, tokenizer.quantizer, tokenizer.decoder, 1000, segment=0.005)


def test_fading_keeps_what_is_equal() -> None:
    pieces = [torch.ones(1, 1, 10), torch.ones(1, 1, 10), torch.ones(1, 1, 4)]
    torch.testing.assert_close(fade(pieces, 8), torch.ones(1, 1, 20))


def test_configs_that_no_published_model_has() -> None:
    config = {
        "sample_rate": 1000, "channels": 1, "dimension": 8, "n_filters": 4, "n_residual_layers": 1, "ratios": [5, 2],
        "norm": "weight_norm", "causal": True, "lstm": 1, "n_q": 2, "bins": 16, "target_bandwidths": [0.8],
        "normalize": False,
    }  # fmt: skip
    assert isinstance(build(EnCodec.reference_recipe(config), device="meta"), EnCodec)
    for change in ({"norm": "layer_norm"}, {"trim_right_ratio": 0.5}, {"codebook_dim": 4}):
        with pytest.raises(ValueError, match="EnCodec"):
            EnCodec.reference_recipe({**config, **change})
