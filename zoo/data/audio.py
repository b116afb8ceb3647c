"""Sound files in and out.

Inside the library a sound is a float32 tensor (C, T) in [-1, 1].
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import torch
from torch import Tensor

from zoo.data.signals import Array, Mixed, Resampled, Signal, blocks
from zoo.store.files import replacing

if TYPE_CHECKING:
    import soundfile

__all__ = ["AUDIO_SUFFIXES", "WRITABLE_AUDIO", "AudioFile", "read_audio", "write_audio"]

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au", ".caf", ".w64", ".rf64")
WRITABLE_AUDIO = {".wav": "WAV", ".flac": "FLAC"}
SUBTYPES = {16: "PCM_16", 24: "PCM_24", 32: "FLOAT"}
BLOCK = 1 << 18
LEAD = 8192  # the longest block of Vorbis
LARGEST_WAV = (1 << 32) - (1 << 16)


class AudioFile:
    """A sound file, read piece by piece.

    Going forward, with or without overlap, a file is decoded once; elsewhere it seeks.

    Args:
        path: WAV, FLAC, Ogg Vorbis, Opus, MP3, AIFF, AU, CAF or W64; any rate, channels and bit depth. The kind is
            judged by the content.
        file: where to read from instead of `path`, which then is a name for messages; it is closed with this.

    Attributes:
        channels: C.
        sample_rate: Hz.
        length: samples of each channel.
        encoding: how they are stored, for example "PCM_24".

    Raises:
        FileNotFoundError: no such file.
        ValueError: empty, without samples, or not a sound file of a known format.
        RuntimeError: soundfile is not installed.
    """

    def __init__(self, path: str | Path, file: BinaryIO | None = None) -> None:
        self.path, self.source = Path(path), file
        if file is None and not self.path.is_file():
            raise FileNotFoundError(f"no sound file {path}")
        if (self.path.stat().st_size if file is None else file.seek(0, os.SEEK_END)) == 0:
            raise ValueError(f"{path}: the file is empty (0 bytes)")
        if file is not None:
            file.seek(0)
        library = _soundfile()
        try:
            self.file: soundfile.SoundFile = library.SoundFile(self.path if file is None else file)
        except (library.LibsndfileError, TypeError) as error:
            raise ValueError(
                f"{path}: damaged, or not a sound file of a known format; expected {', '.join(AUDIO_SUFFIXES)}"
            ) from error
        self.channels, self.sample_rate = int(self.file.channels), int(self.file.samplerate)
        self.encoding, self.length = str(self.file.subtype), int(self.file.frames)
        self.start, self.latest = 0, torch.zeros(self.channels, 0)
        self.place = 0
        if self.length <= 0 or self.length >= 1 << 60:
            self.file.close()
            found = "no samples" if self.length <= 0 else "no length in its header, as files from a pipe have"
            raise ValueError(f"{path}: the file has {found}; write it anew")

    def read(self, start: int, stop: int) -> Tensor:
        """Samples start to stop.

        Returns:
            (C, stop - start) float32; integers are scaled to [-1, 1), floats are as they are.

        Raises:
            ValueError: beyond the end, the file breaks off or is damaged, or there is NaN or infinity in it.
        """
        if not 0 <= start <= stop <= self.length:
            raise ValueError(f"{self.path} has {self.length} samples, asked for {start} to {stop}")
        end = self.start + self.latest.shape[1]
        if self.start <= start <= end:
            kept = self.latest[:, start - self.start :]
            if stop > end:
                kept = torch.cat([kept, self._decode(end, stop)], 1)
        else:
            kept = self._decode(start, stop)
        self.start, self.latest = start, kept
        return kept[:, : stop - start]

    def _decode(self, start: int, stop: int) -> Tensor:
        try:
            if start != self.place:
                self._seek(start)
            samples = self.file.read(stop - start, dtype="float32", always_2d=True)
        except (RuntimeError, OSError) as error:
            raise ValueError(f"{self.path}: damaged at about sample {start} ({error})") from error
        self.place = start + len(samples)
        if len(samples) != stop - start:
            raise ValueError(
                f"{self.path}: breaks off at sample {self.place} of {self.length}; the file is truncated or damaged"
            )
        found = torch.from_numpy(samples).T.contiguous()
        if not torch.isfinite(found).all():
            place = start + int((~torch.isfinite(found)).any(0).nonzero()[0])
            raise ValueError(
                f"{self.path}: sample {place} ({place / self.sample_rate:.3f} s) is NaN or infinite; repair the file"
            )
        return found

    def _seek(self, start: int) -> None:
        """Go to a sample. libsndfile begins an Ogg stream anew with a wrong block, and misses its place going back."""
        if self.encoding not in ("VORBIS", "OPUS"):
            self.file.seek(start)
            return
        self.file.seek(0)
        self.file.read(1)
        before = max(0, start - LEAD)
        self.file.seek(before)
        self.file.read(start - before)

    def close(self) -> None:
        """Close the file."""
        self.file.close()
        if self.source is not None:
            self.source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_audio(path: str | Path, sample_rate: int | None = None, channels: int | None = None) -> Tensor:
    """Read a whole sound file.

    Args:
        path: see `AudioFile`.
        sample_rate: Hz to resample to; None for the file's own.
        channels: to mix down to, or to copy a mono sound to; None for the file's own.

    Returns:
        (C, T) float32.

    Raises:
        FileNotFoundError, ValueError, RuntimeError: as `AudioFile`.
    """
    with AudioFile(path) as file:
        signal: Signal = file
        if channels is not None:
            signal = Mixed(signal, channels)
        if sample_rate is not None:
            signal = Resampled(signal, sample_rate)
        return signal.read(0, signal.length).clone()


def write_audio(path: str | Path, sound: Tensor | Signal, sample_rate: int | None = None, *, bits: int = 16) -> Path:
    """Write a WAV or FLAC file, chosen by its suffix; an existing file is replaced once the new one is complete.

    Args:
        sound: (C, T) in [-1, 1] (values beyond are clamped, except in float files), or a signal, which is written
            piece by piece.
        sample_rate: Hz, for a tensor.
        bits: 16, 24, or 32 for floats (WAV only).

    Raises:
        ValueError: an unknown suffix or depth, or a rate or number of channels that the format cannot have.
    """
    path = Path(path)
    kind = WRITABLE_AUDIO.get(path.suffix.lower())
    if kind is None:
        wanted = ", ".join(WRITABLE_AUDIO)
        raise ValueError(f"{path}: cannot write {path.suffix or 'a file without suffix'}; use {wanted}")
    if bits not in SUBTYPES or (bits == 32 and kind == "FLAC"):
        raise ValueError(f"{kind} files are written with 16 or 24 bits (WAV also with 32, floats), got {bits}")
    if isinstance(sound, Tensor):
        if sample_rate is None:
            raise ValueError("a tensor needs sample_rate=")
        sound = Array(sound.detach().float().cpu(), sample_rate)
    if kind == "WAV" and sound.length * sound.channels * bits // 8 > LARGEST_WAV:
        kind = "RF64"
    library = _soundfile()
    settings: dict[str, Any] = {"format": kind, "subtype": SUBTYPES[bits]}
    with replacing(path) as draft:
        try:
            file = library.SoundFile(draft, "w", sound.sample_rate, sound.channels, **settings)
        except (library.LibsndfileError, ValueError) as error:
            raise ValueError(
                f"{path}: {kind} cannot hold {sound.channels} channels at {sound.sample_rate} Hz ({error})"
            ) from error
        with file:
            for samples in pieces(sound):
                file.write((samples if bits == 32 else samples.clamp(-1, 1)).T.contiguous().numpy())
    return path


def pieces(sound: Signal) -> Iterable[Tensor]:
    """A signal from start to end, (C, n) at a time."""
    return (sound.read(start, stop).detach().float().cpu() for start, stop in blocks(sound.length, BLOCK))


def _soundfile() -> Any:
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise RuntimeError(
            f"sound files need soundfile ({error}); install it with: pip install 'tokenizer-zoo[audio]'"
        ) from error
    return soundfile
