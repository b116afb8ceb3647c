"""What a generator is told beside codes: a class or a few embeddings, either of which can be left out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Condition"]


class Condition(nn.Module):
    """Conditions as the first elements (B, T, W) of a sequence.

    A class is one element of a table with C + 1 rows, of which the last stands for none. Embeddings (B, T, D) pass
    through an MLP; (T, D) learned ones stand for none (LlamaGen, arXiv 2406.06525, Sec. 3.2).

    Args:
        width: W.
        classes: C; None for no classes.
        dim: D of embeddings; None for no embeddings. With neither the one condition is none.
        count: T of embeddings.
        dropout: share of conditions that training replaces by none.

    Raises:
        ValueError: both classes and embeddings, or a share outside [0, 1].
    """

    def __init__(
        self, width: int, classes: int | None = None, dim: int | None = None, count: int = 1, dropout: float = 0.1
    ) -> None:
        super().__init__()
        if classes is not None and dim is not None:
            raise ValueError(f"a condition is a class or embeddings, not both: got classes={classes} and dim={dim}")
        if not 0 <= dropout <= 1 or (dim is None and count != 1):
            raise ValueError(f"a condition expects dropout in [0, 1], and count=1 for classes; got {dropout}, {count}")
        self.classes, self.dim, self.count, self.rate = classes, dim, count, dropout
        if dim is None:
            self.embed = nn.Embedding((classes or 0) + 1, width)
        else:
            self.embed_none = nn.Parameter(torch.randn(count, dim) / dim**0.5)
            self.fc1 = nn.Linear(dim, width)
            self.fc2 = nn.Linear(width, width)

    @property
    def given(self) -> bool:
        """Whether there are conditions other than none."""
        return self.classes is not None or self.dim is not None

    def check(self, condition: Tensor | None, count: int, *, values: bool = False) -> None:
        """Raise ValueError unless the condition is one of `count` items; with `values` look at the labels, too."""
        if condition is None:
            return
        if not self.given:
            raise ValueError("this generator knows no conditions; leave the condition out")
        if self.dim is None:
            fits = condition.dtype == torch.int64 and condition.ndim == 1
            want = f"int64 (B,) class labels in [0, {self.classes})"
        else:
            fits = condition.is_floating_point() and tuple(condition.shape[1:]) == (self.count, self.dim)
            want = f"float (B, {self.count}, {self.dim}) embeddings"
        if not fits or len(condition) != count:
            raise ValueError(
                f"the condition of {count} items is {want}, got {condition.dtype} {tuple(condition.shape)}"
            )
        if values and self.classes is not None and (int(condition.min()) < 0 or int(condition.max()) >= self.classes):
            raise ValueError(f"class labels lie in [0, {self.classes}), got {condition.tolist()}")

    def forward(self, condition: Tensor | None, count: int) -> Tensor:
        """Elements (B, T, W) of `count` conditions; None for none. Some are dropped in training."""
        dropped = None
        if self.training and condition is not None and self.rate:
            dropped = torch.rand(count, device=condition.device) < self.rate
        if self.dim is None:
            none = self.classes or 0
            if condition is None:
                condition = torch.full((count,), none, device=self.embed.weight.device)
            elif dropped is not None:
                condition = condition.masked_fill(dropped, none)
            return self.embed(condition)[:, None]
        if condition is None:
            condition = self.embed_none.expand(count, -1, -1)
        elif dropped is not None:
            condition = torch.where(dropped[:, None, None], self.embed_none, condition.to(self.embed_none.dtype))
        return self.fc2(F.gelu(self.fc1(condition.to(self.fc1.weight.dtype)), approximate="tanh"))
