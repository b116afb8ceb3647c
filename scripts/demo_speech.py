"""Speech to tokens and back, with the tokenizer that comes with the package: the part of `make demo` that can be heard.

    python scripts/demo_speech.py
    python scripts/demo_speech.py --clip my/voice.wav --output my/demo

Files in the output folder, replaced when they exist:

    wavtokenizer_tiny_NAME.wav    what the tokens of the clip decode to
    wavtokenizer_tiny_NAME.png    the spectrograms of the clip and of that
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor

import zoo
from zoo.data.audio import read_audio, write_audio
from zoo.data.images import write_image
from zoo.data.sheet import Panel, side_by_side
from zoo.data.signals import Array
from zoo.data.spectrogram import draw_spectrogram, spectrogram
from zoo.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[1]
MODEL = "wavtokenizer_tiny"
CLIP = ROOT / "docs/assets/speech/cold_hearted.flac"


@dataclass(frozen=True, slots=True)
class Spoken:
    """A clip and what its tokens decode to, both (1, T), with the cost of the tokens."""

    name: str
    original: Tensor
    output: Tensor
    sample_rate: int
    tokens: int
    bits: float

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.original.shape[-1] / self.sample_rate

    @property
    def facts(self) -> list[str]:
        """Cost, as lines of a caption."""
        rate = self.bits / self.seconds / 1000
        return [f"{self.tokens:,} tokens of {self.bits / self.tokens:.0f} bits, {rate:.2f} kbit/s"]

    def distances(self) -> dict[str, float]:
        """How close the output is: STOI where it is installed, and the log-mel distance."""
        from zoo.metrics import STOI, LogMelDistance

        found = {}
        for name, kind in (("STOI", STOI), ("log-mel distance", LogMelDistance)):
            try:
                metric = kind(self.sample_rate)
            except ModuleNotFoundError:  # pystoi comes with an extra
                continue
            metric.update(self.output[None], self.original[None])
            found[name] = float(metric.compute())
        return found


def main(
    clip: Annotated[Path, typer.Option(help="Sound file, mixed down to mono.")] = CLIP,
    output: Annotated[Path, typer.Option(help="Folder for what is made.")] = Path("demo"),
    model: Annotated[str, typer.Option(help="Audio tokenizer with one channel: a name or a folder.")] = MODEL,
) -> None:
    """Send a clip through the tokenizer; write the sound and both spectrograms, print what it costs."""
    written = speech(clip, output, model, Console())
    for path in written:
        typer.echo(f"Wrote {path}")


def speech(clip: Path, output: Path, source: str, console: Console) -> list[Path]:
    """What `main` does; gives the files that it wrote."""
    spoken = speak(zoo.load(source), clip)
    name = f"{Path(source).name}_{spoken.name}"
    output.mkdir(parents=True, exist_ok=True)
    console.print(table(Path(source).name, [spoken]), highlight=False)
    console.print()
    sound = output / f"{name}.wav"
    write_audio(sound, spoken.output, spoken.sample_rate)
    return [sound, write_image(output / f"{name}.png", sheet(spoken))]


@torch.inference_mode()
def speak(model: Tokenizer, clip: Path) -> Spoken:
    """A sound file through a tokenizer of mono sound."""
    rate = int(model.spec.sample_rate or 0)
    sound = read_audio(clip, rate, 1)
    tokens = model.encode(sound[None])
    output = model.decode(tokens)[0].clamp(-1, 1)
    return Spoken(clip.stem, sound, output, rate, tokens.num_tokens, float(tokens.bits()[0]))


def sheet(spoken: Spoken) -> Image.Image:
    """Both spectrograms, one above the other, in one scale of levels."""
    sounds = [spectrogram(Array(sound, spoken.sample_rate)) for sound in (spoken.original, spoken.output)]
    loudest = float(sounds[0].levels.max())
    pictures = [draw_spectrogram(sound, loudest=loudest) for sound in sounds]
    original = f"{spoken.seconds:.1f} s, {spoken.sample_rate // 1000} kHz, {spoken.sample_rate * 16 // 1000} kbit/s"
    captions = (("original", [original]), ("from tokens", spoken.facts))
    panels = [Panel(picture, *caption) for picture, caption in zip(pictures, captions, strict=True)]
    return side_by_side(panels, columns=1)


def table(model: str, clips: Sequence[Spoken]) -> Table:
    """The numbers of one tokenizer."""
    result = Table(title=model, title_style="bold", title_justify="left", box=None, pad_edge=False)
    result.add_column("clip")
    found = [clip.distances() for clip in clips]
    for column in ("seconds", "tokens", "kbit/s", *found[0]):
        result.add_column(column, justify="right")
    for clip, distances in zip(clips, found, strict=True):
        cost = f"{clip.seconds:.1f}", f"{clip.tokens:,}", f"{clip.bits / clip.seconds / 1000:.2f}"
        result.add_row(clip.name, *cost, *(f"{value:.3f}" for value in distances.values()))
    return result


if __name__ == "__main__":
    typer.run(main)
