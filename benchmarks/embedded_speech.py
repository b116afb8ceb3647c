"""Quality of an embedded speech tokenizer on speakers that it was not trained on, beside Opus at its lowest bitrates.

    python scripts/open_speech.py data/open_speech
    python benchmarks/embedded_speech.py --speech data/open_speech --model wavtokenizer_tiny --json numbers.json

Two sets are reported apart: asterisk-fr, prompts of a speaker and in a language that the training set does not have, of
which every 16th file by name is measured (`--every`), and pocketsphinx, English utterances of other speakers, all of
them. Clips go through as they are in the files, one at a time.

Every number is a mean over clips; usage and perplexity are of all codes of a set, averaged over codebooks. A residual
code is also measured with its first codebooks alone, half of them and half of those, down to one. The mel distance is
`zoo.metrics.LogMelDistance`, PESQ is wide-band, DNSMOS judges the output alone, and the row "original" is the clips
themselves. A code's bitrate is log2 of the codebook's size times the tokens of a clip, over its duration.

Opus is libopus inside PyAV: voice, 60 ms frames, variable bitrate, highest complexity. Its bitrate is that of its
packets, without the Ogg container around them, and does not go below about 4 kbit/s: it costs several times what a code
of 1 kbit/s does. Where PyAV is not installed, Opus is left out. Nothing is drawn at random. The seed is 0 all the same.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # a script's folder comes first on the path, where quantizers.py hides the package
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

import zoo
from benchmarks.report import publish
from zoo.data.audio import AUDIO_SUFFIXES, read_audio
from zoo.metrics import DNSMOS, PESQ, STOI, LogMelDistance, codebook_perplexity, codebook_usage
from zoo.tokenizer import Tokenizer
from zoo.tokens import Tokens

__all__ = ["SETS", "HeldOut", "Meters", "clips", "measure", "opus"]

SCRIPT = "benchmarks/embedded_speech.py"
RATES = (4.0, 6.0)  # kbit/s asked of Opus
ORIGINAL = "original"
# What is measured, in the order of the table's columns: unit, column, how it is printed.
NUMBERS = {
    "STOI": ("", "STOI", "{:.3f}"),
    "log-mel distance": ("", "mel", "{:.3f}"),
    "PESQ": ("MOS-LQO", "PESQ", "{:.2f}"),
    "DNSMOS": ("MOS", "DNSMOS", "{:.2f}"),
    "kbit/s": ("kbit/s", "kbit/s", "{:.2f}"),
    "codebook usage": ("share of codes", "usage", "{:.2%}"),
    "codebook perplexity": ("codes", "perplexity", "{:,.0f}"),
}

METRICS: dict[str, Callable[[int], Any]] = {
    "STOI": STOI,
    "log-mel distance": LogMelDistance,
    "PESQ": PESQ,
    "DNSMOS": DNSMOS,
}


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A folder of clips, and of how many of them one is measured."""

    name: str
    title: str
    every: int


SETS = (
    HeldOut("asterisk-fr", "asterisk-core-sounds-fr, one French speaker", 16),
    HeldOut("pocketsphinx", "pocketsphinx-testdata, English", 1),
)


def clips(folder: Path, every: int, sample_rate: int) -> list[Tensor]:
    """The clips that are measured, mono.

    Args:
        folder: sound files; the first, and every so many in the order of their names.
        every: how many.
        sample_rate: Hz that they are resampled to.

    Returns:
        (1, T) float32 each.

    Raises:
        FileNotFoundError: the folder is missing or empty.
    """
    paths = sorted(path for path in folder.iterdir() if path.suffix in AUDIO_SUFFIXES) if folder.is_dir() else []
    if not paths:
        raise FileNotFoundError(f"no sounds in {folder}; run `python scripts/open_speech.py` with its parent first")
    return [read_audio(path, sample_rate, 1) for path in paths[::every]]


def opus(sound: Tensor, sample_rate: int, kilobits: float) -> tuple[Tensor, int]:
    """A clip through Opus.

    Args:
        sound: (1, T) in [-1, 1].
        sample_rate: Hz, one of Opus' own: 8000, 12000, 16000, 24000 or 48000.
        kilobits: kbit/s to aim at.

    Returns:
        (1, T) of what comes back, and the bits of all packets.
    """
    import av
    from av.audio.resampler import AudioResampler

    samples = (sound.clamp(-1, 1) * 32767).round().to(torch.int16).numpy()
    frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
    frame.sample_rate, frame.pts = sample_rate, 0
    file, size = io.BytesIO(), 0
    options = {"application": "voip", "frame_duration": "60", "vbr": "on", "compression_level": "10"}
    with av.open(file, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=sample_rate, layout="mono", options=options)
        stream.bit_rate = round(kilobits * 1000)
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            size += packet.size
            container.mux(packet)
    file.seek(0)
    resampler = AudioResampler(format="flt", layout="mono", rate=sample_rate)
    with av.open(file) as container:
        decoded = [part for whole in [*container.decode(audio=0), None] for part in resampler.resample(whole)]
    found = torch.cat([torch.from_numpy(part.to_ndarray()) for part in decoded], -1)
    length = sound.shape[-1]
    return torch.nn.functional.pad(found[:, :length], (0, max(0, length - found.shape[-1]))), 8 * size


