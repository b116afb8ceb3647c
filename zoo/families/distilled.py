"""What ALIT and KARL share: a 1D code distilled from a grid tokenizer, and decoded through it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from decoders import ProxyDecoder
from quantizers import Quantizer
from quantizers.nearest import nearest_code
from zoo.families.dropout import visible
from zoo.families.maskgit_vqgan import MaskGITVQGAN, convolution_key
from zoo.families.sequence import sequence_spec
from zoo.tokenizer import Tokenizer

__all__ = ["DistilledTokenizer", "convert_distilled", "transformer_arguments", "quantizer_node", "shared_arguments"]

BASE = {"z_channels": 256, "ch": 128, "ch_mult": [1, 1, 2, 2, 4], "num_res_blocks": 2, "resolution": 256}
BASE_CODES = 1024
BLOCKS = (
    (r"transformer\.(\d+)\.", r"blocks.\1."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"attn\.in_proj_", "attn.qkv."),
    (r"attn\.out_proj\.", "attn.proj."),
    (r"mlp\.c_fc\.", "mlp.fc1."),
    (r"mlp\.c_proj\.", "mlp.fc2."),
)


class DistilledTokenizer(Tokenizer):
    """An encoder that reads patches and a grid tokenizer's latents, and a decoder that predicts that tokenizer's codes.

    Args:
        encoder: N tokens, `quantizer.dim` wide; its `patches.base` is the grid tokenizer's encoder.
        quantizer: any.
        decoder: predicts the grid tokenizer's codes and goes on to pixels.
        num_tokens: the longest code.
        proxy_training: while training, stop at the logits, which then stand in `output` too, and render no pixels.
    """

    encoder: Any
    quantizer: Quantizer
    decoder: ProxyDecoder

    def __init__(
        self, encoder: Any, quantizer: Quantizer, decoder: ProxyDecoder, *, num_tokens: int, proxy_training: bool
    ) -> None:
        super().__init__(encoder, quantizer, decoder)
        if not isinstance(decoder, ProxyDecoder):
            raise ValueError(f"{type(self).__name__} needs a decoders.ProxyDecoder, got {type(decoder).__name__}")
        self.check_widths()
        if num_tokens > min(encoder.num_tokens, decoder.num_tokens):
            raise ValueError(
                f"num_tokens={num_tokens}, but the encoder has {encoder.num_tokens} tokens and the decoder reads "
                f"{decoder.num_tokens}"
            )
        if encoder.patches.base.dim != decoder.pixels.dim:
            raise ValueError(
                f"the base encoder has {encoder.patches.base.dim} channels, the pixel stage {decoder.pixels.dim}; "
                "they are of one grid tokenizer"
            )
        self.proxy_training = proxy_training
        self.spec = sequence_spec(encoder, quantizer, num_tokens=num_tokens)

    def proxy_codes(self, base: Tensor) -> Tensor:
        """Codes (B, h, w) int64 of the grid tokenizer for latents (B, h * w, D) of its encoder."""
        side = int(base.shape[1] ** 0.5)
        return rearrange(nearest_code(base, self.decoder.codebook), "b (h w) -> b h w", h=side)

    def decode_latents(self, latents: Tensor, lengths: Tensor | None, size: tuple[int, ...]) -> Tensor:
        """(B, n, D) -> (B, 3, H, W)."""
        return self.decoder(*visible(latents, lengths))

    @torch.no_grad()
    def adopt(self, teacher: MaskGITVQGAN) -> None:
        """Copy a grid tokenizer into the encoder's and the decoder's part of it.

        Raises:
            ValueError: its codes or shapes are others.
        """
        wanted, held = tuple(self.decoder.codebook.shape), (*teacher.spec.codebook_sizes, teacher.spec.dim)
        if wanted != held:
            raise ValueError(
                f"the grid tokenizer has codes (K, D) = {wanted}, the teacher has {held}; set "
                "decoder.logits.proxy_codes, decoder.pixels and encoder.base to the teacher's"
            )
        every = torch.arange(len(self.decoder.codebook), device=teacher.device)
        self.decoder.codebook.copy_(teacher.quantizer.lookup(every[None, :, None])[0])
        try:
            self.encoder.patches.base.load_state_dict(teacher.encoder.state_dict())
            self.decoder.pixels.load_state_dict(teacher.decoder.state_dict())
        except RuntimeError as error:
            raise ValueError(f"the teacher does not fit encoder.base and decoder.pixels: {error}") from error


def shared_arguments(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Of a reference config: arguments of both transformers, those of the grid tokenizer's convolutions, its codes.

    Raises:
        ValueError: the grid tokenizer is none of the kind that was published.
    """
    args, base = config["args"], config.get("base_vqgan", {})
    ddconfig = {**BASE, **base.get("ddconfig", {})}
    if ddconfig.get("double_z") or ddconfig.get("attn_resolutions") or ddconfig.get("in_channels", 3) != 3:
        raise ValueError("the base tokenizer is an RGB VQGAN without attention; this config describes another one")
    if base.get("embed_dim", ddconfig["z_channels"]) != ddconfig["z_channels"]:
        raise ValueError(f"base_vqgan.embed_dim={base['embed_dim']} differs from z_channels={ddconfig['z_channels']}")
    if not args.get("factorize_latent", True):
        raise ValueError("factorize_latent: false is not supported; the published models all have narrow latents")
    transformer = {
        "image_size": int(args.get("img_size", ddconfig["resolution"])),
        "patch_size": int(args["patch_size"]),
        "dim": int(args["vq_token_dim"]),
    }
    convolutions = {
        "dim": int(ddconfig["z_channels"]),
        "channels": int(ddconfig["ch"]),
        "multipliers": [int(value) for value in ddconfig["ch_mult"]],
        "depth": int(ddconfig["num_res_blocks"]),
        "middle_depth": 2,
    }
    return transformer, convolutions, int(base.get("n_embed", BASE_CODES))


