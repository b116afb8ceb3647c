"""ResTok: which call of ours makes which recorded tensor."""

from __future__ import annotations

import torch
from einops import rearrange
from golden import Case, assert_equal
from torch import Tensor

from quantizers import VQ
from zoo.families import ResTok

__all__ = ["restok"]


def restok(case: Case):  # type: ignore[no-untyped-def]
    """The table of a case; decoders read the recorded latents, which are the code up to rounding."""
    io, model = case.io, case.config["model"]["vq_model"]
    tokenizer = ResTok.from_reference(case.config, case.state)
    decoder, side = tokenizer.decoder, tokenizer.decoder.grid
    x = io["images"] * 2 - 1
    z = tokenizer.encoder(x)
    tokenizer.expose("encoder.merged", "encoder.image", "encoder.image_sum")
    shown, tokens = tokenizer(x), tokenizer.encode(x)
    recorded = rearrange(io["quantized"], "b d 1 n -> b n d")

    def layout(latents: Tensor) -> Tensor:
        return rearrange(latents, "b n d -> b d 1 n")

    def cells(count: int) -> Tensor:
        return rearrange(decoder.read(recorded[:, :count]), "b (h w) d -> b d h w", h=side)

    def cut(count: int | Tensor) -> Tensor:
        """A prefix through the public path, which must be that of the recorded latents too."""
        ours = (tokenizer.decode(tokens.keep(count)) + 1) / 2
        lengths = torch.as_tensor(count).expand(len(x))
        assert_equal("decoder", (decoder(recorded, lengths) + 1) / 2, ours)
        return ours

    def entropy() -> Tensor:
        quantizer = VQ(tokenizer.quantizer.dim, model["codebook_size"], normalize=model["use_l2_norm"], entropy=1.0)
        quantizer.load_state_dict(tokenizer.quantizer.state_dict())
        parts = quantizer.train()(z).parts
        return (parts["per_sample_entropy"] - parts["batch_entropy"])[None]

    return {
        "images": None,
        "latents_pre_quant": lambda _: layout(z),
        "indices": lambda _: rearrange(tokens.indices, "b n 1 -> b 1 n"),
        "quantized": lambda _: layout(shown.quantized.latents),
        "last_image_tokens": lambda _: rearrange(shown.extras["encoder.merged"], "b c h w -> b c 1 (h w)"),
        "first_image_tokens": lambda _: shown.extras["encoder.image"],
        "first_image_tokens_sum": lambda _: shown.extras["encoder.image_sum"],
        "commitment_loss": lambda _: model["commitment_cost"] * shown.quantized.parts["commitment"][None],
        "codebook_loss": lambda _: shown.quantized.parts["codebook"][None],
        "entropy_loss_t0p01": lambda _: entropy(),
        "reconstruction_from_indices": lambda _: (tokenizer.decode(tokens) + 1) / 2,
        r"decoder_out_keep(\d+)": lambda found: cells(int(found[1])),
        r"reconstruction_keep(\d+)": lambda found: cut(int(found[1])),
        "reconstruction_keep_per_sample": lambda _: cut(torch.tensor([4, 16])),
    }
