"""Time and memory of the quantizers, side by side with vector-quantize-pytorch and with the least possible work.

    python benchmarks/quantizers.py
    python benchmarks/quantizers.py --rows 'VQ K=16384|SimVQ' --json rows.json --markdown rows.md
    python benchmarks/quantizers.py --device cuda --dtype bfloat16 --precision bfloat16 --compile
    python benchmarks/quantizers.py --device cuda --search

Both libraries run in one process, in turns, at the same settings: the same latents and codebooks, straight-through
estimator, commitment 0.25, moving averages with decay 0.99 (VQ and its residuals), no k-means, no dead-code
replacement. `encode` is a forward in eval without gradients; `train` is a forward and backward with respect to latents
and parameters, moving averages included. The best of several runs counts. Time is CPU seconds of the process with one
thread, since machines are shared, and the time between CUDA events on a GPU. Memory is the most that tensors made
during a call occupy at one time. Where vector-quantize-pytorch would need more than --memory-limit, its time is left
out and its memory is an estimate from the copies of the N x K scores that it holds at smaller sizes.

`--search` measures `nearest_code` alone, by precision, up to 262,144 codes, against the roofline of the machine: the
rate of a large square product in that precision, and the bandwidth of a copy.

The floor of a row is the work that no implementation can avoid (`benchmarks/floors.py`):

- codebooks: the matrix product of latents and codes in float32, whole or in blocks, whichever is faster, without the
  arg-min; one for each level, group or scale; SimVQ adds the product that makes its codes, the
  multi-scale quantizer a convolution for each scale. Training adds the gather of the chosen codes and the sum of
  latents into their codes, and the gradients of those products.
- closed forms (FSQ, LFQ, BSQ): one elementwise pass over the latents, and in training its gradient; with an entropy
  term the product of the two halves' distributions, A^T B, and its two gradients.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # a script's folder comes first on the path, where this file hides the package of its name
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
import vector_quantize_pytorch as vqp
from torch import Tensor, nn

from benchmarks.meters import contest, machine, peak_bytes
from benchmarks.searches import HEAD as SEARCH_HEAD
from benchmarks.searches import PRECISIONS, SIZES, Search, searches
from benchmarks.works import Work, works
from quantizers import Quantized, Quantizer, SimVQ
from zoo.store.files import replacing

__all__ = ["Row", "main", "measure"]

PARTS = ("encode", "train")
MIB, GIB = 2**20, 2**30
FLOOR_TARGET = 1.5


@dataclass
class Row:
    """What was measured: seconds and bytes by part; `library` lacks a part that was left out.

    Attributes:
        needs: bytes that the library would need, where that is why it was left out.
        agree: share of positions with the same codes in both.
        missed: targets that were not reached.
    """

    name: str
    tokens: int
    ours: dict[str, float] = field(default_factory=dict)
    library: dict[str, float] = field(default_factory=dict)
    floor: dict[str, float] = field(default_factory=dict)
    ours_bytes: dict[str, int] = field(default_factory=dict)
    library_bytes: dict[str, int] = field(default_factory=dict)
    needs: dict[str, int] = field(default_factory=dict)
    agree: float | None = None
    missed: list[str] = field(default_factory=list)


def measure(work: Work, options: argparse.Namespace) -> Row:
    """Time and memory of one row, and the targets it misses."""
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    torch.manual_seed(0)
    row = Row(work.name, work.tokens)
    z = torch.randn(work.batch, work.tokens // work.batch, work.dim, device=device, dtype=dtype)
    ours, floor = work.ours().to(device), work.floor(device)
    library = None if work.library is None else work.library().to(device)
    spread(ours)
    if library is not None:
        spread(library)
        if isinstance(ours, SimVQ):
            theirs = library.state_dict()
            ours.load_state_dict({"codebook": theirs["frozen_codebook"], "transform": theirs["code_transform.weight"]})
        row.needs = {
            part: work.scores * 4 * copies
            for part, copies in zip(PARTS, work.copies, strict=True)
            if work.scores * 4 * copies >= options.memory_limit * GIB
        }
        if "encode" not in row.needs:
            row.agree = agreement(ours.eval(), library.eval(), z)
    for part in PARTS:
        modules = {"ours": ours, "library": library if part not in row.needs else None}
        calls = {
            name: caller(part, module, z, options.compile) for name, module in modules.items() if module is not None
        }
        row.ours_bytes[part] = peak_bytes(calls["ours"], device)
        if "library" in calls:
            row.library_bytes[part] = peak_bytes(calls["library"], device)
        best = contest({"floor": getattr(floor, part), **calls}, device, options.repeats, options.budget)
        row.floor[part], row.ours[part] = best["floor"], best["ours"]
        if "library" in best:
            row.library[part] = best["library"]
    row.missed = list(missed(work, row))
    return row


@torch.no_grad()
def spread(module: nn.Module) -> None:
    """Give all learned codebooks of a quantizer the same normal values, in the order of its levels."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        values = None
        for name in ("codebook", "embed"):
            codes = part._parameters.get(name, part._buffers.get(name))
            if codes is not None and not isinstance(part, vqp.LFQ):
                values = torch.randn(codes.shape[-2:], generator=generator)
                codes.copy_(values.view_as(codes))
        for name in ("cluster_sum", "embed_avg"):
            sums = part._buffers.get(name)
            if sums is not None and values is not None:
                sums.copy_(values.view_as(sums))


