"""Whole trainings of generators on exported tokens: every recipe, resumption, what is logged, and what comes out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from omegaconf import OmegaConf
from typer.testing import CliRunner

import zoo
import zoo.generators
from zoo.cli import app
from zoo.data import TokenData
from zoo.generators import Vocabulary
from zoo.generators.pipeline import build, load
from zoo.store.build import build as build_tokenizer
from zoo.store.build import compose
from zoo.training import train
from zoo.training.generation import Perplexity, complete, make_generator
from zoo.training.run import resolve
from zoo.training.snapshots import last_checkpoint


class StopAt(Callback):
    """Ends training after a step, as an interrupt would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *rest: Any) -> None:
        if trainer.global_step >= self.step:
            trainer.should_stop = True


class Seen(Callback):
    """Keeps the metrics of the last validation."""

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}


@pytest.fixture
def small(exported: Path, tmp_path: Path) -> list[str]:
    """Overrides for a training of seconds."""
    return [
        f"data.tokens={exported}",
        f"run_dir={tmp_path / 'run'}",
        "data.batch_size=2",
        "data.val_fraction=0.4",
        "generator.width=32",
        "generator.depth=1",
        "generator.heads=2",
        "generator.head.width=32",
        "generator.head.depth=1",
        "schedule.warmup_steps=2",
        "trainer.accelerator=cpu",
        "trainer.max_steps=4",
        "trainer.validate_every=2",
        "trainer.log_every=1",
        "logging.tensorboard=false",
    ]


def test_training_writes_a_generator(small: list[str], tmp_path: Path, exported: Path) -> None:
    seen = Seen()
    folder = train("gpt_tiny", small, callbacks=[seen])
    generator = load(folder)
    dataset = zoo.TokenDataset(exported)
    assert generator.labels == dataset.labels == ("cat", "sky", "table") and generator.classes == 3
    assert generator.tokenizer == dataset.manifest.tokenizer
    assert tuple(generator.vocabulary.codebook_sizes) == dataset[0].tokens.codebook_sizes
    assert {"val/loss", "val/perplexity", "val/perplexity_quarter_4", "train/loss"} <= seen.metrics.keys()
    assert len(list((tmp_path / "run" / "samples").glob("*.png"))) == 2
    path = last_checkpoint(tmp_path / "run")
    assert path is not None
    weights = torch.load(path, weights_only=True)["state_dict"]
    assert all(torch.equal(weights[f"average.{name}"], value) for name, value in generator.state_dict().items())
    with pytest.raises(ValueError, match="is a generator"):
        zoo.load(folder)


def test_resumed_is_uninterrupted(small: list[str], tmp_path: Path) -> None:
    train("gpt_tiny", [*small, f"run_dir={tmp_path / 'whole'}"])
    train("gpt_tiny", small, callbacks=[StopAt(2)])
    train("gpt_tiny", small)
    whole, parts = (last_checkpoint(tmp_path / name) for name in ("whole", "run"))
    assert whole is not None and parts is not None
    first, second = (torch.load(path, weights_only=True)["state_dict"] for path in (whole, parts))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_another_model_in_the_run_folder_is_refused(small: list[str]) -> None:
    train("gpt_tiny", [*small, "trainer.max_steps=1"])
    with pytest.raises(ValueError, match="another model"):
        train("gpt_tiny", [*small, "generator.width=64"])


@pytest.mark.parametrize("name", zoo.list_recipes(kind="generator"))
def test_every_recipe_builds(name: str, exported: Path) -> None:
    """On the meta device, with the vocabulary of exported tokens, or of a 16 x 16 grid where the recipe needs one."""
    config = resolve(name, [f"data.tokens={exported}"])
    config = complete(config, TokenData(str(exported)))
    if config["generator"].get("rotary") == "2d":
        grid = {"codebook_sizes": [16384], "num_tokens": 256, "grid": [16, 16]}
        config["generator"]["vocabulary"] = {"_target_": "zoo.generators.Vocabulary", **grid}
    assert sum(p.numel() for p in build(config["generator"], device="meta").parameters()) > 1000


@pytest.mark.parametrize(("name", "millions"), [("gpt_b_llamagen", 111), ("gpt_l_llamagen", 343)])
def test_published_sizes(name: str, millions: int) -> None:
    """LlamaGen's Table 1: 111M and 343M parameters with 16 384 codes and 1000 classes."""
    node = resolve(name, ["data.tokens=none"])["generator"] | {"classes": 1000}
    vocabulary = {"_target_": "zoo.generators.Vocabulary", "codebook_sizes": [16384], "num_tokens": 256}
    model = build({**node, "vocabulary": {**vocabulary, "grid": [16, 16]}}, device="meta")
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == millions


