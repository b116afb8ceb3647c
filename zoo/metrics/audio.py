"""Fidelity of reconstructed audio over a whole epoch and all ranks, as torchmetrics metrics: all of them by name.

All read waveforms (B, C, T) in [-1, 1]. A channel of a clip counts as one recording, a recording's padding is cut off
before it is measured, and every recording has the same share in the mean.
"""

from zoo.metrics.delay import SDR, SISDR
from zoo.metrics.dnsmos import DNSMOS
from zoo.metrics.pitch import PitchAgreement
from zoo.metrics.recordings import RecordingMean
from zoo.metrics.speaker import SpeakerSimilarity
from zoo.metrics.spectra import LogMelDistance, MelDistance, STFTDistance, WaveformDistance
from zoo.metrics.speech import PESQ, STOI
from zoo.metrics.utmos import UTMOS
from zoo.metrics.words import WordErrorRate

__all__ = [
    "DNSMOS",
    "PESQ",
    "SDR",
    "SISDR",
    "STOI",
    "UTMOS",
    "LogMelDistance",
    "MelDistance",
    "PitchAgreement",
    "RecordingMean",
    "STFTDistance",
    "SpeakerSimilarity",
    "WaveformDistance",
    "WordErrorRate",
]
