"""Speed of the 1D image tokenizers: images per second, and the share of the machine's matrix-multiply rate they reach.

    python benchmarks/image1d.py
    python benchmarks/image1d.py --models titok_s128_imagenet --batches 1 32 --device cuda --dtype bfloat16

Models have random weights; sizes come from the cards. FLOPs are counted by torch on the meta device (a multiply and an
add are two). The matrix-multiply rate is the best that a square product reached in this run up to that row, in the same
dtype and with the same threads; it is measured again for every row, because other work slows a shared machine down.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

if __name__ == "__main__":  # a script's folder comes first on the path, where quantizers.py hides the package
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import zoo.families
from zoo.store.build import build
from zoo.store.cards import card
from zoo.tokenizer import Tokenizer

MODELS = ("titok_s128_imagenet", "titok_b64_imagenet", "titok_l32_imagenet")
MATRIX = 2048


def random_model(name: str, device: str) -> Tokenizer:
    """The tokenizer that a card describes, without its weights."""
    family = getattr(zoo.families, card(name).family)
    return build(family.reference_recipe(card(name).config), device=device).eval()


def flops(call: Callable[[], object]) -> int:
    """FLOPs of one call; attention is counted as the two products it is made of."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def seconds(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Shortest time of several calls after one to warm up."""
    best = float("inf")
    for attempt in range(repeats + 1):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if attempt:
            best = min(best, time.perf_counter() - start)
    return best


def matmul_rate(repeats: int, device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a square matrix product."""
    a, b = (torch.randn(MATRIX, MATRIX, device=device, dtype=dtype) for _ in range(2))
    return 2 * MATRIX**3 / seconds(lambda: a @ b, 3 * repeats, device)


def measure(name: str, options: argparse.Namespace, peak: float) -> float:
    """Print the rows of one model; takes and returns the best matrix-multiply rate so far, FLOP/s."""
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    model, ghost = random_model(name, "cpu").to(device, dtype), random_model(name, "meta")
    if options.compile:
        model.encoder.compile()
        model.decoder.compile()
    shape = model.spec.input_shape
    image = torch.empty(1, *shape, device="meta")
    latents = torch.empty(1, model.spec.num_tokens, model.spec.dim, device="meta")
    work = {
        "encode": flops(lambda: ghost.quantizer(ghost.encoder(image))),
        "decode": flops(lambda: ghost.decode_latents(latents, None, shape[1:])),
    }
    for batch in options.batches:
        x = torch.rand(batch, *shape, device=device) * 2 - 1
        tokens = model.encode(x)
        calls = {"encode": lambda x=x: model.encode(x), "decode": lambda tokens=tokens: model.decode(tokens)}
        for part, call in calls.items():
            rate = batch / seconds(call, options.repeats, device)
            peak = max(peak, matmul_rate(options.repeats, device, dtype))
            print(
                f"{name:24} {part:8} {batch:5} {rate:10.2f} {work[part] / 1e9:13.1f} {rate * work[part] / 1e9:10.1f} "
                f"{peak / 1e9:10.1f} {rate * work[part] / peak:7.0%}",
                flush=True,
            )
    return peak


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, help="names of cards (default: %(default)s)")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: torch's choice)")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls; the fastest counts")
    parser.add_argument("--compile", action="store_true", help="run encoder and decoder through torch.compile")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {options.device}, {options.dtype}, {torch.get_num_threads()} CPU threads")
    print(
        f"{'model':24} {'part':8} {'batch':>5} {'images/s':>10} {'GFLOP/image':>13} {'GFLOP/s':>10} "
        f"{'matmul':>10} {'share':>7}"
    )
    with torch.inference_mode():
        peak = 0.0
        for name in options.models:
            peak = measure(name, options, peak)


if __name__ == "__main__":
    main()
