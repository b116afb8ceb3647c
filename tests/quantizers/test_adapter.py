"""Quantizers of vector-quantize-pytorch behind the protocol; the contract tests run over some of them too."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import vector_quantize_pytorch as library
from torch import Tensor, nn

import zoo
from quantizers import Residual, VectorQuantizePytorch

ROOT = Path(__file__).parents[2]
VQ: dict[str, Any] = {"dim": 6, "codebook_size": 40}
RVQ: dict[str, Any] = {**VQ, "num_quantizers": 3}
OPTIONS: dict[str, dict[str, Any]] = {
    "VectorQuantize": VQ,
    "VectorQuantize heads": {**VQ, "heads": 2, "codebook_dim": 3},
    "VectorQuantize separate heads": {**VQ, "heads": 2, "codebook_dim": 4, "separate_codebook_per_head": True},
    "VectorQuantize one separate head": {**VQ, "separate_codebook_per_head": True},
    "VectorQuantize cosine": {**VQ, "codebook_dim": 4, "use_cosine_sim": True, "kmeans_init": True},
    "VectorQuantize learned": {**VQ, "learnable_codebook": True, "ema_update": False, "orthogonal_reg_weight": 1.0},
    "VectorQuantize without loss": {**VQ, "commitment_weight": 0.0},
    "VectorQuantize sampled": {
        **VQ,
        "stochastic_sample_codes": True,
        "straight_through": True,
        "rotation_trick": False,
    },
    "ResidualVQ": {**RVQ, "kmeans_init": True, "threshold_ema_dead_code": 1},
    "ResidualVQ shared": {**RVQ, "shared_codebook": True},
    "ResidualVQ sizes": {"dim": 6, "codebook_size": [40, 20, 10], "codebook_dim": 4},
    "ResidualVQ dropout": {**RVQ, "quantize_dropout": True},
    "ResidualVQ beam": {**RVQ, "beam_size": 3},
    "ResidualVQ implicit": {**RVQ, "implicit_neural_codebook": True},
    "GroupedResidualVQ": {**RVQ, "groups": 2, "quantize_dropout": True},
    "SimVQ": {**VQ, "frozen_codebook_dim": 3},
    "ResidualSimVQ": {**RVQ, "quantize_dropout": True},
    "FSQ": {"levels": [8, 5, 5]},
    "FSQ noise": {"levels": (8, 5, 4), "dim": 6, "num_codebooks": 2, "preserve_symmetry": True, "noise_dropout": 0.5},
    "FSQ unsqueezed": {"levels": [5, 5, 5], "keep_num_codebooks_dim": True, "orthogonal_rotation": True},
    "FSP": {"levels": [8, 5, 5], "dim": 6},
    "LFQ": {"codebook_size": 64, "commitment_loss_weight": 0.25},
    "LFQ spherical": {
        "codebook_size": 16,
        "dim": 6,
        "num_codebooks": 3,
        "spherical": True,
        "orthogonal_rotation": True,
    },
    "ResidualFSQ": {"levels": [5, 5, 3], "num_quantizers": 3, "dim": 6, "quantize_dropout": True},
    "GroupedResidualFSQ": {"levels": [5, 5, 3], "num_quantizers": 2, "dim": 8, "groups": 2},
    "ResidualLFQ": {"dim": 6, "codebook_size": 64, "num_quantizers": 3},
    "GroupedResidualLFQ": {"dim": 12, "groups": 2, "codebook_size": 16, "num_quantizers": 2, "quantize_dropout": True},
    "BinaryMapper": {"bits": 5},
    "RandomProjectionQuantizer": {"dim": 6, "codebook_size": 40, "codebook_dim": 4, "num_codebooks": 2},
}
every = pytest.mark.parametrize("key", OPTIONS)


def build(key: str, **arguments: Any) -> VectorQuantizePytorch:
    torch.manual_seed(0)
    return VectorQuantizePytorch(key.split(" ")[0], OPTIONS[key], **arguments)


def latents(quantizer: VectorQuantizePytorch, seed: int = 0) -> Tensor:
    return torch.randn(3, 7, quantizer.input_dim, generator=torch.Generator().manual_seed(seed))


def trained(key: str, **arguments: Any) -> VectorQuantizePytorch:
    quantizer = build(key, **arguments)
    for step in range(2):
        quantizer.train()(latents(quantizer, step))
    return quantizer


def columns(quantizer: VectorQuantizePytorch, indices: Tensor) -> Tensor:
    """The library's indices as ours."""
    return (indices.movedim(0, -2) if quantizer.name.startswith("Grouped") else indices).reshape(3, 7, -1)


