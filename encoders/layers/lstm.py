"""An LSTM along time beside a residual connection."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from encoders.layers.streaming import Stream

__all__ = ["SLSTM"]


class SLSTM(nn.LSTM):
    """LSTM layers whose input is added to their output (EnCodec, arXiv 2210.13438, Sec. 3.1).

    Args:
        width: C of input and state.
        layers: of the LSTM.
        bidirectional: whether time is read both ways; outputs are then 2 C wide and the input is added to either half.

    Attributes:
        dim: of the output.
    """

    def __init__(self, width: int, layers: int = 2, *, bidirectional: bool = False) -> None:
        super().__init__(width, width, layers, bidirectional=bidirectional)
        self.dim = width * (2 if bidirectional else 1)

    def forward(self, x: Tensor, lengths: Tensor | None = None, stream: Stream | None = None) -> Tensor:
        """(B, C, T) -> (B, dim, T).

        Args:
            x: the sequence.
            lengths: (B,) int64 real steps of each item: what is read backwards begins there; None for all.
            stream: continues a sequence, if not bidirectional.
        """
        sequence = x.permute(2, 0, 1)
        if stream is not None:
            if self.bidirectional:
                raise ValueError("an LSTM that reads both ways needs the whole sequence; it does not stream")
            if not len(sequence):
                return x
            output, state = self._run(sequence, stream.get(self))
            stream.put(self, state)
        elif lengths is not None and self.bidirectional:
            packed = pack_padded_sequence(sequence, lengths.cpu(), enforce_sorted=False)
            output = pad_packed_sequence(self._run(packed)[0], total_length=len(sequence))[0]
        else:
            output = self._run(sequence)[0]
        if self.bidirectional:
            sequence = torch.cat((sequence, sequence), dim=-1)
        return (output + sequence).permute(1, 2, 0)

    def _run(self, *sequence: Any) -> tuple[Any, Any]:
        return super().forward(*sequence)  # type: ignore[has-type]
