"""Pitch and voicing of reconstructed speech beside those of the original."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from zoo.metrics.recordings import RecordingMean, Remembered, require

__all__ = ["CREPE", "YIN", "PitchAgreement", "PitchTracker", "Track"]

RATE, FRAME, HOP = 16000, 1024, 160
LOWEST, HIGHEST = 50.0, 550.0
SILENCE = -60.0
BIN_CENTS = 1997.3794084376191  # of CREPE's lowest bin, above 10 Hz; one every 20
BATCH = 256  # frames that a network sees at once, about 1 MB of activations each


@dataclass(frozen=True, slots=True)
class Track:
    """The pitch of a recording in frames of 64 ms, one every 10 ms, none beyond its ends.

    Attributes:
        pitch: (L,) Hz, NaN where unvoiced.
        periodicity: (L,) how sure the tracker is of it, in [0, 1]; 0 in silence.
    """

    pitch: Tensor
    periodicity: Tensor


class PitchTracker(Protocol):
    """Follows the pitch of a sound."""

    def __call__(self, x: Tensor) -> Track:
        """(T,) float32 at 16 kHz, T >= 1024 -> L = 1 + (T - 1024) // 160 frames."""
        ...

    def details(self) -> dict[str, Any]:
        """What it is, as plain data."""
        ...


class PitchAgreement(RecordingMean):
    """How well pitch and voicing are kept. `compute` gives, as means over recordings:

    - "vuv_f1": F1 of the decision voiced or unvoiced, frame by frame, in [0, 1]; higher is better.
    - "periodicity": RMSE of the tracker's periodicity.
    - "rmse_cents", "rmse_hz": RMSE of the pitch where both are voiced.
    - "correlation": Pearson's, of the pitch in cents where both are voiced.

    The first three are those of CARGAN (arXiv 2110.10139) as Vocos and WavTokenizer report them. As there, a recording
    has no F1 where no frame is voiced in either or in both: a reconstruction that lost all voicing is skipped, not
    punished, and `skipped` says how often. Recordings of less than 64 ms are skipped.

    Args:
        sample_rate: Hz; resampled to 16 kHz.
        tracker: `CREPE()` is what published numbers are of; `YIN()` is fast.
        **kwargs: of `torchmetrics.Metric`.
    """

    higher_is_better = None
    names = ("vuv_f1", "periodicity", "rmse_cents", "rmse_hz", "correlation")

    def __init__(self, sample_rate: int, tracker: PitchTracker, **kwargs: Any) -> None:
        super().__init__(sample_rate, rate=RATE, **kwargs)
        self.tracker = tracker
        self.remembered = Remembered(tracker)

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """Numbers of each recording: (R, T) twice -> (R, 5); NaN where undefined."""
        if output.shape[-1] < FRAME:
            return torch.full((len(output), len(self.names)), torch.nan)
        pairs = zip(output, target, strict=True)
        return torch.stack([_agreement(self.tracker(ours), self.remembered(theirs)) for ours, theirs in pairs])

    def details(self) -> dict[str, Any]:
        """The tracker, and what counts as voiced."""
        return {
            **super().details(),
            **self.tracker.details(),
            "hertz": [LOWEST, HIGHEST],
            "hop_seconds": HOP / RATE,
            "silence_db": SILENCE,
        }


