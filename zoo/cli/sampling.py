"""`--steps`, `--guidance`, `--seed`: how decoders that paint by steps are run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from zoo.tokenizer import Tokenizer

__all__ = ["Guidance", "Sampling", "Seed", "Steps"]

Steps = Annotated[
    int | None, typer.Option(min=1, help="Sampling steps of a flow decoder; by default the model's own number.")
]
Guidance = Annotated[float | None, typer.Option(help="How strongly a flow decoder follows the code; 1 is as trained.")]
Seed = Annotated[
    int | None, typer.Option(help="Draw the noise of a stochastic decoder anew; by default always the same noise.")
]


@dataclass(frozen=True, slots=True)
class Sampling:
    """What `decode` is told beside tokens; None leaves it to the tokenizer.

    Attributes:
        steps, guidance: for iterative decoders.
        seed: of the noise, drawn anew for every call.
    """

    steps: int | None = None
    guidance: float | None = None
    seed: int | None = None

    def check(self, *tokenizers: Tokenizer) -> None:
        """Raise ValueError where steps or guidance are given and no tokenizer has a use for them."""
        for name in ("steps", "guidance"):
            if getattr(self, name) is not None and not any(tokenizer.iterative for tokenizer in tokenizers):
                kinds = ", ".join(dict.fromkeys(type(tokenizer).__name__ for tokenizer in tokenizers))
                raise ValueError(f"--{name} is for decoders that paint in steps, such as FlexTok's; got {kinds}")

    def options(self, tokenizer: Tokenizer) -> dict[str, Any]:
        """Arguments of `tokenizer.decode`: the same for every decoding, so that lengths can be compared."""
        import torch

        given: dict[str, Any] = {"steps": self.steps, "guidance": self.guidance} if tokenizer.iterative else {}
        if self.seed is not None:
            given["generator"] = torch.Generator(tokenizer.device).manual_seed(self.seed)
        return {name: value for name, value in given.items() if value is not None}
