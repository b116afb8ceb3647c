"""One vocabulary for text and the codes of tokenizers, and streams that mix them.

Behind the ids of the text, every modality has a block: its begin and its end, the ids of its codes as `Tokens.to_ids`
numbers them, its padding id, and, for pictures of any size, one id for each number of rows that their grid can have:

    0 ... text ... V-1 | <image> </image> | image codes ... | <image:pad> | <image:rows:1> ... | <audio> </audio> | ...

An item is its begin, its rows where there are any, its codes in the order of the block, and its end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from zoo.spec import TokenizerSpec
from zoo.store.files import replacing
from zoo.streams import StreamOrder
from zoo.tokens import Tokens
from zoo.vocabulary_block import Block, trimmed

if TYPE_CHECKING:
    from zoo.tokenizer import Tokenizer

__all__ = ["Segment", "VocabularyLayout"]

TEXT, VERSION = "text", 1
Part = Sequence[int] | Tensor | Tokens | Mapping[str, Tokens]


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """A stretch of a mixed stream: text, or one item.

    Attributes:
        kind: "text", or the name of a modality.
        ids: as they stand in the stream, the begin and the end of an item included.
        tokens: of an item, a batch of one; None for text, and where nothing of an item can be used.
        complete: whether it is all there.
        note: what is wrong with an item that is not.
    """

    kind: str
    ids: tuple[int, ...]
    tokens: Tokens | None = None
    complete: bool = True
    note: str = ""


class VocabularyLayout:
    """Which ids text and the codes of each modality have in one vocabulary.

    Args:
        text_vocab_size: ids below it are text; 0 for none.
        modalities: tokenizers or their specs, by names such as "image".
        order: in which codes stand in a stream (`Tokens.to_ids`), for all or by name.
        max_rows: of the grids of pictures of any size, in tokens.

    Attributes:
        size: ids altogether.
        blocks: of each modality, by name.

    Raises:
        ValueError: no modality, a tokenizer without codes, or a name or an order that is none.
    """

    def __init__(
        self,
        text_vocab_size: int,
        modalities: Mapping[str, Tokenizer | TokenizerSpec],
        order: StreamOrder | Mapping[str, StreamOrder] = "flat",
        *,
        max_rows: int = 256,
    ) -> None:
        if text_vocab_size < 0 or not modalities or max_rows < 1:
            raise ValueError(
                "expected text_vocab_size >= 0, at least one modality and max_rows >= 1, got "
                f"{text_vocab_size}, {list(modalities)} and {max_rows}"
            )
        self.text_vocab_size, self.max_rows, self.blocks = text_vocab_size, max_rows, dict[str, Block]()
        first = text_vocab_size
        for name, given in modalities.items():
            if name == TEXT or not name.isidentifier():
                raise ValueError(f"a modality is called like a variable, and not {TEXT!r}; got {name!r}")
            spec = given if isinstance(given, TokenizerSpec) else given.spec
            chosen = order if isinstance(order, str) else order.get(name, "flat")
            block = Block(name, spec, chosen, first, max_rows)
            self.blocks[name], first = block, block.stop
        self.size = first

    def interleave(self, *parts: Part) -> Tensor:
        """One stream of text and items.

        Args:
            parts: in their order: ids of text; tokens of one item; or `{name: tokens}`, which says of what modality
                they are where several have the same codebooks.

        Returns:
            (L,) int64. `positions`, `durations`, `gains` and sizes that are no whole tokens are not part of it.

        Raises:
            ValueError: an id that is no text, or tokens that belong to no block.
        """
        return torch.cat([torch.zeros(0, dtype=torch.int64), *(ids for part in parts for ids in self._ids(part))])

    def parse(self, ids: Sequence[int] | Tensor, *, strict: bool = False) -> list[Segment]:
        """The text and the items of a stream: the inverse of `interleave`.

        An item that was cut off, or that holds something it cannot, gives the longest prefix that is in order, and its
        segment says so. Items of one size have that size; pictures of any size whole rows of tokens.

        Args:
            ids: (L,).
            strict: raise where an item is not complete.

        Raises:
            ValueError: an id is outside of the vocabulary, or `strict` and something is wrong.
        """
        stream = torch.as_tensor(ids, dtype=torch.int64)
        if stream.ndim != 1:
            raise ValueError(f"parse takes one stream (L,), got {tuple(stream.shape)}")
        values = stream.tolist()
        if values and not 0 <= min(values) <= max(values) < self.size:
            raise ValueError(f"ids lie in [0, {self.size}), got {min(values)} to {max(values)}")
        segments = list(self._segments(values))
        if strict and (broken := next((segment for segment in segments if not segment.complete), None)):
            raise ValueError(f"an item of {broken.kind} is not complete: {broken.note}")
        return segments

    def names(self) -> list[str]:
        """What the ids behind the text are called, in their order: `<image>`, `</image>`, `<image:0>`, ..."""
        return [name for block in self.blocks.values() for name in block.names()]

    def extend(self, tokenizer: Any, model: Any = None) -> int:
        """Add the ids behind the text to a tokenizer of `transformers`, and rows to the embeddings of a model.

        Args:
            tokenizer: with exactly `text_vocab_size` ids; changed in place. All new ones are special tokens, so that
                `decode(..., skip_special_tokens=True)` gives the text alone.
            model: changed in place.

        Returns:
            The size of the vocabulary.

        Raises:
            ValueError: the tokenizer has another number of ids, or knows one of the names.
        """
        from tokenizers import AddedToken

        if len(tokenizer) != self.text_vocab_size:
            raise ValueError(
                f"the tokenizer has {len(tokenizer)} ids, this layout begins behind {self.text_vocab_size}; build it "
                "with text_vocab_size=len(tokenizer)"
            )
        names, known = self.names(), tokenizer.get_vocab()
        if clash := next((name for name in names if name in known), None):
            raise ValueError(f"the tokenizer has a token {clash!r} of its own; give the modality another name")
        tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in names], special_tokens=True)
        wrong = [name for name in (names[0], names[-1]) if tokenizer.convert_tokens_to_ids(name) < self.text_vocab_size]
        if wrong or len(tokenizer) != self.size:
            raise ValueError(
                f"the tokenizer gave {wrong or 'the new tokens'} other ids; has it holes in its vocabulary?"
            )
        if model is not None:
            model.resize_token_embeddings(self.size)
        return self.size

    def to_dict(self) -> dict[str, Any]:
        """Plain data: everything the layout was made from, and the ids that follow."""
        blocks = {name: block.to_dict() for name, block in self.blocks.items()}
        sizes = {"text_vocab_size": self.text_vocab_size, "max_rows": self.max_rows, "size": self.size}
        return {"vocabulary": VERSION, **sizes, "modalities": blocks}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The layout that `to_dict` describes.

        Raises:
            ValueError: it is of another version, or its ids are not those that follow from it.
        """
        try:
            if values["vocabulary"] != VERSION:
                raise ValueError(f"version {values['vocabulary']!r}, expected {VERSION}")
            blocks = values["modalities"]
            specs = {name: TokenizerSpec.from_dict(block["spec"]) for name, block in blocks.items()}
            orders = {name: block["order"] for name, block in blocks.items()}
            layout = cls(values["text_vocab_size"], specs, orders, max_rows=values["max_rows"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a vocabulary layout ({type(error).__name__}: {error})") from error
        if json.loads(json.dumps(layout.to_dict())) != json.loads(json.dumps(dict(values))):
            raise ValueError(
                "the ids of this vocabulary layout are not those that its sizes give; it was changed by hand"
            )
        return layout

    def save(self, path: str | Path) -> Path:
        """Write a JSON file, by custom `vocab_map.json`."""
        path = Path(path)
        with replacing(path) as draft:
            draft.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        return path

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read what `save` wrote.

        Raises:
            ValueError: it is something else; the message names the file.
        """
        try:
            return cls.from_dict(json.loads(Path(path).read_text("utf-8")))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VocabularyLayout) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.text_vocab_size, self.size, *self.blocks))

    def __repr__(self) -> str:
        blocks = ", ".join(f"{block.name} {block.begin} to {block.stop - 1}" for block in self.blocks.values())
        return f"VocabularyLayout({self.size} ids: text below {self.text_vocab_size}, {blocks})"

    def _ids(self, part: Part) -> Iterator[Tensor]:
        if isinstance(part, Tokens):
            yield self._block(part).ids(trimmed(part))[0]
        elif isinstance(part, Mapping):
            for name, tokens in part.items():
                if name not in self.blocks:
                    raise ValueError(f"the modalities are {', '.join(self.blocks)}, got {name!r}")
                yield self.blocks[name].ids(trimmed(tokens))[0]
        else:
            ids = torch.as_tensor(part, dtype=torch.int64)
            if ids.ndim != 1 or bool(((ids < 0) | (ids >= self.text_vocab_size)).any()):
                found = f"{int(ids.min())} to {int(ids.max())}" if ids.ndim == 1 else f"{tuple(ids.shape)}"
                raise ValueError(f"text is ids (L,) in [0, {self.text_vocab_size}), got {found}")
            yield ids

    def _block(self, tokens: Tokens) -> Block:
        fitting = [block for block in self.blocks.values() if block.spec.codebook_sizes == tokens.codebook_sizes]
        if len(fitting) != 1:
            what = "no modality has" if not fitting else f"{' and '.join(block.name for block in fitting)} have"
            raise ValueError(f"{what} codebooks {tokens.codebook_sizes}; name one: interleave({{name: tokens}})")
        return fitting[0]

    def _segments(self, ids: Sequence[int]) -> Iterator[Segment]:
        place = 0
        while place < len(ids):
            start, block = place, self._block_of(ids[place])
            if block is None:
                while place < len(ids) and ids[place] < self.text_vocab_size:
                    place += 1
                yield Segment(TEXT, tuple(ids[start:place]))
                continue
            place += 1
            inside = {block.begin, block.end}
            while place < len(ids) and ids[place] not in inside and block.begin <= ids[place] < block.stop:
                place += 1
            if ids[start] != block.begin:
                place += place < len(ids) and ids[start] != block.end and ids[place] == block.end
                yield Segment(block.name, tuple(ids[start:place]), None, False, f"codes without <{block.name}> before")
                continue
            ended = place < len(ids) and ids[place] == block.end
            tokens, note = block.tokens(ids[start + 1 : place], ended)
            place += ended
            yield Segment(block.name, tuple(ids[start:place]), tokens, not note, note)

    def _block_of(self, number: int) -> Block | None:
        return next((block for block in self.blocks.values() if block.begin <= number < block.stop), None)
