"""Every `python` and `bash` block of README.md and docs/ runs, page by page, from top to bottom.

A page's blocks share one folder that looks like a clone of the repository, and its Python blocks share one namespace.
A block that names a file, ```python title="zoo/families/mine.py", is written there; such a page gets copies of the
rooms, and runs in a process of its own. A block under `<!-- not run: REASON -->` is only read: Python must parse, bash
must parse, and the recipe of every training command must compose.
"""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import stat
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from typer.testing import CliRunner

from zoo.cli import app
from zoo.store.build import compose

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("zoo", "quantizers", "encoders", "decoders", "recipes", "checkpoints")
LINKED = ("docs", "scripts", "benchmarks", "tests")
RUN = ("python", "bash")
OTHER = ("text", "yaml", "json")
EMBEDDED = (
    "fsq_f8_tiny", "onedpiece_tiny_128", "flextok_tiny_128", "wavtokenizer_tiny", "rvq_tiny_24k", "vat_tiny",
    "gpt_tiny_photos",
)  # fmt: skip
FENCE = re.compile(r"(?P<indent> *)```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\s*$")
REASON = re.compile(r" *<!-- not run: (?P<reason>.+) -->\s*$")
SHELL = re.compile(r"[|><;&`]|\$\(")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: Path
    line: int
    language: str
    code: str
    title: str | None
    reason: str | None

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def runs(self) -> bool:
        return self.language in RUN and self.reason is None and self.title is None

    @property
    def commands(self) -> list[str]:
        """The lines of a bash block, continued lines joined."""
        return [line for line in self.code.replace("\\\n", " ").splitlines() if line.strip()]


def blocks(page: Path) -> Iterator[Block]:
    """All fenced blocks of a page."""
    lines = page.read_text("utf-8").splitlines()
    above, number = "", 0
    while number < len(lines):
        if not (fence := FENCE.match(lines[number])):
            above = lines[number] if lines[number].strip() else above
            number += 1
            continue
        end = next(end for end in range(number + 1, len(lines)) if lines[end] == f"{fence['indent']}```")
        code = textwrap.dedent("\n".join(lines[number + 1 : end])) + "\n"
        found = REASON.match(above)
        yield Block(page, number + 1, fence["language"], code, fence["title"], found["reason"] if found else None)
        above, number = "", end + 1


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = {page: list(blocks(page)) for page in PAGES}
READ = [block for page in PAGES for block in BLOCKS[page] if block.reason is not None]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """The working folder of a page, and `zoo` and `python` on PATH."""
    folder, tools = tmp_path / "clone", tmp_path / "bin"
    folder.mkdir()
    tools.mkdir()
    for linked in LINKED:
        (folder / linked).symlink_to(ROOT / linked)
    own = any(block.title for block in BLOCKS[request.getfixturevalue("page")])
    for room in ROOMS if own else ():
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__", "weights"))
    for command, call in (("python", ""), ("python3", ""), ("zoo", " -m zoo.cli")):
        script = tools / command
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}"{call} "$@"\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.setenv("PYTHONPATH", str(folder if own else ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("ZOO_HUB", raising=False)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As the commands that run in processes of their own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", [page for page in PAGES if any(block.runs for block in BLOCKS[page])], ids=name)
def test_page_runs(page: Path, clone: Path) -> None:
    needed = {model for model in EMBEDDED for block in BLOCKS[page] if block.runs and model in block.code}
    if absent := [model for model in needed if not (ROOT / f"checkpoints/weights/{model}.safetensors").is_file()]:
        pytest.skip(f"no weights of {', '.join(sorted(absent))} in this checkout")
    own = any(block.title for block in BLOCKS[page])
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in BLOCKS[page]:
        if block.title is not None:
            write(block, clone)
        elif block.runs and block.language == "python" and not own:
            exec(compile(block.code, block.place, "exec"), namespace)
        elif block.runs and block.language == "python":
            shell(block.place, f"python - <<'END'\n{block.code}END")
        elif block.runs and own:
            shell(block.place, block.code)
        elif block.runs:
            for command in block.commands:
                run(block.place, command)


def write(block: Block, folder: Path) -> None:
    """Put a block into the file that its title names; `FILE (add)` appends."""
    assert block.title is not None
    target = folder / block.title.removesuffix(" (add)")
    target.parent.mkdir(parents=True, exist_ok=True)
    old = target.read_text("utf-8") if block.title.endswith(" (add)") else ""
    target.write_text(old + block.code, "utf-8")


def run(place: str, command: str) -> None:
    """Run one command. A plain `zoo ...` runs here, which saves the imports; bash says what its arguments are."""
    if not command.startswith("zoo ") or SHELL.search(command):
        shell(place, command)
        return
    words = shell(place, f"printf '%s\\0' {command.removeprefix('zoo ')}").split("\0")[:-1]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, f"{place}: {command}\n{result.output}\n{result.exception!r}"


def shell(place: str, command: str) -> str:
    """What a bash command prints; it must succeed."""
    result = subprocess.run(["bash", "-euo", "pipefail", "-c", command], capture_output=True, text=True)
    assert result.returncode == 0, f"{place}: {command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.mark.parametrize("block", READ, ids=lambda block: block.place)
def test_block_that_does_not_run(block: Block) -> None:
    assert block.language in RUN, "only blocks that would run need a reason"
    assert len(block.reason or "") >= 10, "say why it cannot run"
    if block.language == "python":
        ast.parse(block.code)
        return
    subprocess.run(["bash", "-n"], input=block.code, text=True, check=True)
    for command in block.commands:
        if training := re.search(r"(?:zoo train|-m zoo\.training) (.+)", command):
            recipe, *overrides = shlex.split(training[1], comments=True)
            OmegaConf.to_container(compose(recipe, [*overrides, f"+name={recipe}"]), resolve=True)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_has_a_known_language(page: Path) -> None:
    wrong = [block.place for block in BLOCKS[page] if block.language not in (*RUN, *OTHER)]
    assert not wrong, f"blocks are one of {', '.join((*RUN, *OTHER))}: {', '.join(wrong)}"
