"""JPEG, WebP and thumbnails at a budget; use of a codebook."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from zoo.data.images import read_image
from zoo.metrics import codebook_perplexity, codebook_usage, compress, compress_at, psnr, thumbnail

ASSETS = Path(__file__).parents[1] / "assets"


@pytest.fixture(scope="module")
def cat() -> Tensor:
    return read_image(ASSETS / "cat_64.png")


@pytest.mark.parametrize("kind", ["JPEG", "WebP"])
def test_more_bytes_give_a_better_picture_within_the_budget(cat: Tensor, kind: str) -> None:
    files = [compress(cat, budget, kind) for budget in (900, 1300, 2000)]
    assert all(file.fits and file.size <= budget for file, budget in zip(files, (900, 1300, 2000), strict=True))
    assert all(file.image.shape == cat.shape for file in files)
    quality = [float(psnr(file.image[None], cat[None])) for file in files]
    assert quality == sorted(quality) and quality[0] < quality[-1]


@pytest.mark.parametrize("kind", ["JPEG", "WebP"])
def test_a_quality_gives_the_file_that_a_budget_finds(cat: Tensor, kind: str) -> None:
    file = compress(cat, 1300, kind)
    same = compress_at(cat, file.quality, kind)
    assert same.size == file.size and torch.equal(same.image, file.image)
    with pytest.raises(ValueError, match="qualities"):
        compress_at(cat, 101, kind)
    with pytest.raises(ValueError, match="JPEG, WebP"):
        compress_at(cat, 50, "AVIF")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["JPEG", "WebP"])
def test_budget_is_used_up(cat: Tensor, kind: str) -> None:
    file = compress(cat, 1300, kind)
    same, lower = compress(cat, file.size, kind), compress(cat, file.size - 1, kind)
    assert (same.size, same.quality) == (file.size, file.quality)
    assert lower.quality < file.quality and lower.size < file.size


@pytest.mark.parametrize("kind", ["JPEG", "WebP"])
def test_smallest_file_where_nothing_fits(cat: Tensor, kind: str) -> None:
    file = compress(cat, 16, kind)
    assert not file.fits and file.size > 16
    assert compress(cat, file.size, kind).fits and not compress(cat, file.size - 1, kind).fits


def test_unknown_format_is_refused(cat: Tensor) -> None:
    with pytest.raises(ValueError, match="one of JPEG, WebP, got 'GIF'"):
        compress(cat, 100, "GIF")  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(64, 64), (30, 90), (2, 900), (900, 2), (1, 1)])
@pytest.mark.parametrize("bits", [24, 100, 1000, 25_000])
def test_thumbnail_costs_at_most_its_bits(size: tuple[int, int], bits: int) -> None:
    image = torch.rand(3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    enlarged, small = thumbnail(image, bits)
    assert enlarged.shape == image.shape
    assert 1 <= 24 * math.prod(small) <= bits
    assert small[0] <= size[0] and small[1] <= size[1]


def test_thumbnail_of_one_pixel_is_the_mean(cat: Tensor) -> None:
    flat, small = thumbnail(cat, 40)
    assert small == (1, 1)
    assert torch.allclose(flat[:, 0, 0], cat.mean((1, 2)), atol=0.06)
    with pytest.raises(ValueError, match="at least 24 bits"):
        thumbnail(cat, 23)


def test_usage_and_perplexity() -> None:
    indices = torch.tensor([[[0], [0]], [[3], [3]]])
    assert float(codebook_usage(indices, 8)) == 2 / 8
    assert float(codebook_perplexity(indices, 8)) == pytest.approx(2)
    assert float(codebook_perplexity(torch.arange(8), 8)) == pytest.approx(8)
    with pytest.raises(ValueError, match=r"\[0, 3\), got 0 to 3"):
        codebook_usage(indices, 3)
    with pytest.raises(ValueError, match="got none"):
        codebook_perplexity(indices[:0], 3)
