"""Sounds: of any rate, channels and length, through a tokenizer at its own and compared at the protocol's rate."""

from __future__ import annotations

import io
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from zoo.data.audio import AudioFile, write_audio
from zoo.data.images import write_image
from zoo.data.signals import Array, mix, resample
from zoo.data.sources import SOUNDS, Kind
from zoo.data.spectrogram import draw_spectrogram, spectrogram
from zoo.evaluation.outcome import Outcome, Setting
from zoo.evaluation.passage import Passage
from zoo.families.audio import AudioTokenizer
from zoo.long_audio import decode_long, encode_long, join_of
from zoo.tokens import Tokens

__all__ = ["SoundItem", "SoundOptions", "SoundView"]

LEVELS = {
    "float": "clamped to [-1, 1]",
    "pcm16": "clamped and rounded to 16 bits, as a WAV file has it",
}
WIDTH = 1.25  # the longest sound of a batch over the shortest, at most


@dataclass(frozen=True, slots=True)
class SoundOptions:
    """The node `view` of a protocol for sounds.

    Attributes:
        sample_rate: Hz at which both are compared, whatever the tokenizer's own: a tokenizer of a lower rate is charged
            with what it cannot have, one of a higher is not credited with more.
        seconds: of each file that are used, from its start; None for all.
        levels: a key of `LEVELS`, of reconstructions.
        chunk: seconds; longer sounds go through in pieces (`zoo.long_audio`), shorter ones in batches.
    """

    sample_rate: int = 24000
    seconds: float | None = None
    levels: Literal["float", "pcm16"] = "float"
    chunk: float = 30.0

    def __post_init__(self) -> None:
        if self.levels not in LEVELS:
            raise ValueError(f"view.levels is one of {', '.join(LEVELS)}, got {self.levels!r}")
        for name in ("sample_rate", "seconds", "chunk"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and value > 0):
                raise ValueError(f"view.{name} is above 0, got {value}")

    @classmethod
    def read(cls, view: Mapping[str, Any]) -> Self:
        """The options that a protocol gives.

        Raises:
            ValueError: an unknown key, or a value out of range.
        """
        known = [item.name for item in fields(cls)]
        if unknown := sorted(set(view) - set(known)):
            raise ValueError(f"view of sounds: no option {', '.join(unknown)}; there are {', '.join(known)}")
        return cls(**view)


@dataclass(frozen=True, slots=True)
class SoundItem:
    """A sound before it goes anywhere.

    Attributes:
        name: of the file.
        samples: (C, T) float32 at the tokenizer's rate, on its channels.
        target: (C, T') at the rate of the comparison, on the same channels, resampled from the file directly.
        seconds: of the file.
    """

    name: str
    samples: Tensor
    target: Tensor
    seconds: float


