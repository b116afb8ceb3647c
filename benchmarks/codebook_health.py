"""How each quantizer uses its codes when it is trained: one small autoencoder, real photographs, equal steps.

    python scripts/open_photos.py data/open_photos
    python benchmarks/codebook_health.py --photos data/open_photos
    python benchmarks/codebook_health.py --photos data/open_photos --only 'SimVQ|FSQ' --steps 100 --output runs/trial

Every quantizer stands with the defaults that its docs recommend (`QUANTIZERS`) between the same convolutional encoder
and decoder, and all see the same crops (`Settings`). The loss is the squared error over the variance of the pixels,
plus the quantizer's own loss. Everything is measured afterwards, on crops of photographs by other photographers: usage
is the share of codes that occur at all, the mean over codebooks; perplexity is that of all codes of a token together;
PSNR is the mean over crops. Usage grows with the number of tokens that are looked at: 1,048,576 here at 2^12 codes,
256 for each, and 262,144 at 2^16, 4 for each, of which a perfectly even code would use 98 %.

Results are kept after every quantizer in OUTPUT/results.json, so that a run which was interrupted goes on where it
stopped, as a table in OUTPUT/codebook_health.md, and drawn in OUTPUT/codebook_health.png.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # a script's folder comes first on the path, where quantizers.py hides the package
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.health_figure import draw
from benchmarks.meters import machine
from decoders import PatchConvDecoder
from encoders import PatchConvEncoder
from quantizers import BSQ, FSQ, IBQ, KL, LFQ, VQ, Gumbel, Product, Projected, Quantized, Quantizer, Residual, SimVQ
from zoo.data.images import from_pil, read_image, to_pil
from zoo.metrics import codebook_perplexity, codebook_usage, psnr
from zoo.store.files import replacing

__all__ = ["QUANTIZERS", "Autoencoder", "Candidate", "Settings", "main", "run"]

BITS = (12, 16)
WANTED = 0.9  # usage at 2^12 codes of the quantizers that claim not to collapse


@dataclass(frozen=True)
class Settings:
    """All that a result depends on, besides the quantizer.

    Attributes:
        steps: updates of Adam.
        batch: crops of a step.
        side: pixels of a crop.
        patch: pixels of a token.
        shrink: by which photographs are reduced first (LANCZOS); at full size most crops are flat.
        width: channels of the latents and of both networks.
        depth: residual blocks of each network.
        rate: learning rate, reached after `warmup` steps.
        warmup: steps.
        crops: held-out crops at 2^12 codes; a quarter of them at 2^16, where the search costs sixteen times as much.
        min_std: of the grey values of a crop, 0 to 255; flatter ones are left out.
        seed: of weights and crops.
    """

    steps: int = 800
    batch: int = 8
    side: int = 32
    patch: int = 4
    shrink: int = 4
    width: int = 32
    depth: int = 2
    rate: float = 1e-3
    warmup: int = 20
    crops: int = 16384
    min_std: float = 8.0
    seed: int = 0


@dataclass(frozen=True)
class Candidate:
    """A quantizer at about 2^bits codes.

    Attributes:
        make: builds it from the width of the latents and the bits.
        claims: whether it is meant to use nearly all of its codes.
        dense: whether its gradient takes a softmax over all codes: 2^16 are tried with --slow only.
    """

    make: Callable[[int, int], Quantizer]
    claims: bool = False
    dense: bool = False


LEVELS = {12: [8, 8, 8, 8], 16: [8, 8, 8, 5, 5, 5]}
EMA = partial(VQ, learn="ema", kmeans_init=True, dead_code_threshold=0.1)
QUANTIZERS: dict[str, Candidate] = {
    "VQ": Candidate(lambda width, bits: VQ(width, 2**bits)),
    "VQ, rotation trick": Candidate(lambda width, bits: VQ(width, 2**bits, estimator="rotation")),
    "VQ, EMA": Candidate(lambda width, bits: VQ(width, 2**bits, learn="ema")),
    "VQ, EMA, k-means, dead codes": Candidate(lambda width, bits: EMA(width, 2**bits), claims=True),
    "VQ, 8 unit channels": Candidate(lambda width, bits: Projected(VQ(8, 2**bits, normalize=True), width)),
    "SimVQ": Candidate(lambda width, bits: SimVQ(width, 2**bits), claims=True),
    "IBQ": Candidate(lambda width, bits: IBQ(width, 2**bits), claims=True, dense=True),
    "Gumbel": Candidate(lambda width, bits: Gumbel(width, 2**bits), dense=True),
    "Residual, 2 levels": Candidate(lambda width, bits: Residual(EMA(width, 2 ** (bits // 2)), 2)),
    "Product, 2 groups": Candidate(lambda width, bits: Product(EMA(width // 2, 2 ** (bits // 2)), 2)),
    "FSQ": Candidate(lambda width, bits: FSQ(LEVELS[bits]), claims=True),
    "LFQ": Candidate(lambda width, bits: LFQ(bits), claims=True),
    "BSQ": Candidate(lambda width, bits: BSQ(bits), claims=True),
    "KL, continuous": Candidate(lambda width, bits: KL(width)),
}


class Photos:
    """Crops of the photographs in one folder.

    Args:
        folder: pictures, read in the order of their names.
        settings: how they are cut.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        paths = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
        if not paths:
            raise FileNotFoundError(f"no photographs in {folder}; run `python scripts/open_photos.py` first")
        self.settings = settings
        self.images = [self._reduced(path) for path in paths]

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Random crops (count, 3, side, side) in [-1, 1] that are not flat."""
        crops: list[Tensor] = []
        while len(crops) < count:
            crop = self._crop(generator)
            grey = crop[0] * 0.299 + crop[1] * 0.587 + crop[2] * 0.114
            if float(grey.std()) * 127.5 >= self.settings.min_std:
                crops.append(crop)
        return torch.stack(crops)

    def _crop(self, generator: torch.Generator) -> Tensor:
        def below(limit: int) -> int:
            return int(torch.randint(limit, (), generator=generator))

        side, image = self.settings.side, self.images[below(len(self.images))]
        top, left = below(image.shape[1] - side + 1), below(image.shape[2] - side + 1)
        return image[:, top : top + side, left : left + side]

    def _reduced(self, path: Path) -> Tensor:
        photo, side = to_pil(read_image(path)), self.settings.side
        size = (max(side, photo.width // self.settings.shrink), max(side, photo.height // self.settings.shrink))
        return from_pil(photo.resize(size, Image.Resampling.LANCZOS))


class Autoencoder(nn.Module):
    """Encoder, quantizer, decoder.

    Args:
        quantizer: what is tried; the networks take its widths.
        settings: size of the networks.
    """

    def __init__(self, quantizer: Quantizer, settings: Settings) -> None:
        super().__init__()
        self.encoder = PatchConvEncoder(quantizer.input_dim, settings.patch, settings.width, settings.depth)
        self.quantizer = quantizer
        self.decoder = PatchConvDecoder(
            quantizer.dim, settings.patch, settings.width, settings.depth, fine=settings.patch, fine_depth=0
        )
        self.grid = (settings.side // settings.patch,) * 2

    def forward(self, x: Tensor) -> tuple[Tensor, Quantized]:
        """Crops (B, 3, side, side) -> their reconstruction and the codes."""
        quantized = self.quantizer(self.encoder(x))
        return self.decoder(quantized.latents, self.grid), quantized


def run(name: str, bits: int, train: Photos, held_out: Tensor) -> dict[str, Any]:
    """Train one quantizer and measure it.

    Args:
        name: key of `QUANTIZERS`.
        bits: of a token.
        train: photographs to learn from.
        held_out: (M, 3, side, side) crops to measure on.
    """
    settings, begun = train.settings, time.process_time()
    torch.manual_seed(settings.seed)
    model = Autoencoder(QUANTIZERS[name].make(settings.width, bits), settings).train()
    optimizer = torch.optim.Adam(model.parameters(), settings.rate)
    generator = torch.Generator().manual_seed(settings.seed)
    variance = train.draw(256, generator).var()
    for step in range(settings.steps):
        optimizer.param_groups[0]["lr"] = settings.rate * min(1, (step + 1) / settings.warmup)
        x = train.draw(settings.batch, generator)
        output, quantized = model(x)
        loss = (output - x).square().mean() / variance + quantized.loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return {"name": name, "bits": bits, **judge(model, held_out), "cpu_seconds": time.process_time() - begun}


@torch.no_grad()
def judge(model: Autoencoder, crops: Tensor) -> dict[str, Any]:
    """PSNR and, where there are codes, their number, usage and perplexity."""
    model.eval()
    found = [(psnr(output, x).sum(), quantized.indices) for x in crops.split(64) for output, quantized in [model(x)]]
    indices, sizes = torch.cat([part for _, part in found]), model.quantizer.codebook_sizes
    result: dict[str, Any] = {"psnr": float(sum(part for part, _ in found)) / len(crops), "sizes": list(sizes)}
    if sizes:
        usage = [float(codebook_usage(indices[..., column], size)) for column, size in enumerate(sizes)]
        result["usage"] = sum(usage) / len(usage)
        result["perplexity"] = float(codebook_perplexity(model.quantizer.pack(indices), math.prod(sizes)))
    return result


def trials(only: str, slow: bool) -> Iterator[tuple[str, int]]:
    """Names and bits whose text matches a regular expression; what is continuous has no bits and is tried once."""
    for bits in BITS:
        for name, candidate in QUANTIZERS.items():
            larger = bits > BITS[0]
            skipped = larger and ((candidate.dense and not slow) or not candidate.make(8, bits).codebook_sizes)
            if re.search(only, f"{name} 2^{bits}") and not skipped:
                yield name, bits


def table(results: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row for each quantizer, columns for both sizes."""
    lines = [
        "| quantizer | " + " | ".join(f"2^{bits}: usage | perplexity | PSNR" for bits in BITS) + " |",
        "|---|" + "--:|" * 3 * len(BITS),
    ]
    for name in QUANTIZERS:
        rows = {row["bits"]: row for row in results if row["name"] == name}
        if rows:
            texts = [text for bits in BITS for text in cells(rows.get(bits))]
            lines.append(f"| {name} | " + " | ".join(texts) + " |")
    return "\n".join([*lines, ""])


