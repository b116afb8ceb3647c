"""Quantizers against the numbers of their references: every case of the golden folders `quantizer` and `var_msrq`.

A case is known by its reference class alone, so that a folder with other cases of these classes (other sizes, other
options) runs unchanged. A case of a class without a port is skipped by name.
"""

import json
import os
from pathlib import Path

import pytest
from quantizer_ports import PORTS
from safetensors.torch import load_file

ROOT = Path(os.environ.get("ZOO_GOLDEN") or Path(__file__).parents[1] / "golden")
CASES = sorted(path.parent for family in ("quantizer", "var_msrq") for path in (ROOT / family).glob("*/config.json"))
pytestmark = pytest.mark.golden


@pytest.mark.parametrize("case", CASES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_quantizer_golden(case: Path) -> None:
    meta = json.loads((case / "config.json").read_text())
    check = PORTS.get(meta["reference"]["class"])
    if check is None:
        pytest.skip(f"{case.parent.name}/{case.name}: {meta['reference']['class']} has no port yet")
    check(meta["config"], load_file(case / "state.safetensors"), load_file(case / "io.safetensors"))
