"""`zoo list` and `zoo info`."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli.options import complain

if TYPE_CHECKING:
    from zoo.spec import TokenizerSpec
    from zoo.store.cards import Card, Kind

__all__ = ["info", "list_command"]


def list_command(
    pattern: Annotated[str, typer.Argument(help="Shell pattern for names, quoted.")] = "*",
    modality: Annotated[str | None, typer.Option(help="image, audio or shape.")] = None,
    embedded: Annotated[
        bool | None, typer.Option("--embedded/--remote", help="Only models that come with the package, or only others.")
    ] = None,
    recipes: Annotated[bool, typer.Option("--recipes", help="List recipes instead, to build or train.")] = False,
    generators: Annotated[bool, typer.Option("--generators", help="List generators of codes instead.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the tokenizers that can be loaded, the generators that speak their codes, or the recipes of either.

    \b
    Examples:
      zoo list
      zoo list 'titok_*' --json
      zoo list --embedded
      zoo list --generators
      zoo list --recipes --generators
    """
    from zoo.store.cards import card, list_models, list_recipes

    kind: Kind = "generator" if generators else "tokenizer"
    with complain():
        if recipes:
            names = list_recipes(pattern, kind=kind)
            text = "\n".join(names) or f"no recipe matches {pattern!r}"
            typer.echo(json.dumps(names, indent=2) if as_json else text)
            return
        found = [card(name) for name in list_models(pattern, modality=modality, embedded=embedded, kind=kind)]
    if as_json:
        typer.echo(json.dumps([item.to_dict() for item in found], indent=2))
    elif not found:
        typer.echo(f"no model matches {pattern!r}")
    else:
        _print_models(found)


