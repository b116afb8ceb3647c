"""What `make demo` writes and prints."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import typer
from PIL import Image

import zoo
from scripts.demo import COUNTS, main, prefixes, whole
from zoo.data.images import read_image
from zoo.metrics import psnr
from zoo.store.cards import CARDS

PHOTOS = Path(__file__).parents[1] / "docs/assets/photos"
MODELS = ("fsq_f8_tiny", "onedpiece_tiny_128", "flextok_tiny_128")
EMBEDDED = all((CARDS / "weights" / f"{name}.safetensors").is_file() for name in MODELS)
needs_weights = pytest.mark.skipif(
    not EMBEDDED, reason="the weights of the embedded models are not in checkpoints/weights"
)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two of the sample photographs, beside a file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("chelsea.jpg", "coffee.jpg", "README.md"):
        shutil.copyfile(PHOTOS / name, folder / name)
    return folder


@pytest.fixture
def thumbnails(photos: Path) -> Path:
    """The same photographs, small."""
    for path in photos.glob("*.jpg"):
        with Image.open(path) as photo:
            photo.resize((192, 128)).save(path)
    return photos


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Models of the recipes' kinds with few parameters."""
    size = {"image_size": 32, "patch_size": 8, "width": 16, "depth": 1, "heads": 2, "num_tokens": 128, "dim": 4}
    small = {"dim": 6, "width": 12, "depth": 1}
    torch.manual_seed(0)
    nodes = {
        "grid": {
            "_target_": "zoo.families.GridTokenizer",
            "image_size": 64,
            "encoder": {"_target_": "encoders.PatchConvEncoder", **small},
            "quantizer": {"_target_": "quantizers.FSQ", "levels": [8, 8, 8, 5, 5, 5]},
            "decoder": {"_target_": "decoders.PatchConvDecoder", **small, "fine_width": 8},
        },
        "flexible": {
            "_target_": "zoo.families.OneDPiece",
            "encoder": {"_target_": "encoders.ViT1D", **size},
            "quantizer": {"_target_": "quantizers.FSQ", "levels": [8, 5, 5, 5]},
            "decoder": {"_target_": "decoders.ViT1DDecoder", **size},
        },
    }
    folder = tmp_path_factory.mktemp("models")
    return {name: str(zoo.build(node).save_pretrained(folder / name)) for name, node in nodes.items()}


def check(output: Path, *models: str) -> None:
    """All pictures are there, whole, and not of one colour."""
    stems = ("chelsea", "coffee")
    names = {"overview.png", *(f"{model}_{stem}.png" for model in models for stem in stems)}
    assert {path.name for path in output.iterdir()} == names
    for name in names:
        with Image.open(output / name) as picture:
            assert picture.width > 600 and picture.height > 300
            assert picture.getcolors(1000) is None  # more than a thousand colours: photographs, not only captions


def test_any_models_and_twice_the_same(
    thumbnails: Path, untrained: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "demo"
    for _ in range(2):
        main(photos=thumbnails, output=output, grid=untrained["grid"], flexible=[untrained["flexible"]])
        check(output, "grid", "flexible")
    printed = capsys.readouterr().out
    for text in ("chelsea", "128 tokens", "WebP", "PSNR dB", "overview.png"):
        assert printed.count(text) >= 2


def test_folder_without_pictures_is_told(tmp_path: Path, untrained: dict[str, str]) -> None:
    with pytest.raises(typer.BadParameter, match="holds no pictures"):
        main(photos=tmp_path, output=tmp_path / "demo", grid=untrained["grid"], flexible=[untrained["flexible"]])


@needs_weights
def test_embedded_models(thumbnails: Path, tmp_path: Path) -> None:
    main(photos=thumbnails, output=tmp_path / "demo", grid=MODELS[0], flexible=list(MODELS[1:]))
    check(tmp_path / "demo", *MODELS)


@needs_weights
@torch.inference_mode()
def test_grid_model_is_far_above_flat_colour() -> None:
    photo = read_image(PHOTOS / "chelsea.jpg")
    flat = float(psnr(photo.mean((1, 2), keepdim=True).expand_as(photo)[None], photo[None]))
    tokens, jpeg, webp = whole(zoo.load(MODELS[0]), "chelsea", photo).versions
    assert tokens.psnr > flat + 6
    assert tokens.tokens == 38 * 57
    assert tokens.bits_per_pixel < 0.27
    assert max(jpeg.bytes, webp.bytes) <= tokens.bytes


@needs_weights
@torch.inference_mode()
@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
@pytest.mark.parametrize("model", MODELS[1:])
def test_more_tokens_are_closer(model: str, name: str) -> None:
    trial = prefixes(zoo.load(model), name, read_image(PHOTOS / f"{name}.jpg"))
    assert [version.tokens for version in trial.versions] == list(COUNTS)
    assert [version.bytes for version in trial.versions] == [2, 8, 32, 128, 256]
    fidelity = [version.psnr for version in trial.versions]
    assert all(more > fewer - 0.2 for fewer, more in pairwise(fidelity)), "a painted picture may lose a little"
    assert fidelity[-1] > fidelity[0] + 1
