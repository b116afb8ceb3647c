"""The formats of token folders, by the name that `--to` takes."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
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
        ValueError: there is none of that name, or a package that it needs is not installed.
    """
    if name not in HOMES:
        raise ValueError(f"the format is one of {', '.join(FORMATS)}, got {name!r}")
    home = "binary" if name == "bin" else name
    found = cast(type[Format], getattr(import_module(f"zoo.export.formats.{home}"), HOMES[name]))
    if found.package is not None and find_spec(found.package) is None:
        raise ValueError(f"the format {name} needs {found.package}: pip install 'tokenizer-zoo[export]'")
    return found
