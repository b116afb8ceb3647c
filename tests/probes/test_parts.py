"""Splits, scores and classifiers, against scikit-learn, statsmodels' formula by hand, and data with known answers."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from zoo.data.sources import IMAGES
from zoo.probes import fit_logistic, nearest_classes, open_labelled, score, wilson_interval
from zoo.probes.classifier import Schedule, classifier_probe
from zoo.probes.features import ids_of
from zoo.probes.labels import divide
from zoo.probes.linear import linear_probe
from zoo.tokens import Tokens


def blobs(items: int, dim: int, classes: int = 3, seed: int = 0, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """Points around one centre for each class."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dim, generator=torch.Generator().manual_seed(7))
    labels = torch.arange(items) % classes
    return centres[labels] + spread * torch.randn(items, dim, generator=generator), labels


@pytest.mark.parametrize(("items", "dim"), [(90, 5), (30, 200)])
@pytest.mark.parametrize("strength", [1e-3, 0.1])
def test_logistic_regression_against_scikit_learn(items: int, dim: int, strength: float) -> None:
    """The same weights to 1e-4, for more items than features and for fewer."""
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, labels = blobs(items, dim)
    ours = fit_logistic(x, labels, 3, strength)
    theirs = linear_model.LogisticRegression(C=1 / (items * strength), tol=1e-10, max_iter=10_000).fit(x, labels)
    torch.testing.assert_close(ours.weight.T, torch.from_numpy(theirs.coef_).double(), atol=1e-4, rtol=1e-3)
    probabilities = torch.from_numpy(theirs.predict_proba(x))
    torch.testing.assert_close(ours(x).softmax(1), probabilities.double(), atol=1e-5, rtol=0)


def test_linear_probe_chooses_its_strength() -> None:
    """Of 103 features 3 matter: without a strong penalty the rest is learned by heart."""
    x, labels = blobs(240, 3, spread=0.3)
    noise = torch.randn(240, 100, generator=torch.Generator().manual_seed(1))
    features = torch.cat([10 * x, noise], dim=1)
    parts = [(features[:60], labels[:60]), (features[60:90], labels[60:90])]
    predicted, strength = linear_probe(parts, features[90:], 3)
    chosen = float((predicted == labels[90:]).double().mean())
    weakest, least = linear_probe(parts, features[90:], 3, strengths=[1e-6])
    assert least == 1e-6 < strength and chosen > float((weakest == labels[90:]).double().mean())
    unseen, usual = linear_probe([parts[0], (features[:0], labels[:0])], features[90:], 3)
    assert usual == 1.0 and len(unseen) == 150


def test_constant_features_do_no_harm() -> None:
    x, labels = blobs(60, 4, spread=0.1)
    parts = [(torch.cat([x, torch.full((60, 2), 3.0)], 1), labels), (torch.zeros(0, 6), labels[:0])]
    predicted, _ = linear_probe(parts, parts[0][0], 3)
    assert torch.equal(predicted, labels)


@pytest.mark.parametrize("count", [1, 7])
def test_neighbours_against_scikit_learn(count: int) -> None:
    neighbours = pytest.importorskip("sklearn.neighbors")
    (known, labels), (features, _) = blobs(80, 6, classes=2, spread=2.0), blobs(50, 6, classes=2, seed=5, spread=2.0)
    theirs = neighbours.KNeighborsClassifier(count, metric="cosine", algorithm="brute").fit(known, labels)
    expected = torch.from_numpy(theirs.predict(features))
    assert torch.equal(nearest_classes(known, labels, features, 2, count), expected)


def test_neighbours_that_tie() -> None:
    """One neighbour of each class: the nearer decides. More neighbours than items are all of them."""
    known, labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    assert nearest_classes(known, labels, torch.tensor([[1.0, 0.9], [0.9, 1.0]]), 2, 10).tolist() == [0, 1]
    with pytest.raises(ValueError, match="at least 1, got 0"):
        nearest_classes(known, labels, known, 2, 0)


