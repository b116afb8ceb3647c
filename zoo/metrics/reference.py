"""Statistics of a set of reference pictures in a file, in the layout of ADM's evaluator."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from zoo.metrics.features import Features
from zoo.metrics.frechet import Moments
from zoo.metrics.piles import PictureArray, open_archive
from zoo.metrics.weights import digest_of
from zoo.store.files import replacing

__all__ = ["Reference", "read_reference", "write_reference"]

TRAIN = ("virtual_imagenet256_labeled", "adm_in256_stats")
ADM = {"network": "inception_fid", "resize": "tf1_bilinear", "scaling": "tf"}  # of files that do not say it
PAIRS = {"pool": ("mu", "sigma"), "spatial": ("mu_s", "sigma_s")}


@dataclass(frozen=True, slots=True)
class Reference:
    """What a file of statistics says.

    Attributes:
        path: the file.
        sha256: of the file.
        moments: by tap of `inception_fid` ("pool", "spatial"), or of the network that the file names.
        pictures: for what moments are not enough for; None without.
        network: what the file says its features are from, as `Features.describe` gives it; None for ADM's own files.
        notes: what a reader of the numbers should know.
    """

    path: Path
    sha256: str
    moments: Mapping[str, Moments]
    pictures: PictureArray | None = None
    network: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = field(default=())

    def check(self, features: Features) -> None:
        """Refuse features that are not those of the file: another network, other weights, another resize.

        Raises:
            ValueError: what differs.
        """
        ours, theirs = dict(self.network or ADM), features.describe()
        if self.network is None and features.name.startswith("inception_fid"):
            theirs["network"] = ADM["network"]
        for key, value in ours.items():
            if theirs.get(key) != value:
                raise ValueError(
                    f"{self.path} holds statistics of features with {key} {value}, these have {theirs.get(key)}; "
                    "choose those, or write statistics of these with `zoo gfid FOLDER --write-reference FILE.npz`"
                )

    def of(self, tap: str) -> Moments:
        """Moments of a tap.

        Raises:
            ValueError: the file has none.
        """
        if tap not in self.moments:
            names = " and ".join(PAIRS.get(tap, (tap,)))
            raise ValueError(f"{self.path} has no {names}, which the distance on {tap!r} compares with")
        return self.moments[tap]

    def describe(self) -> dict[str, Any]:
        """What belongs beside a number, as plain data."""
        return {
            "file": self.path.name,
            "sha256": self.sha256,
            "pictures": None if self.pictures is None else len(self.pictures),
            **({"notes": list(self.notes)} if self.notes else {}),
        }


def read_reference(path: str | Path) -> Reference:
    """Read a file of statistics.

    ADM's layout: an npz with `mu` (D,) and `sigma` (D, D) of FID's features, `mu_s` and `sigma_s` of sFID's, and
    `arr_0`, pictures uint8 (N, H, W, 3), for precision and recall. Any of the three may be missing. Files that
    `write_reference` made say which network they are of; others are taken for Inception's.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, or an entry has another shape or a value that is not finite.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no reference file {path}; give an .npz file with mu and sigma")
    with open_archive(path) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
    pairs = {tap: pair for tap, pair in PAIRS.items() if names & set(pair)}
    if not pairs and "arr_0" not in names:
        raise ValueError(f"{path} has neither mu and sigma nor arr_0, only {', '.join(sorted(names)) or 'nothing'}")
    network, count = None, None
    moments = {}
    try:
        with np.load(path, allow_pickle=False) as file:
            if "network" in names:
                network = json.loads(str(file["network"]))
            if "count" in names:
                count = int(file["count"])
            for tap, pair in pairs.items():
                if missing := set(pair) - names:
                    raise ValueError(f"{', '.join(sorted(missing))} is missing")
                moments[tap] = _moments(file[pair[0]], file[pair[1]], pair, count, path.name)
    except (ValueError, KeyError, zipfile.BadZipFile, OSError, EOFError) as error:
        raise ValueError(f"{path} is no file of statistics: {error}") from error
    pictures = PictureArray(path) if "arr_0" in names else None
    notes: tuple[str, ...] = ()
    if path.stem.lower() in TRAIN:
        notes = ("statistics of ImageNet's TRAIN pictures: not comparable with numbers against validation pictures",)
    return Reference(path, digest_of(path), moments, pictures, network, notes)


def write_reference(
    path: str | Path, moments: Mapping[str, Moments], *, network: Mapping[str, Any], pictures: np.ndarray | None = None
) -> Path:
    """Write a file of statistics that `read_reference` and ADM's evaluator read.

    Args:
        moments: of the taps "pool" (as `mu`, `sigma`) and "spatial" (as `mu_s`, `sigma_s`), from equally many pictures.
        network: as `Features.describe` gives it, without the tap.
        pictures: uint8 (N, H, W, 3), kept for precision and recall.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"{path}: statistics are written as .npz")
    entries: dict[str, np.ndarray] = {"network": np.array(json.dumps(dict(network)))}
    for tap, found in moments.items():
        mean, covariance = PAIRS[tap]
        entries |= {mean: found.mean.cpu().numpy(), covariance: found.covariance.cpu().numpy()}
        if found.count is not None:
            entries["count"] = np.array(found.count)
    if pictures is not None:
        entries["arr_0"] = pictures
    with replacing(path) as draft:
        np.savez(draft, **entries)  # type: ignore[arg-type]
    return path


def _moments(mean: np.ndarray, covariance: np.ndarray, names: tuple[str, str], count: int | None, file: str) -> Moments:
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise ValueError(f"expected {names[0]} (D,) and {names[1]} (D, D), got {mean.shape} and {covariance.shape}")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError(f"{names[0]} or {names[1]} has values that are not finite")
    if not np.allclose(covariance, covariance.T, rtol=1e-3, atol=1e-6 * max(1e-30, float(np.abs(covariance).max()))):
        raise ValueError(f"{names[1]} is not symmetric")
    mean64, covariance64 = (torch.from_numpy(np.array(x, np.float64)) for x in (mean, covariance))
    return Moments(mean64, covariance64, count, file)
