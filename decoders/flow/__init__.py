"""Rectified flow: training, samplers and guidance, for any network that predicts velocities."""

from decoders.flow.guidance import AdaptiveProjected, ClassifierFree, Guidance, as_guidance
from decoders.flow.rectified import Noised, RectifiedFlow
from decoders.flow.samplers import METHODS, integrate, time_grid

__all__ = [
    "METHODS",
    "AdaptiveProjected",
    "ClassifierFree",
    "Guidance",
    "Noised",
    "RectifiedFlow",
    "as_guidance",
    "integrate",
    "time_grid",
]
