"""From a checkpoint to a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from zoo.generators.base import Generator
from zoo.store.build import build
from zoo.tokenizer import Tokenizer
from zoo.training.generation import make_generator

__all__ = ["export_checkpoint"]


def export_checkpoint(path: str | Path, folder: str | Path) -> Path:
    """Write the averaged weights of a checkpoint as a model folder, for `zoo.load` or `zoo.generators.pipeline.load`.

    Works for a run that ended, was killed, or still goes on.

    Args:
        path: a `.ckpt` file of `zoo.training`.
        folder: where `config.json`, `model.safetensors` and `README.md` go.

    Raises:
        ValueError: the file was not written by this training.
    """
    checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if "recipe" not in checkpoint:
        raise ValueError(f"{path} is no checkpoint of zoo.training; give a runs/NAME/checkpoints/step-N.ckpt")
    state, recipe = checkpoint["state_dict"], checkpoint["recipe"]
    kind = "generator" if "generator" in recipe else "tokenizer"
    prefix = "average." if any(name.startswith("average.") for name in state) else f"{kind}."
    model: Tokenizer | Generator = make_generator(recipe) if kind == "generator" else build(recipe["tokenizer"])
    model.load_state_dict({name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)})
    return model.eval().save_pretrained(folder)
