"""Put a trained model into the package: half-precision weights, and a card with what they were measured to do.

    python scripts/embed.py runs/fsq_f8_tiny/model fsq_f8_tiny --measure data/open_photos \\
        --title "..." --data "..." --data-license "..." --hardware "..." --wall-clock "..."

Writes checkpoints/weights/NAME.safetensors and checkpoints/NAME.yaml once everything is checked. What is not given
stays as the card has it, so a command can be repeated with less. Numbers of other weights are refused, and those of
earlier weights are dropped.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
import yaml
from omegaconf import OmegaConf
from safetensors.torch import save
from torch import Tensor

import zoo
from zoo.data.images import IMAGE_SUFFIXES, fit, read_image
from zoo.metrics import psnr
from zoo.store.build import compose
from zoo.store.cards import CARDS, card
from zoo.store.files import replacing
from zoo.store.load import read_config
from zoo.store.weights import load_strict
from zoo.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[1]
BENCHMARK = ROOT / "benchmarks/embedded_images.py"
MAX_BYTES = 12_000_000
MAX_CHANGE = 0.05  # dB
SHOWN_TOKENS = (1, 4, 16, 64)
UNLISTED = ("bytes", "within budget")


def main(
    folder: Annotated[Path, typer.Argument(help="Model folder that a training exported.")],
    name: Annotated[str, typer.Argument(help="Name of the model and of its recipe.")],
    measure: Annotated[Path | None, typer.Option(help="Photographs of scripts/open_photos.py to measure on.")] = None,
    metrics: Annotated[Path | None, typer.Option(help="Or the JSON of benchmarks/embedded_images.py.")] = None,
    title: Annotated[str | None, typer.Option(help="What the model is, one line.")] = None,
    notes: Annotated[str | None, typer.Option(help="What a user should know.")] = None,
    paper: Annotated[str | None, typer.Option(help='For example "arXiv 2501.10064".')] = None,
    data: Annotated[str | None, typer.Option(help="What it was trained on.")] = None,
    data_license: Annotated[str | None, typer.Option(help="Licence of that data.")] = None,
    command: Annotated[str | None, typer.Option(help="Command that trained it.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the training; by default the recipe's.")] = None,
    hardware: Annotated[str | None, typer.Option(help="What it ran on.")] = None,
    wall_clock: Annotated[str | None, typer.Option(help="How long it took.")] = None,
    photos: Annotated[Path, typer.Option(help="Pictures to compare the precisions on.")] = ROOT / "docs/assets/photos",
    cards: Annotated[Path, typer.Option(help="Folder of cards.")] = CARDS,
) -> None:
    """Write NAME's weights and card."""
    recipe = compose(name)
    check_recipe(folder, name, OmegaConf.to_container(recipe.tokenizer, resolve=True))
    old = known(cards, name)
    given = {
        "data": data,
        "licence of the data": data_license,
        "command": command,
        "seed": seed,
        "hardware": hardware,
        "wall-clock": wall_clock,
    }
    usual = {"command": f"zoo train {name} data.root=data/open_photos/train", "seed": int(recipe.seed)}
    training = usual | old.get("training", {}) | {key: value for key, value in given.items() if value is not None}
    title = title or old.get("title")
    missing = [key for key in given if key not in training] + ([] if title else ["title"])
    if missing:
        raise typer.BadParameter(f"a new card needs {', '.join(missing)}: see --help")
    model = zoo.load(folder)
    state = halve(model)
    change = rounding(model, state, photos)
    packed = save(state, metadata={"format": "pt"})
    if len(packed) > MAX_BYTES:
        raise typer.BadParameter(f"{name} has {len(packed):,} bytes, at most {MAX_BYTES:,} are embedded")
    digest = hashlib.sha256(packed).hexdigest()
    rows = []
    if measure is not None:
        rows = benchmark(folder, packed, measure)
    elif metrics is not None:
        rows = measured(metrics, digest)
    elif old.get("weights", {}).get("sha256") == digest:
        rows = old.get("metrics", [])
    content = {
        "family": type(model).__name__,
        "title": title,
        "paper": paper or old.get("paper"),
        "modality": model.spec.modality,
        "weights": {"layout": "zoo", "embedded": True, "license": "apache-2.0", "sha256": Quoted(digest)},
        "recipe": name,
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "training": {key: training[key] for key in given},
        "metrics": [Flow(row) for row in rows],
        "notes": notes or old.get("notes", ""),
    }
    text = card_text(name, content)
    weights = cards / "weights" / f"{name}.safetensors"
    with replacing(weights) as draft:
        draft.write_bytes(packed)
    with replacing(cards / f"{name}.yaml") as draft:
        draft.write_text(text, "utf-8")
    typer.echo(f"{weights}: {len(packed):,} bytes, sha256 {digest}; half precision moves PSNR by {change:.4f} dB")
    typer.echo(f"{cards / name}.yaml: {len(rows)} numbers")


def card_text(name: str, content: Mapping[str, Any]) -> str:
    """A card as YAML, after reading it back.

    Raises:
        ValueError: it is not a valid card.
    """
    text = "".join(
        yaml.dump(
            {key: value}, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1000 if key == "metrics" else 118
        )
        for key, value in content.items()
    )
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / f"{name}.yaml").write_text(text, "utf-8")
        card(name, Path(scratch))
    return text


def check_recipe(folder: Path, name: str, node: Any) -> None:
    """Raise BadParameter unless the recipe builds the model of this folder."""
    config = read_config(folder / "config.json", str(folder))
    if config != node:
        raise typer.BadParameter(f"{folder} is not a model of the recipe {name!r}: {difference(config, node)}")


