"""Labelled files to what a frozen tokenizer makes of them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from zoo.data.sources import FolderSource, Source, decode_image
from zoo.metrics.strands import alphabets
from zoo.tokenizer import Tokenizer
from zoo.tokens import Tokens

__all__ = ["Embedded", "Encoding", "Told", "ids_of"]

Told = Callable[[str, Exception | None], None]
WINDOW = 8  # batches whose sounds are sorted by length, so that little is padded


@dataclass(frozen=True, slots=True)
class Embedded:
    """What is known of one item.

    Attributes:
        place: of the item in its source.
        latents: (n, D) float32, quantized, of the positions that are no padding.
        ids: (n, Q) int64 with codebooks told apart by ranges; None for continuous latents.
        whole: whether no position was padding, so that items can be compared position by position.
    """

    place: int
    latents: Tensor
    ids: Tensor | None
    whole: bool


@dataclass(frozen=True, slots=True)
class Encoding:
    """How files become tokens.

    Attributes:
        tokenizer: frozen, on its device.
        size: (h, w) of pictures: the shorter side is fitted, the centre cut out.
        seconds: of each sound, from its start.
        batch_size: items that are encoded together.
    """

    tokenizer: Tokenizer
    size: tuple[int, int] | None = None
    seconds: float = 10.0
    batch_size: int = 16

    def run(self, source: Source, digest: Any, told: Told) -> list[Embedded]:
        """Every item that can be read and encoded, in the source's order.

        Args:
            digest: a hash that names and contents are added to.
            told: gets the name of every item, and why it failed if it did.
        """
        found: list[Embedded] = []
        waiting: list[tuple[int, Tensor]] = []
        ahead = self.batch_size * (WINDOW if self.tokenizer.spec.modality == "audio" else 1)
        for place, name in enumerate(source.names):
            try:
                data = source.read(place)
                digest.update(f"{name} {hashlib.sha256(data).hexdigest()}\n".encode())
                waiting.append((place, self._read(source, place, data)))
            except (ValueError, OSError) as error:
                told(name, error)
                continue
            if len(waiting) == ahead:
                found += self._all(source.names, waiting, told)
                waiting = []
        found += self._all(source.names, waiting, told)
        return sorted(found, key=lambda item: item.place)

    def _read(self, source: Source, place: int, data: bytes) -> Tensor:
        """One item as the tokenizer takes it, without batch axis."""
        spec = self.tokenizer.spec
        if not data:
            raise ValueError("the file is empty (0 bytes)")
        if spec.modality == "image":
            from zoo.data.images import fit

            picture = decode_image(data).float() / 127.5 - 1
            return fit(picture, self.size or (spec.input_shape[1], spec.input_shape[2]), "crop")[0]
        if spec.modality == "audio":
            return self._sound(source.names[place], data)
        return self._cloud(source, place)

    def _sound(self, name: str, data: bytes) -> Tensor:
        from zoo.data.audio import AudioFile
        from zoo.data.signals import Mixed, Resampled

        spec = self.tokenizer.spec
        with AudioFile(name, io.BytesIO(data)) as file:
            signal = Resampled(Mixed(file, spec.input_shape[0]), int(spec.sample_rate or 0))
            return signal.read(0, min(signal.length, int(self.seconds * signal.sample_rate))).clone()

    def _cloud(self, source: Source, place: int) -> Tensor:
        """Points of a mesh's surface, or of a cloud; always the same ones."""
        import numpy as np

        from zoo.families.shape import ShapeTokenizer
        from zoo.shapes.meshes import Mesh, read_shape
        from zoo.shapes.placement import Frame
        from zoo.shapes.sampling import sample_surface

        tokenizer = self.tokenizer
        if not isinstance(source, FolderSource) or not isinstance(tokenizer, ShapeTokenizer):
            raise ValueError("shapes are read from folders of meshes only")
        shape = read_shape(source.root / source.names[place])
        if not isinstance(shape, Mesh):
            raise ValueError("a cloud of points; a probe samples meshes, all with equally many points")
        count, columns = tokenizer.spec.input_shape
        frame = Frame.around(shape.vertices, tokenizer.placement.kind, tokenizer.placement.extent)
        points, normals = sample_surface(shape, count, np.random.default_rng(0))
        parts = [frame.normalise(points), normals][: columns // 3]
        return torch.from_numpy(np.concatenate(parts, axis=1)).float()

    def _all(self, names: Sequence[str], waiting: list[tuple[int, Tensor]], told: Told) -> list[Embedded]:
        """What comes of items; those that fail together are tried one by one."""
        waiting.sort(key=lambda pair: pair[1].shape[-1])
        found = []
        for start in range(0, len(waiting), self.batch_size):
            batch = waiting[start : start + self.batch_size]
            for place, result in self._each(batch):
                told(names[place], result if isinstance(result, Exception) else None)
                if not isinstance(result, Exception):
                    found.append(result)
        return found

    def _each(self, batch: list[tuple[int, Tensor]]) -> Iterator[tuple[int, Embedded | Exception]]:
        try:
            yield from self._together(batch)
        except (ValueError, RuntimeError) as error:
            if len(batch) == 1:
                yield batch[0][0], error
                return
            for single in batch:
                yield from self._each([single])

    @torch.inference_mode()
    def _together(self, batch: list[tuple[int, Tensor]]) -> list[tuple[int, Embedded | Exception]]:
        tokenizer, option = self.tokenizer, dict[str, Any]()
        items = [item for _, item in batch]
        if tokenizer.spec.modality == "audio":
            lengths = torch.tensor([item.shape[-1] for item in items])
            if bool((lengths != lengths[0]).any()):
                option["lengths"] = lengths.to(tokenizer.device)
            whole = pad_sequence([item.T for item in items], batch_first=True).mT
        else:
            whole = torch.stack(items)
        if tokenizer.spec.modality == "image":
            from zoo.families.text import TextConditioned

            option |= {"text": tokenizer.describe(None, 1)} if isinstance(tokenizer, TextConditioned) else {}
        tokens = tokenizer.encode(whole.to(tokenizer.device), **option)
        latents, tokens = tokenizer.code_latents(tokens).float().cpu(), tokens.to("cpu")
        ids, mask = (None if tokenizer.spec.continuous else ids_of(tokens)), tokens.mask
        real = _real(tokens, latents.shape[1])
        if not torch.isfinite(latents[real]).all():
            raise ValueError("the tokenizer gave NaN or infinite latents")
        return [
            (
                place,
                Embedded(
                    place,
                    latents[row, real[row]].clone(),
                    None if ids is None else ids[row, mask[row]].clone(),
                    bool(real[row].all()),
                ),
            )
            for row, (place, _) in enumerate(batch)
        ]


def _real(tokens: Tokens, width: int) -> Tensor:
    """(B, width) bool, which of the decoder's latents stand for codes: those of each token, or of the finest scale."""
    mask = tokens.mask
    if width != tokens.num_tokens and tokens.scales and tokens.scales[-1] == width:
        return mask[:, -width:]
    if width != tokens.num_tokens and bool(mask.all()):
        return mask.new_ones(len(mask), width)
    return mask


def ids_of(tokens: Tokens) -> Tensor:
    """Codes (B, N, Q) with a range of ids for each codebook, at each scale where scales have codebooks of their own."""
    starts = torch.tensor([0, *alphabets(tokens)]).cumsum(0)[:-1]
    books = len(tokens.codebook_sizes)
    if tokens.distinct_scales and tokens.scales:
        starts = starts.view(-1, books).repeat_interleave(torch.tensor(tokens.scales), 0)
    return tokens.indices + starts.to(tokens.indices.device)
