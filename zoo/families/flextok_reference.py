"""How a config and the keys of apple/ml-flextok become ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from zoo.families.autoencoder_kl import AutoencoderKL

__all__ = ["convert", "reference_recipe"]

VAE_DEFAULTS: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "norm_num_groups": 32,
}
GUIDANCE, STEPS = 7.5, 25  # as the README of the reference decodes
RENAMED = (
    (r"\.module_dict\.(enc|dec)_", "."),
    (r"\.(noise_)?patch_emb\.patch_proj\.", ".patch_embedding."),
    (r"\.(patches_)?posemb_module\.posembs$", ".position_embedding"),
    (r"\.registers_posemb_module\.posembs$", ".latent_position_embedding"),
    (r"\.register_module\.", "."),
    (r"\.from_latents\.proj\.", ".latent_embedding."),
    (r"\.nested_dropout\.dropout_mask_token$", ".mask_token"),
    (r"\.latent_dropout\.nullcond$", ".null_embedding"),
    (r"\.time_embedder\.mlp\.0\.", ".time_embedding.fc1."),
    (r"\.time_embedder\.mlp\.2\.", ".time_embedding.fc2."),
    (r"\.transformer\.", "."),
    (r"\.to_(latents|patches)\.", "."),
    (r"\.adaLN_modulation\.1\.", ".modulation.linear."),
)
FUSED = {"attn.wq": ("attn.qkv", 0), "attn.wk": ("attn.qkv", 1), "attn.wv": ("attn.qkv", 2)}
FUSED |= {"mlp.fc1": ("mlp.fc1", 0), "mlp.fc3": ("mlp.fc1", 1)}


def reference_recipe(config: Mapping[str, Any]) -> dict[str, Any]:
    """The node for the hydra config from which the reference is assembled.

    Read are the modules that hold weights, masks and sizes; `vae_base_cfg_override` replaces values of the VAE's
    config.

    Raises:
        ValueError: something that none of the published models has.
    """
    encoder, decoder = config["encoder"]["module_dict"], config["decoder"]["module_dict"]
    for name, found, wanted in (
        ("encoder mask_mode", encoder["enc_seq_packer"]["mask_mode"], "causal_last"),
        ("decoder mask_mode", decoder["dec_seq_packer"]["mask_mode"], "full"),
        ("encoder posemb_type", encoder["enc_posemb_module"]["posemb_type"], "sincos"),
        ("patches posemb_type", decoder["dec_patches_posemb_module"]["posemb_type"], "sincos"),
        ("registers posemb_type", decoder["dec_registers_posemb_module"]["posemb_type"], "learnable_sum"),
        ("per_subseq_embs", bool(decoder["dec_seq_packer"].get("per_subseq_embs")), _expansion(decoder) == 2),
    ):
        if found != wanted:
            raise ValueError(f"FlexTok supports {name} {wanted}, the config has {found}")
    vae, vae_config = config["vae"], VAE_DEFAULTS | dict(config.get("vae_base_cfg_override", {}))
    vae_config["latent_channels"] = int(vae["latent_channels"])
    vae_node = AutoencoderKL.reference_recipe(vae_config)
    patch, grid = _patch(encoder["enc_patch_emb"]), [int(side) for side in encoder["enc_posemb_module"]["max_sizes"]]
    image_size = min(grid) * patch * 2 ** (len(vae_config["block_out_channels"]) - 1)
    vae_node["image_size"] = image_size
    registers, time = encoder["enc_register_module"], decoder["dec_time_embedder"]
    shared = {"channels": int(vae["latent_channels"]), "patch_size": patch, "num_tokens": int(registers["n_max"])}
    levels = [int(level) for level in config["regularizer"]["levels"]]
    noise = config["flow_matching_noise_module"]
    return {
        "_target_": "zoo.families.FlexTok",
        "image_size": image_size,
        "latent_scale": float(vae["scaling_factor"]),
        "sample_posterior": bool(vae.get("sample_posterior", True)),
        "condition_dropout": float(decoder["dec_latent_dropout"]["dropout_prob"]),
        "steps": STEPS,
        "guidance": GUIDANCE,
        "vae": vae_node,
        "encoder": {
            "_target_": "encoders.FlexTokEncoder",
            **shared,
            **_transformer(encoder["enc_transformer"]),
            "grid": grid,
            "dim": len(levels),
        },
        "quantizer": {"_target_": "quantizers.FSQ", "levels": levels},
        "decoder": {
            "_target_": "decoders.FlexTokDecoder",
            **shared,
            **_transformer(decoder["dec_transformer"]),
            "grid": [int(side) for side in decoder["dec_patches_posemb_module"]["max_sizes"]],
            "dim": len(levels),
            "modulations": _expansion(decoder),
            "time_features": int(time["frequency_embedding_size"]),
            "max_timestep": float(time.get("max_timestep", 1000.0)),
        },
        "flow": {
            "_target_": "decoders.RectifiedFlow",
            "times": "logit_normal" if noise.get("ln") else "mode",
            "mode_scale": float(noise.get("mode_scale", 0.25)),
            "stratified": bool(noise.get("stratisfied", False)),
        },
        "dropout": _dropout(str(decoder["dec_nested_dropout"]["size_sampling_mode"]), shared["num_tokens"]),
    }


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys of the reference -> ours; queries, keys and values are fused, and so are gate and value of SwiGLU."""
    converted: dict[str, Tensor] = {}
    pieces: dict[str, dict[int, Tensor]] = {}
    vae = {key.removeprefix("vae.vae."): tensor for key, tensor in state.items() if key.startswith("vae.vae.")}
    for key, tensor in state.items():
        if key.startswith("vae.vae."):
            continue
        for pattern, ours in RENAMED:
            key = re.sub(pattern, ours, key)
        stem, _, part = key.removesuffix(".weight").rpartition(".blocks.")
        block, _, name = part.partition(".")
        if stem and name in FUSED:
            target, place = FUSED[name]
            pieces.setdefault(f"{stem}.blocks.{block}.{target}.weight", {})[place] = tensor
        else:
            converted[key] = _table(key, tensor)
    converted |= {key: torch.cat([parts[place] for place in sorted(parts)]) for key, parts in pieces.items()}
    return converted | {f"vae.{key}": tensor for key, tensor in AutoencoderKL.convert(vae).items()}