def caller(part: str, module: nn.Module, z: Tensor, compiled: bool) -> Callable[[], object]:
    """A forward in eval, or a forward and backward in training, of one module on z."""
    module.train(part == "train")
    run = torch.compile(module) if compiled else module
    half = z.dtype != torch.float32

    def forward(x: Tensor) -> Any:
        with torch.autocast(z.device.type, z.dtype) if half else nullcontext():
            return run(x)

    def encode() -> None:
        with torch.no_grad():
            forward(z)

    leaf, gradient = z.clone().requires_grad_(), torch.ones_like(z)

    def train() -> None:
        leaf.grad = None
        module.zero_grad(set_to_none=True)
        found = forward(leaf)
        latents, loss = (found.latents, found.loss) if isinstance(found, Quantized) else (found[0], sum_of(found[2:3]))
        if loss is None or not loss.requires_grad:
            latents.backward(gradient.to(latents.dtype))
        else:
            torch.autograd.backward([latents, loss], [gradient.to(latents.dtype), torch.ones_like(loss)])

    return train if part == "train" else encode


def sum_of(losses: Sequence[Tensor]) -> Tensor | None:
    """One loss of the library's: (), (Q,) or (G, Q); None where it returns none."""
    return losses[0].sum() if losses else None


def agreement(ours: Quantizer, library: nn.Module, z: Tensor) -> float:
    """Share of positions where both choose the same codes."""
    with torch.no_grad():
        mine, theirs = ours(z.float()).indices, library(z.float())[1]
    if theirs.ndim == 4:  # grouped: (G, B, N, Q)
        theirs = theirs.permute(1, 2, 0, 3).flatten(2)
    return float((mine == theirs.reshape(mine.shape)).all(-1).float().mean())


def missed(work: Work, row: Row) -> Iterator[str]:
    """Targets that a row does not reach."""
    for part, faster in zip(PARTS, work.faster, strict=True):
        if part in row.library and row.library[part] < faster * row.ours[part]:
            yield f"{part} {row.library[part] / row.ours[part]:.2f}x, wanted {faster:g}x"
        if row.ours[part] > FLOOR_TARGET * row.floor[part]:
            yield f"{part} {row.ours[part] / row.floor[part]:.2f} floors, wanted {FLOOR_TARGET:g}"
        memory = row.library_bytes.get(part, row.needs.get(part, 0))
        if memory and memory < work.lighter * row.ours_bytes[part]:
            yield f"{part} memory 1/{memory / row.ours_bytes[part]:.0f}, wanted 1/{work.lighter:g}"


def ratio(library: float | None, ours: float) -> str:
    """How many times more the library takes, or a dash."""
    if library is None:
        return "-"
    times = library / max(ours, 1e-12)
    return f"{times:,.0f}x" if times >= 100 else f"{times:.2g}x" if times < 10 else f"{times:.0f}x"


def printed(row: Row) -> Iterator[str]:
    """A line for each part."""
    for part in PARTS:
        library, needs = row.library.get(part), row.needs.get(part)
        memory = row.library_bytes.get(part, needs)
        ours = row.ours[part], row.ours_bytes[part]
        texts = [
            f"{ours[0] * 1e3:,.2f}",
            "-" if library is None else f"{library * 1e3:,.2f}",
            ratio(library, ours[0]),
            f"{ours[0] / row.floor[part]:.2f}",
            f"{ours[1] / MIB:,.2f}",
            "-" if memory is None else f"{'~' * (needs is not None)}{memory / MIB:,.0f}",
            ratio(memory, ours[1]),
        ]
        faults = [fault.removeprefix(part).strip() for fault in row.missed if fault.startswith(part)]
        verdict = "missed: " + "; ".join(faults) if faults else "met"
        yield f"{row.name:33} {part:7}" + "".join(f"{text:>11}" for text in texts) + f"  {verdict}"


