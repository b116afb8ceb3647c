"""Speed and memory of the GPT generator, in turns with `generate` of transformers' GPT-2 and Llama of the same size.

    python benchmarks/generate.py
    python benchmarks/generate.py --sizes tiny --batch 1 --json rows.json
    python benchmarks/generate.py --device cuda --dtype bfloat16 --compile

All models run in one process, in turns, with random weights: as many layers, heads, widths and codes, as many ids drawn
by plain sampling (temperature 1, no cuts) from one start id. GPT-2 has the MLP of ratio 4 and learned positions, as
published; Llama has exactly our layers. transformers runs with its default cache, and with its static one (without
compilation, as ours). The best of several runs counts. Time is CPU seconds of the process with --threads threads, since
machines are shared, and the time between CUDA events on a GPU.

The other parts: with the cache against reading the sequence again at every step; under guidance; a whole level a step
against one id a step, for the ten scales of VAR (680 positions) and for the groups of ResTok's generator (128).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # a script's folder comes first on the path, where this file hides the package of its name
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from benchmarks.meters import contest, machine
from zoo.generators import GPT, Levels, Stream, Vocabulary
from zoo.store.files import replacing

__all__ = ["Row", "Size", "main", "measure"]

VAR = [side**2 for side in (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)]
RESTOK = [1, 1, 1, 1, 4, 8, 16, 32, 64]
PARTS = ("peers", "cache", "levels")
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Size:
    """How large a model is and how much it draws."""

    width: int
    depth: int
    heads: int
    hidden: int
    tokens: int = 256
    codes: int = 1024


SIZES = {
    "tiny": Size(256, 6, 4, 682),
    "small": Size(512, 8, 8, 1365),
    "LlamaGen-B": Size(768, 12, 12, 2048, codes=16384),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement.

    Attributes:
        part: what is compared.
        name: the contestant.
        size: of the model.
        batch: items at once.
        tokens_per_second: positions of all items.
        cache_mib: of keys and values; None where there is none or it is not known.
    """

    part: str
    name: str
    size: str
    batch: int
    tokens_per_second: float
    cache_mib: float | None = None


def ours(size: Size, options: argparse.Namespace, head: Any = None, vocabulary: Vocabulary | None = None) -> GPT:
    """A generator of a size."""
    plain = Vocabulary([size.codes], size.tokens)
    shape: dict[str, Any] = {"width": size.width, "depth": size.depth, "heads": size.heads, "hidden": size.hidden}
    model = GPT(vocabulary or plain, head or Stream(), classes=10, **shape).eval()
    return model.to(options.device, getattr(torch, options.dtype))


def theirs(size: Size, options: argparse.Namespace, batch: int) -> dict[str, Callable[[], object]]:
    """`generate` of transformers' models of a size, by name; none where it is not installed."""
    if find_spec("transformers") is None:
        print("transformers is not installed; its models are left out", file=sys.stderr)
        return {}
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    llama = LlamaConfig(
        vocab_size=size.codes,
        hidden_size=size.width,
        intermediate_size=size.hidden,
        num_hidden_layers=size.depth,
        num_attention_heads=size.heads,
        max_position_embeddings=size.tokens + 1,
        attn_implementation="sdpa",
    )
    gpt2 = GPT2Config(
        vocab_size=size.codes,
        n_embd=size.width,
        n_layer=size.depth,
        n_head=size.heads,
        n_positions=size.tokens + 1,
        attn_implementation="sdpa",
    )
    start = torch.zeros(batch, 1, dtype=torch.int64, device=options.device)
    draw: dict[str, Any] = {"do_sample": True, "top_k": 0, "eos_token_id": None, "pad_token_id": 0}
    draw |= {"max_new_tokens": size.tokens, "min_new_tokens": size.tokens, "attention_mask": torch.ones_like(start)}
    calls: dict[str, Callable[[], object]] = {}
    for name, model in (("Llama", LlamaForCausalLM(llama)), ("GPT-2", GPT2LMHeadModel(gpt2))):
        model = model.eval().to(options.device, getattr(torch, options.dtype))
        calls[f"transformers {name}"] = lambda model=model: model.generate(start, **draw)
        static = {**draw, "cache_implementation": "static", "disable_compile": True}
        calls[f"transformers {name}, static cache"] = lambda model=model, draw=static: model.generate(start, **draw)
    return calls


