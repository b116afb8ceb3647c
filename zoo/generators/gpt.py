"""GPT: codes one step after the other, by a transformer after Llama (LlamaGen, arXiv 2406.06525)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from encoders.layers.fixed import Fixed
from zoo.generators.base import ABSENT, Generator, Losses, Vocabulary, evaluating
from zoo.generators.heads.base import Head
from zoo.generators.heads.stream import Stream
from zoo.generators.layers.attention import Transformer
from zoo.generators.layers.cache import KVCache
from zoo.generators.layers.condition import Condition
from zoo.generators.layers.packed import packed
from zoo.generators.layers.rotary import places, spread_table
from zoo.generators.sampling import sample
from zoo.generators.schedules import GuidanceSchedule, as_schedule, guide

__all__ = ["GPT", "Context"]


@dataclass(slots=True)
class Context:
    """What a generation in progress remembers.

    Attributes:
        cache: keys and values of what was read.
        length: elements that were read.
    """

    cache: KVCache
    length: int


class GPT(Generator):
    """A causal transformer over the slots of a head, behind T elements of a condition.

    Args:
        vocabulary: the codes.
        head: how codes become slots; None for `Stream()`, one after the other.
        classes: number of class labels; None for none.
        condition_dim: D of embeddings (B, T, D) as a condition; None for none.
        condition_tokens: T of them.
        width, depth, heads: of the transformer.
        hidden: inner width of its MLPs; None for int(8 W / 3).
        rotary: "1d" counts the elements of the sequence, "2d" uses rows and columns of `vocabulary.grid`.
        dropout: after attention and MLP.
        token_dropout: of the transformer's inputs.
        condition_dropout: share of conditions that training replaces by none, for guidance.
        digits: number systems: each code is read and drawn as so many smaller ones, the first of which counts fastest.
            [8, 8, 8, 5, 5, 5] makes 6 codes of at most 8 values of a code of FSQ with these levels; None for none.

    Raises:
        ValueError: parts that do not fit each other.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        head: Head | None = None,
        *,
        classes: int | None = None,
        condition_dim: int | None = None,
        condition_tokens: int = 1,
        width: int = 256,
        depth: int = 6,
        heads: int = 4,
        hidden: int | None = None,
        rotary: Literal["1d", "2d"] = "1d",
        dropout: float = 0.1,
        token_dropout: float = 0.1,
        condition_dropout: float = 0.1,
        digits: Sequence[int] | None = None,
    ) -> None:
        super().__init__(vocabulary, classes)
        if rotary not in ("1d", "2d") or (rotary == "2d" and vocabulary.grid is None):
            raise ValueError(f"rotary is 1d, or 2d for codes on a grid; got {rotary!r} and grid={vocabulary.grid}")
        self.digits = None if digits is None else tuple(int(digit) for digit in digits)
        if self.digits and any(size != math.prod(self.digits) for size in vocabulary.codebook_sizes):
            raise ValueError(
                f"digits {self.digits} count to {math.prod(self.digits)}, the codebooks have "
                f"{vocabulary.codebook_sizes} entries"
            )
        self.head = Stream() if head is None else head
        inner = replace(vocabulary, codebook_sizes=self.digits * vocabulary.depth) if self.digits else vocabulary
        self.head.connect(inner, width)
        self.condition = Condition(width, classes, condition_dim, condition_tokens, condition_dropout)
        self.token_dropout = nn.Dropout(token_dropout)
        self.transformer = Transformer(width, depth, heads, hidden, dropout)
        prefix, line, groups = condition_tokens, self.head.line, self.head.groups
        grid = (vocabulary.grid[0], vocabulary.grid[1]) if rotary == "2d" and vocabulary.grid else None
        self.table = Fixed(lambda: spread_table(places(prefix, line, grid), width // heads))
        self.levels: Fixed | None = None
        if not self.head.ahead:
            self.levels = Fixed(lambda: _level_mask([prefix, *groups]))
        self._step: Any = None
        self._initialize(depth)

    def _initialize(self, depth: int) -> None:
        """Normal weights of deviation 0.02, less at the end of residual branches; what came with weights keeps them."""
        own = getattr(self.head, "quantizer", None)
        kept = {id(module) for module in own.modules()} if own is not None else set()
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding) and id(module) not in kept:
                ends = name.endswith(("attention.out", "mlp.fc2"))
                nn.init.normal_(module.weight, std=0.02 / math.sqrt(2 * depth) if ends else 0.02)
                if isinstance(module, nn.Linear) and module.bias is not None:
                    nn.init.zeros_(module.bias)

    def loss(self, indices: Tensor, condition: Tensor | None = None) -> Losses:
        """See `Generator`: the mean negative log-likelihood of all codes, in nats."""
        self.check_indices(indices)
        self.condition.check(condition, len(indices))
        codes = self._split(indices)
        nll = self.head.nll(self.hidden(codes, self.condition(condition, len(indices))), codes)
        scored = ~nll.isnan()
        total = nll.where(scored, 0.0).sum() / scored.sum().clamp_min(1)
        own = nll.detach()
        if self.digits:
            own = own.unflatten(-1, (-1, len(self.digits)))
            own = own.nansum(-1).masked_fill(own.isnan().all(-1), torch.nan)
        return Losses(total, {}, own)

    def hidden(self, codes: Tensor, condition: Tensor) -> Tensor:
        """What the transformer says (B, S, W) of every slot, when the codes before are known.

        Args:
            codes: (B, N, Q) int64, digits apart.
            condition: (B, T, W) elements.
        """
        inputs, slots = self.head.embed(codes), len(self.head.line)
        x = torch.cat([condition, inputs[:, :-1] if self.head.ahead else inputs], dim=1)
        return self._read(x)[:, -slots:]

    def _read(self, x: Tensor, cache: KVCache | None = None) -> Tensor:
        """(B, L, W) the beginning of a sequence -> the same."""
        length = x.shape[1]
        mask = None if self.levels is None else self.levels(x.device)[:length, :length]
        x = self.token_dropout(x)
        return self.transformer(x, self.table(x.device)[:, :length], mask, mask is None and length > 1, cache)

    @torch.no_grad()
    def generate(
        self,
        condition: Tensor | None = None,
        *,
        count: int | None = None,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance: float | GuidanceSchedule | None = None,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        prefix: Tensor | None = None,
        stop: int | None = None,
        cached: bool = True,
    ) -> Tensor:
        """See `Generator`; `count` is 1 where nothing says how many items are wanted.

        Args:
            condition, count, temperature, top_k, top_p, guidance, generator: see `Generator`.
            steps: None; the head says how many there are.
            prefix: (B, n, Q) codes of the first positions. Where they are a part of what a step draws, the step draws
                the rest (delay, windows, levels).
            stop: positions after which to stop; None for all.
            cached: keep keys and values; without, every step reads the whole sequence again.

        Returns:
            (B, N, Q) int64; -1 past the end of items, and past `stop`.
        """
        if steps is not None:
            raise ValueError(f"a GPT takes {len(self.head.groups)} steps by its head; leave steps={steps} out")
        rows = next((len(given) for given in (condition, prefix) if given is not None), count or 1)
        self.condition.check(condition, rows, values=True)
        schedule = as_schedule(guidance)
        if schedule is not None and condition is None:
            raise ValueError("guidance compares with and without a condition; give a condition, or leave guidance out")
        given = [] if prefix is None else self._given(prefix, rows)
        last = len(self.head.groups) if stop is None else self._steps_to(stop)
        scales = [1.0 if schedule is None else schedule.at(n / len(self.head.groups)) for n in range(last)]
        pick = Pick(scales, temperature, top_k, top_p, generator)
        with evaluating(self), packed(self):
            first = self.condition(condition, rows)
            whole = next((step for step, ids in enumerate(given) if bool((ids == ABSENT).any())), len(given))
            if pick.guided(whole):
                first = torch.cat([first, self.condition(None, rows)])
                given = [ids.repeat(2, 1, 1) for ids in given]
            drawn = self._draw(first, given, whole, pick, cached)
        if not drawn:
            raise ValueError(f"nothing to generate: prefix and stop={stop} leave no positions")
        codes = self._join(self.head.collect([ids[:rows] for ids in drawn]))
        if stop is not None:
            codes[:, stop:] = ABSENT
        return codes

    def _draw(self, condition: Tensor, given: list[Tensor], whole: int, pick: Pick, cached: bool) -> list[Tensor]:
        """Ids of all steps. Rows are items; while there is guidance, then the same items without condition.

        Args:
            condition: (R, T, W).
            given: ids of the first steps, -1 where one is to be drawn.
            whole: steps of which all ids are given.
        """
        drawn = given[:whole]
        if whole >= len(pick.scales):
            return drawn
        hidden, context = self.start(condition, drawn, cached=cached)
        self.check_finite(hidden)
        doubled, over = pick.guided(len(drawn)), None
        for step in range(len(drawn), len(pick.scales)):
            pick.step = step
            if doubled and not pick.guided(step):
                doubled, rows = False, len(hidden) // 2
                condition, hidden, drawn = condition[:rows], hidden[:rows], [ids[:rows] for ids in drawn]
                context = None if context is None else Context(context.cache.first(rows), context.length)
            ids = self.head.draw(hidden, step, pick)
            if step < len(given):
                fixed = given[step][: len(ids)]
                ids = torch.where(fixed == ABSENT, ids, fixed)
            drawn.append(ids)
            if (ends := self.head.ended(drawn[-1])) is not None:
                over = ends if over is None else over[: len(ends)] | ends
                if bool(over.all()):
                    break
            if step + 1 == len(pick.scales):
                break
            if context is None:
                hidden, _ = self.start(condition, drawn, cached=False)
            else:
                hidden = self.advance(self.head.feed(drawn), context)
        self.check_finite(hidden)  # what is not finite stays in the keys and values of all steps that follow
        return drawn

    def start(
        self, condition: Tensor, drawn: Sequence[Tensor] = (), *, cached: bool = True
    ) -> tuple[Tensor, Context | None]:
        """Read a condition (R, T, W) and what steps drew.

        Returns:
            What the transformer says (R, n, W) of the slots of the next step, and what `advance` goes on with; None
            where nothing is to be kept.
        """
        x = condition
        inputs = [self.head.feed(drawn[: step + 1]) for step in range(len(drawn))]
        if not self.head.ahead:
            inputs = [self.head.feed([]).expand(len(x), -1, -1), *inputs]
        if inputs:
            x = torch.cat([x, *inputs], dim=1)
        cache = self.transformer.cache(len(x), self.table.value.shape[1]) if cached else None
        hidden = self._read(x, cache)
        size = inputs[-1].shape[1] if not self.head.ahead else 1
        return hidden[:, -size:], None if cache is None else Context(cache, x.shape[1])

    def advance(self, inputs: Tensor, context: Context) -> Tensor:
        """Read the inputs (R, n, W) of one step; what the transformer says (R, n, W) of the slots of this step, or with
        a head that is `ahead` of the next."""
        start, length = context.length, inputs.shape[1]
        context.length = start + length
        if self._step is not None:
            return self._step(inputs, torch.tensor(start, device=inputs.device), context.cache)
        table = self.table(inputs.device)[:, start : start + length]
        return self.transformer(inputs, table, cache=context.cache, start=start)

    def step(self, inputs: Tensor, start: Tensor, cache: KVCache) -> Tensor:
        """`advance` in shapes that never change, for `torch.compile`; `start` is () int64."""
        length, device = inputs.shape[1], inputs.device
        table = self.table(device).index_select(1, start + torch.arange(length, device=device))
        mask = (torch.arange(self.table.value.shape[1], device=device) < start + length).expand(length, -1)
        return self.transformer(inputs, table, mask, cache=cache, start=start)

    def compile_steps(self, **options: Any) -> None:
        """Run the steps of `generate` through `torch.compile(fullgraph=True)` from now on.

        Args:
            options: of `torch.compile`, such as `mode="reduce-overhead"`.
        """
        self._step = torch.compile(self.step, fullgraph=True, **options)

    def _given(self, prefix: Tensor, rows: int) -> list[Tensor]:
        """What `Head.known` says of the first codes (B, n, Q) of so many items.

        Raises:
            ValueError: they are none of this vocabulary.
        """
        vocabulary = self.vocabulary
        sizes = torch.tensor(vocabulary.codebook_sizes, device=prefix.device)
        fits = prefix.dtype == torch.int64 and prefix.ndim == 3 and prefix.shape[::2] == (rows, vocabulary.depth)
        if not fits or prefix.shape[1] > vocabulary.num_tokens or bool(((prefix < ABSENT) | (prefix >= sizes)).any()):
            raise ValueError(
                f"prefix is int64 ({rows}, 0 to {vocabulary.num_tokens}, {vocabulary.depth}) of codes below "
                f"{vocabulary.codebook_sizes}, got {prefix.dtype} {tuple(prefix.shape)}"
            )
        return self.head.known(self._split(prefix))

    def _steps_to(self, positions: int) -> int:
        """Steps of the head after which so many positions are known."""
        if not 0 <= positions <= self.vocabulary.num_tokens:
            raise ValueError(f"stop lies in 0 to {self.vocabulary.num_tokens} positions, got {positions}")
        empty = torch.zeros(1, positions, len(self.digits or (0,)) * self.vocabulary.depth, dtype=torch.int64)
        return len(self.head.known(empty))

    def _split(self, indices: Tensor) -> Tensor:
        """Codes (B, N, Q) -> their digits (B, N, Q d); as they are without digits."""
        if self.digits is None:
            return indices
        sizes = torch.tensor(self.digits, device=indices.device)
        places = indices[..., None] // self._strides(indices.device) % sizes
        return places.masked_fill((indices == ABSENT)[..., None], ABSENT).flatten(-2)

    def _join(self, codes: Tensor) -> Tensor:
        """The inverse of `_split`."""
        if self.digits is None:
            return codes
        places = codes.unflatten(-1, (-1, len(self.digits)))
        whole = (places * self._strides(codes.device)).sum(-1)
        return whole.masked_fill((places == ABSENT).any(-1), ABSENT)

    def _strides(self, device: torch.device) -> Tensor:
        digits = self.digits or ()
        return torch.tensor([math.prod(digits[:n]) for n in range(len(digits))], device=device)


def _level_mask(groups: Sequence[int]) -> Tensor:
    """(L, L) bool: an element sees those of its own group and of groups before."""
    steps = torch.repeat_interleave(torch.arange(len(groups)), torch.tensor(groups))
    return steps[:, None] >= steps


class Pick:
    """Logits (R, ..., K) -> ids (R, ...). Of rows with and without condition both halves get the same ids.

    Args:
        scales: of guidance at every step.
        temperature, top_k, top_p, generator: see `sample`.

    Attributes:
        step: which one it is.
    """

    def __init__(
        self,
        scales: Sequence[float],
        temperature: float,
        top_k: int | None,
        top_p: float | None,
        generator: torch.Generator | None,
    ) -> None:
        self.scales, self.step = scales, 0
        self._options: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        self._options["generator"] = generator

    def guided(self, step: int) -> bool:
        """Whether this step or a later one is guided."""
        return any(scale != 1 for scale in self.scales[step:])

    def __call__(self, logits: Tensor) -> Tensor:
        if not self.guided(self.step):
            return sample(logits, **self._options)
        told, free = logits.float().chunk(2)
        scale = self.scales[self.step]
        ids = sample(told if scale == 1 else guide(told, free, scale), **self._options)
        return torch.cat([ids, ids])
