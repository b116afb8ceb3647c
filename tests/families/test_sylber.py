"""Sylber: segments as a plain loop finds them, durations, silence, padded batches, and k-means codes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import zoo
from encoders import HuBERTEncoder
from quantizers import VQ
from zoo.families import Sylber
from zoo.families.segments import gaussian_threshold, segment, segment_means
from zoo.families.sylber import standardize


@pytest.fixture(scope="module")
def tokenizer() -> Sylber:
    torch.manual_seed(0)
    tokenizer = zoo.build("sylber_tiny").eval()
    assert isinstance(tokenizer, Sylber)
    return tokenizer


def speech(seconds: float, seed: int = 0) -> Tensor:
    """Noise whose loudness comes and goes, (1, 1, T)."""
    generator = torch.Generator().manual_seed(seed)
    time = torch.arange(int(16000 * seconds)) / 16000
    return 0.3 * (time * 9).sin() * torch.randn(1, 1, len(time), generator=generator)


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum() / (a.square().sum() + 1e-8).sqrt() / (b.square().sum() + 1e-8).sqrt())


def frame_by_frame(states: Tensor, norm_threshold: float, merge_threshold: float) -> list[list[int]]:
    """The first pass, as it is told: one frame after the other, with a mean that is updated."""
    found: list[list[int]] = []
    seen, mean = 0, states[0]
    for frame, state in enumerate(states):
        if (state.square().sum() + 1e-8).sqrt() < norm_threshold:
            seen = 0
            continue
        if seen and cosine(mean, state) >= merge_threshold:
            mean = (mean * seen + state) / (seen + 1)
            found[-1][1] = frame + 1
        else:
            mean = state
            found.append([frame, frame + 1])
        seen += 1
    return found


def second_look(states: Tensor, found: list[list[int]], merge_threshold: float) -> list[list[int]]:
    """The second pass, every place for a cut tried in turn."""
    gone = []
    for left in range(len(found) - 1):
        (start, cut), (begin, end) = found[left], found[left + 1]
        if cut != begin:
            continue
        before, behind = states[start:cut].mean(0), states[cut:end].mean(0)
        if cosine(before, behind) >= merge_threshold:
            found[left + 1] = [start, end]
            gone.append(left)
            continue
        first, last = max(start, cut - max(1, (cut - start) // 2)), min(end, cut + max(1, (end - cut) // 2))
        likeness = {
            place: sum(cosine(states[i], before if i < place else behind) for i in range(first, last))
            for place in range(first, last)
        }
        best = max(likeness, key=lambda place: likeness[place])
        found[left][1] = found[left + 1][0] = best
    return [bound for number, bound in enumerate(found) if number not in gone]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    frames=st.integers(1, 90),
    smooth=st.sampled_from([0.0, 0.7, 0.9, 0.97]),
    norm=st.sampled_from([0.0, 1.5, 2.0]),
    merge=st.sampled_from([0.5, 0.8, 0.9]),
)
def test_segments_are_those_of_a_plain_loop(seed: int, frames: int, smooth: float, norm: float, merge: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(frames, 5, generator=generator, dtype=torch.float64)
    states = [steps[0]]
    for step in steps[1:]:
        states.append(smooth * states[-1] + math.sqrt(1 - smooth**2) * step)
    rows = torch.stack(states)
    expected = second_look(rows, frame_by_frame(rows, norm, merge), merge)
    found = segment(rows, norm_threshold=norm, merge_threshold=merge)
    assert found.tolist() == expected
    assert (found[:, 1] > found[:, 0]).all() and (found[1:, 0] >= found[:-1, 1]).all()
    for mean, (start, end) in zip(segment_means(rows, found), expected, strict=True):
        torch.testing.assert_close(mean, rows[start:end].mean(0))


def test_one_long_segment_and_no_segment() -> None:
    states = torch.ones(500, 4)
    assert segment(states, norm_threshold=1, merge_threshold=0.8).tolist() == [[0, 500]]
    nothing = segment(states, norm_threshold=3, merge_threshold=0.8)
    assert nothing.shape == (0, 2) and segment_means(states, nothing).shape == (0, 4)


def test_threshold_lies_where_both_densities_are_equal() -> None:
    for signal, noise in (((6.1, 0.87), (0.34, 0.34)), ((2.0, 0.1), (1.0, 0.4)), ((0.5, 0.2), (3.0, 0.2))):
        at = gaussian_threshold(signal, noise)
        densities = [math.exp(-((at - mean) ** 2) / 2 / spread) / math.sqrt(spread) for mean, spread in (signal, noise)]
        assert densities[0] == pytest.approx(densities[1])
        assert min(signal[0], noise[0]) < at < max(signal[0], noise[0])
    with pytest.raises(ValueError, match="differ"):
        gaussian_threshold((1, 1), (1, 1))


@torch.no_grad()
def test_tokens_say_when_and_how_long(tokenizer: Sylber) -> None:
    tokens = tokenizer.encode(speech(2))
    assert tokenizer.frame_rate == 50
    assert tokens.positions is not None and tokens.durations is not None and tokens.lengths is None
    ends = tokens.positions + tokens.durations
    assert (tokens.durations > 0).all() and (tokens.positions[:, 1:] >= ends[:, :-1]).all()
    assert int(ends.max()) <= tokenizer.encoder.count(32000) == 99
    features = tokenizer.encode_latents(speech(2))[0]
    means = segment_means(features, torch.stack([tokens.positions, ends], -1)[0])
    assert torch.equal(tokenizer.quantizer(means[None]).indices, tokens.indices)
    assert tokens.bits().item() > tokens.num_tokens * 6  # 64 codes, and the times


@torch.no_grad()
@settings(max_examples=10, deadline=None)
@given(lengths=st.lists(st.integers(1, 40_000), min_size=1, max_size=3))
def test_what_stands_behind_a_sound_has_no_effect(tokenizer: Sylber, lengths: list[int]) -> None:
    sounds = [speech(3, seed)[0, :, :length] for seed, length in enumerate(lengths)]
    x = torch.randn(len(sounds), 1, max(lengths))
    for row, sound in zip(x, sounds, strict=True):
        row[:, : sound.shape[1]] = sound
    together = tokenizer.encode_latents(x, torch.tensor(lengths))
    tokens = tokenizer.encode(x, torch.tensor(lengths))
    assert tokens.size is not None and tokens.size[:, 0].tolist() == lengths
    for row, sound in enumerate(sounds):
        alone = tokenizer.encode_latents(sound[None])[0]
        torch.testing.assert_close(together[row, : len(alone)], alone, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_items_of_a_batch_have_their_own_number_of_tokens(tokenizer: Sylber) -> None:
    quiet = torch.cat([speech(1), torch.zeros(1, 1, 16000)])
    tokens = tokenizer.encode(quiet)
    assert tokens.durations is not None
    for row in range(2):
        alone = tokenizer.encode(quiet[row : row + 1])
        count = int(tokens.mask[row].sum())
        assert alone.num_tokens == count
        assert torch.equal(alone.indices[0], tokens.indices[row, :count])
        assert not tokens.durations[row, count:].any() and not tokens.indices[row, count:].any()


@torch.no_grad()
def test_there_may_be_no_tokens(tokenizer: Sylber) -> None:
    strict = Sylber(tokenizer.encoder, tokenizer.quantizer, norm_threshold=1e6).eval()
    tokens = strict.encode(speech(1))
    assert tokens.num_tokens == 0 and tokens.bits().tolist() == [0]
    assert zoo.Tokens.cat([tokens, tokenizer.encode(speech(1))])[0].mask.sum() == 0


def test_sound_is_made_standard() -> None:
    x = 3 + 2 * torch.randn(2, 1, 500)
    lengths = torch.tensor([500, 200])
    y = standardize(x, lengths)
    torch.testing.assert_close(y[1:, :, :200], standardize(x[1:, :, :200]))
    torch.testing.assert_close(y[0].std(), torch.tensor(1.0))
    assert not y[1, 0, 200:].any()
    assert not standardize(torch.full((1, 1, 100), 0.5)).any()  # silence has no variance
    assert torch.isfinite(standardize(torch.ones(1, 1, 1))).all()


def test_centroids_become_codes() -> None:
    torch.manual_seed(0)
    from zoo.store.cards import card

    config = card("sylber").config
    small = {**config["hubert"], "hidden_size": 32, "intermediate_size": 48, "conv_dim": [16] * 7}
    small |= {"num_attention_heads": 4, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    node = Sylber.reference_recipe({**config, "hubert": small, "num_hidden_layers": 1, "codebook_size": 10})
    tokenizer = zoo.build(node)
    assert isinstance(tokenizer.quantizer, VQ) and tokenizer.spec.codebook_sizes == (10,)
    centroids = torch.randn(10, 32)
    assert torch.equal(Sylber.convert({"centroids": centroids})["quantizer.codebook"], centroids)
    with pytest.raises(ValueError, match="feat_extract_norm=group"):
        Sylber.reference_recipe({**config, "hubert": {**small, "feat_extract_norm": "layer"}})


def test_errors_say_what_to_do(tokenizer: Sylber) -> None:
    with pytest.raises(ValueError, match="SPARC"):
        tokenizer.decode(tokenizer.encode(speech(1)))
    with pytest.raises(ValueError, match="merge_threshold is a cosine"):
        Sylber(tokenizer.encoder, tokenizer.quantizer, merge_threshold=2)
    with pytest.raises(ValueError, match="widths differ"):
        Sylber(tokenizer.encoder, VQ(16, 8))
    with pytest.raises(ValueError, match="a width, a kernel and a stride"):
        HuBERTEncoder(widths=[8], kernels=[10, 3], strides=[5, 2])
    with pytest.raises(ValueError, match="lengths lie in"):
        tokenizer.encode(speech(1), torch.tensor([16001]))


def test_training_hides_spans_of_features() -> None:
    torch.manual_seed(0)
    encoder = HuBERTEncoder(
        dim=8, depth=0, heads=1, hidden=8, widths=[4] * 7, position_kernel=4, position_groups=2, mask_share=0.3
    )
    covered = encoder._covered(torch.zeros(20, 1000, 8))
    assert 0.2 < covered.float().mean() < 0.3
    assert encoder.count(16000) == 49 and encoder.window == 400 and encoder.hop_length == 320


def test_recipe_is_the_published_model() -> None:
    from zoo.store.cards import card

    published = zoo.build(Sylber.reference_recipe(card("sylber").config), device="meta")
    ours = zoo.build("sylber", device="meta")
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in published.state_dict().items()}
    assert ours.spec == published.spec and ours.encoder.mask_share == published.encoder.mask_share
    assert (ours.norm_threshold, ours.merge_threshold) == (published.norm_threshold, published.merge_threshold)
