"""The formats of token folders, by the name that `--to` takes."""

from __future__ import annotations

from importlib import import_module
from typing import cast

from zoo.export.formats.base import Format, Rows

__all__ = ["FORMATS", "Format", "Rows", "find_format"]

HOMES = {
    "parquet": "Parquet",
    "webdataset": "WebDataset",
    "litdata": "LitData",
    "mds": "MDS",
    "megatron": "Megatron",
    "bin": "Binary",
}
FORMATS = tuple(HOMES)


def find_format(name: str) -> type[Format]:
    """The class of a format.

    Raises:
        ValueError: there is none of that name.
    """
    if name not in HOMES:
        raise ValueError(f"the format is one of {', '.join(FORMATS)}, got {name!r}")
    home = "binary" if name == "bin" else name
    return cast(type[Format], getattr(import_module(f"zoo.export.formats.{home}"), HOMES[name]))
