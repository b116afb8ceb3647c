"""One quantizer under the contract, and what the contract may ask of it."""

from collections.abc import Callable
from dataclasses import dataclass

from quantizers import Quantizer


@dataclass(frozen=True)
class Case:
    """A small quantizer for `tests/quantizers/test_quantizer_contract.py`.

    Attributes:
        make: builds it, from the global random state.
        tokens: positions N of the latents it is shown.
        positionwise: every position is quantized on its own, so that padding can be cut off and slices decode alike.
        exact_slices: decoding a slice gives the bits of the whole (a matrix product of another shape may round
            differently).
        idempotent: codes are quantized to themselves.
        codes_in_training: the forward value while training is the code, bit for bit.
        state: buffers or a codebook that training forwards change without a gradient: the case also runs on two ranks.
        continuous: there are no indices to look up.
        differentiable: latents carry gradients to the input while training.
        random: training forwards draw random numbers for every position.
        constant_loss: part of the loss does not depend on the latents, and stays when there are none.
        compiles: torch.compile(fullgraph=True) and torch.export take it.
        inductor_trains: torch 2.11's inductor emits code for its training graph that runs.
    """

    make: Callable[[], Quantizer]
    tokens: int = 7
    positionwise: bool = True
    exact_slices: bool = True
    idempotent: bool = True
    codes_in_training: bool = True
    state: bool = False
    continuous: bool = False
    differentiable: bool = True
    random: bool = False
    constant_loss: bool = False
    compiles: bool = True
    inductor_trains: bool = True
