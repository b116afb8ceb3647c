"""The generated parts of README.md and docs/: models, their numbers, recipes, commands, public names, results.

    python scripts/docs_tables.py            # bring the pages up to date
    python scripts/docs_tables.py --check    # only say which are not; exit code 1 if there are any

What stands between `<!-- NAME:begin -->` and `<!-- NAME:end -->` on a page is made here, by the function of that name.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

from zoo.evaluation.report.leaderboard import write_leaderboard
from zoo.store.build import build
from zoo.store.cards import RECIPES, Card, Metric, cards, list_recipes

ROOT = Path(__file__).resolve().parents[1]
REGION = re.compile(r"(<!-- (\w+):begin -->\n).*?(<!-- \2:end -->)", re.DOTALL)
ROOMS = (
    *("zoo", "quantizers", "encoders", "decoders", "zoo.families", "zoo.objectives", "zoo.data", "zoo.data.images"),
    *("zoo.data.audio", "zoo.data.signals", "zoo.long_audio", "zoo.metrics", "zoo.evaluation", "zoo.probes"),
    "zoo.generators",
    "zoo.training",
)
OPENED = ("zoo.Tokenizer", "zoo.Tokens", "zoo.TokenizerSpec")
SHARES = ("codebook usage",)


def pages() -> list[Path]:
    """README.md and every page of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def refresh(text: str) -> str:
    """A page with its generated parts made anew."""
    return REGION.sub(lambda found: f"{found[1]}{SECTIONS[found[2]]()}{found[3]}", text)


def models() -> str:
    """One row a card."""
    rows = [
        (
            f"`{item.name}`",
            item.title,
            "" if item.params is None else f"{item.params / 1e6:.1f} M",
            first([metric for metric in item.metrics if not metric.measured]),
            first([metric for metric in item.metrics if metric.measured]),
            item.weights.place,
            item.weights.license,
        )
        for item in cards()
    ]
    return table(("name", "model", "parameters", "reported", "measured", "weights", "licence"), rows)


def first(metrics: Sequence[Metric]) -> str:
    """The first of some numbers, "" where there is none."""
    return number(metrics[0].name, metrics[0].value) if metrics else ""


def families() -> str:
    """One row a page of docs/families/: what it takes, its paper, its cards."""
    counts = Counter(module_of(item) for item in cards())
    rows = []
    for page in sorted((ROOT / "docs/families").glob("*.md")):
        text, module = page.read_text("utf-8"), f"zoo.families.{page.stem}"
        title = text.partition("\n")[0].removeprefix("# ")
        paper = re.search(r"\[arXiv\s+([\d.]+)\]\((\S+?)\)", text)
        rows.append(
            (
                takes(module),
                f"[{title}](docs/families/{page.name})",
                f"[{paper[1]}]({paper[2]})" if paper else "",
                str(counts[module] or ""),
            )
        )
    return table(("for", "family", "arXiv", "models"), sorted(rows))


def module_of(item: Card) -> str:
    """Where the family of a card is defined."""
    return str(getattr(import_module("zoo.families"), item.family).__module__)


def takes(module: str) -> str:
    """What the tokenizers of a family's module take: images, sound or shapes."""
    modalities = {item.modality for item in cards() if module_of(item) == module}
    if not modalities:
        names = [name for name in list_recipes("*_tiny") if type(build(name, device="meta")).__module__ == module]
        modalities = {build(names[0], device="meta").spec.modality}
    return {"image": "images", "audio": "sound", "shape": "shapes"}[modalities.pop()]


def packaged() -> str:
    """One row an embedded model, with the first of its numbers and on what it was measured."""
    rows = [
        (f"`{item.name}`", item.title, f"{number(first.name, first.value)} on {first.data.partition(',')[0]}")
        for item in cards()
        if item.weights.embedded
        for first in item.metrics[:1]
    ]
    return table(("name", "model", "quality"), rows)


def embedded() -> str:
    """The numbers of the models that come with the package, a table for each set they were measured on."""
    return "\n".join(text for item in cards() if item.weights.embedded for text in measured(item))


def measured(item: Card) -> Iterator[str]:
    """Heading and table for every protocol on a card."""
    for protocol in dict.fromkeys((metric.data, metric.crop) for metric in item.metrics):
        values: dict[str, dict[str, float]] = {}
        for metric in item.metrics:
            if (metric.data, metric.crop) == protocol:
                name, _, method = metric.name.partition(", ")
                values.setdefault(method or "tokens", {})[name] = metric.value
        names = list(dict.fromkeys(name for row in values.values() for name in row))
        rows = [
            (method, *(share(name, row[name]) if name in row else "" for name in names))
            for method, row in values.items()
        ]
        title = "; ".join(part for part in protocol if part)
        yield f"**{item.name}** on {title}\n\n{table(('', *names), rows, right=True)}"


def results() -> str:
    """The leaderboard of all that lies in `results/`, without its heading."""
    with TemporaryDirectory() as folder:
        page = Path(folder) / "page.md"
        write_leaderboard([ROOT / "results"], page)
        return page.read_text("utf-8").partition("\n")[2].lstrip()


