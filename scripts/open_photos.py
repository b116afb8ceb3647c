"""Prepare the openly licensed photographs that the embedded image models are trained and measured on.

    python scripts/open_photos.py data/open_photos

Debian packages are fetched with `apt-get download` (no root, nothing is installed) and unpacked:

    train/             181 public-domain photographs of endless-sky-high-dpi, 1440 x 720
    val/                92 CC-BY-SA photographs of the same package, by other photographers
    test/lomiri/        15 photographs of lomiri-wallpapers-16.04 (CC-BY, CC-BY-SA, CC0), 3 to 16 megapixels
    test/scikit_image/   4 photographs of the scikit-image wheel (public domain, CC0)

Weights trained on train/ rest on public-domain pictures alone: the package's copyright file has 17 names that match
both a CC-BY-SA photographer's suffix and a wider public-domain pattern, and those count as CC-BY-SA here. Sets are
divided by package and photographer, never by crop.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from fnmatch import fnmatch
from pathlib import Path

import typer

PACKAGES = {"endless-sky-high-dpi": "images/land/*.jpg", "lomiri-wallpapers-16.04": "usr/share/backgrounds/*.jpg"}
SCIKIT_IMAGE = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg")
CC_BY_SA = (
    *("bwerner*", "dmottl*", "mfield*", "myrabella*", "lava5*"),
    *("*-harro*", "*-sfiera*", "*-spfld*", "*-striker*", "*-iridium*"),
)
EXPECTED = {"train": 181, "val": 92, "test/lomiri": 15, "test/scikit_image": 4}


def main(folder: Path) -> None:
    """Write train/, val/ and test/ below FOLDER; a finished folder is left as it is."""
    if {name: count(folder / name) for name in EXPECTED} == EXPECTED:
        typer.echo(f"{folder} is complete")
        return
    with tempfile.TemporaryDirectory() as scratch:
        photos = {package: fetch(package, Path(scratch)) for package in PACKAGES}
        for photo in photos["endless-sky-high-dpi"]:
            held_out = any(fnmatch(photo.name, pattern) for pattern in CC_BY_SA)
            place(photo, folder / ("val" if held_out else "train"))
        for photo in photos["lomiri-wallpapers-16.04"]:
            place(photo, folder / "test/lomiri")
    for photo in scikit_image():
        place(photo, folder / "test/scikit_image")
    for name, expected in EXPECTED.items():
        found = count(folder / name)
        note = "" if found == expected else f"  (expected {expected}: has the package changed?)"
        typer.echo(f"{folder / name}: {found} photographs{note}")


def fetch(package: str, scratch: Path) -> list[Path]:
    """Download and unpack one Debian package; its photographs, sorted by name."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise SystemExit("apt-get and dpkg are needed to fetch the photographs: run this on Debian or Ubuntu")
    room = scratch / package
    room.mkdir()
    try:
        subprocess.run(["apt-get", "download", package], cwd=room, check=True)
    except subprocess.CalledProcessError as error:
        raise SystemExit(
            f"apt-get could not download {package}; is the package list fresh (apt-get update)?"
        ) from error
    archive = next(room.glob("*.deb"))
    subprocess.run(["dpkg", "-x", archive.name, "."], cwd=room, check=True)
    return sorted(path for path in room.rglob("*.jpg") if path.match(PACKAGES[package]))


def scikit_image() -> list[Path]:
    """The photographs inside the scikit-image wheel."""
    import skimage

    return [Path(skimage.__file__).parent / "data" / name for name in SCIKIT_IMAGE]


def place(photo: Path, folder: Path) -> None:
    """Copy one file into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(photo, folder / photo.name)


def count(folder: Path) -> int:
    """Files in a folder that may not exist."""
    return len(list(folder.iterdir())) if folder.is_dir() else 0


if __name__ == "__main__":
    typer.run(main)
