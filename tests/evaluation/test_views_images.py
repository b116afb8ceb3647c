"""Pictures are cut, resized and rounded as the evaluation scripts of published tokenizers do it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

import zoo
from zoo.evaluation.outcome import Setting
from zoo.evaluation.passage import Passage
from zoo.evaluation.views.images import ImageView
from zoo.evaluation.views.pictures import CROPS, cv2_linear, originals, reconstructions
from zoo.tokenizer import Tokenizer

ASSETS = Path(__file__).parents[1] / "assets"
ALL_LEVELS = torch.arange(256)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return zoo.load("fsq_f8_tiny")


def view(tokenizer: Tokenizer, **options: object) -> ImageView:
    return ImageView(Passage(tokenizer), {"size": 64, "resize": "adm", "crop": "center", "levels": "round", **options})


def as_levels(pixels: Tensor) -> Tensor:
    return ((pixels + 1) * 127.5).round().long()


def picture(name: str = "coffee.jpg") -> Image.Image:
    return Image.open(ASSETS / name).convert("RGB")


@pytest.mark.parametrize(("levels", "changed"), [("truncate", 0), ("round", 0), ("float", 0), ("truncate_signed", 63)])
def test_levels_of_originals(levels: str, changed: int) -> None:
    unit = ALL_LEVELS.float() / 255  # as ToTensor has them, then Normalize
    found = as_levels(originals((unit - 0.5) / 0.5, levels))
    assert int((found != ALL_LEVELS).sum()) == changed
    assert int((found - ALL_LEVELS).min()) >= -1 and int((found - ALL_LEVELS).max()) == 0


def test_truncating_after_to_tensor_changes_no_level() -> None:
    assert torch.equal((ALL_LEVELS.float() / 255 * 255).to(torch.uint8), ALL_LEVELS.to(torch.uint8))


@pytest.mark.parametrize(("levels", "bias", "error"), [("truncate", -0.5, 1 / 3), ("round", 0.0, 1 / 12)])
def test_levels_of_reconstructions(levels: str, bias: float, error: float) -> None:
    exact = torch.rand(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 250 + 2
    off = as_levels(reconstructions((exact / 127.5 - 1).float(), levels)).double() - exact
    assert float(off.mean()) == pytest.approx(bias, abs=0.005)
    assert float(off.square().mean()) == pytest.approx(error, abs=0.005)


@given(st.floats(-3, 3, width=32), st.sampled_from(["truncate", "round", "truncate_signed", "float"]))
def test_reconstructions_stay_in_range_and_are_brought_to_levels_once(value: float, levels: str) -> None:
    once = reconstructions(torch.tensor([value]), levels)
    assert -1 <= float(once) <= 1
    if levels == "round":
        assert torch.equal(reconstructions(once, levels), once)


def test_nan_stays_nan() -> None:
    for levels in ("truncate", "round", "float"):
        found = reconstructions(torch.tensor([float("nan"), 0.5]), levels)
        assert torch.isnan(found[0]) and not torch.isnan(found[1])


@pytest.mark.parametrize("name", ["coffee.jpg", "cat_64.png", "astronaut.jpg"])
@pytest.mark.parametrize("size", [64, 97])
@pytest.mark.parametrize(
    ("filter_name", "mode"), [("pil_bicubic", "BICUBIC"), ("pil_bilinear", "BILINEAR"), ("pil_lanczos", "LANCZOS")]
)
def test_pil_filters_are_those_of_torchvision(filter_name: str, mode: str, size: int, name: str) -> None:
    wanted = v2.Compose([v2.Resize(size, v2.InterpolationMode[mode]), v2.CenterCrop(size)])(picture(name))
    assert np.array_equal(np.asarray(CROPS[filter_name](picture(name), size)), np.asarray(wanted))


def test_adm_crop_equals_a_restatement() -> None:
    photo = picture()
    while min(photo.size) >= 128:
        photo = photo.reduce(2) if min(photo.size) % 2 == 0 == max(photo.size) % 2 else photo.resize(
            (photo.width // 2, photo.height // 2), Image.Resampling.BOX
        )  # fmt: skip
    short = min(photo.size)
    photo = photo.resize(tuple(round(side * (64 / short)) for side in photo.size), Image.Resampling.BICUBIC)
    values = np.asarray(photo)
    top, left = (values.shape[0] - 64) // 2, (values.shape[1] - 64) // 2
    assert np.array_equal(np.asarray(CROPS["adm"](picture(), 64)), values[top : top + 64, left : left + 64])


def bilinear(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """OpenCV's INTER_LINEAR without its fixed point: (h, w, 3) float64 to (size[1], size[0], 3)."""
    for axis, length in ((0, size[1]), (1, size[0])):
        have = values.shape[axis]
        place = np.clip((np.arange(length) + 0.5) * have / length - 0.5, 0, have - 1)
        low = np.floor(place).astype(int)
        high, part = np.minimum(low + 1, have - 1), place - low
        part = part.reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        values = np.take(values, low, axis) * (1 - part) + np.take(values, high, axis) * part
    return values


