"""MaskGIT: tokens of a picture in any order, a few passes for all of them (arXiv 2202.04200)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.generators.base import ABSENT, Losses, Vocabulary, evaluating
from zoo.generators.layers.uvit import UViTNet
from zoo.generators.layers.vit import BertNet
from zoo.generators.sampling import uniform
from zoo.generators.schedules import GuidanceSchedule, as_schedule, guide
from zoo.generators.shared_ids import SharedIds
from zoo.generators.unmasking import Predict, by_confidence, halton_order, in_order

__all__ = ["MaskGIT"]

Network = Literal["vit", "uvit"]
FillOrder = Literal["confidence", "halton"]


class MaskGIT(SharedIds):
    """A bidirectional transformer that fills masks, in the two forms of bytedance/1d-tokenizer.

    It reads the class and N tokens, each a code or a mask.

    Args:
        vocabulary: one codebook; a `grid` allows the Halton order.
        classes: C, or None without.
        network: "vit", BERT's blocks, whose head also has rows for masks and classes; or "uvit".
        width, depth, heads, hidden: W, blocks, heads and the width inside the MLP.
        dropout: of embeddings ("vit"), attention weights and branches.
        class_dropout: share of items trained without their class, which guidance needs.
        label_smoothing: of the loss.
        known_weight: of the tokens in the loss that were not masked.
        steps, temperature, guidance, cooling: what `generate` uses unless told otherwise.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        classes: int | None = None,
        *,
        network: Network = "vit",
        width: int = 768,
        depth: int = 24,
        heads: int = 16,
        hidden: int = 3072,
        dropout: float = 0.1,
        class_dropout: float = 0.1,
        label_smoothing: float = 0.1,
        known_weight: float = 0.1,
        steps: int = 8,
        temperature: float = 1.0,
        guidance: float | GuidanceSchedule | None = None,
        cooling: bool = False,
    ) -> None:
        super().__init__(vocabulary, classes, class_dropout)
        if network not in get_args(Network):
            raise ValueError(f"network is one of {', '.join(get_args(Network))}, got {network!r}")
        self.label_smoothing, self.known_weight = label_smoothing, known_weight
        self.steps, self.temperature, self.cooling = steps, temperature, cooling
        self.guidance = as_schedule(guidance)
        length, sizes = vocabulary.num_tokens + 1, (width, depth, heads, hidden, dropout)
        self.network: nn.Module = (
            BertNet(self.num_ids, length, *sizes)
            if network == "vit"
            else UViTNet(self.num_ids, self.mask_id, length, *sizes)
        )

    def logits(self, ids: Tensor, class_ids: Tensor) -> Tensor:
        """Codes or masks (B, N), and `class_ids` (B,) -> logits (B, N, V) of the codes and, maybe, of other ids."""
        return self.network(torch.cat([class_ids[:, None], ids], dim=1))[:, 1:]

    def loss(
        self, indices: Tensor, condition: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Losses:
        """Cross-entropy of masked tokens, and a little of the others, at a random masked share.

        The share of an item is arccos(u) / (pi / 2) with uniform u. Outside training the draws are always the same.

        Args:
            indices: (B, N, 1) int64.
            condition: labels (B,), or None.
            generator: source of masks and dropped classes.

        Returns:
            `parts` are the cross-entropy of the masked tokens in nats, and the share of them that is right.
        """
        codes = self.codes(indices)
        if generator is None and not self.training:
            generator = torch.Generator().manual_seed(0)
        class_ids = self.drop_classes(self.class_ids(condition, len(codes)), generator)
        share = torch.acos(uniform(codes.shape[:1], codes, generator=generator)) / (math.pi / 2)
        hidden = (share * codes.shape[1]).round().clamp_min(1)
        masked = uniform(codes.shape, codes, generator=generator).argsort(-1) < hidden[:, None]
        logits = self.logits(codes.masked_fill(masked, self.mask_id), class_ids).float().transpose(1, 2)
        smooth = F.cross_entropy(logits, codes, label_smoothing=self.label_smoothing, reduction="none")
        weights = torch.where(masked, 1.0, self.known_weight)
        plain = F.cross_entropy(logits.detach(), codes, reduction="none")
        right = logits.argmax(1) == codes
        parts = {"masked_nll": plain[masked].mean(), "masked_accuracy": right[masked].float().mean()}
        return Losses((smooth * weights).sum() / weights.sum(), parts)

    @torch.no_grad()
    def generate(
        self,
        condition: Tensor | None = None,
        *,
        count: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        guidance: float | GuidanceSchedule | None = None,
        steps: int | None = None,
        generator: torch.Generator | None = None,
        order: FillOrder = "confidence",
        known: Tensor | None = None,
    ) -> Tensor:
        """Fill N masks of each item.

        Args:
            condition: labels (B,), or None for no class.
            count: items, without a condition.
            temperature: of "confidence", the weight that Gumbel noise begins with, None for the recipe's; of "halton",
                that of the softmax, None for 1.
            top_k, top_p: as in `sample`.
            guidance: a scale, 1 for none, or a schedule; None for the recipe's.
            steps: passes, twice as many with guidance; None for the recipe's.
            generator: source of the draws.
            order: "confidence", each pass keeps the surest; "halton", spread over the grid (arXiv 2503.17076).
            known: (B, N, 1) int64 codes to keep, -1 where one is wanted; None for none.

        Returns:
            (B, N, 1) int64.

        Raises:
            ValueError: an option is out of range, or there is no grid to spread over.
        """
        class_ids = self.class_ids(condition, count)
        steps = self.steps if steps is None else steps
        if steps < 1:
            raise ValueError(f"steps is at least 1, got {steps}")
        if order not in get_args(FillOrder):
            raise ValueError(f"order is one of {', '.join(get_args(FillOrder))}, got {order!r}")
        ids = class_ids.new_full((len(class_ids), self.vocabulary.num_tokens), self.mask_id)
        if known is not None:
            self.check_indices(known)
            ids = torch.where(known[..., 0] == ABSENT, ids, known[..., 0])
        predict = self.predictor(class_ids, self.guidance if guidance is None else as_schedule(guidance))
        options: dict[str, Any] = {"steps": steps, "top_k": top_k, "top_p": top_p, "generator": generator}
        with evaluating(self):
            if order == "confidence":
                heat = self.temperature if temperature is None else temperature
                ids = by_confidence(predict, ids, self.mask_id, temperature=heat, cooling=self.cooling, **options)
            elif self.vocabulary.grid is not None:
                places = halton_order(self.vocabulary.grid[0], self.vocabulary.grid[1]).to(ids.device)
                heat = 1.0 if temperature is None else temperature
                ids = in_order(predict, ids, self.mask_id, places, temperature=heat, **options)
            else:
                raise ValueError("the Halton order spreads tokens over a grid, these codes have none; use confidence")
        return ids[..., None]

    def predictor(self, class_ids: Tensor, guidance: GuidanceSchedule | None, *, every_id: bool = False) -> Predict:
        """Tokens (B, N) and progress -> guided logits (B, N, K), or (B, N, V) of all that the head knows."""

        def predict(ids: Tensor, progress: float) -> Tensor:
            scale = 1.0 if guidance is None else guidance.at(progress)
            if scale == 1:
                logits = self.logits(ids, class_ids)
            else:
                both = torch.cat([class_ids, torch.full_like(class_ids, self.none_id)])
                told, free = self.logits(ids.repeat(2, 1), both).chunk(2)
                logits = guide(told, free, scale)
            if progress == 0:
                self.check_finite(logits)
            return logits if every_id else logits[..., : self.mask_id]

        return predict

    @classmethod
    def reference_recipe(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """For the config of bytedance/1d-tokenizer and turingmotors/One-D-Piece; guidance in our convention.

        Theirs of "constant" and "linear" is c + s (c - u), ours u + (1 + s) (c - u).
        """
        net = config["model"]["generator"]
        shape = net.get("guidance_decay", "constant").replace("-", "_")
        scale = net.get("guidance_scale", 0.0 if shape != "power_cosine" else 1.0)
        return {
            "_target_": "zoo.generators.MaskGIT",
            "vocabulary": cls.reference_vocabulary(config),
            "classes": net["condition_num_classes"],
            "network": net["model_type"].lower(),
            "width": net["hidden_size"],
            "depth": net["num_hidden_layers"],
            "heads": net["num_attention_heads"],
            "hidden": net["intermediate_size"],
            "dropout": net["dropout"],
            "class_dropout": net["class_label_dropout"],
            "steps": net["num_steps"],
            "temperature": net.get("randomize_temperature", 1.0),
            "guidance": {
                "_target_": "zoo.generators.GuidanceSchedule",
                "scale": scale if shape == "power_cosine" else 1 + scale,
                "shape": shape,
                "power": net.get("guidance_scale_pow", 3.0) if shape == "power_cosine" else 1.0,
            },
        }

    @classmethod
    def convert(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Their keys to ours.

        The three projections of BERT's attention become one; its head is the table of embeddings, saved twice there.
        """
        if "pos_embed" in state:
            names = {"embeddings.": "embedding.", "pos_embed": "positions", "lm_head.": "head."}
            return {f"network.{_renamed(key, names)}": tensor for key, tensor in state.items()}
        names = {
            "model.embeddings.word_embeddings.": "embedding.",
            "model.embeddings.position_embeddings.weight": "positions",
            "model.embeddings.token_type_embeddings.weight": "kinds",
            "model.embeddings.LayerNorm.": "norm.",
            "model.lm_head.": "",
            "model.encoder.layer.": "blocks.",
        }
        inside = {
            ".attention.self.query.": ".attn.qkv.",
            ".attention.output.dense.": ".attn.proj.",
            ".attention.output.LayerNorm.": ".norm1.",
            ".intermediate.dense.": ".mlp.fc1.",
            ".output.dense.": ".mlp.fc2.",
            ".output.LayerNorm.": ".norm2.",
        }
        ours = {}
        for key, tensor in state.items():
            if key.endswith(("position_ids", "lm_head.weight")) or ".self.key." in key or ".self.value." in key:
                continue
            if ".self.query." in key:
                others = [state[key.replace(".query.", f".{part}.")] for part in ("key", "value")]
                tensor = torch.cat([tensor, *others])
            name = _renamed(key, names)
            for theirs, own in inside.items():
                if theirs in name:
                    name = name.replace(theirs, own)
                    break
            ours[f"network.{name}"] = tensor
        return ours


def _renamed(key: str, names: Mapping[str, str]) -> str:
    """The key with a leading part replaced."""
    for theirs, own in names.items():
        if key.startswith(theirs):
            return own + key[len(theirs) :]
    return key
