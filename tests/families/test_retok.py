"""ReTok: pooled queries, redundant tokens behind the code, prefixes in one batch, features for alignment."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import zoo
from decoders import ReTokDecoder
from encoders import ReTokEncoder
from encoders.retok import query_levels
from quantizers import FSQ, KL, VQ
from zoo.families import NestedDropout, ReTok
from zoo.objectives import Alignment, ImageObjective
from zoo.store import cards as cards_module
from zoo.store.cards import card

CONVS = {"image_size": 32, "features": 16, "channels": 32, "multipliers": (1, 1, 1), "conv_depth": 1}
CODE = {"dim": 4, "num_tokens": 8, "padding": 6, "width": 24, "depth": 2, "heads": 3}


def tokenizer(**decoder: object) -> ReTok:
    torch.manual_seed(0)
    quantizer = VQ(4, 32, normalize=True, estimator="rotation")
    return ReTok(ReTokEncoder(**CONVS, **CODE), quantizer, ReTokDecoder(**{**CONVS, **CODE, **decoder}))  # type: ignore[arg-type]


def pictures(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def published(**changes: object) -> dict[str, object]:
    arguments = {**card("retok_ss256").config["model"]["init_args"], **changes}
    return {"model": {"init_args": arguments}}


@pytest.mark.parametrize(
    ("count", "levels"),
    [
        (1, [(1, 1)]),
        (2, [(1, 1), (1, 1)]),
        (8, [(1, 1), (1, 1), (1, 2), (2, 2)]),
        (256, [(1, 1), (1, 1), (1, 2), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16)]),
    ],
)
def test_query_levels(count: int, levels: list[tuple[int, int]]) -> None:
    assert list(query_levels(count)) == levels
    assert sum(h * w for h, w in levels) == count


def test_redundant_tokens_take_part_and_are_dropped() -> None:
    model = tokenizer().eval()
    x = pictures()
    with torch.no_grad():
        whole = model.encoder(x, redundant=True)
        assert whole.shape == (2, 14, 4)
        torch.testing.assert_close(model.encoder(x), whole[:, :8])
        model.encoder.latent_position_embedding[8:] += 1
        assert not torch.allclose(model.encoder(x), whole[:, :8])
        tokens = model.encode(x)
    assert tokens.indices.shape == (2, 8, 1) and model.spec.num_tokens == 8
    assert model(x).quantized.indices.shape == (2, 8, 1)
    assert model.train()(x).quantized.indices.shape == (2, 14, 1)


def test_redundant_queries_are_copies_of_the_last() -> None:
    model = tokenizer().eval()
    with torch.no_grad():
        model.encoder.latent_position_embedding[8:] = model.encoder.latent_position_embedding[2:8]
        whole = model.encoder(pictures(), redundant=True)
    torch.testing.assert_close(whole[:, 8:], whole[:, 2:8])


def test_training_draws_lengths_of_the_padded_code() -> None:
    torch.manual_seed(0)
    model = tokenizer()
    latents = torch.randn(4000, 14, 4)
    cut, lengths = model.regularize(latents)
    assert lengths is not None and cut.shape[1] == 14 and set(lengths.tolist()) == set(range(1, 15))
    share = (lengths >= 8).double().mean().item()
    assert abs(share - 7 / 14) < 0.03  # the last of the N tokens; 1 / 8 without redundant ones
    model.dropout = NestedDropout("choices", choices=[3], per="batch")
    cut, lengths = model.regularize(latents)
    assert cut.shape[1] == 3 and lengths is not None and lengths.eq(3).all()
    result = model(pictures())
    assert result.lengths is not None and result.lengths.tolist() == [3, 3] and result.output.shape == (2, 3, 32, 32)


def test_ragged_lengths_equal_truncated_singles() -> None:
    decoder = tokenizer().decoder.eval()
    latents, lengths = torch.randn(5, 14, 4), torch.tensor([1, 14, 3, 8, 9])
    spoiled = latents.clone()
    for item, length in enumerate(lengths.tolist()):
        spoiled[item, length:] = torch.nan
    with torch.no_grad():
        together = decoder(latents, lengths)
        singles = torch.cat([decoder(latents[i : i + 1, :n]) for i, n in enumerate(lengths.tolist())])
        assert torch.equal(together, decoder(spoiled, lengths))
    torch.testing.assert_close(together, singles, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[0], decoder(latents[:1])[0], atol=1e-3)


def test_ragged_tokens_equal_singles() -> None:
    model = tokenizer().eval()
    with torch.no_grad():
        tokens = model.encode(pictures(3))
        counts = torch.tensor([8, 1, 5])
        together = model.decode(tokens.keep(counts))
        singles = torch.cat([model.decode(tokens[i].keep(n)) for i, n in enumerate(counts.tolist())])
    torch.testing.assert_close(together, singles, rtol=1e-4, atol=1e-5)


def test_layout_of_the_input_in_memory_changes_nothing() -> None:
    model = tokenizer().eval()
    flat = 0.7 + 1e-3 * pictures()
    with torch.no_grad():
        assert torch.equal(model.encoder(flat), model.encoder(flat.to(memory_format=torch.channels_last)))


def test_features() -> None:
    model = tokenizer(distill_depth=1, distill_dim=5).eval()
    assert model.features == {"decoder.1": 24, "decoder.2": 24, "decoder.distill": 5}
    x = pictures()
    assert model(x).extras == {}
    model.expose("decoder.distill", "decoder.1")
    extras = model(x).extras
    assert {name: tuple(grid.shape) for name, grid in extras.items()} == {
        "decoder.1": (2, 24, 8, 8),
        "decoder.distill": (2, 5, 8, 8),
    }
    torch.testing.assert_close(model.decoder.semantic(extras["decoder.1"]), extras["decoder.distill"])
    assert "decoder.distill" not in tokenizer().features
    with pytest.raises(ValueError, match="no projection for alignment; set distill_depth"):
        tokenizer().decoder.semantic(extras["decoder.1"])


def test_alignment_trains_the_projection() -> None:
    pytest.importorskip("timm")
    alignment = Alignment("decoder.distill", 1280, size=64, projector="none", pretrained=False)
    model = tokenizer(distill_depth=2, distill_dim=1280)
    objective = ImageObjective(alignment=alignment)
    objective.prepare(model)
    model.dropout = NestedDropout("choices", choices=[14])
    x = pictures()
    objective(x, model(x))["loss"].backward()
    idle = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not idle


@pytest.mark.parametrize("quantizer", [FSQ(levels=[8, 5, 5, 5]), KL(dim=4)])
def test_other_quantizers(quantizer: zoo.Tokenizer) -> None:
    encoder = ReTokEncoder(**CONVS, **{**CODE, "dim": quantizer.input_dim})  # type: ignore[arg-type]
    model = ReTok(encoder, quantizer, ReTokDecoder(**CONVS, **CODE)).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        assert torch.equal(model.decode(model.encode(pictures())), model(pictures()).output)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_compiles_in_one_graph(part: str) -> None:
    model = tokenizer().eval()
    module = model.get_submodule(part)
    inputs = (pictures(),) if part == "encoder" else (torch.randn(2, 8, 4), torch.tensor([3, 8]))
    with torch.no_grad():
        compiled = torch.compile(module, backend="eager", fullgraph=True)(*inputs)
        torch.testing.assert_close(compiled, module(*inputs))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_tokens": 6}, "power of two, got 6"),
        ({"num_tokens": 0}, "power of two, got 0"),
        ({"num_tokens": 256}, "the finest being"),
        ({"padding": 9}, r"copies 0 to num_tokens=8 queries, got 9"),
        ({"channels": 24}, "multiples of 32, got"),
        ({"heads": 5}, "multiple of heads"),
        ({"depth": 0}, "depth must be at least 1"),
    ],
)
def test_sizes_that_do_not_fit(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReTokEncoder(**{**CONVS, **CODE, **change})  # type: ignore[arg-type]


def test_parts_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"\(8, 6\) in the encoder but \(8, 4\) in the decoder"):
        tokenizer(padding=4)
    with pytest.raises(ValueError, match=r"encoder.image_size=32 but decoder.image_size=64"):
        tokenizer(image_size=64)
    with pytest.raises(ValueError, match="widths differ"):
        tokenizer(dim=5)
    with pytest.raises(ValueError, match="from 1 to depth=2, got 3"):
        tokenizer(distill_depth=3)
    with pytest.raises(ValueError, match=r"ReTokEncoder expects images \(B, 3, 32, 32\), got \(1, 3, 16, 16\)"):
        tokenizer().encoder(torch.zeros(1, 3, 16, 16))
    for shape in ((1, 15, 4), (1, 0, 4), (1, 3, 5)):
        with pytest.raises(ValueError, match=r"ReTokDecoder expects latents \(B, 1 to 14, 4\)"):
            tokenizer().decoder(torch.zeros(shape))


def test_reference_configs_that_have_no_port() -> None:
    with pytest.raises(ValueError, match="ported with adaptive_gn=True, as published; got False"):
        ReTok.reference_recipe(published(adaptive_gn=False))
    with pytest.raises(ValueError, match="one of small, base, got 'huge'"):
        ReTok.reference_recipe(published(decoder_size="huge"))
    node = ReTok.reference_recipe(published(rot=False, distill_depth=None))
    assert node["quantizer"]["estimator"] == "straight_through" and node["decoder"]["distill_depth"] is None


@pytest.mark.parametrize("name", ["sb256", "ss256"])
def test_recipe_and_card_are_of_one_model(name: str) -> None:
    from zoo.store.build import build

    ours = build(f"retok_{name}", device="meta")
    theirs = build(ReTok.reference_recipe(card(f"retok_{name}").config), device="meta")
    assert {key: value.shape for key, value in ours.state_dict().items()} == {
        key: value.shape for key, value in theirs.state_dict().items()
    }
    assert repr(ours.quantizer) == repr(theirs.quantizer)


def test_weights_that_are_on_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"on no hub; download VQ_SB256_e250.pt \(Google Drive, .*weights="):
        zoo.load("retok_sb256")
    with pytest.raises(FileNotFoundError, match="no weight file"):
        zoo.load("retok_sb256", weights=tmp_path / "none.pt")
    with pytest.raises(ValueError, match="weights= goes with the name of a card"):
        zoo.load(tmp_path, weights=tmp_path / "none.pt")
    model = zoo.build("onedpiece_tiny").eval()
    torch.save({"model": model.state_dict(), "steps": 3}, tmp_path / "file.pt")
    (tmp_path / "by_hand.yaml").write_text(
        "{family: OneDPiece, title: t, modality: image, recipe: onedpiece_tiny,"
        " weights: {source: a shelf, file: file.pt, license: mit, layout: zoo}}"
    )
    monkeypatch.setattr(cards_module, "CARDS", tmp_path)
    assert card("by_hand").weights.place == "by hand"
    loaded = zoo.load("by_hand", weights=tmp_path / "file.pt")
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())


def test_alignment_fades_with_the_length() -> None:
    pytest.importorskip("timm")
    torch.manual_seed(0)
    alignment = Alignment("decoder.distill", 1280, size=64, projector="none", tail=0.2, pretrained=False)
    even = Alignment("decoder.distill", 1280, size=64, projector="none", pretrained=False)
    even.net = alignment.net
    model, x = tokenizer(distill_depth=2, distill_dim=1280), pictures()
    alignment.prepare(model)

    def ratio(length: int) -> float:
        model.dropout = NestedDropout("choices", choices=[length])
        shown = model(x)
        return (alignment(x, shown) / even(x, shown)).item()

    assert [round(ratio(length), 4) for length in (1, 14)] == [1.0, 0.2]
    assert ratio(5) == pytest.approx(1 - 0.8 * 4 / 13)
    assert (alignment(x, shown := model.eval()(x)) / even(x, shown)).item() == pytest.approx(0.2)
    with pytest.raises(ValueError, match="share of the strength"):
        Alignment("decoder.distill", 1280, tail=2, pretrained=False)
