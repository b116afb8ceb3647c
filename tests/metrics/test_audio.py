"""Fidelity of audio, beside other computations of the same numbers."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchaudio.transforms import MelSpectrogram
from torchmetrics import Metric
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

from zoo.metrics import DNSMOS, PESQ, SISDR, STOI, LogMelDistance
from zoo.metrics.audio import SDR, MelDistance, STFTDistance, WaveformDistance
from zoo.metrics.delay import best_delay, shifted

ROOT = Path(__file__).parents[2]
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


METRICS: dict[str, Callable[[], Metric]] = {
    "mel": lambda: LogMelDistance(RATE),
    "mel_dac": lambda: MelDistance(RATE),
    "stft": lambda: STFTDistance(RATE),
    "sisdr": lambda: SISDR(RATE),
    "aligned": lambda: SISDR(RATE, window=0.002),
    "sdr": lambda: SDR(RATE, rate=8000),
    "waveform": lambda: WaveformDistance(RATE),
}


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


@given(delay=st.integers(-40, 40), gain=st.sampled_from([1.0, 0.3, -2.0]), seed=st.integers(0, 100))
def test_any_delay_is_found_and_undone(delay: int, gain: float, seed: int) -> None:
    x = noise(1, 3000, seed=seed)
    late = gain * torch.roll(x, delay, -1)
    if delay:
        late[:, :delay] = 0 if delay > 0 else late[:, :delay]
    assert best_delay(late, x, 40).tolist() == [delay]
    ours, theirs = shifted(late, x, delay)
    torch.testing.assert_close(ours, gain * theirs)


def test_best_delay_is_where_scipy_correlates_most() -> None:
    signal = pytest.importorskip("scipy.signal")
    x = noise(4, 2000)
    y = torch.roll(x, 13, -1) + 0.5 * noise(4, 2000, seed=1)
    for ours, theirs, delay in zip(y.numpy(), x.numpy(), best_delay(y, x, 30).tolist(), strict=True):
        products = signal.correlate(ours, theirs, "full")
        lags = signal.correlation_lags(len(ours), len(theirs), "full")
        assert delay == lags[np.abs(products).argmax()] == 13
    assert best_delay(torch.zeros(1, 50), noise(1, 50), 20).tolist() == [0]


def test_an_early_codec_is_not_charged_for_it() -> None:
    """Eight samples early, as DAC at 16 kHz: tens of dB lost, or none where the delay is undone."""
    x = babble(1)
    early = torch.nn.functional.pad(x[..., 8:], (0, 8)) + 0.01 * noise(*x.shape, seed=2)
    plain, aligned = once(SISDR(RATE), early, x), once(SISDR(RATE, window=0.001), early, x)
    expected = scale_invariant_signal_distortion_ratio(early[..., :-8], x[..., 8:], zero_mean=True)
    assert aligned == pytest.approx(float(expected), abs=1e-3) and aligned > plain + 15
    assert once(SISDR(RATE, window=0.0001), early, x) < aligned - 15  # out of reach
    with pytest.raises(ValueError, match="window is 0"):
        SISDR(RATE, window=-1)


def test_sdr_is_a_ratio_of_powers() -> None:
    x = noise(3, 1, 2000)
    found = once(SDR(RATE), 0.9 * x, x)
    assert found == pytest.approx(20, abs=1e-4)
    assert once(SDR(RATE), x, x) == pytest.approx(100)
    metric = SDR(RATE)
    metric.update(x, torch.zeros_like(x))
    assert metric.skipped == 3


@pytest.mark.parametrize(
    ("scales", "windows", "bands"),
    [
        ("dac", (32, 64, 128, 256, 512, 1024, 2048), (5, 10, 20, 40, 80, 160, 320)),
        ("codec_superb", (2048, 512), (150, 80)),
    ],
)
def test_mel_distances_are_those_of_librosa(scales: str, windows: tuple[int, ...], bands: tuple[int, ...]) -> None:
    librosa = pytest.importorskip("librosa")
    x, y = noise(2, 1, 6000), noise(2, 1, 6000, seed=1)
    expected = 0.0
    for window, count in zip(windows, bands, strict=True):
        with np.errstate(all="ignore"):
            filters = librosa.filters.mel(sr=RATE, n_fft=window, n_mels=count)
        spectra = [
            filters @ np.abs(librosa.stft(z[:, 0].numpy(), n_fft=window, hop_length=window // 4, pad_mode="reflect"))
            for z in (x, y)
        ]
        logs = [np.log10(np.maximum(spectrum, 1e-5)) for spectrum in spectra]
        power = 2 if scales == "codec_superb" else 1
        expected += power * np.abs(logs[0] - logs[1]).mean()
        expected += np.abs(spectra[0] - spectra[1]).mean() if scales == "codec_superb" else 0
    assert once(MelDistance(RATE, scales), y, x) == pytest.approx(expected, rel=1e-4)  # type: ignore[arg-type]


def test_distances_of_spectra_and_samples_by_numpy() -> None:
    x, y = noise(2, 1, 6000), noise(2, 1, 6000, seed=1)
    expected = 0.0
    for window in (2048, 512):
        taps = np.hanning(window + 1)[:-1]
        ours, theirs = (
            np.abs(np.fft.rfft(np.lib.stride_tricks.sliding_window_view(padded, window, 1)[:, :: window // 4] * taps))
            for padded in (np.pad(z[:, 0].numpy(), ((0, 0), (window // 2,) * 2), "reflect") for z in (y, x))
        )
        expected += 2 * np.abs(np.log10(np.maximum(ours, 1e-5)) - np.log10(np.maximum(theirs, 1e-5))).mean()
        expected += np.abs(ours - theirs).mean()
    assert once(STFTDistance(RATE), y, x) == pytest.approx(expected, rel=1e-4)
    assert once(WaveformDistance(RATE), y, x) == pytest.approx(float((y - x).abs().mean()), rel=1e-6)
    with pytest.raises(ValueError, match="dac, codec_superb"):
        MelDistance(RATE, "other")  # type: ignore[arg-type]


def test_another_rate_is_resampled_to() -> None:
    from torchaudio.functional import resample

    x, y = noise(2, 1, 6000), noise(2, 1, 6000, seed=1)
    half = [resample(z, RATE, 8000) for z in (y, x)]
    assert once(SDR(RATE, rate=8000), y, x) == pytest.approx(once(SDR(8000), *half), abs=1e-6)
    assert SDR(RATE, rate=8000).details() == {"rate": 8000}


RANK = """
import sys
import torch
import torch.distributed as dist
from zoo.metrics.audio import SISDR, PitchAgreement, WordErrorRate
from zoo.metrics.pitch import YIN

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
x, y = torch.load(f"{folder}/sounds.pt")
found = []
for used in (3, 1):  # in the second epoch, rank 1 sees nothing
    words = WordErrorRate(16000, lambda z: "a b" if z[0] > 0 else "a")
    metrics = [SISDR(16000, window=0.001), PitchAgreement(16000, YIN()), words]
    for row in range(rank, used, 2):
        for metric in metrics:
            metric.update(y[row : row + 1], x[row : row + 1])
    found.append([metric.compute() for metric in metrics])
