"""Digests of files and of weights."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.export.format import File

if TYPE_CHECKING:
    from torch import nn

__all__ = ["describe_file", "file_digest", "weights_digest"]


def file_digest(path: Path) -> str:
    """sha256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_file(path: Path, name: str) -> File:
    """Size and digest of a file, under its name in the folder."""
    return File(name, path.stat().st_size, file_digest(path))


def weights_digest(module: nn.Module) -> str:
    """sha256 over the state of a model: name, dtype, shape and bytes of every tensor, by name.

    It is the same for the same numbers, whatever file or layout they were loaded from, and on every device.
    """
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
