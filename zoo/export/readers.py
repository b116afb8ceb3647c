"""From an item of a source to what its tokenizer takes, and from batches of that to tokens."""

from __future__ import annotations

import hashlib
import io
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from zoo.data.images import FORMATS, MAX_PIXELS, FitMode, fit, from_pil
from zoo.data.sources import Source
from zoo.export.format import Layout
from zoo.export.request import Request
from zoo.tokenizer import Tokenizer
from zoo.tokens import Tokens

if TYPE_CHECKING:
    from zoo.data.audio import AudioFile
    from zoo.families.audio import AudioTokenizer
    from zoo.families.shape import ShapeTokenizer

__all__ = ["Reader", "Sample", "open_reader"]

WINDOW = 4  # batches whose items are sorted into batches together, where items differ in size


@dataclass(frozen=True, slots=True)
class Sample:
    """An item ready for its tokenizer.

    Attributes:
        value: (C, ...) float; of a sound that goes through in pieces, no samples.
        size: what `Tokens.size` is to be, where the tokenizer cannot know; None for what it says.
        long: whether the sound goes through in pieces.
    """

    value: Tensor
    size: Tensor | None = None
    long: bool = False


class Reader(ABC):
    """What is done with the items of one modality.

    Args:
        tokenizer: makes the tokens.
        request: the options of the export.

    Attributes:
        window: items among which batches are formed; a batch never depends on what is outside of it.
    """

    def __init__(self, tokenizer: Tokenizer, request: Request) -> None:
        self.tokenizer, self.request = tokenizer, request
        self.window = request.batch_size if not tokenizer.spec.any_size else WINDOW * request.batch_size

    @abstractmethod
    def read(self, source: Source, index: int) -> Sample:
        """Item `index`, decoded; may run in several threads at once.

        Raises:
            ValueError, OSError: it cannot be used.
        """

    def batches(self, samples: Sequence[Sample], size: int) -> Iterator[list[int]]:
        """Which samples of a window go through together, at most `size`: those of one shape, in their order."""
        order = sorted(range(len(samples)), key=lambda place: tuple(samples[place].value.shape))
        for _, group in groupby(order, key=lambda place: tuple(samples[place].value.shape)):
            places = list(group)
            for start in range(0, len(places), size):
                yield places[start : start + size]

    def stack(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor | None]:
        """A batch (B, C, ...), and the lengths (B,) of its items where they differ."""
        return torch.stack([sample.value for sample in samples]), None

    def encode(self, batch: Tensor, lengths: Tensor | None, captions: Sequence[str]) -> Tokens:
        """Tokens of a batch, on the CPU."""
        options: dict[str, Any] = {} if lengths is None else {"lengths": lengths.to(self.tokenizer.device)}
        batch = batch.to(self.tokenizer.device, non_blocking=True)
        with torch.inference_mode(), self.precision():
            return self.tokenizer.encode(batch, **options, **self.beside(captions)).to("cpu")

    def beside(self, captions: Sequence[str]) -> dict[str, Any]:
        """What the tokenizer is told beside a batch."""
        from zoo.families.text import TextConditioned

        if isinstance(self.tokenizer, TextConditioned):
            return {"text": self.tokenizer.describe(list(captions), len(captions))}
        return {}

    def kept(self, tokens: Tokens) -> Tokens:
        """What is left of one item's tokens after `--tokens` and `--codebooks`."""
        if self.request.codebooks is not None:
            tokens = tokens.keep_codebooks(self.request.codebooks)
        return tokens if self.request.tokens is None else tokens.keep(self.request.tokens)

    def precision(self) -> AbstractContextManager[object]:
        """The autocast that `--dtype` asks for."""
        if self.request.dtype == "float32":
            return nullcontext()
        return torch.autocast(self.tokenizer.device.type, dtype=getattr(torch, self.request.dtype))

    def layout(self) -> Layout:
        """How the tokens of this tokenizer become rows, found by one of noise."""
        shape, noise = self.tokenizer.spec.input_shape, torch.Generator().manual_seed(0)
        example = (torch.randn(1, *shape, generator=noise) / 4).clamp(-1, 1)
        tokens = self.kept(self.encode(example, None, [""])[0])
        names = ("positions", "durations", "gains", "latents")
        return Layout(
            tokens.codebook_sizes,
            tokens.order,
            tokens.scales,
            tokens.distinct_scales,
            tuple(name for name in names if getattr(tokens, name) is not None),
            self.tokenizer.spec.modality == "shape",
            0 if tokens.latents is None else tokens.latents.shape[-1],
        )


