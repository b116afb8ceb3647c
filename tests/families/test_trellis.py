"""TRELLIS' sparse structures: clouds and grids in, a shell out, two files in one model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from golden import Case
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

import zoo
import zoo.store.cards as cards_module
from encoders.layers.voxels import VoxelBlock, sample_voxels, voxelize
from zoo.families import Trellis
from zoo.families.shape import cell_centres
from zoo.objectives import GridObjective
from zoo.store.build import build, compose

CASE = Path(__file__).parents[1] / "golden" / "trellis_ss" / "tiny"


@pytest.fixture
def tokenizer() -> Trellis:
    torch.manual_seed(0)
    tokenizer = zoo.build("trellis_ss_tiny").eval()
    assert isinstance(tokenizer, Trellis)
    return tokenizer


def sphere(points: int = 8192, radius: float = 0.7) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return radius * F.normalize(torch.randn(2, points, 3, generator=generator), dim=-1)


def test_clouds_and_their_grids_give_the_same_code(tokenizer: Trellis) -> None:
    cloud = sphere()
    grid = tokenizer.voxelize(cloud)
    assert grid.shape == (2, 1, 16, 16, 16) and set(grid.unique().tolist()) == {0.0, 1.0}
    with torch.no_grad():
        tokens = tokenizer.encode(cloud)
        assert tokens.num_tokens == 64 and tokens.size is None
        assert tokens.equal(tokenizer.encode(grid))
        assert tokens.equal(tokenizer.encode(cloud.flip(1)))
        assert torch.equal(tokenizer(grid).output, tokenizer.decode(tokens))


def test_the_field_interpolates_the_cells(tokenizer: Trellis) -> None:
    with torch.no_grad():
        tokens = tokenizer.encode(sphere())
        field, logits = tokenizer.field(tokens), tokenizer.decoder(tokens.latents)
        centres = cell_centres(torch.arange(16**3), 16)
        torch.testing.assert_close(field(centres), logits.flatten(1))
        torch.testing.assert_close(tokenizer.decode(tokens)[:, 0], logits)
        between = (centres[:-1].view(-1, 3) + centres[1:]) / 2
        along_z = (logits.flatten(1)[:, :-1] + logits.flatten(1)[:, 1:]) / 2
        inner = torch.arange(16**3 - 1) % 16 != 15
        torch.testing.assert_close(field(between)[:, inner], along_z[:, inner])
        assert tokenizer.decode(tokens, resolution=8).shape == (2, 1, 8, 8, 8)


def test_interpolation_is_linear_within_and_flat_outside() -> None:
    centres = cell_centres(torch.arange(4**3), 4)
    slope = torch.tensor([1.0, -2.0, 3.0])
    grid = (centres @ slope).view(1, 4, 4, 4)
    points = torch.rand(1, 50, 3) * 1.5 - 0.75
    torch.testing.assert_close(sample_voxels(grid, points), points @ slope)
    assert sample_voxels(grid, torch.full((1, 1, 3), 5.0)) == grid[0, 3, 3, 3]


def test_the_frame_is_scaled_by_bounds() -> None:
    node = dict(zoo.build("trellis_ss_tiny").config)
    small, wide = (build({**node, "bounds": bounds}).eval() for bounds in (0.5, 1.0))
    small.load_state_dict(wide.state_dict())
    cloud = sphere()
    with torch.no_grad():
        tokens = wide.encode(cloud)
        assert tokens.equal(small.encode(cloud / 2))
        torch.testing.assert_close(wide.field(tokens)(cloud), small.field(tokens)(cloud / 2))


def test_a_step_towards_the_shell(tokenizer: Trellis) -> None:
    """It learns to say which cells a sphere touches, from Dice alone."""
    grid = tokenizer.voxelize(sphere())
    objective = GridObjective(16)
    from zoo.data.shapes_batch import Shapes

    none = torch.zeros(2, 1)
    targets = objective.targets(Shapes(sphere(), none[..., None].expand(2, 1, 3), none, none > 0))
    assert torch.equal(targets.values, grid.flatten(1))
    optimizer = torch.optim.Adam(tokenizer.train().parameters(), 3e-3)
    losses = []
    for _ in range(30):
        terms = objective(targets, tokenizer(sphere(), objective.queries(targets)))
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        losses.append(terms["dice"].item())
    assert losses[-1] < 0.7 * losses[0]


def test_bad_grids_are_named(tokenizer: Trellis) -> None:
    for wrong in (torch.zeros(1, 1, 8, 16, 16), torch.zeros(1, 1, 16, 16, 16, dtype=torch.uint8)):
        with pytest.raises(ValueError, match=r"grids \(B, 1, 16, 16, 16\) of floats"):
            tokenizer.encode(wrong)
    with pytest.raises(ValueError, match="of 0 and 1"):
        tokenizer.encode(torch.full((1, 1, 16, 16, 16), 0.5))
    with pytest.raises(ValueError, match="a cloud"):
        tokenizer.encode(torch.zeros(1, 16, 16))
    with pytest.raises(ValueError, match="levels need a resolution"):
        build(compose("trellis_ss_tiny", ["tokenizer.encoder.resolution=18"]).tokenizer)


def test_blocks_start_as_the_identity() -> None:
    x = torch.randn(1, 4, 3, 3, 3)
    assert torch.equal(VoxelBlock(4)(x), x)
    half = VoxelBlock(4).to(torch.bfloat16)
    assert half(x.bfloat16()).dtype == torch.bfloat16


def test_voxels_hold_their_points() -> None:
    cloud = torch.rand(1, 20, 3) * 2 - 1
    grid = voxelize(cloud, 8)
    corners = grid[0].nonzero() / 8 * 2 - 1
    inside = (cloud[0][:, None] >= corners) & (cloud[0][:, None] < corners + 2 / 8)
    assert inside.all(-1).any(1).all()
    assert grid.sum() == inside.all(-1).any(0).sum()


@pytest.mark.parametrize("quantizer", ["kl8", "fsq", "vq4k"])
def test_any_quantizer(quantizer: str) -> None:
    tokenizer = build(compose("trellis_ss_tiny", [f"quantizer={quantizer}"]).tokenizer).eval()
    with torch.no_grad():
        tokens = tokenizer.encode(sphere())
        assert tokenizer.decode(tokens).shape == (2, 1, 16, 16, 16)
    assert tokens.indices.shape == (2, 64, len(tokenizer.spec.codebook_sizes))


def test_config_that_is_none_of_ours() -> None:
    config = Case(CASE).config
    for half, change in (("encoder", {"norm_type": "group"}), ("decoder", {"out_channels": 2})):
        with pytest.raises(ValueError, match="supports"):
            Trellis.reference_recipe({**config, half: {**config[half], **change}})
    with pytest.raises(ValueError, match="different latents"):
        Trellis.reference_recipe({**config, "decoder": {**config["decoder"], "latent_channels": 8}})


@pytest.fixture
def two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """A card `two_files` whose encoder and decoder are two files of a folder that acts as the hub."""
    case = Case(CASE)
    home = tmp_path / "hub" / "org" / "name" / "ckpts"
    home.mkdir(parents=True)
    for part in ("encoder", "decoder"):
        half = {key.removeprefix(f"{part}."): x for key, x in case.state.items() if key.startswith(part)}
        save_file(half, home / f"{part}.safetensors")
    parts = {part: {"file": f"ckpts/{part}.safetensors", "sha256": None} for part in ("encoder", "decoder")}
    weights = {"hub": "org/name", "parts": parts, "license": "mit", "layout": "reference"}
    config = {**case.config, "resolution": 16}
    card = {"family": "Trellis", "title": "t", "modality": "shape", "weights": weights, "config": config}
    (tmp_path / "two_files.yaml").write_text(json.dumps(card))
    monkeypatch.setattr(cards_module, "CARDS", tmp_path)
    monkeypatch.setenv("ZOO_HUB", str(tmp_path / "hub"))
    return Trellis.from_reference(config, case.state).state_dict()


def test_two_files_make_one_model(two_files: dict[str, Tensor], tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "org" / "name" / "ckpts"
    for tokenizer in (zoo.load("two_files"), zoo.load("two_files", weights=folder), zoo.load("org/name")):
        assert all(torch.equal(value, two_files[key]) for key, value in tokenizer.state_dict().items())
    (folder / "decoder.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="decoder"):
        zoo.load("two_files")


def test_digests_of_parts(two_files: dict[str, Tensor], tmp_path: Path) -> None:
    card = tmp_path / "two_files.yaml"
    text = card.read_text()
    card.write_text(text.replace("null", f'"{"a" * 64}"', 1))
    cards_module._read.cache_clear()
    with pytest.raises(ValueError, match=f"expected sha256 {'a' * 64}"):
        zoo.load("two_files")
    for wrong, message in (
        (text.replace("null", '"abc"', 1), "64 lower-case"),
        (text.replace("ckpts/", "../"), "inside"),
    ):
        card.write_text(wrong)
        cards_module._read.cache_clear()
        with pytest.raises(ValueError, match=message):
            zoo.load("two_files")
