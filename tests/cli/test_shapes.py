"""`zoo tokenize`, `zoo detokenize` and `zoo reconstruct` on meshes and point clouds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import Result

import zoo
from zoo.families import VAT, VecSet
from zoo.shapes.meshes import Cloud, Mesh, read_mesh, write_cloud, write_mesh
from zoo.tokens import Tokens

for package in ("trimesh", "skimage", "igl", "scipy"):
    pytest.importorskip(package)

Cli = Callable[..., Result]
SMALL = ["--resolution", 24]
BALL = {"centre": (10.0, -20.0, 3.0), "radius": 5.0}


@pytest.fixture(scope="session")
def codes(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    return str(zoo.build("vecset_fsq_tiny").save_pretrained(tmp_path_factory.mktemp("models") / "codes"))


@pytest.fixture(autouse=True)
def round_world(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the code, it stands for a ball that touches the sides of the placement."""
    monkeypatch.setattr(VecSet, "query", lambda self, state, queries: self.placement.extent - queries.norm(dim=-1))


def ball(rings: int = 24) -> Mesh:
    import trimesh

    made = trimesh.creation.uv_sphere(radius=BALL["radius"], count=[rings, rings])
    return Mesh(np.asarray(made.vertices) + BALL["centre"], np.asarray(made.faces))


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """A mesh in two formats, one of them in a subfolder, and clouds with more and fewer points than the model takes."""
    root, mesh = tmp_path / "shapes", ball()
    write_mesh(root / "ball.glb", mesh)
    write_mesh(root / "sub" / "ball.obj", mesh)
    write_cloud(root / "many.npz", Cloud(np.concatenate([mesh.vertices, mesh.vertices])))
    write_cloud(root / "few.ply", Cloud(mesh.vertices[::9]))
    return root


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def check_ball(mesh: Mesh) -> None:
    away = np.linalg.norm(mesh.vertices - BALL["centre"], axis=1)
    assert abs(away - BALL["radius"]).max() < 0.15 and mesh.corners.shape[0] > 1000


@pytest.mark.parametrize("batch", [1, 8])
def test_there_and_back(cli: Cli, codes: str, shapes: Path, tmp_path: Path, batch: int) -> None:
    made = cli("tokenize", shapes, "-m", codes, "-o", tmp_path / "t", "-b", batch)
    assert made.exit_code == 0, made.output
    places = ["ball", "few", "many", "sub/ball"]
    assert names(tmp_path / "t") == [f"{place}.safetensors" for place in places]
    tokens = Tokens.load(tmp_path / "t" / "ball.safetensors")
    facts = Tokens.read_metadata(tmp_path / "t" / "ball.safetensors")
    assert tokens.size is not None and tokens.size.tolist() == [
        pytest.approx([*BALL["centre"], BALL["radius"]], rel=1e-2)
    ]
    assert (facts["source"], json.loads(facts["shape"])) == ("ball.glb", {"kind": "mesh"})
    back = cli("detokenize", tmp_path / "t", "-o", tmp_path / "b", *SMALL, "--query-batch", 999)
    assert back.exit_code == 0, back.output
    assert names(tmp_path / "b") == [f"{place}.glb" for place in places]
    for place in places:
        check_ball(read_mesh(tmp_path / "b" / f"{place}.glb"))


def test_tokens_do_not_depend_on_company(cli: Cli, codes: str, shapes: Path, tmp_path: Path) -> None:
    for folder, batch in (("one", 1), ("all", 8)):
        assert cli("tokenize", shapes, "-m", codes, "-o", tmp_path / folder, "-b", batch).exit_code == 0
    for name in names(tmp_path / "one"):
        assert Tokens.load(tmp_path / "one" / name).equal(Tokens.load(tmp_path / "all" / name))


def test_one_file_of_several_shapes(cli: Cli, codes: str, tmp_path: Path) -> None:
    tokenizer = zoo.load(codes)
    with torch.no_grad():
        tokens = tokenizer.encode(torch.rand(2, *tokenizer.spec.input_shape) - 0.5)
    tokens.save(tmp_path / "two.safetensors")
    made = cli("detokenize", tmp_path / "two.safetensors", "-m", codes, "-o", tmp_path / "two.stl", *SMALL)
    assert made.exit_code == 0, made.output
    for number in range(2):
        mesh = read_mesh(tmp_path / f"two-000{number}.stl")
        assert abs(np.linalg.norm(mesh.vertices, axis=1) - 1).max() < 0.03


def test_reconstruct(cli: Cli, codes: str, shapes: Path, tmp_path: Path) -> None:
    made = cli("reconstruct", shapes / "sub", shapes / "many.npz", "-m", codes, "-o", tmp_path / "o", *SMALL, "--json")
    assert made.exit_code == 0, made.output
    mesh, cloud = (json.loads(line) for line in made.stdout.splitlines())
    assert names(tmp_path / "o") == ["ball.glb", "ball.png", "many.glb", "many.png"]
    check_ball(read_mesh(mesh["output"]))
    assert (mesh["tokens"], mesh["bytes"]) == (64, 128) and mesh["bits"] == pytest.approx(64 * np.log2(64000), abs=0.01)
    assert mesh["iou"] > 0.97 and mesh["ambiguous"] == 0 and mesh["f_score@0.05"] > 0.99 and mesh["chamfer_sum"] < 0.04
    assert 0 < mesh["evaluated"] < 1 and "iou" not in cloud and cloud["chamfer_sum"] < 0.3
    with Image.open(mesh["picture"]) as picture:
        assert picture.width > 1280 and picture.getcolors(1000) is None


