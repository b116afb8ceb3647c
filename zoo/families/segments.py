"""Segments of a row of features: loud frames that are alike, as Sylber finds syllables (arXiv 2410.07168)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["gaussian_threshold", "segment", "segment_means"]

BLOCK = 8  # frames that are compared at a time; doubled while a segment goes on

Array = np.ndarray[Any, np.dtype[np.float64]]  # small pieces one after the other cost far less than as tensors


def segment(states: Tensor, *, norm_threshold: float, merge_threshold: float) -> Tensor:
    """Cut a row of features into segments (Sylber's Alg. 1, and its second look at the cuts).

    Frames whose norm is below `norm_threshold` belong to no segment. From left to right, a segment takes in the next
    frame as long as the cosine between the mean of its frames so far and that frame is at least `merge_threshold`. Then
    every cut between two segments that touch is looked at once more, from left to right: if the means of both are that
    much alike, they become one; else the cut moves within half of either segment to where most frames are like the mean
    of their own side.

    The mean of the first pass is the published code's: the first frame of a segment counts once more for every frame
    since the last quiet one, so that the later in a phrase, the longer a segment is held to what it began with.

    A loop over segments, not over frames; float64 sums.

    Args:
        states: (L, D) float.
        norm_threshold: least norm of a frame.
        merge_threshold: least cosine, in [-1, 1].

    Returns:
        (S, 2) int64 on the CPU: first frame, and the one after the last, of each segment in order.
    """
    frames = states.detach().cpu().double().numpy()
    lengths = _length(frames)
    bounds: list[list[int]] = []
    cuts: list[int] = []  # segments that touch the one after them
    for onset, end in _runs(lengths >= norm_threshold):
        start = onset
        while start < end:
            stop = _reach(frames, lengths, onset, start, end, merge_threshold)
            if stop < end:
                cuts.append(len(bounds))
            bounds.append([start, stop])
            start = stop
    merged = _refine(frames, lengths, bounds, cuts, merge_threshold)
    kept = [bound for number, bound in enumerate(bounds) if number not in merged]
    return torch.tensor(kept, dtype=torch.int64).view(-1, 2)


def segment_means(states: Tensor, bounds: Tensor) -> Tensor:
    """Mean of the features (L, D) in each of the segments (S, 2): (S, D), summed in float64 on the CPU."""
    sums = torch.nn.functional.pad(states.detach().cpu().double().cumsum(0), (0, 0, 1, 0))
    first, last = bounds.cpu().unbind(1)
    return ((sums[last] - sums[first]) / (last - first)[:, None]).to(states)


def gaussian_threshold(signal: tuple[float, float], noise: tuple[float, float]) -> float:
    """The norm at which a frame is as likely signal as noise, if the norms of both are normally distributed.

    The root between the means of the quadratic discriminant; where both have one variance, the middle of the means.
    Sylber's statistics, (6.10, 0.87) and (0.34, 0.34), give the 2.6 it is used with.

    Args:
        signal, noise: mean and variance of the norms.

    Raises:
        ValueError: the two cannot be told apart by a threshold.
    """
    (high, wide), (low, narrow) = signal, noise
    if min(wide, narrow) <= 0 or (high == low and wide == narrow):
        raise ValueError(f"signal and noise need positive variances and must differ, got {signal} and {noise}")
    square = wide - narrow
    linear = 2 * (narrow * high - wide * low)
    constant = wide * low**2 - narrow * high**2 - narrow * wide * math.log(wide / narrow)
    if square == 0:
        return -constant / linear
    root = math.sqrt(max(linear**2 - 4 * square * constant, 0))
    return (-linear + (root if high > low else -root)) / (2 * square)


def _runs(loud: np.ndarray[Any, np.dtype[np.bool_]]) -> list[list[int]]:
    """Stretches [first, after last) of True."""
    edges = np.diff(np.pad(loud.astype(np.int8), 1))
    return np.stack([np.nonzero(edges > 0)[0], np.nonzero(edges < 0)[0]], axis=1).tolist()


def _reach(frames: Array, lengths: Array, onset: int, start: int, end: int, threshold: float) -> int:
    """The first frame in (start, end) that a segment from `start` does not take in; `end` if there is none."""
    total, at, block = frames[start] * (start - onset + 1), start + 1, BLOCK
    while at < end:
        stop = min(at + block, end)
        sums = np.concatenate([total[None], frames[at:stop]]).cumsum(0)  # before each frame, and after the last
        means = sums[:-1] / np.arange(at - onset, stop - onset)[:, None]
        different = np.nonzero(_cosine(means, frames[at:stop], _length(means), lengths[at:stop]) < threshold)[0]
        if len(different):
            return at + int(different[0])
        total, at, block = sums[-1], stop, 2 * block
    return end


def _refine(frames: Array, lengths: Array, bounds: list[list[int]], cuts: list[int], threshold: float) -> set[int]:
    """Move or remove cuts in place; the numbers of segments that became part of the next one."""
    sums, merged = np.pad(frames.cumsum(0), ((1, 0), (0, 0))), set()
    for left in cuts:
        (start, cut), (_, end) = bounds[left], bounds[left + 1]
        before, behind = (sums[cut] - sums[start]) / (cut - start), (sums[end] - sums[cut]) / (end - cut)
        sizes = _length(before), _length(behind)
        if _cosine(before, behind, *sizes) >= threshold:
            bounds[left + 1] = [start, end]
            merged.add(left)
            continue
        first = max(start, cut - max(1, (cut - start) // 2))
        last = min(end, cut + max(1, (end - cut) // 2))
        near, size = frames[first:last], lengths[first:last]
        gain = _cosine(near, before, size, sizes[0]) - _cosine(near, behind, size, sizes[1])
        moved = first + int((gain.cumsum() - gain).argmax())
        bounds[left][1], bounds[left + 1][0] = moved, moved
    return merged


def _length(x: Array) -> Array:
    return np.sqrt(np.square(x).sum(-1) + 1e-8)


def _cosine(a: Array, b: Array, a_length: Array, b_length: Array) -> Array:
    return (a * b).sum(-1) / a_length / b_length
