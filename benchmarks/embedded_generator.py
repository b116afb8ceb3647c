"""What an embedded generator of pictures is worth: perplexity on held-out tokens, distance of its samples, and speed.

    python scripts/photo_crops.py data/open_photos/train data/photo_crops
    zoo export onedpiece_tiny_128 --tokens 64 --data data/photo_crops/val -o data/photo_tokens/val
    python benchmarks/embedded_generator.py gpt_tiny_photos --tokens data/photo_tokens/val \\
        --pictures data/photo_crops/val --json numbers.json

Perplexity is exp of the mean negative log-likelihood of a code under teacher forcing, over all codes of the folder. The
Frechet distance is that of EfficientNet-lite0's features, between samples and the pictures that the tokens were made
of, as many of each class as there are pictures of it; it is no gFID. Two rows bound it: "decoded" are the pictures
through the tokenizer at so many tokens, which no generator of these tokens can be expected to beat, and "shuffled" are
pictures of codes that are each drawn at their place from another picture, which know how often codes are but not how
they belong together. Tokens a second are of generation alone, at batch 16 and at batch 1, in wall-clock time.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

if __name__ == "__main__":  # a script's folder comes first on the path, where quantizers.py hides the package
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

import zoo
from zoo.generators.pipeline import Pipeline
from zoo.metrics import evaluate_samples
from zoo.store.files import replacing
from zoo.training.generation import Perplexity

BATCH = 16
NETWORK = "efficientnet_lite0"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="name of an embedded generator, or its folder")
    parser.add_argument("--tokens", type=Path, required=True, help="held-out tokens that `zoo export` wrote")
    parser.add_argument("--pictures", type=Path, required=True, help="the pictures that they were made of")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0], help="scales to sample with")
    parser.add_argument("--json", type=Path, default=None, help="file for the numbers")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    pipeline = Pipeline.load(options.model, device=options.device)
    data = zoo.TokenDataset(options.tokens)
    codes = torch.cat([data[number].tokens.indices for number in range(len(data))])
    labels = [int(data[number].label) for number in range(len(data))]
    numbers = {"perplexity": perplexity(pipeline, codes, labels)}
    numbers |= {f"tokens/s, batch {size}": speed(pipeline, size) for size in (1, BATCH)}
    sets = {
        "decoded": decoded(pipeline, codes),
        "shuffled": decoded(pipeline, shuffled(codes)),
        **{f"guidance {scale:g}": sampled(pipeline, labels, scale) for scale in options.guidance},
    }
    for name, pictures in sets.items():
        found = evaluate_samples(pictures, options.pictures, network=NETWORK, device=options.device)
        numbers |= {f"{number}, {name}": value for number, value in found.numbers.items()}
    console = Console()
    for name, value in numbers.items():
        console.print(f"{name:40} {value:12.4f}", highlight=False)
    if options.json is not None:
        setting = {"zoo": zoo.__version__, "torch": torch.__version__, "machine": platform.machine(), "seed": 0}
        setting |= {"threads": torch.get_num_threads(), "device": options.device, "pictures": len(codes)}
        with replacing(options.json) as draft:
            document = {"model": options.model, "setting": setting, "numbers": numbers}
            draft.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
        console.print(f"wrote {options.json}")


@torch.inference_mode()
def perplexity(pipeline: Pipeline, codes: Tensor, labels: Sequence[int]) -> float:
    """Of codes (I, N, 1) of so many items."""
    metric = Perplexity(pipeline.generator.vocabulary)
    for start in track(range(0, len(codes), BATCH), description="perplexity", transient=True):
        part = slice(start, start + BATCH)
        condition = torch.tensor(labels[part], device=pipeline.generator.device)
        nll = pipeline.generator.loss(codes[part].to(condition.device), condition).nll
        if nll is None:
            raise SystemExit("this generator has no likelihood of single codes")
        metric.update(nll.cpu())
    return float(metric.compute()["perplexity"])


def speed(pipeline: Pipeline, size: int) -> float:
    """Tokens a second of so many items together; the first run does not count."""
    labels = [number % (pipeline.generator.classes or 1) for number in range(size)]
    rates = []
    for _ in range(3):
        start = time.perf_counter()
        tokens = pipeline.tokens(labels, generator=torch.Generator(pipeline.generator.device).manual_seed(0))
        rates.append(tokens.indices.numel() / (time.perf_counter() - start))
    return max(rates[1:])


def decoded(pipeline: Pipeline, codes: Tensor) -> Iterator[Tensor]:
    """Batches of pictures (B, 3, H, W) of codes."""
    for start in range(0, len(codes), BATCH):
        tokens = pipeline.generator.vocabulary.tokens(codes[start : start + BATCH])
        yield torch.stack(list(pipeline.decode(tokens)))


def shuffled(codes: Tensor) -> Tensor:
    """Codes that come from another item at every place."""
    generator = torch.Generator().manual_seed(0)
    order = torch.stack([torch.randperm(len(codes), generator=generator) for _ in range(codes.shape[1])], dim=1)
    return codes.gather(0, order[..., None].expand_as(codes))


def sampled(pipeline: Pipeline, labels: Sequence[int], guidance: float) -> Iterator[Tensor]:
    """Batches of pictures that the generator draws, one a label."""
    generator = torch.Generator(pipeline.generator.device).manual_seed(0)
    for start in range(0, len(labels), BATCH):
        part = labels[start : start + BATCH]
        yield torch.stack(list(pipeline.decode(pipeline.tokens(part, guidance=guidance, generator=generator))))


if __name__ == "__main__":
    main()
