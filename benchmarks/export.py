"""Pictures a second of `zoo export` against those of its tokenizer alone, in one run on one machine.

The model alone gets batches that are decoded and on the device already; the export reads, decodes and fits every file,
runs the model, and writes shards with all that belongs to them. Both take turns, and the ratio is the median over the
rounds, since shared machines have better and worse minutes. On a CPU, model and decoding share the processors: leave
some to the threads that decode (OMP_NUM_THREADS).

    python benchmarks/export.py --data photos/ --model titok_l32_imagenet --device cuda -b 128
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":  # a script's folder comes first on the path, where quantizers.py hides the package
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from zoo.export.job import open_worker
from zoo.export.local import run_local
from zoo.export.readers import Sample
from zoo.export.request import Request
from zoo.export.work import Worker
from zoo.store.build import build
from zoo.store.cards import list_models
from zoo.store.load import load
from zoo.tokenizer import Tokenizer

TARGET = 0.90


def open_model(name: str, device: str) -> tuple[Tokenizer, str]:
    """A model by its name, or a recipe with random weights: the same work."""
    if name in list_models():
        return load(name, device=device), "published weights"
    return build(name).eval().to(device), "a recipe with random weights"


def model_alone(worker: Worker, batches: list[torch.Tensor]) -> float:
    """Items a second of `encode`, on batches that wait on the device."""
    count = sum(map(len, batches))
    start = time.perf_counter()
    for batch in batches:
        worker.reader.encode(batch, None, [""] * len(batch))
    return count / (time.perf_counter() - start)


def whole_export(worker: Worker, request: Request, folder: Path, device: str) -> float:
    """Items a second of an export, opened beforehand as a long one would be."""
    own = open_worker(request, folder, device=device, workers=worker.threads, tokenizer=worker.reader.tokenizer)
    start = time.perf_counter()
    manifest = run_local(own)
    return manifest.items / (time.perf_counter() - start)


def main() -> None:
    """Measure, print, and with --json write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder, shards or hf:PATH of pictures")
    parser.add_argument("--model", default="onedpiece_tiny_128", help="name from `zoo list`, or a recipe")
    parser.add_argument("--to", default="parquet")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("-b", "--batch-size", type=int, default=32)
    parser.add_argument("--shard-items", type=int, default=1024)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    tokenizer, origin = open_model(options.model, options.device)
    if tokenizer.spec.any_size or tokenizer.spec.modality != "image":
        raise SystemExit("the benchmark compares equal batches: give a tokenizer for pictures of one size")
    request = Request(
        options.model, options.data, options.to, shard_items=options.shard_items, batch_size=options.batch_size,
        dtype=options.dtype,
    )  # fmt: skip
    work = Path(tempfile.mkdtemp())
    try:
        settings = {"device": options.device, "workers": options.workers, "tokenizer": tokenizer}
        worker = open_worker(request, work / "plan", **settings)  # type: ignore[arg-type]
        count = len(worker.inputs.source.names)
        samples: list[Sample] = []
        for index in range(min(count, 4 * options.batch_size)):
            samples.append(worker.reader.read(worker.inputs.source, index))
        step = options.batch_size
        stacked = [worker.reader.stack(samples[at : at + step])[0] for at in range(0, len(samples), step)]
        ready = [batch.to(options.device) for batch in stacked if len(batch) == step]
        batches = [ready[turn % len(ready)] for turn in range(max(1, count // step))]
        model_alone(worker, batches[:2])
        alone, exported = [], []
        for turn in range(options.rounds):
            alone.append(model_alone(worker, batches))
            exported.append(whole_export(worker, request, work / str(turn), options.device))
    finally:
        shutil.rmtree(work)
    ratio = statistics.median(some / all_ for some, all_ in zip(exported, alone, strict=True))
    facts = {
        "model": f"{options.model} ({origin})",
        "device": torch.cuda.get_device_name() if options.device.startswith("cuda") else f"{os.cpu_count()} processors",
        "dtype": options.dtype,
        "items": count,
        "batch_size": options.batch_size,
        "workers": worker.threads,
        "torch_threads": torch.get_num_threads(),
        "format": options.to,
        "model_alone_per_second": [float(f"{rate:.3g}") for rate in alone],
        "export_per_second": [float(f"{rate:.3g}") for rate in exported],
        "ratio": round(ratio, 3),
        "target": TARGET,
    }
    print(json.dumps(facts, indent=1))
    if options.json:
        options.json.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
