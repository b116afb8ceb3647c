"""How configs and keys of gemelo-ai/vocos become ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from encoders.layers.time_conv import from_conv
from zoo.families.seanet_reference import seanet_keys
from zoo.families.weight_norm import fold_weight_norm

__all__ = ["backbone_node", "convert", "decoder_key", "head_node", "of_decoder", "reference_recipe", "stored", "under"]

RATE = 24_000  # Hz, where a config does not say
BINS, ENCODEC_DIM, ENCODEC_HOP = 1024, 128, 320
# First names of keys that only training reads: discriminators, losses, and a judge of speech.
TRAINING = frozenset(
    {
        "multiperioddisc", "multiresddisc", "dac", "dacdiscriminator", "disc_loss", "gen_loss", "feat_matching_loss",
        "melspec_loss", "utmos_model",
    }
)  # fmt: skip
COMPUTED = (".mel_spec.", ".istft.", ".imdct.")  # windows, filters and twiddles, which follow from the config
RENAMED = (
    (r"\.convnext\.(\d+)\.dwconv\.", r".blocks.\1.conv."),
    (r"\.convnext\.", ".blocks."),
    (r"\.pwconv(\d)\.", r".fc\1."),
    (r"\.gamma$", ".gain"),
    (r"\.final_layer_norm\.", ".final_norm."),
    (r"norm\.scale\.weight$", "norm.weight"),
    (r"norm\.shift\.weight$", "norm.bias"),
    (r"\.pos_net\.5\.", ".position_net.norm."),
    (r"\.pos_net\.", ".position_net.blocks."),
    (r"\.proj_out\.", ".proj."),
)


def reference_recipe(config: Mapping[str, Any]) -> dict[str, Any]:
    """The node for a config of the reference.

    Args:
        config: the published YAML, `{sample_rate, feature_extractor: {class_path, init_args}, backbone, head}`; or the
            same parts as `{feature, backbone_class, backbone, head_class, head}`. `encoder_stored: false` says that the
            file has no encoder.

    Raises:
        ValueError: a part that we do not have.
    """
    feature_class, feature = _part(config, "feature_extractor", "feature")
    backbone_class, backbone = _part(config, "backbone", "backbone")
    head_class, head = _part(config, "head", "head")
    dim = int(backbone["input_channels"])
    node: dict[str, Any] = {
        "_target_": "zoo.families.Vocos",
        "sample_rate": int((feature or {}).get("sample_rate", config.get("sample_rate", RATE))),
        "encoder": None,
        "quantizer": {"_target_": "quantizers.Identity", "dim": dim},
        "decoder": {
            "_target_": "decoders.VocosDecoder",
            "backbone": backbone_node(backbone_class, backbone),
            "head": head_node(head_class, head),
        },
    }
    if feature_class == "EncodecFeatures":
        return node | _encodec(feature, stored=bool(config.get("encoder_stored", True)))
    if feature:
        node["encoder"] = {
            "_target_": "encoders.MelEncoder",
            "sample_rate": node["sample_rate"],
            "dim": int(feature["n_mels"]),
            "frame": int(feature["n_fft"]),
            "hop_length": int(feature["hop_length"]),
            "framing": str(feature["padding"]),
        }
    return node


def backbone_node(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The node of a backbone of the class `name`."""
    sizes = {"dim": int(options["input_channels"]), "width": int(options["dim"])}
    if name == "VocosBackbone":
        return {
            "_target_": "decoders.ConvNeXtBackbone",
            **sizes,
            "depth": int(options["num_layers"]),
            "hidden": int(options["intermediate_dim"]),
            "conditions": int(options.get("adanorm_num_embeddings") or 0),
        }
    if name == "VocosResNetBackbone":
        return {"_target_": "decoders.ResNetBackbone", **sizes, "depth": int(options["num_blocks"])}
    raise ValueError(f"Vocos has the backbones VocosBackbone and VocosResNetBackbone, the config has {name!r}")