@pytest.mark.parametrize("size", [(90, 61), (700, 500), (600, 400)])
def test_cv2_linear_equals_a_restatement(size: tuple[int, int]) -> None:
    photo = picture()
    found = np.asarray(cv2_linear(photo, size), np.float64)
    exact = bilinear(np.asarray(photo, np.float64), size)
    assert np.abs(found - exact).max() <= 0.5 + 1e-9


def test_cv2_linear_against_opencv() -> None:
    cv2 = pytest.importorskip("cv2", reason="opencv is not installed")
    photo = picture()
    wanted = cv2.resize(np.asarray(photo), (90, 61), interpolation=cv2.INTER_LINEAR).astype(int)
    off = np.abs(np.asarray(cv2_linear(photo, (90, 61))).astype(int) - wanted)
    assert off.max() <= 1 and (off > 0).mean() < 0.05


def test_filters_differ_as_the_protocols_say() -> None:
    crops = {name: np.asarray(crop(picture(), 64), np.float64) for name, crop in CROPS.items()}
    rough = {name: np.abs(np.diff(values, axis=1)).mean() for name, values in crops.items()}
    assert rough["cv2_linear"] == max(rough.values()) and rough["pil_bilinear"] == min(rough.values())


def test_a_picture_goes_through(tokenizer: Tokenizer, tmp_path: Path) -> None:
    looked = view(tokenizer)
    items = [looked.read((ASSETS / name).read_bytes(), name) for name in ("coffee.jpg", "cat_64.png")]
    assert {looked.shape(item) for item in items} == {(64, 64)}
    ((setting, outcome),) = looked.run(items, [Setting()])
    assert setting == Setting() and outcome.names == ("coffee.jpg", "cat_64.png")
    assert outcome.output.shape == outcome.target.shape == (2, 3, 64, 64)
    assert outcome.extent.tolist() == [64 * 64.0] * 2
    wanted = ((torch.from_numpy(np.array(picture("cat_64.png"))).permute(2, 0, 1)).float() / 127.5) - 1
    torch.testing.assert_close(outcome.target[1], wanted)
    path = looked.sample(outcome, 1, tmp_path / "a.b", original=True)
    assert path == tmp_path / "a.b.png" and np.array_equal(
        np.asarray(Image.open(path)), np.asarray(picture("cat_64.png"))
    )
    assert {"size": 64, "resize": "adm", "crop": "center"}.items() <= looked.describe().items()


def test_whole_pictures_keep_their_size(tokenizer: Tokenizer) -> None:
    looked = view(tokenizer, size=None)
    item = looked.read((ASSETS / "coffee.jpg").read_bytes(), "coffee.jpg")
    assert item.pixels.shape[1:] == picture().size[::-1]
    assert "resize" not in looked.describe()


def encoded(kind: str, image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def test_odd_pictures_become_rgb(tokenizer: Tokenizer) -> None:
    looked = view(tokenizer)
    deep = Image.fromarray(np.full((80, 70), 65535, np.uint16))
    for data in (
        encoded("JPEG", picture().convert("CMYK")),
        encoded("PNG", deep),
        encoded("PNG", Image.new("LA", (80, 90), (10, 0))),
        encoded("GIF", picture().convert("P")),
    ):
        assert looked.read(data, "odd").pixels.shape == (3, 64, 64)
    assert float(looked.read(encoded("PNG", deep), "deep").pixels.min()) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"", "empty"), (b"not a picture", "not an image"), ((ASSETS / "coffee.jpg").read_bytes()[:5000], "truncated")],
)
def test_bad_pictures_are_explained(tokenizer: Tokenizer, data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        view(tokenizer).read(data, "bad.jpg")


def test_a_view_is_checked(tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match=r"no colour; it has size, resize, crop, levels"):
        view(tokenizer, colour="red")
    with pytest.raises(ValueError, match=r"view.resize is one of pil_bicubic.*got 'cubic'"):
        view(tokenizer, resize="cubic")
    with pytest.raises(ValueError, match=r"view\.levels is one of truncate"):
        view(tokenizer, levels="floor")
    fixed = zoo.load("onedpiece_tiny_128")
    with pytest.raises(ValueError, match="takes 128 x 128 and the protocol has 64 x 64; --size 128"):
        view(fixed)
