"""TiTok and One-D-Piece as tokenizers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from decoders import MaskGITDecoder, ProxyDecoder, ViT1DDecoder
from encoders import MaskGITEncoder, ViT1D
from quantizers import FSQ, KL, VQ, Quantizer
from zoo.families import MaskGITVQGAN, OneDPiece, TiTok
from zoo.objectives import ProxyObjective
from zoo.tokens import Tokens

SIZE = {"image_size": 32, "patch_size": 8, "width": 32, "depth": 2, "heads": 4, "num_tokens": 6}
PIXELS: dict[str, Any] = {"dim": 4, "channels": 32, "multipliers": (1, 1, 2, 2), "depth": 1}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def images(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32) * 2 - 1


def tokenizer(
    family: type[TiTok] = TiTok, quantizer: Quantizer | None = None, *, stage: str = "single", **options: Any
) -> TiTok:
    quantizer = quantizer or VQ(5, 24, normalize=True)
    width = 2 * quantizer.dim if isinstance(quantizer, KL) else quantizer.dim
    decoder: ViT1DDecoder | ProxyDecoder = ViT1DDecoder(
        **SIZE, dim=quantizer.dim, proxy_codes=None if stage == "single" else 16
    )
    if stage == "two":
        decoder = ProxyDecoder(decoder, MaskGITDecoder(**PIXELS))
    return family(ViT1D(**SIZE, dim=width), quantizer, decoder, **options)


def teacher(codes: int = 16) -> MaskGITVQGAN:
    return MaskGITVQGAN(MaskGITEncoder(**PIXELS), VQ(4, codes), MaskGITDecoder(**PIXELS), image_size=32)


@pytest.mark.parametrize("family", [TiTok, OneDPiece])
@pytest.mark.parametrize("stage", ["single", "codes", "two"])
@pytest.mark.parametrize("quantizer", [VQ(5, 24), FSQ([5, 5, 4]), KL(3)], ids=["vq", "fsq", "kl"])
def test_decode_of_encode_is_forward(family: type[TiTok], stage: str, quantizer: Quantizer) -> None:
    tok = tokenizer(family, quantizer, stage=stage).eval()
    x = images()
    with torch.no_grad():
        tokens, shown = tok.encode(x), tok(x)
        assert torch.equal(tok.decode(tokens), shown.output)
    assert tokens.indices.shape == (2, 6, len(quantizer.codebook_sizes))
    assert shown.output.shape == ((2, 16, 4, 4) if stage == "codes" else (2, 3, 32, 32))
    assert ("proxy_logits" in shown.extras) == (stage != "single")


@pytest.mark.parametrize("family", [TiTok, OneDPiece])
@pytest.mark.parametrize("stage", ["single", "two"])
def test_every_parameter_learns(family: type[TiTok], stage: str) -> None:
    tok = tokenizer(family, stage=stage).train()
    shown = tok(images())
    (shown.output.square().mean() + shown.quantized.loss).backward()
    assert not [name for name, parameter in tok.named_parameters() if parameter.grad is None]


def test_proxy_training_stops_at_the_codes_and_only_in_training() -> None:
    tok = tokenizer(stage="two", proxy_training=True)
    x = images()
    shown = tok.train()(x)
    assert shown.output.shape == (2, 16, 4, 4)
    assert torch.equal(shown.output, shown.extras["proxy_logits"])
    assert tok.eval()(x).output.shape == x.shape
    with pytest.raises(ValueError, match="ProxyDecoder"):
        tokenizer(stage="codes", proxy_training=True)


def test_adopts_the_pixels_of_a_teacher() -> None:
    tok, source = tokenizer(stage="two").eval(), teacher().eval()
    tok.adopt(source)
    codes = torch.randint(16, (2, 16, 1))
    certain = torch.nn.functional.one_hot(codes[..., 0], 16).float().mul(1e4).transpose(1, 2).reshape(2, 16, 4, 4)
    assert isinstance(tok.decoder, ProxyDecoder)
    with torch.no_grad():
        theirs = source.decode(Tokens(codes, (16,)))
        torch.testing.assert_close(tok.decoder.render(certain), theirs, rtol=1e-5, atol=1e-5)


def test_first_stage_learns_the_codes_of_a_teacher() -> None:
    tok, objective = tokenizer(stage="two", proxy_training=True), ProxyObjective(teacher())
    objective.prepare(tok)
    pixels = {name: value.clone() for name, value in tok.decoder.state_dict().items() if "logits" not in name}
    optimizer = torch.optim.AdamW(tok.parameters(), 1e-3, weight_decay=0)
    x, losses = images(4), []
    for _ in range(15):
        terms = objective(x, tok.train()(x))
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        losses.append(terms["proxy"].item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(tok.decoder.state_dict()[name], value) for name, value in pixels.items())


def test_refuses_a_teacher_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"\(16, 4\), the teacher has \(20, 4\)"):
        tokenizer(stage="two").adopt(teacher(codes=20))
    with pytest.raises(ValueError, match="ProxyDecoder"):
        tokenizer().adopt(teacher())


def test_any_prefix_of_one_d_piece_decodes() -> None:
    tok = tokenizer(OneDPiece).eval()
    assert tok.spec.flexible
    assert tok.spec.order == "coarse_to_fine"
    with torch.no_grad():
        tokens = tok.encode(images())
        for count in range(1, 7):
            latents = tok.quantizer.lookup(tokens.indices[:, :count])
            assert torch.equal(tok.decode(tokens.keep(count)), tok.decoder(latents))


def test_ragged_lengths_decode_like_singles() -> None:
    tok = tokenizer(OneDPiece).eval()
    with torch.no_grad():
        tokens = tok.encode(images(3))
        lengths = torch.tensor([2, 4, 1])
        ragged = Tokens(tokens.indices, tokens.codebook_sizes, lengths=lengths, size=tokens.size, order=tokens.order)
        singles = [tok.decoder(tok.quantizer.lookup(tokens.indices[i : i + 1, :n])) for i, n in enumerate(lengths)]
        torch.testing.assert_close(tok.decode(ragged), torch.cat(singles), rtol=1e-5, atol=1e-6)


def test_titok_refuses_prefixes() -> None:
    tok = tokenizer().eval()
    tokens = tok.encode(images())
    short = Tokens(tokens.indices[:, :3], tokens.codebook_sizes)
    with pytest.raises(ValueError, match="decodes 6 tokens, got 3"):
        tok.decode(short)


def test_tail_drop_is_one_uniform_draw_for_the_batch() -> None:
    tok = tokenizer(OneDPiece).train()
    assert isinstance(tok, OneDPiece)
    latents = torch.randn(3, 6, 5)
    counts = [0] * 7
    for _ in range(1200):
        kept, lengths = tok.regularize(latents)
        assert torch.equal(kept, latents[:, : kept.shape[1]])
        assert lengths.tolist() == [kept.shape[1]] * 3
        counts[kept.shape[1]] += 1
    assert counts[0] == 0
    assert min(counts[1:]) > 140  # 200 expected, standard deviation 13


def test_reported_lengths_follow_the_draw() -> None:
    tok = tokenizer(OneDPiece).train()
    shown = tok(images())
    assert shown.lengths is not None
    assert 1 <= int(shown.lengths[0]) <= 6
    assert tok.eval()(images()).lengths is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quantize_mode": "fsq"}, "'vq' or 'vae'"),
        ({"vit_enc_model_size": "huge"}, "small, base, large"),
        ({"is_legacy": False}, "finetune_decoder needs is_legacy"),
    ],
)
def test_impossible_reference_configs_are_refused(change: dict[str, Any], message: str) -> None:
    model = {
        "codebook_size": 64, "token_size": 4, "use_l2_norm": True, "commitment_cost": 0.25, "num_latent_tokens": 8,
        "vit_enc_model_size": "small", "vit_enc_patch_size": 16,
        "vit_dec_model_size": "small", "vit_dec_patch_size": 16,
    }  # fmt: skip
    config = {"model": {"vq_model": {**model, **change}}, "dataset": {"preprocessing": {"crop_size": 32}}}
    with pytest.raises(ValueError, match=message):
        TiTok.reference_recipe(config)


def test_parts_that_do_not_meet_are_refused() -> None:
    with pytest.raises(ValueError, match="num_tokens"):
        TiTok(ViT1D(**SIZE, dim=5), VQ(5, 24), ViT1DDecoder(**{**SIZE, "num_tokens": 5}, dim=5))
    with pytest.raises(ValueError, match=r"decoder\.dim"):
        TiTok(ViT1D(**SIZE, dim=5), VQ(5, 24), ViT1DDecoder(**SIZE, dim=4))


@pytest.mark.parametrize("stage", ["single", "two"])
def test_runs_in_half_precision(stage: str) -> None:
    tok = tokenizer(stage=stage).eval().to(dtype=torch.bfloat16)
    with torch.no_grad():
        tokens = tok.encode(images())
        assert tok.decode(tokens).dtype == torch.bfloat16