def measure(options: argparse.Namespace) -> list[Row]:
    """All rows."""
    return [row for name in options.sizes for batch in options.batch for row in _measure(name, batch, options)]


def _measure(name: str, batch: int, options: argparse.Namespace) -> list[Row]:
    """The rows of one size and batch."""
    size, rows, device = SIZES[name], [], torch.device(options.device)
    model, labels = ours(size, options), torch.zeros(batch, dtype=torch.int64, device=device)
    if options.compile:
        model.compile_steps()
    plain = partial(model.generate, labels)

    def run(part: str, calls: dict[str, Callable[[], object]], tokens: int, caches: dict[str, float]) -> None:
        with torch.inference_mode():
            for call in calls.values():
                call()
            times = contest(calls, device, options.repeats, options.budget)
        for key, time in times.items():
            rows.append(Row(part, key, name, batch, batch * tokens / time, caches.get(key)))
            print(f"{part}  {name}  batch {batch}  {key}: {rows[-1].tokens_per_second:,.0f} tokens/s", flush=True)

    if "peers" in options.parts:
        run("peers", {"zoo": plain, **theirs(size, options, batch)}, size.tokens, {"zoo": cache_of(model, batch)})
    if "cache" in options.parts:
        calls = {"cache": plain, "no cache": partial(plain, cached=False), "guidance": partial(plain, guidance=2.0)}
        memory = {"cache": cache_of(model, batch), "guidance": cache_of(model, 2 * batch)}
        run("cache", calls, size.tokens, memory)
    if "levels" in options.parts:
        for what, groups in (("VAR's scales", VAR), ("ResTok's groups", RESTOK)):
            count = sum(groups)
            vocabulary = Vocabulary([size.codes], count, "coarse_to_fine")
            pair = {
                f"{what}: a level a step ({len(groups)})": ours(size, options, Levels(groups), vocabulary),
                f"{what}: an id a step ({count})": ours(size, options, None, vocabulary),
            }
            calls = {key: partial(one.generate, labels) for key, one in pair.items()}
            run("levels", calls, count, {key: cache_of(one, batch) for key, one in pair.items()})
    return rows


def cache_of(model: GPT, rows: int) -> float:
    """MiB of keys and values."""
    return model.transformer.cache(rows, model.table.value.shape[1]).bytes / MIB


def table(rows: Sequence[Row]) -> str:
    """Rows as Markdown, each beside the first of its group."""
    lines = [
        "| part | model | batch | what | tokens/s | of the first | cache, MiB |",
        "|---|---|---:|---|---:|---:|---:|",
    ]
    first: dict[tuple[str, str, int], float] = {}
    for row in rows:
        what = row.name.partition(":")[0] if row.part == "levels" else ""
        base = first.setdefault((row.part + what, row.size, row.batch), row.tokens_per_second)
        memory = "" if row.cache_mib is None else f"{row.cache_mib:,.1f}"
        rate, share = f"{row.tokens_per_second:,.0f}", f"{row.tokens_per_second / base:.2f}"
        cells = (row.part, row.size, str(row.batch), row.name, rate, share, memory)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Measure, print, and write what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--parts", nargs="+", default=["peers", "cache", "levels"], choices=["peers", "cache", "levels"]
    )
    parser.add_argument("--sizes", nargs="+", default=["tiny", "small"], choices=list(SIZES))
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="our steps through torch.compile")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--budget", type=float, default=60.0, help="seconds for each contestant")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows = measure(options)
    text = table(rows)
    print(text)
    if options.json:
        record = {"machine": machine(torch.device(options.device)), "rows": [asdict(row) for row in rows]}
        with replacing(options.json) as draft:
            draft.write_text(json.dumps(record, indent=1), "utf-8")
    if options.markdown:
        with replacing(options.markdown) as draft:
            draft.write_text(text + "\n", "utf-8")
    return rows


if __name__ == "__main__":
    main()
