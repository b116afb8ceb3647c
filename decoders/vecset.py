"""3DShape2VecSet's decoder: self-attention in the set, then one cross-attention from any point in space."""

from __future__ import annotations

from torch import Tensor, nn

from decoders.set_reader import SetReader
from encoders.layers.affine import Affine
from encoders.layers.attention import Block
from encoders.layers.geglu import GEGLU

__all__ = ["VecSetDecoder"]


class VecSetDecoder(nn.Module):
    """Latents (B, N, D) to values at points (arXiv 2301.11445, Sec. 5.2 and 5.3).

    Points are embedded by the encoder's own embedding, which a caller passes: 3DShape2VecSet has one for both.

    Args:
        dim: D.
        width: W of the blocks.
        depth: blocks of self-attention.
        heads: of the self-attention.
        head_dim: of one of these heads; None for W / heads.
        read_heads: of the cross-attention that reads the set.
        project: whether a linear map D -> W comes first; without one, D = W.
        affine: whether a gain and a bias of every channel come before that (VecSetX).
        norm_context: whether the set is normalised before it is read.
        norm_output: whether what was read is normalised before it becomes a value, and values start at 0 (VecSetX).
        drop_path: share of the items that skip a residual branch in training.

    Raises:
        ValueError: D is not W without `project`.
    """

    def __init__(
        self,
        dim: int,
        width: int = 512,
        depth: int = 24,
        heads: int = 8,
        head_dim: int | None = None,
        read_heads: int = 1,
        project: bool = True,
        affine: bool = False,
        norm_context: bool = True,
        norm_output: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        if not project and dim != width:
            raise ValueError(f"without project the decoder reads latents {width} wide, got dim={dim}")
        self.dim = dim
        self.affine = Affine(dim) if affine else nn.Identity()
        self.proj = nn.Linear(dim, width) if project else nn.Identity()
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp=GEGLU(width, 4 * width), head_dim=head_dim, bias=False, drop_path=drop_path)
            for _ in range(depth)
        )
        self.reader = SetReader(width, read_heads, norm_context=norm_context, norm_output=norm_output)

    def members(self, latents: Tensor, queries: Tensor | None = None) -> Tensor:
        """The set (B, N, W) that points read; arguments as in `forward`."""
        x = self.proj(self.affine(latents))
        x = x if queries is None else x + queries
        for block in self.blocks:
            x = block(x)
        return x

    def forward(
        self, latents: Tensor, embed: nn.Linear, queries: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What `query` reads of a code.

        Args:
            latents: (B, N, D).
            embed: the encoder's map of Fourier features.
            queries: (N, W) the encoder's learned queries, which VecSetX adds to the latents again.
        """
        return self.reader.prepare(self.members(latents, queries), embed)

    def query(self, state: tuple[Tensor, Tensor, Tensor], features: Tensor) -> Tensor:
        """Values (B, Q) at points of Fourier features (B, Q, F) float32."""
        return self.reader(features, state)
