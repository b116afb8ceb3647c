"""What the demo of shapes writes and prints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import zoo
from scripts.demo_shapes import MESH, MODEL, decode, encode, main
from zoo.families import VAT, ShapeTokenizer
from zoo.shapes.meshes import read_mesh
from zoo.store.cards import CARDS
from zoo.tokens import Tokens

for package in ("trimesh", "skimage"):
    pytest.importorskip(package)


def test_any_model_and_twice_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    folder, output = zoo.build("vat_tiny").save_pretrained(tmp_path / "small"), tmp_path / "demo"
    monkeypatch.setattr(VAT, "query", lambda self, state, queries: 0.9 - queries.norm(dim=-1))
    for _ in range(2):
        main(mesh=MESH, output=output, model=str(folder), resolution=24)
    assert {path.suffix for path in output.iterdir()} == {".safetensors", ".glb", ".png"}
    tokens = Tokens.load(output / f"small_{MESH.stem}.safetensors")
    assert tokens.bits() <= 512 * 8 and tokens.size is not None
    before, after = read_mesh(MESH), read_mesh(output / f"small_{MESH.stem}.glb")
    centre, scale = tokens.size[0, :3].numpy(), float(tokens.size[0, 3])
    assert np.allclose(centre, (before.vertices.min(axis=0) + before.vertices.max(axis=0)) / 2)
    assert np.allclose(np.linalg.norm(after.vertices - centre, axis=1), 0.9 * scale, rtol=0.02)
    with Image.open(output / f"small_{MESH.stem}.png") as picture:
        assert picture.width > 1280 and picture.getcolors(1000) is None
    printed = capsys.readouterr().out
    for text in (MESH.stem, "tokens", "bytes", f"small_{MESH.stem}.png"):
        assert printed.count(text) >= 2


@pytest.mark.skipif(
    not (CARDS / "weights" / f"{MODEL}.safetensors").is_file(), reason="the weights are not in checkpoints/weights"
)
def test_the_embedded_model_keeps_the_shape() -> None:
    pytest.importorskip("igl")
    from zoo.shapes.placement import Frame
    from zoo.shapes.winding import winding_number

    tokenizer, mesh = zoo.load(MODEL), read_mesh(MESH)
    assert isinstance(tokenizer, ShapeTokenizer)
    tokens = encode(tokenizer, mesh)
    made, share = decode(tokenizer, tokens, 96)
    assert tokens.size is not None and float(tokens.bits()[0]) <= 512 * 8 and share < 0.3
    queries = Frame.of(tokens.size[0].numpy()).restore(np.random.default_rng(0).uniform(-1, 1, (20_000, 3)))
    inside, found = (winding_number(shape, queries) > 0.5 for shape in (mesh, made))
    assert (inside & found).sum() / (inside | found).sum() > 0.6
