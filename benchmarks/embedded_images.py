"""Quality of an embedded image tokenizer on held-out photographs, beside JPEG, WebP and thumbnails of the same size.

    python scripts/open_photos.py data/open_photos
    python benchmarks/embedded_images.py --photos data/open_photos --model fsq_f8_tiny --json fsq_f8_tiny.json
    python benchmarks/embedded_images.py --photos data/open_photos --model onedpiece_tiny_128

Two sets that no embedded model was trained on are reported apart: lomiri at 1/4 and scikit_image at 1/2 of their
size (LANCZOS). A model of any size sees whole photographs; one of a fixed size sees the crops that do not overlap,
cut from the top left corner, whose grey values (Rec. 601) have a standard deviation of at least 8 of 255.

Every number is a mean over images or crops. The feature distance is that of `zoo.objectives.FeaturePerceptual` at
the image's own resolution. JPEG and WebP files are the best of at most as many bytes as the tokens, or, where even
the smallest file is larger, that file: the column `fits` says how often it is within the budget, the column `bytes`
what it really costs. A thumbnail has 24 bits a pixel and is enlarged with bicubic interpolation; there is none of fewer
bits. Nothing is drawn at random: a flow decoder starts from its fixed noise, in the number of steps of its recipe. The
seed is 0 all the same.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

if __name__ == "__main__":  # a script's folder comes first on the path, where quantizers.py hides the package
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from PIL import Image, features
from rich.progress import track
from torch import Tensor

import zoo
from benchmarks.report import publish
from zoo.data.images import from_pil, read_image, to_pil
from zoo.metrics import Format, codebook_perplexity, codebook_usage, compress, psnr, ssim, thumbnail
from zoo.objectives import FeaturePerceptual
from zoo.tokenizer import Tokenizer

__all__ = ["SETS", "HeldOut", "measure", "pictures"]

Key = tuple[str, int | None]
SCRIPT = "benchmarks/embedded_images.py"
COUNTS = (1, 4, 8, 16, 32, 64, 128)
MIN_STD = 8.0
# What is measured, in the order of the table's columns: unit, column, how it is printed.
NUMBERS = {
    "PSNR": ("dB", "PSNR dB", "{:.2f}"),
    "SSIM": ("", "SSIM", "{:.4f}"),
    "EfficientNet-lite0 distance": ("", "feature", "{:.4f}"),
    "bits per pixel": ("bit", "bits/px", "{:.4f}"),
    "bytes": ("byte", "bytes", "{:,.1f}"),
    "within budget": ("share of images", "fits", "{:.0%}"),
    "codebook usage": ("share of codes", "usage", "{:.2%}"),
    "codebook perplexity": ("codes", "perplexity", "{:,.0f}"),
}


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A folder of photographs and how much they are reduced."""

    name: str
    title: str
    shrink: int


SETS = (
    HeldOut("lomiri", "lomiri-wallpapers-16.04, 15 photographs", 4),
    HeldOut("scikit_image", "scikit-image 0.26, 4 photographs", 2),
)


