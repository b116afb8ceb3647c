"""VQ: losses, codebook learning, k-means start, dead codes."""

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from quantizers import VQ
from quantizers.codebook import kmeans, sample_rows


def test_titok_loss_on_the_unit_sphere() -> None:
    quantizer = VQ(4, 16, normalize=True)
    z = torch.randn(2, 5, 4) * 30
    out = quantizer(z)
    expected = F.mse_loss(out.latents, F.normalize(z, dim=-1))
    torch.testing.assert_close(out.parts["commitment"], expected)
    torch.testing.assert_close(out.parts["codebook"], expected)
    torch.testing.assert_close(out.loss, 1.25 * expected)
    assert out.parts["commitment"] <= 4 / 4, "unit vectors are at most 2 apart, whatever the length of the latents"


def test_losses_move_their_own_side_only() -> None:
    z = torch.randn(1, 6, 4, requires_grad=True)
    quantizer = VQ(4, 8).train()
    parts = quantizer(z).parts
    (to_codes,) = torch.autograd.grad(parts["commitment"], quantizer.codebook, allow_unused=True, retain_graph=True)
    (to_latents,) = torch.autograd.grad(parts["codebook"], z, allow_unused=True)
    assert to_codes is None and to_latents is None


def test_cosine_metric_chooses_by_angle_and_returns_raw_codes() -> None:
    quantizer = VQ(2, 2, metric="cosine").eval()
    with torch.no_grad():
        quantizer.codebook.copy_(torch.tensor([[0.1, 0.0], [5.0, 5.0]]))
    out = quantizer(torch.tensor([[[9.0, 0.5]]]))
    assert out.indices.item() == 0
    assert torch.equal(out.latents[0, 0], quantizer.codebook[0])


@pytest.mark.parametrize("learn", ["gradient", "ema", "norm_ema"])
def test_eval_and_no_kmeans_in_eval_change_nothing(learn: Any) -> None:
    quantizer = VQ(4, 8, normalize=True, learn=learn, kmeans_init=True, dead_code_threshold=0.5).eval()
    before = copy.deepcopy(quantizer.state_dict())
    quantizer(torch.randn(4, 16, 4))
    assert all(torch.equal(tensor, before[name]) for name, tensor in quantizer.state_dict().items())


@pytest.mark.parametrize("learn", ["gradient", "ema"])
@pytest.mark.parametrize("vectors", [1, 5, 50, 1000])
def test_kmeans_start_gives_distinct_codes(learn: Any, vectors: int) -> None:
    torch.manual_seed(0)
    quantizer = VQ(4, 256, learn=learn, kmeans_init=True).train()
    x = torch.randn(1, vectors, 4) * 3 + 10
    out = quantizer(x)
    assert bool(quantizer.initialized)
    assert len(quantizer.codebook.unique(dim=0)) == 256
    if vectors <= 256:
        torch.testing.assert_close(out.latents, x, rtol=0, atol=1e-4)
    assert (quantizer.codebook - 10).norm(dim=-1).max() < 30
    started = quantizer.codebook.detach().clone()
    quantizer.eval()(torch.randn(1, 9, 4))
    assert torch.equal(quantizer.codebook, started)


def test_kmeans_happens_once_and_is_saved() -> None:
    quantizer = VQ(4, 8, kmeans_init=True).train()
    quantizer(torch.randn(1, 64, 4))
    restored = VQ(4, 8, kmeans_init=True).train()
    restored.load_state_dict(quantizer.state_dict())
    restored(torch.randn(1, 64, 4) + 100)
    assert torch.equal(restored.codebook, quantizer.codebook)


def test_kmeans_finds_separated_clusters() -> None:
    torch.manual_seed(0)
    centres = torch.eye(4) * 50
    x = (centres[torch.arange(400) % 4] + torch.randn(400, 4)).float()
    means, counts = kmeans(x, x[[0, 1, 2, 3]], iterations=5)
    torch.testing.assert_close(means, centres, rtol=0, atol=0.5)
    assert counts.tolist() == [100] * 4


def test_sampled_rows_do_not_coincide() -> None:
    x = torch.randn(10, 3)
    assert len(sample_rows(x, 10, x).unique(dim=0)) == 10
    assert len(sample_rows(x, 64, x).unique(dim=0)) == 64
    assert len(sample_rows(torch.zeros(1, 3), 64, x).unique(dim=0)) == 64
    assert torch.equal(sample_rows(x[:0], 10, x), x)


@pytest.mark.parametrize("learn", ["gradient", "ema", "norm_ema"])
def test_dead_codes_come_back_and_stay(learn: Any) -> None:
    """With most codes far from the data, replacement must bring nearly all of them into use, and the averages must not
    write the old codes back."""
    torch.manual_seed(0)
    quantizer = VQ(
        4, 32, learn=learn, normalize=learn == "norm_ema", decay=0.8, dead_code_threshold=0.1, commitment=0.25
    ).train()
    with torch.no_grad():
        quantizer.codebook.copy_(torch.cat((torch.ones(1, 4), -torch.rand(31, 4) - 100)))
        if learn == "norm_ema":
            quantizer.codebook.copy_(F.normalize(quantizer.codebook, dim=-1))
        if learn == "ema":
            quantizer.cluster_sum.copy_(quantizer.codebook)
    x = torch.randn(1, 512, 4).abs()
    assert len(quantizer(x).indices.unique()) <= 2
    for _ in range(40):
        out = quantizer(x)
    assert len(out.indices.unique()) >= 24
    assert quantizer.codebook.norm(dim=-1).max() < 20


