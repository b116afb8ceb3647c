"""S3 tokenizers: padding has no effect, long clips are cut and joined, and what decodes the tokens is named."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo
from encoders import S3Encoder
from encoders.layers.log_mel import LogMel
from zoo.families import S3Tokenizer
from zoo.long_audio import encode_long, join_of


@pytest.fixture(scope="module")
def tokenizer() -> S3Tokenizer:
    torch.manual_seed(0)
    tokenizer = zoo.build("s3tokenizer_tiny").eval()
    assert isinstance(tokenizer, S3Tokenizer)
    return tokenizer


def speech(seconds: float, seed: int = 0) -> torch.Tensor:
    """Noise whose loudness comes and goes, (1, 1, T)."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(int(16000 * seconds)) / 16000
    return 0.3 * (time * 9).sin() * torch.randn(1, 1, len(time), generator=generator)


@torch.no_grad()
@pytest.mark.parametrize("samples", [1, 100, 159, 160, 400, 639, 640, 641, 32000, 32160])
def test_any_length(tokenizer: S3Tokenizer, samples: int) -> None:
    tokens = tokenizer.encode(speech(3)[..., :samples])
    assert tokens.num_tokens == tokenizer.count(samples) == max(1, -(-(samples // 160) // 4))
    assert tokens.size is not None and tokens.size.tolist() == [[samples]]
    assert int(tokens.indices.min()) >= 0 and int(tokens.indices.max()) < 6561


@torch.no_grad()
@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 60_000), min_size=1, max_size=3))
def test_what_stands_behind_a_clip_has_no_effect(tokenizer: S3Tokenizer, lengths: list[int]) -> None:
    clips = [speech(4, seed)[0, :, :length] for seed, length in enumerate(lengths)]
    x = torch.randn(len(clips), 1, max(lengths))
    for row, clip in zip(x, clips, strict=True):
        row[:, : clip.shape[1]] = clip
    tokens = tokenizer.encode(x, torch.tensor(lengths))
    latents = tokenizer.encode_latents(x, torch.tensor(lengths))
    assert tokens.lengths is not None
    for row, clip in enumerate(clips):
        count = int(tokens.lengths[row])
        alone = tokenizer.encode_latents(clip[None])
        assert alone.shape[1] == count
        torch.testing.assert_close(latents[row, :count], alone[0], rtol=1e-4, atol=1e-5)
        assert not tokens.indices[row, count:].any()


@torch.no_grad()
def test_long_clips_are_cut_into_windows(tokenizer: S3Tokenizer) -> None:
    """Windows of 200 frames overlap by 40; of 10 shared tokens, the first 5 are the earlier window's."""
    encoder, x = tokenizer.encoder, speech(5.3)
    mel = encoder.mel(x[:, 0])
    assert mel.shape[-1] == 530
    windows = [encoder.transform(mel[..., start : start + 200]) for start in (0, 160, 320, 480)]
    assert [window.shape[1] for window in windows] == [50, 50, 50, 13]
    joined = torch.cat([windows[0][:, :45], windows[1][:, 5:45], windows[2][:, 5:45], windows[3][:, 5:]], dim=1)
    torch.testing.assert_close(tokenizer.encode_latents(x), encoder.finish(joined))
    assert joined.shape[1] == tokenizer.count(x.shape[-1])


