"""The hub: a local folder in its place, and the real client against a small server on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors

import zoo
from zoo.store.hub import fetch
from zoo.tokenizer import Tokenizer


@pytest.fixture
def shelf(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that acts as the hub, with the model `org/name`."""
    root = tmp_path / "hub"
    (root / "org").mkdir(parents=True)
    folder.rename(root / "org" / "name")
    monkeypatch.setenv("ZOO_HUB", str(root))
    return root


def test_a_folder_acts_as_hub(shelf: Path, tokenizer: Tokenizer) -> None:
    loaded = zoo.load("org/name")
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in tokenizer.state_dict().items())


def test_what_a_folder_lacks(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"org/other: no file 'config.json'; looked for .*nor is there a folder"
    ):
        zoo.load("org/other")
    monkeypatch.setenv("ZOO_HUB", str(shelf / "none"))
    with pytest.raises(FileNotFoundError, match="is not a folder; unset it"):
        fetch("org/name", "config.json")


@pytest.mark.parametrize("file", ["../../etc/passwd", "/etc/passwd", "a/../../x", "C:\\x", "..", ""])
def test_file_names_that_leave_are_refused(shelf: Path, file: str) -> None:
    with pytest.raises(ValueError, match="refused"):
        fetch("org/name", file)


@pytest.mark.parametrize("repo", ["../name", "org/..", "org", "a/b/c", "/org/name", "org/na me", "org/x..y"])
def test_bad_ids_are_refused(shelf: Path, repo: str) -> None:
    with pytest.raises(ValueError, match=r"hub id .* is refused"):
        fetch(repo, "config.json")


