"""What of ours makes the recorded tensors of RAR."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from golden import Case
from torch import Tensor

from zoo.generators import RAR, GuidanceSchedule

__all__ = ["rar"]


def rar(case: Case) -> Mapping[str, Callable[[re.Match[str]], Tensor] | None]:
    model = RAR.from_reference(case.config, case.state)
    io, labels = case.io, case.io["condition"]
    ids, orders, class_ids = io["input_ids"], io["orders"], model.class_ids(labels)
    guidance = GuidanceSchedule(4.0, "power_cosine", power=1.5)

    def greedy_logits() -> Tensor:
        """Guided logits of each step, with the recorded ids read from the cache one by one."""
        stepper = model.stepper(labels, guidance=guidance)
        behind = [stepper.extend(io["greedy_ids"][:, step : step + 1]) for step in range(ids.shape[1] - 1)]
        return torch.cat([stepper.first[:, None], *behind], dim=1)

    return {
        "input_ids|condition|orders|labels_raster": None,
        "condition_ids": lambda _: class_ids,
        "logits_raster": lambda _: model.logits(ids, class_ids),
        "labels_permuted": lambda _: ids.gather(1, orders),
        "logits_permuted": lambda _: model.logits(ids.gather(1, orders), class_ids, orders),
        "logits_uncond": lambda _: model.logits(ids, model.class_ids(None, len(ids))),
        "greedy_logits": lambda _: greedy_logits(),
        "greedy_ids": lambda _: model.generate(labels, temperature=0.0, guidance=guidance)[..., 0],
    }
