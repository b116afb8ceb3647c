"""Measures of sounds: how the metrics of `zoo.metrics` are built and fed.

Options of every measure are those of its function here. `rate` is the sample rate, Hz, at which it looks; None for the
rate at which the protocol's view brings reconstruction and original together.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from zoo.evaluation.measures.base import Context, Measure, Number

if TYPE_CHECKING:
    from torchmetrics import Metric

    from zoo.evaluation.outcome import Outcome
    from zoo.metrics.words import WordErrorRate

__all__ = ["MEASURES"]


def rate_of(context: Context) -> int:
    """Hz at which the view offers sounds."""
    from zoo.evaluation.views.sounds import SoundOptions

    return SoundOptions.read(context.view).sample_rate


def feed(metric: Any, outcome: Outcome) -> None:
    """Give a batch of sounds to a metric."""
    metric.update(outcome.output, outcome.target, outcome.lengths)


def feed_words(metric: WordErrorRate, outcome: Outcome) -> None:
    """Give a batch of sounds to a metric of words, with their names, under which transcripts are found."""
    metric.update(outcome.output, outcome.target, outcome.lengths, outcome.names)


def utmos(context: Context) -> Metric:
    """UTMOS; the checkpoint is fetched from the hub, or is `--weights utmos=FILE`."""
    from zoo.metrics.utmos import UTMOS

    return UTMOS(rate_of(context), weights=context.weights.get("utmos"))


def dnsmos(context: Context) -> Metric:
    """DNSMOS, by the networks inside speechmos."""
    from zoo.metrics.dnsmos import DNSMOS

    return DNSMOS(rate_of(context))


def pesq(context: Context, *, band: Literal["wide", "narrow"] = "wide") -> Metric:
    """PESQ, wide band at 16 kHz or narrow band at 8 kHz."""
    from zoo.metrics.speech import PESQ

    return PESQ(rate_of(context), band=band)


def stoi(context: Context, *, rate: int | None = None) -> Metric:
    """STOI."""
    from zoo.metrics.speech import STOI

    return STOI(rate_of(context), rate=rate)


def estoi(context: Context, *, rate: int | None = None) -> Metric:
    """The extended STOI."""
    from zoo.metrics.speech import STOI

    return STOI(rate_of(context), extended=True, rate=rate)


def si_sdr(context: Context, *, rate: int | None = None) -> Metric:
    """SI-SDR of the sounds as they are."""
    from zoo.metrics.delay import SISDR

    return SISDR(rate_of(context), rate=rate)


def si_sdr_aligned(context: Context, *, window: float = 0.02, rate: int | None = None) -> Metric:
    """SI-SDR at the best whole delay of up to `window` seconds either way."""
    from zoo.metrics.delay import SISDR

    return SISDR(rate_of(context), window=window, rate=rate)


def sdr(context: Context, *, rate: int | None = None) -> Metric:
    """Ratio of the original to the difference, dB, without any scaling."""
    from zoo.metrics.delay import SDR

    return SDR(rate_of(context), rate=rate)


def mel_distance(
    context: Context, *, scales: Literal["vocos", "dac", "codec_superb"] = "vocos", rate: int | None = None
) -> Metric:
    """Distance of log-mel spectra: Vocos' and WavTokenizer's single scale, DAC's seven, or Codec-SUPERB's two."""
    from zoo.metrics.spectra import LogMelDistance, MelDistance

    if scales == "vocos":
        return LogMelDistance(rate_of(context), rate=rate)
    return MelDistance(rate_of(context), scales, rate=rate)


def stft_distance(context: Context, *, windows: Sequence[int] = (2048, 512), rate: int | None = None) -> Metric:
    """Distance of spectra in several resolutions: that of DAC and Codec-SUPERB."""
    from zoo.metrics.spectra import STFTDistance

    return STFTDistance(rate_of(context), windows, rate=rate)


def waveform_distance(context: Context, *, rate: int | None = None) -> Metric:
    """Mean absolute difference of samples."""
    from zoo.metrics.spectra import WaveformDistance

    return WaveformDistance(rate_of(context), rate=rate)


def pitch(context: Context, *, size: Literal["full", "tiny"] = "full") -> Metric:
    """Pitch and voicing by CREPE."""
    from zoo.metrics.pitch import CREPE, PitchAgreement

    return PitchAgreement(rate_of(context), CREPE(size))


def pitch_yin(context: Context) -> Metric:
    """Pitch and voicing by YIN."""
    from zoo.metrics.pitch import YIN, PitchAgreement

    return PitchAgreement(rate_of(context), YIN())


def speaker_similarity(context: Context, *, network: str = "microsoft/wavlm-base-plus-sv") -> Metric:
    """Cosine of x-vectors; the network is a hub id, or `--weights speaker=FOLDER`."""
    from zoo.metrics.speaker import SpeakerSimilarity, XVector

    given = context.weights.get("speaker")
    return SpeakerSimilarity(rate_of(context), XVector(network if given is None else given))


def wer(
    context: Context,
    *,
    recognizer: str = "pocketsphinx",
    language: str | None = None,
    transcripts: str | None = None,
) -> Metric:
    """Word and character errors of a recogniser: "pocketsphinx", or a hub id for transformers' pipeline.

    What was said is what the recogniser reads in the original; or, with the folder `transcripts`, the text of its file
    `NAME.txt` for the sound NAME (a data folder with captions beside the sounds is such a folder).
    """
    from zoo.metrics.recognizers import PocketSphinx, Recognizer, SpeechPipeline
    from zoo.metrics.words import Transcripts, WordErrorRate

    given = context.weights.get("recognizer")
    reader: Recognizer
    if recognizer == "pocketsphinx":
        reader = PocketSphinx()
    else:
        reader = SpeechPipeline(recognizer if given is None else given, language=language, device=context.device)
    return WordErrorRate(
        rate_of(context), reader, transcripts=None if transcripts is None else Transcripts(transcripts)
    )


def describe(metric: Any) -> dict[str, Any]:
    """What a metric says of itself."""
    return dict(metric.details())


def _pitch_numbers(name: str) -> dict[str, Number]:
    return {
        "vuv_f1": Number(f"V/UV F1 ({name})", "higher", digits=4),
        "periodicity": Number(f"periodicity RMSE ({name})", "lower", digits=4),
        "rmse_cents": Number(f"pitch RMSE ({name})", "lower", "cents", 1),
        "rmse_hz": Number(f"pitch RMSE ({name})", "lower", "Hz", 2),
        "correlation": Number(f"F0 correlation ({name})", "higher", digits=4),
    }


def _measure(
    name: str, build: Any, numbers: Number | dict[str, Number], *, extra: str = "", take: Any = feed
) -> Measure:
    given = {"": numbers} if isinstance(numbers, Number) else numbers
    return Measure(name, ("audio",), given, build, take, describe, extra=extra)


MEASURES: tuple[Measure, ...] = (
    _measure("utmos", utmos, Number("UTMOS", "higher"), extra="speech"),
    _measure(
        "dnsmos",
        dnsmos,
        {
            "overall": Number("DNSMOS", "higher"),
            "signal": Number("DNSMOS signal", "higher"),
            "background": Number("DNSMOS background", "higher"),
            "p808": Number("DNSMOS P.808", "higher"),
        },
        extra="speech",
    ),
    _measure("pesq", pesq, Number("PESQ", "higher"), extra="speech"),
    _measure("stoi", stoi, Number("STOI", "higher", digits=4), extra="speech"),
    _measure("estoi", estoi, Number("ESTOI", "higher", digits=4), extra="speech"),
    _measure("si_sdr", si_sdr, Number("SI-SDR", "higher", "dB", 2)),
    _measure("si_sdr_aligned", si_sdr_aligned, Number("SI-SDR, aligned", "higher", "dB", 2)),
    _measure("sdr", sdr, Number("SDR", "higher", "dB", 2)),
    _measure("mel_distance", mel_distance, Number("mel distance", "lower")),
    _measure("stft_distance", stft_distance, Number("STFT distance", "lower")),
    _measure("waveform_distance", waveform_distance, Number("waveform distance", "lower", digits=4)),
    _measure("pitch", pitch, _pitch_numbers("CREPE"), extra="pitch"),
    _measure("pitch_yin", pitch_yin, _pitch_numbers("YIN")),
    _measure("speaker_similarity", speaker_similarity, Number("speaker similarity", "higher"), extra="speech"),
    _measure(
        "wer",
        wer,
        {"words": Number("WER", "lower", "%", 1), "characters": Number("CER", "lower", "%", 1)},
        extra="words",
        take=feed_words,
    ),
)
