"""Objectives: what a training minimises, as named terms; and the critics some of them train against."""

from zoo.objectives.alignment import Alignment
from zoo.objectives.audio import (
    Adversary,
    AudioObjective,
    Balancer,
    MelLoss,
    MultiBandCritic,
    MultiPeriodCritic,
    MultiResolutionCritic,
    MultiScaleCritic,
    MultiScaleSTFTCritic,
    SISDRLoss,
    SpeechDistillation,
    STFTLoss,
    WaveformLoss,
)
from zoo.objectives.discriminators import PatchCritic
from zoo.objectives.flow import FlowObjective
from zoo.objectives.gan import LeCAM, hinge_discriminator_loss, hinge_generator_loss
from zoo.objectives.image import ImageObjective
from zoo.objectives.perceptual import LPIPS, FeaturePerceptual, LogitPerceptual, MeanPerceptual
from zoo.objectives.proxy import ProxyObjective
from zoo.objectives.shape import DistanceObjective, GridObjective, OccupancyObjective
from zoo.objectives.vision_critic import DiffAugment, VisionCritic

__all__ = [
    "Adversary",
    "Alignment",
    "AudioObjective",
    "Balancer",
    "DiffAugment",
    "DistanceObjective",
    "LPIPS",
    "FeaturePerceptual",
    "FlowObjective",
    "GridObjective",
    "ImageObjective",
    "LeCAM",
    "LogitPerceptual",
    "MeanPerceptual",
    "MelLoss",
    "MultiBandCritic",
    "MultiPeriodCritic",
    "MultiResolutionCritic",
    "MultiScaleCritic",
    "MultiScaleSTFTCritic",
    "OccupancyObjective",
    "PatchCritic",
    "ProxyObjective",
    "SISDRLoss",
    "STFTLoss",
    "SpeechDistillation",
    "WaveformLoss",
    "VisionCritic",
    "hinge_discriminator_loss",
    "hinge_generator_loss",
]
