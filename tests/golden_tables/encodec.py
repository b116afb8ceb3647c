"""Calls of ours for the tensors of the EnCodec cases."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from golden import Case
from torch import Tensor

from zoo.families import EnCodec

__all__ = ["encodec"]


def encodec(case: Case) -> Mapping[str, Callable[[re.Match[str]], Tensor] | None]:
    """Pattern of a tensor's name -> the call that gives it."""
    io = case.io
    tokenizer = EnCodec.from_reference(case.config, case.state)
    x = io["audio"]
    tokens = {f"{value:g}": tokenizer.encode(x, bandwidth=value) for value in tokenizer.bandwidths}
    highest = tokens[max(tokens)]
    first = io["latents.0"].shape[2]

    def codes(bandwidth: str, segment: int) -> Tensor:
        """Window after window, as long as the reference has them."""
        counts = [io[f"bw{bandwidth}.codes.{number}"].shape[2] for number in range(segment + 1)]
        return tokens[bandwidth].indices[:, sum(counts[:-1]) : sum(counts)].mT

    def gain(segment: int) -> Tensor:
        assert highest.gains is not None
        return highest.gains[:, segment : segment + 1]

    def untrimmed(bandwidth: str) -> Tensor:
        found, theirs = tokens[bandwidth], io[f"bw{bandwidth}.audio_out"]
        whole = io[f"bw{max(tokens)}.audio_out"].shape[2]
        sound = tokenizer.decode(replace(found, size=torch.full((len(x), 1), whole)))
        torch.testing.assert_close(tokenizer.decode(found), sound[..., : x.shape[2]], rtol=1e-4, atol=1e-5)
        return sound[: len(theirs), :, : theirs.shape[2]]

    return {
        "audio": None,
        r"latents\.0": lambda _: (
            (tokenizer.encode_windows(x)[0][:, :first] if tokenizer.cuts else tokenizer.encode_latents(x)).mT
        ),
        r"bw([\d.]+)\.codes\.(\d)": lambda found: codes(found[1], int(found[2])),
        r"scale\.(\d)": lambda found: gain(int(found[1])),
        r"bw([\d.]+)\.quantized\.0": lambda found: tokenizer.code_latents(tokens[found[1]])[:, :first].mT,
        r"bw([\d.]+)\.audio_out": lambda found: untrimmed(found[1]),
    }
