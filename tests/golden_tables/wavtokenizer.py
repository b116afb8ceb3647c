"""What of ours makes the recorded tensors of WavTokenizer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from golden import Case, Manifest
from torch import Tensor

from zoo.families import WavTokenizer
from zoo.families.weight_norm import folded_gains

__all__ = ["count", "wavtokenizer"]


def wavtokenizer(case: Case) -> Mapping[str, Callable[[re.Match[str]], Tensor] | None]:
    io = case.io
    tokenizer = WavTokenizer.from_reference(case.config, case.state)
    encoder, decoder = tokenizer.encoder, tokenizer.decoder
    seen: dict[str, Tensor] = {}
    parts = {"lstm": encoder.lstm, "position_net": decoder.backbone.position_net, "out": decoder.head.out}

    def keep(name: str, made: Tensor) -> None:
        """The first result; a copy, for activations write over it."""
        seen.setdefault(name, made.clone())

    for name, part in parts.items():
        part.register_forward_hook(lambda _module, _given, made, name=name: keep(name, made))
    tokens = tokenizer.encode(io["audio"][:, None])
    latents = tokenizer.quantizer.lookup(tokens.indices)
    backbone = decoder.backbone(latents)
    decoder.head(backbone)

    def sound(row: int) -> Tensor:
        """Under a condition, whole hops; the reference recorded every condition but the first for one item only."""
        tokenizer.bandwidth_id = row
        whole = tokens if row == 0 else tokens[:1]
        hops = torch.full((len(whole), 1), whole.num_tokens * tokenizer.hop_length)
        assert tokenizer.decode(whole).shape[-1] == io["audio"].shape[-1]
        return tokenizer.decode(type(whole)(whole.indices, whole.codebook_sizes, size=hops, order="time"))[:, 0]

    def last_convolution() -> Tensor:
        """Of the recorded input: its weights of up to 60 turn the rounding of what comes before into 2e-5."""
        whole = encoder(io["audio"][:, None]).mT
        assert (whole - io["latents"]).abs().max() <= 1e-4 * io["latents"].abs().max()
        return encoder.head(encoder.activation(io["encoder_lstm_out"].clone()))

    return {
        "audio": None,
        "encoder_lstm_out": lambda _: seen["lstm"],
        "latents": lambda _: last_convolution(),
        "codes": lambda _: tokens.indices.permute(2, 0, 1),
        "quantized": lambda _: latents.mT,
        "pos_net_out": lambda _: seen["position_net"].mT,
        "backbone_out": lambda _: backbone,
        "head_linear": lambda _: seen["out"][:1, :8],
        r"audio_out_bw(\d)": lambda found: sound(int(found[1])),
    }


def count(manifest: Manifest) -> int:
    """Parameters without the SEANet decoder, which is stored and never used, and without the encoder's gains."""
    unused = "feature_extractor.encodec.decoder."
    total, without = manifest.content["params"], manifest.content["params_without_unused_seanet_decoder"]
    assert total - without == sum(tensor.numel() for key, tensor in manifest.state.items() if key.startswith(unused))
    return without - folded_gains({key: tensor for key, tensor in manifest.state.items() if not key.startswith(unused)})
