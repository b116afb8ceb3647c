"""Where numbers come from: digests of weights, versions, machines."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import zoo
from zoo.tokenizer import Tokenizer

__all__ = ["digest_of_facts", "digest_of_file", "digest_of_weights", "machine", "versions"]

PACKAGES = (
    "torch", "torchvision", "torchaudio", "torchmetrics", "numpy", "pillow", "scipy", "scikit-image", "torch-fidelity",
    "clean-fid", "lpips", "timm", "transformers", "pesq", "pystoi", "speechmos", "onnxruntime", "trimesh", "libigl",
)  # fmt: skip


def digest_of_weights(tokenizer: Tokenizer) -> str:
    """sha256 over names, types and values of parameters and buffers, whatever file they came from."""
    whole = hashlib.sha256()
    for key, tensor in sorted(tokenizer.state_dict().items()):
        whole.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        whole.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return whole.hexdigest()


def digest_of_file(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_facts(facts: Mapping[str, Any]) -> str:
    """sha256 of plain data."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Of tokenizer-zoo, Python and those packages that are installed and can change numbers."""
    found = {"tokenizer-zoo": zoo.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine(device: str) -> dict[str, Any]:
    """What numbers and speeds were measured on."""
    found: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
    }
    if device.startswith("cuda"):
        found |= {"device": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    elif device != "cpu":
        found["device"] = device
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