HEAD = f"{'work':33} {'part':7}" + "".join(
    f"{head:>11}" for head in ("ours ms", "library ms", "faster", "floors", "ours MiB", "lib. MiB", "lighter")
)


def markdown(rows: Sequence[Row], setting: dict[str, Any]) -> str:
    """The table for docs/quantizers.md."""
    lines = [
        "| work | encode | times faster | floors | train | times faster | floors "
        "| memory, encode / train | times less |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        texts = [row.name]
        for part in PARTS:
            ours = row.ours[part]
            texts += [f"{ours * 1e3:,.3g} ms", ratio(row.library.get(part), ours), f"{ours / row.floor[part]:.2f}"]
        texts.append(" / ".join(f"{row.ours_bytes[part] / MIB:,.3g}" for part in PARTS) + " MiB")
        memory = {**row.needs, **row.library_bytes}
        texts.append(" / ".join(ratio(memory.get(part), row.ours_bytes[part]) for part in PARTS))
        lines.append("| " + " | ".join(texts) + " |")
    return "\n".join([*lines, "", "; ".join(f"{key}: {value}" for key, value in setting.items()) + ".", ""])


def setting(options: argparse.Namespace, arguments: Sequence[str]) -> dict[str, Any]:
    """What the numbers may depend on."""
    return {
        "date": date.today().isoformat(),
        "machine": machine(torch.device(options.device)),
        "torch": torch.__version__,
        "vector-quantize-pytorch": version("vector-quantize-pytorch"),
        "input": options.dtype,
        "threads": torch.get_num_threads(),
        "command": f"`python benchmarks/quantizers.py {' '.join(arguments)}`".replace(" `", "`"),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="", help="regular expression that the names of rows must match")
    parser.add_argument("--tokens", type=int, default=8192, help="latents N (default: %(default)s)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="of the latents")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="float32", help="of our search for VQ and its residuals"
    )
    parser.add_argument("--compile", action="store_true", help="run both libraries through torch.compile")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each; the fastest counts")
    parser.add_argument("--budget", type=float, default=20, help="seconds after which a call is not repeated")
    parser.add_argument("--memory-limit", type=float, default=8, help="GiB that the library may use in a row")
    parser.add_argument("--search", action="store_true", help="only the search, by precision, against the roofline")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="codes K of --search")
    parser.add_argument("--json", type=Path, default=None, help="file for the numbers")
    parser.add_argument("--markdown", type=Path, default=None, help="file for the table of docs/quantizers.md")
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(given)
    torch.set_num_threads(1)
    facts = setting(options, given)
    print("\n".join(f"{key}: {value}" for key, value in facts.items()) + "\n", flush=True)
    if options.search:
        search_all(options, facts)
        return
    rows = measure_all(options, facts)
    if options.markdown is not None:
        with replacing(options.markdown) as draft:
            draft.write_text(markdown(rows, facts), "utf-8")


def measure_all(options: argparse.Namespace, facts: dict[str, Any]) -> list[Row]:
    """Measure the rows that were asked for; print and keep each as it comes."""
    rows: list[Row] = []
    print(HEAD, flush=True)
    for work in works(options.tokens, options.precision):
        if re.search(options.rows, work.name):
            rows.append(measure(work, options))
            print(*printed(rows[-1]), sep="\n", flush=True)
            keep(rows, options.json, facts)
    for row in rows:
        for part, needs in row.needs.items():
            print(f"{row.name}: {part} of vector-quantize-pytorch needs about {needs / GIB:.1f} GiB, left out")
    return rows


def search_all(options: argparse.Namespace, facts: dict[str, Any]) -> list[Search]:
    """Measure the search alone, by precision."""
    found: list[Search] = []
    print(SEARCH_HEAD, flush=True)
    for item in searches(options.tokens, torch.device(options.device), options.repeats, options.budget, options.sizes):
        found.append(item)
        print(item.line(), flush=True)
        keep(found, options.json, facts)
    return found


def keep(results: Sequence[Row | Search], path: Path | None, facts: dict[str, Any]) -> None:
    """Write what there is so far."""
    if path is not None:
        with replacing(path) as draft:
            document = {"setting": facts, "rows": [asdict(result) for result in results]}
            draft.write_text(json.dumps(document, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
