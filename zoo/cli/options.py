"""Options that several commands share, and how their mistakes are told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from zoo.tokenizer import Tokenizer

__all__ = [
    "Bandwidth",
    "BatchSize",
    "Bits",
    "Channels",
    "ChannelsName",
    "Chunk",
    "Codebooks",
    "Device",
    "Dtype",
    "DtypeName",
    "FitName",
    "FitOption",
    "Format",
    "Inputs",
    "MaxSide",
    "Model",
    "Overwrite",
    "QueryBatch",
    "Resolution",
    "Surfaces",
    "Text",
    "UpName",
    "UpOption",
    "complain",
    "find_device",
    "open_tokenizer",
    "precision",
    "stop",
    "token_counts",
    "told",
]


class FitName(StrEnum):
    """How pictures are fitted to tokenizers of one size."""

    crop = "crop"
    pad = "pad"
    stretch = "stretch"


class ChannelsName(StrEnum):
    """What happens to a sound with other channels than its tokenizer."""

    mix = "mix"
    each = "each"


class UpName(StrEnum):
    """Which axis of a shape points upwards in its picture."""

    y = "y"
    z = "z"


class DtypeName(StrEnum):
    """Precision of encoder and decoder; quantizers always compute in float32."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


Inputs = Annotated[list[str], typer.Argument(help="Files, folders (searched recursively) or quoted globs.")]
Model = Annotated[str, typer.Option("--model", "-m", help="Name from `zoo list`, model folder, or hub id org/name.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto for the fastest present.")]
Dtype = Annotated[DtypeName, typer.Option(help="Precision of encoder and decoder (autocast).")]
BatchSize = Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Items of equal size that run together.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Make outputs again that exist; else they are skipped.")]
FitOption = Annotated[
    FitName,
    typer.Option("--fit", help="For a tokenizer of one size: cut the centre out, add a border, or distort."),
]
Text = Annotated[
    str | None, typer.Option("--text", help="Caption of the pictures, for a tokenizer that reads text; else empty.")
]
MaxSide = Annotated[
    int | None,
    typer.Option(min=16, help="Shrink larger pictures to this longest side first; for tokenizers that take any size."),
]

Channels = Annotated[
    ChannelsName,
    typer.Option(
        "--channels", help="Of sounds with other channels than the tokenizer: mix them, or send each through alone."
    ),
]
Chunk = Annotated[
    float,
    typer.Option("--chunk", min=1.0, help="Seconds of sound that are processed at once; memory grows with it."),
]
Codebooks = Annotated[
    int | None, typer.Option("--codebooks", min=1, help="For residual codes: use the first so many codebooks only.")
]
Bandwidth = Annotated[
    float | None,
    typer.Option("--bandwidth", help="For residual codes: kbit/s, in place of --codebooks."),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="In a folder: png (default), jpg or webp for pictures, wav (default) or flac for sounds, glb (default), "
        "obj, ply or stl for shapes.",
    ),
]
Resolution = Annotated[
    int,
    typer.Option("--resolution", min=2, help="Of meshes that are made: cells along each side of the grid."),
]
QueryBatch = Annotated[
    int,
    typer.Option("--query-batch", min=1, help="Points of a shape's field that are evaluated at once; bounds memory."),
]
UpOption = Annotated[UpName, typer.Option("--up", help="Axis that points upwards in pictures of shapes.")]


@dataclass(frozen=True, slots=True)
class Surfaces:
    """How meshes are made and shown: `--resolution`, `--query-batch` and `--up`."""

    resolution: int = 128
    query_batch: int = 65536
    up: UpName = UpName.y


def _depth(bits: int) -> int:
    if bits not in (16, 24, 32):
        raise typer.BadParameter(f"--bits is 16, 24 or 32, got {bits}")
    return bits


Bits = Annotated[
    int,
    typer.Option("--bits", callback=_depth, help="Of sounds that are written: 16, 24, or 32 for floats (WAV only)."),
]


@contextmanager
def complain() -> Iterator[None]:
    """Turn errors about what the user gave into one line and exit code 2."""
    try:
        yield
    except KeyError as error:
        stop(str(error.args[0]) if error.args else repr(error))
    except (ValueError, OSError, RuntimeError) as error:
        stop(str(error))


def stop(message: str) -> None:
    """Print one line to stderr and leave with exit code 2."""
    from rich.console import Console

    Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {_plain(message)}", highlight=False)
    raise typer.Exit(2)


def open_tokenizer(name: str | Path, device: str, *, modality: str | None = None) -> Tokenizer:
    """The tokenizer on a device; for anything where `modality` does not say for what.

    Raises:
        ValueError: the device is absent, or the tokenizer is for another modality; else what `zoo.load` raises.
    """
    from zoo.store.load import load

    tokenizer = load(name, device=find_device(device))
    if modality is not None and tokenizer.spec.modality != modality:
        raise ValueError(f"{name} is a tokenizer for {tokenizer.spec.modality}, this command works on {modality} files")
    return tokenizer


def told(tokenizer: Tokenizer, text: str | None) -> dict[str, Any]:
    """What `encode` and `decode` get beside pictures and tokens: a caption's features, computed once.

    Raises:
        ValueError: there is a caption, and the tokenizer reads none.
        RuntimeError: the text tower's package or weights are missing.
    """
    from zoo.families.text import TextConditioned

    if isinstance(tokenizer, TextConditioned):
        return {"text": tokenizer.describe(text, 1)}
    if text is not None:
        raise ValueError(f"--text is for tokenizers that read captions; {type(tokenizer).__name__} reads none")
    return {}


def precision(tokenizer: Tokenizer, dtype: DtypeName) -> AbstractContextManager[object]:
    """Autocast to a dtype on the tokenizer's device, or nothing for float32."""
    import torch

    if dtype is DtypeName.float32:
        return nullcontext()
    return torch.autocast(tokenizer.device.type, dtype=getattr(torch, dtype.value))


def token_counts(text: str, option: str = "--tokens") -> list[int]:
    """What `--tokens 4,16,64` means.

    Raises:
        ValueError: something else than numbers of at least 1.
    """
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"{option} expects numbers such as 4,16,64, got {text!r}") from error
    if min(counts) < 1:
        raise ValueError(f"{option} must be at least 1, got {text}")
    return counts


def find_device(name: str) -> str:
    """What `--device` means here.

    Raises:
        ValueError: it is absent.
    """
    import torch

    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(kind for kind, there in present.items() if there)
    kind = name.partition(":")[0]
    if not present.get(kind, False):
        there = ", ".join(kind for kind, is_there in present.items() if is_there)
        raise ValueError(f"device {name!r} is not available here; there is {there} (see `zoo doctor`)")
    return name


def _plain(message: str) -> str:
    from rich.markup import escape

    return escape(message)