def items_of(count: int, classes: int, seed: int = 0) -> tuple[list[Tensor], Tensor]:
    """Sequences of 4 to 12 pairs of codes; the class shows in a third of the second codebook's."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    items = []
    for label in labels.tolist():
        length = int(torch.randint(4, 13, (1,), generator=generator))
        codes = torch.randint(0, 20, (length, 2), generator=generator)
        codes[torch.rand(length, generator=generator) < 0.33, 1] = label
        codes[0, 1] = label
        items.append(codes + torch.tensor([0, 20]))
    return items, labels


def test_classifier_learns_and_repeats_itself() -> None:
    (train, labels), (held, held_labels), (test, truth) = items_of(120, 3), items_of(30, 3, 1), items_of(60, 3, 2)
    schedule = Schedule(epochs=12, repetitions=2)
    state = torch.get_rng_state()
    found = [
        classifier_probe((train, labels), (held, held_labels), test, 3, entries=40, schedule=schedule) for _ in range(2)
    ]
    assert torch.equal(*found) and torch.equal(torch.get_rng_state(), state)
    assert found[0].shape == (2, 60) and float((found[0] == truth).double().mean()) > 0.7
    assert not torch.equal(found[0][0], found[0][1])


def test_classifier_of_latents() -> None:
    x, labels = blobs(60, 5, spread=0.3)
    items = [row.expand(3 + number % 4, 5) for number, row in enumerate(x)]
    found = classifier_probe(
        (items, labels), ([], labels[:0]), items, 3, entries=0, schedule=Schedule(8, repetitions=1)
    )
    assert float((found == labels).double().mean()) > 0.9


def test_ids_keep_codebooks_and_scales_apart() -> None:
    indices = torch.tensor([[[0, 1], [2, 3], [4, 0]]])
    assert ids_of(Tokens(indices, (5, 4))).tolist() == [[[0, 6], [2, 8], [4, 5]]]
    scales = Tokens(indices[..., :1], (5,), scales=(1, 2), distinct_scales=True, order="scales")
    assert ids_of(scales).tolist() == [[[0], [7], [9]]]


@given(
    counts=st.lists(st.integers(2, 30), min_size=2, max_size=5),
    fraction=st.floats(0.05, 0.6),
    apart=st.booleans(),
    seed=st.integers(0, 99),
)
def test_split_is_a_partition_of_each_class(counts: list[int], fraction: float, apart: bool, seed: int) -> None:
    labels = [f"class {number}" for number, count in enumerate(counts) for _ in range(count)]
    names = [f"{seed}/{place}.png" for place in range(len(labels))]
    split = divide(names, labels, fraction, apart=apart)
    assert sorted((*split.train, *split.validation, *split.test)) == list(range(len(labels)))
    for label in set(labels):
        parts = [[place for place in part if labels[place] == label] for part in (split.train, split.test)]
        assert parts[0] and bool(parts[1]) != apart
    order = list(reversed(range(len(labels))))
    turned = divide([names[place] for place in order], [labels[place] for place in order], fraction, apart=apart)
    assert {names[place] for place in split.test} == {names[order[place]] for place in turned.test}


def test_split_of_too_little() -> None:
    with pytest.raises(ValueError, match="needs two or more, got cat"):
        divide(["a", "b"], ["cat", "cat"], 0.2)
    with pytest.raises(ValueError, match="class 'dog' has 1 readable item, a probe needs 2 or more"):
        divide(["a", "b", "c"], ["cat", "cat", "dog"], 0.2)
    assert divide(["a", "b", "c"], ["cat", "cat", "dog"], 0.2, apart=True).test == ()


def test_wilson_interval_of_known_cases() -> None:
    """Newcombe (1998), Table I: 81 of 263, 15 of 148, 0 of 20."""
    for right, count, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)):
        assert wilson_interval(right, count) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_score_counts_classes_alike() -> None:
    found = score(torch.tensor([[0, 0, 0, 0]]), torch.tensor([0, 0, 0, 1]), 3)
    assert found["accuracy"] == 0.75 and found["balanced"] == 0.5 and "repetitions" not in found
    twice = score(torch.tensor([[0, 1], [0, 0]]), torch.tensor([0, 1]), 2)
    assert twice["accuracy"] == 0.75 and twice["repetitions"] == [1.0, 0.5]


def picture(value: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), (value, value, value)).save(data, "png")
    return data.getvalue()


def test_labels_of_folders_and_shards(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for name in ("cat/a.png", "cat/deep/b.png", "dog/a.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(9))
    found = open_labelled(folder, IMAGES)
    assert found.labels == ("cat", "cat", "dog") and found.classes == ("cat", "dog")
    (folder / "loose.png").write_bytes(picture(1))
    with pytest.raises(ValueError, match=r"loose\.png lies in no class folder"):
        open_labelled(folder, IMAGES)
    shards = tmp_path / "shards"
    shards.mkdir()
    for number in range(2):
        with tarfile.open(shards / f"part-{number}.tar", "w") as archive:
            for name, data in ((f"{number}a.png", picture(3)), (f"{number}a.cls", f"{number}\n".encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    assert open_labelled(shards, IMAGES).labels == ("0", "1")
    assert open_labelled(shards / "part-1.tar", IMAGES).labels == ("1",)
    assert open_labelled(shards / "part-*.tar", IMAGES).labels == ("0", "1")
    with tarfile.open(shards / "part-2.tar", "w") as archive:
        member = tarfile.TarInfo("x.png")
        member.size = len(picture(3))
        archive.addfile(member, io.BytesIO(picture(3)))
    with pytest.raises(ValueError, match=r"part-2\.tar/x\.png has no member part-2\.tar/x\.cls"):
        open_labelled(shards, IMAGES)


def test_labels_of_a_saved_data_set(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    pictures = [Image.new("RGB", (8, 8), (value, 0, 0)) for value in (1, 2, 3)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    data = datasets.Dataset.from_dict({"image": pictures, "label": [0, 1, 0]}, features=features)
    data.save_to_disk(tmp_path / "named")
    assert open_labelled(tmp_path / "named", IMAGES).labels == ("cat", "dog", "cat")
    data.remove_columns("label").save_to_disk(tmp_path / "bare")
    with pytest.raises(ValueError, match="no column `label`"):
        open_labelled(tmp_path / "bare", IMAGES)
