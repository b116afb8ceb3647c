"""CosyVoice's supervised semantic speech tokenizers, "S3" (arXiv 2407.05407, 2412.10117): speech to tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo.families.audio import Count
from zoo.families.encode_only import EncodeOnly

__all__ = ["S3Tokenizer"]

WINDOW, OVERLAP = 3000, 400  # frames of 10 ms
CODES_V2 = 3**8
RENAMED = (
    (r"^encoder\.positional_embedding$", "encoder.positions"),
    (r"^quantizer\._codebook\.project_down\.", "encoder.head."),
    (r"\.attn_ln\.", ".norm1."),
    (r"\.mlp_ln\.", ".norm2."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.2\.", ".mlp.fc2."),
    (r"\.attn\.out\.", ".attn.proj."),
    (r"\.attn\.fsmn_block\.", ".attn.memory."),
    (r"\.attn\.(query|value)\.bias$", lambda found: f".attn.{found[1][0]}_bias"),
)


class S3Tokenizer(EncodeOnly):
    """Speech at 16 kHz to 25 or 50 codes a second that carry what is said and little of the voice.

    The encoder is half a speech recogniser, trained to transcribe through the quantizer: 4,096 codes in version 1, FSQ
    with 3^8 = 6,561 in version 2. A clip of T samples has T // 160 frames of 10 ms, and a token for every 2 or 4 of
    them, the last of which need not be complete.

    Args:
        encoder: `encoders.S3Encoder`.
        quantizer: `quantizers.VQ` or `quantizers.FSQ` as published, or any other.
    """

    elsewhere: ClassVar[str] = (
        "CosyVoice's flow-matching model and vocoder, which also need a sample of a voice, make sound from its tokens: "
        "pass tokens.indices[..., 0] to the release that goes with this version (FunAudioLLM/CosyVoice)"
    )

    def count(self, samples: Count) -> Count:
        """Tokens of a clip of `samples` samples; at least one."""
        return self.encoder.count(samples)

    @classmethod
    def reference_recipe(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The node for a config `{name, version, n_mels, n_audio_ctx, n_audio_state, n_audio_head, ...}`.

        Without a `version`, 6,561 codes mean version 2. Without a `name` that ends in `25hz`, version 1 has 50 tokens a
        second; its two releases differ in nothing else.

        Raises:
            ValueError: another version, or a version 2 without 6,561 codes.
        """
        codes, width = int(config["n_codebook_size"]), int(config["n_audio_state"])
        version = int(config.get("version", 2 if codes == CODES_V2 else 1))
        if version not in (1, 2) or (version == 2 and codes != CODES_V2):
            raise ValueError(
                f"S3Tokenizer is version 1, or 2 with {CODES_V2} codes; got version {version}, {codes} codes"
            )
        stride = 2 if version == 2 or str(config.get("name", "")).endswith("25hz") else 1
        encoder: dict[str, Any] = {
            "_target_": "encoders.S3Encoder",
            "width": width,
            "depth": int(config["n_audio_layer"]),
            "heads": int(config["n_audio_head"]),
            "bands": int(config["n_mels"]),
            "stride": stride,
        }
        quantizer: dict[str, Any]
        if version == 2:
            encoder |= {"dim": 8, "positions": "rotary", "memory": 31, "eps": 1e-6}
            quantizer = {"_target_": "quantizers.FSQ", "levels": [3] * 8, "margin": -1e-3}
        else:
            rows = int(config["n_audio_ctx"])
            encoder |= {"positions": "table", "rows": rows, "memory": 0, "eps": 1e-5, "normalize": True}
            if rows * 2 * stride < WINDOW:
                encoder |= {"window": rows * 2 * stride, "overlap": 0}
            quantizer = {"_target_": "quantizers.VQ", "dim": width, "codebook_size": codes, "learn": "ema"}
        return {"_target_": "zoo.families.S3Tokenizer", "encoder": encoder, "quantizer": quantizer}

    @classmethod
    def convert(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keys of `s3tokenizer` (xingchensong/S3Tokenizer) -> ours: queries, keys and values in one matrix.

        The file has no counts of how often a code was used; every code starts as if it had been used once.
        """
        converted: dict[str, Tensor] = {}
        for key, tensor in state.items():
            if key == "quantizer._codebook.embed":
                converted["quantizer.codebook"] = tensor
                converted["quantizer.cluster_size"] = torch.ones_like(tensor[:, 0])
                converted["quantizer.cluster_sum"] = tensor.clone()
            elif key.endswith(".attn.query.weight"):
                stem = key.removesuffix("query.weight")
                parts = [state[f"{stem}{part}.weight"] for part in ("query", "key", "value")]
                converted[f"{stem}qkv.weight"] = torch.cat(parts)
            elif not key.endswith((".attn.key.weight", ".attn.value.weight")):
                converted[our_key(key)] = tensor
        return converted


def our_key(key: str) -> str:
    """A key of the reference that keeps its tensor -> ours."""
    for pattern, ours in RENAMED:
        key = re.sub(pattern, ours, key)
    return key
