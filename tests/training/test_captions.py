"""Captions on their way from a data source to a tokenizer that reads text."""

from __future__ import annotations

import io
import shutil
import tarfile
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from zoo.data import ImageData
from zoo.data.captions import Captioned
from zoo.data.sources import FolderSource, open_source
from zoo.families.ta_titok import TATiTok
from zoo.training import train


@pytest.fixture
def told(photos: Path, tmp_path: Path) -> Path:
    """Pictures of which all but the first have a caption, their number."""
    folder = tmp_path / "told"
    shutil.copytree(photos, folder)
    for path in sorted(folder.glob("*.png"))[1:]:
        path.with_suffix(".txt").write_text(f" picture\n{path.stem} ")
    return folder


def test_folders_and_shards_have_captions(told: Path, tmp_path: Path) -> None:
    folder = open_source(told)
    assert [folder.caption(index) for index in (0, 1, 11)] == ["", "picture 01", "picture 11"]
    assert len(folder.names) == 12
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for path in sorted(told.iterdir()):
            member = tarfile.TarInfo(path.name)
            member.size = path.stat().st_size
            archive.addfile(member, io.BytesIO(path.read_bytes()))
    shards = open_source(tmp_path / "a.tar")
    assert len(shards.names) == 12
    for index in range(12):
        assert shards.caption(index) == folder.caption(index)
        assert shards.read(index) == folder.read(index)
    (told / "01.txt").write_bytes(b"caf\xe9")
    assert folder.caption(1) == "caf\ufffd"


@pytest.mark.parametrize(("columns", "expected"), [(["text", "caption"], "c1"), (["alt"], "a1"), (["a", "b"], "")])
def test_saved_data_sets_have_captions(photos: Path, tmp_path: Path, columns: list[str], expected: str) -> None:
    datasets = pytest.importorskip("datasets")
    files = [str(path) for path in sorted(photos.iterdir())[:3]]
    texts = {name: [f"{name[0]}{number}" for number in range(3)] for name in columns}
    rows = datasets.Dataset.from_dict({"picture": files, **texts}).cast_column("picture", datasets.Image())
    rows.save_to_disk(str(tmp_path / "saved"))
    source = open_source(tmp_path / "saved")
    assert source.caption(1) == expected
    assert source.read(1) == FolderSource(photos).read(1)


@pytest.mark.parametrize("options", [{"num_workers": 0}, {"num_workers": 2}, {"num_workers": 0, "cache": "ram"}])
def test_batches_hold_the_captions_of_their_pictures(told: Path, options: dict[str, Any]) -> None:
    (told / "05.png").write_bytes(b"broken")
    data, plain = (
        ImageData(str(told), 32, 4, val_fraction=0.2, val_size=3, jitter=0.2, captions=captions, **options)
        for captions in (True, False)
    )
    for one in (data, plain):
        one.setup()
    seen: set[str] = set()
    for batch, pictures in islice(zip(data.train_dataloader(), plain.train_dataloader(), strict=True), 6):
        assert isinstance(batch, Captioned) and len(batch) == 4
        assert torch.equal(batch.images, pictures)
        seen.update(batch.captions)
    assert "picture 05" not in seen and len(seen) > 6
    ready = data.on_after_batch_transfer(batch.to("cpu"), 0)
    assert isinstance(ready, Captioned) and ready.images.dtype == torch.float32 and ready.captions == batch.captions
    assert torch.equal(ready[:2], ready.images[:2])
    assert all(isinstance(batch, Captioned) for batch in data.val_dataloader())
    with pytest.raises(ValueError, match="2 images need as many captions, got 1"):
        Captioned(torch.zeros(2, 3, 4, 4), ["one"])


@pytest.mark.parametrize("name", ["ta_titok_tiny", "textok_tiny"])
@pytest.mark.parametrize("critic", [False, True])
def test_training_tells_the_captions(
    name: str, critic: bool, told: Path, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    describe = TATiTok.describe

    def listen(self: TATiTok, text: Any, count: int) -> torch.Tensor:
        heard.extend(text)
        return describe(self, text, count)

    monkeypatch.setattr(TATiTok, "describe", listen)
    extra = ["+objective.critic={_target_: zoo.objectives.PatchCritic, channels: 32}"] if critic else []
    folder = train(name, [*small, f"data.root={told}", "data.image_size=64", "data.cache=none", *extra])
    assert len(heard) == 8 and all(text == "" or text.startswith("picture ") for text in heard) and any(heard)
    monkeypatch.undo()
    tokenizer = zoo.load(folder)
    x = torch.rand(1, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        assert tokenizer.decode(tokenizer.encode(x)).shape == x.shape


def test_tokenizers_that_read_no_text_refuse_captions(told: Path, small: list[str]) -> None:
    with pytest.raises(ValueError, match="TiTok reads no captions"):
        train("titok_tiny", [*small, f"data.root={told}", "data.image_size=64", "data.captions=true"])
