"""Which call of ours makes which tensor of the golden cases of `sylber`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from golden import Case
from torch import Tensor

from zoo.families import Sylber
from zoo.families.segments import gaussian_threshold, segment, segment_means

__all__ = ["sylber"]


def sylber(case: Case) -> Mapping[str, Callable[[re.Match[str]], Tensor] | None]:
    """Hidden states and segments as the reference has them: padding is in the first norm, and is cut into segments."""
    io = case.io
    tokenizer = Sylber.from_reference(case.config, case.state)
    lengths = io["attention_mask"].sum(1)
    hidden = tokenizer.encoder.contextual(tokenizer.encoder.features(io["audio"][:, None]), lengths)
    tokens = tokenizer.encode(io["audio"][:1, None])

    def bounds(row: int) -> Tensor:
        found = tokenizer.segments(hidden[row])
        if row == 0:  # which is not padded: the same by the public way
            assert tokens.positions is not None and tokens.durations is not None
            assert torch.equal(torch.stack([tokens.positions, tokens.positions + tokens.durations], -1)[0], found)
        return found

    def means(row: int) -> Tensor:
        found = segment_means(hidden[row], bounds(row))
        if row == 0:
            assert tokens.latents is not None
            torch.testing.assert_close(tokens.latents[0], found, rtol=1e-4, atol=1e-4)
        return found

    def alone(name: str) -> Tensor:
        norm, merge = io[f"{name}.thresholds"].tolist()
        return segment(io[f"{name}.hidden"], norm_threshold=norm, merge_threshold=merge)

    return {
        r"audio|attention_mask|seg\d\.(hidden|thresholds)": None,
        "hidden": lambda _: hidden,
        r"segments\.(\d)": lambda found: bounds(int(found[1])),
        r"segment_features\.(\d)": lambda found: means(int(found[1])),
        r"(seg\d)\.segments": lambda found: alone(found[1]),
        "thresholder_published_init": lambda _: torch.tensor([gaussian_threshold((6.10, 0.87), (0.34, 0.34))]),
    }
