"""Put a trained generator into the package: half-precision weights, and a card.

    python scripts/embed_generator.py runs/gpt_tiny_photos/model gpt_tiny_photos --numbers numbers.json \\
        --title "..." --data "..." --hardware "..." --wall-clock "..." --command "..." --license apache-2.0

Writes checkpoints/weights/NAME.safetensors and checkpoints/NAME.yaml. The numbers are those that
benchmarks/embedded_generator.py measured on the folder.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
import yaml
from safetensors.torch import load_file, save

import zoo
from zoo.store.cards import CARDS, card
from zoo.store.files import replacing

MAX_BYTES = 12_000_000
ORIGIN = "measured: benchmarks/embedded_generator.py"


def main(
    folder: Annotated[Path, typer.Argument(help="Model folder that a training exported.")],
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    numbers: Annotated[Path, typer.Option(help="JSON of benchmarks/embedded_generator.py.")],
    title: Annotated[str, typer.Option(help="What the model is, one line.")],
    data: Annotated[str, typer.Option(help="What it was trained on.")],
    hardware: Annotated[str, typer.Option(help="Where.")],
    wall_clock: Annotated[str, typer.Option(help="How long it took.")],
    command: Annotated[str, typer.Option(help="The training command.")],
    held_out: Annotated[str, typer.Option(help="What it was measured on.")],
    license: Annotated[str, typer.Option(help="Of the weights.")] = "apache-2.0",
    paper: Annotated[str | None, typer.Option(help="Of the architecture.")] = None,
    notes: Annotated[str, typer.Option(help="What a user should know.")] = "",
) -> None:
    """Embed the generator in FOLDER as NAME."""
    document = json.loads((folder / "config.json").read_text("utf-8"))
    state = {key: half(tensor) for key, tensor in load_file(folder / "model.safetensors").items()}
    content = save(state, metadata={"format": "pt"})
    if len(content) > MAX_BYTES:
        raise SystemExit(f"{len(content):,} bytes; an embedded model has at most {MAX_BYTES:,}")
    content_card: dict[str, Any] = {
        "kind": "generator",
        "family": document["generator"]["_target_"].rpartition(".")[2],
        "title": title,
        **({"paper": paper} if paper else {}),
        "modality": zoo.load(document["tokenizer"]).spec.modality,
        "weights": {
            "layout": "zoo",
            "embedded": True,
            "license": license,
            "sha256": hashlib.sha256(content).hexdigest(),
        },
        "recipe": name,
        "config": {key: document[key] for key in ("generator", "tokenizer", "labels")},
        "params": sum(tensor.numel() for tensor in state.values()),
        "training": {
            "data": data,
            "command": command,
            "seed": 0,
            "hardware": hardware,
            "wall_clock": wall_clock,
            "packages": f"torch {torch.__version__}, zoo {zoo.__version__}",
        },
        "metrics": [
            {"name": key, "value": float(f"{value:.4g}"), "data": held_out, "origin": ORIGIN}
            for key, value in json.loads(numbers.read_text("utf-8"))["numbers"].items()
        ],
        **({"notes": notes} if notes else {}),
    }
    target = CARDS / "weights" / f"{name}.safetensors"
    with replacing(target) as draft:
        draft.write_bytes(content)
    with replacing(CARDS / f"{name}.yaml") as draft:
        draft.write_text(yaml.safe_dump(content_card, sort_keys=False, allow_unicode=True, width=120), "utf-8")
    typer.echo(f"{target}: {len(content):,} bytes, card {card(name).name}")


def half(tensor: torch.Tensor) -> torch.Tensor:
    """Floats in half precision, other tensors as they are."""
    return tensor.half() if tensor.is_floating_point() else tensor


if __name__ == "__main__":
    typer.run(main)