def test_reconstruct_prints_a_table_and_writes_one_file(cli: Cli, codes: str, shapes: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.ply"
    made = cli("reconstruct", shapes / "ball.glb", "-m", codes, "-o", output, *SMALL, "--up", "z")
    assert made.exit_code == 0, made.output
    for part in ("Chamfer", "F@0.02", "IoU", "128", "0.0%"):
        assert part in made.stdout, made.stdout
    check_ball(read_mesh(output))
    again = cli("reconstruct", shapes / "ball.glb", "-m", codes, "-o", output)
    assert "1 skipped" in again.stderr


def test_bad_files_are_recorded(cli: Cli, codes: str, shapes: Path, tmp_path: Path) -> None:
    (shapes / "empty.obj").touch()
    (shapes / "words.ply").write_text("not a shape")
    write_mesh(shapes / "nan.obj", Mesh(np.array([[0, 0, 0], [1, 0, 0], [0, np.nan, 0]]), np.array([[0, 1, 2]])))
    made = cli("tokenize", shapes, "-m", codes, "-o", tmp_path / "t")
    assert made.exit_code == 1 and "4 done" in made.stderr and "3 failed" in made.stderr
    records = [json.loads(line) for line in (tmp_path / "t" / "errors.jsonl").read_text().splitlines()]
    assert {Path(record["input"]).name for record in records} == {"empty.obj", "words.ply", "nan.obj"}


def test_empty_shapes_are_failures(
    cli: Cli, codes: str, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VecSet, "query", lambda self, state, queries: queries.norm(dim=-1) - 9)
    made = cli("reconstruct", shapes / "ball.glb", "-m", codes, "-o", tmp_path / "o", *SMALL)
    assert made.exit_code == 1 and "nothing to extract" in (tmp_path / "o" / "errors.jsonl").read_text()


def test_normals_must_be_there(cli: Cli, shapes: Path, tmp_path: Path) -> None:
    folder = zoo.build("michelangelo_tiny").save_pretrained(tmp_path / "m")
    made = cli("tokenize", shapes / "many.npz", shapes / "ball.glb", "-m", folder, "-o", tmp_path / "t")
    assert made.exit_code == 1 and "1 done" in made.stderr
    assert "reads normals, the cloud has none" in (tmp_path / "t" / "errors.jsonl").read_text()


def test_scales_give_a_mesh_for_each_length(
    cli: Cli, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = zoo.build("vat_tiny").save_pretrained(tmp_path / "m")
    monkeypatch.setattr(VAT, "query", VecSet.query)
    given = ("reconstruct", shapes / "ball.glb", "-m", folder, "-o", tmp_path / "o", "--json", *SMALL, "--tokens")
    made = cli(*given, "7,63")
    assert made.exit_code == 0, made.output
    assert names(tmp_path / "o") == ["ball-63.glb", "ball-7.glb", "ball.png"]
    assert [json.loads(line)["tokens"] for line in made.stdout.splitlines()] == [7, 63]
    assert "--tokens takes whole scales, 1, 3, 7, 15, 31, 63" in cli(*given, 8).stderr.replace("\n", " ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tokenize", "SHAPES", "-m", "CODES", "-o", "OUT", "--codebooks", "1"], "--codebooks is for sounds"),
        (["reconstruct", "SHAPES", "-m", "CODES", "-o", "OUT", "--format", "png"], "glb, obj, ply, stl for shapes"),
        (["reconstruct", "SHAPES", "-m", "CODES", "-o", "OUT", "--tokens", "4"], "needs a model whose prefixes decode"),
        (["reconstruct", "SHAPES/ball.glb", "-m", "CODES", "-o", "SHAPES/ball.glb"], "is an input as well"),
        (["tokenize", "SHAPES", "-m", "FLEX", "-o", "OUT"], "folders are searched for .png"),
        (["curve", "CODES", "SHAPES", "-o", "OUT.png"], "is a tokenizer for shape, this command works on image"),
    ],
)
def test_usage_errors(
    cli: Cli, codes: str, flexible: str, shapes: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (shapes / "photo.png").touch()
    table = {"SHAPES": str(shapes), "FLEX": flexible, "OUT": str(tmp_path / "out"), "CODES": codes}
    if message.startswith("folders"):
        (shapes / "photo.png").unlink()
    for key, value in table.items():
        arguments = [argument.replace(key, value) for argument in arguments]
    made = cli(*arguments)
    assert made.exit_code == 2 and message in made.stderr.replace("\n", " "), made.output


def test_info(cli: Cli, codes: str) -> None:
    shown = cli("info", codes)
    for part in ("shape", "512 surface points (x, y, z)", "64,000 codes", "128 bytes per shape"):
        assert part in " ".join(shown.stdout.split()), shown.stdout
