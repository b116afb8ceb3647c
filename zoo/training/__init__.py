"""Training: `train(recipe, overrides)`, or `python -m zoo.training RECIPE key=value ...` under torchrun and SLURM."""

from zoo.training.export import export_checkpoint
from zoo.training.run import train

__all__ = ["export_checkpoint", "train"]
