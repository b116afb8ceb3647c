"""Image files: every format and colour mode, bad files, fitting and writing."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as reference

from zoo.data.images import IMAGE_SUFFIXES, Fit, fit, from_pil, read_image, resize, to_pil, write_image
from zoo.data.sheet import Panel, side_by_side

ASSETS = Path(__file__).parents[1] / "assets"
CAT = ASSETS / "cat_64.png"


@pytest.fixture
def photo() -> Image.Image:
    with Image.open(CAT) as image:
        return image.convert("RGB")


def plain(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image.convert("RGB"), np.float32)).permute(2, 0, 1) / 127.5 - 1


@pytest.mark.parametrize("name", sorted(path.name for path in ASSETS.iterdir() if path.suffix in IMAGE_SUFFIXES))
def test_photographs_read(name: str) -> None:
    image = read_image(ASSETS / name)
    assert image.dtype == torch.float32 and image.shape[0] == 3
    assert -1 <= image.min() < -0.5 < 0.5 < image.max() <= 1


@pytest.mark.parametrize(
    ("suffix", "options", "error"),
    [
        (".png", {}, 1e-6),
        (".tiff", {"compression": "tiff_lzw"}, 1e-6),
        (".webp", {"lossless": True}, 1e-6),
        (".bmp", {}, 1e-6),
        (".ppm", {}, 1e-6),
        (".jpg", {"quality": 98, "subsampling": 0}, 0.15),
        (".gif", {}, 0.9),
    ],
)
def test_formats(tmp_path: Path, photo: Image.Image, suffix: str, options: dict, error: float) -> None:
    photo.save(tmp_path / f"a{suffix}", **options)
    assert (read_image(tmp_path / f"a{suffix}") - plain(photo)).abs().max() <= error


def test_gif_and_tiff_give_their_first_picture(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (8, 6), "red"), Image.new("RGB", (8, 6), "blue")
    for suffix in (".gif", ".tiff", ".webp"):
        options = {"lossless": True} if suffix == ".webp" else {}
        first.save(tmp_path / f"a{suffix}", save_all=True, append_images=[second], **options)
        assert torch.equal(read_image(tmp_path / f"a{suffix}")[:, 3, 4], torch.tensor([1.0, -1.0, -1.0]))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, photo: Image.Image, orientation: int) -> None:
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Pillow transpose that stores the picture for this tag
    wide = photo.crop((0, 0, 64, 40))
    stored = wide.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else wide
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    assert torch.equal(read_image(tmp_path / "a.png"), plain(wide))


def test_alpha_is_composited_on_white(tmp_path: Path) -> None:
    for mode, colour in (("RGBA", (255, 0, 0, 51)), ("LA", (0, 51))):
        Image.new(mode, (4, 4), colour).save(tmp_path / "a.png")
        value = read_image(tmp_path / "a.png")[:, 0, 0]
        red = 1.0 if mode == "RGBA" else 0.6
        assert torch.allclose(value, torch.tensor([red, 0.6, 0.6]), atol=1e-6)


def test_palette_with_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "clear.png", transparency=1)
    assert read_image(tmp_path / "opaque.png")[:, 0, 1].tolist() == [-1, -1, 1]
    assert read_image(tmp_path / "clear.png")[:, 0].T.tolist() == [[1, -1, -1], [1, 1, 1]]


def test_grey_one_bit_cmyk_and_ycbcr(tmp_path: Path, photo: Image.Image) -> None:
    photo.convert("L").save(tmp_path / "grey.png")
    grey = read_image(tmp_path / "grey.png")
    assert torch.equal(grey, plain(photo.convert("L"))) and torch.equal(grey[0], grey[2])
    photo.convert("1").save(tmp_path / "bits.png")
    assert set(read_image(tmp_path / "bits.png").unique().tolist()) == {-1.0, 1.0}
    photo.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=98)
    assert (read_image(tmp_path / "cmyk.jpg") - plain(photo)).abs().mean() < 0.03
    photo.convert("CMYK").save(tmp_path / "cmyk.tiff")
    assert (read_image(tmp_path / "cmyk.tiff") - plain(photo)).abs().max() < 1e-6
    assert (from_pil(photo.convert("YCbCr")) - plain(photo)).abs().max() < 0.03


@pytest.mark.parametrize("suffix", [".png", ".tiff", ".pgm"])
def test_sixteen_bit_grey_is_scaled(tmp_path: Path, suffix: str) -> None:
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    Image.fromarray(ramp).save(tmp_path / f"a{suffix}")
    image = read_image(tmp_path / f"a{suffix}")
    assert torch.allclose(image[1], torch.from_numpy(ramp.astype(np.float32)) / 32767.5 - 1, atol=1e-6)
    assert len(image.unique()) == 64


def test_sixteen_bit_colour_is_scaled(tmp_path: Path) -> None:
    pixels = np.array([[[65535, 32768, 256]]], ">u2")
    write_png(tmp_path / "a.png", pixels, depth=16, colour=2)
    assert torch.allclose(read_image(tmp_path / "a.png")[:, 0, 0], torch.tensor([1.0, 0.0, -0.99]), atol=0.01)


def write_png(path: Path, pixels: np.ndarray, depth: int, colour: int) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_float_tiff_needs_a_known_range(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)).save(tmp_path / "a.tiff")
    assert read_image(tmp_path / "a.tiff")[0, 0].tolist() == [-1, 0, 1]
    Image.fromarray(np.array([[0.0, 300.0]], np.float32)).save(tmp_path / "b.tiff")
    with pytest.raises(ValueError, match="values from 0 to 300, expected 0 to 1"):
        read_image(tmp_path / "b.tiff")


def test_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with pytest.raises(FileNotFoundError, match="no image file"):
        read_image(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="empty"):
        read_image(path)
    path.write_bytes(b"not a picture at all")
    with pytest.raises(ValueError, match="not an image of a known format"):
        read_image(path)
    for source in (CAT, ASSETS / "astronaut.jpg", ASSETS / "rocket.webp"):
        data = source.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        with pytest.raises(ValueError, match=r"damaged or truncated|not an image"):
            read_image(path)


def test_bombs_are_refused_before_decoding(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_png(path, np.zeros((1, 1, 3), np.uint8), depth=8, colour=2)
    data = bytearray(path.read_bytes())
    for width, height in ((60_000, 60_000), (10_000, 9_500)):
        data[16:24] = struct.pack(">II", width, height)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        path.write_bytes(data)
        with pytest.raises(ValueError, match="at most 89478485 are read"):
            read_image(path)
    with pytest.raises(ValueError, match="64 x 64 pixels, at most 100"):
        read_image(CAT, max_pixels=100)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jpeg", ".webp"])
def test_writing(tmp_path: Path, suffix: str) -> None:
    image = read_image(CAT)
    path = write_image(tmp_path / "new" / f"a{suffix}", image * 1.5)
    error = (read_image(path) - (image * 1.5).clamp(-1, 1)).abs().mean()
    assert error < (1e-6 + 1 / 255 if suffix == ".png" else 0.1)
    assert [item.name for item in path.parent.iterdir()] == [f"a{suffix}"]


def test_writing_keeps_the_old_file_on_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_image(tmp_path / "a.png", read_image(CAT))
    before = path.read_bytes()

    def fails(self: Image.Image, target: Path, *_: object, **__: object) -> None:
        Path(target).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fails)
    with pytest.raises(OSError, match="disk full"):
        write_image(path, torch.zeros(3, 8, 8))
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_writing_refuses(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot write \.xyz"):
        write_image(tmp_path / "a.xyz", torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match="one item of a batch"):
        to_pil(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("source", [(300, 451), (451, 300), (511, 257), (40, 90), (256, 256)])
def test_crop_is_resize_then_centre_crop(source: tuple[int, int]) -> None:
    image = torch.rand(3, *source, generator=torch.Generator().manual_seed(0)) * 2 - 1
    fitted, record = fit(image, 256)
    expected = reference.center_crop(
        reference.resize(image, [256], reference.InterpolationMode.BICUBIC, antialias=True), [256, 256]
    )
    assert torch.equal(fitted, expected.clamp(-1, 1))
    assert record.unfit(fitted).shape == record.view(image).shape
    assert min(record.region[2:]) == min(source)


@pytest.mark.parametrize("mode", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("source", [(170, 256), (256, 170), (1, 500), (7, 3)])
def test_fit_and_unfit(mode: str, source: tuple[int, int]) -> None:
    image = torch.rand(3, *source) * 2 - 1
    fitted, record = fit(image, (64, 96), mode)
    assert fitted.shape == (3, 64, 96) and fitted.abs().max() <= 1
    assert record.unfit(fitted).shape == (record.view(image).shape if mode == "crop" else image.shape)
    with pytest.raises(ValueError, match=r"expected an image \(3, 64, 96\)"):
        record.unfit(image)


def test_unfit_restores_a_smooth_picture() -> None:
    photo = resize(read_image(ASSETS / "astronaut.jpg"), (96, 160))
    smooth = resize(resize(photo, (12, 20)), (96, 160))
    for mode in ("pad", "stretch"):
        fitted, record = fit(smooth, 128, mode)
        assert (record.unfit(fitted) - smooth).abs().mean() < 0.02
        assert record.trim(fitted).shape[1:] == record.content[2:]
    fitted, record = fit(smooth, 64, "crop")
    assert record == Fit("crop", (96, 160), (0, 32, 96, 96), (64, 64), (0, 0, 64, 64))
    assert (record.unfit(fitted) - record.view(smooth)).abs().mean() < 0.02


def test_fit_refuses() -> None:
    with pytest.raises(ValueError, match="mode is one of crop, pad, stretch"):
        fit(torch.zeros(3, 8, 8), 4, "squash")
    with pytest.raises(ValueError, match="at least 1 x 1"):
        fit(torch.zeros(3, 8, 8), (0, 4))


def test_sheet_holds_pictures_and_captions() -> None:
    cat = read_image(CAT)
    sheet = side_by_side([Panel(cat, "original"), Panel(-cat, "128 tokens", ["PSNR 20.00 dB", "1,536 bits"])])
    pixels = np.asarray(sheet)
    height = 64 * 5  # the first whole factor that reaches 320 pixels
    gap = 16
    first = pixels[gap : gap + height, gap : gap + height] / 127.5 - 1
    assert np.abs(first.mean((0, 1)) - cat.mean((1, 2)).numpy()).max() < 0.02
    below = pixels[gap + height :]
    assert (below < 128).any() and (pixels[:gap] == 255).all()
    grid = side_by_side([Panel(cat, str(number)) for number in range(5)], columns=2)
    assert grid.height > 3 * height and grid.width < 3 * height
    with pytest.raises(ValueError, match="needs panels"):
        side_by_side([])
