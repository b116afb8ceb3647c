"""What of ours makes the recorded tensors of the MaskGIT generators of bytedance/1d-tokenizer."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from golden import Case
from torch import Tensor

from zoo.generators import GuidanceSchedule, MaskGIT
from zoo.generators.unmasking import by_confidence

__all__ = ["maskgit_gen"]


def maskgit_gen(case: Case) -> Mapping[str, Callable[[re.Match[str]], Tensor] | None]:
    model = MaskGIT.from_reference(case.config, case.state)
    ids, class_ids = case.io["input_ids"], model.class_ids(case.io["condition"])
    masks = torch.full_like(ids, model.mask_id)

    def filled(guidance: GuidanceSchedule, steps: int, cooling: bool = False) -> Tensor:
        """Without noise, and among all ids that the head knows: the reference does not keep to codes."""
        predict = model.predictor(class_ids, guidance, every_id=True)
        return by_confidence(predict, masks, model.mask_id, steps=steps, temperature=0.0, cooling=cooling)

    return {
        "input_ids|condition": None,
        "logits_cond": lambda _: model.logits(ids, class_ids),
        "logits_uncond": lambda _: model.logits(ids, model.class_ids(None, len(ids))),
        "generated_linear": lambda _: filled(GuidanceSchedule(1 + 3.0, "linear"), 4),
        "generated_constant_annealed": lambda _: filled(GuidanceSchedule(1 + 2.0), 5, cooling=True),
        "generated_power_cosine": lambda _: filled(GuidanceSchedule(4.0, "power_cosine", power=3.0), 6),
    }
