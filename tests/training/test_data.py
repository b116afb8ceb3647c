"""Image data: sources, crops, corrupt files, independence of workers."""

from __future__ import annotations

import io
import json
import tarfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from zoo.data import ImageData
from zoo.data.augment import colour_jitter, random_crop, random_resized_crop, resize_shorter
from zoo.data.base import hold_out
from zoo.data.datasets import Crops
from zoo.data.draws import ErrorLog
from zoo.data.sources import FolderSource, HubSource, ShardSource, decode_image, open_source


def batches(data: ImageData, count: int) -> list[torch.Tensor]:
    data.setup()
    return list(islice(data.train_dataloader(), count))


def shard(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_batches_repeat_and_are_in_range(photos: Path) -> None:
    first = batches(ImageData(str(photos), 32, 4, num_workers=0, jitter=0.5), 3)
    again = batches(ImageData(str(photos), 32, 4, num_workers=0, jitter=0.5), 3)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert first[0].shape == (4, 3, 32, 32)
    assert first[0].dtype == torch.uint8
    ready = ImageData(str(photos), 32).on_after_batch_transfer(first[0], 0)
    assert ready.dtype == torch.float32
    assert ready.abs().max() <= 1
    assert not torch.equal(first[0], batches(ImageData(str(photos), 32, 4, num_workers=0, seed=1), 1)[0])


def test_workers_and_cache_change_nothing(photos: Path) -> None:
    options = {"scales": [1.0, 0.5], "min_std": 8.0, "jitter": 0.3}
    plain = batches(ImageData(str(photos), 32, 4, num_workers=0, **options), 3)
    for other in ({"num_workers": 2}, {"num_workers": 0, "cache": "ram"}):
        assert all(
            torch.equal(a, b)
            for a, b in zip(plain, batches(ImageData(str(photos), 32, 4, **options, **other), 3), strict=True)
        )


def test_validation_is_fixed_and_apart(photos: Path) -> None:
    kept, held = hold_out([f"{number}.png" for number in range(100)], 0.1)
    assert (len(kept), len(held)) == (90, 10)
    assert not set(kept) & set(held)
    shuffled = [f"{number}.png" for number in reversed(range(100))]
    assert {shuffled[index] for index in hold_out(shuffled, 0.1)[1]} == {f"{index}.png" for index in held}
    data = ImageData(str(photos), 32, 4, num_workers=0, val_size=6, val_fraction=0.25)
    data.setup()
    one, two = list(data.val_dataloader()), list(data.val_dataloader())
    assert sum(map(len, one)) == 6
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    none = ImageData(str(photos), 32, val_fraction=0.0)
    none.setup()
    assert none.val_dataloader() == []


@pytest.mark.parametrize("workers", [0, 2])
def test_corrupt_files_are_skipped_and_recorded(photos: Path, tmp_path: Path, workers: int) -> None:
    root = tmp_path / "mixed"
    root.mkdir()
    good = sorted(photos.iterdir())[:2]
    for number, path in enumerate(good):
        (root / f"good{number}.png").write_bytes(path.read_bytes())
    (root / "empty.jpg").write_bytes(b"")
    (root / "text.png").write_text("no picture")
    (root / "cut.png").write_bytes(good[0].read_bytes()[:200])
    data = ImageData(str(root), 32, 5, num_workers=workers, val_fraction=0.0)
    data.record_errors(tmp_path / "errors.jsonl")
    batch = batches(data, 4)[0]
    assert batch.shape == (5, 3, 32, 32)
    lines = [json.loads(line) for line in (tmp_path / "errors.jsonl").read_text().splitlines()]
    assert {line["item"] for line in lines} == {"empty.jpg", "text.png", "cut.png"}
    assert all(line["error"] for line in lines)
    assert data.errors.count == 3


def test_only_corrupt_files_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"nothing")
    crops = Crops(FolderSource(tmp_path), [0], 8, errors=ErrorLog())
    with pytest.raises(ValueError, match=r"none of the 1 images can be read.*a\.png"):
        crops[(0, 0)]


