"""What `zoo tokenize`, `zoo detokenize` and `zoo reconstruct` do with sound."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.cli.inputs import Item
from zoo.cli.jobs import Job
from zoo.cli.options import ChannelsName, DtypeName, precision
from zoo.cli.sampling import Sampling

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from zoo.data.audio import AudioFile
    from zoo.data.signals import Signal
    from zoo.families.audio import AudioTokenizer
    from zoo.tokenizer import Tokenizer
    from zoo.tokens import Tokens

__all__ = ["Origin", "Plan", "Tally", "plan_sounds", "restore", "send_through", "tokenize_sounds"]

WINDOW = 4  # batches whose clips are sorted by length, so that little is padded


@dataclass(frozen=True, slots=True)
class Origin:
    """What a sound was before it was brought to a tokenizer's rate and channels; kept beside its tokens.

    Attributes:
        sample_rate: Hz.
        channels: of the file.
        length: samples of each channel.
        each: whether every channel was tokenized as an item of its own.
    """

    sample_rate: int
    channels: int
    length: int
    each: bool

    def undo(self, sound: Signal) -> Signal:
        """What was decoded, at the rate, length and channels of the file."""
        from zoo.data.signals import Mixed, Resampled

        sound = sound if sound.channels == self.channels else Mixed(sound, self.channels)
        return Resampled(sound, self.sample_rate, self.length)


@dataclass(frozen=True, slots=True)
class Plan:
    """How sounds are encoded.

    Attributes:
        model: its name, as it was given.
        channels: what happens to channels that the tokenizer does not have.
        chunk: seconds; longer sounds are processed in pieces.
        codebooks: how many of a residual code; None for all.
        dtype: of encoder and decoder.
        sampling: of stochastic decoders.
    """

    tokenizer: AudioTokenizer
    model: str
    channels: ChannelsName
    chunk: float
    codebooks: int | None
    dtype: DtypeName
    sampling: Sampling

    def fitted(self, file: AudioFile) -> tuple[Signal, Origin]:
        """A file at the tokenizer's rate, and on its channels unless each channel goes alone."""
        from zoo.data.signals import Mixed, Resampled

        wanted = self.tokenizer.spec.input_shape[0]
        each = self.channels is ChannelsName.each and file.channels not in (1, wanted)
        signal: Signal = file if each or file.channels == wanted else Mixed(file, wanted)
        origin = Origin(file.sample_rate, file.channels, file.length, each)
        return Resampled(signal, int(self.tokenizer.spec.sample_rate or 0)), origin

    def encode(self, signal: Signal, each: bool) -> Tokens:
        """Codes of one sound of any length, on the CPU."""
        from zoo.long_audio import encode_long

        with precision(self.tokenizer, self.dtype):
            return encode_long(self.tokenizer, signal, seconds=self.chunk, each=each, codebooks=self.codebooks)


def plan_sounds(
    tokenizer: Tokenizer,
    model: str,
    channels: ChannelsName,
    chunk: float,
    codebooks: int | None,
    bandwidth: float | None,
    dtype: DtypeName,
    sampling: Sampling,
) -> Plan | None:
    """The plan for a tokenizer of sound, None for one of pictures.

    Raises:
        ValueError: it has no such codebooks or bandwidth (kbit/s), or both are given.
    """
    from zoo.families.audio import AudioTokenizer, check_codebooks

    if not isinstance(tokenizer, AudioTokenizer):
        for name, value in (("codebooks", codebooks), ("bandwidth", bandwidth)):
            if value is not None:
                raise ValueError(f"--{name} is for sounds; {type(tokenizer).__name__} is for {tokenizer.spec.modality}")
        return None
    if bandwidth is not None:
        if codebooks is not None:
            raise ValueError("--codebooks and --bandwidth say the same; give one of the two")
        codebooks = tokenizer.codebooks_at(bandwidth)
    elif codebooks is not None:
        check_codebooks(tokenizer.quantizer, codebooks)
    return Plan(tokenizer, model, channels, chunk, codebooks, dtype, sampling)