def pictures(folder: Path, shrink: int, side: int | None) -> Iterator[Tensor]:
    """What a model is measured on.

    Args:
        folder: photographs, read in the order of their names.
        shrink: divisor of both sides (LANCZOS).
        side: pixels of square crops that do not overlap and are not flat, or None for whole photographs.

    Yields:
        (3, h, w) in [-1, 1].

    Raises:
        FileNotFoundError: the folder is missing or empty.
    """
    paths = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    if not paths:
        raise FileNotFoundError(
            f"no photographs in {folder}; run `python scripts/open_photos.py` with its parent first"
        )
    for path in paths:
        photo = to_pil(read_image(path))
        photo = photo.resize((photo.width // shrink, photo.height // shrink), Image.Resampling.LANCZOS)
        if side is None:
            yield from_pil(photo)
            continue
        for top in range(0, photo.height - side + 1, side):
            for left in range(0, photo.width - side + 1, side):
                crop = from_pil(photo.crop((left, top, left + side, top + side)))
                grey = crop[0] * 0.299 + crop[1] * 0.587 + crop[2] * 0.114
                if float(grey.std()) * 127.5 >= MIN_STD:
                    yield crop


class Judge:
    """Compares pictures with their originals."""

    def __init__(self) -> None:
        self.perceptual = FeaturePerceptual()

    def __call__(self, output: Tensor, target: Tensor, bits: float, *, fits: bool = True) -> dict[str, float]:
        """The numbers of one picture (3, h, w) that costs so many bits."""
        pair = output.clamp(-1, 1)[None], target[None]
        return {
            "PSNR": float(psnr(*pair)),
            "SSIM": float(ssim(*pair)),
            "EfficientNet-lite0 distance": float(self.perceptual(*pair)),
            "bits per pixel": bits / (target.shape[1] * target.shape[2]),
            "bytes": math.ceil(bits / 8),
            "within budget": float(fits),
        }


@torch.inference_mode()
def measure(model: Tokenizer, images: Sequence[Tensor], counts: Sequence[int | None]) -> dict[Key, dict[str, float]]:
    """All numbers of one set.

    Args:
        model: an image tokenizer with one codebook.
        images: each (3, h, w) in [-1, 1].
        counts: prefixes to decode, [None] for whole codes.

    Returns:
        By codec ("tokens", "JPEG", "WebP", "thumbnail") and count: means over the images of the `NUMBERS`; usage and
        perplexity are of all codes of the set.
    """
    judge = Judge()
    rows: dict[Key, list[dict[str, float]]] = defaultdict(list)
    codes: dict[int | None, list[Tensor]] = defaultdict(list)
    for image in track(images, description="measuring", transient=True):
        whole = model.encode(image[None].to(model.device))
        judged: dict[tuple[str, int], dict[str, float]] = {}
        for count in counts:
            tokens = whole if count is None else whole.keep(count)
            bits = float(tokens.bits()[0])
            codes[count].append(tokens.indices.flatten())
            rows["tokens", count].append(judge(model.decode(tokens)[0].float().cpu(), image, bits))
            for kind in get_args(Format):
                file = compress(image, math.ceil(bits / 8), kind)
                if (kind, file.quality) not in judged:
                    judged[kind, file.quality] = judge(file.image, image, file.size * 8)
                rows[kind, count].append({**judged[kind, file.quality], "within budget": float(file.fits)})
            if bits >= 24:
                small, (height, width) = thumbnail(image, bits)
                rows["thumbnail", count].append(judge(small, image, 24 * height * width))
    means = {key: {name: fmean(row[name] for row in part) for name in part[0]} for key, part in rows.items()}
    (size,) = model.spec.codebook_sizes
    for count, parts in codes.items():
        seen = torch.cat(parts)
        means["tokens", count]["codebook usage"] = float(codebook_usage(seen, size))
        means["tokens", count]["codebook perplexity"] = float(codebook_perplexity(seen, size))
    return means


def records(
    held_out: HeldOut, side: int | None, images: int, means: dict[Key, dict[str, float]]
) -> list[dict[str, Any]]:
    """The means as a flat list, each with its protocol."""
    crops = f"{images} crops {side} x {side}, no overlap, grey std >= {MIN_STD:g}"
    what = "whole photographs" if side is None else crops
    protocol = {
        "set": held_out.name,
        "data": held_out.title,
        "crop": f"1/{held_out.shrink} size, {what}",
        "images": images,
        "origin": f"measured: {SCRIPT}",
    }
    return [
        {"name": name, "value": value, "unit": NUMBERS[name][0], "codec": codec, "tokens": count, **protocol}
        for (codec, count), row in means.items()
        for name, value in row.items()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder made by scripts/open_photos.py")
    parser.add_argument("--model", required=True, help="name of an embedded model, or a model folder")
    parser.add_argument("--json", type=Path, default=None, help="file for the numbers with their protocol")
    parser.add_argument("--tokens", type=int, nargs="+", default=COUNTS, help="prefixes of a flexible model")
    parser.add_argument("--sets", nargs="+", choices=[item.name for item in SETS], default=[item.name for item in SETS])
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    model = zoo.load(options.model, device=options.device)
    spec = model.spec
    if spec.modality != "image" or len(spec.codebook_sizes) != 1:
        parser.error(f"{options.model} is no image tokenizer with one codebook")
    counts: list[int | None] = [None]
    if spec.flexible and spec.num_tokens is not None:
        counts = [count for count in sorted(options.tokens) if 1 <= count <= spec.num_tokens]
    side = None if spec.any_size else spec.input_shape[1]
    results: list[dict[str, Any]] = []
    for held_out in (item for item in SETS if item.name in options.sets):
        images = list(pictures(options.photos / "test" / held_out.name, held_out.shrink, side))
        results += records(held_out, side, len(images), measure(model, images, counts))
    publish(
        options.model,
        results,
        {name: (column, form) for name, (_, column, form) in NUMBERS.items()},
        options.json,
        device=options.device,
        packages={"PIL": "pillow"},
        libjpeg=str(features.version("jpg")),
        libwebp=str(features.version("webp")),
    )


if __name__ == "__main__":
    main()
