"""The benchmark of embedded shape models, on a sample mesh and an untrained model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import zoo
from benchmarks.embedded_shapes import NUMBERS, SETS, draco, main, shapes
from zoo.shapes.meshes import read_mesh, write_mesh
from zoo.shapes.placement import Frame

for package in ("trimesh", "skimage", "scipy"):
    pytest.importorskip(package)

ASSETS = Path(__file__).parents[2] / "docs/assets/shapes"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A blob, laid out as scripts/open_shapes.py does."""
    folder = tmp_path_factory.mktemp("open_shapes")
    for part in ("test/random_urdfs", "meshes/test/random_urdfs"):
        (folder / part).mkdir(parents=True)
    shutil.copyfile(ASSETS / "prepared/blob_007.safetensors", folder / "test/random_urdfs/007.safetensors")
    write_mesh(folder / "meshes/test/random_urdfs/007.obj", read_mesh(ASSETS / "blob_007.glb"))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    sizes = {"num_tokens": 4, "width": 16, "depth": 1, "heads": 2, "bands": 2, "place": True}
    tokenizer = zoo.build(
        {
            "_target_": "zoo.families.VAT",
            "num_points": 128,
            "encoder": {"_target_": "encoders.InContextEncoder", "dim": 6, "group": 8, **sizes},
            "quantizer": {"_target_": "quantizers.VVQ", "scales": [1, 4], "phis": 0}
            | {"quantizer": {"_target_": "quantizers.FSQ", "levels": [8, 5, 5]}},
            "decoder": {"_target_": "decoders.InContextTriplane", "dim": 3, "resolution": 4, "channels": [8], **sizes},
        }
    )
    return tokenizer.save_pretrained(tmp_path_factory.mktemp("models") / "shape")


def test_cloud_and_mesh_of_a_shape_are_in_place(root: Path) -> None:
    (shape,) = shapes(root, SETS[0], 500)
    assert shape.cloud.shape == (1, 500, 6) and shape.queries.shape == (len(shape.inside), 3)
    assert abs(np.abs(shape.mesh.vertices).max() - 1) < 1e-6
    ours, theirs = shape.frames
    cloud = ours.normalise(theirs.restore(shape.cloud[0, :, :3].numpy()))
    assert np.abs(cloud).max(axis=0) == pytest.approx(np.abs(shape.mesh.vertices).max(axis=0), abs=0.05)
    with pytest.raises(FileNotFoundError, match=r"scripts/open_shapes\.py"):
        next(shapes(root, SETS[1], 500))


def test_draco_is_finer_with_more_bits_and_longer() -> None:
    pytest.importorskip("DracoPy")
    mesh = read_mesh(ASSETS / "horse.glb")
    frame = Frame.around(mesh.vertices, "box", 1.0)
    mesh = type(mesh)(frame.normalise(mesh.vertices), mesh.faces)
    errors, sizes = [], []
    for bits in (5, 9):
        decoded, size = draco(mesh, bits)
        assert len(decoded.faces) <= len(mesh.faces)
        apart = np.linalg.norm(decoded.vertices[:, None] - mesh.vertices[None], axis=2).min(axis=1)
        errors.append(apart.max())
        sizes.append(size)
    assert errors[1] < 0.01 < errors[0] < 0.1 and sizes[0] < sizes[1]


def test_numbers_with_their_protocol(
    root: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "numbers.json"
    given = {"--shapes": root, "--model": model, "--json": path, "--resolution": 16, "--sets": "random_urdfs"}
    main([str(word) for pair in given.items() for word in pair] + ["--draco"])
    document = json.loads(path.read_text())
    numbers = document["numbers"]
    assert {item["name"] for item in numbers} == set(NUMBERS)
    assert [item["tokens"] for item in numbers if item["name"] == "volume IoU"] == [1, 5]
    size = next(item["value"] for item in numbers if item["name"] == "bytes a shape" and item["tokens"] == 5)
    assert size == pytest.approx(5 * np.log2(200) / 8)
    floor = {item["name"]: item["value"] for item in numbers if item["codec"] == "floor"}
    assert floor["F-score@0.02"] > 0.99 and floor["Chamfer distance"] < 0.02
    assert all(item["shapes"] == 1 and item["origin"].startswith("measured") for item in numbers)
    assert "random_urdfs" in capsys.readouterr().out


def test_models_of_other_things_are_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--shapes", str(root), "--model", "fsq_f8_tiny"])
    assert "no tokenizer of clouds" in capsys.readouterr().err
