"""Draw what each quantizer does to a plane, or to a line over time, into docs/assets/quantizers/.

    python scripts/quantizer_figures.py

Quantizers that learn are first trained on points of a ring and two clumps. Every point of the plane is painted in the
colour of the tokens it gets; dots are the codes.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from quantizers import (
    BSQ,
    FSQ,
    IBQ,
    KL,
    LFQ,
    VQ,
    DimensionWise,
    Gumbel,
    MultiRate,
    MultiScaleVQ,
    Product,
    Projected,
    Quantizer,
    RandomProjection,
    Residual,
    ResidualFSQ,
    SharedVQ,
    SimVQ,
)

OUT = Path(__file__).resolve().parents[1] / "docs/assets/quantizers"
SIZE, SCALE, REACH = 260, 3, 1.6
INK, PAPER, EDGE, BLUE, VERMILION = "#24292f", "#ffffff", (255, 255, 255), "#0072b2", "#d55e00"


def points(count: int, seed: int = 0) -> Tensor:
    """(count, 2) latents: half on a ring, half in two clumps."""
    generator = torch.Generator().manual_seed(seed)
    angle = torch.rand(count, generator=generator) * 2 * math.pi
    ring = torch.stack((angle.cos(), angle.sin()), 1) * (1.15 + 0.08 * torch.randn(count, 1, generator=generator))
    side = (torch.rand(count, 1, generator=generator) < 0.5).float() * 2 - 1
    clumps = torch.cat((0.45 * side, 0.3 * side), 1) + 0.13 * torch.randn(count, 2, generator=generator)
    return torch.where(torch.rand(count, 1, generator=generator) < 0.5, ring, clumps)


def trained(quantizer: Quantizer, steps: int = 400) -> Quantizer:
    """The quantizer after `steps` batches of points; an identity stands for the encoder."""
    learned = list(quantizer.parameters())
    optimizer = torch.optim.Adam(learned, 0.02) if learned else None
    quantizer.train()
    for step in range(steps):
        z = points(512, seed=step)
        out = quantizer(z[None])
        if optimizer is not None:
            optimizer.zero_grad()
            (out.loss + (out.latents[0] - z).square().mean()).backward()
            optimizer.step()
    return quantizer.eval()


def plane() -> Tensor:
    """(pixels, 2) coordinates, rows from the top."""
    axis = (torch.arange(SIZE * SCALE) + 0.5) / (SIZE * SCALE) * 2 * REACH - REACH
    y, x = torch.meshgrid(-axis, axis, indexing="ij")
    return torch.stack((x.flatten(), y.flatten()), 1)


def colours(indices: Tensor) -> Tensor:
    """(pixels, 3) uint8: the first column is the hue, further columns shade it."""
    table: dict[int, tuple[int, int, int]] = {}
    first = indices[:, 0]
    rest = (indices[:, 1:] * torch.tensor([7919**i for i in range(indices.shape[1] - 1)])).sum(1)
    keys = first * 100_003 + rest
    for key, a, b in zip(*(column.tolist() for column in (keys, first, rest)), strict=True):
        if key not in table:
            hue, light = (a * 0.618034) % 1, 0.72 + 0.2 * ((b * 0.618034 + (a % 3) / 3) % 1)
            red, green, blue = colorsys.hls_to_rgb(hue, light, 0.55)
            table[key] = (round(red * 255), round(green * 255), round(blue * 255))
    found, place = keys.unique(return_inverse=True)
    return torch.tensor([table[int(key)] for key in found], dtype=torch.uint8)[place]


@torch.no_grad()
def cells(quantizer: Quantizer, lift: Callable[[Tensor], Tensor] = lambda x: x, dots: bool = True) -> Image.Image:
    """The plane in the colours of its tokens, borders in white, codes as dots."""
    quantizer.eval()
    out = quantizer(lift(plane())[None])
    side = SIZE * SCALE
    picture = colours(out.indices[0]).view(side, side, 3)
    labels = picture.int().sum(-1) * 1000 + picture[..., 0].int() * 7 + picture[..., 1].int()
    border = torch.zeros(side, side, dtype=torch.bool)
    border[1:] |= labels[1:] != labels[:-1]
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    thick = torch.nn.functional.max_pool2d(border[None].float(), 3, 1, 1)[0] > 0
    picture[thick] = torch.tensor(EDGE, dtype=torch.uint8)
    image = Image.fromarray(picture.numpy())
    if dots:
        draw = ImageDraw.Draw(image)
        for x, y in out.latents[0, :, :2].unique(dim=0).tolist():
            _dot(draw, x, y)
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def _dot(draw: ImageDraw.ImageDraw, x: float, y: float, radius: int = 8, fill: str = INK) -> None:
    at = ((x + REACH) / (2 * REACH) * SIZE * SCALE, (REACH - y) / (2 * REACH) * SIZE * SCALE)
    draw.ellipse([at[0] - radius, at[1] - radius, at[0] + radius, at[1] + radius], fill=fill)


def beside(*images: Image.Image) -> Image.Image:
    """Images in a row."""
    sheet = Image.new("RGB", (sum(i.width for i in images) + 16 * (len(images) - 1), images[0].height), PAPER)
    left = 0
    for image in images:
        sheet.paste(image, (left, 0))
        left += image.width + 16
    return sheet


@torch.no_grad()
def curves(partial: list[Tensor], signal: Tensor) -> Image.Image:
    """A signal over time (blue) and its sums of the first scales (vermilion), coarse to fine, one below the other."""
    width, height = 2 * SIZE * SCALE, SIZE * SCALE // 2
    image = Image.new("RGB", (width, height * len(partial)), PAPER)
    draw = ImageDraw.Draw(image)
    for row, values in enumerate(partial):
        for line, colour, thick in ((signal, BLUE, 4), (values, VERMILION, 7)):
            count = len(line)
            spots = [
                ((i + 0.5) / count * width, height * (row + 0.5) - float(value) / REACH * height / 2.2)
                for i, value in enumerate(line)
            ]
            draw.line(spots, fill=colour, width=thick, joint="curve")
    return image.resize((width // SCALE, image.height // SCALE), Image.Resampling.LANCZOS)


def wave(count: int, steps: int = 64) -> Tensor:
    """(count, steps, 2) smooth signals of two channels."""
    generator = torch.Generator().manual_seed(0)
    time = torch.linspace(0, 1, steps)[None, :, None]
    phase, rate = (torch.rand(count, 1, 2, 4, generator=generator) for _ in range(2))
    waves = torch.sin(2 * math.pi * ((0.5 + 5 * rate) * time[..., None] + phase)) * torch.tensor([0.7, 0.45, 0.3, 0.2])
    return waves.sum(-1)


def multi_scale() -> Image.Image:
    """Scales of 1, 4, 16 and 64 tokens."""
    quantizer = MultiScaleVQ(VQ(2, 64, learn="ema", kmeans_init=True), (1, 4, 16, 64), ndim=1)
    return _levels(quantizer, lambda indices, level: quantizer.lookup(indices[:, : (1, 5, 21, 85)[level]]), 4)


def multi_rate() -> Image.Image:
    """Strides 8, 4 and 1."""
    quantizer = MultiRate(VQ(2, 64, learn="ema", kmeans_init=True), (8, 4, 1))
    ends = (8, 24, 88)
    return _levels(quantizer, lambda indices, level: quantizer.lookup(indices[:, : ends[level]], levels=level + 1), 3)


def _levels(quantizer: Quantizer, decode: Callable[[Tensor, int], Tensor], count: int) -> Image.Image:
    signals = wave(64)
    learned = list(quantizer.parameters())
    optimizer = torch.optim.Adam(learned, 0.01) if learned else None
    quantizer.train()
    for _ in range(150):
        out = quantizer(signals)
        if optimizer is not None:
            optimizer.zero_grad()
            ((out.latents - signals).square().mean() + out.loss).backward()
            optimizer.step()
    quantizer.eval()
    indices = quantizer(signals[:1]).indices
    return curves([decode(indices, level)[0, :, 0] for level in range(count)], signals[0, :, 0])


@torch.no_grad()
def samples() -> Image.Image:
    """Four means (dark) and draws from their posteriors."""
    image = Image.new("RGB", (SIZE * SCALE, SIZE * SCALE), PAPER)
    draw = ImageDraw.Draw(image)
    means = torch.tensor([[-0.8, 0.7], [0.6, 0.8], [-0.5, -0.7], [0.8, -0.5]])
    spread = torch.tensor([[0.2, 0.1], [0.08, 0.25], [0.3, 0.3], [0.1, 0.1]])
    quantizer = KL(2).train()
    generator = torch.Generator().manual_seed(0)
    z = torch.cat((means, 2 * spread.log()), 1).expand(250, -1, -1)
    for colour, cloud in zip(
        (BLUE, VERMILION, "#009e73", "#cc79a7"), quantizer(z, generator=generator).latents.unbind(1), strict=False
    ):
        for x, y in cloud.tolist():
            _dot(draw, x, y, 4, colour)
    for x, y in means.tolist():
        _dot(draw, x, y, 10)
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def figures() -> dict[str, Callable[[], Image.Image]]:
    """File names and what draws them."""
    ema = {"learn": "ema", "kmeans_init": True, "decay": 0.9}
    return {
        "vq": lambda: cells(trained(VQ(2, 24, **ema))),
        "vq_cosine": lambda: cells(trained(VQ(2, 12, normalize=True, **ema), 100)),
        "projected": lambda: cells(trained(Projected(VQ(1, 8, dead_code_threshold=0.1), 2))),
        "simvq": lambda: cells(trained(SimVQ(2, 24), 800)),
        "ibq": lambda: cells(trained(IBQ(2, 12, entropy=0.01), 800)),
        "shared": lambda: beside(*_shared()),
        "gumbel": lambda: cells(trained(Gumbel(2, 12, temperature=0.5), 1500)),
        "random_projection": lambda: cells(RandomProjection(2, 2, 12, norm=False), dots=False),
        "residual": lambda: cells(trained(Residual(VQ(2, 6, **ema), 2))),
        "residual_fsq": lambda: cells(ResidualFSQ([3, 3], 2), dots=False),
        "product": lambda: cells(trained(Product(VQ(1, 6, **ema), 2))),
        "multiscale": multi_scale,
        "multirate": multi_rate,
        "fsq": lambda: beside(cells(FSQ([5, 5])), cells(FSQ([4, 4])), cells(FSQ([4, 4], symmetric=True))),
        "lfq": lambda: cells(LFQ(2)),
        "bsq": lambda: cells(BSQ(2)),
        "dimensionwise": lambda: cells(DimensionWise(2, 3, low=-1.5, high=1.5), dots=True),
        "kl": samples,
    }


def _shared() -> list[Image.Image]:
    """The cells of part one with part two held, and the other way round."""
    torch.manual_seed(3)
    quantizer = SharedVQ((2, 2), 10, learn="ema", kmeans_init=True).train()
    for step in range(100):
        quantizer(torch.cat((points(512, step), points(512, step).flip(0)), 1)[None])
    held = torch.tensor([0.8, 0.6])
    first = cells(quantizer, lambda x: torch.cat((x, held.expand(len(x), 2)), 1), dots=False)
    return [first, cells(quantizer, lambda x: torch.cat((held.expand(len(x), 2), x), 1), dots=False)]


def main() -> None:
    """Draw all figures."""
    OUT.mkdir(parents=True, exist_ok=True)
    for name, draw in figures().items():
        torch.manual_seed(0)
        draw().save(OUT / f"{name}.png", optimize=True)
        print(OUT / f"{name}.png")


if __name__ == "__main__":
    main()