class Meters:
    """Means over the clips of a set, for one codec.

    Args:
        sample_rate: Hz.
        names: of what is measured; the original is not compared with itself.
    """

    def __init__(self, sample_rate: int, names: Sequence[str] = tuple(METRICS)) -> None:
        self.sample_rate, self.bits, self.samples = sample_rate, 0.0, 0
        self.metrics = {name: METRICS[name](sample_rate) for name in names}

    def update(self, output: Tensor, target: Tensor, bits: float) -> None:
        """Count a clip (1, T) that costs so many bits."""
        for metric in self.metrics.values():
            metric.update(output[None], target[None])
        self.bits, self.samples = self.bits + bits, self.samples + target.shape[-1]

    def compute(self) -> dict[str, float]:
        """The numbers; the bitrate is that of all clips together."""
        found = {name: metric.compute() for name, metric in self.metrics.items()}
        found["DNSMOS"] = found["DNSMOS"]["overall"]
        values = {name: float(value) for name, value in found.items()}
        return values if self.bits == 0 else values | {"kbit/s": self.bits * self.sample_rate / self.samples / 1000}


def prefixes(model: Tokenizer) -> dict[str, int]:
    """What is measured of a model's code: all its codebooks, and for a residual code the first half, quarter, ..."""
    count = len(model.spec.codebook_sizes)
    found = {"tokens": count}
    while model.quantizer.prefixes and count > 1:
        count //= 2
        found[f"{count} codebook{'s' if count > 1 else ''}"] = count
    return found


def first(tokens: Tokens, count: int) -> Tokens:
    """The code in its first codebooks."""
    return replace(tokens, indices=tokens.indices[..., :count], codebook_sizes=tokens.codebook_sizes[:count])


def opus_name(kilobits: float) -> str:
    """How Opus at a bitrate is called."""
    return f"Opus {kilobits:g} kbit/s"


@torch.inference_mode()
def measure(model: Tokenizer, sounds: Sequence[Tensor], rates: Sequence[float]) -> dict[str, dict[str, float]]:
    """All numbers of one set.

    Args:
        model: an audio tokenizer.
        sounds: each (1, T) in [-1, 1] at the model's rate.
        rates: kbit/s to ask of Opus; none to leave it out.

    Returns:
        By codec ("tokens", "4 codebooks", "original", "Opus 6 kbit/s"): means over the clips of the `NUMBERS`.
    """
    rate = int(model.spec.sample_rate or 0)
    counts = prefixes(model)
    meters = {codec: Meters(rate) for codec in (*counts, *(opus_name(asked) for asked in rates))}
    meters[ORIGINAL] = Meters(rate, ["DNSMOS"])
    codes = []
    for sound in track(sounds, description="measuring", transient=True):
        tokens = model.encode(sound[None].to(model.device))
        codes.append(tokens.indices.flatten(0, 1))
        versions: dict[str, tuple[Tensor, float]] = {ORIGINAL: (sound, 0)}
        for codec, count in counts.items():
            part = first(tokens, count)
            versions[codec] = model.decode(part)[0].float().cpu(), float(part.bits()[0])
        versions |= {opus_name(asked): opus(sound, rate, asked) for asked in rates}
        for codec, (output, bits) in versions.items():
            meters[codec].update(output, sound, bits)
    means = {codec: meter.compute() for codec, meter in meters.items()}
    sizes, seen = model.spec.codebook_sizes, torch.cat(codes)
    for name, share in (("codebook usage", codebook_usage), ("codebook perplexity", codebook_perplexity)):
        values = [float(share(seen[:, number], size)) for number, size in enumerate(sizes)]
        means["tokens"][name] = sum(values) / len(values)
    return means


def records(held_out: HeldOut, sounds: Sequence[Tensor], rate: int, means: dict[str, Any]) -> list[dict[str, Any]]:
    """The means as a flat list, each with its protocol."""
    seconds = sum(sound.shape[-1] for sound in sounds) / rate
    chosen = "all" if held_out.every == 1 else f"every {held_out.every}th"
    protocol = {
        "set": held_out.name,
        "data": held_out.title,
        "crop": f"{chosen}, {len(sounds)} clips, {seconds:.0f} s at {rate / 1000:g} kHz",
        "clips": len(sounds),
        "origin": f"measured: {SCRIPT}",
    }
    return [
        {"name": name, "value": value, "unit": NUMBERS[name][0], "codec": codec, "tokens": None, **protocol}
        for codec, row in means.items()
        for name, value in row.items()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print tables, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, required=True, help="folder made by scripts/open_speech.py")
    parser.add_argument("--model", required=True, help="name of an embedded model, or a model folder")
    parser.add_argument("--json", type=Path, default=None, help="file for the numbers with their protocol")
    parser.add_argument("--opus", type=float, nargs="*", default=RATES, help="kbit/s to ask of Opus")
    parser.add_argument("--every", type=int, default=None, help="measure one clip of so many, in every set")
    parser.add_argument("--sets", nargs="+", choices=[item.name for item in SETS], default=[item.name for item in SETS])
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    console = Console(width=120)
    model = zoo.load(options.model, device=options.device)
    if model.spec.modality != "audio" or model.spec.continuous or model.spec.input_shape[0] != 1:
        parser.error(f"{options.model} is no tokenizer of mono sound with codes")
    rates = list(options.opus)
    if rates and importlib.util.find_spec("av") is None:
        console.print("Opus is left out: it needs `pip install tokenizer-zoo[open-data]`", highlight=False)
        rates = []
    rate = int(model.spec.sample_rate or 0)
    results: list[dict[str, Any]] = []
    for held_out in (item for item in SETS if item.name in options.sets):
        chosen = HeldOut(held_out.name, held_out.title, options.every or held_out.every)
        sounds = clips(options.speech / "test" / held_out.name, chosen.every, rate)
        results += records(chosen, sounds, rate, measure(model, sounds, rates))
    publish(
        options.model,
        results,
        {name: (column, form) for name, (_, column, form) in NUMBERS.items()},
        options.json,
        device=options.device,
        packages={name: name for name in ("pystoi", "pesq", "speechmos", "av")},
    )


if __name__ == "__main__":
    main()
