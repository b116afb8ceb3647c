"""Pitch and voicing: tones of known pitch, librosa's YIN, torchcrepe's own functions, and the formulas by numpy."""

from __future__ import annotations

import importlib.util
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from zoo.metrics import pitch as trackers
from zoo.metrics.pitch import CREPE, YIN, PitchAgreement, Track

RATE = 16000


def tone(hertz: Tensor) -> Tensor:
    """A voice of eight harmonics with this pitch at every sample."""
    phase = 2 * math.pi * hertz.double().cumsum(0) / RATE
    return 0.3 * torch.stack([torch.sin(number * phase) / number for number in range(1, 9)]).sum(0).float()


def glide(low: float, high: float, seconds: float = 1.0) -> Tensor:
    return torch.linspace(low, high, int(seconds * RATE))


def noise(count: int, seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(count, generator=torch.Generator().manual_seed(seed))


def need(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


@pytest.mark.parametrize(("low", "high"), [(60, 90), (120, 240), (400, 520)])
def test_yin_follows_a_glide(low: float, high: float) -> None:
    hertz = glide(low, high)
    track = YIN()(tone(hertz))
    # A difference of windows tells the pitch in their middle, a period or so before that of the frame.
    truth = hertz.unfold(0, 1024, 160)[:, 512]
    assert len(track.pitch) == 1 + (RATE - 1024) // 160 and not track.pitch.isnan().any()
    cents = 1200 * (track.pitch / truth).log2().abs()
    assert cents.max() < 40 and cents.median() < 15
    assert track.periodicity.min() > 0.95


def test_yin_is_that_of_librosa() -> None:
    need("librosa")
    import librosa

    x = tone(glide(137, 137)) + noise(RATE, 1) * 0.05
    track = YIN()(x)
    theirs = librosa.yin(
        x.numpy(), fmin=50, fmax=550, sr=RATE, frame_length=1024, hop_length=160, center=False, trough_threshold=0.1
    )
    cents = 1200 * np.abs(np.log2(track.pitch.numpy() / theirs))
    assert len(theirs) == len(track.pitch) and np.median(cents) < 3 and cents.max() < 20


def test_silence_and_noise_are_unvoiced() -> None:
    for x in (torch.zeros(4000), 1e-5 * tone(glide(100, 100, 0.25)), noise(RATE)):
        assert YIN()(x).pitch.isnan().float().mean() > 0.95
    assert not YIN()(torch.zeros(4000)).periodicity.any()


def test_level_is_that_of_librosa() -> None:
    need("librosa")
    import librosa

    x = tone(glide(100, 200)) * torch.linspace(0, 1, RATE)
    frames = x.unfold(0, 1024, 160).numpy() * np.hanning(1025)[:-1]
    power = np.abs(np.fft.rfft(frames)).T ** 2
    with np.errstate(divide="ignore"):
        expected = librosa.perceptual_weighting(power, librosa.fft_frequencies(sr=RATE, n_fft=1024)) - 20
    np.testing.assert_allclose(trackers._level(x).numpy(), expected.mean(0), atol=2e-3)


@pytest.mark.parametrize(("size", "seconds"), [("tiny", 0.6), ("full", 0.1)])
def test_crepe_is_that_of_torchcrepe(size: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    need("torchcrepe")
    import torchcrepe

    x = tone(glide(150, 155, seconds))
    monkeypatch.setattr(trackers, "BATCH", 7)
    track = CREPE(size)(x)  # type: ignore[arg-type]
    pitch, periodicity = torchcrepe.predict(
        x[None], RATE, 160, 50, 550, size, torchcrepe.decode.viterbi, return_periodicity=True, pad=False
    )
    torch.testing.assert_close(track.periodicity, periodicity[0], rtol=0, atol=1e-5)
    voiced = ~track.pitch.isnan()
    assert torch.equal(voiced, periodicity[0] >= 0.21) and voiced.float().mean() > 0.5
    cents = 1200 * (track.pitch[voiced] / pitch[0][voiced]).log2().abs()
    assert cents.max() < 20.1  # the dither that torchcrepe adds
    again = CREPE(size)(x)  # type: ignore[arg-type]
    torch.testing.assert_close(again.pitch, track.pitch, rtol=0, atol=0, equal_nan=True)


class Stored:
    """A tracker that knows the answers."""

    def __init__(self, *tracks: Track) -> None:
        self.tracks = list(tracks)

    def __call__(self, x: Tensor) -> Track:
        return self.tracks[int(x[0] * 10)]

    def details(self) -> dict[str, object]:
        return {"tracker": "stored"}


def track(hertz: list[float], sure: list[float]) -> Track:
    return Track(torch.tensor(hertz), torch.tensor(sure))


def test_numbers_are_those_of_their_formulas() -> None:
    nan = math.nan
    said = track([100, 110, nan, 130, nan, 150], [0.9, 0.8, 0.1, 0.7, 0.0, 0.6])
    heard = track([101, nan, 120, 128, nan, 153], [0.8, 0.2, 0.5, 0.7, 0.0, 0.9])
    metric = PitchAgreement(RATE, Stored(said, heard))
    x = torch.zeros(2, 1, 2000)
    x[1] = 0.1
    metric.update(x[1:], x[:1])
    found = {name: float(value) for name, value in metric.compute().items()}
    one, two = np.array([101, 128, 153.0]), np.array([100, 130, 150.0])
    precision, recall = 3 / 4, 3 / 4
    expected = {
        "vuv_f1": 2 * precision * recall / (precision + recall),
        "periodicity": math.sqrt(np.mean(np.square([0.1, 0.6, 0.4, 0, 0, 0.3]))),
        "rmse_cents": math.sqrt(np.mean((1200 * np.log2(one / two)) ** 2)),
        "rmse_hz": math.sqrt(np.mean((one - two) ** 2)),
        "correlation": np.corrcoef(np.log2(one), np.log2(two))[0, 1],
    }
    assert found == pytest.approx(expected, abs=1e-6)


def test_what_is_not_defined_is_left_out_number_by_number() -> None:
    metric = PitchAgreement(RATE, YIN())
    voice = tone(glide(100, 150, 0.5))[None, None]
    metric.update(torch.zeros_like(voice), voice)  # all voicing lost
    metric.update(voice[..., :500], voice[..., :500])  # too short
    metric.update(voice, voice)
    found = metric.compute()
    assert metric.skipped.tolist() == [2, 1, 2, 2, 2] and metric.count.tolist() == [1, 2, 1, 1, 1]
    assert found["vuv_f1"] == 1 and found["rmse_cents"] == 0 and found["correlation"] == pytest.approx(1)
    assert found["periodicity"] > 0.4
    assert metric.details()["tracker"] == "YIN"


def test_a_constant_pitch_has_no_correlation() -> None:
    metric = PitchAgreement(RATE, Stored(track([100, 100], [1, 1]), track([100, 101], [1, 1])))
    x = torch.zeros(1, 1, 2000)
    metric.update(x + 0.1, x)
    assert math.isnan(metric.compute()["correlation"]) and metric.skipped.tolist() == [0, 0, 0, 0, 1]


def test_originals_are_followed_once() -> None:
    asked: list[float] = []

    def follow(x: Tensor) -> Track:
        asked.append(float(x.sum()))
        return track([100.0, 110.0], [1, 1])

    metric = PitchAgreement(RATE, follow)  # type: ignore[arg-type]
    x = noise(2000)[None, None]
    for scale in (0.5, 0.25):
        metric.update(scale * x, x)
    assert len(asked) == 3


def test_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="full or tiny"):
        CREPE("huge")  # type: ignore[arg-type]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"torchcrepe: pip install tokenizer-zoo\[pitch\]"):
        CREPE()
