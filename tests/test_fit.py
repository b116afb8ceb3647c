"""`zoo.fit_length`: the smallest prefix that is good enough, against trying all of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from zoo.data.images import fit, read_image
from zoo.fit import bisect
from zoo.metrics import lpips, psnr, ssim
from zoo.tokens import Tokens

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("astronaut.jpg", "chelsea.jpg", "coffee.jpg", "rocket.webp")
pytestmark = pytest.mark.skipif(
    not (ROOT / "checkpoints/weights/onedpiece_tiny_128.safetensors").is_file(), reason="no embedded weights here"
)


@pytest.fixture(scope="module")
def tokenizer() -> zoo.Tokenizer:
    return zoo.load("onedpiece_tiny_128")


@pytest.fixture(scope="module")
def photos() -> Tensor:
    return torch.stack([fit(read_image(ROOT / "tests/assets" / name), 128)[0] for name in NAMES])


@pytest.fixture(scope="module")
def qualities(tokenizer: zoo.Tokenizer, photos: Tensor) -> dict[int, Tensor]:
    """PSNR (B,) at some lengths."""
    with torch.no_grad():
        tokens = tokenizer.encode(photos)
        return {k: psnr(tokenizer.decode(tokens.keep(k)), photos) for k in (1, 8, 32, 64, 127, 128)}


def code(count: int, lengths: list[int] | None = None, items: int = 3) -> Tokens:
    lasting = None if lengths is None else torch.tensor(lengths)
    return Tokens(torch.zeros(items, count, 1, dtype=torch.int64), (16,), lasting, order="coarse_to_fine")


@pytest.mark.parametrize("goal", [16.0, 18.5, 21.0])
def test_reaches_the_target_with_no_token_too_many(
    tokenizer: zoo.Tokenizer, photos: Tensor, qualities: dict[int, Tensor], goal: float
) -> None:
    found = zoo.fit_length(tokenizer, photos, target="psnr", value=goal, batch_size=3)
    assert torch.equal(found.reached, qualities[128] >= goal)
    assert torch.equal(found.lengths, found.tokens.mask.sum(1))
    with torch.no_grad():
        whole = tokenizer.encode(photos)
        assert found.tokens.equal(whole.keep(found.lengths))
        shown = psnr(tokenizer.decode(found.tokens), photos)
        torch.testing.assert_close(shown.double(), found.value, rtol=1e-4, atol=1e-3)
        shorter = psnr(tokenizer.decode(whole.keep((found.lengths - 1).clamp_min(1))), photos)
    reached = found.reached
    assert (found.value[reached] >= goal).all()
    assert (found.lengths[~reached] == 128).all(), "what cannot be reached keeps the whole code"
    trimmed = reached & (found.lengths > 1)
    assert (shorter[trimmed] < goal).all()
    assert len(found.lengths.unique()) > 1, "each picture has a length of its own"


def test_few_lengths_may_be_chosen(tokenizer: zoo.Tokenizer, photos: Tensor, qualities: dict[int, Tensor]) -> None:
    found = zoo.fit_length(tokenizer, photos, "psnr", 18.0, lengths=[128, 8, 32])
    for item, length in enumerate(found.lengths.tolist()):
        enough = [k for k in (8, 32, 128) if qualities[k][item] >= 18.0]
        assert length == (enough[0] if enough else 128)


def test_structural_similarity(tokenizer: zoo.Tokenizer, photos: Tensor) -> None:
    found = zoo.fit_length(tokenizer, photos, "ssim", 0.4)
    assert found.reached.any()
    with torch.no_grad():
        shown = ssim(tokenizer.decode(found.tokens), photos)
    assert (shown[found.reached] >= 0.4 - 1e-4).all()


def test_bits_are_a_budget_and_decode_nothing(
    tokenizer: zoo.Tokenizer, photos: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "decode", None)
    each = math.log2(64000)
    found = zoo.fit_length(tokenizer, photos, "bits", 10.5 * each)
    assert found.lengths.tolist() == [10] * 4 and found.reached.all() and found.tokens.num_tokens == 10
    assert torch.equal(found.value, found.tokens.bits())
    assert zoo.fit_length(tokenizer, photos, "bits", 1e9).lengths.tolist() == [128] * 4
    poor = zoo.fit_length(tokenizer, photos, "bits", 3.0)
    assert poor.lengths.tolist() == [1] * 4 and not poor.reached.any()
    assert zoo.fit_length(tokenizer, photos, "bits", 20 * each, lengths=[8, 16, 64]).lengths.tolist() == [16] * 4


def test_lpips_is_to_be_low(tokenizer: zoo.Tokenizer, photos: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    class Distance(torch.nn.Module):
        def each(self, x: Tensor, y: Tensor) -> Tensor:
            return (x - y).abs().mean((1, 2, 3))

    monkeypatch.setattr("zoo.metrics.images._judge", lambda net: Distance())
    with torch.no_grad():
        tokens = tokenizer.encode(photos)
        distances = {k: lpips(tokenizer.decode(tokens.keep(k)), photos) for k in (8, 128)}
    goal = float(distances[8].mean())
    found = zoo.fit_length(tokenizer, photos, "lpips", goal)
    assert torch.equal(found.reached, distances[128] <= goal)
    assert (found.value[found.reached] <= goal).all() and (found.value > 0).all()


def test_lpips_without_weights_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(RuntimeError, match=r"alex backbone.*no network.*measure psnr or ssim"):
        lpips(torch.zeros(1, 3, 32, 32), torch.zeros(1, 3, 32, 32))


def test_few_decodings_and_the_same_noise_at_each(tokenizer: zoo.Tokenizer, photos: Tensor) -> None:
    noise, decode = [], tokenizer.decode

    class Counting:
        spec, device, encode = tokenizer.spec, tokenizer.device, staticmethod(tokenizer.encode)

        def decode(self, tokens: Tokens, *, generator: torch.Generator, steps: int) -> Tensor:
            assert steps == 3
            noise.append(torch.randn(2, generator=generator))
            return decode(tokens)

    zoo.fit_length(Counting(), photos, "psnr", 18.0, steps=3)  # type: ignore[arg-type]
    assert len(noise) <= math.log2(128) + 1
    assert all(torch.equal(each, noise[0]) for each in noise)


@pytest.mark.parametrize("goal", [0, 1, 5, 12, 13, 40])
def test_bisection_finds_every_length(goal: int) -> None:
    found = bisect(code(13), lambda tokens: tokens.mask.sum(1).float(), goal)
    assert found.lengths.tolist() == [min(max(goal, 1), 13)] * 3
    assert found.reached.all() == (goal <= 13)


def test_adaptive_codes_are_never_longer_than_they_were() -> None:
    tokens = code(16, [3, 16, 9])
    found = bisect(tokens, lambda cut: cut.mask.sum(1).float(), 8)
    assert found.lengths.tolist() == [3, 8, 8] and found.reached.tolist() == [False, True, True]
    found = bisect(tokens, lambda cut: cut.mask.sum(1).float(), 99, lengths=[2, 4, 8])
    assert found.lengths.tolist() == [3, 8, 8] and not found.reached.any()


def test_quality_that_falls_still_gives_what_was_decoded() -> None:
    """Above 6 tokens quality falls again: the result is a length that is good, or the whole code."""
    curve = torch.tensor([0, 1, 2, 5, 7, 9, 9, 6, 3, 2, 1, 1, 1], dtype=torch.float32)
    for goal in range(10):
        found = bisect(code(12), lambda cut: curve[cut.mask.sum(1)], goal)
        assert torch.equal(found.reached, found.value >= goal)
        assert torch.equal(found.value.float(), curve[found.lengths])
        assert (found.reached | (found.lengths == 12)).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"target": "fid"}, "target is one of psnr, ssim, lpips, bits"),
        ({"lengths": [0, 4]}, "lengths lie in 1 to 128"),
        ({"lengths": [4, 129]}, "lengths lie in 1 to 128"),
    ],
)
def test_bad_arguments_are_refused(
    tokenizer: zoo.Tokenizer, photos: Tensor, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        zoo.fit_length(tokenizer, photos, **arguments)


def test_tokenizers_of_one_length_are_refused(tokenizer: zoo.Tokenizer, photos: Tensor) -> None:
    with pytest.raises(ValueError, match="GridTokenizer has one length"):
        zoo.fit_length(zoo.build("fsq_f8_tiny"), photos)
    with pytest.raises(ValueError, match="at least one item"):
        zoo.fit_length(tokenizer, photos[:0])


def test_what_is_missed_by_a_hair_gets_another_token() -> None:
    calls = []

    def quality(cut: Tokens) -> Tensor:
        calls.append(cut)
        return cut.mask.sum(1) - (0.0 if len(calls) <= 4 else 1e-6)  # 16 lengths are searched in 4 rounds

    found = bisect(code(16), quality, 7)
    assert found.lengths.tolist() == [8] * 3 and found.reached.all()


FLEXIBLE = [name for name in zoo.list_recipes("*_tiny*") if zoo.build(name, device="meta").spec.flexible]


@pytest.mark.parametrize("name", FLEXIBLE)
def test_every_flexible_family(name: str) -> None:
    """With random weights quality is no function of length, yet what is returned was decoded and is told truly."""
    torch.manual_seed(0)
    tokenizer = zoo.build(name).eval()
    options = {"steps": 2} if "flextok" in name else {}
    x = torch.rand(3, *tokenizer.spec.input_shape) * 2 - 1
    with torch.no_grad():
        tokens = tokenizer.encode(x)
        source = torch.Generator().manual_seed(0)
        goal = float(psnr(tokenizer.decode(tokens, generator=source, **options), x).median())
        found = zoo.fit_length(tokenizer, x, "psnr", goal, **options)
        source.manual_seed(0)
        shown = psnr(tokenizer.decode(found.tokens, generator=source, **options), x)
    torch.testing.assert_close(shown.double(), found.value, rtol=1e-4, atol=1e-3)
    assert torch.equal(found.reached, found.value >= goal)
    full = tokens.mask.sum(1)
    assert ((found.lengths >= 1) & (found.lengths <= full)).all()
    assert (found.reached | (found.lengths == full)).all()
