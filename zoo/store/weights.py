"""Reading weight files without running anything they contain, and putting them into models strictly."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["check_digest", "load_strict", "read_state", "unwrap"]

MAX_HEADER = 100_000_000
PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".th", ".dev")
NESTS = ("state_dict", "model", "model_state_dict", "module", "vae")
PREFIXES = ("module.", "_orig_mod.")
BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8, "C64": 8,
}  # fmt: skip


def read_state(path: str | Path, *, sha256: str | None = None) -> dict[str, Tensor]:
    """A state dict on the CPU, read without running code.

    Args:
        path: `.safetensors`, or `.pt`, `.pth`, `.ckpt`, `.bin`, `.th`, `.dev` through `torch.load(weights_only=True)`.
        sha256: digest that the file must have.

    Returns:
        Tensors by name; common wrappers are removed as `unwrap` says.

    Raises:
        FileNotFoundError: no such file.
        ValueError: truncated, of another kind than its name says, holding anything but tensors, or of
            another digest.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weight file {path}; check the path, or download it again")
    if sha256 is not None:
        check_digest(path, sha256)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in PICKLES:
        return _read_pickle(path)
    raise ValueError(
        f"{path}: expected .safetensors or one of {', '.join(PICKLES)}, got {path.suffix or 'no suffix'!r}"
    )


def check_digest(path: Path, sha256: str) -> None:
    """Raise ValueError unless the file has this SHA-256 digest."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        raise ValueError(
            f"{path}: expected sha256 {sha256}, got {digest} ({path.stat().st_size} bytes); "
            "the file is damaged or was replaced: delete it and load again"
        )


def unwrap(state: Any, source: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name.

    A mapping under `state_dict`, `model`, `model_state_dict`, `module` or `vae` is taken out of its wrapper, and the
    prefixes `module.` (DataParallel) and `_orig_mod.` (torch.compile) are removed where every key has them.

    Raises:
        ValueError: something other than tensors is left.
    """
    while isinstance(state, Mapping) and (nest := _nest(state)):
        state = state[nest]
    if not isinstance(state, Mapping) or not state:
        raise ValueError(f"{source}: expected a mapping from names to tensors, got {type(state).__name__}")
    for prefix in PREFIXES:
        if all(str(key).startswith(prefix) for key in state):
            state = {str(key).removeprefix(prefix): value for key, value in state.items()}
    wrong = [str(key) for key, value in state.items() if not isinstance(value, Tensor)]
    if wrong:
        raise ValueError(
            f"{source}: expected only tensors, but {_some(wrong)} are not; known wrappers are {', '.join(NESTS)}"
        )
    return {str(key): value for key, value in state.items()}


def load_strict(model: nn.Module, state: Mapping[str, Tensor], *, source: str) -> None:
    """Put a state dict into a model: every key, every shape, nothing left over.

    Floating weights take the dtype that the model was built with, so half-precision files are widened. A model
    built on the meta device receives the tensors themselves; its non-persistent buffers, which no file holds, are
    computed by building its `config` once more.

    Raises:
        RuntimeError: keys or shapes differ.
    """
    expected = model.state_dict()
    missing, extra = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing or extra:
        raise RuntimeError(
            f"{source}: {_count(missing, 'missing')}, {_count(extra, 'unexpected')}; saved by another model or format?"
        )
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if tensor.shape != state[key].shape
    ]
    if shapes:
        raise RuntimeError(f"{source}: {len(shapes)} shapes differ: {_some(shapes)}; is this the right config?")
    typed = {key: state[key].to(tensor.dtype) for key, tensor in expected.items()}
    meta = any(tensor.is_meta for tensor in expected.values())
    model.load_state_dict(typed, strict=True, assign=meta)
    _fill_buffers(model, source)


def _fill_buffers(model: nn.Module, source: str) -> None:
    empty = [name for name, tensor in model.named_buffers() if tensor.is_meta]
    if not empty:
        return
    config = getattr(model, "config", None)
    if not config:
        raise RuntimeError(f"{source}: buffers {_some(empty)} are not in the file and the model has no config")
    from zoo.store.build import build

    donor = dict(build(config).named_buffers())
    for name in empty:
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, donor[name])


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    _check_header(path)
    try:
        return unwrap(load_file(path), str(path))
    except SafetensorError as error:
        raise ValueError(f"{path}: not a valid safetensors file ({error}); delete it and load again") from error


def _check_header(path: Path) -> None:
    """Refuse a file whose header does not describe it, before any tensor is allocated."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(64)
        if kind := _disguise(start):
            raise ValueError(f"{path}: expected safetensors, got {kind}; nothing was loaded")
        length = int.from_bytes(start[:8], "little")
        if size < 8 or length > min(MAX_HEADER, size - 8):
            raise ValueError(
                f"{path}: header of {length} bytes in a file of {size} bytes; truncated or not safetensors, "
                "delete it and load again"
            )
        file.seek(8)
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path}: the safetensors header is not JSON ({error}); delete it and load again"
            ) from error
    if not isinstance(header, dict):
        raise ValueError(f"{path}: the safetensors header is not a mapping; delete it and load again")
    header.pop("__metadata__", None)
    room = size - 8 - length
    needed = max((_extent(path, name, entry) for name, entry in header.items()), default=0)
    if needed != room:
        raise ValueError(
            f"{path}: the header describes {needed} bytes of tensors, the file holds {room}; "
            "truncated or damaged, delete it and load again"
        )


def _extent(path: Path, name: str, entry: Any) -> int:
    """Where a tensor ends in the data part, after checking its entry."""
    try:
        (start, end), shape, width = entry["data_offsets"], entry["shape"], BYTES[entry["dtype"]]
        sound = all(type(number) is int and number >= 0 for number in (start, end, *shape))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: bad header entry for {name!r}: {error!r}") from error
    if not sound or end - start != math.prod(shape) * width:
        raise ValueError(f"{path}: {name!r} of shape {shape} does not fill bytes {start} to {end}; the file is damaged")
    return end


def _disguise(start: bytes) -> str | None:
    """What a file that claims to be safetensors really is, judged by its first bytes."""
    if start[8:9] == b"{":
        return None
    if start.startswith(b"PK\x03\x04"):
        return "a zip archive as torch.save writes it (a renamed pickle?)"
    if start[:1] == b"\x80":
        return "a pickle"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer; fetch the real file with `git lfs pull`"
    if start.lstrip()[:1] == b"<":
        return "a web page instead of the file"
    return None


def _read_pickle(path: Path) -> dict[str, Tensor]:
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty; delete it and load again")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{path}: refused, it is not a plain checkpoint of tensors ({reason}); nothing in it was run. "
            "If you trust it, convert it to safetensors where it was made"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"{path}: cannot be read as a PyTorch checkpoint ({reason}); truncated?") from error
    return unwrap(state, str(path))


def _nest(state: Mapping[Any, Any]) -> str | None:
    return next((key for key in NESTS if isinstance(state.get(key), Mapping)), None)


def _count(names: list[str], what: str) -> str:
    return f"{len(names)} keys {what}" + (f" ({_some(names)})" if names else "")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
