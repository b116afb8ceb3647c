"""`zoo tokenize` and `zoo detokenize`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.cli.inputs import Item, errors_beside, find_items, output_paths, suffixes, written_as
from zoo.cli.options import (
    Bandwidth,
    BatchSize,
    Bits,
    Channels,
    ChannelsName,
    Chunk,
    Codebooks,
    Device,
    Dtype,
    DtypeName,
    FitName,
    FitOption,
    Format,
    Inputs,
    MaxSide,
    Model,
    Overwrite,
    QueryBatch,
    Resolution,
    Surfaces,
    Text,
    complain,
    open_tokenizer,
    precision,
    told,
)
from zoo.cli.sampling import Guidance, Sampling, Seed, Steps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from zoo.cli.jobs import Job, Sample
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
    channels: Channels = ChannelsName.mix,
    chunk: Chunk = 30.0,
    codebooks: Codebooks = None,
    bandwidth: Bandwidth = None,
    batch_size: BatchSize = 8,
    device: Device = "auto",
    dtype: Dtype = DtypeName.float32,
    overwrite: Overwrite = False,
) -> None:
    """Turn pictures, sounds or shapes into token files.

    A token file is safetensors: the codes and what `zoo detokenize` needs to restore the file: the model, how a picture
    was fitted and its caption, the rate, channels and length of a sound, or where a shape was and how large. Long
    sounds are processed in pieces, so memory does not grow with their length. Bad inputs are recorded in errors.jsonl
    beside the outputs.

    Shapes are meshes (OBJ, GLB, GLTF, PLY, STL, OFF) or point clouds (NPZ with `points` and perhaps `normals`, PLY).

    \b
    Examples:
      zoo tokenize photo.jpg -m fsq_f8_tiny -o photo.safetensors
      zoo tokenize photos/ -m onedpiece_tiny_128 -o tokens/ --fit pad
      zoo tokenize 'photos/**/*.png' -m titok_l32_imagenet -o tokens/ -b 32 --device cuda
      zoo tokenize speech.wav -m wavtokenizer_small_75 -o tokens/
      zoo tokenize podcasts/ -m encodec_24khz -o tokens/ --bandwidth 6 --channels each
      zoo tokenize chair.glb -m vat_tiny -o tokens/
    """
    from zoo.cli.jobs import Job, load_samples, run_batches
    from zoo.cli.shapes import plan_shapes, tokenize_shapes
    from zoo.cli.sounds import plan_sounds, tokenize_sounds

    with complain():
        tokenizer = open_tokenizer(model, device)
        items = find_items(inputs, suffixes(tokenizer.spec.modality))
        targets = output_paths(items, output, TOKENS, single=[TOKENS])
        beside = told(tokenizer, text)
        plan = plan_sounds(tokenizer, model, channels, chunk, codebooks, bandwidth, dtype, Sampling())
        shapes = plan_shapes(tokenizer, model, dtype, Surfaces(), Sampling())
    pairs = list(zip(items, targets, strict=True))
    with Job("tokenize", len(items), errors_beside(output, [TOKENS])) as job:
        if plan is not None:
            job.notes += tokenize_sounds(job, plan, pairs, batch_size, overwrite).lines(plan.tokenizer)
        elif shapes is not None:
            tokenize_shapes(job, shapes, pairs, batch_size, overwrite)
        else:
            samples = load_samples(job, tokenizer.spec, pairs, mode=fit.value, max_side=max_side, overwrite=overwrite)
            run_batches(job, samples, batch_size, _write_tokens(job, tokenizer, model, text, beside, dtype))


def _write_tokens(
    job: Job, tokenizer: Tokenizer, model: str, text: str | None, beside: dict[str, Any], dtype: DtypeName
) -> Callable[[Tensor, Sequence[Sample]], None]:
    """What is done with a batch of pictures."""
    import torch

    def work(batch: Tensor, samples: Sequence[Sample]) -> None:
        with torch.inference_mode(), precision(tokenizer, dtype):
            tokens = tokenizer.encode(batch.to(tokenizer.device), **beside).to("cpu")
        for number, sample in enumerate(samples):
            facts = {"model": model, "source": sample.item.path.name, "fit": json.dumps(asdict(sample.fit))}
            facts |= {} if text is None else {"text": text}
            with job.guard(sample.item):
                sample.target.parent.mkdir(parents=True, exist_ok=True)
                tokens[number].save(sample.target, **facts)

    return work


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
    file_format: Format = None,
    bits: Bits = 16,
    chunk: Chunk = 30.0,
    resolution: Resolution = 128,
    query_batch: QueryBatch = 65536,
    device: Device = "auto",
    dtype: Dtype = DtypeName.float32,
    overwrite: Overwrite = False,
) -> None:
    """Turn token files back into pictures of their original size (of the part that was seen, when cropped), into sounds
    of their original sample rate, channels and length, or into closed meshes at their original place and size.

    \b
    Examples:
      zoo detokenize photo.safetensors -o photo.png
      zoo detokenize tokens/ -o restored/ --format jpg
      zoo detokenize tokens/ -m runs/my_model -o restored/
      zoo detokenize speech.safetensors -o speech.flac --bits 24
      zoo detokenize chair.safetensors -o chair.glb --resolution 256
    """
    from zoo.cli.jobs import Job
    from zoo.data.audio import WRITABLE_AUDIO
    from zoo.data.images import WRITABLE
    from zoo.shapes.meshes import WRITABLE_MESHES

    single = [*WRITABLE, *WRITABLE_AUDIO, *WRITABLE_MESHES]
    with complain():
        items = find_items(inputs, [TOKENS])
        named = {} if model is None else {model: open_tokenizer(model, device)}
        kinds = [_modality(item) if model is None else named[model].spec.modality for item in items]
        targets = output_paths(items, output, [written_as(file_format, kind) for kind in kinds], single=single)
    with Job("detokenize", len(items), errors_beside(output, single)) as job:
        for item, target in zip(items, targets, strict=True):
            if target.exists() and not overwrite:
                job.skip()
                continue
            with job.guard(item):
                sampling, surfaces = Sampling(steps, guidance, seed), Surfaces(resolution, query_batch)
                _restore(item, target, model, text, named, device, dtype, sampling, chunk, bits, surfaces)


def _restore(
    item: Item,
    target: Path,
    model: str | None,
    text: str | None,
    opened: dict[str, Tokenizer],
    device: str,
    dtype: DtypeName,
    sampling: Sampling,
    chunk: float,
    bits: int,
    surfaces: Surfaces,
) -> None:
    """Decode one token file; a file with several items gives several results, numbered."""
    import torch

    from zoo.cli.shapes import plan_shapes, restore_shape
    from zoo.cli.sounds import restore
    from zoo.data.images import write_image
    from zoo.families.audio import AudioTokenizer
    from zoo.tokens import Tokens

    if not item.path.is_file():
        raise FileNotFoundError(f"no token file {item.path}")
    tokens, facts = Tokens.load(item.path), Tokens.read_metadata(item.path)
    name = model or facts.get("model")
    if name is None:
        raise ValueError(f"{item.path} does not name its model; pass -m")
    if name not in opened:
        opened[name] = open_tokenizer(name, device)
    tokenizer = opened[name]
    sampling.check(tokenizer)
    if isinstance(tokenizer, AudioTokenizer):
        restore(tokenizer, tokens, facts, target, dtype=dtype, sampling=sampling, chunk=chunk, bits=bits)
        return
    if (plan := plan_shapes(tokenizer, name, dtype, surfaces, sampling)) is not None:
        restore_shape(plan, tokens, target)
        return
    fit, beside = _fit(facts), told(tokenizer, facts.get("text") if text is None else text)
    for number in range(len(tokens)):
        code = tokens[number].to(tokenizer.device)
        with torch.inference_mode(), precision(tokenizer, dtype):
            image = tokenizer.decode(code, **sampling.options(tokenizer), **beside)[0].float().cpu()
        path = target if len(tokens) == 1 else target.with_stem(f"{target.stem}-{number:04d}")
        write_image(path, image if fit is None else fit.unfit(image))


def _modality(item: Item) -> str:
    """Of what a token file holds; a picture where that is not known."""
    from zoo.store.cards import card, list_models
    from zoo.tokens import Tokens

    try:
        facts = Tokens.read_metadata(item.path)
    except (ValueError, OSError):
        return "image"
    for kind in ("audio", "shape"):
        if kind in facts:
            return kind
    return card(facts["model"]).modality if facts.get("model") in list_models() else "image"


def _fit(facts: dict[str, str]) -> Fit | None:
    from zoo.data.images import Fit

    if "fit" not in facts:
        return None
    values: dict[str, Any] = json.loads(facts["fit"])
    values.update({key: tuple(value) for key, value in values.items() if isinstance(value, list)})
    return Fit(**values)
