"""Files of statistics in ADM's layout: what is read, what is refused, and that a round trip changes nothing."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from zoo.metrics import Features, Moments, frechet_distance, read_reference
from zoo.metrics.features import Network
from zoo.metrics.piles import PictureArray, Pile
from zoo.metrics.reference import ADM, write_reference

Entries = dict[str, np.ndarray]


def network(**about: object) -> Features:
    return Features(Network("inception_fid_12345678", lambda x: {}, {"pool": 4}, about={**ADM, **about}))


def adm(dim: int = 4, pictures: int = 5) -> Entries:
    """As ADM's evaluator saves them."""
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(50, dim)), draw.normal(size=(50, 3))
    return {
        "arr_0": draw.integers(0, 256, (pictures, 6, 8, 3), dtype=np.uint8),
        "mu": x.mean(0),
        "sigma": np.cov(x, rowvar=False),
        "mu_s": y.mean(0),
        "sigma_s": np.cov(y, rowvar=False),
    }


def save(path: Path, entries: Entries) -> Path:
    np.savez(path, **entries)  # type: ignore[arg-type]
    return path


def test_reads_what_adm_writes(tmp_path: Path) -> None:
    entries = adm()
    found = read_reference(save(tmp_path / "VIRTUAL_imagenet256_labeled.npz", entries))
    assert set(found.moments) == {"pool", "spatial"} and found.of("spatial").mean.shape == (3,)
    np.testing.assert_array_equal(found.of("pool").covariance, entries["sigma"])
    assert found.pictures is not None and len(found.pictures) == 5
    batches = list(found.pictures.batches(2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    pixels = ((torch.cat(batches) + 1) * 127.5).round().permute(0, 2, 3, 1)
    np.testing.assert_array_equal(pixels.numpy(), entries["arr_0"])
    assert "TRAIN" in found.notes[0] and found.describe()["notes"] == list(found.notes)
    assert len(found.sha256) == 64 and found.describe()["pictures"] == 5
    found.check(network())
    other = read_reference(save(tmp_path / "val.npz", {key: entries[key] for key in ("mu", "sigma")}))
    assert other.notes == () and other.pictures is None
    with pytest.raises(ValueError, match="has no mu_s and sigma_s, which the distance on 'spatial'"):
        other.of("spatial")


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    moments = Moments(torch.arange(4.0).double(), torch.eye(4).double() * 2, 17)
    about = {**network().describe(), "resize": "pil_bicubic"}
    pictures = adm()["arr_0"]
    path = write_reference(tmp_path / "new/own.npz", {"pool": moments}, network=about, pictures=pictures)
    found = read_reference(path)
    assert float(frechet_distance(found.of("pool"), moments)) == 0 and found.of("pool").count == 17
    assert found.pictures is not None and found.pictures.shape == pictures.shape
    found.check(network(resize="pil_bicubic"))
    with pytest.raises(ValueError, match="resize pil_bicubic, these have tf1_bilinear; choose those"):
        found.check(network())
    with pytest.raises(ValueError, match=r"written as \.npz"):
        write_reference(tmp_path / "own.npy", {"pool": moments}, network=about)


def test_other_features_than_those_of_the_file_are_refused(tmp_path: Path) -> None:
    found = read_reference(save(tmp_path / "adm.npz", adm()))
    with pytest.raises(ValueError, match="resize tf1_bilinear, these have antialias"):
        found.check(network(resize="antialias"))
    with pytest.raises(ValueError, match="network inception_fid, these have means"):
        found.check(Features.of(lambda x: x, 4, "means"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigma": np.eye(5)}, r"expected mu \(D,\) and sigma \(D, D\), got \(4,\) and \(5, 5\)"),
        ({"mu": np.full(4, np.nan)}, "mu or sigma has values that are not finite"),
        ({"sigma": np.arange(16.0).reshape(4, 4)}, "sigma is not symmetric"),
        ({"sigma": None}, "sigma is missing"),
        ({"arr_0": np.zeros((5, 3, 6, 8), np.uint8)}, r"arr_0 as uint8 \(N, H, W, 3\), got uint8 \(5, 3, 6, 8\)"),
        ({"arr_0": np.zeros((5, 6, 8, 3), np.float32)}, "got float32"),
        ({"mu": np.array([{}], dtype=object)}, "Object arrays cannot be loaded"),
    ],
)  # fmt: skip
def test_wrong_entries_are_named(change: dict[str, np.ndarray | None], message: str, tmp_path: Path) -> None:
    entries = {key: value for key, value in {**adm(), **change}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        read_reference(save(tmp_path / "wrong.npz", entries))


def test_files_that_are_no_statistics(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no reference file"):
        read_reference(tmp_path / "nowhere.npz")
    with pytest.raises(ValueError, match="neither mu and sigma nor arr_0, only stats"):
        read_reference(save(tmp_path / "other.npz", {"stats": np.zeros(3)}))
    whole = save(tmp_path / "whole.npz", adm()).read_bytes()
    for size in (0, 100, len(whole) - 30):
        (tmp_path / "cut.npz").write_bytes(whole[:size])
        with pytest.raises(ValueError, match=r"cut\.npz is no npz file, or was cut off"):
            read_reference(tmp_path / "cut.npz")
    damaged = bytearray(whole)
    with zipfile.ZipFile(tmp_path / "whole.npz") as archive:
        place = archive.getinfo("sigma.npy").header_offset + 200
    damaged[place] ^= 255
    (tmp_path / "damaged.npz").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"damaged\.npz is no file of statistics: Bad CRC-32"):
        read_reference(tmp_path / "damaged.npz")


def test_a_header_that_promises_more_pictures_than_there_are(tmp_path: Path) -> None:
    header = np.lib.format.header_data_from_array_1_0(np.zeros((9, 2, 2, 3), np.uint8))
    with zipfile.ZipFile(tmp_path / "short.npz", "w") as archive, archive.open("arr_0.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(4 * 12))
    pictures = PictureArray(tmp_path / "short.npz")
    with pytest.raises(ValueError, match="ends after 4 of 9 pictures"):
        list(pictures.batches(3))


def test_compressed_arrays_are_read_too(tmp_path: Path) -> None:
    entries = adm(pictures=3)
    np.savez_compressed(tmp_path / "small.npz", **entries)  # type: ignore[arg-type]
    assert len(torch.cat(list(PictureArray(tmp_path / "small.npz").batches(64)))) == 3


def test_piles_stop_where_they_are_told(tmp_path: Path) -> None:
    save(tmp_path / "x.npz", adm())
    assert [len(batch) for batch in Pile(tmp_path / "x.npz", 3, 2)] == [2, 1]
    assert [len(batch) for batch in Pile([torch.zeros(5, 3, 4, 4)], 4, 3)] == [3, 1]
    asked = []

    def sample(count: int) -> torch.Tensor:
        asked.append(count)
        return torch.zeros(count, 3, 4, 4)

    assert sum(len(batch) for batch in Pile(sample, 7, 3)) == 7 and asked == [3, 3, 1]
    with pytest.raises(ValueError, match="pass count=50000"):
        Pile(sample, None, 3)
    with pytest.raises(ValueError, match="expected float pictures"):
        list(Pile([torch.zeros(5, 3, 4, 4, dtype=torch.uint8)], None, 3))
