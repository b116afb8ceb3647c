"""Walks the folder of golden cases: numbers that the public reference implementations produced.

The folder is `$ZOO_GOLDEN`, by default `tests/golden/`, a small selection. It holds `FAMILY/CASE/` with `config.json`,
`state.safetensors` and `io.safetensors`, and `FAMILY/manifest-*.json` with the keys and shapes of a published file.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

__all__ = ["ROOT", "Case", "Manifest", "assert_equal", "cases", "manifests"]

ROOT = Path(os.environ.get("ZOO_GOLDEN") or Path(__file__).parent / "golden")


@dataclass(frozen=True)
class Case:
    """One golden case; files are read when asked for."""

    folder: Path

    @property
    def family(self) -> str:
        return self.folder.parent.name

    @property
    def id(self) -> str:
        return f"{self.family}/{self.folder.name}"

    @cached_property
    def description(self) -> dict[str, Any]:
        return json.loads((self.folder / "config.json").read_text())

    @property
    def config(self) -> dict[str, Any]:
        """The reference's own config, as `from_reference` takes it."""
        return self.description["config"]

    @property
    def reference(self) -> str:
        """Dotted name of the reference class."""
        return self.description["reference"]["class"]

    @property
    def state(self) -> dict[str, Tensor]:
        """The reference's state dict; empty where the reference has no weights."""
        file = self.folder / "state.safetensors"
        return load_file(file) if file.exists() else {}

    @cached_property
    def io(self) -> dict[str, Tensor]:
        """Inputs and outputs by name."""
        return load_file(self.folder / "io.safetensors")


@dataclass(frozen=True)
class Manifest:
    """Keys, shapes and published facts of one checkpoint."""

    file: Path

    @property
    def family(self) -> str:
        return self.file.parent.name

    @property
    def id(self) -> str:
        return f"{self.family}/{self.file.stem}"

    @cached_property
    def content(self) -> dict[str, Any]:
        return json.loads(self.file.read_text())

    @property
    def config(self) -> dict[str, Any]:
        return self.content["config"]

    @property
    def state(self) -> dict[str, Tensor]:
        """The state dict on the meta device."""
        return {key: torch.empty(shape, device="meta") for key, shape in self.content["state"].items()}


def cases(family: str = "*") -> Iterator[Case]:
    """All cases of the families that match a glob pattern, sorted."""
    for file in sorted(ROOT.glob(f"{family}/*/config.json")):
        yield Case(file.parent)


def manifests(family: str = "*") -> Iterator[Manifest]:
    """All manifests of the families that match a glob pattern, sorted."""
    for file in sorted(ROOT.glob(f"{family}/manifest-*.json")):
        yield Manifest(file)


def assert_equal(name: str, ours: Tensor, theirs: Tensor, *, relative: float = 1e-5) -> None:
    """Same shape; integers equal; floats within `relative` of the largest value of the tensor."""
    assert ours.shape == theirs.shape, f"{name}: shape {tuple(ours.shape)}, the reference has {tuple(theirs.shape)}"
    if not theirs.is_floating_point():
        differ = int((ours != theirs).sum())
        assert differ == 0, f"{name}: {differ} of {theirs.numel()} integers differ"
        return
    scale = theirs.abs().max().item() or 1.0
    error = (ours.double() - theirs.double()).abs().max().item() / scale
    assert error <= relative, f"{name}: relative error {error:.2e} is above {relative:.0e}"
