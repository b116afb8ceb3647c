"""Captions for tokenizers that read text: frozen towers that turn them into features, and what such families share.

A tower is no part of a tokenizer's parameters or state. Its network is loaded at the first caption, once a process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from zoo.tokenizer import Tokenizer

__all__ = ["CLIPText", "HashedText", "T5Text", "TextConditioned", "TextTower"]


class TextTower(nn.Module):
    """Base of the towers: captions in, features (B, L, W) out."""

    def forward(self, captions: Sequence[str], device: torch.device | str = "cpu") -> Tensor:
        """Features of captions.

        Args:
            captions: B texts; "" is a caption as well.
            device: where they are computed.

        Returns:
            (B, L, W) float32, without gradient.

        Raises:
            RuntimeError: a package or weights are missing; the message says what to install or fetch.
        """
        raise NotImplementedError(f"{type(self).__name__} must define forward")


class CLIPText(TextTower):
    """The text tower of a CLIP of open_clip: all positions after the last norm, not the pooled one.

    The default is what TA-TiTok was trained with, ViT-L-14-336 of OpenAI: (B, 77, 768).

    Args:
        name: an architecture of open_clip.
        pretrained: one of the tags that open_clip has for it. Paths and other sources are refused.

    Raises:
        RuntimeError (when called): open_clip is not installed, knows no such weights, or cannot get them.
    """

    def __init__(self, name: str = "ViT-L-14-336", pretrained: str = "openai") -> None:
        super().__init__()
        self.name, self.pretrained = name, pretrained

    @torch.no_grad()
    def forward(self, captions: Sequence[str], device: torch.device | str = "cpu") -> Tensor:
        """As `TextTower.forward`; longer captions are cut to the context of the model."""
        net, tokenize = _clip(self.name, self.pretrained)
        kept: list[Tensor] = []
        handle = net.ln_final.register_forward_hook(lambda module, inputs, output: kept.append(output))
        try:
            with torch.autocast(torch.device(device).type, enabled=False):
                net.to(device).encode_text(tokenize(list(captions)).to(device))
        finally:
            handle.remove()
        return kept[0].float()

    def extra_repr(self) -> str:
        return f"{self.name!r}, {self.pretrained!r}"


class T5Text(TextTower):
    """The encoder of a T5 of transformers: (B, length, W), zeros behind the end of a caption.

    Args:
        name: a hub id or folder of a T5. W is 512 for small, 768 for base, 1024 for large, 2048 for XL, 4096 for XXL.
        length: positions; longer captions are cut.
        revision: hub commit, tag or branch.

    Raises:
        RuntimeError (when called): transformers is not installed, or the weights cannot be had.
    """

    def __init__(self, name: str = "google/t5-v1_1-xl", length: int = 128, revision: str | None = None) -> None:
        super().__init__()
        self.name, self.length, self.revision = name, length, revision

    @torch.no_grad()
    def forward(self, captions: Sequence[str], device: torch.device | str = "cpu") -> Tensor:
        """As `TextTower.forward`."""
        net, tokenize = _t5(self.name, self.revision)
        ids = tokenize(
            list(captions), padding="max_length", truncation=True, max_length=self.length, return_tensors="pt"
        )
        mask = ids["attention_mask"].to(device)
        with torch.autocast(torch.device(device).type, enabled=False):
            states = net.to(device)(input_ids=ids["input_ids"].to(device), attention_mask=mask).last_hidden_state
        return states.float() * mask[..., None]

    def extra_repr(self) -> str:
        return f"{self.name!r}, length={self.length}"


class HashedText(TextTower):
    """Words as sums of hashed letter groups: nothing learned, nothing to download, for tests and small models.

    A word is the sum of fixed random sign vectors, one for each of its groups of 2 to 4 bytes, over the root of their
    number: fastText (arXiv 1607.04606) before training. Words that share letters are near each other, meaning plays no
    part. Behind the last word stands a row that marks the end, then zeros. Equal on every machine.

    Args:
        dim: W.
        length: L, the end included; later words are cut.
    """

    def __init__(self, dim: int = 64, length: int = 16) -> None:
        super().__init__()
        if min(dim, length) < 1:
            raise ValueError(f"HashedText expects dim and length of at least 1, got {dim} and {length}")
        self.dim, self.length = dim, length

    def forward(self, captions: Sequence[str], device: torch.device | str = "cpu") -> Tensor:
        """As `TextTower.forward`."""
        features = torch.zeros(len(captions), self.length, self.dim)
        for row, caption in enumerate(captions):
            words = caption.lower().split()[: self.length - 1]
            for place, word in enumerate([*words, ""]):  # no word is empty, so that the empty one can mark the end
                features[row, place] = _hashed_word(word, self.dim)
        return features.to(device)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, length={self.length}"


class TextConditioned(Tokenizer):
    """What families that read a text share: `text=` beside the input or the tokens, as captions or as features.

    A text is one caption for the whole batch, a list with one for each item, features (B, L, W) of the tower that the
    model was trained with, or None for empty captions. It is side information that the receiver has too: tokens do not
    carry it, their bits do not count it, and decoding needs the one that the encoder was told.

    Attributes:
        tower: turns captions into features; without one, only features are taken.
    """

    tower: TextTower | None

    @torch.compiler.disable
    def describe(self, text: str | Sequence[str] | Tensor | None, count: int) -> Tensor:
        """Features (count, L, W) of a text, on this tokenizer's device.

        Raises:
            ValueError: not as many texts as items, something else than text, or captions without a tower.
            RuntimeError: the tower's package or weights are missing.
        """
        name = type(self).__name__
        if isinstance(text, Tensor):
            if text.ndim != 3 or not text.is_floating_point() or len(text) not in (1, count):
                raise ValueError(
                    f"{name} expects text features ({count}, L, W) of floats, got {text.dtype} {tuple(text.shape)}"
                )
            return text.to(self.device).expand(count, -1, -1)
        captions = [text or ""] * count if text is None or isinstance(text, str) else list(text)
        if len(captions) != count or not all(isinstance(caption, str) for caption in captions):
            raise ValueError(
                f"{name} expects one caption for each of {count} items, one for all, or features; got {len(captions)} "
                f"of {', '.join(sorted({type(caption).__name__ for caption in captions})) or 'nothing'}"
            )
        if self.tower is None:
            raise ValueError(f"{name} was built without a text tower; pass text= as features (B, L, W)")
        if len(set(captions)) == 1:
            return self.tower(captions[:1], self.device).expand(count, -1, -1)
        return self.tower(captions, self.device)


@lru_cache(maxsize=2)
def _clip(name: str, pretrained: str) -> tuple[Any, Any]:
    """A CLIP without its image tower, frozen, and its text tokenizer."""
    what = f"the text tower {name} ({pretrained})"
    try:
        import open_clip
    except ImportError as error:
        raise RuntimeError(_missing(what, "open_clip")) from error
    if (name, pretrained) not in open_clip.list_pretrained():
        raise RuntimeError(f"open_clip has no weights {pretrained!r} for {name!r}; see open_clip.list_pretrained()")
    quick = bool(open_clip.get_pretrained_cfg(name, pretrained).get("quick_gelu", False))
    try:
        net = open_clip.create_model(name, pretrained=pretrained, force_quick_gelu=quick)
        tokenize = open_clip.get_tokenizer(name)
    except (RuntimeError, OSError) as error:
        raise RuntimeError(_absent(what, error)) from error
    if not hasattr(net, "ln_final"):
        raise RuntimeError(f"{what} is not built like CLIP: it has no last norm to read; pass text= as features")
    net.visual = None
    return net.eval().requires_grad_(False), tokenize


@lru_cache(maxsize=2)
def _t5(name: str, revision: str | None) -> tuple[Any, Any]:
    """The encoder of a T5, frozen, and its text tokenizer."""
    try:
        from transformers import AutoTokenizer, T5EncoderModel
    except ImportError as error:
        raise RuntimeError(_missing(f"the text tower {name}", "transformers")) from error
    try:
        net = T5EncoderModel.from_pretrained(name, revision=revision or "main")
        tokenize = AutoTokenizer.from_pretrained(name, revision=revision or "main")
    except (RuntimeError, OSError, ValueError, ImportError) as error:
        raise RuntimeError(_absent(f"the text tower {name}", error)) from error
    return net.float().eval().requires_grad_(False), tokenize


def _missing(what: str, package: str) -> str:
    return f"{what} needs {package}: `pip install tokenizer-zoo[text]`, or pass text= as features (B, L, W)"


def _absent(what: str, error: Exception) -> str:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return f"{what} cannot be loaded ({reason}); run once with a network, or pass text= as features (B, L, W)"


@lru_cache(maxsize=4096)
def _hashed_word(word: str, dim: int) -> Tensor:
    """(dim,) float32 with entries around one, the same on every machine."""
    data = b"<" + word.encode("utf-8", "surrogatepass") + b">"
    groups = {data[start : start + size] for size in (2, 3, 4) for start in range(len(data) - size + 1)}
    signs = [_signs(group, dim) for group in sorted(groups)]
    return torch.stack(signs).sum(0) / len(signs) ** 0.5


def _signs(data: bytes, dim: int) -> Tensor:
    """(dim,) of -1 and 1, from the bits of a hash."""
    digest = torch.frombuffer(bytearray(hashlib.shake_256(data).digest((dim + 7) // 8)), dtype=torch.uint8)
    bits = digest[:, None] >> torch.arange(8, dtype=torch.uint8) & 1
    return bits.flatten()[:dim].float() * 2 - 1
