"""RAR: next-token prediction in random order that settles on the raster order while training (arXiv 2411.00776)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.generators.base import ABSENT, Losses, Vocabulary, evaluating
from zoo.generators.layers.adaln import AdaLNBlock, AdaLNHead, start_closed
from zoo.generators.layers.cache import KVCache
from zoo.generators.layers.vit import draw_weights
from zoo.generators.sampling import uniform
from zoo.generators.schedules import GuidanceSchedule, as_schedule, random_order_ratio
from zoo.generators.shared_ids import SharedIds
from zoo.generators.stepping import Stepper, complete

__all__ = ["RAR", "RARStepper"]

PREFIX = 2  # a learned start and the class stand before the tokens
SPARE_PLACES, SPARE_STEPS = 1024, 100  # rows of the published tables that no item reaches


class RAR(SharedIds):
    """A causal transformer that knows, at every position, which place of the picture comes next.

    Each position adds the embedding of its own place and the target-aware one of the place that follows (Sec. 3.3), so
    that any order can be learned; the class and the position set scales, shifts and gates of the blocks (adaLN).

    Args:
        vocabulary: one codebook.
        classes: C, or None without.
        width, depth, heads, hidden: W, blocks, heads and the width inside the MLP.
        dropout: of attention weights and of both branches.
        class_dropout: share of items trained without their class, which guidance needs.
        random_steps: training steps between which the share of random orders falls from 1 to 0; None for half and three
            quarters of the training, as published.
        temperature, guidance: what `generate` uses unless told otherwise.

    Attributes:
        random_share: share of the items that `loss` puts in random order, as `at_step` left it.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        classes: int | None = None,
        *,
        width: int = 768,
        depth: int = 24,
        heads: int = 16,
        hidden: int = 3072,
        dropout: float = 0.1,
        class_dropout: float = 0.1,
        random_steps: Sequence[int] | None = None,
        temperature: float = 1.0,
        guidance: float | GuidanceSchedule | None = None,
    ) -> None:
        super().__init__(vocabulary, classes, class_dropout)
        if random_steps is not None and (len(random_steps) != 2 or not 0 <= random_steps[0] <= random_steps[1]):
            raise ValueError(f"random_steps are where random orders begin to fade and where they end: {random_steps}")
        self.random_steps = None if random_steps is None else tuple(int(step) for step in random_steps)
        self.random_share = 1.0
        self.temperature, self.guidance = temperature, as_schedule(guidance)
        self.heads, self.head_dim = heads, width // heads
        count = vocabulary.num_tokens
        self.start = nn.Parameter(torch.empty(1, 1, width))
        self.embedding = nn.Embedding(self.num_ids, width)
        self.places = nn.Parameter(torch.empty(1, count + SPARE_PLACES, width))
        self.target_places = nn.Parameter(torch.empty(1, count + SPARE_PLACES, width))
        self.steps = nn.Parameter(torch.empty(1, count + SPARE_STEPS, width))
        self.blocks = nn.ModuleList(AdaLNBlock(width, heads, hidden, dropout) for _ in range(depth))
        self.head = AdaLNHead(width, self.mask_id)
        self.apply(draw_weights)
        for table in (self.start, self.places, self.target_places, self.steps):
            nn.init.trunc_normal_(table, std=0.02)
        for module in (*self.blocks, self.head):
            start_closed(module)

    def at_step(self, step: int, max_steps: int) -> None:
        """Set the share of random orders for a step of a training of `max_steps`."""
        start, end = self.random_steps or (max_steps // 2, max_steps * 3 // 4)
        self.random_share = random_order_ratio(step, start, end)

    def place_embeddings(self, orders: Tensor | None = None) -> Tensor:
        """What each position adds for its own place and for the next (B or 1, N + 2, W).

        Args:
            orders: (B, N) int64, place of the n-th token; None for the raster order.
        """
        if orders is None:
            orders = torch.arange(self.vocabulary.num_tokens, device=self.start.device)[None]
        own = self.places[0, PREFIX + orders]
        start = self.places[:, :PREFIX].expand(len(own), -1, -1)
        following = F.pad(self.target_places[0, PREFIX + orders], (0, 0, 1, 1))
        return torch.cat([start, own], dim=1) + following

    def read(self, x: Tensor, labels: Tensor, cache: KVCache | None = None, start: int = 0) -> Tensor:
        """Run the blocks and the head.

        Args:
            x: (B, n, W) embeddings of positions from `start` on.
            labels: (B, 1, W) embeddings of the classes.
            cache: keys and values of the positions before; None if there are none.
            start: first position, counted from the learned start.

        Returns:
            Logits (B, n, K).
        """
        condition = labels + self.steps[:, start : start + x.shape[1]]
        for number, block in enumerate(self.blocks):
            x = block(x, condition, None if cache is None else cache.layers[number], start)
        return self.head(x, condition)

    def logits(self, ids: Tensor, class_ids: Tensor, orders: Tensor | None = None) -> Tensor:
        """Logits of every next token.

        Args:
            ids: (B, n) int64, the first n tokens in the order in which they are read.
            class_ids: (B,) from `class_ids`.
            orders: (B, N) int64, the place of each token read; None for the raster order.

        Returns:
            (B, n + 1, K); the last row has no meaning where n = N.
        """
        labels = self.embedding(class_ids)[:, None]
        x = torch.cat([self.start.expand(len(ids), -1, -1), labels, self.embedding(ids)], dim=1)
        return self.read(x + self.place_embeddings(orders)[:, : x.shape[1]], labels)[:, PREFIX - 1 :]

    def loss(
        self, indices: Tensor, condition: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Losses:
        """Cross-entropy of each token given those before it: in training some items are in random order.

        Args:
            indices: (B, N, 1) int64.
            condition: labels (B,), or None.
            generator: source of orders and dropped classes.
        """
        codes = self.codes(indices)
        class_ids = self.drop_classes(self.class_ids(condition, len(codes)), generator)
        orders = torch.arange(codes.shape[1], device=codes.device).expand(len(codes), -1)
        if self.training:
            shuffled = uniform(codes.shape, codes, generator=generator).argsort(-1)
            chosen = uniform(codes.shape[:1], codes, generator=generator) < self.random_share
            orders = torch.where(chosen[:, None], shuffled, orders)
        ids = codes.gather(1, orders)
        logits = self.logits(ids[:, :-1], class_ids, orders).float()
        nll = F.cross_entropy(logits.transpose(1, 2), ids, reduction="none")
        in_place = torch.empty_like(nll).scatter(1, orders, nll.detach())
        return Losses(nll.mean(), nll=in_place[..., None])

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
        prefix: Tensor | None = None,
        stop: int | None = None,
    ) -> Tensor:
        """Draw N tokens in raster order, one a pass.

        Args:
            condition: labels (B,), or None for no class.
            count: items, without a condition.
            temperature, top_k, top_p: as in `sample`; no temperature is the recipe's.
            guidance: a scale, 1 for none, or a schedule; None for the recipe's.
            steps: has no meaning here.
            generator: source of the draws.
            prefix: (B, n, 1) int64, the first codes.
            stop: tokens after which to stop; None for all.

        Returns:
            (B, N, 1) int64, -1 past `stop`.

        Raises:
            ValueError: steps are given, or an option is out of range.
        """
        if steps is not None:
            raise ValueError(f"RAR takes one pass for each of {self.vocabulary.num_tokens} tokens; leave steps out")
        length = self.vocabulary.num_tokens
        with evaluating(self):
            stepper = self.stepper(condition, count=count, guidance=guidance)
            self.check_finite(stepper.first)
            ids = torch.empty(len(stepper.first), 0, dtype=torch.int64, device=self.device)
            ids = complete(
                stepper,
                ids if prefix is None else prefix[..., 0],
                length if stop is None else min(stop, length),
                temperature=self.temperature if temperature is None else temperature,
                top_k=top_k,
                top_p=top_p,
                generator=generator,
            )
        return F.pad(ids, (0, length - ids.shape[1]), value=ABSENT)[..., None]

    @torch.no_grad()
    def stepper(
        self,
        condition: Tensor | None = None,
        *,
        count: int | None = None,
        guidance: float | GuidanceSchedule | None = None,
    ) -> RARStepper:
        """Sequences without tokens, for sampling of one's own; arguments as in `generate`."""
        return RARStepper(
            self, self.class_ids(condition, count), self.guidance if guidance is None else as_schedule(guidance)
        )

    @classmethod
    def reference_recipe(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """For the config of bytedance/1d-tokenizer."""
        net = config["model"]["generator"]
        return {
            "_target_": "zoo.generators.RAR",
            "vocabulary": cls.reference_vocabulary(config),
            "classes": net["condition_num_classes"],
            "width": net["hidden_size"],
            "depth": net["num_hidden_layers"],
            "heads": net["num_attention_heads"],
            "hidden": net["intermediate_size"],
            "dropout": net["dropout"],
            "class_dropout": net["class_label_dropout"],
            "random_steps": [net.get("randomness_anneal_start", 125_000), net.get("randomness_anneal_end", 187_500)],
            "temperature": net.get("randomize_temperature", 1.0),
            "guidance": {
                "_target_": "zoo.generators.GuidanceSchedule",
                "scale": net.get("guidance_scale", 1.0),
                "shape": "power_cosine",
                "power": net.get("guidance_scale_pow", 1.0),
            },
        }

    @classmethod
    def convert(cls, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Their keys to ours."""
        names = {
            "cls_token": "start",
            "embeddings.": "embedding.",
            "target_aware_pos_embed": "target_places",
            "pos_embed": "places",
            "timesteps_embeddings": "steps",
            "adaln_before_head.adaLN_modulation.1.": "head.modulation.",
            "lm_head.": "head.linear.",
            ".adaLN_modulation.1.": ".modulation.",
        }
        ours = {}
        for key, tensor in state.items():
            found = next((theirs for theirs in names if theirs in key), None)
            ours[key if found is None else key.replace(found, names[found])] = tensor
        return ours


class RARStepper(Stepper):
    """A batch that RAR continues in raster order."""

    def __init__(self, model: RAR, class_ids: Tensor, guidance: GuidanceSchedule | None) -> None:
        super().__init__(model.vocabulary.num_tokens, guidance)
        self.model = model
        if guidance is not None:
            class_ids = torch.cat([class_ids, torch.full_like(class_ids, model.none_id)])
        self.labels = model.embedding(class_ids)[:, None]
        self.table = model.place_embeddings()
        rows, places = len(class_ids), self.table.shape[1]
        options: dict[str, Any] = {"device": self.labels.device, "dtype": self.labels.dtype}
        self.cache = KVCache(len(model.blocks), rows, model.heads, places, model.head_dim, **options)
        start = torch.cat([model.start.expand(rows, -1, -1), self.labels], dim=1)
        self.first = self.guided(self._read(start, 0)[:, -1:], 0)[:, 0]

    def read(self, ids: Tensor) -> Tensor:
        """See `Stepper`."""
        return self._read(self.model.embedding(ids), PREFIX + self.length)

    def _read(self, x: Tensor, start: int) -> Tensor:
        return self.model.read(x + self.table[:, start : start + x.shape[1]], self.labels, self.cache, start)
