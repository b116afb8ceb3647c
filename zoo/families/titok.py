"""TiTok: an image as 32 to 256 tokens without a grid (arXiv 2406.07550)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from decoders import ProxyDecoder, PyramidDecoder, ViT1DDecoder
from encoders import PyramidEncoder, ViT1D
from quantizers import Quantizer
from zoo.families.dropout import NestedDropout, visible
from zoo.families.maskgit_vqgan import MaskGITVQGAN, convolution_key, pixel_arguments
from zoo.families.sequence import sequence_spec
from zoo.spec import Order
from zoo.tokenizer import Reconstruction, Tokenizer

__all__ = ["TiTok"]

SIZES = {
    "small": {"width": 512, "num_layers": 8, "num_heads": 8},
    "base": {"width": 768, "num_layers": 12, "num_heads": 12},
    "large": {"width": 1024, "num_layers": 24, "num_heads": 16},
}
PIXEL_STAGE = {"channel_mult": [1, 1, 2, 2, 4], "hidden_channels": 128, "num_res_blocks": 2, "z_channels": 256}
PROXY_CODES = 1024
RENAMED = (
    (r"transformer\.(\d+)\.", r"blocks.\1."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"^ln_(pre|post)\.", r"norm_\1."),
    (r"attn\.in_proj_", "attn.qkv."),
    (r"attn\.out_proj\.", "attn.proj."),
    (r"mlp\.c_fc\.", "mlp.fc1."),
    (r"mlp\.c_proj\.", "mlp.fc2."),
    (r"^positional_embedding$", "position_embedding"),
    (r"^latent_token_positional_embedding$", "latent_position_embedding"),
    (r"^patch_embed\.", "patch_embedding."),
    (r"^decoder_embed\.", "latent_embedding."),
)


class TiTok(Tokenizer):
    """A ViT encoder with learned latent tokens, any quantizer, and a ViT decoder, in one of three layouts.

    * Single stage: the decoder is a `ViT1DDecoder` that predicts pixels.
    * Two stages: a `ProxyDecoder` predicts the codes of a teacher, usually `MaskGITVQGAN`, and carries them on to
      pixels. The first stage of training learns the codes (`proxy_training`), with the teacher's pixel decoder in
      place (`adopt`); the second tunes the decoder on pixels.
    * Codes only: a `ViT1DDecoder` with `proxy_codes`, as the original saves after its first stage. Such a tokenizer has
      no pixels: `forward` and `decode` give the logits (B, K, h, w).

    The last two also put the logits into `Reconstruction.extras["proxy_logits"]`.

    Args:
        encoder: N tokens, `quantizer.dim` wide (twice that in front of `quantizers.KL`).
        quantizer: any.
        decoder: reads N tokens, `quantizer.dim` wide.
        proxy_training: while training, stop at the logits, which then stand in `output` too, and render no pixels.
        dropout: how many tokens training keeps. With it the code is coarse to fine, and any prefix decodes.
    """

    encoder: ViT1D | PyramidEncoder
    quantizer: Quantizer
    decoder: ViT1DDecoder | ProxyDecoder | PyramidDecoder
    order: ClassVar[Order] = "raster"
    flexible: ClassVar[bool] = False

    def __init__(
        self,
        encoder: ViT1D | PyramidEncoder,
        quantizer: Quantizer,
        decoder: ViT1DDecoder | ProxyDecoder | PyramidDecoder,
        proxy_training: bool = False,
        dropout: NestedDropout | None = None,
    ) -> None:
        super().__init__(encoder, quantizer, decoder)
        self.dropout = dropout
        if proxy_training and not isinstance(decoder, ProxyDecoder):
            raise ValueError("proxy_training needs a decoders.ProxyDecoder: this decoder has no codes to stop at")
        self.proxy_training = proxy_training
        if encoder.num_tokens != decoder.num_tokens:
            raise ValueError(f"encoder.num_tokens={encoder.num_tokens} but decoder.num_tokens={decoder.num_tokens}")
        self.check_widths()
        self.spec = sequence_spec(
            encoder,
            quantizer,
            order=self.order if dropout is None else "coarse_to_fine",
            flexible=self.flexible or dropout is not None,
            scales=encoder.scales if isinstance(encoder, PyramidEncoder) else (),
        )

    @property
    def features(self) -> dict[str, int]:
        """Patches after some blocks: "encoder.1", "encoder.2", ..., "decoder.1", ...; "grid" for pyramids."""
        parts = {"encoder": self.encoder, "decoder": self.decoder}
        return {f"{side}.{name}": width for side, part in parts.items() for name, width in part.features.items()}

    def regularize(self, latents: Tensor) -> tuple[Tensor, Tensor | None]:
        """Draw how many tokens each item keeps.

        Args:
            latents: (B, N, D).

        Returns:
            latents (B, n, D), cut to the longest, and lengths (B,); or all of them and None without `dropout`.
        """
        if self.dropout is None:
            return latents, None
        lengths = self.dropout.draw(len(latents), latents.shape[1])
        return latents[:, : int(lengths.max())], lengths

    def forward(self, x: Tensor) -> Reconstruction:
        """As `Tokenizer.forward`, with the features that were asked for (`expose`) in `extras`."""
        self.check_input(x)
        extras: dict[str, Tensor] = {}
        quantized = self.quantizer(self.encoder(x, self.watch("encoder", extras)))
        latents, lengths = self.regularize(quantized.latents) if self.training else (quantized.latents, None)
        latents, ragged = visible(latents, lengths)
        lengths = None if lengths is None else lengths.to(x.device, non_blocking=True)
        watch = self.watch("decoder", extras)
        if isinstance(self.decoder, ProxyDecoder):
            extras["proxy_logits"] = self.decoder.logits(latents, ragged, watch)
            stop = self.training and self.proxy_training
            output = extras["proxy_logits"] if stop else self.decoder.render(extras["proxy_logits"])
        else:
            output = self.decoder(latents, ragged, watch)
            if self.decoder.proxy_codes is not None:
                extras["proxy_logits"] = output
        return Reconstruction(output, quantized, lengths, extras)

    @torch.no_grad()
    def adopt(self, teacher: MaskGITVQGAN) -> None:
        """Copy a teacher's codebook and decoder into the pixel stage.

        Raises:
            ValueError: this tokenizer has no pixel stage, or the teacher's codes or shapes are others.
        """
        if not isinstance(self.decoder, ProxyDecoder):
            raise ValueError("only a tokenizer with a decoders.ProxyDecoder can adopt a teacher")
        wanted, held = tuple(self.decoder.codebook.shape), (*teacher.spec.codebook_sizes, teacher.spec.dim)
        if wanted != held:
            raise ValueError(
                f"the pixel stage reads codes (K, D) = {wanted}, the teacher has {held}; "
                "set decoder.logits.proxy_codes and decoder.pixels to the teacher's"
            )
        every = torch.arange(self.decoder.proxy_codes, device=teacher.device)
        codes = teacher.quantizer.lookup(every[None, :, None])[0]
        self.decoder.codebook.copy_(codes)
        try:
            self.decoder.pixels.load_state_dict(teacher.decoder.state_dict())
        except RuntimeError as error:
            raise ValueError(f"the teacher's decoder does not fit decoder.pixels: {error}") from error

    def decode_latents(self, latents: Tensor, lengths: Tensor | None, size: tuple[int, ...]) -> Tensor:
        """(B, n, D) -> (B, 3, H, W); what no item uses is cut, and only lengths that differ cost a mask."""
        return self.decoder(*visible(latents, lengths))

    @classmethod
    def reference_recipe(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The node for a config of bytedance/1d-tokenizer.

        Read are `model.vq_model`, `dataset.preprocessing.crop_size` and, for models of other sizes, `tiny_sizes`
        (rows for the table of transformer sizes), `tiny_pixel_codebook` and `tiny_pixel_decoder`.

        Raises:
            ValueError: an unknown size or quantize_mode, or a pixel stage behind a decoder that predicts pixels.
        """
        model = config["model"]["vq_model"]
        mode, legacy = model.get("quantize_mode", "vq"), bool(model.get("is_legacy", True))
        two_stage = bool(model.get("finetune_decoder", True))
        if mode not in ("vq", "vae"):
            raise ValueError(f"quantize_mode is 'vq' or 'vae', got {mode!r}")
        if two_stage and not legacy:
            raise ValueError("finetune_decoder needs is_legacy: otherwise the decoder predicts pixels, not proxy codes")
        dim, codes = int(model["token_size"]), int(config.get("tiny_pixel_codebook", PROXY_CODES))
        shared = {
            "image_size": int(config["dataset"]["preprocessing"]["crop_size"]),
            "num_tokens": int(model["num_latent_tokens"]),
        }
        decoder: dict[str, Any] = {
            "_target_": "decoders.ViT1DDecoder",
            **shared,
            **transformer_arguments(config, "dec"),
            "dim": dim,
            "proxy_codes": codes if legacy else None,
        }
        if two_stage:
            pixels = pixel_arguments(config.get("tiny_pixel_decoder", PIXEL_STAGE))
            decoder = {
                "_target_": "decoders.ProxyDecoder",
                "logits": decoder,
                "pixels": {"_target_": "decoders.MaskGITDecoder", **pixels},
            }
        return {
            "_target_": f"zoo.families.{cls.__name__}",
            "encoder": {
                "_target_": "encoders.ViT1D",
                **shared,
                **transformer_arguments(config, "enc"),
                "dim": 2 * dim if mode == "vae" else dim,
                "legacy_reshape": legacy,
            },
            "quantizer": {"_target_": "quantizers.KL", "dim": dim} if mode == "vae" else vq_node(model),
            "decoder": decoder,
        }

    @classmethod
    def convert(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keys of bytedance/1d-tokenizer -> ours.

        `quantize.embed_prob`, the usage statistics that its `clustering_vq` training option keeps in the state, is
        left out: decoding and encoding do not read it.
        """
        two_stage = any(key.startswith("pixel_decoder.") for key in state)
        converted = {}
        for key, tensor in state.items():
            room, _, rest = key.partition(".")
            if key == "latent_tokens":
                converted["encoder.latent_tokens"] = tensor
            elif key == "quantize.embedding.weight":
                converted["quantizer.codebook"] = tensor
            elif key == "pixel_quantize.embedding.weight":
                converted["decoder.codebook"] = tensor
            elif room == "pixel_decoder":
                converted[f"decoder.pixels.{convolution_key(rest)}"] = tensor
            elif room == "encoder":
                converted[f"encoder.{encoder_key(rest)}"] = flat(rest, tensor)
            elif room == "decoder":
                prefix = "decoder.logits." if two_stage else "decoder."
                proxy = "decoder.ffn.2.weight" in state
                converted[prefix + decoder_key(rest, proxy=proxy)] = flat(rest, tensor)
            elif key != "quantize.embed_prob":
                converted[key] = tensor
        return converted


def transformer_arguments(config: Mapping[str, Any], side: str) -> dict[str, int]:
    """Patch size and transformer size of one side, "enc" or "dec"."""
    model = config["model"]["vq_model"]
    name, sizes = model[f"vit_{side}_model_size"], {**SIZES, **config.get("tiny_sizes", {})}
    if name not in sizes:
        raise ValueError(f"vit_{side}_model_size is one of {', '.join(sizes)}, got {name!r}")
    size = sizes[name]
    return {
        "patch_size": int(model[f"vit_{side}_patch_size"]),
        "width": int(size["width"]),
        "depth": int(size["num_layers"]),
        "heads": int(size["num_heads"]),
    }


def vq_node(model: Mapping[str, Any]) -> dict[str, Any]:
    """The quantizer's node for a reference config of its vector quantizer."""
    return {
        "_target_": "quantizers.VQ",
        "dim": int(model["token_size"]),
        "codebook_size": int(model["codebook_size"]),
        "normalize": bool(model["use_l2_norm"]),
        "commitment": float(model["commitment_cost"]),
    }


def renamed(key: str) -> str:
    for pattern, ours in RENAMED:
        key = re.sub(pattern, ours, key)
    return key


def encoder_key(key: str) -> str:
    return renamed(re.sub(r"^conv_out\.", "proj.", key))


def decoder_key(key: str, *, proxy: bool) -> str:
    key = re.sub(r"^ffn\.(\d)\.", r"head.\1." if proxy else "head.", key)
    return renamed(re.sub(r"^conv_out\.", "smooth.", key))


def flat(key: str, tensor: Tensor) -> Tensor:
    """Convolutions that are linear maps become matrices, and the mask token a row."""
    if key == "mask_token":
        return tensor.reshape(1, -1)
    if key == "patch_embed.weight" or tensor.shape[2:] == (1, 1):
        return tensor.flatten(1)
    return tensor
