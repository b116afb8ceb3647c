"""One rank of `test_distributed.py`: trains quantizers on its own data and stores what it ends with.

Run as: python distributed_worker.py SCENARIO RANK WORLD FOLDER
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from quantizers import LFQ, VQ, Quantizer

VQ_OPTIONS: dict[str, dict[str, Any]] = {
    "ema": {"learn": "ema", "decay": 0.8},
    "ema_kmeans_revive": {"learn": "ema", "decay": 0.8, "kmeans_init": True, "dead_code_threshold": 0.3},
    "norm_ema": {"learn": "norm_ema", "normalize": True, "decay": 0.8, "dead_code_threshold": 0.3},
    "gradient_kmeans_revive": {"kmeans_init": True, "dead_code_threshold": 0.3, "decay": 0.8},
}


def batch(step: int, rank: int, tokens: int, dim: int) -> Tensor:
    """Data that differ over steps and ranks."""
    generator = torch.Generator().manual_seed(100 * step + rank)
    return torch.randn(2, tokens, dim, generator=generator) + rank


def train_vq(name: str, rank: int, connect: Callable[[], None]) -> dict[str, Tensor]:
    torch.manual_seed(rank)
    quantizer: Quantizer = VQ(4, 24, **VQ_OPTIONS[name]).train()
    connect()  # after construction, on purpose
    torch.manual_seed(1000 + rank)
    learned = bool(list(quantizer.parameters()))
    module = DistributedDataParallel(quantizer, broadcast_buffers=False) if learned else quantizer
    optimizer = torch.optim.SGD(quantizer.parameters(), 0.5) if learned else None
    for step in range(6):
        tokens = 0 if (step, rank) == (3, 1) and not learned else 20 + 5 * rank  # once, one rank has nothing
        out = module(batch(step, rank, tokens, 4))
        if optimizer is not None:
            optimizer.zero_grad()
            out.loss.backward()
            optimizer.step()
    return quantizer.state_dict()


def lfq_entropy(rank: int, connect: Callable[[], None]) -> dict[str, Tensor]:
    connect()
    z = (batch(0, rank, 5 + 3 * rank, 6) * 0.01).requires_grad_()
    parts = LFQ(6).train()(z).parts
    parts["batch_entropy"].backward()
    assert z.grad is not None
    return {"batch_entropy": parts["batch_entropy"].detach(), "gradient": z.grad}


def main() -> None:
    scenario, rank, world, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])

    def connect() -> None:
        dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=world)

    result = lfq_entropy(rank, connect) if scenario == "lfq" else train_vq(scenario, rank, connect)
    torch.save(result, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
