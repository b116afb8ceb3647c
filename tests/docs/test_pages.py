"""Generated parts are up to date, every public name is documented, links lead somewhere, and the pages build."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from scripts import docs_tables

ROOT = Path(__file__).resolve().parents[2]
# Made by `make demo`, so it comes with the weights of the embedded models.
PICTURE = ROOT / "docs/assets/overview.png"


@pytest.mark.parametrize("page", docs_tables.pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_generated_parts_are_up_to_date(page: Path) -> None:
    text = page.read_text("utf-8")
    assert text == docs_tables.refresh(text), "run `python scripts/docs_tables.py`"


def test_every_kind_of_generated_part_is_used() -> None:
    found = {match[2] for page in docs_tables.pages() for match in docs_tables.REGION.finditer(page.read_text("utf-8"))}
    assert found == set(docs_tables.SECTIONS)


@pytest.mark.parametrize("room", docs_tables.ROOMS)
def test_public_names_have_docstrings_and_are_listed(room: str) -> None:
    module, listed = import_module(room), (ROOT / "docs/api.md").read_text("utf-8")
    part = listed.partition(f"\n## {room}\n")[2].partition("\n## ")[0]
    for name in module.__all__:
        assert f"- `{name}`: " in part, f"{room}.{name} is not in docs/api.md"
        docs_tables.summary(getattr(module, name))


def test_sentences_are_cut_at_their_end() -> None:
    assert docs_tables.sentence("One line.\n\nMore.") == "One line."
    assert docs_tables.sentence("Two\nlines (e.g. here). And more.") == "Two lines (e.g. here)."
    with pytest.raises(ValueError, match="without a docstring"):
        docs_tables.sentence(None)


def test_readme_links_lead_to_files() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", (ROOT / "README.md").read_text("utf-8"))
    assert links
    missing = [link for link in links if not (ROOT / link).exists() and ROOT / link != PICTURE]
    assert not missing, f"README.md links to {', '.join(missing)}"


@pytest.mark.skipif(find_spec("mkdocs") is None or find_spec("material") is None, reason="needs the extra: docs")
@pytest.mark.skipif(not PICTURE.is_file(), reason="docs/assets/overview.png comes with the embedded models")
def test_pages_build_strictly(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "site/quickstart/index.html").is_file()
