"""Speed of the 1D image tokenizers: images per second, and the share of the machine's matrix-multiply rate they reach.

    python benchmarks/image1d.py
    python benchmarks/image1d.py --models titok_s128_imagenet --batches 1 32 --device cuda --dtype bfloat16

Models have random weights; sizes come from the cards. FLOPs are counted by torch on the meta device (a multiply and an
add are two). The matrix-multiply rate is the best that a square product reached in this run up to that row, in the same
dtype and with the same threads; it is measured again for every row. On the CPU a second is one of processor time per
thread, because other work slows a shared machine down.
A flow decoder has more rows: one step of its sampler, a guided step, the VAE, and all guided steps with the VAE
("decode"); its codes are not shortened.
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

MODELS = (
    "titok_s128_imagenet",
    "titok_b64_imagenet",
    "titok_l32_imagenet",
    "flextok_d12_d12_in1k",
    "restok_l_128",
)
MATRIX = 2048
Parts = dict[str, Callable[[], object]]


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
    """Shortest time of several calls after one to warm up; on the CPU, processor time per thread."""
    best = float("inf")
    for attempt in range(repeats + 1):
        start = now(device)
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if attempt:
            best = min(best, now(device) - start)
    return best


def now(device: torch.device) -> float:
    """A clock, seconds: other programs on a shared machine do not move that of the CPU."""
    return time.process_time() / torch.get_num_threads() if device.type == "cpu" else time.perf_counter()


def matmul_rate(repeats: int, device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a square matrix product."""
    a, b = (torch.randn(MATRIX, MATRIX, device=device, dtype=dtype) for _ in range(2))
    return 2 * MATRIX**3 / seconds(lambda: a @ b, 3 * repeats, device)


def one_step_parts(model: Tokenizer, batch: int, *, traced: bool = False) -> Parts:
    """Encoding and decoding; `traced` without what needs values."""
    spec = model.spec
    x = torch.zeros(batch, *spec.input_shape, device=model.device)
    if traced:
        latents = torch.zeros(batch, spec.num_tokens, spec.dim, device=model.device)
        return {
            "encode": lambda: model.quantizer(model.encode_latents(x)),
            "decode": lambda: model.decode_latents(latents, None, spec.input_shape[1:]),
        }
    x = x.uniform_(-1, 1)
    tokens = model.encode(x)
    return {"encode": lambda: model.encode(x), "decode": lambda: model.decode(tokens)}


def flow_parts(model: zoo.families.FlexTok, batch: int, *, traced: bool = False) -> Parts:
    """As `one_step_parts`, with the parts of which decoding is made."""
    spec, decoder = model.spec, model.decoder
    cells = [side // model.downsample for side in spec.input_shape[1:]]
    noised = torch.zeros(batch, decoder.channels, *cells, device=model.device)
    latents = torch.zeros(batch, spec.num_tokens, spec.dim, device=model.device)
    registers, null = decoder.training_registers(latents), decoder.null(batch)
    modulations = decoder.modulations(torch.zeros(1, device=model.device))
    x = torch.zeros(batch, *spec.input_shape, device=model.device)
    steps: Parts = {
        "step": lambda: decoder(noised, modulations, registers),
        "guided": lambda: decoder(noised, modulations, registers, null),
        "vae": lambda: model.to_image(noised),
    }
    if not traced:
        tokens = model.encode(x)
        return {"encode": lambda: model.encode(x), **steps, "decode": lambda: model.decode(tokens)}

    def decode() -> None:
        for _ in range(model.steps):
            steps["guided"]()
        steps["vae"]()

    return {"encode": lambda: model.encoder(model.to_map(x)), **steps, "decode": decode}


def measure(name: str, options: argparse.Namespace, peak: float) -> float:
    """Print the rows of one model; takes and returns the best matrix-multiply rate so far, FLOP/s."""
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    model, ghost = random_model(name, "cpu").to(device, dtype), random_model(name, "meta")
    if options.compile:
        model.encoder.compile()
        model.decoder.compile()
    parts = flow_parts if isinstance(model, zoo.families.FlexTok) else one_step_parts
    work = {part: flops(call) for part, call in parts(ghost, 1, traced=True).items()}
    for batch in options.batches:
        for part, call in parts(model, batch).items():
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
