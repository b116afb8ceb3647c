"""What of ours makes the recorded tensors of Vocos."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from golden import Case, Manifest
from torch import Tensor

from zoo.families import Vocos
from zoo.families.weight_norm import fold_weight_norm

__all__ = ["count", "vocos"]


def vocos(case: Case) -> Mapping[str, Callable[[re.Match[str]], Tensor] | None]:
    """The table of a case; where it has no audio, its features are the input."""
    io = case.io
    tokenizer = Vocos.from_reference(case.config, case.state)
    tokenizer.bandwidth_id = case.config.get("bandwidth_id", 0)
    latents = io["features"].mT
    from_features = tokenizer.sound(latents, None, (io["audio_out"].shape[-1],), tokenizer.bandwidth_id)

    def audio() -> Tensor:
        """By way of tokens where there is an encoder; the reference leaves out what follows a centred last frame."""
        if "audio" not in io:
            return from_features[:, 0]
        decoded = tokenizer.decode(tokenizer.encode(io["audio"][:, None]))
        assert decoded.shape[-1] == io["audio"].shape[-1]
        return decoded[:, 0, : io["audio_out"].shape[-1]]

    return {
        "audio": None,
        "features": lambda _: tokenizer.encode(io["audio"][:, None]).latents.mT if "audio" in io else io["features"],
        "backbone_out": lambda _: tokenizer.decoder.backbone(latents, None, tokenizer.bandwidth_id),
        "audio_out": lambda _: audio(),
    }


def count(manifest: Manifest) -> int:
    """Parameters, and those of EnCodec's encoder, which the manifest lists and does not count."""
    encoder = {key: tensor for key, tensor in manifest.state.items() if ".encodec.encoder." in key}
    return manifest.content["params"] + sum(tensor.numel() for tensor in fold_weight_norm(encoder).values())