@torch.no_grad()
def test_no_window_is_made_of_what_the_one_before_has_seen(tokenizer: S3Tokenizer) -> None:
    encoder, calls = tokenizer.encoder, []
    plain = encoder.transform
    encoder.transform = lambda mel, lengths=None: calls.append(mel.shape[-1]) or plain(mel, lengths)
    try:
        for frames, windows in ((200, 1), (201, 2), (360, 2), (361, 3)):
            calls.clear()
            assert tokenizer.encode(speech(4)[..., : 160 * frames]).num_tokens == -(-frames // 4)
            assert len(calls) == windows
    finally:
        del encoder.transform


def test_spectrum_of_silence_and_of_a_loud_clip() -> None:
    mel = LogMel(40)
    assert torch.equal(mel(torch.zeros(1, 1600)), torch.full((1, 40, 10), -1.5))  # log10 of 1e-10
    both = mel(torch.cat([speech(0.5)[0], 100 * speech(0.5)[0]]))
    assert (both.amax((1, 2)) - both.amin((1, 2))).max() <= 2 + 1e-6  # eight tens of the power, over 4
    torch.testing.assert_close(both[1].amax() - both[0].amax(), torch.tensor(1.0))  # 10^4 in power


@torch.no_grad()
def test_half_precision_keeps_the_spectrum_and_the_codes_in_float32(tokenizer: S3Tokenizer) -> None:
    half = zoo.build("s3tokenizer_tiny").to(torch.bfloat16).eval()
    half.load_state_dict(tokenizer.state_dict())
    x = speech(1)
    assert half.encode_latents(x.to(torch.bfloat16)).dtype == torch.bfloat16
    assert half.encoder.mel(x[:, 0]).dtype == torch.float32
    assert half.encode(x).num_tokens == 25


@torch.no_grad()
@pytest.mark.parametrize("samples", [16_001, 26_000, 26_079, 54_321])
def test_long_files_go_through_the_windows_of_the_model(tokenizer: S3Tokenizer, samples: int) -> None:
    node = {**tokenizer.config, "encoder": {**tokenizer.config["encoder"], "window": 100, "overlap": 24}}
    short = zoo.build(node).eval()
    short.load_state_dict(tokenizer.state_dict())
    x = torch.cat([speech(4), speech(4).flip(-1) * 0.3], dim=-1)[..., :samples]
    x[0, :, 20_000:] *= 3  # windows differ in their loudest frame
    assert join_of(short, "encoder", 25) == "windows"
    found = encode_long(short, x[0], seconds=0.5)
    assert found.equal(short.encode(x)) and found.num_tokens == short.count(samples)
    with pytest.raises(ValueError, match="NaN or infinity"):
        encode_long(short, torch.full((1, samples), torch.nan), seconds=0.5)


def test_errors_say_what_to_do(tokenizer: S3Tokenizer) -> None:
    tokens = tokenizer.encode(speech(1))
    with pytest.raises(ValueError, match=r"no decoder\. CosyVoice's flow-matching"):
        tokenizer.decode(tokens)
    with pytest.raises(ValueError, match="stereo"):
        tokenizer.encode(torch.zeros(1, 2, 16000))
    with pytest.raises(ValueError, match="its latency is"):
        _ = tokenizer.latency
    with pytest.raises(ValueError, match="reads ahead"):
        tokenizer.streaming().__enter__()
    base = {"n_mels": 128, "n_audio_ctx": 1500, "n_audio_state": 1280, "n_audio_head": 20, "n_audio_layer": 6}
    with pytest.raises(ValueError, match="version 3"):
        S3Tokenizer.reference_recipe({**base, "version": 3, "n_codebook_size": 6561})
    with pytest.raises(ValueError, match="6561 codes"):
        S3Tokenizer.reference_recipe({**base, "version": 2, "n_codebook_size": 4096})
    with pytest.raises(ValueError, match="window is a multiple"):
        S3Encoder(width=64, heads=1, depth=1, window=3001)
    with pytest.raises(ValueError, match="rows of positions"):
        S3Encoder(width=64, heads=1, depth=1, positions="table", rows=10)


@pytest.mark.parametrize("name", ["s3tokenizer_v1", "s3tokenizer_v1_25hz", "s3tokenizer_v2_25hz"])
def test_recipes_are_the_published_models(name: str) -> None:
    from zoo.store.cards import card

    published = S3Tokenizer.reference_recipe(card(name).config)
    ours = zoo.build(name, device="meta")
    theirs = zoo.build(published, device="meta")
    assert ours.spec == theirs.spec and ours.spec.num_tokens == (50 if name == "s3tokenizer_v1" else 25)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    for option in ("stride", "window", "overlap", "normalize"):
        assert getattr(ours.encoder, option) == getattr(theirs.encoder, option)
    assert repr(ours.quantizer) == repr(theirs.quantizer)