def cells(row: dict[str, Any] | None) -> list[str]:
    """Usage, perplexity, PSNR as text."""
    if row is None:
        return ["", "", ""]
    codes = [f"{row['usage']:.1%}", f"{row['perplexity']:,.0f}"] if "usage" in row else ["-", "-"]
    return [*codes, f"{row['psnr']:.2f} dB"]


def collapsed(results: Sequence[dict[str, Any]]) -> list[str]:
    """Quantizers at 2^12 codes that use fewer than they claim."""
    return [
        f"{row['name']}: {row['usage']:.1%}"
        for row in results
        if row["bits"] == BITS[0] and QUANTIZERS[row["name"]].claims and row["usage"] < WANTED
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, train what is not there yet, draw and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--photos", type=Path, required=True, help="folder with train/ and val/ (scripts/open_photos.py)"
    )
    parser.add_argument("--output", type=Path, default=Path("runs/codebook_health"), help="folder for the results")
    parser.add_argument("--only", default="", help="regular expression for names such as 'SimVQ 2^12'")
    parser.add_argument("--slow", action="store_true", help="also 2^16 codes of IBQ and Gumbel: hours on one core")
    parser.add_argument("--steps", type=int, default=Settings.steps)
    parser.add_argument("--crops", type=int, default=Settings.crops, help="held-out crops")
    parser.add_argument("--seed", type=int, default=Settings.seed)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    settings = Settings(steps=options.steps, crops=options.crops, seed=options.seed)
    notes, results = options.output / "results.json", []
    if notes.exists():
        kept = json.loads(notes.read_text("utf-8"))
        results = kept["results"]
        if kept["settings"] != asdict(settings):
            parser.error(f"{notes} holds results of other settings; name another folder with --output")
    wanted = [
        key for key in trials(options.only, options.slow) if key not in {(row["name"], row["bits"]) for row in results}
    ]
    if wanted:
        train, others = (Photos(options.photos / part, settings) for part in ("train", "val"))
        held_out = others.draw(settings.crops, torch.Generator().manual_seed(settings.seed + 1))
    for name, bits in wanted:
        count = settings.crops if bits == BITS[0] else max(1, settings.crops // 4)
        results.append(run(name, bits, train, held_out[:count]))
        print(
            f"{name:30} 2^{bits}  " + "  ".join(cells(results[-1])) + f"  {results[-1]['cpu_seconds']:.0f} s",
            flush=True,
        )
        write(options.output, results, settings)
    print(table(results))
    print("collapsed: " + ("; ".join(collapsed(results)) or "none"))


def write(folder: Path, results: Sequence[dict[str, Any]], settings: Settings) -> None:
    """The three files."""
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"date": date.today().isoformat(), "machine": machine(torch.device("cpu")), "torch": torch.__version__}
    document = {"settings": asdict(settings), **facts, "results": list(results)}
    with replacing(folder / "results.json") as draft:
        draft.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    with replacing(folder / "codebook_health.md") as draft:
        draft.write_text(table(results), "utf-8")
    draw(results, list(QUANTIZERS), BITS).save(folder / "codebook_health.png", optimize=True)


if __name__ == "__main__":
    main()