def test_links_that_leave_the_hub_are_refused(shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}")
    (shelf / "org" / "name" / "link.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(ValueError, match="a link that leaves ZOO_HUB"):
        fetch("org/name", "link.json")


class Server(ThreadingHTTPServer):
    """As much of the hub's protocol as downloads and uploads of small files use."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.log: list[str] = []
        self.breaks = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def answer(self, code: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(code)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def file(self) -> None:
        self.server.log.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".strip())
        repo, _, rest = self.path.lstrip("/").partition("/resolve/")
        name = rest.partition("/")[2]
        if not repo.startswith("org/name"):
            return self.answer(404, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
        if name not in self.server.files:
            return self.answer(404, X_Error_Code="EntryNotFound")
        body = self.server.files[name]
        tags = {"ETag": f'"{hashlib.sha1(body).hexdigest()}"', "X_Repo_Commit": "c" * 40}
        asked = self.headers.get("Range", "").removeprefix("bytes=")
        start = int(asked.partition("-")[0] or 0)
        if self.command == "GET" and self.server.breaks:
            self.server.breaks -= 1
            self.send_response(200)
            for key, value in ({"Content-Length": str(len(body))} | tags).items():
                self.send_header(key.replace("_", "-"), value)
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.connection.close()
            return None
        span = {"Content_Range": f"bytes {start}-{len(body) - 1}/{len(body)}"} if asked else {}
        length = {"Content_Length": str(len(body) - start)}
        return self.answer(206 if asked else 200, body[start:], **tags, **span, **length)

    do_GET = do_HEAD = file  # noqa: N815

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.log.append(f"POST {self.path} {self.headers.get('Authorization', '')}".strip())
        reply: dict[str, Any] = {}
        if self.path == "/api/repos/create":
            reply = {"url": f"{self.server.address}/org/new"}
        elif self.path.endswith("/preupload/main"):
            reply = {
                "files": [
                    {**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]
                ]
            }
        elif self.path.endswith("/commit/main"):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            reply = {"commitOid": "c" * 40, "commitUrl": f"{self.server.address}/org/new/commit/c", "hookOutput": ""}
        self.answer(200, json.dumps(reply).encode(), Content_Type="application/json")


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def run(code: str, endpoint: str, home: Path, **env: str) -> str:
    """Output of a fresh interpreter whose hub is `endpoint`: the client reads its settings when it is imported."""
    paths = os.pathsep.join([str(Path(zoo.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    setting = {
        "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "PYTHONPATH": paths, "PATH": os.environ["PATH"],
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=setting | env, check=False)
    return done.stdout + done.stderr


FETCH = """
from zoo.store.hub import fetch
for options in OPTIONS:
    try:
        print("SIZE", fetch("org/name", "config.json", **options).stat().st_size)
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_download_cache_offline_and_broken_connections(server: Server, folder: Path, tmp_path: Path) -> None:
    server.files = {path.name: path.read_bytes() for path in folder.iterdir()}
    home, size = tmp_path / "home", len(server.files["config.json"])

    cold = run(FETCH.replace("OPTIONS", "[{}, {'offline': True}]"), server.address, home, HF_HUB_OFFLINE="1")
    assert cold.count("FileNotFoundError org/name/config.json: not in the local cache, and offline mode is on") == 2
    assert not server.log

    server.breaks = 1
    warm = run(FETCH.replace("OPTIONS", "[{}, {'offline': True}, {'offline': True}]"), server.address, home)
    assert warm.count(f"SIZE {size}") == 3
    assert [line.split()[0] for line in server.log] == ["HEAD", "GET", "GET"]

    server.log.clear()
    assert f"SIZE {size}" in run(FETCH.replace("OPTIONS", "[{}]"), server.address, home, HF_HUB_OFFLINE="1")
    assert not server.log


def test_hub_errors(server: Server, tmp_path: Path) -> None:
    assert "FileNotFoundError org/name/config.json: the repository has no such file" in run(
        FETCH.replace("OPTIONS", "[{}]"), server.address, tmp_path
    )
    missing = run(FETCH.replace("OPTIONS", "[{}]").replace("org/name", "org/nothing"), server.address, tmp_path)
    assert "FileNotFoundError org/nothing/config.json: no such hub repository, or it is private" in missing


def test_load_from_the_hub(server: Server, folder: Path, tmp_path: Path) -> None:
    server.files = {path.name: path.read_bytes() for path in folder.iterdir()}
    total = "float(sum(p.detach().double().sum() for p in zoo.load(NAME).parameters()))"
    code = f"import zoo\nprint({total} - {total.replace('NAME', repr(str(folder)))})"
    assert run(code.replace("NAME", "'org/name'"), server.address, tmp_path / "home").splitlines()[-1] == "0.0"
    assert [line.split()[0] for line in server.log] == ["HEAD", "GET", "HEAD", "GET"]


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (
            errors.LocalEntryNotFoundError("x"),
            ConnectionError,
            "cannot be reached and the file is not in the local cache",
        ),
        (TimeoutError("slow"), ConnectionError, "download failed, TimeoutError: slow; check the network"),
        (OSError("disk full"), ConnectionError, "download failed, OSError: disk full"),
    ],
)
def test_network_errors(monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[Exception], message: str) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fails)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("ZOO_HUB", raising=False)
    with pytest.raises(kind, match=f"org/name/config.json.*{message}.*set ZOO_HUB to a folder"):
        zoo.load("org/name")


def test_upload(server: Server, folder: Path, tmp_path: Path) -> None:
    code = f"import zoo\nprint(zoo.load({str(folder)!r}).push_to_hub('org/new', private=True, token='hf_secret'))"
    assert f"{server.address}/org/new" in run(code, server.address, tmp_path / "home")
    assert server.files == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert server.log[0] == "POST /api/repos/create Bearer hf_secret"


def test_upload_errors(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refuses:
        def __init__(self, token: str | None) -> None: ...

        def create_repo(self, *_: object, **__: object) -> None:
            raise TimeoutError("slow")

    monkeypatch.setattr(huggingface_hub, "HfApi", Refuses)
    with pytest.raises(ConnectionError, match=r"org/new: upload failed \(TimeoutError: slow\)"):
        tokenizer.push_to_hub("org/new")


def test_upload_refuses_bad_ids(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", None)
    with pytest.raises(ValueError, match="hub id 'name' is refused: expected org/name"):
        tokenizer.push_to_hub("name")