class CREPE:
    """The network of arXiv 1802.06182 as `torchcrepe` has it, with Viterbi decoding; its weights are in the package.

    Frames below -60 dB of A-weighted level have periodicity 0; below a periodicity of 0.21 a frame is unvoiced. Pitch
    is told in steps of 20 cents, without the random dither that torchcrepe adds: the same sound has the same pitch
    always, of which scripts that call `torchcrepe.predict` get an RMSE of about 11 cents. The full network takes
    several seconds of one processor core for a second of sound.

    Args:
        size: "full", of published numbers, or "tiny".

    Raises:
        ModuleNotFoundError: torchcrepe is not installed.
        ValueError: an unknown size.
    """

    voiced = 0.21

    def __init__(self, size: Literal["full", "tiny"] = "full") -> None:
        if size not in ("full", "tiny"):
            raise ValueError(f"CREPE is full or tiny, got {size!r}")
        require("pitch by CREPE", "pitch", "torchcrepe")
        self.size = size

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Track:
        """As `PitchTracker`; what `torchcrepe.predict` gives without padding, in bounded memory."""
        import torchcrepe

        net = _crepe(self.size).to(x.device)
        pieces = torchcrepe.preprocess(x[None], RATE, HOP, batch_size=BATCH, device=x.device, pad=False)
        # Decoded once over all frames: Viterbi's path must not begin anew with every batch.
        likely = torch.cat([net(frames) for frames in pieces]).T[None]
        pitch, periodicity = torchcrepe.core.postprocess(likely, LOWEST, HIGHEST, _decoded, return_periodicity=True)
        return _gated(x, pitch[0], periodicity[0], self.voiced)

    def details(self) -> dict[str, Any]:
        """The network, its decoder and the digest of its weights."""
        from zoo.metrics.weights import digest_of

        return {
            "tracker": f"CREPE {self.size}, torchcrepe {version('torchcrepe')}, Viterbi",
            "sha256": digest_of(_crepe_file(self.size)),
            "voiced_from": self.voiced,
        }


class YIN:
    """YIN (de Cheveigne and Kawahara 2002), without a network: fast, and with octave errors where speech is rough.

    Differences are of windows of 44 ms, normalised by their running mean (step 3); the first dip below `threshold`, or
    else the lowest place, is the period (step 4), refined by a parabola (step 5). Periodicity is 1 less the normalised
    difference there; frames below 0.4 are unvoiced. Silence counts as for `CREPE`.

    Args:
        threshold: of a dip.
    """

    voiced = 0.4

    def __init__(self, threshold: float = 0.1) -> None:
        self.threshold = threshold

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Track:
        """As `PitchTracker`."""
        difference = _normalised_difference(x.double().unfold(0, FRAME, HOP))
        least, most = math.floor(RATE / HIGHEST), math.ceil(RATE / LOWEST)
        inner = difference[:, least:most]
        dips = (inner <= difference[:, least - 1 : most - 1]) & (inner < difference[:, least + 1 : most + 1])
        below = dips & (inner < self.threshold)
        first = below.to(torch.int8).argmax(1)
        place = torch.where(below.any(1), first, inner.argmin(1)) + least
        before, here, after = (difference.gather(1, (place + step)[:, None])[:, 0] for step in (-1, 0, 1))
        bend = before - 2 * here + after
        shift = torch.where(bend > 0, (before - after) / (2 * bend.clamp_min(1e-12)), 0.0).clamp(-1, 1)
        return _gated(x, (RATE / (place + shift)).float(), (1 - here).clamp(0, 1).float(), self.voiced)

    def details(self) -> dict[str, Any]:
        """The algorithm and its thresholds."""
        return {"tracker": "YIN", "threshold": self.threshold, "voiced_from": self.voiced}


def _decoded(likely: Tensor) -> tuple[Tensor, Tensor]:
    """Bins (1, L) on Viterbi's path through (1, 360, L), and their pitch in Hz."""
    import torchcrepe

    bins, _ = torchcrepe.decode.viterbi(likely)
    # torchcrepe's own conversion adds random noise of up to 20 cents.
    return bins, 10 * 2 ** ((20 * bins + BIN_CENTS) / 1200)


def _agreement(ours: Track, theirs: Track) -> Tensor:
    """(5,) numbers of one recording, as `PitchAgreement.names`."""
    heard, said = ~ours.pitch.isnan(), ~theirs.pitch.isnan()
    both = heard & said
    # 0 / 0 where precision or recall is not defined, or both are 0
    f1 = 2 * both.sum() / (heard.sum() + said.sum()) if bool(both.any()) else torch.tensor(torch.nan)
    gap = (ours.periodicity - theirs.periodicity).double().square().mean().sqrt()
    hertz = torch.stack([ours.pitch, theirs.pitch])[:, both].double()
    cents = 1200 * hertz.log2()
    errors = [(one - two).square().mean().sqrt() for one, two in (cents, hertz)]
    return torch.stack([f1.double().to(gap), gap, *errors, _pearson(cents)])


