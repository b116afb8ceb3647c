"""`zoo tokenize` and `zoo detokenize`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli.inputs import Item, errors_beside, find_items, output_paths
from zoo.cli.options import (
    BatchSize,
    Device,
    Dtype,
    DtypeName,
    FitName,
    FitOption,
    Inputs,
    MaxSide,
    Model,
    Overwrite,
    Text,
    complain,
    open_tokenizer,
    precision,
    told,
)
from zoo.cli.sampling import Guidance, Sampling, Seed, Steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from zoo.cli.jobs import Sample
    from zoo.data.images import Fit
    from zoo.tokenizer import Tokenizer

__all__ = ["detokenize", "tokenize"]

TOKENS = ".safetensors"
Output = Annotated[Path, typer.Option("--output", "-o", help="File for one input, folder for several.")]


def tokenize(
    inputs: Inputs,
    model: Model,
    output: Output,
    text: Text = None,
    fit: FitOption = FitName.crop,
    max_side: MaxSide = None,
    batch_size: BatchSize = 8,
    device: Device = "auto",
    dtype: Dtype = DtypeName.float32,
    overwrite: Overwrite = False,
) -> None:
    """Turn pictures into token files.

    A token file is safetensors: the codes and, as metadata, the model, how the picture was fitted and its caption, so
    that `zoo detokenize` restores it. Bad inputs are recorded in errors.jsonl beside the outputs.

    \b
    Examples:
      zoo tokenize photo.jpg -m fsq_f8_tiny -o photo.safetensors
      zoo tokenize photos/ -m onedpiece_tiny_128 -o tokens/ --fit pad
      zoo tokenize 'photos/**/*.png' -m titok_l32_imagenet -o tokens/ -b 32 --device cuda
    """
    import torch

    from zoo.cli.jobs import Job, load_samples, run_batches
    from zoo.data.images import IMAGE_SUFFIXES

    with complain():
        items = find_items(inputs, IMAGE_SUFFIXES)
        targets = output_paths(items, output, TOKENS, single=[TOKENS])
        tokenizer = open_tokenizer(model, device, modality="image")
        beside = told(tokenizer, text)
    with Job("tokenize", len(items), errors_beside(output, [TOKENS])) as job:

        def work(batch: Tensor, samples: Sequence[Sample]) -> None:
            with torch.inference_mode(), precision(tokenizer, dtype):
                tokens = tokenizer.encode(batch.to(tokenizer.device), **beside).to("cpu")
            for number, sample in enumerate(samples):
                facts = {"model": model, "source": sample.item.path.name, "fit": json.dumps(asdict(sample.fit))}
                facts |= {} if text is None else {"text": text}
                with job.guard(sample.item):
                    sample.target.parent.mkdir(parents=True, exist_ok=True)
                    tokens[number].save(sample.target, **facts)

        pairs = zip(items, targets, strict=True)
        samples = load_samples(job, tokenizer.spec, pairs, mode=fit.value, max_side=max_side, overwrite=overwrite)
        run_batches(job, samples, batch_size, work)


def detokenize(
    inputs: Inputs,
    output: Output,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Tokenizer; by default the one that the token file names.")
    ] = None,
    text: Annotated[
        str | None, typer.Option("--text", help="Caption of the pictures; by default the one in the token file.")
    ] = None,
    steps: Steps = None,
    guidance: Guidance = None,
    seed: Seed = None,
    image_format: Annotated[str, typer.Option("--format", help="png, jpg or webp, for outputs in a folder.")] = "png",
    device: Device = "auto",
    dtype: Dtype = DtypeName.float32,
    overwrite: Overwrite = False,
) -> None:
    """Turn token files back into pictures of their original size (of the part that was seen, when cropped).

    \b
    Examples:
      zoo detokenize photo.safetensors -o photo.png
      zoo detokenize tokens/ -o restored/ --format jpg
      zoo detokenize tokens/ -m runs/my_model -o restored/
    """
    from zoo.cli.jobs import Job
    from zoo.data.images import WRITABLE

    suffix = f".{image_format.lower().lstrip('.')}"
    with complain():
        if suffix not in WRITABLE:
            raise ValueError(f"--format is one of {', '.join(kind[1:] for kind in WRITABLE)}, got {image_format!r}")
        items = find_items(inputs, [TOKENS])
        targets = output_paths(items, output, suffix, single=list(WRITABLE))
        named = {} if model is None else {model: open_tokenizer(model, device, modality="image")}
    with Job("detokenize", len(items), errors_beside(output, list(WRITABLE))) as job:
        for item, target in zip(items, targets, strict=True):
            if target.exists() and not overwrite:
                job.skip()
                continue
            with job.guard(item):
                _restore(item, target, model, text, named, device, dtype, Sampling(steps, guidance, seed))


def _restore(
    item: Item,
    target: Path,
    model: str | None,
    text: str | None,
    opened: dict[str, Tokenizer],
    device: str,
    dtype: DtypeName,
    sampling: Sampling,
) -> None:
    """Decode one token file; a file with several items gives several pictures, numbered."""
    import torch

    from zoo.data.images import write_image
    from zoo.tokens import Tokens

    if not item.path.is_file():
        raise FileNotFoundError(f"no token file {item.path}")
    tokens, facts = Tokens.load(item.path), Tokens.read_metadata(item.path)
    name = model or facts.get("model")
    if name is None:
        raise ValueError(f"{item.path} does not name its model; pass -m")
    if name not in opened:
        opened[name] = open_tokenizer(name, device, modality="image")
    tokenizer = opened[name]
    sampling.check(tokenizer)
    fit, beside = _fit(facts), told(tokenizer, facts.get("text") if text is None else text)
    for number in range(len(tokens)):
        code = tokens[number].to(tokenizer.device)
        with torch.inference_mode(), precision(tokenizer, dtype):
            image = tokenizer.decode(code, **sampling.options(tokenizer), **beside)[0].float().cpu()
        path = target if len(tokens) == 1 else target.with_stem(f"{target.stem}-{number:04d}")
        write_image(path, image if fit is None else fit.unfit(image))


def _fit(facts: dict[str, str]) -> Fit | None:
    from zoo.data.images import Fit

    if "fit" not in facts:
        return None
    values: dict[str, Any] = json.loads(facts["fit"])
    values.update({key: tuple(value) for key, value in values.items() if isinstance(value, list)})
    return Fit(**values)
