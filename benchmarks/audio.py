"""Speed of the audio tokenizers at published size, beside what `transformers` has of them.

    pip install transformers
    python benchmarks/audio.py
    python benchmarks/audio.py --models Mimi 'EnCodec 24 kHz' --batches 1 --seconds 4 --threads 1 --markdown table.md

Models have random weights. Where transformers has the model, both hold the same ones, both are measured in one process
and in turns, and their codes and sounds are compared before. The real-time factor is seconds of work in a second of
sound, of the batch as a whole: below 1 a machine keeps up. CPU seconds are those of the process, all threads together;
on a machine that others use they tell more than the wall clock. The shortest of several calls counts, for each of the
two clocks.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # a script's folder comes first on the path, where quantizers.py hides the package
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor

import zoo.families
from zoo.families import AudioTokenizer
from zoo.store.build import build
from zoo.store.cards import card

Call = Callable[[], object]


@dataclass(frozen=True)
class Rival:
    """A model that transformers has as well.

    Attributes:
        family: class of `zoo.families`.
        name: class of transformers, less "Model" and "Config".
        config: what the published config has other than the defaults.
        options: of its `encode`.
    """

    family: str
    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self) -> tuple[Any, AudioTokenizer]:
        """Both models with the same random weights and codebooks: that of transformers, then ours."""
        import transformers

        torch.manual_seed(0)
        config = getattr(transformers, f"{self.name}Config")(**self.config)
        theirs = getattr(transformers, f"{self.name}Model")(config).eval()
        with torch.no_grad():
            for name, buffer in theirs.named_buffers():
                if name.endswith(("codebook.embed", "codebook.embed_sum")):
                    buffer.normal_()  # all zeros otherwise
        family = getattr(zoo.families, self.family)
        return theirs, family.from_reference(config.to_dict(), theirs.state_dict())

    def encode(self, theirs: Any, x: Tensor) -> Tensor:
        """Codes (B, Q, N)."""
        codes = theirs.encode(x, **self.options).audio_codes
        return codes[0] if codes.ndim == 4 else codes

    def decode(self, theirs: Any, codes: Tensor) -> Tensor:
        """Sounds (B, C, T) or (B, T) of codes (B, Q, N)."""
        if self.name == "Encodec":
            return theirs.decode(codes[None], [None]).audio_values
        return theirs.decode(audio_codes=codes).audio_values


DAC_24K = {
    "sampling_rate": 24000, "n_codebooks": 32, "hop_length": 320, "downsampling_ratios": [2, 4, 5, 8],
    "upsampling_ratios": [8, 5, 4, 2],
}  # fmt: skip
RIVALS = {
    "EnCodec 24 kHz": Rival("EnCodec", "Encodec", options={"bandwidth": 24.0}),
    "DAC 24 kHz": Rival("DAC", "Dac", DAC_24K),
    "Mimi": Rival("Mimi", "Mimi"),
}
CARDS = (
    "wavtokenizer_small_75",
    "wavtokenizer_large_unify_40",
    "snac_24khz",
    "speechtokenizer_hubert_avg",
    "vocos_mel_24khz",
    "s3tokenizer_v2_25hz",
    "sylber",
)


@dataclass
class Cost:
    """Shortest times of a call: CPU seconds of the process, and seconds on the clock."""

    cpu: float = float("inf")
    wall: float = float("inf")

    def take(self, call: Call) -> None:
        """Call once and keep what is shorter."""
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        self.cpu = min(self.cpu, time.process_time() - cpu)
        self.wall = min(self.wall, time.perf_counter() - wall)

    def per(self, seconds: float) -> Cost:
        """Real-time factors for so many seconds of sound."""
        return Cost(self.cpu / seconds, self.wall / seconds)


@dataclass(frozen=True)
class Row:
    """One part of a model at one batch size, in real-time factors."""

    model: str
    part: str
    batch: int
    ours: Cost
    theirs: Cost | None = None

    def cells(self) -> list[str]:
        """Of the table, the ratios last."""
        ours, theirs = self.ours, self.theirs
        texts = [self.model, self.part, str(self.batch), f"{ours.cpu:.3f}", f"{ours.wall:.3f}"]
        if theirs is None:
            return [*texts, *[""] * 4]
        ratios = [f"{theirs.cpu / ours.cpu:.2f}", f"{theirs.wall / ours.wall:.2f}"]
        return [*texts, f"{theirs.cpu:.3f}", f"{theirs.wall:.3f}", *ratios]


HEADER = ["model", "part", "batch", "CPU", "wall", "transformers CPU", "wall", "times as fast, CPU", "wall"]


def contest(calls: Mapping[str, Call], repeats: int) -> dict[str, Cost]:
    """Times of several calls, taken in turns after one of each to warm up."""
    for call in calls.values():
        call()
    costs = {name: Cost() for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            costs[name].take(call)
    return costs


def random_model(name: str) -> AudioTokenizer:
    """The tokenizer that a card describes, without its weights."""
    family = getattr(zoo.families, card(name).family)
    torch.manual_seed(0)
    return build(family.reference_recipe(card(name).config)).eval()  # type: ignore[return-value]


def sounds(model: AudioTokenizer, batch: int, seconds: float) -> Tensor:
    """Noise (B, C, T) of about `seconds` seconds, in whole tokens."""
    channels, rate = model.spec.input_shape
    samples = max(1, round(seconds * rate / model.hop_length)) * model.hop_length
    return torch.rand(batch, channels, samples, generator=torch.Generator().manual_seed(0)) * 0.6 - 0.3


def measure(name: str, options: argparse.Namespace) -> Iterator[Row]:
    """The rows of one model: a key of `RIVALS`, or a card.

    Raises:
        ValueError: codes or sounds differ from those of transformers.
    """
    rival = RIVALS.get(name)
    theirs, ours = (None, random_model(name)) if rival is None else rival.build()
    for batch in options.batches:
        x = sounds(ours, batch, options.seconds)
        tokens = ours.encode(x)
        calls: dict[str, dict[str, Call]] = {"encode": {"ours": partial(ours.encode, x)}}
        if ours.spec.decodes:
            calls["decode"] = {"ours": partial(ours.decode, tokens)}
        if rival is not None:
            codes = tokens.indices.mT.contiguous()
            agree(name, codes, rival.encode(theirs, x), ours.decode(tokens), rival.decode(theirs, codes))
            calls["encode"]["theirs"] = partial(rival.encode, theirs, x)
            calls["decode"]["theirs"] = partial(rival.decode, theirs, codes)
        duration = batch * x.shape[-1] / ours.spec.input_shape[1]
        for part, contestants in calls.items():
            costs = {who: cost.per(duration) for who, cost in contest(contestants, options.repeats).items()}
            yield Row(name, part, batch, **costs)


def agree(name: str, codes: Tensor, their_codes: Tensor, sound: Tensor, their_sound: Tensor) -> None:
    """Raise ValueError unless both give one result: 99 % of the codes, and sounds within 1e-4 of the largest sample.

    Random codebooks are crowded, so that rounding decides some codes, and with them all later ones of their token.
    """
    equal = (codes == their_codes).float().mean().item()
    length = min(sound.shape[-1], their_sound.shape[-1])
    error = (sound.flatten(0, 1)[:, :length] - their_sound.reshape(-1, their_sound.shape[-1])[:, :length]).abs().max()
    if equal < 0.99 or error > 1e-4 * sound.abs().max():
        raise ValueError(f"{name}: {equal:.2%} of the codes are those of transformers, sounds differ by {error:.1e}")


def line(cells: Sequence[str], widths: Sequence[int]) -> str:
    """Cells in columns."""
    return "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    table = [HEADER, ["---"] * len(HEADER), *(row.cells() for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, and print a table."""
    known = [*RIVALS, *CARDS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=known, help="of these, or cards (default: %(default)s)")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a sound")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: torch's choice)")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls; the shortest time counts")
    parser.add_argument("--markdown", type=Path, default=None, help="file to write the table to as well")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} CPU threads, {options.seconds:g} s of sound")
    found: list[Row] = []
    widths = [max(len(name) for name in options.models), 6, 5, 8, 8, 16, 8, 18, 8]
    print(line(HEADER, widths))
    with torch.inference_mode():
        for name in options.models:
            for row in measure(name, options):
                found.append(row)
                print(line(row.cells(), widths), flush=True)
    if options.markdown:
        options.markdown.write_text(markdown(found), "utf-8")


if __name__ == "__main__":
    main()