@dataclass(slots=True)
class Tally:
    """What a job has turned into what.

    Attributes:
        seconds: of sound.
        tokens: positions, of all channels.
        bits: None for continuous latents.
        mixed: files whose channels were mixed into fewer.
    """

    seconds: float = 0.0
    tokens: int = 0
    bits: float | None = 0.0
    mixed: int = 0

    def add(self, origin: Origin, tokens: Tokens, channels: int) -> dict[str, Any]:
        """Count one sound; what is known about it, for `--json`."""
        seconds = origin.length / origin.sample_rate
        count = int(tokens.mask.sum())
        bits = float(tokens.bits().sum()) if tokens.codebook_sizes else None
        self.seconds, self.tokens = self.seconds + seconds, self.tokens + count
        self.bits = None if bits is None or self.bits is None else self.bits + bits
        self.mixed += origin.channels > channels and not origin.each
        facts: dict[str, Any] = {"seconds": round(seconds, 3), "tokens": count}
        facts["tokens_per_second"] = round(count / seconds, 2)
        if bits is not None:
            facts |= {"bits": round(bits, 2), "kbit_per_second": round(bits / seconds / 1000, 4)}
        return facts

    def lines(self, tokenizer: AudioTokenizer) -> Iterator[str]:
        """What to tell at the end."""
        if self.seconds:
            rate = f"{self.tokens / self.seconds:.1f} tokens/s"
            kbits = "" if self.bits is None else f", {self.bits / self.seconds / 1000:.3g} kbit/s"
            yield f"{self.seconds:,.1f} s of sound are {self.tokens:,} tokens: {rate}{kbits}"
        if self.mixed:
            have = {1: "mono", 2: "stereo"}.get(tokenizer.spec.input_shape[0], "of fewer channels")
            files = f"{self.mixed} file{'s' if self.mixed > 1 else ''} with more channels"
            yield f"the tokenizer is {have}: {files} mixed down; --channels each tokenizes them one by one"


@dataclass(frozen=True, slots=True)
class Clip:
    """A sound short enough to go through in one piece, with others.

    Attributes:
        samples: (C, T) at the tokenizer's rate, on its channels.
    """

    item: Item
    target: Path
    samples: Tensor
    origin: Origin


def tokenize_sounds(
    job: Job, plan: Plan, pairs: Sequence[tuple[Item, Path]], batch_size: int, overwrite: bool
) -> Tally:
    """Write a token file for every sound; those of one chunk at most go through in batches."""
    from zoo.data.audio import AudioFile

    tally, waiting = Tally(), list[Clip]()

    def save(item: Item, target: Path, tokens: Tokens, origin: Origin) -> None:
        tokens.save(target, model=plan.model, source=item.path.name, audio=json.dumps(asdict(origin)))
        tally.add(origin, tokens, plan.tokenizer.spec.input_shape[0])

    def flush() -> None:
        waiting.sort(key=lambda clip: clip.samples.shape[-1])
        for start in range(0, len(waiting), batch_size):
            batch = waiting[start : start + batch_size]
            for clip, found in zip(batch, encode_together(plan, batch), strict=True):
                with job.guard(clip.item):
                    if isinstance(found, Exception):
                        raise found
                    save(clip.item, clip.target, found, clip.origin)
        waiting.clear()

    for item, target in pairs:
        if target.exists() and not overwrite:
            job.skip()
            continue
        try:
            with AudioFile(item.path) as file:
                signal, origin = plan.fitted(file)
                if origin.each or signal.length > plan.chunk * signal.sample_rate:
                    save(item, target, plan.encode(signal, origin.each), origin)
                    job.finish()
                else:
                    waiting.append(Clip(item, target, signal.read(0, signal.length).clone(), origin))
        except Exception as error:
            job.fail(item, error)
        if len(waiting) == WINDOW * batch_size:
            flush()
    flush()
    return tally


def encode_together(plan: Plan, clips: Sequence[Clip]) -> list[Tokens | Exception]:
    """The tokens of each clip, as if it had been alone. Clips that fail together are tried one by one."""
    import torch
    from torch.nn.utils.rnn import pad_sequence

    tokenizer = plan.tokenizer
    option: dict[str, Any] = {} if plan.codebooks is None else {"codebooks": plan.codebooks}
    lengths = torch.tensor([clip.samples.shape[-1] for clip in clips])
    if bool((lengths != lengths[0]).any()):
        option["lengths"] = lengths.to(tokenizer.device)
    try:
        batch = pad_sequence([clip.samples.T for clip in clips], batch_first=True).mT.to(tokenizer.device)
        with torch.inference_mode(), precision(tokenizer, plan.dtype):
            tokens = tokenizer.encode(batch, **option).to("cpu")
        return [tokenizer.trim(tokens[number]) for number in range(len(clips))]
    except Exception as error:
        if len(clips) == 1:
            return [error]
        return [encode_together(plan, [clip])[0] for clip in clips]