@every
def test_eval_is_the_librarys(key: str) -> None:
    quantizer = trained(key).eval()
    z = latents(quantizer)
    out = quantizer(z)
    options = {"return_indices": True} if key == "BinaryMapper" else {}
    found = quantizer.quantizer(z, **options)
    if isinstance(found, Tensor):
        assert torch.equal(out.indices, found)
        return
    assert torch.equal(out.indices, columns(quantizer, found[1]).long())
    torch.testing.assert_close(out.latents, found[0])
    if len(found) > 2:
        torch.testing.assert_close(out.loss, found[2].sum())


@every
def test_training_step_is_the_librarys(key: str) -> None:
    """Latents, indices, loss, gradients, and what the step leaves behind."""
    quantizer = trained(key).train()
    twin = copy.deepcopy(quantizer.quantizer)
    ours, theirs = (latents(quantizer, 5).requires_grad_() for _ in range(2))
    options = {"return_indices": True} if key == "BinaryMapper" else {}
    torch.manual_seed(1)
    found = twin(theirs, **options)
    torch.manual_seed(1)
    out = quantizer(ours)
    if isinstance(found, Tensor):
        assert torch.equal(out.indices, found) and not out.latents.requires_grad
        return
    expected = columns(quantizer, found[1])
    assert torch.equal(out.indices.where(expected >= 0, -1), expected.long())
    assert torch.equal(out.latents, found[0])
    loss = found[2].sum() if len(found) > 2 else torch.zeros(())
    torch.testing.assert_close(out.loss, loss)
    (out.latents.square().sum() + out.loss).backward()
    (found[0].square().sum() + loss).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    parameters = dict(twin.named_parameters())
    for name, parameter in quantizer.quantizer.named_parameters():
        torch.testing.assert_close(parameter.grad, parameters[name].grad)
    for name, tensor in twin.state_dict().items():
        torch.testing.assert_close(quantizer.quantizer.state_dict()[name], tensor)


@every
def test_protocol(key: str) -> None:
    quantizer = build(key)
    z = latents(quantizer)
    mask = torch.rand(3, 7, generator=torch.Generator().manual_seed(1)) < 0.6
    for training, padding in ((True, None), (True, mask), (False, mask)):
        quantizer.train(training)
        out = quantizer(z.requires_grad_(), padding)
        assert out.latents.shape == (3, 7, quantizer.dim) and out.latents.dtype == torch.float32
        assert out.indices.shape == (3, 7, len(quantizer.codebook_sizes)) and out.indices.dtype == torch.int64
        assert out.loss.shape == () and out.loss.isfinite() and out.loss.dtype == torch.float32
        for column, size in enumerate(quantizer.codebook_sizes):
            assert out.indices[..., column].min() >= 0 and out.indices[..., column].max() < size
    assert torch.equal(quantizer.lookup(out.indices), out.latents)
    zeros = quantizer(torch.zeros_like(z)).indices
    assert torch.equal(out.indices[~mask], zeros[~mask]), "padding has the code of a zero vector"
    assert torch.equal(out.indices[mask], quantizer(z).indices[mask])


@every
def test_nothing_real_changes_nothing(key: str) -> None:
    quantizer = build(key).train()  # of those with k-means, the start is still to come
    before = copy.deepcopy(quantizer.state_dict())
    for shape, mask in (((3, 7), torch.zeros(3, 7, dtype=torch.bool)), ((0, 7), None), ((2, 0), None)):
        out = quantizer(torch.randn(*shape, quantizer.input_dim), mask)
        assert out.loss == 0 and out.latents.shape == (*shape, quantizer.dim) and out.latents.isfinite().all()
        assert quantizer.training and quantizer.quantizer.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in quantizer.state_dict().items())


