"""An encoder that starts as a cepstrum: what it starts as, how far it reaches, and batches of different lengths."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import zoo
from encoders import MelEncoder, SpectralEncoder
from encoders.spectral import cepstrum
from zoo.data.audio import read_audio
from zoo.long_audio import decode_long, encode_long, join_of

SPEECH = Path(__file__).parents[2] / "docs/assets/speech"
RATE = 16000


def encoder(trained: bool = True) -> SpectralEncoder:
    torch.manual_seed(0)
    part = SpectralEncoder(dim=4, sample_rate=RATE, hop_length=64, frame=256, bands=20, width=16, depth=2)
    if trained:
        torch.nn.init.normal_(part.head.weight, std=0.5)
    return part.eval()


def sounds(count: int = 2, samples: int = 6000) -> Tensor:
    return torch.randn(count, 1, samples, generator=torch.Generator().manual_seed(1)) * 0.3


def test_rows_are_the_cosine_transform() -> None:
    rows, biases = cepstrum(12, 80)
    assert rows.shape == (12, 80) and biases.shape == (12,)
    units = rows / rows.norm(dim=1, keepdim=True)
    torch.testing.assert_close(units @ units.T, torch.eye(12), rtol=0, atol=1e-5)
    assert (rows[0] == rows[0, 0]).all()  # the first is the loudness
    crossings = [int((row[1:] * row[:-1] < 0).sum()) for row in rows]
    assert crossings == list(range(12))


@torch.inference_mode()
def test_untrained_latents_are_a_cepstrum_that_fills_the_quantizer() -> None:
    """On speech each of six latents has a deviation near 0.8 and a mean near 0, and the codes differ."""
    tokenizer = zoo.build("wavtokenizer_tiny").eval()
    clips = [read_audio(path) for path in sorted(SPEECH.glob("*.flac"))]
    loud = [(clip * 0.67 / clip.abs().max())[None] for clip in clips]  # as training data, -3.5 dB
    latents = torch.cat([tokenizer.encode_latents(clip)[0] for clip in loud])
    assert ((latents.std(0) > 0.4) & (latents.std(0) < 1.2)).all()
    assert (latents.mean(0).abs() < 0.8).all()
    codes = torch.cat([tokenizer.encode(clip).indices.flatten() for clip in loud])
    assert len(codes.unique()) > 0.5 * len(codes)


@torch.inference_mode()
def test_the_start_is_linear_in_log_mel_bands() -> None:
    part, x = encoder(trained=False), sounds()
    mel = MelEncoder(RATE, 20, 256, 64, "same", floor=1e-5)(x)
    rows, biases = cepstrum(4, 20)
    torch.testing.assert_close(part(x), (mel + 0.4) / 2.4 @ rows.T + biases, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("framing", ["same", "center"])
def test_context_is_how_far_a_latent_reads(framing: str) -> None:
    torch.manual_seed(0)
    part = SpectralEncoder(4, RATE, 64, 256, 20, width=16, depth=2, framing=framing).eval()  # type: ignore[arg-type]
    torch.nn.init.normal_(part.head.weight, std=0.5)
    assert part.context is not None
    before, behind = part.context
    x, frame = sounds(1), 47
    plain = part(x)[0, frame]
    for sample, seen in (
        (frame * 64 - before - 1, False),
        (frame * 64 - before + 2, True),  # the window is almost zero at its ends
        (frame * 64 + 63 + behind - 2, True),
        (frame * 64 + 63 + behind + 1, False),
    ):
        other = x.clone()
        other[..., sample] += 100.0
        assert torch.equal(part(other)[0, frame], plain) != seen


@torch.inference_mode()
def test_padding_changes_nothing() -> None:
    part, x, lengths = encoder(), sounds(3), torch.tensor([6000, 50, 3333])
    other = x.clone()
    for item, length in enumerate(lengths.tolist()):
        other[item, :, length:] = 0.9
    latents = part(other, lengths)
    assert latents.shape == (3, 94, 4)
    for item, length in enumerate(lengths.tolist()):
        alone = part(x[item : item + 1, :, :length])[0]
        torch.testing.assert_close(latents[item, : len(alone)], alone, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_long_sounds_join_exactly() -> None:
    """Encoder and decoder of the embedded model are local, so pieces of a second give what the whole gives."""
    torch.manual_seed(0)
    tokenizer = zoo.build("wavtokenizer_tiny").eval()
    x = read_audio(SPEECH / "cold_hearted.flac")[:, :60001]
    assert join_of(tokenizer, "encoder", 63) == join_of(tokenizer, "decoder", 63) == "exact"
    whole = tokenizer.encode(x[None])
    tokens = encode_long(tokenizer, x, seconds=1.0)
    assert float((tokens.indices == whole.indices).float().mean()) > 0.99  # ties of the rounding may fall otherwise
    pieces = decode_long(tokenizer, whole, seconds=1.0)
    torch.testing.assert_close(pieces.read(0, 60001), tokenizer.decode(whole)[0], rtol=1e-3, atol=1e-5)


@torch.inference_mode()
def test_more_latents_than_bands_start_as_zeros() -> None:
    part = SpectralEncoder(30, RATE, 64, 256, bands=20, width=16, depth=0).eval()
    latents = part(sounds(1))
    assert latents[..., :20].any((0, 1)).all() and not latents[..., 20:].any()
