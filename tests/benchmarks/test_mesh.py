"""The benchmark of shapes, at sizes that take a moment."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.mesh import HEADER, main

for package in ("trimesh", "skimage", "igl"):
    pytest.importorskip(package)


def test_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "table.md"
    given = ["--models", "vecset_fsq_tiny", "--resolutions", "24", "40", "--dense", "24", "--count", "1"]
    main([*given, "--repeats", "1", "--markdown", str(table)])
    lines = table.read_text().splitlines()
    assert lines[0] == HEADER and capsys.readouterr().out.endswith(table.read_text())
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert [row[:2] for row in cells[:3]] == [
        ["distance from a ball", "24^3"],
        ["distance from a ball, all nodes", "24^3"],
        ["distance from a ball", "40^3"],
    ]
    assert cells[0][9] == "yes" and cells[1][2] == f"{25**3:,}" and cells[2][9] == ""
    assert cells[-5][0] == "vecset_fsq_tiny: encode 512 points" and cells[-1][0] == "prepare 1 meshes (1 files)"
    assert cells[-4][:3] == ["vecset_fsq_tiny: tokens to a mesh of a ball", "24^3", cells[0][2]]
    assert all(float(row[5]) > 0 for row in cells)
