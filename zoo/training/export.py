"""From a checkpoint to a model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from zoo.store.build import build
from zoo.store.save import save_pretrained

__all__ = ["export_checkpoint"]


def export_checkpoint(path: str | Path, folder: str | Path) -> Path:
    """Write the averaged weights of a checkpoint as a model folder that `zoo.load` opens.

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
    state = checkpoint["state_dict"]
    prefix = "average." if any(name.startswith("average.") for name in state) else "tokenizer."
    tokenizer = build(checkpoint["recipe"]["tokenizer"])
    tokenizer.load_state_dict({name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)})
    return save_pretrained(tokenizer.eval(), folder)
