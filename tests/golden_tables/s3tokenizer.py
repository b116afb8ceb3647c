"""Which call of ours makes which tensor of the golden cases of `s3tokenizer`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from golden import Case
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from zoo.families import S3Tokenizer

__all__ = ["s3tokenizer"]


def s3tokenizer(case: Case) -> Mapping[str, Callable[[re.Match[str]], Tensor] | None]:
    io = case.io
    tokenizer = S3Tokenizer.from_reference(case.config, case.state)
    encoder = tokenizer.encoder
    clips = [io["audio.0"], io["audio.1"]]
    lengths = torch.tensor([len(clip) for clip in clips])
    x = pad_sequence(clips, batch_first=True)[:, None]
    hidden = encoder.transform(io["mel"], io["mel_len"].long())
    tokens = tokenizer.encode(x, lengths)

    def codes() -> Tensor:
        """Of the batch, of each clip alone, and past the end of a clip those of the recorded spectra."""
        for row, clip in enumerate(clips):
            alone = tokenizer.encode(clip[None, None]).indices
            assert torch.equal(alone[0], tokens.indices[row, : alone.shape[1]])
        everywhere = tokenizer.quantizer(encoder.finish(hidden)).indices
        return torch.where(tokens.mask[..., None], tokens.indices, everywhere)[..., 0]

    def counts() -> Tensor:
        assert tokens.lengths is not None
        return tokens.lengths

    return {
        r"audio\.\d": None,
        "mel": lambda _: encoder.mel(x[:, 0], lengths),
        "mel_len": lambda _: encoder.mel.count(lengths),
        "hidden": lambda _: hidden,
        "projected": lambda _: encoder.finish(hidden),
        "codes": lambda _: codes(),
        "code_len": lambda _: counts(),
    }
