"""Distances of waveforms: what they must hold whatever their numbers."""

from __future__ import annotations

import copy
import math
import time

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

from zoo.objectives import MelLoss, SISDRLoss, STFTLoss, WaveformLoss
from zoo.objectives.audio.spectrum import STFT, Waveform

RATE = 16000
LOSSES = {
    "mel": MelLoss(RATE),
    "vocos": MelLoss(RATE, [1024], [100], scale="htk", base="e", floor=1e-7),
    "encodec": MelLoss(
        RATE, (64, 512), (64, 64), log_l1=0, log_l2=1, magnitude_l1=1, normalized=True, reduction="mean"
    ),
    "stft": STFTLoss(),
    "l1": WaveformLoss(1),
    "l2": WaveformLoss(2),
}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.1


@pytest.fixture(params=LOSSES)
def loss(request: pytest.FixtureRequest) -> nn.Module:
    return LOSSES[request.param]


def test_zero_on_equality_and_above_elsewhere(loss: nn.Module) -> None:
    x = noise(2, 2, 3000)
    assert loss(x, x) == 0
    assert loss(x + 0.1 * noise(2, 2, 3000, seed=1), x) > 0


def test_finite_on_silence_and_on_any_length(loss: nn.Module) -> None:
    for length in (1, 7, 1023, 2048):
        silence = torch.zeros(1, 1, length, requires_grad=True)
        for target in (torch.zeros(1, 1, length), noise(1, 1, length)):
            value = loss(silence, target)
            (gradient,) = torch.autograd.grad(value, silence)
            assert value.isfinite() and gradient.isfinite().all()


def test_channels_are_recordings(loss: nn.Module) -> None:
    x, y = noise(2, 2, 2500), noise(2, 2, 2500, seed=1)
    torch.testing.assert_close(loss(x, y), loss(x.reshape(4, 1, -1), y.reshape(4, 1, -1)))


def test_no_autocast_and_no_half_precision(loss: nn.Module) -> None:
    x, y = noise(1, 1, 4096), noise(1, 1, 4096, seed=1)
    plain = loss(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(x, y), plain)
    assert torch.equal(copy.deepcopy(loss).half()(x, y), plain)  # windows and filters keep float32
    half = loss((x * 100).half(), (y * 100).half())
    assert half.dtype == torch.float32 and half.isfinite()


def test_built_on_the_meta_device() -> None:
    x, y = noise(1, 1, 4096), noise(1, 1, 4096, seed=1)
    with torch.device("meta"):
        losses = MelLoss(RATE), STFTLoss()
    assert not losses[0].state_dict()
    assert torch.equal(losses[0](x, y), LOSSES["mel"](x, y))
    assert torch.equal(losses[1].to_empty(device="cpu")(x, y), LOSSES["stft"](x, y))


def test_gradients_descend(loss: nn.Module) -> None:
    target, x = noise(1, 1, 3000), noise(1, 1, 3000, seed=1).requires_grad_()
    value = loss(x, target)
    (gradient,) = torch.autograd.grad(value, x)
    assert loss(x - 1e-3 * gradient / gradient.abs().max(), target) < value


def test_a_tone_off_by_an_octave_is_further_than_one_off_by_a_third() -> None:
    time = torch.arange(8000) / RATE
    tones = {hertz: 0.5 * torch.sin(2 * math.pi * hertz * time)[None, None] for hertz in (440, 550, 880)}
    mel = LOSSES["vocos"]
    assert mel(tones[880], tones[440]) > mel(tones[550], tones[440]) > 0


def test_sisdr_is_that_of_torchmetrics() -> None:
    x, y = noise(3, 1, 2000), noise(3, 1, 2000) + noise(3, 1, 2000, seed=2)
    expected = -scale_invariant_signal_distortion_ratio(y, x, zero_mean=True).mean()
    torch.testing.assert_close(SISDRLoss()(y, x), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(SISDRLoss()(3 * y + 0.5, x), expected, rtol=1e-3, atol=1e-3)
    assert SISDRLoss()(torch.zeros(1, 1, 100), torch.zeros(1, 1, 100)).isfinite()


@pytest.mark.parametrize(("padding", "frames"), [("center", 1000 // 128 + 1), ("stride", 8), ("none", 4)])
def test_frames(padding: str, frames: int) -> None:
    assert STFT(512, padding=padding)(noise(2, 3, 1000)).shape == (2, 3, 257, frames)  # type: ignore[arg-type]


def test_a_waveform_computes_each_spectrum_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    real = torch.stft
    monkeypatch.setattr(torch, "stft", lambda *args, **kwargs: calls.append(args[1]) or real(*args, **kwargs))
    ours, theirs = Waveform(noise(1, 1, 4096).requires_grad_()), Waveform(noise(1, 1, 4096, seed=1))
    LOSSES["stft"](ours, theirs)
    assert sorted(calls) == [512, 512, 2048, 2048]
    LOSSES["mel"](ours, theirs)
    assert len(calls) == 4 + 2 * 5  # the windows of 512 and 2048 were there
    detached = ours.detach()
    LOSSES["stft"](detached, theirs)
    assert len(calls) == 14 and not STFT(512)(detached).requires_grad


def test_spectra_without_gradient_serve_nothing_that_learns() -> None:
    wave, stft = Waveform(noise(1, 1, 1000).requires_grad_()), STFT(256)
    with torch.no_grad():
        assert not stft(wave).requires_grad
    assert stft(wave).requires_grad


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"\(B, C, T\)"):
        LOSSES["mel"](torch.zeros(2, 100), torch.zeros(2, 100))
    with pytest.raises(ValueError, match="as many windows as bands"):
        MelLoss(RATE, (512,), (40, 80))
    with pytest.raises(ValueError, match="base"):
        MelLoss(RATE, base=2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="padding"):
        STFT(512, padding="same")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="order"):
        WaveformLoss(3)  # type: ignore[arg-type]


def test_all_seven_resolutions_cost_a_fraction_of_real_time() -> None:
    torch.set_num_threads(1)
    x, y = noise(4, 1, 24000).requires_grad_(), noise(4, 1, 24000, seed=1)
    loss = MelLoss(24000)
    loss(x, y).backward()
    start = time.process_time()
    loss(x, y).backward()
    assert time.process_time() - start < 2  # four seconds of sound; about 0.15 s of one core
