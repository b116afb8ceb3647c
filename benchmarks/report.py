"""What the benchmarks of embedded models end with: a table for each held-out set, and a file of all numbers."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import zoo
from zoo.store.cards import card
from zoo.store.files import replacing

__all__ = ["publish", "tables"]

Columns = Mapping[str, tuple[str, str]]
Numbers = Sequence[Mapping[str, Any]]


def publish(
    model: str,
    numbers: Numbers,
    columns: Columns,
    path: Path | None,
    *,
    device: str,
    packages: Mapping[str, str],
    **more: str,
) -> None:
    """Print the tables; write the numbers, with what they may depend on and the digest of the weights.

    Args:
        model: name of an embedded model, or a model folder.
        numbers: each with `set`, `data`, `crop`, `codec`, `tokens`, `name` and `value`.
        columns: as `tables` wants them.
        path: JSON file; None for the tables alone.
        device: that the model ran on.
        packages: whose versions matter, by the names that they are imported under; those not installed are left out.
        **more: further facts of the setting.
    """
    console = Console(width=150)
    for table in tables(numbers, columns):
        console.print(table, highlight=False)
        console.print()
    if path is None:
        return
    setting = {"zoo": zoo.__version__, "torch": torch.__version__, **more}
    setting |= {name: version(name) for module, name in packages.items() if importlib.util.find_spec(module)}
    setting |= {"device": device, "machine": platform.machine(), "seed": 0}
    with weights_file(model).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    document = {"model": model, "sha256": digest, "setting": setting, "numbers": list(numbers)}
    with replacing(path) as draft:
        draft.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    console.print(f"wrote {path}")


def tables(numbers: Numbers, columns: Columns) -> Iterator[Table]:
    """One table a set, a row for every codec and number of tokens.

    Args:
        numbers: as in `publish`; `tokens` is None where a codec has no such number.
        columns: by the name of what is measured, in their order: heading, and how values are printed.
    """
    for name in dict.fromkeys(item["set"] for item in numbers):
        part = [item for item in numbers if item["set"] == name]
        counted = any(item["tokens"] is not None for item in part)
        title = f"{name}: {part[0]['data']}; {part[0]['crop']}"
        table = Table("codec", title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        if counted:
            table.add_column("tokens", justify="right")
        for heading, _ in columns.values():
            table.add_column(heading, justify="right")
        for codec, tokens in dict.fromkeys((item["codec"], item["tokens"]) for item in part):
            row = {item["name"]: item["value"] for item in part if (item["codec"], item["tokens"]) == (codec, tokens)}
            cells = [form.format(row[key]) if key in row else "" for key, (_, form) in columns.items()]
            table.add_row(codec, *(["" if tokens is None else str(tokens)] if counted else []), *cells)
        yield table


def weights_file(model: str) -> Path:
    """The file whose digest ties the numbers to the weights."""
    return card(model).weights_path if model in zoo.list_models(embedded=True) else Path(model) / "model.safetensors"