def recipes() -> str:
    """One row a recipe: the sentence that its file begins with."""
    rows = []
    for name in list_recipes():
        comment = []
        for line in (RECIPES / f"{name}.yaml").read_text("utf-8").splitlines():
            if not line.startswith("# "):
                break
            comment.append(line.removeprefix("# ").strip())
        text = " ".join(line for line in comment if not line.startswith(("zoo train", "python scripts")))
        rows.append((f"`{name}`", sentence(text)))
    return table(("recipe", "what it trains"), rows)


def commands() -> str:
    """A section for every command of `zoo`."""
    from typer.main import get_command

    from zoo.cli import app

    group: Any = get_command(app)
    return "\n".join(f"## zoo {name}\n\n{command(name, item)}" for name, item in group.commands.items())


def command(name: str, item: Any) -> str:
    """Usage, text, options and examples of one command."""
    text, _, examples = inspect.cleandoc(item.help).partition("\b\nExamples:\n")
    options, arguments = [], []
    for parameter in item.params:
        if parameter.param_type_name == "argument":
            shown = parameter.name.upper() + ("..." if parameter.nargs == -1 else "")
            arguments.append(shown if parameter.required else f"[{shown}]")
            options.append((f"`{shown}`", default(parameter), cell(parameter.help or "")))
        elif parameter.name != "help":
            spelled = ", ".join(f"`{word}`" for word in (*parameter.opts, *parameter.secondary_opts))
            options.append((spelled, default(parameter), cell(parameter.help or "")))
    usage = " ".join(["zoo", name, "[OPTIONS]", *arguments])
    return (
        f"```text\n{usage}\n```\n\n{text.strip()}\n\n{table(('option', 'default', 'meaning'), options)}\n"
        f"Examples:\n\n```text\n{inspect.cleandoc(examples)}\n```\n"
    )


def default(parameter: Any) -> str:
    """How an option's default is shown."""
    if parameter.required:
        return "required"
    value = getattr(parameter.default, "value", parameter.default)
    return "" if value is None or isinstance(value, bool) else f"`{value}`"


def names() -> str:
    """Every public name, room by room, with the first sentence of its docstring."""
    parts = []
    for room in ROOMS:
        module = import_module(room)
        lines = [f"## {room}\n", f"{sentence(module.__doc__)}\n"]
        for name in sorted(module.__all__, key=str.lower):
            thing = getattr(module, name)
            lines.append(f"- `{name}`: {summary(thing)}")
            if f"{room}.{name}" in OPENED:
                lines += [f"    - `{member}`: {text}" for member, text in members(thing)]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def members(thing: type) -> Iterator[tuple[str, str]]:
    """Public methods and properties that a class defines itself, with their first sentences."""
    for name, value in vars(thing).items():
        function = getattr(value, "__func__", getattr(value, "fget", value))
        if not name.startswith("_") and inspect.isfunction(function) and function.__doc__:
            yield (name if isinstance(value, property) else f"{name}()"), sentence(function.__doc__)


def summary(thing: object) -> str:
    """One line about a class, a function, a choice of words or a constant."""
    if isinstance(thing, type) or inspect.isroutine(thing):
        return sentence(thing.__doc__)
    if choices := get_args(thing):
        return f"one of {', '.join(f'`{choice}`' for choice in choices)}"
    return f"`{thing}`"


def sentence(text: str | None) -> str:
    """The first sentence of a docstring or comment, on one line.

    Raises:
        ValueError: there is none.
    """
    if not (text or "").strip():
        raise ValueError("a public name without a docstring")
    paragraph = " ".join(inspect.cleandoc(str(text)).split("\n\n")[0].split())
    return re.split(r"(?<=\.)\s+(?=[A-Z`])", paragraph)[0]


def number(name: str, value: float) -> str:
    """A metric as text."""
    return f"{name.partition(', ')[0]} {value:g}" + (" dB" if name.startswith("PSNR") else "")


def share(name: str, value: float) -> str:
    """A metric's value, as per cent where it is a share."""
    return f"{value:.2%}" if name in SHARES else f"{value:g}"


def cell(text: str) -> str:
    """Text that fits a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: bool = False) -> str:
    """A Markdown table; `right` aligns all columns but the first to the right."""
    rules = ["---", *("--:" if right else "---" for _ in header[1:])]
    return "".join(f"| {' | '.join(row)} |\n" for row in (header, rules, *rows))


SECTIONS: dict[str, Callable[[], str]] = {
    "models": models,
    "families": families,
    "packaged": packaged,
    "embedded": embedded,
    "results": results,
    "recipes": recipes,
    "commands": commands,
    "names": names,
}


def main(arguments: Sequence[str]) -> int:
    """Write or check all pages; the exit code."""
    stale = []
    for page in pages():
        old = page.read_text("utf-8")
        if (new := refresh(old)) != old:
            stale.append(page)
            if "--check" not in arguments:
                page.write_text(new, "utf-8")
    for page in stale:
        print(f"{page.relative_to(ROOT)}: {'out of date' if '--check' in arguments else 'written'}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
