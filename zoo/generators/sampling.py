"""From logits to ids: temperature, top-k, top-p, one seeded uniform number a draw."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "draw",
    "gumbel",
    "log_probabilities",
    "probabilities",
    "sample",
    "shaped",
    "top_k_cut",
    "top_p_cut",
    "uniform",
]


def top_k_cut(logits: Tensor, count: int) -> Tensor:
    """(..., K) logits with all but the `count` largest at -inf; equals of the last one kept stay as well.

    Raises:
        ValueError: `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"top_k keeps at least 1 entry, got {count}; leave it out to keep all")
    if count >= logits.shape[-1]:
        return logits
    least = logits.topk(count, dim=-1).values[..., -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def top_p_cut(logits: Tensor, mass: float) -> Tensor:
    """Nucleus: (..., K) logits with all at -inf but the fewest likeliest whose probabilities reach `mass`.

    (arXiv 1904.09751, Sec. 3.1.) Of equal logits the lower index counts as likelier.

    Raises:
        ValueError: `mass` is not in (0, 1].
    """
    if not 0 < mass <= 1:
        raise ValueError(f"top_p lies in (0, 1], got {mass}; leave it out to keep all")
    if mass == 1:
        return logits
    ordered, places = logits.sort(dim=-1, descending=True, stable=True)
    chances = ordered.softmax(-1)
    cut = chances.cumsum(-1) - chances >= mass
    cut[..., 0] = False
    return logits.masked_fill(torch.zeros_like(cut).scatter(-1, places, cut), -torch.inf)


def shaped(logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """(..., K) logits in float32, divided by the temperature, then cut by top-k, then by top-p.

    Temperature 0 leaves the largest alone, the first of equals.

    Raises:
        ValueError: a negative temperature, or a cut out of range.
    """
    if temperature < 0:
        raise ValueError(f"temperature is 0 (the likeliest id) or above, got {temperature}")
    logits = logits.float()
    if temperature == 0:
        best = logits.argmax(-1, keepdim=True)
        return torch.full_like(logits, -torch.inf).scatter(-1, best, 0.0)
    if temperature != 1:
        logits = logits / temperature
    if top_k is not None:
        logits = top_k_cut(logits, top_k)
    return logits if top_p is None else top_p_cut(logits, top_p)


def probabilities(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """(..., K) float32 chances with which `sample` draws each id."""
    return shaped(logits, temperature, top_k, top_p).softmax(-1)


def log_probabilities(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities (...) float32 of ids (...) under logits (..., K)."""
    return logits.float().log_softmax(-1).gather(-1, ids[..., None])[..., 0]


def draw(chances: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Ids (...) int64 drawn from chances (..., K), which need not sum to 1; an id of chance 0 is never drawn.

    One uniform number a draw is looked up in the cumulated chances, so that a seed on the CPU gives the same ids on
    every device, up to rounding.
    """
    places = uniform(chances.shape[:-1], chances, generator=generator)
    precise = torch.float32 if chances.device.type == "mps" else torch.float64
    total = chances.to(precise).cumsum(-1)
    # A uniform float32 is at most 1 - 2^-24, so the place looked up lies below the last sum, and on a chance above 0.
    return torch.searchsorted(total, places.to(precise)[..., None] * total[..., -1:], right=True)[..., 0]


def sample(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Ids drawn from logits.

    Args:
        logits: (..., K), for example (B, K) or (B, N, K).
        temperature: 0 takes the likeliest id; 1 is as trained.
        top_k: draw among so many largest; None for all.
        top_p: draw among the fewest likeliest that hold this share, counted after temperature and top-k; None for all.
        generator: source of the draws.

    Returns:
        (...) int64.

    Raises:
        ValueError: an option is out of range.
    """
    if temperature == 0:
        return logits.argmax(-1)
    return draw(probabilities(logits, temperature, top_k, top_p), generator=generator)


def uniform(shape: torch.Size | tuple[int, ...], like: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Uniform numbers in [0, 1) of a shape, float32 on the device of `like`, drawn where the generator is."""
    source = like.device if generator is None else generator.device
    return torch.rand(shape, generator=generator, device=source).to(like.device)


def gumbel(shape: torch.Size | tuple[int, ...], like: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Standard Gumbel noise -log(-log u) of a shape, float32 on the device of `like`."""
    return -torch.log(-torch.log(uniform(shape, like, generator=generator).clamp_min(1e-20)))
