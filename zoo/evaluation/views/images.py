"""Pictures: cut and resized as a protocol says, reconstructions brought to its levels."""

from __future__ import annotations

import io
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import PIL
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from zoo.data.images import MAX_PIXELS, from_pil, to_pil, write_image
from zoo.data.sources import IMAGES, Kind
from zoo.evaluation.outcome import Outcome, Setting
from zoo.evaluation.passage import Passage
from zoo.evaluation.views.pictures import CROPS, LEVELS, originals, reconstructions

__all__ = ["ImageView", "Picture"]

KEYS = ("size", "resize", "crop", "levels")


@dataclass(frozen=True, slots=True)
class Picture:
    """An item.

    Attributes:
        pixels: (3, h, w) float32 in [-1, 1], of 256 levels.
        name: of its file.
    """

    pixels: Tensor
    name: str


class ImageView:
    """How a protocol looks at pictures; see `zoo.evaluation.views.base.View`.

    The keys of `view`: `size`, the side of the square that is cut out, or null for whole pictures; `resize`, a key of
    `CROPS`; `crop`, always "center"; `levels`, a key of `LEVELS`.

    Raises:
        ValueError: an unknown key or value, or the tokenizer is of another size.
    """

    kind: ClassVar[Kind] = IMAGES
    extent_unit: ClassVar[str] = "pixel"

    def __init__(self, passage: Passage, view: Mapping[str, Any], *, surfaces: bool = False, seed: int = 0) -> None:
        self.size: int | None = view.get("size")
        self.resize: str = view.get("resize", "torch_bicubic")
        self.levels: str = view.get("levels", "round")
        if unknown := [str(key) for key in view if key not in KEYS]:
            raise ValueError(f"the view of a protocol for images has no {', '.join(unknown)}; it has {', '.join(KEYS)}")
        for key, value, known in (
            ("resize", self.resize, CROPS),
            ("levels", self.levels, LEVELS),
            ("crop", view.get("crop", "center"), ("center",)),
        ):
            if value not in known:
                raise ValueError(f"view.{key} is one of {', '.join(known)}, got {value!r}")
        spec = passage.spec
        if not spec.any_size and (self.size, self.size) != spec.input_shape[1:]:
            height, width = spec.input_shape[1:]
            wanted = "pictures of their own size" if self.size is None else f"{self.size} x {self.size}"
            way = f"; --size {height} measures so, under another key" if height == width else ""
            raise ValueError(
                f"{type(passage.tokenizer).__name__} takes {height} x {width} and the protocol has {wanted}{way}"
            )
        self.passage = passage

    def read(self, data: bytes, name: str) -> Picture:
        """Decode, cut and resize."""
        picture = _open(data)
        if self.size is not None:
            picture = CROPS[self.resize](picture, self.size)
        return Picture(from_pil(picture), name)

    def shape(self, item: Picture) -> Hashable:
        """Height and width."""
        return tuple(item.pixels.shape[1:])

    def run(self, items: Sequence[Picture], settings: Sequence[Setting]) -> Iterator[tuple[Setting, Outcome]]:
        """Encode once, decode at every setting."""
        passage = self.passage
        pixels = torch.stack([item.pixels for item in items])
        extent = torch.full((len(items),), pixels.shape[2] * pixels.shape[3], dtype=torch.float64)
        code = passage.encode(pixels, extent)
        target = originals(pixels, self.levels).to(passage.device)
        for setting in settings:
            tokens = passage.cut(code, setting)
            output = reconstructions(passage.decode(tokens, setting, extent), self.levels)
            if output.shape != target.shape:
                raise ValueError(f"pictures {tuple(target.shape)} came back as {tuple(output.shape)}")
            yield setting, Outcome(output, target, tokens, passage.spec, extent, tuple(item.name for item in items))

    def sample(self, outcome: Outcome, index: int, stem: Path, *, original: bool) -> Path:
        """A PNG."""
        return write_image(stem.with_name(f"{stem.name}.png"), (outcome.target if original else outcome.output)[index])

    def describe(self) -> dict[str, Any]:
        """Size, filter, crop and levels, and Pillow's version."""
        cut = {} if self.size is None else {"resize": self.resize, "crop": "center"}
        how = f"{self.levels}: {LEVELS[self.levels]}"
        return {"size": self.size, **cut, "levels": how, "pillow": PIL.__version__, "torch": torch.__version__}


def _open(data: bytes) -> Image.Image:
    """The 8-bit RGB picture of a file: upright, on white, colours as `zoo.data.images.from_pil` reads them."""
    if not data:
        raise ValueError("the file is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ValueError(f"{image.width} x {image.height} pixels, at most {MAX_PIXELS} are read")
                image.load()
                return to_pil(from_pil(image))
    except UnidentifiedImageError as error:
        raise ValueError("not an image of a known format") from error
    except (
        OSError,
        SyntaxError,
        EOFError,
        IndexError,
        TypeError,
        OverflowError,
        Image.DecompressionBombError,
    ) as error:
        raise ValueError(f"damaged or truncated image ({error})") from error