class SoundView:
    """Sounds through an `AudioTokenizer`; see `zoo.evaluation.views.base.View`.

    A file on other channels than the tokenizer's is mixed (their mean, copied to each): that mix is the original, and
    every channel counts as a recording. Reconstructions are resampled to the rate of the comparison, and both are cut
    to the shorter. Silent and very short files run as all others do; each measure says for how many it is not defined.
    """

    kind: ClassVar[Kind] = SOUNDS
    extent_unit: ClassVar[str] = "second"

    def __init__(self, passage: Passage, view: Mapping[str, Any], *, surfaces: bool = False, seed: int = 0) -> None:
        if not isinstance(passage.tokenizer, AudioTokenizer):
            raise ValueError(f"{type(passage.tokenizer).__name__} is no tokenizer of sound")
        self.passage, self.tokenizer = passage, passage.tokenizer
        self.options = SoundOptions.read(view)
        self.own = int(self.tokenizer.spec.sample_rate or 0)
        self.rate = self.options.sample_rate

    def read(self, data: bytes, name: str) -> SoundItem:
        """Decode, mix and resample.

        Raises:
            ValueError: empty, damaged, not a sound file, or NaN in it.
        """
        try:
            with AudioFile(name, io.BytesIO(data)) as file:
                rate, length = file.sample_rate, file.length
                if self.options.seconds is not None:
                    length = min(length, math.ceil(self.options.seconds * rate))
                sound = mix(file.read(0, length), self.tokenizer.spec.input_shape[0]).clone()
        except ValueError as error:
            raise ValueError(str(error).removeprefix(f"{name}: ")) from error
        return SoundItem(name, resample(sound, rate, self.own), resample(sound, rate, self.rate), length / rate)

    def shape(self, item: SoundItem) -> Hashable:
        """Sounds run together that differ by at most a quarter in length; those longer than a chunk run alone."""
        if self._long(item):
            return item.name
        return math.floor(math.log(item.samples.shape[-1], WIDTH))

    def run(self, items: Sequence[SoundItem], settings: Sequence[Setting]) -> Iterator[tuple[Setting, Outcome]]:
        """Encode once, decode at every setting; shorter sounds are padded, and the tokenizer is told their lengths."""
        extent = torch.tensor([item.seconds for item in items], dtype=torch.float64)
        lengths = torch.tensor([item.samples.shape[-1] for item in items])
        names = tuple(item.name for item in items)
        long = len(items) == 1 and self._long(items[0])
        code = self._encode(items, lengths, extent)
        targets = [item.target for item in items]
        for setting in settings:
            tokens = self.passage.cut(code, setting)
            sound = self._decode(tokens, setting, extent, long)
            heard = [
                self._finished(one[:, : min(int(length), one.shape[-1])])
                for one, length in zip(sound, lengths, strict=True)
            ]
            shared = [min(ours.shape[-1], theirs.shape[-1]) for ours, theirs in zip(heard, targets, strict=True)]
            counts = None if len(set(shared)) == 1 else torch.tensor(shared, device=self.passage.device)
            output, target = (
                _padded([one[:, :count] for one, count in zip(side, shared, strict=True)]).to(self.passage.device)
                for side in (heard, targets)
            )
            yield setting, Outcome(output, target, tokens, self.passage.spec, extent, names, lengths=counts)

    def sample(self, outcome: Outcome, index: int, stem: Path, *, original: bool) -> Path:
        """A WAV, and beside it a PNG of its spectrogram, with the colours of the original's."""
        sounds = outcome.target if original else outcome.output
        count = sounds.shape[-1] if outcome.lengths is None else int(outcome.lengths[index])
        sound, first = (Array(x[index, :, :count].float().cpu(), self.rate) for x in (sounds, outcome.target))
        loudest = float(spectrogram(first).levels.max())
        picture = draw_spectrogram(spectrogram(sound), loudest=loudest)
        write_image(stem.with_name(f"{stem.name}.png"), picture)
        return write_audio(stem.with_name(f"{stem.name}.wav"), sound)

    def describe(self) -> dict[str, Any]:
        """The options as they are, how sounds are cut, and versions."""
        frames = max(1, round(self.options.chunk * self.own / self.tokenizer.hop_length))
        return {
            **asdict(self.options),
            "tokenizer_rate": self.own,
            "channels": f"mixed to {self.tokenizer.spec.input_shape[0]} (mean of all, where the file has others)",
            "levels": f"{self.options.levels}: {LEVELS[self.options.levels]}",
            "resampling": "torchaudio, Hann-windowed sinc of 6 zero crossings a side",
            "ends": "both cut to the shorter",
            "longer_than_chunk": f"joined {join_of(self.tokenizer, 'encoder', frames)} by the encoder, "
            f"{join_of(self.tokenizer, 'decoder', frames)} by the decoder",
            "torch": torch.__version__,
            **{name: _version(name) for name in ("torchaudio", "soundfile")},
        }

    def _long(self, item: SoundItem) -> bool:
        return item.samples.shape[-1] > self.options.chunk * self.own

    def _encode(self, items: Sequence[SoundItem], lengths: Tensor, extent: Tensor) -> Tokens:
        tokenizer, passage = self.tokenizer, self.passage
        if len(items) == 1 and self._long(items[0]):
            with passage.timed(None, extent):
                found = encode_long(tokenizer, Array(items[0].samples, self.own), seconds=self.options.chunk)
            return found.to(passage.device)
        batch = _padded([item.samples for item in items])
        if bool((lengths == lengths[0]).all()):
            return passage.encode(batch, extent)
        batch, told = batch.to(passage.device), lengths.to(passage.device)
        with passage.timed(None, extent):
            return tokenizer.encode(batch, told)

    def _decode(self, tokens: Tokens, setting: Setting, extent: Tensor, long: bool) -> Tensor:
        """(B, C, T) float32 at the tokenizer's rate."""
        if not long:
            return self.passage.decode(tokens, setting, extent)
        options = self.passage.decode_options()
        with self.passage.timed(setting, extent):
            made = decode_long(self.tokenizer, tokens, seconds=self.options.chunk, generator=options.get("generator"))
            return made.read(0, made.length)[None].float()

    def _finished(self, sound: Tensor) -> Tensor:
        """A reconstruction (C, T) as the protocol compares it: at its rate and levels, on the CPU."""
        sound = resample(sound.cpu(), self.own, self.rate).clamp(-1, 1)
        return (sound * 32768).round().clamp_max(32767) / 32768 if self.options.levels == "pcm16" else sound


def _padded(sounds: Sequence[Tensor]) -> Tensor:
    """(C, t) each -> (B, C, T) with zeros behind."""
    return pad_sequence([sound.T for sound in sounds], batch_first=True).mT.contiguous()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"