def info(
    name: Annotated[str, typer.Argument(help="Name from `zoo list`, a recipe, or a model folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show a model's code layout, size, licence, and measured numbers with their protocol. Downloads nothing.

    \b
    Examples:
      zoo info titok_l32_imagenet
      zoo info runs/my_model --json
    """
    with complain():
        facts = _facts(name)
    if as_json:
        typer.echo(json.dumps(facts, indent=2))
    else:
        _print_facts(facts)


def _print_models(found: list[Card]) -> None:
    from rich.console import Console

    rows = [
        (
            item.name,
            _millions(item.params).rjust(len("1000.0 M")),
            item.weights.place,
            item.weights.license,
            ", ".join(f"{metric.name} {metric.value:g}" for metric in item.metrics[:1]),
        )
        for item in found
    ]
    header = ("name", "size", "weights", "licence", "quality")
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    console = Console()
    room = max(20, (console.width if console.is_terminal else 160) - sum(widths) - 2 * len(widths))
    console.print("  ".join(map(str.ljust, (*header, "model"), (*widths, 0))), style="bold", soft_wrap=True)
    for item, row in zip(found, rows, strict=True):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        title = item.title if len(item.title) <= room else item.title[: room - 1] + "…"
        console.print("  ".join([*cells, title]), highlight=False, markup=False, soft_wrap=True)


def _facts(name: str) -> dict[str, Any]:
    from zoo.store.build import build, public
    from zoo.store.cards import card, list_models, list_recipes, unknown
    from zoo.store.load import CONFIG, read_config

    facts: dict[str, Any] = {"name": name}
    if (found := _generator_facts(name)) is not None:
        return found
    if name in list_models():
        item = card(name)
        facts |= item.to_dict()
        if item.weights.layout == "reference":
            node: Any = public(f"zoo.families.{item.family}").reference_recipe(item.config)
        else:
            node = item.recipe
    elif (Path(name) / CONFIG).is_file():
        node = read_config(Path(name) / CONFIG, name)
    elif name in list_recipes():
        node = name
        if name in list_recipes(trains=True):
            facts["notes"] = f"A recipe; train it with `zoo train {name}`."
        else:
            facts["notes"] = f"A recipe of a model that only encodes; build it with zoo.build({name!r})."
    else:
        raise unknown("model", name, [*list_models(kind=None), *list_recipes(kind=None)])
    tokenizer = build(node, device="meta")
    facts["spec"] = tokenizer.spec.to_dict()
    facts["bits"] = None if tokenizer.spec.continuous else tokenizer.spec.bits
    if (rate := tokenizer.spec.token_rate) is not None:
        facts["tokens_per_second"] = rate
        facts["kbit_per_second"] = None if tokenizer.spec.continuous else rate * tokenizer.spec.bits_per_token / 1000
    facts["params"] = sum(parameter.numel() for parameter in tokenizer.parameters())
    facts["family"] = type(tokenizer).__name__
    return facts


def _generator_facts(name: str) -> dict[str, Any] | None:
    """Of a generator's card, folder or recipe; None where a name is none of these."""
    from dataclasses import asdict

    from zoo.generators.pipeline import build
    from zoo.store.build import GENERATOR_ROOMS, compose, public
    from zoo.store.cards import card, list_models, list_recipes
    from zoo.store.load import CONFIG, read_document

    facts: dict[str, Any] = {"name": name}
    if name in list_models(kind="generator"):
        item = card(name)
        facts, document = item.to_dict(), item.config
        if item.weights.layout == "reference":
            node = public(f"zoo.generators.{item.family}", GENERATOR_ROOMS).reference_recipe(item.config)
        else:
            node = item.config["generator"]
    elif (path := Path(name) / CONFIG).is_file():
        document = read_document(path, name)
        if not isinstance(node := document.get("generator"), dict):
            return None
    elif name in list_recipes(kind="generator"):
        family = str(compose(name).generator["_target_"]).rpartition(".")[2]
        notes = f"A recipe, whose codes are those it learns from; train it with `zoo train {name} data.tokens=DIR`."
        return facts | {"family": family, "notes": notes}
    else:
        return None
    generator = build(node, device="meta")
    return facts | {
        "family": type(generator).__name__,
        "vocabulary": asdict(generator.vocabulary),
        "classes": generator.classes,
        "tokenizer": document.get("tokenizer"),
        "labels": list(document.get("labels") or ()),
        "params": sum(parameter.numel() for parameter in generator.parameters()),
    }


def _print_facts(facts: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from zoo.spec import TokenizerSpec
    from zoo.store.cards import Metric

    console = Console()
    console.print(f"[bold]{facts['name']}[/]  {facts.get('title', '')}".rstrip(), highlight=False)
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    rows = _vocabulary_rows(facts) if "vocabulary" in facts else []
    if "spec" in facts:
        rows = _spec_rows(TokenizerSpec(**facts["spec"]))
    for key, value in [*rows, *_card_rows(facts)]:
        table.add_row(key, value)
    console.print(table, highlight=False)
    if facts.get("metrics"):
        metrics = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("metric", "reported", "measured", "data", "crop", "origin"):
            metrics.add_column(column, justify="right" if column in ("reported", "measured") else "left")
        for item in (Metric(**numbers) for numbers in facts["metrics"]):
            value = f"{item.value:g}"
            columns = ("", value) if item.measured else (value, "")
            metrics.add_row(item.name, *columns, item.data, item.crop or "", item.source)
        console.print()
        console.print(metrics, highlight=False)
    if facts.get("notes"):
        console.print(f"\n{facts['notes'].strip()}", highlight=False, markup=False)


def _spec_rows(spec: TokenizerSpec) -> list[tuple[str, str]]:
    if spec.modality == "audio":
        return _audio_rows(spec)
    if spec.modality == "shape":
        return _shape_rows(spec)
    size = " x ".join(map(str, spec.input_shape)) + (" typically, any size" if spec.any_size else "")
    codes = "continuous" if spec.continuous else " + ".join(f"{count:,}" for count in spec.codebook_sizes) + " codes"
    tokens = f"{spec.num_tokens}, {spec.order.replace('_', ' ')}" + (", any prefix decodes" if spec.flexible else "")
    rows = [("modality", spec.modality), ("input", size), ("tokens", tokens), ("codebooks", codes)]
    if not spec.continuous:
        rows.append(("bits", f"{spec.bits:,.0f} per item ({spec.bits_per_token:.2f} per token)"))
    rows.append(("width", f"{spec.dim} per token"))
    if spec.downsample:
        rows.append(("downsampling", str(spec.downsample)))
    return rows


def _vocabulary_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    vocabulary = facts["vocabulary"]
    classes = "" if facts["classes"] is None else f"{facts['classes']:,}"
    rows = [
        (
            "generates",
            " ".join(filter(None, [facts.get("modality"), "codes of", facts["tokenizer"] or "no known name"])),
        ),
        ("tokens", f"{vocabulary['num_tokens']:,}, {vocabulary['order'].replace('_', ' ')}"),
        ("codebooks", " + ".join(f"{count:,}" for count in vocabulary["codebook_sizes"]) + " codes"),
        ("classes", ", ".join(facts["labels"]) or classes),
    ]
    return [row for row in rows if row[1]]


def _audio_rows(spec: TokenizerSpec) -> list[tuple[str, str]]:
    channels = {1: "mono", 2: "stereo"}.get(spec.input_shape[0], f"{spec.input_shape[0]} channels")
    shared = len(set(spec.codebook_sizes)) == 1 and len(spec.codebook_sizes) > 1
    sizes = [f"{count:,}" for count in spec.codebook_sizes]
    codes = f"{len(sizes)} x {sizes[0]} codes" if shared else " + ".join(sizes) + " codes"
    rows = [
        ("modality", "audio" + ("" if spec.decodes else ", encodes only")),
        ("sample rate", f"{spec.sample_rate:,} Hz, {channels}, any length"),
    ]
    if (rate := spec.token_rate) is None:
        rows.append(("tokens", "as many as the sound asks for"))
    else:
        levels = f", in {len(spec.scales)} rates, coarse to fine" if spec.scales else ""
        rows.append(("tokens", f"{rate:,.4g} per second, {spec.downsample:,} samples each{levels}"))
        if spec.scales:
            rows[-1] = ("tokens", f"{rate:,.4g} per second{levels}")
    rows.append(("codebooks", "continuous" if spec.continuous else codes))
    if not spec.continuous and rate is not None:
        rows.append(("bitrate", f"{rate * spec.bits_per_token / 1000:.4g} kbit/s"))
    elif not spec.continuous:
        rows.append(("bits", f"{spec.bits_per_token:.2f} per token"))
    return [*rows, ("width", f"{spec.dim} per token")]


def _shape_rows(spec: TokenizerSpec) -> list[tuple[str, str]]:
    points, columns = spec.input_shape
    what = {3: "x, y, z", 6: "x, y, z and normal"}.get(columns, f"{columns} numbers each")
    levels = f", in {len(spec.scales)} scales, coarse to fine; whole scales decode" if spec.scales else ""
    rows = [
        ("modality", "shape: meshes and point clouds"),
        ("input", f"{points:,} surface points ({what}) typically, any number"),
        ("tokens", f"{spec.num_tokens:,}{levels}" + (", any prefix decodes" if spec.flexible else "")),
    ]
    if spec.continuous:
        rows.append(("codebooks", "continuous"))
    else:
        rows.append(("codebooks", " + ".join(f"{count:,}" for count in spec.codebook_sizes) + " codes"))
        size = f"{spec.bits:,.0f}, {math.ceil(spec.bits / 8):,} bytes per shape"
        rows.append(("bits", f"{size} ({spec.bits_per_token:.2f} per token)"))
    return [*rows, ("width", f"{spec.dim} per token")]


def _card_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    from zoo.store.cards import OPEN_LICENSES

    rows = [("family", facts["family"])]
    if "params" in facts:
        rows.append(("parameters", f"{_millions(facts['params'])} ({facts['params']:,})"))
    if weights := facts.get("weights"):
        home = weights["hub"] or weights.get("source")
        files = [part["file"] for part in weights["parts"].values()] or [weights["file"]]
        place = "in the package" if weights["embedded"] else f"{home} / {' and '.join(files)}"
        closed = weights["license"].lower() not in OPEN_LICENSES
        terms = ", not an open licence: read its terms before use" if closed else ""
        rows += [("weights", place), ("licence", weights["license"] + terms)]
        if weights["sha256"]:
            rows.append(("sha256", weights["sha256"]))
    if facts.get("paper"):
        rows.append(("paper", facts["paper"]))
    if facts.get("known_answers"):
        rows.append(("verified by", f"zoo verify {facts['name']}"))
    rows += [(f"training {key}", str(value)) for key, value in facts.get("training", {}).items()]
    return rows


def _millions(params: int | None) -> str:
    return "" if params is None else f"{params / 1e6:.1f} M"