def test_shards(photos: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in sorted(photos.iterdir())}
    names = list(files)
    shard(tmp_path / "a-0.tar", {name: files[name] for name in names[:7]} | {"00.cls": b"3"})
    shard(tmp_path / "a-1.tar", {name: files[name] for name in names[7:]} | {"broken.jpg": b"x"})
    folder = FolderSource(photos)
    for root in (tmp_path, tmp_path / "a-*.tar"):
        source = open_source(root)
        assert isinstance(source, ShardSource)
        assert len(source.names) == 13
        assert all(source.read(index) == folder.read(index) for index in (0, 6, 7, 11))
    data = ImageData(str(tmp_path), 32, 13, num_workers=2, val_fraction=0.0)
    data.record_errors(tmp_path / "errors.jsonl")
    assert batches(data, 1)[0].shape == (13, 3, 32, 32)
    assert "broken.jpg" in (tmp_path / "errors.jsonl").read_text()
    packed = tmp_path / "packed.tar"
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(photos / names[0])
    with pytest.raises(ValueError, match="uncompressed tar"):
        open_source(packed)


def test_saved_hub_data_set(photos: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    paths = [str(path) for path in sorted(photos.iterdir())]
    rows = datasets.Dataset.from_dict({"label": list(range(12)), "picture": paths})
    rows = rows.cast_column("picture", datasets.Image())
    datasets.DatasetDict({"train": rows, "test": rows.select(range(3))}).save_to_disk(str(tmp_path / "saved"))
    source = open_source(tmp_path / "saved", "train")
    assert isinstance(source, HubSource)
    assert len(source.names) == 12
    assert source.read(5) == FolderSource(photos).read(5)
    assert len(open_source(tmp_path / "saved", "test").names) == 3
    with pytest.raises(ValueError, match=r"splits \['test', 'train'\]"):
        open_source(tmp_path / "saved", "val")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": "/nowhere/at/all"}, "does not exist"),
        ({"crop": "diagonal"}, "random or resized"),
        ({"scales": [2.0]}, "factors in"),
        ({"area": [0.5]}, "low, high"),
        ({"val_fraction": 1.0}, "val_fraction"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_options(photos: Path, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageData(**{"root": str(photos), "image_size": 32, **options}).setup()
    (Path(photos).parent / "void").mkdir(exist_ok=True)
    with pytest.raises(ValueError, match="holds no images"):
        open_source(Path(photos).parent / "void")


def test_flat_crops_are_redrawn() -> None:
    image = torch.full((3, 64, 256), 90, dtype=torch.uint8)
    image[:, :, 192:] = torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)
    stds = [float(random_crop(image, 32, np.random.default_rng(seed), 8.0).float().std()) for seed in range(30)]
    assert sum(std > 8 for std in stds) >= 27
    assert sum(float(random_crop(image, 32, np.random.default_rng(seed)).float().std()) > 8 for seed in range(30)) < 20


def test_crops_of_small_images_and_resizing() -> None:
    tiny = torch.randint(0, 255, (3, 10, 20), dtype=torch.uint8)
    rng = np.random.default_rng(0)
    assert random_crop(tiny, 32, rng).shape == (3, 32, 32)
    assert random_resized_crop(tiny, 32, rng, (0.2, 1.0), (0.75, 1.33)).shape == (3, 32, 32)
    assert resize_shorter(tiny, 16).shape == (3, 16, 32)


def test_colour_jitter_at_zero_is_the_identity() -> None:
    streams = [np.random.default_rng(seed) for seed in range(2)]
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    assert torch.equal(colour_jitter(images, 0.0, streams), images)
    grey = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8).expand(-1, 3, -1, -1)
    turned = colour_jitter(grey, 0.5, streams).int()
    assert (turned.amax(1) - turned.amin(1)).max() <= 1
    assert not torch.equal(turned, grey.int())


def test_modes_read_as_rgb(tmp_path: Path) -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 7, 3), dtype=np.uint8))
    for mode in ("L", "CMYK", "RGBA", "P"):
        picture.convert(mode).save(tmp_path / f"{mode}.tiff")
    source = FolderSource(tmp_path)
    assert all(decode_image(source.read(index)).shape == (3, 9, 7) for index in range(4))