@every
def test_masked_training_step_sees_the_real_positions_alone(key: str) -> None:
    one = trained(key).train()
    two = copy.deepcopy(one)
    z, mask = latents(one, 3), torch.rand(3, 7, generator=torch.Generator().manual_seed(1)) < 0.6
    dirty = torch.where(mask[..., None], z, 50.0).requires_grad_()
    torch.manual_seed(1)
    alone = one(z[mask][None])
    torch.manual_seed(1)
    out = two(dirty, mask)
    torch.testing.assert_close(out.loss, alone.loss)
    torch.testing.assert_close(out.latents[mask][None], alone.latents)
    for name, tensor in one.state_dict().items():
        assert torch.equal(two.state_dict()[name], tensor), name
    (out.latents.square().sum() + out.loss).backward()
    assert dirty.grad is None or not dirty.grad[~mask].any()


@every
def test_copies_and_deferred_loading(key: str) -> None:
    quantizer = trained(key).eval()
    z = latents(quantizer)
    expected = quantizer(z).latents
    with torch.device("meta"):
        empty = build(key).eval()
    assert all(tensor.device.type == "meta" for tensor in empty.state_dict().values())
    empty.load_state_dict(quantizer.state_dict(), strict=True, assign=True)
    for twin in (empty, copy.deepcopy(quantizer), pickle.loads(pickle.dumps(quantizer))):
        assert torch.equal(twin(z).latents, expected)
    assert not any(buffer.requires_grad for buffer in quantizer.buffers())


