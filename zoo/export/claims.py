"""Who is doing which shard, among processes that share nothing but a folder.

A claim only saves work: shards have fixed names and equal bytes whoever makes them, and appear in one step, so that two
processes that make the same shard (after a network partition, say) cannot lose or repeat an item.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

__all__ = ["Claims"]

BEAT = 15.0  # seconds between signs of life
DEAD = 120.0  # seconds without one, after which a process of another machine is taken for dead


class Claims:
    """Claims of one process in a folder; use it as a context, which keeps them alive.

    Args:
        folder: shared by all processes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.owner = {"machine": _machine(), "pid": os.getpid(), "started": _started(os.getpid()), "id": uuid4().hex}
        self.held: set[str] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        for name in list(self.held):
            self.release(name)
        (self.folder / f".pulse-{self.owner['id']}").unlink(missing_ok=True)

    def take(self, name: str) -> bool:
        """Claim something; False while a living process has it."""
        path, mine = self.folder / name, self.folder / f".card-{uuid4().hex}"
        try:
            mine.write_text(json.dumps(self.owner))
            try:
                os.link(mine, path)  # a claim appears in one step, with its owner's name on it
            except FileExistsError:
                if not self._abandoned(path):
                    return False
                os.replace(mine, path)
                if self._read(path) != self.owner:
                    return False
            self.held.add(name)
            return True
        except FileNotFoundError:  # the export has ended, and its claims are gone
            return False
        finally:
            mine.unlink(missing_ok=True)

    def release(self, name: str) -> None:
        """Give a claim up."""
        self.held.discard(name)
        (self.folder / name).unlink(missing_ok=True)

    def _read(self, path: Path) -> Any:
        try:
            return json.loads(path.read_text())
        except (OSError, ValueError):
            return None

    def _abandoned(self, path: Path) -> bool:
        """Whether the process that holds a claim is gone: surely on this machine, by its silence on others."""
        owner = self._read(path)
        if not isinstance(owner, dict):
            return not path.exists() or self._silent(path)
        if owner.get("machine") == self.owner["machine"]:
            return _started(int(owner["pid"])) != owner["started"]
        return self._silent(path)

    def _silent(self, path: Path) -> bool:
        """Whether nothing was heard for long, by the clock of the folder's file system."""
        pulse = self.folder / f".pulse-{self.owner['id']}"
        pulse.touch()
        try:
            return pulse.stat().st_mtime - path.stat().st_mtime > DEAD
        except FileNotFoundError:
            return True

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            now = time.time()
            for name in list(self.held):
                with contextlib.suppress(FileNotFoundError):
                    os.utime(self.folder / name, (now, now))


def _machine() -> str:
    """This machine and its table of processes: containers of one host name are different ones."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(parts)


def _started(pid: int) -> str | None:
    """When a process began, which tells it from a later one of the same number; None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    except OSError:
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "running"
