"""ReTok: which call of ours makes which recorded tensor."""

from __future__ import annotations

from einops import rearrange
from golden import Case
from torch import Tensor

from zoo.families import ReTok

__all__ = ["retok"]


def retok(case: Case):  # type: ignore[no-untyped-def]
    """The table of a case; recorded codes are those of the N tokens and of the redundant ones behind them."""
    io = case.io
    tokenizer = ReTok.from_reference(case.config, case.state)
    encoder, decoder = tokenizer.encoder, tokenizer.decoder
    x = io["images"]
    z = encoder(x, redundant=True)
    quantized = tokenizer.quantizer(z)
    tokens = tokenizer.encode(x)
    tokenizer.expose("decoder.distill")
    shown = tokenizer(x)
    recorded = rearrange(io["quantized"], "b d 1 n -> b n d")
    side, kept = decoder.side, encoder.num_tokens
    assert tokens.indices.equal(quantized.indices[:, :kept]), "encode gives the N tokens and drops the redundant ones"

    def keep(count: int) -> Tensor:
        decoded = tokenizer.decode(tokens.keep(count))
        ours = decoder(recorded[:, :count])
        assert (decoded - ours).abs().max() <= 1e-4 * ours.abs().max()
        return ours

    return {
        "images": None,
        "cnn_features": lambda _: encoder.convs(x),
        "latents_pre_quant": lambda _: rearrange(z, "b n d -> b d 1 n"),
        "indices": lambda _: quantized.indices[..., 0],
        "quantized": lambda _: rearrange(quantized.latents, "b n d -> b d 1 n"),
        "reconstruction_from_indices": lambda _: tokenizer.decode(tokens),
        "spatial_features": lambda _: decoder.spread(recorded[:, :kept]),
        "distill_features": lambda _: rearrange(shown.extras["decoder.distill"], "b c h w -> b (h w) c", h=side),
        r"reconstruction_keep(\d+)": lambda found: keep(int(found[1])),
    }