def test_the_quantizer_of_a_head_is_the_tokenizers(tmp_path: Path) -> None:
    """`head.quantizer: tokenizer` copies VAT's, and the generator is saved with it."""
    pytest.importorskip("pyarrow")
    tokenizer = zoo.build("vat_tiny")
    torch.manual_seed(0)
    for buffer in tokenizer.quantizer.buffers():
        buffer.copy_(torch.rand_like(buffer)) if buffer.is_floating_point() else None
    quantizer = tokenizer.config["quantizer"]
    vocabulary = Vocabulary.of(tokenizer.spec)
    head = {"_target_": "zoo.generators.Levels", "quantizer": quantizer}
    plain = {"_target_": "zoo.generators.Vocabulary", "codebook_sizes": list(vocabulary.codebook_sizes)}
    plain |= {"num_tokens": vocabulary.num_tokens, "order": "scales", "scales": list(vocabulary.scales)}
    node = {"_target_": "zoo.generators.GPT", "vocabulary": plain, "head": head, "width": 32, "depth": 1, "heads": 2}

    class Data:
        class dataset:  # noqa: N801
            tokenizer = None

    Data.dataset.tokenizer = tokenizer
    generator = make_generator({"generator": node, "speaks": {"tokenizer": "vat_tiny", "labels": []}}, Data())
    own = generator.get_submodule("head.quantizer").state_dict()
    assert own.keys() == tokenizer.quantizer.state_dict().keys()
    assert all(torch.equal(own[name], value) for name, value in tokenizer.quantizer.state_dict().items())
    again = load(generator.save_pretrained(tmp_path / "saved")).get_submodule("head.quantizer").state_dict()
    assert all(torch.equal(own[name], value) for name, value in again.items())


def test_perplexity_by_codebook_and_quarter() -> None:
    metric = Perplexity(Vocabulary([4, 4], 8))
    nll = torch.full((2, 8, 2), torch.nan)
    nll[:, :2, 0], nll[:, :4, 1] = 1.0, 2.0
    metric.update(nll)
    found = {name: float(value.log()) for name, value in metric.compute().items()}
    assert found["perplexity"] == pytest.approx((4 * 1 + 8 * 2) / 12)
    assert (found["perplexity_codebook_0"], found["perplexity_codebook_1"]) == (pytest.approx(1), pytest.approx(2))
    assert (found["perplexity_quarter_1"], found["perplexity_quarter_2"]) == (pytest.approx(1.5), pytest.approx(2))


def test_data_holds_out_by_id(exported: Path) -> None:
    data = TokenData(str(exported), 2, val_fraction=0.4)
    data.setup()
    train_ids = {data._train.records[index].id for index in data._train.indices}
    held_ids = {data._val.records[index].id for index in data._val.indices}
    assert len(held_ids) == 2 and not train_ids & held_ids and len(train_ids | held_ids) == 5
    batch = next(iter(data.val_dataloader()))
    assert batch.indices.shape[1:] == (data.vocabulary.num_tokens, 1) and batch.labels.shape == (2,)
    cut = TokenData(str(exported), 2, length=5)
    cut.setup()
    assert next(iter(cut.train_dataloader())).indices.shape == (2, 5, 1)


def test_refusals(exported: Path) -> None:
    with pytest.raises(ValueError, match="learns from tokens"):
        complete({"generator": {}}, None)
    with pytest.raises(ValueError, match="describes a generator"):
        zoo.build("gpt_tiny")
    with pytest.raises(ValueError, match=r"data\.length"):
        TokenData(str(exported), length=0)


LEVELS = [8, 8, 8, 5, 5, 5]
FSQ = {"_target_": "quantizers.FSQ", "levels": LEVELS}


@pytest.mark.parametrize(
    ("quantizer", "digits"),
    [
        (FSQ, LEVELS),
        ({"_target_": "quantizers.Projected", "quantizer": FSQ, "dim": 6}, LEVELS),
        ({"_target_": "quantizers.VQ", "dim": 6, "codebook_size": 100}, None),
    ],
)
def test_digits_are_the_levels_of_the_tokenizers_fsq(
    quantizer: dict[str, Any], digits: list[int] | None, photographs: Path, tmp_path: Path
) -> None:
    node = OmegaConf.to_container(compose("titok_tiny", ["quantizer=fsq"]).tokenizer, resolve=True)
    assert isinstance(node, dict)
    build_tokenizer({**node, "quantizer": quantizer}).save_pretrained(tmp_path / "titok")
    arguments = ["export", str(tmp_path / "titok"), "--data", str(photographs), "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*arguments, "--device", "cpu"])
    assert result.exit_code == 0, result.output
    config = complete(resolve("gpt_tiny", [f"data.tokens={tmp_path / 'out'}"]), TokenData(str(tmp_path / "out")))
    assert config["generator"]["digits"] == digits
    assert build(config["generator"], device="meta").digits == (tuple(digits) if digits else None)


def test_pictures_of_several_sizes_are_refused(photographs: Path, tmp_path: Path) -> None:
    for options, name in ((["--max-side", "64"], "own"), (["--size", "32"], "square")):
        arguments = ["export", "fsq_f8_tiny", "--data", str(photographs), *options, "-o", str(tmp_path / name)]
        result = CliRunner().invoke(app, [*arguments, "--device", "cpu"])
        assert result.exit_code == 0, result.output
    assert TokenData(str(tmp_path / "square")).vocabulary.grid == (4, 4)
    with pytest.raises(ValueError, match="export with --size"):
        _ = TokenData(str(tmp_path / "own")).vocabulary
