"""Errors of words and letters that a recogniser makes in reconstructed speech."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from zoo.metrics.recognizers import RATE, Recognizer
from zoo.metrics.recordings import Remembered, paired, unpadded

__all__ = ["Transcripts", "WordErrorRate", "edits", "normalize"]


class WordErrorRate(Metric):
    """Edits that lead from what was said to what is heard in the output, in per cent of what was said; lower is better.

    `compute` gives "words" (WER) and "characters" (CER, spaces included), each as all edits over all that was said, as
    is usual: long recordings weigh more. Texts are compared after `normalize`. What was said is a transcript; without,
    it is what the same recogniser hears in the original (often called dWER). Recordings in which nothing was said are
    skipped.

    Args:
        sample_rate: Hz; resampled to 16 kHz.
        recognizer: hears words; see `zoo.metrics.recognizers`.
        transcripts: by the name of a sound, what is said in it.
        **kwargs: of `torchmetrics.Metric`.

    Attributes:
        skipped: () int64.

    Raises:
        ValueError: a rate below 1.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    errors: Tensor
    length: Tensor
    count: Tensor
    skipped: Tensor

    def __init__(
        self,
        sample_rate: int,
        recognizer: Recognizer,
        *,
        transcripts: Callable[[str], str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if sample_rate < 1:
            raise ValueError(f"sample_rate is positive, got {sample_rate}")
        self.sample_rate, self.recognizer, self.transcripts = sample_rate, recognizer, transcripts
        self.remembered = Remembered(recognizer)
        for name, shape in (("errors", (2,)), ("length", (2,)), ("count", ()), ("skipped", ())):
            self.add_state(name, torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    @torch.no_grad()
    def update(
        self, output: Tensor, target: Tensor, lengths: Tensor | None = None, names: Sequence[str] | None = None
    ) -> None:
        """Compare a batch.

        Args:
            output: (B, C, T) in [-1, 1]; the mean of its channels is listened to.
            target: likewise.
            lengths: (B,) int64 samples of each clip that are no padding; None for all.
            names: of the B sounds; for `transcripts` only.

        Raises:
            ValueError: shapes differ, lengths do not fit, or names are missing.
            FileNotFoundError: a sound has no transcript.
        """
        output, target = (x.mean(1, keepdim=True) for x in paired(output, target))
        if self.transcripts is not None and (names is None or len(names) != len(output)):
            raise ValueError(f"expected the names of {len(output)} sounds, to find their transcripts")
        pairs = [pair for group in unpadded(output, target, lengths) for pair in zip(*group, strict=True)]
        found = [self._compared(*pair, "" if names is None else names[row]) for row, pair in enumerate(pairs)]
        for errors, length in found:
            self.errors += torch.tensor(errors).to(self.errors)
            self.length += torch.tensor(length).to(self.length)
            self.count += length[0] > 0
            self.skipped += length[0] == 0

    def compute(self) -> dict[str, Tensor]:
        """The two rates in per cent, () float64 each; NaN where nothing was said."""
        words, characters = 100 * self.errors.double() / self.length
        return {"words": words, "characters": characters}

    def details(self) -> dict[str, Any]:
        """The recogniser, and what is taken for said."""
        said = "the recogniser's own reading of the original" if self.transcripts is None else "transcripts"
        return {**self.recognizer.details(), "said": said, "text": "NFKC, lower case, letters, digits and ' only"}

    def _compared(self, output: Tensor, target: Tensor, name: str) -> tuple[tuple[int, int], tuple[int, int]]:
        """Edits and lengths of one sound, in words and in characters; nobody listens where nothing was said."""
        said = normalize(self.transcripts(name) if self.transcripts else self.remembered(self._resampled(target)))
        if not said:
            return (0, 0), (0, 0)
        heard, words = normalize(self.recognizer(self._resampled(output))), said.split()
        return (edits(words, heard.split()), edits(said, heard)), (len(words), len(said))

    def _resampled(self, x: Tensor) -> Tensor:
        from torchaudio.functional import resample

        return x if self.sample_rate == RATE else resample(x, self.sample_rate, RATE)


class Transcripts:
    """Texts beside sounds: for the sound `a/b.wav` that of `a/b.txt` in a folder.

    Raises:
        FileNotFoundError: there is no such folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        if not self.folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}; give one that holds NAME.txt for each sound NAME")

    def __call__(self, name: str) -> str:
        path = (self.folder / name).with_suffix(".txt")
        if not path.is_file():
            raise FileNotFoundError(f"no transcript {path} for {name}")
        return path.read_text("utf-8", "replace")


@lru_cache(maxsize=1024)
def normalize(text: str) -> str:
    """A text as it is compared: NFKC, lower case; all but letters, digits and apostrophes within words is space.

    Numbers are not spelt out, nor are spellings made alike.
    """
    text = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
    text = re.sub(r"[^\w']|_", " ", text)
    return " ".join(word for part in text.split() if (word := part.strip("'")))


def edits(said: Sequence[Any], heard: Sequence[Any]) -> int:
    """The least number of insertions, deletions and substitutions that lead from one to the other (Levenshtein)."""
    row = list(range(len(heard) + 1))
    for place, item in enumerate(said, 1):
        before, row[0] = row[0], place
        for column, other in enumerate(heard, 1):
            before, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, before + (item != other))
    return row[-1]
