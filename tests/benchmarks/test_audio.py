"""The benchmark of the audio tokenizers, at sizes that take a moment."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import audio
from benchmarks.audio import CARDS, HEADER, RIVALS, Cost, Row, agree, contest, main, markdown, measure
from zoo.store.cards import card

OPTIONS = argparse.Namespace(batches=[1, 2], seconds=0.2, repeats=1)
SMALL = {
    "EnCodec 24 kHz": {"num_filters": 2, "hidden_size": 8, "codebook_dim": 8, "codebook_size": 16},
    "DAC 24 kHz": {
        "encoder_hidden_size": 4, "decoder_hidden_size": 32, "n_codebooks": 2, "codebook_size": 16, "codebook_dim": 4,
        "hidden_size": 64, "quantizer_dropout": 0.0,
    },
    "Mimi": {
        "hidden_size": 16, "num_filters": 2, "codebook_size": 16, "codebook_dim": 8, "num_quantizers": 3,
        "vector_quantization_hidden_dimension": 8, "num_hidden_layers": 1, "intermediate_size": 24, "head_dim": 4,
        "num_attention_heads": 4, "num_key_value_heads": 4, "upsample_groups": 16, "sliding_window": 3,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", list(RIVALS))
def test_rivals_hold_the_same_weights_and_agree(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    rival = RIVALS[name]
    monkeypatch.setitem(audio.RIVALS, name, replace(rival, config={**rival.config, **SMALL[name]}))
    with torch.inference_mode():
        rows = list(measure(name, OPTIONS))
    assert [(row.part, row.batch) for row in rows] == [("encode", 1), ("decode", 1), ("encode", 2), ("decode", 2)]
    assert all(row.theirs is not None and min(row.ours.cpu, row.theirs.cpu) > 0 for row in rows)


def test_cards_are_there() -> None:
    assert {card(name).modality for name in CARDS} == {"audio"}


def test_models_that_disagree_are_not_compared() -> None:
    codes, sound = torch.zeros(1, 2, 50, dtype=torch.int64), torch.ones(1, 1, 100)
    agree("same", codes, codes, sound, sound[:, 0])
    with pytest.raises(ValueError, match=r"0\.00% of the codes"):
        agree("codes", codes, codes + 1, sound, sound)
    with pytest.raises(ValueError, match=r"differ by 1\.0e-01"):
        agree("sounds", codes, codes, sound, sound * 0.9)


def test_the_shortest_time_counts() -> None:
    calls: list[str] = []
    costs = contest({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=2)
    assert calls == ["a", "b"] * 3
    assert 0 <= costs["a"].wall < 1
    assert Cost(4.0, 8.0).per(2.0) == Cost(2.0, 4.0)


def test_table_has_a_row_for_each_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row("a", "encode", 1, Cost(1.0, 2.0), Cost(3.0, 3.0)), Row("b", "decode", 8, Cost(1.0, 2.0))]
    table = markdown(rows).splitlines()
    assert {cells.count("|") for cells in table} == {len(HEADER) + 1}
    assert table[2].endswith("| 3.00 | 1.50 |")
    main(
        [
            "--models",
            "vocos_mel_24khz",
            "--batches",
            "1",
            "--seconds",
            "0.1",
            "--repeats",
            "1",
            "--markdown",
            str(tmp_path / "t.md"),
        ]
    )
    assert "vocos_mel_24khz" in capsys.readouterr().out
    assert (tmp_path / "t.md").read_text("utf-8").count("\n") == 4
