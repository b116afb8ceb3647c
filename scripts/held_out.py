"""Lay out the held-out sets that published results are measured on, as folders for `zoo evaluate --data`.

    python scripts/open_photos.py data/open_photos
    python scripts/open_speech.py data/open_speech
    python scripts/open_shapes.py data/open_shapes
    python scripts/held_out.py data data/held_out

None of the embedded models was trained on any of it:

    lomiri_128/        crops 128 x 128 of 15 photographs at a quarter of their size
    scikit_image_128/  crops 128 x 128 of 4 photographs at half their size
    french/            every 16th prompt of a speaker, and in a language, that the training set does not have
    english/           10 utterances of other speakers, with what they say where the package tells
    objects/           meshes of procedural objects, of the same make as a good half of the training set
    furniture/         meshes of furniture of five collections, those that `zoo prepare-meshes` found to be solid

Crops do not overlap, start at the top left corner, and are left out where they are flat: grey standard deviation below
8 of 255. A set whose folder exists is left as it is. The same sources give the same bytes, so that the data digest in
a results file says whether two people have measured the same.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

if __name__ == "__main__":  # a script's folder comes first on the path
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import typer

from benchmarks.embedded_images import SETS, pictures
from zoo.data.images import write_image

SIDE = 128
EVERY = 16
OBJECTS = "random_urdfs"


def main(sources: Path, folder: Path) -> None:
    """Make the sets below FOLDER out of what the scripts open_*.py have put below SOURCES."""
    for item in SETS:
        target = folder / f"{item.name}_{SIDE}"
        if wanted(target):
            crops = pictures(sources / "open_photos/test" / item.name, item.shrink, SIDE)
            for number, crop in enumerate(crops):
                write_image(target / f"{number:04d}.png", crop)
    speech = sources / "open_speech/test"
    copy(sorted(speech.glob("asterisk-fr/*.flac"))[::EVERY], speech / "asterisk-fr", folder / "french")
    copy(sorted(speech.glob("pocketsphinx/*")), speech / "pocketsphinx", folder / "english")
    meshes = sources / "open_shapes/meshes/test"
    prepared = sources / "open_shapes/test"
    found = sorted(path for path in meshes.rglob("*") if path.is_file())
    files = [path for path in found if (prepared / path.relative_to(meshes)).with_suffix(".safetensors").is_file()]
    copy([path for path in files if path.is_relative_to(meshes / OBJECTS)], meshes, folder / "objects")
    copy([path for path in files if not path.is_relative_to(meshes / OBJECTS)], meshes, folder / "furniture")


def copy(paths: Iterable[Path], root: Path, target: Path) -> None:
    """Copy files with their places below `root`."""
    if not wanted(target):
        return
    found = list(paths)
    if not found:
        raise SystemExit(f"nothing in {root}; run the script that fetches it first (scripts/open_*.py)")
    for path in found:
        place = target / path.relative_to(root)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)


def wanted(target: Path) -> bool:
    """Whether a set is still to be made; says so when it is there."""
    if target.exists():
        typer.echo(f"{target} exists")
    return not target.exists()


if __name__ == "__main__":
    typer.run(main)
