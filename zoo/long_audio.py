"""Sounds of any length through a tokenizer, a chunk at a time: memory does not grow with the length.

How chunks are joined depends on what the network reads around a token:

- "exact": its reach is finite (`context` of the part), so every chunk is read with that much before and behind, which
  is cut off again. Codes and samples are those of the whole sound.
- "stream": it is causal, and remembers (`AudioTokenizer.streaming`). The same holds.
- "windows": the model itself cuts sounds into windows (EnCodec at 48 kHz, S3), and chunks are some of them. The same
  holds.
- "faded": it reads the whole sound (attention, normalisation over time, an LSTM that reads backwards). Chunks overlap;
  codes are cut in the middle of the overlap, sound is cross-faded over it. Neither equals what the whole would give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from zoo.data.signals import Array, Signal, blocks, mix
from zoo.tokens import Tokens

if TYPE_CHECKING:
    from zoo.families.audio import AudioTokenizer

__all__ = ["Decoded", "Join", "decode_long", "encode_long", "join_of"]

Join = Literal["exact", "stream", "windows", "faded"]
Side = Literal["encoder", "decoder"]


@dataclass(frozen=True, slots=True)
class Chunks:
    """How one side of a tokenizer goes through a long sound, in frames of `hop_length` samples.

    Attributes:
        join: see the module.
        size: frames of a chunk.
        before, after: frames that are read around it and cut off again, or faded.
    """

    join: Join
    size: int
    before: int = 0
    after: int = 0

    @classmethod
    def of(cls, tokenizer: AudioTokenizer, side: Side, seconds: float, overlap: float) -> Chunks:
        """The chunks of about so many seconds; all numbers are whole blocks of the tokenizer."""
        rate, hop, block = int(tokenizer.spec.sample_rate or 0), tokenizer.hop_length, tokenizer.block

        def whole(frames: float) -> int:
            return -(-int(frames) // block) * block

        size = max(block, whole(seconds * rate / hop))
        join = join_of(tokenizer, side, size)
        if join == "exact":
            reach = getattr(tokenizer, side).context
            before, after = (whole(-(-steps // hop) if side == "encoder" else steps) for steps in reach)
            return cls(join, max(size, before + after), before, after)
        if join == "faded":
            margin = whole(min(overlap, seconds / 2) / 2 * rate / hop)
            return cls(join, max(block, size - 2 * margin), margin, margin)
        return cls(join, size)


def join_of(tokenizer: AudioTokenizer, side: Side, frames: int) -> Join:
    """How chunks of so many frames are joined.

    What is causal and reaches further than a chunk streams; it would otherwise be computed twice and more.
    """
    if getattr(tokenizer, "window", None) is not None or hasattr(getattr(tokenizer, side), "stretches"):
        return "windows"
    context, causal = getattr(getattr(tokenizer, side), "context", None), getattr(tokenizer, f"causal_{side}")
    if context is not None and not getattr(tokenizer, "normalize", False):
        unit = tokenizer.hop_length if side == "encoder" else 1
        if not causal or sum(context) <= frames * unit:
            return "exact"
    return "stream" if causal else "faded"


def encode_long(
    tokenizer: AudioTokenizer,
    signal: Signal | Tensor,
    *,
    seconds: float = 30.0,
    overlap: float = 2.0,
    each: bool = False,
    codebooks: int | None = None,
) -> Tokens:
    """Codes of one sound of any length.

    Args:
        tokenizer: see the module for how chunks are joined.
        signal: at the tokenizer's sample rate, with its channels (any number where `each`); a tensor is (C, T).
        seconds: length of a chunk. A sound that is not longer is encoded whole.
        overlap: seconds that neighbouring chunks share where joins are "faded".
        each: every channel is an item of its own, copied to the channels of the tokenizer.
        codebooks: as for `AudioTokenizer.encode`.

    Returns:
        Tokens on the CPU, of one item, or of one per channel.

    Raises:
        ValueError: the rate or the channels are not the tokenizer's, or there are no samples.
    """
    sound = _checked(tokenizer, signal, each)
    channels = tokenizer.spec.input_shape[0]
    option: dict[str, Any] = {} if codebooks is None else {"codebooks": codebooks}

    def read(start: int, stop: int) -> Tensor:
        samples = sound.read(start, stop)
        batch = torch.stack([mix(one[None], channels) for one in samples]) if each else samples[None]
        return batch.to(tokenizer.device)

    def encode(start: int, stop: int) -> Tokens:
        return tokenizer.encode(read(start, stop), **option).to("cpu")

    with torch.inference_mode():
        if sound.length <= seconds * sound.sample_rate:
            return encode(0, sound.length)
        chunks = Chunks.of(tokenizer, "encoder", seconds, overlap)
        if chunks.join == "windows":
            from zoo.long_windows import encode_stretches, encode_windows

            if hasattr(tokenizer.encoder, "stretches"):
                return encode_stretches(tokenizer, read, sound.length, codebooks)
            return encode_windows(tokenizer, encode, sound.length, chunks.size)
        if chunks.join == "stream":
            parts = _encode_stream(tokenizer, read, sound.length, chunks.size, codebooks)
        else:
            parts = _encode_chunks(tokenizer, encode, sound.length, chunks)
        return _chain(parts, sound.length)


def decode_long(
    tokenizer: AudioTokenizer,
    tokens: Tokens,
    *,
    seconds: float = 30.0,
    overlap: float = 2.0,
    generator: torch.Generator | None = None,
) -> Decoded:
    """The sound that codes of any length stand for, decoded as it is read.

    Args:
        tokenizer: see the module for how chunks are joined.
        tokens: one item, or several of one length whose sounds become channels.
        seconds, overlap: as for `encode_long`.
        generator: noise source of stochastic decoders.

    Raises:
        ValueError: the codes do not belong to this tokenizer, or the items differ in length.
    """
    return Decoded(tokenizer, tokens, seconds, overlap, generator)


class Decoded:
    """A `Signal` of decoded codes; see `decode_long`. It decodes going forward, and starts anew to go back.

    Attributes:
        channels: those of the tokenizer, or one for each item.
        sample_rate: Hz.
        length: samples of each channel.
    """

    def __init__(
        self,
        tokenizer: AudioTokenizer,
        tokens: Tokens,
        seconds: float = 30.0,
        overlap: float = 2.0,
        generator: torch.Generator | None = None,
    ) -> None:
        tokenizer.check_tokens(tokens)
        lengths = set(tokenizer.samples(tokens).tolist())
        if len(lengths) != 1:
            raise ValueError(
                f"items of one length become channels, got {sorted(lengths)} samples; decode one at a time"
            )
        self.tokenizer, self.tokens, self.generator = tokenizer, tokenizer.trim(tokens), generator
        self.sample_rate, self.length = int(tokenizer.spec.sample_rate or 0), int(lengths.pop())
        self.channels = tokenizer.spec.input_shape[0] if len(tokens) == 1 else len(tokens)
        self.chunks = Chunks.of(tokenizer, "decoder", seconds, overlap)
        self.whole = self.length <= seconds * self.sample_rate
        self._start, self._held = 0, torch.zeros(self.channels, 0)
        self._pieces = self._decode()

    def read(self, start: int, stop: int) -> Tensor:
        """Samples start to stop: (C, stop - start) float32."""
        if not 0 <= start <= stop <= self.length:
            raise ValueError(f"there are {self.length} samples, asked for {start} to {stop}")
        if start < self._start:
            self._start, self._held = 0, torch.zeros(self.channels, 0)
            self._pieces = self._decode()
        while self._start + self._held.shape[1] < stop:
            passed = min(max(0, start - self._start), self._held.shape[1])
            with torch.inference_mode():
                batch = next(self._pieces).float().cpu()
            piece = batch[0] if len(batch) == 1 else batch.mean(1)
            self._start, self._held = self._start + passed, torch.cat([self._held[:, passed:], piece], 1)
        return self._held[:, start - self._start : stop - self._start]

    def _decode(self) -> Iterator[Tensor]:
        """Consecutive pieces (B, C, n)."""
        if self.whole:
            yield self.tokenizer.decode(self.tokens.to(self.tokenizer.device), generator=self.generator)
        elif self.chunks.join == "windows":
            from zoo.long_windows import decode_windows

            yield from decode_windows(self.tokenizer, self.tokens, self.length, self.chunks.size)
        elif self.chunks.join == "stream":
            yield from self._stream()
        else:
            yield from self._chunks()

    def _chunks(self) -> Iterator[Tensor]:
        """Where faded, neighbours share what is around their join, and one goes down as the other comes up."""
        chunks, hop, faded = self.chunks, self.tokenizer.hop_length, self.chunks.join == "faded"
        count, tail = self.tokenizer.frames(self.length), torch.zeros(0)
        for start, stop in blocks(count, chunks.size):
            first, last = max(0, start - chunks.before), min(count, stop + chunks.after)
            part = self.tokenizer.part(self.tokens, first, last)
            size = torch.full((len(self.tokens), 1), min(last * hop, self.length) - first * hop)
            part = replace(part, size=size).to(self.tokenizer.device)
            sound = self.tokenizer.decode_part(part, first, self.generator)
            if not faded:
                yield sound[..., (start - first) * hop : (stop - first) * hop]
                continue
            if start:
                shared = tail.shape[-1]
                rise = torch.linspace(0, torch.pi / 2, shared + 2, device=sound.device)[1:-1].sin().square()
                sound = torch.cat([tail * (1 - rise) + sound[..., :shared] * rise, sound[..., shared:]], -1)
            keep = sound.shape[-1] if stop == count else (stop - chunks.after - first) * hop
            tail = sound[..., keep:]
            yield sound[..., :keep]

    def _stream(self) -> Iterator[Tensor]:
        tokenizer = self.tokenizer
        with tokenizer.streaming(len(self.tokens)) as stream:
            for start, stop in blocks(tokenizer.frames(self.length), self.chunks.size):
                size = torch.full((len(self.tokens), 1), min(stop * tokenizer.hop_length, self.length))
                size -= start * tokenizer.hop_length
                part = replace(tokenizer.part(self.tokens, start, stop), size=size)
                yield stream.decode(part.to(tokenizer.device))
            yield stream.finish_decode()


def _checked(tokenizer: AudioTokenizer, signal: Signal | Tensor, each: bool) -> Signal:
    spec = tokenizer.spec
    if spec.modality != "audio":
        raise ValueError(f"{type(tokenizer).__name__} is for {spec.modality}, expected a tokenizer of sound")
    if isinstance(signal, Tensor):
        signal = Array(signal, int(spec.sample_rate or 0))
    if signal.sample_rate != spec.sample_rate:
        raise ValueError(
            f"expected sound at {spec.sample_rate} Hz, got {signal.sample_rate}; use zoo.data.signals.Resampled"
        )
    if signal.channels != spec.input_shape[0] and not each:
        raise ValueError(
            f"expected {spec.input_shape[0]} channels, got {signal.channels}; use zoo.data.signals.Mixed, or each=True"
        )
    if signal.length < 1:
        raise ValueError("expected at least one sample, got none")
    return signal


def _encode_chunks(
    tokenizer: AudioTokenizer, encode: Callable[[int, int], Tokens], length: int, chunks: Chunks
) -> list[Tokens]:
    """Chunks with their surroundings, cut to what is theirs."""
    hop, parts = tokenizer.hop_length, []
    count = tokenizer.frames(length)
    for start, stop in blocks(count, chunks.size):
        first, last = max(0, start - chunks.before), min(count, stop + chunks.after)
        tokens = encode(first * hop, min(length, last * hop))
        if tokens.durations is None:
            parts.append(tokenizer.part(tokens, start - first, stop - first))
        else:
            parts.append(_segments(tokenizer, tokens, first, start, stop if stop < count else last + 1))
    return parts


def _segments(tokenizer: AudioTokenizer, tokens: Tokens, first: int, start: int, stop: int) -> Tokens:
    """Tokens that last several frames: those whose middle lies in start to stop, of a chunk that begins at `first`."""
    items = []
    for number in range(len(tokens)):
        item = tokenizer.trim(tokens[number])
        assert item.positions is not None and item.durations is not None
        places = item.positions + first
        middle = places + item.durations // 2
        own = ((middle >= start) & (middle < stop))[0]
        items.append(
            replace(
                item,
                indices=item.indices[:, own],
                latents=None if item.latents is None else item.latents[:, own],
                positions=places[:, own],
                durations=item.durations[:, own],
                lengths=None,
                size=None,
            )
        )
    return Tokens.cat(items)


def _encode_stream(
    tokenizer: AudioTokenizer, read: Callable[[int, int], Tensor], length: int, frames: int, codebooks: int | None
) -> list[Tokens]:
    parts = []
    with tokenizer.streaming(len(read(0, 1))) as stream:
        for start, stop in blocks(length, frames * tokenizer.hop_length):
            parts.append(stream.encode(read(start, stop)).to("cpu"))
        parts.append(stream.finish_encode().to("cpu"))
    return [
        replace(part, indices=part.indices[..., :codebooks], codebook_sizes=part.codebook_sizes[:codebooks])
        for part in parts
    ]


def _chain(parts: Sequence[Tokens], length: int) -> Tokens:
    """One after the other in time, scale by scale."""
    if any(part.lengths is not None for part in parts):
        return Tokens.cat([_chain([_item(part, item) for part in parts], length) for item in range(len(parts[0]))])
    scales = list(zip(*(part.by_scale() for part in parts), strict=True))

    def joined(name: str) -> Tensor | None:
        found = [getattr(part, name) for part in parts]
        return None if found[0] is None else torch.cat(found, 1)

    return replace(
        parts[0],
        indices=torch.cat([torch.cat(scale, 1) for scale in scales], 1),
        size=torch.full((len(parts[0]), 1), length),
        latents=joined("latents"),
        positions=joined("positions"),
        durations=joined("durations"),
        scales=tuple(sum(piece.shape[1] for piece in scale) for scale in scales) if parts[0].scales else (),
    )


def _item(tokens: Tokens, number: int) -> Tokens:
    """One item of segments, without what fills it up."""
    item = tokens[number]
    if item.lengths is None:
        return item
    count = int(item.lengths[0])
    assert item.positions is not None and item.durations is not None
    return replace(
        item,
        indices=item.indices[:, :count],
        lengths=None,
        latents=None if item.latents is None else item.latents[:, :count],
        positions=item.positions[:, :count],
        durations=item.durations[:, :count],
    )
