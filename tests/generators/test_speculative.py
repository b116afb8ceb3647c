"""Speculative decoding: the same distribution in fewer passes, and what groups change."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from quantizers import VQ
from zoo.generators import GPT, RAR, Vocabulary
from zoo.generators.gpt_stepper import GPTStepper
from zoo.generators.sampling import probabilities
from zoo.generators.speculative import CodeGroups, Speculated, speculate
from zoo.generators.stepping import Stepper, complete

CODES, TOKENS = 3, 4


def shaken(model: GPT | RAR, scale: float) -> GPT | RAR:
    """Random weights: ids depend on those before, the more the larger the scale."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return model.eval()


def rar(codes: int = CODES, tokens: int = TOKENS, scale: float = 0.5) -> RAR:
    torch.manual_seed(0)
    model = RAR(Vocabulary([codes], tokens), 2, width=16, depth=1, heads=2, hidden=16)
    return shaken(model, scale)  # type: ignore[return-value]


def gpt(codes: int = CODES, tokens: int = TOKENS) -> GPT:
    torch.manual_seed(0)
    model = GPT(Vocabulary([codes], tokens), classes=2, width=16, depth=2, heads=2)
    return shaken(model, 0.5)  # type: ignore[return-value]


def stepper_of(model: GPT | RAR, labels: Tensor, guidance: float | None = None) -> Stepper:
    if isinstance(model, GPT):
        return GPTStepper(model, labels, guidance=guidance)
    return model.stepper(labels, guidance=guidance)


def exact(model: GPT | RAR, guidance: float | None = None, **options: float) -> Tensor:
    """Chances of all K^N items of class 1."""
    every = torch.tensor(list(itertools.product(range(CODES), repeat=TOKENS)))
    stepper = stepper_of(model, torch.ones(len(every), dtype=torch.int64), guidance)
    logits = torch.cat([stepper.first[:, None], stepper.extend(every[:, :-1])], dim=1)
    return probabilities(logits, **options).gather(-1, every[..., None]).prod(1)[:, 0]


@pytest.mark.parametrize("window", [2, 16])
@pytest.mark.parametrize("build", [rar, gpt])
def test_items_have_the_chances_of_plain_sampling(build, window: int) -> None:  # type: ignore[no-untyped-def]
    """Pearson's chi-square of all 81 items over 10000 seeded draws, below its 99.9 % point."""
    model, count = build(), 10_000
    options = {"temperature": 0.8, "top_p": 0.97}
    found = speculate(
        stepper_of(model, torch.ones(count, dtype=torch.int64), 1.5),
        TOKENS,
        window=window,
        generator=torch.Generator().manual_seed(window),
        **options,  # type: ignore[arg-type]
    )
    number = (found.ids * CODES ** torch.arange(TOKENS - 1, -1, -1)).sum(1)
    expected = count * exact(model, 1.5, **options).double()
    observed = torch.bincount(number, minlength=len(expected)).double()
    assert observed[expected == 0].sum() == 0
    common = expected >= 5
    rest = (~common) & (expected > 0)
    pairs = [(observed[common], expected[common]), (observed[rest].sum()[None], expected[rest].sum()[None])]
    statistic = sum(((o - e).square() / e.clamp_min(1e-9)).sum().item() for o, e in pairs if e.sum() > 0)
    freedom = int(common.sum()) - (0 if expected[rest].sum() > 0 else 1)
    assert statistic < freedom + 3.1 * math.sqrt(2 * freedom) + 6


def test_groups_of_one_are_exact() -> None:
    """The same seed draws the same ids with groups of one code as without groups."""
    model, labels = rar(), torch.zeros(64, dtype=torch.int64)

    def found(groups: CodeGroups | None) -> Speculated:
        return speculate(stepper_of(model, labels), TOKENS, groups=groups, generator=torch.Generator().manual_seed(0))

    assert torch.equal(found(None).ids, found(CodeGroups(torch.randn(CODES, 2), window=1)).ids)


def test_passes_are_fewer_and_groups_make_them_fewer_still() -> None:
    model = rar(codes=16, tokens=48, scale=0.2)
    labels = torch.zeros(1, dtype=torch.int64)

    def passes(groups: CodeGroups | None) -> float:
        runs = range(8)
        return sum(
            speculate(
                stepper_of(model, labels), 48, groups=groups, generator=torch.Generator().manual_seed(seed)
            ).passes
            for seed in runs
        ) / len(runs)

    alone, grouped = passes(None), passes(CodeGroups(torch.ones(16, 2), window=16, gap=1.0))
    assert grouped < alone < 30
    assert grouped >= 1 + math.ceil(47 / 16)


def test_window_of_one_is_plain_sampling() -> None:
    model, labels = rar(), torch.zeros(5, dtype=torch.int64)
    found = speculate(stepper_of(model, labels), TOKENS, window=1)
    assert found.passes == TOKENS and found.ids.shape == (5, TOKENS)


def test_steppers_of_gpt_and_rar_agree_with_generate() -> None:
    for model in (rar(), gpt()):
        labels = torch.tensor([0, 1, 1])
        stepper = stepper_of(model, labels, 2.0)
        ids = complete(
            stepper, torch.empty(3, 0, dtype=torch.int64), TOKENS, generator=torch.Generator().manual_seed(0)
        )
        whole = model.generate(labels, guidance=2.0, temperature=1.0, generator=torch.Generator().manual_seed(0))
        assert torch.equal(ids, whole[..., 0])


def test_masses_of_groups() -> None:
    """Codes 0, 1, 2 look alike, 3 does not; 2 is far less likely."""
    codebook = torch.tensor([[1.0, 0.0], [5.0, 0.5], [1.0, 0.1], [-1.0, 0.0]])
    target, draft = torch.tensor([0.4, 0.3, 0.01, 0.29]), torch.tensor([0.1, 0.2, 0.3, 0.4])
    groups = CodeGroups(codebook, window=8)
    of_target, of_draft = groups.masses(target.expand(4, 4), draft.expand(4, 4), torch.arange(4))
    torch.testing.assert_close(of_target, torch.tensor([0.7, 0.7, 0.01, 0.29]))
    torch.testing.assert_close(of_draft, torch.tensor([0.3, 0.3, 0.3, 0.4]))
    narrow = CodeGroups(codebook, window=1).masses(target[None], draft[None], torch.tensor([1]))
    torch.testing.assert_close(torch.cat(narrow), torch.tensor([0.3, 0.2]))


def test_groups_of_a_quantizer() -> None:
    quantizer = VQ(dim=4, codebook_size=10).eval()
    groups = CodeGroups.of(quantizer)
    assert groups.codebook.shape == (10, 4)
    torch.testing.assert_close(groups.codebook.norm(dim=-1), torch.ones(10))


def test_what_does_not_fit_is_named() -> None:
    stepper = stepper_of(rar(), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(ValueError, match="window"):
        speculate(stepper, TOKENS, window=0)
    with pytest.raises(ValueError, match="codebook"):
        CodeGroups(torch.zeros(3))
    with pytest.raises(ValueError, match="2 codebooks"):
        GPTStepper(GPT(Vocabulary([4, 4], 3), width=16, depth=1, heads=2))
