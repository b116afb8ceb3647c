"""Small pictures on which tests of the engine measure."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

ASSETS = Path(__file__).parents[1] / "assets"
CORNERS = ((0, 0), (150, 100), (180, 60), (60, 120), (100, 40), (20, 90), (120, 20))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of seven photographs of 64 x 64."""
    folder = tmp_path / "photos"
    folder.mkdir()
    with Image.open(ASSETS / "coffee.jpg") as coffee:
        for number, (left, top) in enumerate(CORNERS):
            coffee.convert("RGB").crop((left, top, left + 64, top + 64)).save(folder / f"{number}.png")
    return folder