class ImageReader(Reader):
    """Pictures, at the tokenizer's size, or at their own."""

    def read(self, source: Source, index: int) -> Sample:
        """As `Reader.read`."""
        image = decode_picture(source.read(index))
        spec, most, side = self.tokenizer.spec, self.request.max_side, self.request.size
        if side is not None or not spec.any_size:
            mode: FitMode = self.request.fit  # type: ignore[assignment]
            return Sample(fit(image, (side, side) if side else (spec.input_shape[1], spec.input_shape[2]), mode)[0])
        longest = max(image.shape[1:])
        if most is None or longest <= most:
            return Sample(image)
        height, width = (max(1, round(side * most / longest)) for side in image.shape[1:])
        return Sample(fit(image, (height, width), "stretch")[0])


class SoundReader(Reader):
    """Sounds of any length; those longer than a chunk go through in pieces, and are read while they do."""

    tokenizer: AudioTokenizer

    def open(self, source: Source, index: int) -> AudioFile:
        """A sound file of the source."""
        from zoo.data.audio import AudioFile

        return AudioFile(source.names[index], source.open(index))

    def fitted(self, file: AudioFile) -> Any:
        """A file at the tokenizer's rate and channels."""
        from zoo.data.signals import Mixed, Resampled, Signal

        channels = self.tokenizer.spec.input_shape[0]
        signal: Signal = file if file.channels == channels else Mixed(file, channels)
        return Resampled(signal, int(self.tokenizer.spec.sample_rate or 0))

    def read(self, source: Source, index: int) -> Sample:
        """As `Reader.read`."""
        with self.open(source, index) as file:
            signal = self.fitted(file)
            if signal.length > self.request.chunk * signal.sample_rate:
                return Sample(torch.zeros(self.tokenizer.spec.input_shape[0], 0), long=True)
            return Sample(signal.read(0, signal.length).clone())

    def encode_long(self, source: Source, index: int) -> Tokens:
        """Tokens of a long sound."""
        from zoo.long_audio import encode_long

        with self.open(source, index) as file, self.precision():
            options: dict[str, Any] = {"seconds": self.request.chunk, "codebooks": self.request.codebooks}
            return encode_long(self.tokenizer, self.fitted(file), **options)

    def batches(self, samples: Sequence[Sample], size: int) -> Iterator[list[int]]:
        """Those of similar length together, so that little is padded; long ones alone."""
        order = sorted(range(len(samples)), key=lambda place: samples[place].value.shape[-1])
        yield from ([place] for place in order if samples[place].long)
        short = [place for place in order if not samples[place].long]
        for start in range(0, len(short), size):
            yield short[start : start + size]

    def stack(self, samples: Sequence[Sample]) -> tuple[Tensor, Tensor | None]:
        """As `Reader.stack`; (B, C, T) with zeros behind shorter sounds."""
        lengths = torch.tensor([sample.value.shape[-1] for sample in samples])
        batch = pad_sequence([sample.value.T for sample in samples], batch_first=True).mT
        return batch, None if bool((lengths == lengths[0]).all()) else lengths

    def beside(self, captions: Sequence[str]) -> dict[str, Any]:
        """How many codebooks are computed."""
        return {} if self.request.codebooks is None else {"codebooks": self.request.codebooks}

    def kept(self, tokens: Tokens) -> Tokens:
        """One item's codes without what fills up their batch."""
        return self.tokenizer.trim(tokens)


