"""A small tokenizer that stands for all in these tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from zoo.tokenizer import Tokenizer


@pytest.fixture
def node() -> dict[str, Any]:
    size = {"image_size": 16, "patch_size": 4, "width": 16, "depth": 1, "heads": 2, "num_tokens": 6, "dim": 5}
    return {
        "_target_": "zoo.families.OneDPiece",
        "encoder": {"_target_": "encoders.ViT1D", **size},
        "quantizer": {"_target_": "quantizers.VQ", "dim": 5, "codebook_size": 32},
        "decoder": {"_target_": "decoders.ViT1DDecoder", **size},
    }


@pytest.fixture
def tokenizer(node: dict[str, Any]) -> Tokenizer:
    torch.manual_seed(0)
    return zoo.build(node).eval()


@pytest.fixture
def folder(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    return tokenizer.save_pretrained(tmp_path / "model")
