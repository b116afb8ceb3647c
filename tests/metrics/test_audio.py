"""Fidelity of audio, beside other computations of the same numbers."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchaudio.transforms import MelSpectrogram
from torchmetrics import Metric
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

from zoo.metrics import DNSMOS, PESQ, SISDR, STOI, LogMelDistance

RATE = 16000


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 0.1


def babble(seconds: float, rate: int = RATE, seed: int = 0) -> Tensor:
    """(1, 1, T) like speech to a meter: harmonics of a gliding pitch in syllables of 0.2 s, with pauses."""
    time = torch.arange(int(seconds * rate)) / rate
    pitch = 120 + 30 * torch.sin(2 * math.pi * 0.7 * time + seed)
    phase = 2 * math.pi * pitch.cumsum(0) / rate
    voice = torch.stack([torch.sin(k * phase) / k for k in range(1, 20)]).sum(0)
    syllables = torch.sin(math.pi * 2.5 * time).square() * (torch.sin(math.pi * 0.6 * time + 1) > -0.6)
    return (0.25 * voice * syllables + 0.002 * noise(len(time), seed=seed))[None, None]


def need(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


def once(metric: Metric, output: Tensor, target: Tensor) -> float:
    metric.update(output, target)
    return float(metric.compute())


METRICS: dict[str, Callable[[], Metric]] = {"mel": lambda: LogMelDistance(RATE), "sisdr": lambda: SISDR(RATE)}


def test_log_mel_distance_is_that_of_torchaudio() -> None:
    x, y = noise(3, 2, 5000), noise(3, 2, 5000, seed=1)
    mel = MelSpectrogram(24000, n_fft=1024, hop_length=256, n_mels=100, power=1)
    expected = (mel(x).clamp(1e-7).log() - mel(y).clamp(1e-7).log()).abs().mean()
    assert once(LogMelDistance(24000), y, x) == pytest.approx(float(expected), rel=1e-4)
    assert once(LogMelDistance(24000), x, x) == 0
    assert once(LogMelDistance(24000), torch.zeros_like(x), x) > 5
    halved = once(LogMelDistance(24000), x / 2, x)
    assert halved == pytest.approx(math.log(2), rel=1e-3)


def test_sisdr_is_that_of_torchmetrics() -> None:
    x = noise(4, 1, 3000)
    y = x + 0.3 * noise(4, 1, 3000, seed=1)
    expected = scale_invariant_signal_distortion_ratio(y, x, zero_mean=True).mean()
    assert once(SISDR(RATE), y, x) == pytest.approx(float(expected), abs=1e-3)


@pytest.mark.parametrize("name", METRICS)
def test_recordings_weigh_the_same_however_they_are_batched(name: str) -> None:
    x, y = noise(5, 2, 4000), noise(5, 2, 4000, seed=1)
    lengths = torch.tensor([4000, 1200, 2500, 4000, 3999])
    whole, parts, alone = (METRICS[name]() for _ in range(3))
    whole.update(y, x, lengths)
    parts.update(y[:2], x[:2], lengths[:2])
    parts.update(y[2:], x[2:], lengths[2:])
    for item, length in enumerate(lengths.tolist()):
        alone.update(y[item : item + 1, :, :length], x[item : item + 1, :, :length])
    assert whole.count == parts.count == alone.count == 10
    for other in (parts, alone):
        torch.testing.assert_close(whole.compute(), other.compute())


def test_nothing_measured_and_nothing_to_measure() -> None:
    metric = SISDR(RATE)
    with pytest.warns(UserWarning, match="before the"):
        assert math.isnan(metric.compute())
    metric.reset()
    metric.update(noise(2, 1, 100), torch.zeros(2, 1, 100))
    assert math.isnan(metric.compute()) and metric.skipped == 2
    metric.reset()
    assert metric.skipped == 0


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"\(B, C, T\)"):
        LogMelDistance(RATE).update(noise(2, 100), noise(2, 100))
    with pytest.raises(ValueError, match="lengths from 1 to 100"):
        LogMelDistance(RATE).update(noise(2, 1, 100), noise(2, 1, 100), torch.tensor([100, 101]))
    with pytest.raises(ValueError, match="sample_rate"):
        LogMelDistance(0)
    with pytest.raises(ValueError, match="wide or narrow"):
        PESQ(RATE, band="super")  # type: ignore[arg-type]


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for metric, packages in ((STOI, "pystoi"), (PESQ, "pesq"), (DNSMOS, "speechmos and onnxruntime")):
        with pytest.raises(ModuleNotFoundError, match=rf"{packages}: pip install tokenizer-zoo\[speech\]"):
            metric(RATE)


def test_stoi_by_its_paper() -> None:
    need("pystoi")
    clean = babble(3, 10000)
    for scale in (0.05, 0.5):
        noisy = clean + scale * noise(*clean.shape, seed=4)
        expected = stoi_of_taal(clean[0, 0].double().numpy(), noisy[0, 0].clamp(-1, 1).double().numpy())
        assert once(STOI(10000), noisy, clean) == pytest.approx(expected, abs=2e-3)
    assert once(STOI(RATE), babble(2), babble(2)) == pytest.approx(1, abs=1e-4)


def test_stoi_skips_what_it_cannot_judge() -> None:
    need("pystoi")
    metric = STOI(RATE)
    for short in (noise(1, 1, 100), noise(1, 1, 3000), torch.zeros(1, 1, RATE)):
        metric.update(short, short)
    assert metric.skipped == 3 and metric.count == 0
    metric.update(torch.zeros(1, 1, RATE), babble(1))
    assert metric.count == 1 and metric.compute() < 0.05


def stoi_of_taal(clean: np.ndarray, degraded: np.ndarray) -> float:
    """STOI at 10 kHz, written out from Taal et al. 2011, section II."""
    frame, hop, bands, span, floor = 256, 128, 15, 30, -15.0
    window = np.hanning(frame + 2)[1:-1]
    starts = range(0, len(clean) - frame, hop)
    frames = [np.stack([window * x[start : start + frame] for start in starts]) for x in (clean, degraded)]
    energy = 20 * np.log10(np.linalg.norm(frames[0], axis=1) + 1e-15)
    loud = energy > energy.max() - 40
    signals = []
    for kept in (part[loud] for part in frames):
        joined = np.zeros((len(kept) - 1) * hop + frame)
        for number, piece in enumerate(kept):
            joined[number * hop : number * hop + frame] += piece
        signals.append(joined)
    spectra = []
    for x in signals:
        pieces = np.stack([window * x[start : start + frame] for start in range(0, len(x) - frame, hop)])
        spectra.append(np.abs(np.fft.rfft(pieces, 512)) ** 2)
    bins = np.linspace(0, 10000, 513)[:257]
    centres = 150 * 2.0 ** (np.arange(bands) / 3)
    edges = [(np.abs(bins - c * 2 ** (-1 / 6)).argmin(), np.abs(bins - c * 2 ** (1 / 6)).argmin()) for c in centres]
    x, y = (np.sqrt(np.stack([s[:, low:high].sum(1) for low, high in edges])) for s in spectra)
    scores = []
    for end in range(span, x.shape[1] + 1):
        ours, theirs = x[:, end - span : end], y[:, end - span : end]
        theirs = theirs * np.linalg.norm(ours, axis=1, keepdims=True) / np.linalg.norm(theirs, axis=1, keepdims=True)
        theirs = np.minimum(theirs, ours * (1 + 10 ** (-floor / 20)))
        ours, theirs = (z - z.mean(1, keepdims=True) for z in (ours, theirs))
        scores.append((ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1))
    return float(np.mean(scores))


def test_pesq_is_that_of_its_package_and_4_64_for_equals() -> None:
    need("pesq")
    from pesq import pesq

    clean = babble(2)
    noisy = clean + 0.1 * noise(*clean.shape, seed=5)
    assert once(PESQ(RATE), clean, clean) == pytest.approx(4.644, abs=1e-3)
    expected = pesq(RATE, clean[0, 0].numpy(), noisy[0, 0].numpy(), "wb")
    assert once(PESQ(RATE), noisy, clean) == pytest.approx(expected, abs=1e-6)
    resampled = once(PESQ(24000), babble(2, 24000) + 0.1 * noise(1, 1, 48000, seed=5), babble(2, 24000))
    assert 1 < resampled < 4.5
    assert once(PESQ(RATE, band="narrow"), clean, clean) == pytest.approx(4.549, abs=1e-3)


def test_pesq_of_silence() -> None:
    need("pesq")
    metric = PESQ(RATE)
    metric.update(noise(1, 1, RATE), torch.zeros(1, 1, RATE))
    metric.update(noise(1, 1, 500), noise(1, 1, 500))
    assert metric.skipped == 2 and metric.count == 0
    metric.update(torch.zeros(1, 1, 2 * RATE), babble(2))
    assert metric.count == 1 and float(metric.compute()) == pytest.approx(1.0427)


DNSMOS_SHORT = {"overall": 2.1225, "signal": 2.9534, "background": 2.7080, "p808": 2.8969}
DNSMOS_LONG = {"overall": 2.7823, "signal": 3.1229, "background": 3.7916, "p808": 2.7789}


def test_dnsmos_beside_the_code_of_speechmos() -> None:
    """Scores that `speechmos.dnsmos.run` 0.0.1.1 gave for these sounds; with librosa installed it is asked again."""
    need("speechmos", "onnxruntime")
    stored = {1.0: DNSMOS_SHORT, 11.3: DNSMOS_LONG}
    for seconds, expected in stored.items():
        x = babble(seconds) + 0.01 * noise(1, 1, int(seconds * RATE), seed=6)
        metric = DNSMOS(RATE)
        metric.update(x, x)
        found = {name: float(value) for name, value in metric.compute().items()}
        if importlib.util.find_spec("librosa") is not None:
            from speechmos import dnsmos

            theirs = dnsmos.run(x[0, 0].numpy(), RATE)
            keys = {"overall": "ovrl_mos", "signal": "sig_mos", "background": "bak_mos", "p808": "p808_mos"}
            expected = {name: float(theirs[key]) for name, key in keys.items()}
        assert found == pytest.approx(expected, abs=2e-3)


def test_dnsmos_hears_noise_in_speech() -> None:
    need("speechmos", "onnxruntime", "soundfile")
    import soundfile

    clip = sorted((Path(__file__).parents[2] / "docs/assets/speech").glob("*.flac"))[0]
    samples, rate = soundfile.read(clip, dtype="float32", always_2d=True)
    clean = torch.from_numpy(samples.T[None, :1, : 3 * rate].copy())
    values = []
    for x in (clean, clean + 0.3 * noise(*clean.shape, seed=7)):
        metric = DNSMOS(rate)
        metric.update(x, clean)
        values.append(float(metric.compute()["overall"]))
    assert values[0] > 2.5 > values[1] > 1


def test_lazy_names() -> None:
    import zoo.metrics

    assert zoo.metrics.LogMelDistance is LogMelDistance
    with pytest.raises(AttributeError, match="nonsense"):
        zoo.metrics.nonsense  # noqa: B018
