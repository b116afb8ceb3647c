"""Generators whose masks and classes are ids behind the codes, in one table: MaskGIT and RAR of 1d-tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from zoo.generators.base import ABSENT, Generator, Vocabulary
from zoo.generators.sampling import uniform

__all__ = ["SharedIds"]


class SharedIds(Generator):
    """Ids are codes [0, K), the mask K, classes K + 1 + c, and K + 1 + C for no class.

    Items always have all N tokens, also where the tokenizer could do with fewer.

    Attributes:
        mask_id: K.
        none_id: K + 1 + C.
        num_ids: K + C + 2.
    """

    def __init__(self, vocabulary: Vocabulary, classes: int | None, class_dropout: float) -> None:
        super().__init__(vocabulary, classes)
        if vocabulary.depth != 1:
            raise ValueError(
                f"{type(self).__name__} writes one code a position, got {vocabulary.depth} codebooks; use GPT"
            )
        if not 0 <= class_dropout <= 1:
            raise ValueError(f"class_dropout is a share in [0, 1], got {class_dropout}")
        self.class_dropout = class_dropout
        self.mask_id = int(vocabulary.codebook_sizes[0])
        self.none_id = self.mask_id + 1 + (classes or 0)
        self.num_ids = self.none_id + 1

    def codes(self, indices: Tensor) -> Tensor:
        """Training indices (B, N, 1) -> (B, N).

        Raises:
            ValueError: another shape, or items with fewer tokens.
        """
        self.check_indices(indices)
        if bool((indices == ABSENT).any()):
            raise ValueError(f"{type(self).__name__} learns from whole items, in some of these positions are absent")
        return indices[..., 0]

    def class_ids(self, condition: Tensor | None, count: int | None = None) -> Tensor:
        """The ids (B,) of class labels; without a condition, `count` times the id of no class.

        Raises:
            ValueError: labels of another shape or out of range, or neither labels nor a count.
        """
        name = type(self).__name__
        if condition is None:
            if count is None:
                raise ValueError(f"{name} needs class labels (B,), or count items without a class")
            return torch.full((count,), self.none_id, device=self.device)
        if condition.ndim != 1 or condition.is_floating_point() or not self.classes:
            raise ValueError(
                f"{name} with classes={self.classes} expects labels int64 (B,), got {condition.dtype} "
                f"{tuple(condition.shape)}"
            )
        if condition.numel() and not 0 <= int(condition.min()) <= int(condition.max()) < self.classes:
            raise ValueError(f"{name} has classes 0 to {self.classes - 1}, got {condition.tolist()}")
        return condition.to(self.device) + self.mask_id + 1

    def drop_classes(self, ids: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """In training, the ids (B,) with some replaced by that of no class."""
        if not self.training or not self.class_dropout:
            return ids
        return torch.where(uniform(ids.shape, ids, generator=generator) < self.class_dropout, self.none_id, ids)

    @classmethod
    def reference_vocabulary(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """The node of the vocabulary; `order` is not the reference's, cards add it where it is not "raster"."""
        size = config.get("dataset", {}).get("preprocessing", {}).get("crop_size")
        return {
            "_target_": "zoo.generators.Vocabulary",
            "codebook_sizes": [config["model"]["vq_model"]["codebook_size"]],
            "num_tokens": config["model"]["generator"]["image_seq_len"],
            "order": config.get("order", "raster"),
            "size": None if size is None else [size, size],
        }

    @classmethod
    def reference_recipe(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Our recipe node for the reference implementation's own config."""
        raise NotImplementedError(f"{cls.__name__} must define reference_recipe")

    @classmethod
    def convert(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The reference's state dict under our keys."""
        raise NotImplementedError(f"{cls.__name__} must define convert")

    @classmethod
    def from_reference(cls, config: Mapping[str, Any], state: Mapping[str, Tensor]) -> Self:
        """Build from the reference's own config and weights, strictly.

        Raises:
            ValueError: the config lacks something.
            RuntimeError: keys are missing or left over.
        """
        from zoo.generators.pipeline import build
        from zoo.store.weights import load_strict

        try:
            node = cls.reference_recipe(config)
        except KeyError as error:
            raise ValueError(f"{cls.__name__}: the reference config has no {error}; is it of this family?") from error
        generator = build(node, device="meta")
        if not isinstance(generator, cls):
            raise TypeError(f"{cls.__name__}.reference_recipe built a {type(generator).__name__}")
        load_strict(generator, cls.convert(state), source=f"{cls.__name__} reference state")
        return generator.eval()