def _pearson(pair: Tensor) -> Tensor:
    """Correlation of (2, n); NaN for less than two values, or none that differ."""
    centred = pair - pair.mean(1, keepdim=True)
    norms = centred.norm(dim=1)
    # What is left of equal numbers after rounding is no variation.
    if pair.shape[1] < 2 or bool((norms < 1e-6).any()):
        return pair.new_tensor(torch.nan)
    return (centred[0] @ centred[1]) / norms.prod()


def _gated(x: Tensor, pitch: Tensor, periodicity: Tensor, voiced: float) -> Track:
    """A track with no periodicity in silence and no pitch where there is too little periodicity."""
    periodicity = periodicity.masked_fill(_level(x) < SILENCE, 0.0)
    return Track(pitch.masked_fill(periodicity < voiced, torch.nan), periodicity)


def _level(x: Tensor) -> Tensor:
    """(T,) -> (L,) A-weighted level of frames: the mean over frequencies of dB, 20 dB lower, as CARGAN has it.

    Within 80 dB of the loudest place of the recording, as librosa's `power_to_db` limits it.
    """
    window = torch.hann_window(FRAME, device=x.device)
    power = torch.fft.rfft(x.unfold(0, FRAME, HOP) * window).abs().square()
    decibels = 10 * power.clamp_min(1e-10).log10()
    decibels = decibels.clamp_min(float(decibels.max()) - 80)
    return (decibels + _a_weighting(x.device)).mean(1) - 20


@lru_cache(maxsize=4)
def _a_weighting(device: torch.device) -> Tensor:
    """(FRAME // 2 + 1,) dB of the A curve (IEC 61672), at least -80."""
    square = torch.linspace(0, RATE / 2, FRAME // 2 + 1, dtype=torch.float64).square()
    gain = math.log10(12194.217**2) + 2 * square.clamp_min(1e-30).log10()
    for hertz, share in ((12194.217, 1.0), (20.598997, 1.0), (107.65265, 0.5), (737.86223, 0.5)):
        gain = gain - share * (square + hertz**2).log10()
    return (2 + 20 * gain).clamp_min(-80).float().to(device)


def _normalised_difference(frames: Tensor) -> Tensor:
    """(L, FRAME) float64 -> (L, lags): d'(lag) of YIN's Eq. 8, of a window that is the frame less the longest lag."""
    lags = math.ceil(RATE / LOWEST) + 2
    window = FRAME - lags
    energy = torch.nn.functional.pad(frames.square().cumsum(1), (1, 0))
    places = torch.arange(lags, device=frames.device)
    moving = energy[:, places + window] - energy[:, places]
    spectrum = torch.fft.rfft(frames, 2 * FRAME) * torch.fft.rfft(frames[:, :window], 2 * FRAME).conj()
    products = torch.fft.irfft(spectrum, 2 * FRAME)[:, :lags]
    difference = (moving[:, :1] + moving - 2 * products).clamp_min(0)
    mean = difference.cumsum(1) / places.clamp_min(1)
    # A silent frame repeats nothing: 1 everywhere.
    found = torch.where(mean > 0, difference / mean.clamp_min(1e-30), 1.0)
    found[:, 0] = 1
    return found


@lru_cache(maxsize=2)
def _crepe(size: str) -> Any:
    import torchcrepe

    net = torchcrepe.Crepe(size)
    net.load_state_dict(torch.load(_crepe_file(size), map_location="cpu", weights_only=True))
    return net.eval().requires_grad_(False)


def _crepe_file(size: str) -> Path:
    place = importlib.util.find_spec("torchcrepe")
    if place is None or not place.submodule_search_locations:
        raise ModuleNotFoundError("pitch by CREPE needs torchcrepe: pip install tokenizer-zoo[pitch]")
    return Path(next(iter(place.submodule_search_locations))) / "assets" / f"{size}.pth"
