"""Generators from recipes, cards and folders, into folders, and together with the tokenizer whose codes they speak."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

import zoo
from zoo.generators.base import Generator
from zoo.store.build import GENERATOR_ROOMS, instantiate, public
from zoo.store.cards import HUB_ID, card, list_models, unknown
from zoo.store.files import replacing
from zoo.store.hub import fetch
from zoo.store.load import CONFIG, FORMAT, WEIGHTS, card_state, inside, read_document, tell_license
from zoo.store.weights import load_strict, read_state
from zoo.tokens import Tokens

if TYPE_CHECKING:
    from zoo.tokenizer import Tokenizer

__all__ = ["Pipeline", "build", "load", "save_pretrained"]


def build(node: Mapping[str, Any], *, device: str = "cpu") -> Generator:
    """A freshly initialised generator.

    Args:
        node: its config: a mapping with `_target_` and a `vocabulary`, as a trained generator's folder has it.
        device: where the parameters go; "meta" allocates nothing.

    Raises:
        ValueError: the node names something outside the rooms or does not describe a generator.
    """
    if "_target_" not in node:
        raise ValueError("a generator node is a mapping with a _target_, for example {_target_: zoo.generators.GPT}")
    with torch.device(device) if device != "cpu" else nullcontext():
        generator = instantiate(node, GENERATOR_ROOMS)
    if not isinstance(generator, Generator):
        raise ValueError(f"{node['_target_']} is not a generator; the outer _target_ is one of zoo.generators")
    generator.config = {str(key): value for key, value in node.items()}
    return generator


def load(
    name: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    offline: bool | None = None,
) -> Generator:
    """A generator with its weights, in eval mode.

    Args:
        name: a card's name (`zoo.list_models(kind="generator")`), a folder of `save_pretrained` or a training, or a hub
            id whose repository holds such a folder.
        device, dtype, revision, offline: as for `zoo.load`.

    Raises:
        KeyError: no such generator; the closest names are suggested.
        FileNotFoundError, ConnectionError: a file cannot be had.
        ValueError: a file is damaged or is not what it claims to be.
        RuntimeError: the weights do not fit.
    """
    text = str(name)
    if text in list_models(kind="generator"):
        item = card(text)
        if item.weights.research_only:
            tell_license(item.name, item.weights.license)
        document, state = item.config, card_state(item, revision, offline)
        if item.weights.layout == "reference":
            generator = public(f"zoo.generators.{item.family}", GENERATOR_ROOMS).from_reference(item.config, state)
            generator.tokenizer = item.config.get("tokenizer")
            return generator.eval().to(device=device, dtype=dtype)
    elif (folder := Path(name).expanduser()).is_dir():
        document, state = _document(inside(folder, CONFIG), text), read_state(inside(folder, WEIGHTS))
    elif HUB_ID.fullmatch(text):
        document = _document(fetch(text, CONFIG, revision=revision, offline=offline), text)
        state = read_state(fetch(text, WEIGHTS, revision=revision, offline=offline))
    else:
        raise unknown("generator", text, list_models(kind="generator"))
    generator = build(document["generator"], device="meta")
    load_strict(generator, state, source=text)
    generator.tokenizer = document.get("tokenizer")
    generator.labels = tuple(document.get("labels") or ())
    return generator.eval().to(device=device, dtype=dtype)


def save_pretrained(generator: Generator, folder: str | Path) -> Path:
    """Write `model.safetensors`, `README.md` and, last, `config.json`; `load` reads them back.

    Raises:
        ValueError: the generator was put together by hand, so that its config is unknown.
    """
    from safetensors.torch import save_file

    if not generator.config:
        raise ValueError("this generator was put together by hand; make it with zoo.generators.build(node)")
    folder = Path(folder).expanduser()
    document = {
        "format": FORMAT,
        "generator": generator.config,
        "tokenizer": generator.tokenizer,
        "labels": list(generator.labels),
        "zoo_version": zoo.__version__,
    }
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    state = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in generator.state_dict().items()}
    with replacing(folder / WEIGHTS) as draft:
        save_file(state, draft, metadata={"format": "pt"})
    with replacing(folder / "README.md") as draft:
        draft.write_text(_readme(generator), "utf-8")
    with replacing(folder / CONFIG) as draft:
        draft.write_text(text, "utf-8")
    return folder


@dataclass(frozen=True)
class Pipeline:
    """A generator and the tokenizer whose codes it speaks, on one device."""

    generator: Generator
    tokenizer: Tokenizer

    @classmethod
    def load(cls, name: str | Path, *, tokenizer: str | Path | None = None, device: str | torch.device = "cpu") -> Self:
        """Both by the generator's name.

        Args:
            name: see `zoo.generators.pipeline.load`.
            tokenizer: a name that `zoo.load` takes; None for the one that the generator names.
            device: where they go.

        Raises:
            ValueError: the generator names no tokenizer, or the tokenizer has other codebooks.
        """
        generator = load(name, device=device)
        speaks = tokenizer or generator.tokenizer
        if speaks is None:
            raise ValueError(f"{name} does not say whose codes it speaks; name its tokenizer")
        return cls(generator, zoo.load(speaks, device=device))

    def __post_init__(self) -> None:
        wanted, sizes = tuple(self.generator.vocabulary.codebook_sizes), self.tokenizer.spec.codebook_sizes
        if sizes[: len(wanted)] != wanted:
            raise ValueError(f"the generator speaks codebooks {wanted}, the tokenizer has {sizes}")

    def label(self, name: int | str) -> int:
        """The number of a class, given as a number or by its name.

        Raises:
            ValueError: no such class.
        """
        labels, classes = self.generator.labels, self.generator.classes
        if classes is None:
            raise ValueError("this generator knows no classes; leave the class out")
        if str(name) in labels:
            return labels.index(str(name))
        if not str(name).isdecimal() or int(name) >= classes:
            known = ", ".join(labels[:20]) + (", ..." if len(labels) > 20 else "") if labels else "numbers alone"
            raise ValueError(f"class {name!r} is none of 0 to {classes - 1} ({known})")
        return int(name)

    def tokens(self, labels: Sequence[int | str] | None = None, count: int = 1, **options: Any) -> Tokens:
        """Generated codes of one item a label, or of `count` items without labels.

        Args:
            labels: numbers or names of classes.
            count: items, where there are no labels.
            options: of `Generator.generate`.
        """
        if labels is None:
            return self.generator.vocabulary.tokens(self.generator.generate(count=count, **options))
        condition = torch.tensor([self.label(name) for name in labels], device=self.generator.device)
        return self.generator.vocabulary.tokens(self.generator.generate(condition, **options))

    @torch.inference_mode()
    def decode(self, tokens: Tokens) -> Iterator[Tensor]:
        """The signals (C, ...) that codes stand for, one by one."""
        for number in range(len(tokens)):
            one = tokens[number]
            if one.lengths is not None:
                one = one.keep(int(one.lengths[0])) if one.order == "coarse_to_fine" else one
            yield self.tokenizer.decode(one)[0].float().cpu()


def _document(path: Path, source: str) -> dict[str, Any]:
    document = read_document(path, source)
    if not isinstance(document.get("generator"), dict):
        raise ValueError(f'{source}: expected {CONFIG} with a "generator" node; `zoo.load` opens tokenizers')
    return document


def _readme(generator: Generator) -> str:
    vocabulary = generator.vocabulary
    books = ", ".join(map(str, vocabulary.codebook_sizes))
    rows = {
        "generator": type(generator).__name__,
        "tokenizer": generator.tokenizer or "unknown",
        "positions": f"{vocabulary.num_tokens} ({vocabulary.order})",
        "codebooks": books,
        "classes": "none" if generator.classes is None else str(generator.classes),
        "parameters": f"{sum(p.numel() for p in generator.parameters()):,}",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"""---
library_name: tokenizer-zoo
tags: [generator]
---
# {type(generator).__name__} generator

| | |
|---|---|
{table}

```bash
zoo generate path/to/this/folder -n 16 -o grid.png
```

Saved by tokenizer-zoo {zoo.__version__}.
"""