def transformer_arguments(args: Mapping[str, Any], side: str) -> dict[str, int]:
    """Width, depth and heads of one side, "encoder" or "decoder"."""
    return {
        "width": int(args[f"{side}_width"]),
        "depth": int(args[f"{side}_num_layers"]),
        "heads": int(args[f"{side}_num_heads"]),
    }


def quantizer_node(args: Mapping[str, Any]) -> dict[str, Any]:
    """VQ, or nothing but the narrow width for the models with continuous latents."""
    dim = int(args["vq_token_dim"])
    if not args["quantize_latent"]:
        return {"_target_": "quantizers.Identity", "dim": dim}
    return {
        "_target_": "quantizers.VQ",
        "dim": dim,
        "codebook_size": int(args["vq_codebook_size"]),
        "normalize": bool(args["vq_use_l2_norm"]),
        "commitment": float(args["vq_commitment_cost"]),
    }


def convert_distilled(state: Mapping[str, Tensor], renamed: Mapping[str, str]) -> dict[str, Tensor]:
    """Reference keys -> ours: those in `renamed`, the transformers', and the grid tokenizer's.

    `gan_losses`, the critics that a training state carries, is left out.
    """
    converted = {}
    for key, tensor in state.items():
        ours = key
        stem, _, leaf = key.rpartition(".")
        if key.startswith("gan_losses."):
            continue
        if key in renamed:
            ours = renamed[key]
        elif stem in renamed:
            ours = f"{renamed[stem]}.{leaf}"
        elif key.startswith("base_tokenizer.vqgan."):
            ours = _base_key(key.removeprefix("base_tokenizer.vqgan."))
        elif key.startswith(("encoder.transformer.", "decoder.transformer.")):
            for pattern, replacement in BLOCKS:
                ours = re.sub(pattern, replacement, ours)
            ours = re.sub(r"^decoder\.", "decoder.logits.", ours)
        converted[ours] = _flat(key, tensor)
    return converted


def _base_key(key: str) -> str:
    if key == "quantize.embedding.weight":
        return "decoder.codebook"
    room, _, rest = key.partition(".")
    rest = re.sub(r"mid\.block_(\d+)", lambda found: f"mid.{int(found[1]) - 1}", rest)
    rest = convolution_key(rest.replace("upsample.conv", "upsample_conv"))
    return f"encoder.patches.base.{rest}" if room == "encoder" else f"decoder.pixels.{rest}"


def _flat(key: str, tensor: Tensor) -> Tensor:
    """Patch convolutions become matrices, and mask tokens (1, 1, W) rows."""
    if key == "patch_embed.weight":
        return tensor.flatten(1)
    return tensor.flatten(0, 1) if key.endswith("mask_token") else tensor