@pytest.mark.parametrize("key", [key for key in OPTIONS if key not in ("BinaryMapper", "RandomProjectionQuantizer")])
def test_one_estimate_around_the_whole(key: str) -> None:
    """The gradient of "straight_through" is 1 whatever the depth, "none" lets only the loss through."""
    z = latents(build(key))
    slopes = {}
    for estimator in ("library", "straight_through", "rotation", "none"):
        quantizer = trained(key, estimator=estimator).train()
        x = z.clone().requires_grad_()
        torch.manual_seed(1)
        out = quantizer(x)
        slopes[estimator, "value"] = out.latents.detach()
        (slopes[estimator, "loss"],) = torch.autograd.grad(
            out.loss, x, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        (slopes[estimator, "latents"],) = torch.autograd.grad(
            out.latents.sum(), x, allow_unused=True, materialize_grads=True
        )
        torch.testing.assert_close(slopes[estimator, "value"], slopes["library", "value"])
        torch.testing.assert_close(slopes[estimator, "loss"], slopes["library", "loss"])
    assert torch.equal(slopes["straight_through", "latents"], torch.ones_like(z))
    assert slopes["rotation", "latents"].any() and not slopes["none", "latents"].any()


def test_residual_of_library_quantizers_has_one_gradient() -> None:
    levels = [VectorQuantizePytorch("VectorQuantize", {**VQ, "decay": 0.9}) for _ in range(4)]
    quantizer = Residual(levels).train()
    z = torch.randn(2, 5, 6, requires_grad=True)
    out = quantizer(z)
    (slope,) = torch.autograd.grad(out.latents.sum(), z, retain_graph=True)
    assert torch.equal(slope, torch.ones_like(z))
    assert torch.autograd.grad(out.loss, z)[0].any()
    eight = Residual(VectorQuantizePytorch("VectorQuantize", VQ), 8)
    assert len({level.quantizer.codebook.sum().item() for level in eight.levels}) == 8  # each drew its own


def test_kmeans_waits_for_training_and_starts_once() -> None:
    quantizer = build("ResidualVQ").eval()
    quantizer(latents(quantizer))
    assert not quantizer.state_dict()["quantizer.layers.0._codebook.initted"]
    assert not quantizer.quantizer.codebooks.any()
    quantizer.train()(latents(quantizer))
    assert quantizer.quantizer.codebooks.any() and quantizer.quantizer.layers[0]._codebook.initted


def test_autocast_changes_nothing() -> None:
    quantizer = build("VectorQuantize cosine").train()
    quantizer(latents(quantizer))
    twin = copy.deepcopy(quantizer)
    expected = quantizer(latents(quantizer, 1))
    with torch.autocast("cpu", torch.bfloat16):
        out = twin(latents(quantizer, 1))
    assert torch.equal(out.indices, expected.indices) and torch.equal(out.loss, expected.loss)
    assert all(tensor.dtype != torch.bfloat16 for tensor in nn.Sequential(twin).bfloat16().state_dict().values())


@pytest.mark.parametrize("training", [False, True])
def test_compiled_models_break_their_graph_here(training: bool) -> None:
    torch.compiler.reset()
    quantizer = trained("ResidualVQ").train(training)
    twin = copy.deepcopy(quantizer)
    compiled = torch.compile(nn.Sequential(nn.Tanh(), quantizer), backend="aot_eager")
    z = latents(quantizer)
    torch.manual_seed(1)
    out = compiled(z)
    torch.manual_seed(1)
    expected = twin(z.tanh())
    assert torch.equal(out.indices, expected.indices) and torch.equal(out.latents, expected.latents)
    for name, tensor in quantizer.state_dict().items():
        assert torch.equal(twin.state_dict()[name], tensor)


def test_diversity_loss_takes_no_mask() -> None:
    quantizer = VectorQuantizePytorch("VectorQuantize", {**VQ, "codebook_diversity_loss_weight": 0.1})
    z = latents(quantizer)
    twin = copy.deepcopy(quantizer.quantizer)
    torch.testing.assert_close(quantizer(z).loss, twin(z)[2])
    with pytest.raises(ValueError, match="set codebook_diversity_loss_weight=0 or pass no mask"):
        quantizer(z, torch.ones(3, 7, dtype=torch.bool))


def test_a_recipe_builds_it() -> None:
    from omegaconf import OmegaConf

    from zoo.store.build import compose

    node = OmegaConf.to_container(compose("titok_tiny").tokenizer, resolve=True)
    options = {"dim": 8, "codebook_size": 16, "num_quantizers": 2}
    node["quantizer"] = {"_target_": "quantizers.VectorQuantizePytorch", "name": "ResidualVQ", "options": options}
    tokenizer = zoo.build(node).eval()
    assert tokenizer.spec.codebook_sizes == (16, 16)
    x = torch.rand(1, *tokenizer.spec.input_shape) * 2 - 1
    with torch.no_grad():
        tokens = tokenizer.encode(x)
        assert torch.equal(tokenizer.decode(tokens), tokenizer(x).output)
    node["quantizer"]["options"] = {**options, "vq_bridge": {"_target_": "encoders.ViT1D"}}
    with pytest.raises(ValueError):
        zoo.build(node)


def test_every_class_of_the_library_is_supported_or_refused_with_a_reason() -> None:
    supported = {key.split(" ")[0] for key in OPTIONS}
    classes = {name for name, value in vars(library).items() if isinstance(value, type)}
    assert supported < classes
    for name in classes - supported - {"Sequential"}:
        with pytest.raises(ValueError, match=rf"cannot build '{name}': it.*(use quantizers\.|build its)"):
            VectorQuantizePytorch(name, {"dim": 4})


def test_learned_values_of_latent_quantize_do_not_decode() -> None:
    """Why it is refused."""
    quantizer = library.LatentQuantize(levels=[5], dim=1).eval()
    with torch.no_grad():
        quantizer.values_per_latent[0].add_(0.02)
    latent, indices, _ = quantizer(torch.rand(1, 1, 50) - 0.5)
    assert not torch.isclose(latent, quantizer.indices_to_codes(indices), atol=1e-2).all()


@pytest.mark.parametrize("name", ["nn.Linear", "torch.nn.Linear", "vector_quantize_pytorch.FSQ", "__import__", ""])
def test_only_quantizers_of_the_library_are_built(name: str) -> None:
    with pytest.raises(ValueError, match="expected one of VectorQuantize, SimVQ"):
        VectorQuantizePytorch(name, {})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("VectorQuantize", {**VQ, "channel_last": False}, r"needs channel_last=True, got False: latents are \(B, N, D"),
        ("FSQ", {"levels": [4], "channel_first": True}, "needs channel_first=False"),
        ("GroupedResidualVQ", {**RVQ, "accept_image_fmap": True}, "needs accept_image_fmap=False"),
        ("FSQ", {"levels": [4], "return_indices": False}, "needs return_indices=True"),
        ("VectorQuantize", {**VQ, "affine_param": True}, "needs affine_param=False"),
        ("ResidualLFQ", {"dim": 4, "codebook_size": 16, "num_quantizers": 2, "spherical": True}, "decode without it"),
        ("BinaryMapper", {"bits": 3, "deterministic_on_eval": False}, "one and the same in eval"),
        ("SimVQ", {**VQ, "codebook_transform": nn.Linear(6, 6)}, "plain data, got codebook_transform=Linear"),
        ("LFQ", {"codebook_size": 15}, "refuses .*power of 2"),
        ("VectorQuantize", {"dimension": 3}, "refuses .*dimension"),
        ("FSQ", {"levels": [8] * 9}, "exact below 2\\^24 codes, got 134217728; use quantizers.FSQ"),
    ],
)
def test_options_that_cannot_work_are_explained(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VectorQuantizePytorch(name, options)


def test_estimators_that_cannot_work_are_explained() -> None:
    with pytest.raises(ValueError, match="turns 5 channels into 32"):
        build("BinaryMapper", estimator="rotation")
    with pytest.raises(ValueError, match="estimator to be one of"):
        build("FSQ", estimator="gumbel")


RANK = """
import sys
import torch
import torch.distributed as dist
from quantizers import VectorQuantizePytorch

rank, folder = int(sys.argv[1]), sys.argv[2]
torch.manual_seed(rank)
rvq = {"dim": 4, "codebook_size": 12, "num_quantizers": 2, "kmeans_init": True, "threshold_ema_dead_code": 2}
heads = {"dim": 4, "codebook_size": 8, "heads": 2, "separate_codebook_per_head": True}
quantizers = [
    VectorQuantizePytorch("GroupedResidualVQ", {**rvq, "dim": 8, "groups": 2, "quantize_dropout": True}),
    VectorQuantizePytorch("VectorQuantize", {**heads, "threshold_ema_dead_code": 1}),
]
refused = [
    VectorQuantizePytorch("VectorQuantize", {**heads, "kmeans_init": True}),
    VectorQuantizePytorch("ResidualLFQ", {"dim": 4, "codebook_size": 16, "num_quantizers": 2}),
]
dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
for quantizer in quantizers:
    for step in range(6):
        z = torch.randn(2, 20 + 5 * rank, quantizer.input_dim) + rank
        mask = torch.full(z.shape[:2], (step, rank) != (3, 1))  # once, one rank has nothing
        before = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
        out = quantizer(z.requires_grad_(), mask)
        (out.latents.sum() + out.loss).backward()
        same = all(torch.equal(tensor, before[name]) for name, tensor in quantizer.state_dict().items())
        assert same == (step == 3), step
        assert bool(z.grad.any()) == bool(mask.any())
for quantizer in refused:
    try:
        quantizer(torch.randn(2, 5, 4))
        raise AssertionError
    except RuntimeError as error:
        assert "over 2 ranks" in str(error) or "k-means over ranks" in str(error)
torch.save([quantizer.state_dict() for quantizer in quantizers], f"{folder}/rank{rank}.pt")
dist.destroy_process_group()
"""


def test_ranks_stay_equal(tmp_path: Path) -> None:
    """Built before the process group, from different seeds, with different data."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen([sys.executable, "-c", RANK, str(rank), str(tmp_path)], env=environment) for rank in range(2)
    ]
    try:
        assert [rank.wait(200) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    for first, second in zip(*(torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)), strict=True):
        for name, tensor in first.items():
            assert torch.equal(tensor, second[name]), name
            assert not name.endswith("cluster_size") or tensor.min() > 0
