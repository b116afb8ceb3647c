"""Weight files: read safely, unwrapped explicitly, loaded strictly."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from zoo.store.weights import load_strict, read_state, unwrap


@pytest.fixture
def state() -> dict[str, Tensor]:
    return {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])}


def equal(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("suffix", [".safetensors", ".bin", ".pt", ".pth", ".ckpt"])
def test_reading(tmp_path: Path, state: dict[str, Tensor], suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    assert equal(read_state(path), state)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert equal(read_state(path, sha256=digest), state)
    with pytest.raises(ValueError, match=f"expected sha256 {'0' * 64}, got {digest}"):
        read_state(path, sha256="0" * 64)


def test_old_torch_format(tmp_path: Path, state: dict[str, Tensor]) -> None:
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert equal(read_state(tmp_path / "old.pt"), state)


def test_missing_and_unknown(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no weight file"):
        read_state(tmp_path / "a.safetensors")
    (tmp_path / "a.npz").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"expected \.safetensors or one of"):
        read_state(tmp_path / "a.npz")


def test_wrappers(state: dict[str, Tensor]) -> None:
    prefixed = {f"module.{key}": value for key, value in state.items()}
    for wrapped in (
        {"state_dict": state, "epoch": 3},
        {"model": {"state_dict": prefixed}},
        {"model": {f"_orig_mod.{key}": value for key, value in state.items()}, "optimizer": {}},
        {"model_state_dict": {f"module._orig_mod.{key}": value for key, value in state.items()}},
    ):
        assert equal(unwrap(wrapped, "x"), state)
    with pytest.raises(ValueError, match="expected only tensors, but epoch are not"):
        unwrap({**state, "epoch": 3}, "x")
    for nothing in ({}, [1, 2], {"state_dict": {}}):
        with pytest.raises(ValueError, match="expected a mapping from names to tensors"):
            unwrap(nothing, "x")


@pytest.mark.parametrize("cut", [0, 5, 40, -4])
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_truncated(tmp_path: Path, state: dict[str, Tensor], cut: int, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"truncated|empty") as caught:
        read_state(path)
    assert path.name in str(caught.value)


def test_header_of_ten_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", 10 * 2**30) + b"{" + b" " * 1000)
    with pytest.raises(ValueError, match="header of 10737418240 bytes in a file of 1009 bytes"):
        read_state(path)


def header_file(path: Path, header: object, body: bytes = b"") -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2_684_354_560], "data_offsets": [0, 10_737_418_240]},
        {"dtype": "F32", "shape": [4], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]},
        {"dtype": "OBJ", "shape": [2], "data_offsets": [0, 8]},
        {"shape": [2]},
        [],
    ],
)
def test_headers_that_lie(tmp_path: Path, entry: object) -> None:
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        read_state(header_file(tmp_path / "model.safetensors", {"a": entry}, b"\0" * 8))


def test_headers_that_are_no_mapping(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a mapping"):
        read_state(header_file(tmp_path / "model.safetensors", []))
    deep = tmp_path / "deep.safetensors"
    text = b'{"a":' + b"[" * 100_000
    deep.write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(ValueError, match="not JSON"):
        read_state(deep)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>not found</html>", "web page"),
    ],
)
def test_what_a_download_may_be_instead(tmp_path: Path, body: bytes, kind: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(body)
    with pytest.raises(ValueError, match=kind):
        read_state(tmp_path / "model.safetensors")


class Bomb:
    """Leaves a file behind when it is unpickled without care."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.sentinel}",)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("name", ["model.bin", "model.safetensors"])
@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_run_nothing(tmp_path: Path, name: str, zipped: bool, protocol: int) -> None:
    sentinel, path = tmp_path / "ran", tmp_path / name
    content = {"a": torch.zeros(2), "b": Bomb(sentinel)}
    if zipped:
        torch.save(content, path, pickle_protocol=protocol)
    else:
        path.write_bytes(pickle.dumps({"b": Bomb(sentinel)}, protocol=protocol))
    with pytest.raises(ValueError, match=r"nothing (in it was run|was loaded)|cannot be read"):
        read_state(path)
    assert not sentinel.exists()
    if not zipped:
        pickle.loads(path.read_bytes())
        assert sentinel.exists(), "the bomb must be a real one"


def test_strict_errors_name_what_differs(state: dict[str, Tensor]) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    good = model.state_dict()
    with pytest.raises(RuntimeError, match=r"titok: 1 keys missing \(1.bias\), 1 keys unexpected \(extra\)"):
        load_strict(model, {**{k: v for k, v in good.items() if k != "1.bias"}, "extra": state["b"]}, source="titok")
    with pytest.raises(RuntimeError, match=r"1 shapes differ: 0.bias \(4,\) instead of \(3,\)"):
        load_strict(model, {**good, "0.bias": torch.zeros(4)}, source="titok")


def test_half_precision_is_widened() -> None:
    model = nn.Linear(2, 3)
    wanted = {key: torch.randn_like(value).half() for key, value in model.state_dict().items()}
    for device in ("cpu", "meta"):
        target = nn.Linear(2, 3, device=device)
        load_strict(target, wanted, source="x")
        assert target.weight.dtype == torch.float32 and target.weight.requires_grad
        assert torch.equal(target.weight, wanted["weight"].float())


def test_buffers_outside_the_file_need_a_config() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("table", torch.arange(3), persistent=False)

    with torch.device("meta"):
        model = Odd()
    with pytest.raises(RuntimeError, match="buffers table are not in the file"):
        load_strict(model, {}, source="x")
