"""Files of published networks: from torch's cache, from their address, or given by hand."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["digest_of", "weights_file"]


def weights_file(
    name: str, url: str, digest: str, *, given: str | Path | None = None, aliases: Sequence[str] = ()
) -> tuple[Path, str]:
    """A file of weights, downloaded into torch's cache if it lies neither there nor was given.

    Args:
        name: of the network, for messages and `--weights NAME=FILE`.
        url: where it is published; the last part names it in the cache.
        digest: how the file's sha256 starts.
        given: a file to take instead.
        aliases: other names under which the same file may lie in the cache.

    Returns:
        The file and its sha256.

    Raises:
        FileNotFoundError: no such file was given.
        ConnectionError: it could not be downloaded.
        ValueError: a file with another digest.
    """
    from torch import hub

    folder = Path(hub.get_dir()) / "checkpoints"
    home = folder / url.rsplit("/", 1)[-1]
    if given is not None and not Path(given).is_file():
        raise FileNotFoundError(f"no file {given}, which was given as the weights of {name}")
    places = [home, *(folder / alias for alias in aliases)] if given is None else [Path(given)]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            hub.download_url_to_file(url, str(home), hash_prefix=digest, progress=os.isatty(2))
        except (OSError, RuntimeError) as error:
            raise ConnectionError(
                f"{name} needs {home.name}, which could not be downloaded from {url} ({error}). Run once with network "
                f"access, put the file at {home}, or pass --weights {name}=FILE (sha256 {digest}...)"
            ) from error
        path = home
    found = digest_of(path)
    if not found.startswith(digest):
        raise ValueError(
            f"{path} has the sha256 {found[:16]}..., the weights of {name} start with {digest}; numbers of other "
            f"weights cannot be compared, download it again from {url}"
        )
    return path, found


def digest_of(path: str | Path) -> str:
    """The sha256 of a file, in hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