class ShapeReader(Reader):
    """Meshes and clouds, or prepared shapes; the points of a shape are drawn by a seed that is its name."""

    tokenizer: ShapeTokenizer

    def read(self, source: Source, index: int) -> Sample:
        """As `Reader.read`."""
        from zoo.shapes.placement import Frame

        name = source.names[index]
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))
        count, columns = self.tokenizer.spec.input_shape
        points, normals, outline = self._drawn(source, index, count, rng)
        frame = Frame.around(outline, self.tokenizer.placement.kind, self.tokenizer.placement.extent)
        parts = [frame.normalise(points)]
        if columns == 6:
            if normals is None:
                raise ValueError(f"{name}: {self.request.model} reads normals, the cloud has none")
            parts.append(normals)
        cloud = torch.from_numpy(np.concatenate(parts, axis=1)).float()
        return Sample(cloud, torch.tensor([frame.numbers], dtype=torch.float64))

    def _drawn(self, source: Source, index: int, count: int, rng: np.random.Generator) -> tuple[Any, Any, Any]:
        """Points (P, 3) of a surface, normals (P, 3) or None, and points (V, 3) that its box or ball goes around."""
        from zoo.shapes.meshes import Mesh, read_shape
        from zoo.shapes.placement import Frame
        from zoo.shapes.prepared import parse_prepared
        from zoo.shapes.sampling import sample_surface

        name = source.names[index]
        if name.endswith(".safetensors"):
            arrays = parse_prepared(source.read(index))
            world = Frame.of(arrays["frame"]).restore(arrays["points"].astype(np.float64))
            chosen = rng.permutation(len(world))[:count]
            return world[chosen], arrays["normals"][chosen].astype(np.float64), world
        with TemporaryDirectory() as folder:
            path = Path(folder) / Path(name).name
            path.write_bytes(source.read(index))
            shape = read_shape(path)
        if isinstance(shape, Mesh):
            return *sample_surface(shape, count, rng), shape.vertices
        chosen = rng.permutation(len(shape.points))[:count]
        return shape.points[chosen], None if shape.normals is None else shape.normals[chosen], shape.points


def open_reader(tokenizer: Tokenizer, request: Request) -> Reader:
    """The reader for a tokenizer's modality.

    Raises:
        ValueError: an option does not fit the tokenizer.
    """
    from zoo.families.audio import AudioTokenizer
    from zoo.families.shape import ShapeTokenizer

    if request.codebooks is not None:
        from quantizers.base import check_codebooks

        check_codebooks(tokenizer.quantizer, request.codebooks)
    if request.tokens is not None and tokenizer.spec.order not in ("coarse_to_fine", "scales"):
        raise ValueError(
            f"--tokens keeps a prefix, which needs an order from coarse to fine; {request.model} has "
            f"{tokenizer.spec.order!r}"
        )
    spec = tokenizer.spec
    if request.size is not None and (spec.modality != "image" or not spec.any_size):
        raise ValueError(f"--size is for tokenizers of pictures of any size, {request.model} takes {spec.input_shape}")
    if isinstance(tokenizer, AudioTokenizer):
        return SoundReader(tokenizer, request)
    return (ShapeReader if isinstance(tokenizer, ShapeTokenizer) else ImageReader)(tokenizer, request)


def decode_picture(data: bytes) -> Tensor:
    """An encoded picture as (3, H, W) float32 in [-1, 1]; see `zoo.data.images.from_pil`.

    Raises:
        ValueError: empty, damaged, too large, or of no known format.
    """
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise ValueError("the file is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ValueError(f"{image.width} x {image.height} pixels; at most {MAX_PIXELS} are read")
                image.load()
                return from_pil(image)
    except UnidentifiedImageError as error:
        raise ValueError(f"not an image of a known format; expected {', '.join(FORMATS)}") from error
    except (OSError, SyntaxError, EOFError, IndexError, TypeError, OverflowError) as error:
        raise ValueError(f"damaged or truncated image ({error})") from error
