"""One rank of `test_distributed.py`: trains quantizers on its own data and stores what it ends with.

Run as: python distributed_worker.py SCENARIO RANK WORLD FOLDER
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from quantizer_cases import CASES
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from quantizers import LFQ, VQ, Quantizer

VQ_OPTIONS: dict[str, dict[str, Any]] = {
    "ema": {"learn": "ema", "decay": 0.8},
    "ema_kmeans_revive": {"learn": "ema", "decay": 0.8, "kmeans_init": True, "dead_code_threshold": 0.3},
    "norm_ema": {"learn": "norm_ema", "normalize": True, "decay": 0.8, "dead_code_threshold": 0.3},
    "gradient_kmeans_revive": {"kmeans_init": True, "dead_code_threshold": 0.3, "decay": 0.8},
    "reference_bugs": {"learn": "ema", "decay": 0.8, "reference_bugs": True},
}


def batch(step: int, rank: int, tokens: int, dim: int) -> Tensor:
    """Data that differ over steps and ranks."""
    generator = torch.Generator().manual_seed(100 * step + rank)
    return torch.randn(2, tokens, dim, generator=generator) + rank


def train(quantizer: Quantizer, rank: int, tokens: Callable[[int], int], compiled: bool = False) -> dict[str, Tensor]:
    torch.manual_seed(1000 + rank)
    learned = any(parameter.requires_grad for parameter in quantizer.parameters())
    module: Any = quantizer
    if learned:
        module = DistributedDataParallel(quantizer, broadcast_buffers=False, find_unused_parameters=True)
    if compiled:
        module = torch.compile(quantizer, fullgraph=True, backend="aot_eager")
    optimizer = torch.optim.SGD(quantizer.parameters(), 0.5) if learned else None
    for step in range(6):
        z = batch(step, rank, tokens(step), quantizer.input_dim)
        mask = torch.arange(z.shape[1]).expand(2, -1) < z.shape[1] - rank
        out = module(z, mask)
        if optimizer is not None:
            optimizer.zero_grad()
            (out.loss + 0.01 * out.latents.square().mean()).backward()
            optimizer.step()
    return {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}


def train_cases(rank: int, connect: Callable[[], None]) -> dict[str, dict[str, Tensor]]:
    """Every case of the contract that keeps state, each built from another seed on each rank."""
    built: dict[str, Quantizer] = {}
    for name, case in CASES.items():
        if case.state:
            torch.manual_seed(rank)
            built[name] = case.make().train()
    connect()  # after construction, on purpose
    return {name: train(module, rank, lambda step, n=name: CASES[n].tokens) for name, module in built.items()}


def train_vq(name: str, rank: int, connect: Callable[[], None]) -> dict[str, Tensor]:
    torch.manual_seed(rank)
    quantizer = VQ(4, 24, **VQ_OPTIONS[name.removeprefix("compiled_")]).train()
    connect()
    learned = bool(list(quantizer.parameters()))

    def tokens(step: int) -> int:  # once, one rank has nothing
        return 0 if (step, rank) == (3, 1) and not learned else 20 + 5 * rank

    return train(quantizer, rank, tokens, compiled=name.startswith("compiled_"))


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

    result: Any
    if scenario == "lfq":
        result = lfq_entropy(rank, connect)
    elif scenario == "cases":
        result = train_cases(rank, connect)
    else:
        result = train_vq(scenario, rank, connect)
    torch.save(result, folder / f"rank{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