def difference(config: Any, node: Any, path: str = "tokenizer") -> str:
    """The first place where two configurations part."""
    if isinstance(config, Mapping) and isinstance(node, Mapping):
        for key in [*config, *node]:
            if config.get(key) != node.get(key):
                return difference(config.get(key), node.get(key), f"{path}.{key}")
    return f"{path} is {config} in the folder and {node} in the recipe"


def halve(model: Tokenizer) -> dict[str, Tensor]:
    """The weights with floats rounded to float16.

    Raises:
        BadParameter: a value is beyond float16.
    """
    state = {key: value.half() if value.is_floating_point() else value for key, value in model.state_dict().items()}
    if wrong := [key for key, value in state.items() if not torch.isfinite(value).all()]:
        raise typer.BadParameter(f"values beyond float16 in {', '.join(wrong[:3])}")
    return {key: value.contiguous() for key, value in state.items()}


@torch.inference_mode()
def rounding(model: Tokenizer, state: Mapping[str, Tensor], photos: Path) -> float:
    """Largest change of a photograph's PSNR in dB through half precision.

    Raises:
        BadParameter: it is not below 0.05 dB, or there are no photographs.
    """
    rounded = zoo.build(model.config).eval()
    load_strict(rounded, state, source="half precision")
    changes = []
    for path in sorted(path for path in photos.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES):
        image = read_image(path)
        if not model.spec.any_size:
            image, _ = fit(image, (model.spec.input_shape[1], model.spec.input_shape[2]))
        before, after = (psnr(item(image[None]).output, image[None]) for item in (model, rounded))
        changes.append(abs(float(after - before)))
    if not changes or max(changes) >= MAX_CHANGE:
        raise typer.BadParameter(f"half precision moves PSNR by {changes} dB on {photos}, allowed is {MAX_CHANGE}")
    return max(changes)


def known(cards: Path, name: str) -> dict[str, Any]:
    """What the present card says, {} without one."""
    path = cards / f"{name}.yaml"
    return yaml.safe_load(path.read_text("utf-8")) if path.is_file() else {}


def benchmark(folder: Path, packed: bytes, photos: Path) -> list[dict[str, Any]]:
    """Run the benchmark on exactly the weights that go into the package."""
    with tempfile.TemporaryDirectory() as scratch:
        model, result = Path(scratch) / folder.name, Path(scratch) / "numbers.json"
        model.mkdir()
        (model / "model.safetensors").write_bytes(packed)
        shutil.copyfile(folder / "config.json", model / "config.json")
        options: list[str | Path] = ["--photos", photos, "--model", model, "--json", result]
        subprocess.run([sys.executable, BENCHMARK, *options], check=True)
        return measured(result, hashlib.sha256(packed).hexdigest())


def measured(path: Path, digest: str) -> list[dict[str, Any]]:
    """The numbers of a benchmark's file that belong on a card: the largest code first, every number with its protocol.

    Raises:
        BadParameter: they were measured with other weights.
    """
    document = json.loads(path.read_text("utf-8"))
    if document["sha256"] != digest:
        raise typer.BadParameter(
            f"{path} was measured with weights {document['sha256']}, these are {digest}; measure again"
        )
    numbers = document["numbers"]
    counts = [item["tokens"] for item in numbers]
    largest = None if None in counts else max(counts)
    fits = {place(item): item["value"] for item in numbers if item["name"] == "within budget"}
    sets = list(dict.fromkeys(item["set"] for item in numbers))
    shown = [item for item in numbers if wanted(item, largest)]
    shown.sort(key=lambda item: (sets.index(item["set"]), -(item["tokens"] or 0)))
    return [
        {"name": label(item, fits[place(item)]), "value": float(f"{item['value']:.4g}")}
        | {key: item[key] for key in ("data", "crop", "origin")}
        for item in shown
    ]


def wanted(item: Mapping[str, Any], largest: int | None) -> bool:
    """Whether a number is on the card: ours at a few lengths, those of other formats beside the whole code."""
    if item["name"] in UNLISTED:
        return False
    if item["tokens"] == largest:
        return True
    return item["codec"] == "tokens" and item["tokens"] in SHOWN_TOKENS and not item["name"].startswith("codebook")


def place(item: Mapping[str, Any]) -> tuple[str, str, int | None]:
    """What a number is about."""
    return item["set"], item["codec"], item["tokens"]


def label(item: Mapping[str, Any], fits: float) -> str:
    """A number's name on the card; `fits` is the share of files that are as small as the tokens."""
    if item["codec"] == "tokens":
        count = "" if item["tokens"] is None else f", {item['tokens']} token{'s' if item['tokens'] != 1 else ''}"
        return item["name"] + count
    size = "same bytes" if fits == 1 else "same bytes or smallest file" if fits > 0 else "smallest file"
    return f"{item['name']}, {item['codec']} ({size})"


class Quoted(str):
    """Text that is quoted even where YAML needs no quotes."""


class Flow(dict[str, Any]):
    """A mapping written on one line."""


class Dumper(yaml.SafeDumper):
    """Cards as they are written by hand."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


Dumper.add_representer(Quoted, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))
Dumper.add_representer(
    Flow, lambda dumper, row: dumper.represent_mapping("tag:yaml.org,2002:map", row, flow_style=True)
)


if __name__ == "__main__":
    typer.run(main)