torch.save(found, f"{folder}/rank{rank}.pt")
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_ranks_measure_together(tmp_path: Path) -> None:
    from zoo.metrics.audio import PitchAgreement, WordErrorRate
    from zoo.metrics.pitch import YIN

    x = torch.cat([babble(0.5, seed=seed) for seed in range(3)])
    y = x + 0.05 * noise(*x.shape, seed=3)
    torch.save((x, y), tmp_path / "sounds.pt")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RANK]
    ranks = [subprocess.Popen([*command, str(rank), str(tmp_path)], env=environment) for rank in range(2)]
    try:
        assert [rank.wait(240) for rank in ranks] == [0, 0]
    finally:
        for process in ranks:
            process.kill()
    found = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    for epoch, used in enumerate((3, 1)):
        alone: list[Metric] = [SISDR(RATE, window=0.001), PitchAgreement(RATE, YIN())]
        alone.append(WordErrorRate(RATE, lambda z: "a b" if z[0] > 0 else "a"))  # type: ignore[arg-type]
        for number, metric in enumerate(alone):
            metric.update(y[:used], x[:used])
            for rank in range(2):
                torch.testing.assert_close(
                    found[rank][epoch][number], metric.compute(), rtol=1e-12, atol=1e-12, equal_nan=True
                )


def test_a_batch_that_fails_counts_nothing() -> None:
    """So that it can be given anew, item by item."""

    class Fragile(WaveformDistance):
        def score(self, output: Tensor, target: Tensor) -> Tensor:
            if output.shape[-1] == 50:
                raise RuntimeError("no")
            return super().score(output, target)

    metric = Fragile(RATE)
    with pytest.raises(RuntimeError, match="no"):
        metric.update(noise(2, 1, 100), noise(2, 1, 100), torch.tensor([100, 50]))
    assert metric.count == 0 and metric.total == 0


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
