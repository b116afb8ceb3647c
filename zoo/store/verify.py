"""Whether a model gives the codes that its card states."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.store.cards import CARDS, KnownAnswer

if TYPE_CHECKING:
    from zoo.tokenizer import Tokenizer

__all__ = ["SAMPLES", "Verdict", "known_input", "state_answer", "verify_answer"]

SAMPLES = CARDS / "samples"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a model's codes compare with a known answer.

    Attributes:
        tokens: the codes that came, as many as the answer states (or fewer, if there were no more).
        count: positions of the code that came.
        different: codes that are not as stated.
        first: place of the first of them, None if there is none.
    """

    answer: KnownAnswer
    tokens: tuple[int, ...]
    count: int
    different: int
    first: int | None

    @property
    def passed(self) -> bool:
        """As many positions as stated, and no more differences than the answer tolerates."""
        return self.different <= self.answer.tolerance and self.count == (self.answer.count or self.count)


def verify_answer(tokenizer: Tokenizer, answer: KnownAnswer, file: str | Path | None = None) -> Verdict:
    """Encode the input of a known answer and compare.

    Args:
        file: the input of an answer of the kind "file".

    Raises:
        FileNotFoundError: the input is a file to fetch, and none was given; the message says where it is.
        ValueError: the input does not fit the tokenizer, or there are no codes to compare.
    """
    codes = encode(tokenizer, known_input(tokenizer, answer.input, file))
    flat = tuple(codes.flatten().tolist()[: len(answer.tokens)])
    wrong = [place for place, token in enumerate(answer.tokens) if place >= len(flat) or flat[place] != token]
    return Verdict(answer, flat, len(codes), len(wrong), wrong[0] if wrong else None)


def state_answer(
    tokenizer: Tokenizer, given: dict[str, Any], source: str, *, most: int = 64, tolerance: int = 0
) -> KnownAnswer:
    """The answer that a tokenizer gives now, to be written into a card.

    Args:
        given: the input, as in `KnownAnswer.input`.
        source: who states it.
        most: codes to write down.
        tolerance: codes that may differ elsewhere.
    """
    codes = encode(tokenizer, known_input(tokenizer, given))
    return KnownAnswer(given, tuple(codes.flatten().tolist()[:most]), source, len(codes), tolerance)


def encode(tokenizer: Tokenizer, x: Tensor) -> Tensor:
    """Codes (N, Q) of one item x (1, C, ...)."""
    if tokenizer.spec.continuous:
        raise ValueError(f"{type(tokenizer).__name__} is continuous: it has no codes to compare")
    with torch.inference_mode():
        return tokenizer.encode(x.to(tokenizer.device)).indices[0].cpu()


def known_input(tokenizer: Tokenizer, given: dict[str, Any], file: str | Path | None = None) -> Tensor:
    """The input of a known answer as a batch of one, (1, *input_shape) in [-1, 1]; arguments as for `verify_answer`."""
    if given["kind"] == "sine":
        return sine(tokenizer, given["frequency"], given["amplitude"], given["seconds"])
    if given["kind"] == "ellipsoid":
        return ellipsoid(tokenizer, given["radii"])
    path = SAMPLES / given["file"] if given["kind"] == "sample" else file
    if path is None:
        raise FileNotFoundError(
            f"the answer is for {given['file']} of {given['of']}, which does not come with the package; "
            "fetch it and pass it with --sample"
        )
    if tokenizer.spec.modality == "audio":
        return sound(tokenizer, Path(path))
    return picture(tokenizer, Path(path), given.get("size"))


def sine(tokenizer: Tokenizer, frequency: float, amplitude: float, seconds: float) -> Tensor:
    """amplitude * sin(2 pi frequency t), the same on all channels."""
    spec = tokenizer.spec
    if spec.sample_rate is None:
        raise ValueError(f"a sine is an input for audio; {type(tokenizer).__name__} is for {spec.modality}")
    time = torch.arange(round(seconds * spec.sample_rate), dtype=torch.float64) / spec.sample_rate
    wave = amplitude * torch.sin(2 * math.pi * frequency * time)
    return wave.float().expand(1, spec.input_shape[0], -1)


def ellipsoid(tokenizer: Tokenizer, radii: Sequence[float]) -> Tensor:
    """Points of a spiral around an ellipsoid, with normals where the tokenizer reads them, in its own frame."""
    spec = tokenizer.spec
    if spec.modality != "shape":
        raise ValueError(f"an ellipsoid is an input for shapes; {type(tokenizer).__name__} is for {spec.modality}")
    count, columns = spec.input_shape
    step = torch.arange(count, dtype=torch.float64)
    height, turn = 1 - (2 * step + 1) / count, step * math.pi * (3 - math.sqrt(5))
    across = (1 - height.square()).sqrt()
    sphere = torch.stack([across * turn.cos(), across * turn.sin(), height], dim=1)
    half_axes = torch.tensor(radii, dtype=torch.float64)
    normals = torch.nn.functional.normalize(sphere / half_axes, dim=1)
    return torch.cat([sphere * half_axes, normals], dim=1)[None, :, :columns].float()


def picture(tokenizer: Tokenizer, path: Path, size: list[int] | None) -> Tensor:
    """A picture, fitted to `size`, else to what the tokenizer takes."""
    from zoo.data.images import fit, read_image

    height, width = size or tokenizer.spec.input_shape[1:]
    return fit(read_image(path), (height, width))[0][None]


def sound(tokenizer: Tokenizer, path: Path) -> Tensor:
    """A sound at the tokenizer's rate, on as many channels as it takes."""
    from zoo.data.audio import read_audio

    spec = tokenizer.spec
    return read_audio(path, spec.sample_rate, spec.input_shape[0])[None]