@pytest.mark.parametrize("learn", ["gradient", "ema"])
@pytest.mark.parametrize("entropy", [0.0, 0.1])
def test_two_steps_before_one_gradient(learn: Any, entropy: float) -> None:
    """Replaced codes and moving averages are written in place; what a gradient still needs must survive that."""
    quantizer = VQ(4, 32, learn=learn, normalize=True, dead_code_threshold=0.9, entropy=entropy, decay=0.5).train()
    z = torch.randn(2, 9, 4, requires_grad=True)
    (quantizer(z).loss + quantizer(z * 2).loss + quantizer(z + 1).loss).backward()
    assert z.grad is not None and z.grad.isfinite().all()


def test_all_codes_dead_stays_finite() -> None:
    quantizer = VQ(4, 8, learn="ema", dead_code_threshold=0.99).train()
    for step in range(20):
        quantizer(torch.randn(1, 4, 4) * (step + 1))
    assert quantizer.codebook.isfinite().all() and quantizer.codebook.norm(dim=-1).max() < 200


def test_ema_tracks_the_data_without_gradients() -> None:
    torch.manual_seed(0)
    quantizer = VQ(3, 4, learn="ema", decay=0.5, kmeans_init=True).train()
    assert not list(quantizer.parameters())
    x = torch.randn(1, 400, 3)
    first = quantizer(x).parts["commitment"]
    for _ in range(20):
        last = quantizer(x).parts["commitment"]
    assert last <= first
    out = quantizer(x)
    counts = torch.bincount(out.indices.flatten(), minlength=4).float()
    torch.testing.assert_close(quantizer.cluster_size, counts, rtol=0.05, atol=1)


def test_gradient_codebook_learns() -> None:
    torch.manual_seed(0)
    quantizer = VQ(3, 16, kmeans_init=False, dead_code_threshold=0.1).train()
    optimizer = torch.optim.Adam(quantizer.parameters(), 0.05)
    x = torch.randn(1, 512, 3)
    errors = []
    for _ in range(60):
        out = quantizer(x)
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        errors.append(out.parts["codebook"].item())
    assert errors[-1] < 0.3 * errors[0]
    assert len(out.indices.unique()) >= 14


def test_state_holds_only_what_the_mode_needs() -> None:
    assert set(VQ(4, 8).state_dict()) == {"codebook"}
    assert set(VQ(4, 8, dead_code_threshold=0.1).state_dict()) == {"codebook", "cluster_size", "steps"}
    assert set(VQ(4, 8, learn="ema").state_dict()) == {"codebook", "cluster_size", "cluster_sum"}
    assert set(VQ(4, 8, kmeans_init=True).state_dict()) == {"codebook", "initialized"}


def test_dead_codes_are_looked_for_at_the_interval() -> None:
    """One vector uses one code; the others are replaced by it in every third step, counted over a resume."""
    options: dict[str, Any] = {"learn": "ema", "decay": 0.5, "dead_code_threshold": 0.9, "dead_code_interval": 3}
    quantizer = VQ(2, 8, **options).train()
    x = torch.full((1, 1, 2), 5.0)
    replaced = []
    for step in range(7):
        if step == 4:
            state = quantizer.state_dict()
            quantizer = VQ(2, 8, **options).train()
            quantizer.load_state_dict(state)
        with torch.no_grad():
            quantizer.cluster_sum[4:] = 0  # four codes fall back to the origin
        quantizer(x)
        replaced.append(bool(quantizer.codebook[4:].norm(dim=-1).min() > 1))
    assert replaced == [False, False, True, False, False, True, False]


@pytest.mark.parametrize("codes", [3, 50])
def test_orthogonality_is_the_mean_squared_cosine(codes: int) -> None:
    quantizer = VQ(8, codes, orthogonality=10.0, commitment=0, codebook_loss=0)
    unit = F.normalize(quantizer.codebook, dim=-1)
    others = (unit @ unit.T).square() * (1 - torch.eye(codes))
    out = quantizer(torch.randn(2, 5, 8))
    torch.testing.assert_close(out.parts["orthogonality"], others.sum() / codes**2, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(out.loss, 10 * out.parts["orthogonality"])
    out.loss.backward()
    assert quantizer.codebook.grad is not None and quantizer.codebook.grad.any()


def test_entropies_in_blocks_equal_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    quantizer = VQ(4, 32, entropy=0.5, entropy_temperature=0.5).train()
    z = torch.randn(2, 40, 4)
    results = []
    for block in (2**24, 32 * 7):
        monkeypatch.setattr("quantizers.entropy._BLOCK", block)
        quantizer.zero_grad()
        latents = z.clone().requires_grad_()
        out = quantizer(latents, torch.arange(40).expand(2, -1) < 30)
        out.loss.backward()
        results.append((out.loss.detach(), latents.grad, quantizer.codebook.grad.clone()))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"codebook_size": 0}, "codebook_size"),
        ({"metric": "dot"}, "metric to be one of l2, cosine, got 'dot'"),
        ({"learn": "sgd"}, "learn to be one of"),
        ({"estimator": "gumbel"}, "estimator to be one of"),
        ({"decay": 1.0}, "decay and dead_code_threshold in"),
        ({"dead_code_threshold": 2}, "decay and dead_code_threshold in"),
        ({"learn": "norm_ema"}, "unit sphere only"),
        ({"learn": "ema", "orthogonality": 1.0}, "needs a codebook with gradients"),
        ({"dead_code_interval": 0}, "dead_code_interval of at least 1"),
    ],
)
def test_wrong_options_are_explained(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VQ(**{"dim": 4, "codebook_size": 8, **arguments})
