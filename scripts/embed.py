"""Put a trained model into the package: half-precision weights, and a card with what they were measured to do.

    python scripts/embed.py runs/fsq_f8_tiny/model fsq_f8_tiny --measure data/open_photos \\
        --title "..." --data "..." --data-license "..." --hardware "..." --wall-clock "..."
    python scripts/embed.py runs/wavtokenizer_tiny/model wavtokenizer_tiny --measure data/open_speech ...
    python scripts/embed.py runs/vat_tiny/model vat_tiny --measure data/open_shapes ...

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
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
import yaml
from omegaconf import OmegaConf
from safetensors.torch import save
from torch import Tensor

import zoo
from zoo.data.audio import AUDIO_SUFFIXES, read_audio
from zoo.data.images import IMAGE_SUFFIXES, fit, read_image
from zoo.families import ShapeTokenizer
from zoo.metrics import psnr
from zoo.store.build import compose
from zoo.store.cards import CARDS, card
from zoo.store.files import replacing
from zoo.store.load import read_config
from zoo.store.verify import state_answer
from zoo.store.weights import load_strict
from zoo.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[1]
# By modality: the benchmark, the option for its data, the arguments that name the data of a training.
BENCHMARKS = {
    "image": ("embedded_images.py", "--photos", "data.root=data/open_photos/train"),
    "audio": (
        "embedded_speech.py",
        "--speech",
        "data.root=data/open_speech/train data.val_root=data/open_speech/val",
    ),
    "shape": (
        "embedded_shapes.py",
        "--shapes",
        "data.root=data/open_shapes/train data.val_root=data/open_shapes/val",
    ),
}
MAX_BYTES = 12_000_000
MAX_CHANGE = 0.05  # dB
MAX_MEL_CHANGE = 0.01  # of the mean log-mel distance, which is natural logarithms
MAX_IOU_CHANGE = 0.01  # of the share of queries inside both shapes in those inside either
TIES = 2  # codes that another machine may round otherwise
SHOWN_TOKENS = (1, 4, 7, 16, 31, 63, 64)
UNLISTED = ("bytes", "within budget")


def main(
    folder: Annotated[Path, typer.Argument(help="Model folder that a training exported.")],
    name: Annotated[str, typer.Argument(help="Name of the model and of its recipe.")],
    measure: Annotated[
        Path | None, typer.Option(help="What scripts/open_photos.py, open_speech.py or open_shapes.py made.")
    ] = None,
    metrics: Annotated[Path | None, typer.Option(help="Or the JSON of its benchmark.")] = None,
    title: Annotated[str | None, typer.Option(help="What the model is, one line.")] = None,
    notes: Annotated[str | None, typer.Option(help="What a user should know.")] = None,
    paper: Annotated[str | None, typer.Option(help='For example "arXiv 2501.10064".')] = None,
    data: Annotated[str | None, typer.Option(help="What it was trained on.")] = None,
    data_license: Annotated[str | None, typer.Option(help="Licence of that data.")] = None,
    weights_license: Annotated[str | None, typer.Option(help="Licence of the weights: SPDX, lower case.")] = None,
    command: Annotated[str | None, typer.Option(help="Command that trained it.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the training; by default the recipe's.")] = None,
    hardware: Annotated[str | None, typer.Option(help="What it ran on.")] = None,
    wall_clock: Annotated[str | None, typer.Option(help="How long it took.")] = None,
    photos: Annotated[Path, typer.Option(help="Pictures to compare the precisions on.")] = ROOT / "docs/assets/photos",
    speech: Annotated[Path, typer.Option(help="Sounds to compare them on.")] = ROOT / "docs/assets/speech",
    shapes: Annotated[Path, typer.Option(help="Prepared shapes to compare them on.")] = ROOT
    / "docs/assets/shapes/prepared",
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
    model = zoo.load(folder)
    usual = {"command": f"zoo train {name} {BENCHMARKS[model.spec.modality][2]}", "seed": int(recipe.seed)}
    training = usual | old.get("training", {}) | {key: value for key, value in given.items() if value is not None}
    title = title or old.get("title")
    missing = [key for key in given if key not in training] + ([] if title else ["title"])
    if missing:
        raise typer.BadParameter(f"a new card needs {', '.join(missing)}: see --help")
    state = halve(model)
    if model.spec.modality == "audio":
        moved = f"the log-mel distance by {rounding_of_sound(model, state, speech):.4f}"
    elif isinstance(model, ShapeTokenizer):
        moved = f"volume IoU by {rounding_of_shape(model, state, shapes):.4f}"
    else:
        moved = f"PSNR by {rounding(model, state, photos):.4f} dB"
    packed = save(state, metadata={"format": "pt"})
    if len(packed) > MAX_BYTES:
        raise typer.BadParameter(f"{name} has {len(packed):,} bytes, at most {MAX_BYTES:,} are embedded")
    digest = hashlib.sha256(packed).hexdigest()
    rows = []
    if measure is not None:
        rows = benchmark(folder, packed, measure, model.spec.modality)
    elif metrics is not None:
        rows = measured(metrics, digest)
    elif old.get("weights", {}).get("sha256") == digest:
        rows = old.get("metrics", [])
    license_ = weights_license or old.get("weights", {}).get("license", "apache-2.0")
    content = {
        "family": type(model).__name__,
        "title": title,
        "paper": paper or old.get("paper"),
        "modality": model.spec.modality,
        "weights": {"layout": "zoo", "embedded": True, "license": license_, "sha256": Quoted(digest)},
        "recipe": name,
        "params": sum(parameter.numel() for parameter in model.parameters()),
        "training": {key: training[key] for key in given},
        "metrics": [Flow(row) for row in rows],
        "known_answers": answers(model, state),
        "notes": notes or old.get("notes", ""),
    }
    text = card_text(name, content)
    weights = cards / "weights" / f"{name}.safetensors"
    with replacing(weights) as draft:
        draft.write_bytes(packed)
    with replacing(cards / f"{name}.yaml") as draft:
        draft.write_text(text, "utf-8")
    typer.echo(f"{weights}: {len(packed):,} bytes, sha256 {digest}; half precision moves {moved}")
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


@torch.inference_mode()
def rounding_of_sound(model: Tokenizer, state: Mapping[str, Tensor], speech: Path) -> float:
    """Largest change of a sound's log-mel distance to its original through half precision.

    Raises:
        BadParameter: it is not below 0.01, or there are no sounds.
    """
    from zoo.metrics import LogMelDistance

    rounded = zoo.build(model.config).eval()
    load_strict(rounded, state, source="half precision")
    channels, rate = model.spec.input_shape[0], int(model.spec.sample_rate or 0)
    changes = []
    for path in sorted(path for path in speech.iterdir() if path.suffix.lower() in AUDIO_SUFFIXES):
        sound, found = read_audio(path, rate, channels)[None], []
        for item in (model, rounded):
            distance = LogMelDistance(rate)
            distance.update(item(sound).output, sound)
            found.append(float(distance.compute()))
        changes.append(abs(found[1] - found[0]))
    if not changes or max(changes) >= MAX_MEL_CHANGE:
        raise typer.BadParameter(
            f"half precision moves the log-mel distance by {changes} on {speech}, allowed is {MAX_MEL_CHANGE}"
        )
    return max(changes)


@torch.inference_mode()
def rounding_of_shape(model: ShapeTokenizer, state: Mapping[str, Tensor], shapes: Path) -> float:
    """Change of the mean volume IoU of prepared shapes through half precision.

    Raises:
        BadParameter: it is not below 0.01, or there are no shapes.
    """
    from zoo.data import ShapeData
    from zoo.metrics.shapes import VolumeIoU

    rounded = zoo.build(model.config).eval()
    load_strict(rounded, state, source="half precision")
    assert isinstance(rounded, ShapeTokenizer)
    points, channels = model.spec.input_shape
    placement = model.placement
    data = ShapeData(
        str(shapes), points, 1, channels=channels, volume=2048, near=0, placement=placement.kind,
        extent=placement.extent, val_fraction=0.5, val_size=16, num_workers=0,
    )  # fmt: skip
    data.setup("validate")
    found = []
    for item in (model, rounded):
        iou = VolumeIoU(item.level)
        for batch in data.val_dataloader():
            iou.update(item(batch.points, batch.queries).output, batch.values)
        found.append(float(iou.compute()))
    if not abs(found[1] - found[0]) < MAX_IOU_CHANGE:
        raise typer.BadParameter(f"half precision moves volume IoU from {found[0]} to {found[1]} on {shapes}")
    return abs(found[1] - found[0])


def answers(model: Tokenizer, state: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    """What `zoo verify` is to find: codes of a picture, a tone or an ellipsoid, with the weights as they are packed."""
    spec = model.spec
    if spec.continuous:
        return []
    rounded = zoo.build(model.config).eval()
    load_strict(rounded, state, source="half precision")
    if spec.modality == "audio":
        given: dict[str, Any] = {"kind": "sine", "frequency": 440, "amplitude": 0.5, "seconds": 1.0}
    elif spec.modality == "shape":
        given = {"kind": "ellipsoid", "radii": FlowList([0.9, 0.6, 0.3])}
    else:
        given = {"kind": "sample", "file": "chelsea.png"} | ({"size": [64, 64]} if spec.any_size else {})
    found = asdict(state_answer(rounded, given, "measured: these weights on a CPU", tolerance=TIES))
    return [found | {"input": Flow(given), "tokens": FlowList(found["tokens"])}]


def known(cards: Path, name: str) -> dict[str, Any]:
    """What the present card says, {} without one."""
    path = cards / f"{name}.yaml"
    return yaml.safe_load(path.read_text("utf-8")) if path.is_file() else {}


def benchmark(folder: Path, packed: bytes, data: Path, modality: str) -> list[dict[str, Any]]:
    """Run the benchmark of a modality on exactly the weights that go into the package."""
    script, option, _ = BENCHMARKS[modality]
    with tempfile.TemporaryDirectory() as scratch:
        model, result = Path(scratch) / folder.name, Path(scratch) / "numbers.json"
        model.mkdir()
        (model / "model.safetensors").write_bytes(packed)
        shutil.copyfile(folder / "config.json", model / "config.json")
        options: list[str | Path] = [option, data, "--model", model, "--json", result]
        subprocess.run([sys.executable, ROOT / "benchmarks" / script, *options], check=True)
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
    counts = [item["tokens"] for item in numbers if item["codec"] == "tokens"]
    largest = None if None in counts else max(counts)
    fits = {place(item): item["value"] for item in numbers if item["name"] == "within budget"}
    sets = list(dict.fromkeys(item["set"] for item in numbers))
    shown = [item for item in numbers if wanted(item, largest)]
    shown.sort(key=lambda item: (sets.index(item["set"]), -(item["tokens"] or 0)))
    return [
        {"name": label(item, fits.get(place(item))), "value": float(f"{item['value']:.4g}")}
        | {key: item[key] for key in ("data", "crop", "origin")}
        for item in shown
    ]


def wanted(item: Mapping[str, Any], largest: int | None) -> bool:
    """Whether a number is on the card: ours at a few lengths, those of other formats beside the whole code."""
    if item["name"] in UNLISTED:
        return False
    if item["tokens"] in (largest, None):
        return True
    return item["codec"] == "tokens" and item["tokens"] in SHOWN_TOKENS and not item["name"].startswith("codebook")


def place(item: Mapping[str, Any]) -> tuple[str, str, int | None]:
    """What a number is about."""
    return item["set"], item["codec"], item["tokens"]


def label(item: Mapping[str, Any], fits: float | None) -> str:
    """A number's name on the card; `fits` is the share of files that are as small as the tokens, None if unknown."""
    if item["codec"] == "tokens":
        count = "" if item["tokens"] is None else f", {item['tokens']} token{'s' if item['tokens'] != 1 else ''}"
        return item["name"] + count
    if fits is None:
        return f"{item['name']}, {item['codec']}"
    size = "same bytes" if fits == 1 else "same bytes or smallest file" if fits > 0 else "smallest file"
    return f"{item['name']}, {item['codec']} ({size})"


class Quoted(str):
    """Text that is quoted even where YAML needs no quotes."""


class Flow(dict[str, Any]):
    """A mapping written on one line."""


class FlowList(list[Any]):
    """Numbers written side by side."""


class Dumper(yaml.SafeDumper):
    """Cards as they are written by hand."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


Dumper.add_representer(Quoted, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))
Dumper.add_representer(
    Flow, lambda dumper, row: dumper.represent_mapping("tag:yaml.org,2002:map", row, flow_style=True)
)
Dumper.add_representer(
    FlowList, lambda dumper, row: dumper.represent_sequence("tag:yaml.org,2002:seq", row, flow_style=True)
)


if __name__ == "__main__":
    typer.run(main)
