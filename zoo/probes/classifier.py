"""A small classifier on tokens, in the manner of DASB (arXiv 2406.14294).

Embeddings of the codes, learned weights over codebooks and over time, a perceptron.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

__all__ = ["Schedule", "TokenClassifier", "classifier_probe"]


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a classifier is trained.

    Attributes:
        epochs: over the training items; the epoch with the least loss on the validation items is kept.
        batch_size: items.
        rate: of AdamW, falling to 0 by a cosine.
        width: of embeddings and hidden layer.
        repetitions: trainings from different draws, whose accuracies are averaged.
        seed: of the first of them.
    """

    epochs: int = 30
    batch_size: int = 16
    rate: float = 3e-3
    width: int = 64
    repetitions: int = 3
    seed: int = 0

    def facts(self) -> dict[str, float]:
        """For the record."""
        return asdict(self)


class TokenClassifier(nn.Module):
    """Class scores of sequences of tokens.

    Each code has an embedding. A learned weighting merges the codebooks of a position, another the positions; then
    comes a perceptron with one hidden layer. Continuous latents are projected instead.

    Args:
        entries: codes of all codebooks together, for ids; 0 for latents.
        dim: of latents; 0 for ids.
        classes: C.
        width: of the embeddings and the hidden layer.
    """

    def __init__(self, entries: int, dim: int, classes: int, width: int) -> None:
        super().__init__()
        self.embed: nn.Module = nn.Embedding(entries, width) if entries else nn.Linear(dim, width)
        self.over_books = nn.Linear(width, 1)
        self.over_time = nn.Linear(width, 1)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes))

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Scores (B, C) of ids (B, N, Q) int64 or latents (B, N, 1, D), where mask (B, N) is True."""
        x = self.embed(tokens)
        x = (x * self.over_books(x).softmax(2)).sum(2)
        weights = self.over_time(x).masked_fill(~mask[..., None], -torch.inf).softmax(1)
        return self.head((x * weights).sum(1))


Items = Sequence[Tensor]


def classifier_probe(
    train: tuple[Items, Tensor],
    validation: tuple[Items, Tensor],
    test: Items,
    classes: int,
    *,
    entries: int,
    schedule: Schedule,
) -> Tensor:
    """Classes (R, N) that each of R trained classifiers gives to N test items.

    Args:
        train, validation: ids (n, Q) int64 or latents (n, D) of each item, and labels; without validation items the
            last epoch is kept.
        entries: see `TokenClassifier`.
    """
    found = []
    for repetition in range(schedule.repetitions):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(schedule.seed + repetition)
            model = _trained(train, validation, classes, entries, schedule)
        found.append(_scores(model, test, schedule.batch_size).argmax(1))
    return torch.stack(found)


def _trained(
    train: tuple[Items, Tensor], validation: tuple[Items, Tensor], classes: int, entries: int, schedule: Schedule
) -> TokenClassifier:
    items, labels = train
    model = TokenClassifier(entries, 0 if entries else items[0].shape[-1], classes, schedule.width)
    optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.rate, weight_decay=0.01)
    steps = schedule.epochs * -(-len(items) // schedule.batch_size)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    best, least = copy.deepcopy(model.state_dict()), float("inf")
    for _ in range(schedule.epochs):
        model.train()
        for places in torch.randperm(len(items)).split(schedule.batch_size):
            loss = F.cross_entropy(model(*_batch([items[place] for place in places.tolist()])), labels[places])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rates.step()
        if len(validation[0]):
            missed = float(F.cross_entropy(_scores(model, validation[0], schedule.batch_size), validation[1]))
            if missed < least:
                best, least = copy.deepcopy(model.state_dict()), missed
    if len(validation[0]):
        model.load_state_dict(best)
    return model


@torch.no_grad()
def _scores(model: TokenClassifier, items: Items, size: int) -> Tensor:
    model.eval()
    return torch.cat([model(*_batch(part)) for part in _parts(items, size)])


def _parts(items: Items, size: int) -> Iterator[Items]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _batch(items: Items) -> tuple[Tensor, Tensor]:
    """Items of different lengths as one tensor, and where it is no padding."""
    tokens = pad_sequence(list(items), batch_first=True)
    mask = torch.arange(tokens.shape[1]) < torch.tensor([len(item) for item in items])[:, None]
    return (tokens[:, :, None] if tokens.is_floating_point() else tokens), mask
