"""Photographs to tokens and back, with the tokenizers that come with the package: what `make demo` runs.

    python scripts/demo.py
    python scripts/demo.py --photos my/pictures --output my/demo

Files in the output folder, replaced when they exist:

    fsq_f8_tiny_NAME.png           a photograph, its reconstruction, and JPEG with as many bytes
    onedpiece_tiny_128_NAME.png    its centre at 128 x 128 pixels, from 1, 4, 16, 64 and 128 tokens
    flextok_tiny_128_NAME.png      the same centre from as many tokens of another code, painted by a flow
    overview.png                   one picture about all three
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, get_args

import torch
import typer
from PIL import Image, ImageDraw, ImageFont, ImageOps
from rich.console import Console
from rich.table import Table
from torch import Tensor

import zoo
from zoo.data.images import IMAGE_SUFFIXES, fit, read_image, to_pil, write_image
from zoo.data.sheet import FAINT, INK, PAPER, Panel, side_by_side
from zoo.metrics import Format, compress, psnr, ssim
from zoo.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[1]
FLEXIBLE = ["onedpiece_tiny_128", "flextok_tiny_128"]
COUNTS = (1, 4, 16, 64, 128)
WIDTH, MARGIN, GAP = 1664, 40, 24


@dataclass(frozen=True, slots=True)
class Version:
    """A picture (3, H, W) as one method gives it back, how close it is, and what it costs."""

    method: str
    tokens: int | None
    image: Tensor
    psnr: float
    ssim: float
    bytes: int

    @property
    def bits_per_pixel(self) -> float:
        """Bits of the whole code or file for each pixel."""
        return 8 * self.bytes / (self.image.shape[1] * self.image.shape[2])

    @property
    def title(self) -> str:
        """What was stored."""
        if self.tokens is None:
            return self.method
        return f"{self.tokens:,} tokens" if self.tokens > 1 else "1 token"

    @property
    def facts(self) -> list[str]:
        """Cost and quality, as lines of a caption."""
        return [f"{self.bytes:,} bytes", f"{self.bits_per_pixel:.2g} bits/pixel", f"PSNR {self.psnr:.1f} dB"]


@dataclass(frozen=True, slots=True)
class Trial:
    """A picture and what became of it."""

    name: str
    original: Tensor
    versions: Sequence[Version]

    @property
    def panels(self) -> list[Panel]:
        """The original and its versions without WebP, with captions."""
        height, width = self.original.shape[1:]
        shown = [version for version in self.versions if version.method != "WebP"]
        first = Panel(self.original, "original", [f"{width} x {height} pixels", "24 bits/pixel"])
        return [first, *(Panel(version.image, version.title, version.facts) for version in shown)]


def main(
    photos: Annotated[Path, typer.Option(help="Folder of pictures.")] = ROOT / "docs/assets/photos",
    output: Annotated[Path, typer.Option(help="Folder for what is made.")] = Path("demo"),
    grid: Annotated[str, typer.Option(help="Tokenizer for whole photographs: a name or a folder.")] = "fsq_f8_tiny",
    flexible: Annotated[
        list[str], typer.Option(help="Tokenizer whose prefixes decode; may be given several times.")
    ] = FLEXIBLE,
) -> None:
    """Send photographs through all tokenizers; write pictures and print how good they are."""
    originals = {path.stem: read_image(path) for path in find(photos)}
    written: list[Path] = []
    console = Console()
    shown: list[tuple[str, Trial]] = []
    with torch.inference_mode():
        for number, (source, study) in enumerate([(grid, whole), *((name, prefixes) for name in flexible)]):
            model, name = zoo.load(source), Path(source).name
            trials = [study(model, stem, image) for stem, image in originals.items()]
            for trial in trials:
                written.append(write_image(output / f"{name}_{trial.name}.png", side_by_side(trial.panels)))
            console.print(table(name, trials), highlight=False)
            console.print()
            shown.append((name, trials[min(number, 1) % len(trials)]))
    written.append(write_image(output / "overview.png", overview(shown[0], shown[1:])))
    console.print("Wrote")
    for path in written:
        console.print(f"  {path}", highlight=False, soft_wrap=True)


def find(folder: Path) -> list[Path]:
    """The picture files of a folder, by name."""
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise typer.BadParameter(f"{folder} holds no pictures; expected files such as {', '.join(IMAGE_SUFFIXES[:4])}")
    return paths


def judge(method: str, original: Tensor, image: Tensor, size: int, tokens: int | None = None) -> Version:
    """Compare a version with its original."""
    image = image.clamp(-1, 1)
    pair = image[None], original[None]
    return Version(method, tokens, image, float(psnr(*pair)), float(ssim(*pair)), size)


def whole(model: Tokenizer, name: str, photo: Tensor) -> Trial:
    """A photograph through a tokenizer of any size, and through ordinary formats with as many bytes."""
    tokens = model.encode(photo[None])
    budget = math.ceil(float(tokens.bits()[0]) / 8)
    versions = [judge("tokens", photo, model.decode(tokens)[0], budget, tokens.num_tokens)]
    for kind in get_args(Format):
        file = compress(photo, budget, kind)
        versions.append(judge(kind, photo, file.image, file.size))
    return Trial(name, photo, versions)


def prefixes(model: Tokenizer, name: str, photo: Tensor) -> Trial:
    """The centre of a photograph from fewer and more tokens of one code."""
    centre, _ = fit(photo, (model.spec.input_shape[1], model.spec.input_shape[2]))
    code = model.encode(centre[None])
    versions = []
    for count in COUNTS:
        part = code.keep(count)
        size = math.ceil(float(part.bits()[0]) / 8)
        versions.append(judge("tokens", centre, model.decode(part)[0], size, part.num_tokens))
    return Trial(name, centre, versions)


def table(model: str, trials: Sequence[Trial]) -> Table:
    """The numbers of one tokenizer."""
    result = Table(title=model, title_style="bold", title_justify="left", box=None, pad_edge=False)
    result.add_column("picture")
    result.add_column("stored as")
    for column in ("bytes", "bits/pixel", "PSNR dB", "SSIM"):
        result.add_column(column, justify="right")
    for trial in trials:
        for number, version in enumerate(trial.versions):
            values = f"{version.bytes:,}", f"{version.bits_per_pixel:.3f}", f"{version.psnr:.2f}", f"{version.ssim:.3f}"
            result.add_row("" if number else trial.name, version.title, *values)
    return result


def overview(grid: tuple[str, Trial], flexible: Sequence[tuple[str, Trial]]) -> Image.Image:
    """One sheet: a photograph through the grid tokenizer above, prefixes of the flexible ones below."""
    rows = [band("Photographs of any size, one token a patch", grid[0], grid[1].panels, 4 / 3)]
    for name, trial in flexible:
        rows.append(band("One ordered code, any prefix of it decodes", name, trial.panels, 1.0))
    sheet = Image.new("RGB", (WIDTH, sum(row.height for row in rows) + MARGIN), PAPER)
    for number, row in enumerate(rows):
        sheet.paste(row, (0, sum(above.height for above in rows[:number])))
    return sheet


def band(heading: str, model: str, panels: Sequence[Panel], ratio: float) -> Image.Image:
    """A heading over panels of equal size (width / height = ratio) that fill the sheet's width."""
    large, middle, small = (ImageFont.load_default(size) for size in (38, 27, 24))
    width = (WIDTH - 2 * MARGIN - GAP * (len(panels) - 1)) // len(panels)
    height = round(width / ratio)
    top = MARGIN + 66
    bottom = top + height + 14
    result = Image.new("RGB", (WIDTH, bottom + 38 + 32 * max(len(panel.lines) for panel in panels)), PAPER)
    draw = ImageDraw.Draw(result)
    draw.text((MARGIN, top - 20), heading, fill=INK, font=large, anchor="ls")
    draw.text((WIDTH - MARGIN, top - 20), model, fill=FAINT, font=middle, anchor="rs")
    for number, panel in enumerate(panels):
        x = MARGIN + number * (width + GAP)
        picture = ImageOps.fit(to_pil(panel.image), (width, height), Image.Resampling.BICUBIC, centering=(0.5, 0.2))
        result.paste(picture, (x, top))
        draw.text((x, bottom), panel.title, fill=INK, font=middle)
        for line, text in enumerate(panel.lines):
            draw.text((x, bottom + 36 + 32 * line), text, fill=FAINT, font=small)
    return result


if __name__ == "__main__":
    typer.run(main)
