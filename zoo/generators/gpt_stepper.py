"""GPT one id at a time, or several: what speculative decoding needs of it."""

from __future__ import annotations

import torch
from torch import Tensor

from zoo.generators.gpt import GPT
from zoo.generators.heads.base import Range
from zoo.generators.heads.stream import Stream
from zoo.generators.schedules import GuidanceSchedule, as_schedule
from zoo.generators.stepping import Stepper

__all__ = ["GPTStepper"]


class GPTStepper(Stepper):
    """A batch that a GPT continues, for codes of one codebook and one length, read one after the other.

    Args:
        model: with a `Stream` head, in eval mode.
        condition: of each item; see `Generator`.
        count: items, for generators without a condition.
        guidance: a scale or a schedule.

    Raises:
        ValueError: another head, several codebooks, digits, or items that may end early.
    """

    def __init__(
        self,
        model: GPT,
        condition: Tensor | None = None,
        *,
        count: int = 1,
        guidance: float | GuidanceSchedule | None = None,
    ) -> None:
        vocabulary = model.vocabulary
        if type(model.head) is not Stream or vocabulary.depth != 1 or vocabulary.flexible or model.digits:
            raise ValueError(
                f"one id after the other needs a Stream head, one codebook and one length; got "
                f"{type(model.head).__name__}, {vocabulary.depth} codebooks, flexible={vocabulary.flexible}, "
                f"digits={model.digits}"
            )
        schedule = as_schedule(guidance)
        super().__init__(vocabulary.num_tokens, schedule)
        rows = count if condition is None else len(condition)
        model.condition.check(condition, rows, values=True)
        self.model, self.book = model, Range(0, vocabulary.codebook_sizes[0], False)
        with torch.no_grad():
            before = model.condition(condition, rows)
            if schedule is not None:
                before = torch.cat([before, model.condition(None, rows)])
            hidden, context = model.start(before)
            assert context is not None
            self.cache, self.offset = context.cache, context.length
            self.first = self.guided(model.head.logits(hidden[:, -1:], self.book), 0)[:, 0]

    def read(self, ids: Tensor) -> Tensor:
        """See `Stepper`."""
        start, count = self.offset + self.length, ids.shape[1]
        mask = torch.ones(count, start + count, dtype=torch.bool, device=ids.device).tril(start)
        table = self.model.table(ids.device)[:, start : start + count]
        x = self.model.head.embed_ids(ids[..., None])
        hidden = self.model.transformer(x, table, mask if count > 1 else None, cache=self.cache, start=start)
        return self.model.head.logits(hidden, self.book)