def _table(key: str, tensor: Tensor) -> Tensor:
    """Position tables with the channels last; single tokens as a row."""
    if key.endswith(".latent_position_embedding"):
        return tensor.flatten(0, 2).T.contiguous() if tensor.ndim == 4 else tensor
    if key.endswith(".position_embedding"):
        return tensor[0].permute(1, 2, 0).contiguous()
    if key.endswith((".mask_token", ".null_embedding")):
        return tensor.reshape(1, -1)
    return tensor


def _transformer(node: Mapping[str, Any]) -> dict[str, int]:
    return {"width": int(node["dim"]), "depth": int(node["depth"]), "head_dim": int(node.get("head_dim", 64))}


def _expansion(decoder: Mapping[str, Any]) -> int:
    return int(decoder["dec_transformer"].get("adaLN_expansion", 1))


def _patch(node: Mapping[str, Any]) -> int:
    sides = {int(side) for side in node["patch_sizes"]}
    if len(sides) != 1:
        raise ValueError(f"FlexTok supports square patches, the config has patch_sizes {list(node['patch_sizes'])}")
    return sides.pop()


def _dropout(mode: str, count: int) -> dict[str, Any]:
    """`uniform_pow2` is a uniform draw rounded up to a power of two; the reference's may exceed N, ours stops there."""
    node: dict[str, Any] = {"_target_": "zoo.families.NestedDropout", "schedule": mode}
    if mode == "uniform_pow2":
        choices = [2**power for power in range((count - 1).bit_length())] + [count]
        weights = [after - before for before, after in zip([0, *choices], choices, strict=False)]
        return node | {"schedule": "choices", "choices": choices, "weights": weights}
    if mode not in ("uniform", "pow2"):
        raise ValueError(f"FlexTok supports size_sampling_mode uniform, pow2 and uniform_pow2, the config has {mode!r}")
    return node
