"""Losses and critics of waveforms (B, C, T) in [-1, 1]; spectra are float32 whatever the precision."""

from zoo.objectives.audio.adversary import Adversary
from zoo.objectives.audio.balancer import Balancer
from zoo.objectives.audio.distillation import SpeechDistillation
from zoo.objectives.audio.losses import MelLoss, SISDRLoss, STFTLoss, WaveformLoss
from zoo.objectives.audio.objective import AudioObjective
from zoo.objectives.audio.spectrum_critics import MultiBandCritic, MultiResolutionCritic, MultiScaleSTFTCritic
from zoo.objectives.audio.waveform_critics import MultiPeriodCritic, MultiScaleCritic

__all__ = [
    "Adversary",
    "AudioObjective",
    "Balancer",
    "MelLoss",
    "MultiBandCritic",
    "MultiPeriodCritic",
    "MultiResolutionCritic",
    "MultiScaleCritic",
    "MultiScaleSTFTCritic",
    "SISDRLoss",
    "STFTLoss",
    "SpeechDistillation",
    "WaveformLoss",
]
