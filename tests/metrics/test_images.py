"""Fidelity of pictures against scikit-image, torchmetrics and lpips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.image import (
    peak_signal_noise_ratio as pooled_psnr,
)
from torchmetrics.functional.image import (
    structural_similarity_index_measure as reference_ssim,
)

from zoo.data.images import fit, read_image
from zoo.metrics import LPIPS, MSSSIM, PSNR, SSIM, images, ms_ssim, psnr, ssim

ASSETS = Path(__file__).parents[1] / "assets"


def photos(size: int) -> Tensor:
    names = ("astronaut.jpg", "chelsea.jpg", "coffee.jpg")
    return torch.stack([fit(read_image(ASSETS / name), size)[0] for name in names])


def noisy(x: Tensor, seed: int = 0) -> Tensor:
    """Reconstructions of very different quality, some beyond [-1, 1]."""
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed))
    return x + noise * torch.tensor([0.02, 0.1, 0.3])[: len(x), None, None, None]


def unit(x: Tensor) -> np.ndarray:
    """A picture in [0, 1], channels last."""
    return (x.clamp(-1, 1) / 2 + 0.5).permute(1, 2, 0).numpy().astype(np.float64)


def test_psnr_of_pictures_and_of_pixels() -> None:
    target = photos(64)
    output = noisy(target)
    metric, pooled = PSNR(), PSNR("pixels")
    for batch in (slice(0, 2), slice(2, 3)):
        metric.update(output[batch], target[batch])
        pooled.update(output[batch], target[batch])
    each = [peak_signal_noise_ratio(unit(b), unit(a), data_range=1) for a, b in zip(output, target, strict=True)]
    assert float(metric.compute()) == pytest.approx(np.mean(each), rel=1e-6)
    whole = pooled_psnr(output.clamp(-1, 1), target, data_range=2.0)
    assert float(pooled.compute()) == pytest.approx(float(whole), rel=1e-6)
    assert float(metric.compute()) > float(pooled.compute()) + 1
    assert metric.count == 3 and metric.protocol == {"average": "pictures"}


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({}, {"gaussian_weights": True, "use_sample_covariance": False}),
        ({"window": "uniform"}, {}),
        ({"window": "uniform", "data_range": 2.0}, {"data_range": 2.0}),
        ({"channels": "grey"}, {"gaussian_weights": True, "use_sample_covariance": False}),
    ],
)
def test_ssim_follows_the_conventions_of_scikit_image(options: dict, theirs: dict) -> None:  # type: ignore[type-arg]
    target = photos(96)
    output = noisy(target)
    found = []
    for a, b in zip(output, target, strict=True):
        pair = [unit(a), unit(b)]
        if "channels" in options:
            pair = [x @ np.array([0.299, 0.587, 0.114]) for x in pair]
        axis = None if "channels" in options else -1
        found.append(structural_similarity(*pair, channel_axis=axis, **{"data_range": 1.0, **theirs}))
    np.testing.assert_allclose(ssim(output, target, **options), found, atol=1e-6)
    metric = SSIM(**options)
    metric.update(output, target)
    assert float(metric.compute()) == pytest.approx(np.mean(found), abs=1e-6)


def test_similarity_agrees_with_torchmetrics() -> None:
    target = photos(176)
    output = noisy(target)
    pair = [x.clamp(-1, 1).double() / 2 + 0.5 for x in (output, target)]
    # torchmetrics also counts windows that hang over the border, where it reflects the picture.
    _, places = reference_ssim(*pair, data_range=1.0, return_full_image=True)
    whole = places[..., 5:-5, 5:-5].mean((1, 2, 3))
    torch.testing.assert_close(ssim(output, target).double(), whole, atol=1e-6, rtol=0)
    wanted = torch.ones(3, dtype=torch.float64)
    for scale, power in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        shrunk = [F.avg_pool2d(x, 2**scale) for x in pair]
        _, value = reference_ssim(*shrunk, data_range=1.0, reduction="none", return_contrast_sensitivity=True)
        if scale == 4:
            value = reference_ssim(*shrunk, data_range=1.0, return_full_image=True)[1][..., 5:-5, 5:-5].mean((1, 2, 3))
        wanted *= value**power
    torch.testing.assert_close(ms_ssim(output, target).double(), wanted, atol=1e-6, rtol=0)
    metric = MSSSIM()
    metric.update(output, target)
    assert float(metric.compute()) == pytest.approx(float(wanted.mean()), abs=1e-6)


@given(value=st.floats(-1, 1), other=st.floats(-1, 1))
def test_similarity_of_flat_pictures_is_that_of_their_levels(value: float, other: float) -> None:
    """Eq. 6 of Wang et al.: without structure, luminance alone is left."""
    x, y = torch.full((1, 3, 12, 12), value), torch.full((1, 3, 12, 12), other)
    a, b = float(x[0, 0, 0, 0]) / 2 + 0.5, float(y[0, 0, 0, 0]) / 2 + 0.5
    assert float(ssim(x, y)) == pytest.approx((2 * a * b + 1e-4) / (a * a + b * b + 1e-4), abs=1e-6)
    assert float(ssim(x, x)) == 1


def test_lpips_names_its_net_and_agrees_with_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    package = pytest.importorskip("lpips")
    from torchmetrics.functional.image.lpips import _LPIPS

    torch.manual_seed(0)
    theirs = package.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    ours = _LPIPS(net="alex", pnet_rand=True)
    ours.net.load_state_dict(theirs.net.state_dict())
    for number, head in enumerate(theirs.lins):
        ours.lins[number].load_state_dict(head.state_dict())

    class Judge:
        def to(self, device: str) -> Judge:
            return self

        def each(self, x: Tensor, y: Tensor) -> Tensor:
            return ours.eval()(x, y).flatten()

    monkeypatch.setattr(images, "_judge", lambda net: Judge())
    target = photos(64)
    output = noisy(target)
    metric = LPIPS("alex")
    metric.update(output, target)
    with torch.no_grad():
        expected = theirs(output.clamp(-1, 1), target).mean()
    found = metric.compute()
    assert found.keys() == {"alex"} and float(found["alex"]) == pytest.approx(float(expected), rel=1e-5)


def test_a_net_without_weights_is_refused_when_the_metric_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    images._judge.cache_clear()
    monkeypatch.setattr("torchmetrics.functional.image.lpips._LPIPS", offline)
    with pytest.raises(RuntimeError, match=r"no route to host.*Run once with network access"):
        LPIPS("squeeze")


def test_what_cannot_be_measured_is_skipped_and_counted() -> None:
    target = photos(32)
    output = noisy(target)
    output[1, 0, 0, 0] = torch.nan
    for metric in (PSNR(), PSNR("pixels"), SSIM()):
        metric.update(output, target)
        alone = metric.clone()
        alone.reset()
        alone.update(output[[0, 2]], target[[0, 2]])
        assert metric.count == 2 and metric.skipped == 1
        assert metric.compute() == alone.compute()
    perfect = PSNR()
    perfect.update(target, target)
    assert perfect.skipped == 3 and perfect.compute().isnan()
    assert torch.isinf(psnr(target, target)).all()


def test_wrong_input_is_explained() -> None:
    small = torch.zeros(1, 3, 160, 200)
    with pytest.raises(ValueError, match=r"at least 161 pixels for its 5 scales, got \(160, 200\); use ssim"):
        MSSSIM().update(small, small)
    with pytest.raises(ValueError, match=r"at least 7 pixels, got \(6, 9\)"):
        ssim(small[..., :6, :9], small[..., :6, :9], window="uniform")
    with pytest.raises(ValueError, match="one shape"):
        PSNR("pixels").update(small, small[:, :1])
    with pytest.raises(ValueError, match="average is one of pictures, pixels, got 'both'"):
        PSNR("both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"got 'square', 'rgb', 1\.0"):
        SSIM("square")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="channels is one of rgb, grey"):
        MSSSIM("hsv")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="alex"):
        LPIPS("resnet")  # type: ignore[arg-type]
