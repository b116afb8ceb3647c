"""Speech to tokens and back, with the tokenizers that come with the package: the part of `make demo` that can be heard.

    python scripts/demo_speech.py
    python scripts/demo_speech.py --clip my/voice.wav --output my/demo

Files in the output folder, replaced when they exist:

    wavtokenizer_tiny_NAME.wav    what the tokens of the clip decode to
    wavtokenizer_tiny_NAME.png    the spectrograms of the clip and of that
    rvq_tiny_24k_NAME_8.wav       the same of a residual code, with 8, 4, 2 and 1 codebooks
    rvq_tiny_24k_NAME.png         their spectrograms
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
from zoo.families.audio import AudioTokenizer
from zoo.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("wavtokenizer_tiny", "rvq_tiny_24k")
CLIP = ROOT / "docs/assets/speech/cold_hearted.flac"


@dataclass(frozen=True, slots=True)
class Spoken:
    """A clip and what its tokens decode to, both (1, T), with the cost of the tokens.

    Attributes:
        codebooks: how many were used, for residual codes; else None.
    """

    name: str
    original: Tensor
    output: Tensor
    sample_rate: int
    tokens: int
    bits: float
    codebooks: int | None = None

    @property
    def label(self) -> str:
        """What tells this one from others of the same clip."""
        return self.name if self.codebooks is None else f"{self.name}_{self.codebooks}"

    @property
    def seconds(self) -> float:
        """Duration."""
        return self.original.shape[-1] / self.sample_rate

    @property
    def facts(self) -> list[str]:
        """Cost, as lines of a caption."""
        rate = self.bits / self.seconds / 1000
        depth = "" if self.codebooks is None else f", codebooks: {self.codebooks}"
        return [f"{self.tokens:,} tokens of {self.bits / self.tokens:.0f} bits, {rate:.2f} kbit/s{depth}"]

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
    model: Annotated[
        list[str] | None, typer.Option(help="Tokenizers of mono sound, names or folders: --model A --model B.")
    ] = None,
) -> None:
    """Send a clip through tokenizers; write the sounds and all spectrograms, print what they cost."""
    for source in model or MODELS:
        for path in speech(clip, output, source, Console()):
            typer.echo(f"Wrote {path}")


def speech(clip: Path, output: Path, source: str, console: Console) -> list[Path]:
    """What `main` does with one tokenizer; gives the files that it wrote."""
    model = zoo.load(source)
    spoken = [speak(model, clip, count) for count in depths(model)]
    name = Path(source).name
    output.mkdir(parents=True, exist_ok=True)
    console.print(table(name, spoken), highlight=False)
    console.print()
    sounds = [output / f"{name}_{item.label}.wav" for item in spoken]
    for path, item in zip(sounds, spoken, strict=True):
        write_audio(path, item.output, item.sample_rate)
    return [*sounds, write_image(output / f"{name}_{clip.stem}.png", sheet(spoken))]


def depths(model: Tokenizer) -> list[int | None]:
    """Codebooks to use: all, half, a quarter, ... of a residual code; None for what it is otherwise."""
    count = len(model.spec.codebook_sizes)
    return [count >> step for step in range(count.bit_length())] if model.quantizer.prefixes and count > 1 else [None]


@torch.inference_mode()
def speak(model: Tokenizer, clip: Path, codebooks: int | None = None) -> Spoken:
    """A sound file through a tokenizer of mono sound."""
    assert isinstance(model, AudioTokenizer)
    rate = int(model.spec.sample_rate or 0)
    sound = read_audio(clip, rate, 1)
    tokens = model.encode(sound[None], codebooks=codebooks)
    output = model.decode(tokens)[0].clamp(-1, 1)
    return Spoken(clip.stem, sound, output, rate, tokens.num_tokens, float(tokens.bits()[0]), codebooks)


def sheet(spoken: Sequence[Spoken]) -> Image.Image:
    """The spectrograms of a clip and of what came back, one above the other, in one scale of levels."""
    first = spoken[0]
    sounds = [spectrogram(Array(x, first.sample_rate)) for x in (first.original, *(item.output for item in spoken))]
    loudest = float(sounds[0].levels.max())
    original = f"{first.seconds:.1f} s, {first.sample_rate // 1000} kHz, {first.sample_rate * 16 // 1000} kbit/s"
    captions = [("original", [original]), *(("from tokens", item.facts) for item in spoken)]
    pictures = [draw_spectrogram(sound, loudest=loudest) for sound in sounds]
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
        result.add_row(clip.label, *cost, *(f"{value:.3f}" for value in distances.values()))
    return result


if __name__ == "__main__":
    typer.run(main)