def head_node(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The node of a head of the class `name`."""
    shared = {"width": int(options["dim"]), "framing": str(options.get("padding", "same"))}
    if name == "ISTFTHead":
        frame = {"hop_length": int(options["hop_length"]), "frame": int(options["n_fft"])}
        return {"_target_": "decoders.ISTFTHead", **shared, **frame}
    if name == "IMDCTSymExpHead" and not options.get("clip_audio"):
        rate = options.get("sample_rate")
        hop = {"hop_length": int(options["mdct_frame_len"]) // 2, "sample_rate": None if rate is None else int(rate)}
        return {"_target_": "decoders.IMDCTHead", **shared, **hop}
    raise ValueError(f"Vocos has the heads ISTFTHead and IMDCTSymExpHead without clip_audio, the config has {name!r}")


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys of the reference, or of its training checkpoints -> ours.

    Discriminators, losses and what follows from the config are left out; of EnCodec, the encoder is kept, and the
    codebooks are read from the decoder's own copy of them.
    """
    state = fold_weight_norm({key: tensor for key, tensor in state.items() if stored(key)})
    converted: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key == "feature_extractor.codebook_weights":
            for level, codebook in enumerate(tensor.split(BINS)):
                converted[f"quantizer.levels.{level}.codebook"] = codebook
        elif of_decoder(key):
            key, tensor = decoder_key(key, tensor)
            converted[key] = tensor
        elif not key.startswith("feature_extractor.encodec."):
            converted[key] = tensor
    if encoder := under("feature_extractor.encodec.encoder.", state):
        converted |= {f"encoder.{key}": tensor for key, tensor in seanet_keys(encoder).items()}
    return converted


def under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a state dict has under a prefix, which is taken off."""
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def of_decoder(key: str) -> bool:
    """Whether a key belongs to the backbone or the head."""
    return key.startswith(("backbone.", "head."))


def decoder_key(key: str, tensor: Tensor) -> tuple[str, Tensor]:
    """A key and its tensor in the reference's backbone or head -> ours."""
    if found := re.fullmatch(r"backbone\.resnet\.(\d+)\.(?:convs(\d)|gamma)\.(\d)(\.\w+)?", key):
        block = f"decoder.backbone.blocks.{3 * int(found[1]) + int(found[3])}"
        if found[2] is None:
            return f"{block}.gain", tensor.flatten()
        key = f"{block}.conv{found[2]}{found[4]}"
    else:
        for pattern, ours in RENAMED:
            key = re.sub(pattern, ours, key)
        key = f"decoder.{key}"
    if tensor.ndim != 3:
        return key, tensor
    return key, tensor.flatten(1) if key.endswith("proj.weight") else from_conv(tensor)


def stored(key: str) -> bool:
    """Whether a model of ours holds what is under this key: not what only training reads, nor what is computed."""
    return key.split(".")[0] not in TRAINING and not any(part in key for part in COMPUTED)


def _part(config: Mapping[str, Any], published: str, short: str) -> tuple[str, Any]:
    """Class and arguments of a part, in either layout."""
    if "class_path" in (part := config.get(published) or {}):
        return str(part["class_path"]).rpartition(".")[2], part.get("init_args", {})
    return str(config.get(f"{short}_class", "")), config[short]


def _encodec(feature: Mapping[str, Any], *, stored: bool) -> dict[str, Any]:
    """Encoder, quantizer and codebook counts of the variant for EnCodec's codes."""
    if feature.get("encodec_model", "encodec_24khz") != "encodec_24khz" or feature.get("train_codebooks"):
        raise ValueError(
            "Vocos decodes encodec_24khz with its own codebooks (train_codebooks false); the config has "
            f"{feature.get('encodec_model')} and train_codebooks={feature.get('train_codebooks')}"
        )
    rate = -(-RATE // ENCODEC_HOP) * (BINS - 1).bit_length()  # bits per second of one codebook
    counts = [int(float(bandwidth) * 1000 // rate) for bandwidth in feature["bandwidths"]]
    book = {"_target_": "quantizers.VQ", "dim": ENCODEC_DIM, "codebook_size": BINS}
    return {
        "encoder": {"_target_": "encoders.SEANetEncoder", "dim": ENCODEC_DIM} if stored else None,
        "quantizer": {"_target_": "quantizers.Residual", "num_quantizers": counts[-1], "quantizer": book},
        "codebooks": counts,
    }
