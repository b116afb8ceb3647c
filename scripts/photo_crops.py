"""Cut the training photographs into labelled squares, for `zoo export` and generators of pictures.

    python scripts/open_photos.py data/open_photos
    python scripts/photo_crops.py data/open_photos/train data/photo_crops
    zoo export onedpiece_tiny_128 --tokens 64 --data data/photo_crops/train -o data/photo_tokens/train
    zoo export onedpiece_tiny_128 --tokens 64 --data data/photo_crops/val -o data/photo_tokens/val

The photographs are named after what they show (`canyon4.jpg`, `sea12.jpg`), and that is the label: one folder a
subject, those with fewer than `--fewest` photographs left out. From each photograph at half and at a quarter of its
size, overlapping crops are cut in steps of half a side; flat ones (grey standard deviation below 8 of 255) are left
out. The last photograph of each subject goes to `val/`, the others to `train/`, each crop of which has its mirror
image beside it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image, ImageOps
from rich.progress import track

SHRINKS = (2, 4)
MIN_STD = 8.0
SUBJECT = re.compile(r"[a-z]+")


def main(
    photos: Path,
    folder: Path,
    side: Annotated[int, typer.Option(help="Pixels of a crop.")] = 128,
    fewest: Annotated[int, typer.Option(help="Photographs that a subject needs.")] = 5,
) -> None:
    """Write FOLDER/{train,val}/SUBJECT/PHOTO-SHRINK-TOP-LEFT.png for the photographs in PHOTOS."""
    subjects: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(photos.glob("*.jpg")):
        if named := SUBJECT.match(path.stem):
            subjects[named[0]].append(path)
    kept = {name: paths for name, paths in subjects.items() if len(paths) >= fewest}
    if not kept:
        raise SystemExit(f"no photographs in {photos}; run scripts/open_photos.py first")
    counts = {"train": 0, "val": 0}
    for name, paths in track(kept.items(), description="cutting", transient=True):
        for path in paths:
            part = "val" if path == paths[-1] else "train"
            (folder / part / name).mkdir(parents=True, exist_ok=True)
            counts[part] += cut(path, folder / part / name, side, mirror=part == "train")
    for part, count in counts.items():
        typer.echo(f"{folder / part}: {count} crops, {len(kept)} subjects")


def cut(path: Path, folder: Path, side: int, *, mirror: bool) -> int:
    """Write the crops of one photograph; how many."""
    count = 0
    with Image.open(path) as photo:
        whole = photo.convert("RGB")
    for shrink in SHRINKS:
        small = whole.resize((whole.width // shrink, whole.height // shrink), Image.Resampling.LANCZOS)
        for top in range(0, small.height - side + 1, side // 2):
            for left in range(0, small.width - side + 1, side // 2):
                crop = small.crop((left, top, left + side, top + side))
                if np.asarray(crop.convert("L"), np.float32).std() < MIN_STD:
                    continue
                stem = f"{path.stem}-{shrink}-{top:04d}-{left:04d}"
                for suffix, picture in (("", crop), ("-m", ImageOps.mirror(crop)))[: 1 + mirror]:
                    picture.save(folder / f"{stem}{suffix}.png")
                    count += 1
    return count


if __name__ == "__main__":
    typer.run(main)
