"""Framing, mirrored edges, overlap-add and the inverse STFT."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from encoders import MelEncoder
from encoders.layers.stft import InverseSTFT, OverlapAdd, frame_offset, reflect


def test_reflection_is_that_of_padding_and_goes_on_for_short_sounds() -> None:
    x = torch.randn(2, 20)
    assert torch.equal(reflect(x, 5, 7, torch.tensor([20, 20])), F.pad(x[:, None], (5, 7), mode="reflect")[:, 0])
    assert reflect(torch.tensor([[1.0, 2.0, 3.0]]), 4, 3).tolist() == [[1, 2, 3, 2, 1, 2, 3, 2, 1, 2]]
    assert reflect(torch.tensor([[4.0]]), 2, 2).tolist() == [[4] * 5]


def test_reflection_is_at_the_end_of_each_item() -> None:
    x = torch.randn(3, 30)
    lengths = torch.tensor([30, 1, 17])
    padded = reflect(x, 6, 6, lengths)
    for item, length in enumerate(lengths.tolist()):
        alone = reflect(x[item : item + 1, :length], 6, 6)
        assert torch.equal(padded[item, : length + 12], alone[0])


@pytest.mark.parametrize(("frame", "hop"), [(16, 4), (12, 5), (8, 4)])
def test_overlap_add_is_a_sum_of_shifted_frames(frame: int, hop: int) -> None:
    frames = torch.randn(2, 7, frame)
    whole = F.fold(frames.mT, (1, 6 * hop + frame), (1, frame), stride=(1, hop))[:, 0, 0]
    for framing in ("center", "same"):
        if framing == "same" and (frame - hop) % 2:
            continue
        add = OverlapAdd(frame, hop, framing)
        start = frame_offset(frame, hop, framing)
        expected = F.pad(whole, (0, frame))[:, start : start + 7 * hop]
        torch.testing.assert_close(add(frames), expected)


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_inverse_of_the_transform_gives_the_sound_back(count: int) -> None:
    frame, hop, window = 64, 16, torch.hann_window(64)
    x = torch.randn(2, (count - 1) * hop + frame)
    spectrum = torch.stft(x, frame, hop, window=window, center=False, return_complex=True).mT
    samples = InverseSTFT(frame, hop, "same")(spectrum)
    start = frame_offset(frame, hop, "same")
    torch.testing.assert_close(samples, x[:, start : start + count * hop], rtol=1e-4, atol=1e-4)


def test_inverse_is_that_of_torch_and_a_hop_longer() -> None:
    frame, hop = 64, 16
    spectrum = torch.randn(2, 9, 33, dtype=torch.complex64)
    theirs = torch.istft(spectrum.mT, frame, hop, window=torch.hann_window(frame), center=True)
    ours = InverseSTFT(frame, hop, "center")(spectrum)
    assert ours.shape == (2, 9 * hop) and theirs.shape == (2, 8 * hop)
    torch.testing.assert_close(ours[:, : 8 * hop], theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("framing", ["center", "same"])
def test_items_of_a_batch_are_added_as_if_alone(framing: str) -> None:
    istft = InverseSTFT(64, 16, framing)  # type: ignore[arg-type]
    lengths = torch.tensor([9, 1, 4])
    spectrum = torch.randn(3, 9, 33, dtype=torch.complex64) * (torch.arange(9) < lengths[:, None])[..., None]
    together = istft(spectrum, lengths)
    for item, length in enumerate(lengths.tolist()):
        alone = istft(spectrum[item : item + 1, :length])
        torch.testing.assert_close(together[item, : length * 16], alone[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("frame", "hop", "framing"), [(64, 16, "same"), (64, 16, "center"), (40, 16, "same")])
def test_context_is_how_far_a_frame_is_heard(frame: int, hop: int, framing: str) -> None:
    istft = InverseSTFT(frame, hop, framing)  # type: ignore[arg-type]
    before, after = istft.context
    spectrum = torch.randn(1, 12, frame // 2 + 1, dtype=torch.complex64)
    changed = spectrum.clone()
    changed[:, 6] += 1
    heard = (istft(changed) != istft(spectrum)).view(12, hop).any(1).nonzero().flatten()
    assert 6 - after <= heard.min() and heard.max() <= 6 + before


def test_frames_that_leave_gaps_are_refused() -> None:
    for frame, hop, framing in ((16, 16, "same"), (15, 4, "center"), (16, 5, "same"), (16, 4, "valid")):
        with pytest.raises(ValueError, match=r"frame|framing"):
            InverseSTFT(frame, hop, framing)  # type: ignore[arg-type]


@pytest.mark.parametrize("framing", ["center", "same"])
def test_mel_frames_of_any_length_and_of_ragged_batches(framing: str) -> None:
    mel = MelEncoder(16_000, dim=20, frame=256, hop_length=64, framing=framing)  # type: ignore[arg-type]
    x = torch.randn(3, 1, 1000)
    lengths = torch.tensor([1000, 1, 333])
    together = mel(x, lengths)
    assert together.shape == (3, 16, 20)
    for item, length in enumerate(lengths.tolist()):
        alone = mel(x[item : item + 1, :, :length])
        assert alone.shape[1] == -(-length // 64)
        torch.testing.assert_close(together[item, : alone.shape[1]], alone[0], rtol=1e-4, atol=1e-4)
    assert mel(torch.zeros(1, 1, 1)).shape == (1, 1, 20)
    before, after = mel.context or (0, 0)
    changed = x.clone()
    changed[:, :, 500] += 1
    hops = (mel(changed) != mel(x)).any(2).any(0).nonzero().flatten()
    assert hops.min() >= (500 - after) // 64 and hops.max() <= (500 + before) // 64
