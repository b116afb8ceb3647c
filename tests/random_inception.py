"""The Inception of FID with random weights, for tests without network."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch
from torch import nn

from zoo.metrics.inception import FIDInception


@cache
def random_inception() -> Path:
    """A file of weights with the published keys, scaled so that features are neither tiny nor huge."""
    path = Path(mkdtemp()) / "inception.pth"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = FIDInception().net
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr, operator]
                module.running_var.uniform_(0.8, 1.2)  # type: ignore[union-attr, operator]
                module.weight.uniform_(0.8, 1.2)
                module.bias.normal_(0, 0.1)
        torch.save(net.state_dict(), path)
    return path