def restore(
    tokenizer: AudioTokenizer,
    tokens: Tokens,
    facts: Mapping[str, str],
    target: Path,
    *,
    dtype: DtypeName,
    sampling: Sampling,
    chunk: float,
    bits: int,
) -> None:
    """Write the sound of a token file; one with items that do not belong together gives several, numbered."""
    from zoo.data.audio import write_audio
    from zoo.long_audio import decode_long

    origin = Origin(**json.loads(facts["audio"])) if "audio" in facts else None
    together = origin is not None and len(tokens) == (origin.channels if origin.each else 1)
    parts = [tokens] if together else [tokenizer.trim(tokens[number]) for number in range(len(tokens))]
    for number, part in enumerate(parts):
        sound: Signal = decode_long(tokenizer, part, seconds=chunk, **sampling.options(tokenizer))
        if together and origin is not None:
            sound = origin.undo(sound)
        path = target if len(parts) == 1 else target.with_stem(f"{target.stem}-{number:04d}")
        with precision(tokenizer, dtype):
            write_audio(path, sound, bits=bits)


def send_through(plan: Plan, tally: Tally, item: Item, target: Path, bits: int) -> dict[str, Any]:
    """Write the reconstruction of a sound at `target`, and both spectrograms beside it as PNG; what was measured."""
    from zoo.data.audio import AudioFile, write_audio
    from zoo.data.images import write_image
    from zoo.long_audio import decode_long

    picture = target.with_suffix(".png")
    with AudioFile(item.path) as file:
        signal, origin = plan.fitted(file)
        tokens = plan.encode(signal, origin.each)
        with precision(plan.tokenizer, plan.dtype):
            options = plan.sampling.options(plan.tokenizer)
            made = decode_long(plan.tokenizer, tokens, seconds=plan.chunk, **options)
            write_audio(target, origin.undo(made), bits=bits)
        facts = tally.add(origin, tokens, plan.tokenizer.spec.input_shape[0])
        with AudioFile(target) as written:
            channels = file.channels if origin.each else min(file.channels, plan.tokenizer.spec.input_shape[0])
            fidelity = si_sdr(written, file, channels)
            facts |= {"si_sdr": None if math.isnan(fidelity) else round(fidelity, 3)}
            write_image(picture, sheet(plan.model, item, file, written, facts))
    return {"input": str(item.path), "output": str(target), "spectrograms": str(picture), **facts}


def si_sdr(output: Signal, target: Signal, channels: int) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (arXiv 1811.02508), mean over channels; NaN for silence."""
    import torch

    from zoo.data.signals import Mixed, blocks

    sums = torch.zeros(3, channels, dtype=torch.float64)
    for start, stop in blocks(target.length, 1 << 18):
        made, wanted = (Mixed(sound, channels).read(start, stop).double() for sound in (output, target))
        sums += torch.stack([(made * wanted).sum(1), (wanted * wanted).sum(1), (made * made).sum(1)])
    both, power, given = sums
    useful = both.square() / power
    return float((10 * torch.log10(useful / (given - useful).clamp_min(1e-12 * given))).mean())


def sheet(model: str, item: Item, file: Signal, made: Signal, facts: Mapping[str, Any]) -> Image.Image:
    """Both spectrograms, on one scale of levels."""
    from zoo.data.sheet import Panel, side_by_side
    from zoo.data.spectrogram import draw_spectrogram, spectrogram

    before, after = spectrogram(file), spectrogram(made)
    loudest = float(before.levels.max())
    channels = {1: "mono", 2: "stereo"}.get(file.channels, f"{file.channels} channels")
    lines = [f"{facts['tokens_per_second']:.1f} tokens/s"]
    lines[0] += f", {facts['kbit_per_second']:.3g} kbit/s" if "kbit_per_second" in facts else ""
    lines += [] if facts["si_sdr"] is None else [f"SI-SDR {facts['si_sdr']:.1f} dB"]
    name = model.rstrip("/").split("/")[-1]
    return side_by_side(
        [
            Panel(
                draw_spectrogram(before, loudest=loudest),
                item.path.name,
                [f"{file.sample_rate / 1000:g} kHz, {channels}, {facts['seconds']:.2f} s"],
            ),
            Panel(draw_spectrogram(after, loudest=loudest), f"{name}: {facts['tokens']:,} tokens", lines),
        ]
    )
