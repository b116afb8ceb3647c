"""`zoo doctor`."""

from __future__ import annotations

import os
import platform
import re
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

import typer

__all__ = ["doctor"]

SETTINGS = ("ZOO_HUB", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_HOME")


def doctor() -> None:
    """Show versions and devices, what is missing, and how to install it.

    Leaves with 1 when something that the core needs is missing or broken.

    \b
    Examples:
      zoo doctor
    """
    from rich.console import Console
    from rich.table import Table

    from zoo import __version__

    console = Console(soft_wrap=True)
    console.print(f"[bold]tokenizer-zoo {__version__}[/]  Python {platform.python_version()} on {platform.platform()}")
    packages = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("package", "for", "state"):
        packages.add_column(column)
    rows = _packages()
    for name, extra, state, good in rows:
        packages.add_row(name, extra or "core", state if good else f"[red]{state}[/]")
    console.print(packages, highlight=False)
    console.print(f"\n[bold]devices[/]  {', '.join(_devices())}", highlight=False)
    console.print(f"[bold]models[/]   {_models()}", highlight=False)
    settings = [f"{name}={os.environ[name]}" for name in SETTINGS if os.environ.get(name)]
    console.print(f"[bold]settings[/] {', '.join(settings) or 'none of ' + ', '.join(SETTINGS)}", markup=True)
    for line in _advice(rows):
        console.print(line, highlight=False, markup=False)
    if any(not good and not extra for _, extra, _, good in rows):
        raise typer.Exit(1)


def _packages() -> list[tuple[str, str, str, bool]]:
    """(package, extra or "", state, whether it is fine) of everything the distribution asks for."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in requires("tokenizer-zoo") or ()]
    except PackageNotFoundError:
        return [("tokenizer-zoo", "", "not installed; run: pip install -e .", False)]
    rows = []
    for need in wanted:
        extra = _extra(need)
        if extra != "dev" and (need.marker is None or need.marker.evaluate({"extra": extra})):
            rows.append((need.name, extra, *_state(need)))
    return sorted(rows, key=lambda row: (row[1] != "", row[1], row[0]))


def _extra(need: Any) -> str:
    found = re.search(r"extra == ['\"]([\w-]+)['\"]", str(need.marker or ""))
    return found.group(1) if found else ""


def _state(need: Any) -> tuple[str, bool]:
    try:
        present = version(need.name)
    except PackageNotFoundError:
        return "missing", False
    if not need.specifier.contains(present, prereleases=True):
        return f"{present}, needs {need.specifier}", False
    if need.name in ("torch", "torchvision", "torchaudio"):
        try:
            import_module(need.name)
        except (ImportError, OSError, RuntimeError) as error:
            return f"{present} does not import: {str(error).splitlines()[0]}", False
    return present, True


def _devices() -> list[str]:
    try:
        import torch
    except (ImportError, OSError) as error:
        return [f"unknown, torch does not import: {error}"]
    found = [f"cpu ({torch.get_num_threads()} threads)"]
    found += [f"cuda:{number} ({torch.cuda.get_device_name(number)})" for number in range(torch.cuda.device_count())]
    return found + (["mps"] if torch.backends.mps.is_available() else [])


def _models() -> str:
    from zoo.store.cards import card, list_models

    inside = list_models(embedded=True, kind=None)
    absent = [name for name in inside if not card(name).weights_path.is_file()]
    text = f"{len(list_models())} tokenizers and {len(list_models(kind='generator'))} generators known, "
    text += f"{len(inside)} in the package"
    return text + (f", [red]files missing for {', '.join(absent)}[/]" if absent else "")


def _advice(rows: list[tuple[str, str, str, bool]]) -> list[str]:
    """Commands that repair what is not fine."""
    broken = sorted({extra for _, extra, _, good in rows if not good})
    if not broken:
        return ["everything is in place"]
    extras = [extra for extra in broken if extra]
    if not extras and rows[0][0] == "tokenizer-zoo":
        return []  # its row says how to install it
    core = ["core: pip install --upgrade tokenizer-zoo"] if "" in broken else []
    return ["to install what is missing:", *core, *(f"{name}: pip install 'tokenizer-zoo[{name}]'" for name in extras)]
