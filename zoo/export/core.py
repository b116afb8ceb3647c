"""The core of an export, which every runner runs: one shard after another, each exactly once.

A shard is written to temporary names, put on the disk, renamed, and only then recorded. What is recorded is done; what
is not is done again, with the same bytes. So nothing is lost or repeated, wherever a process is killed. When all shards
are recorded, one process writes the manifest.

    OUT/shard-00000.parquet ...     what was asked for
    OUT/errors.jsonl                items that failed, if any
    OUT/manifest.json               the end: an export without it is unfinished
    OUT/.export/plan.json           what is being made, so that another run cannot mix in something else
    OUT/.export/records/00000.json  shards that are done
    OUT/.export/claims/00000        shards that some process is doing
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from zoo.export.claims import Claims
from zoo.export.digest import describe_file
from zoo.export.format import MANIFEST, Failure, File, Manifest, Row, Shard
from zoo.export.formats import Format, find_format
from zoo.store.files import replacing

__all__ = ["Export"]

WORK, ERRORS, FINISH = ".export", "errors.jsonl", "finish"


class Export:
    """An export in a folder; every process has an object of its own.

    Args:
        folder: where it goes.
        plan: the manifest without what is only known at the end.
        inputs: names of the parts, one for each shard.

    Raises:
        ValueError: the folder holds another export.
    """

    def __init__(self, folder: Path, plan: Manifest, inputs: Sequence[str]) -> None:
        self.folder, self.inputs = folder, tuple(inputs)
        self.work = folder / WORK
        folder.mkdir(parents=True, exist_ok=True)
        self.plan = self._agreed(plan)
        self.format: Format = find_format(self.plan.format)(self.plan)

    def __len__(self) -> int:
        return len(self.inputs)

    @property
    def done(self) -> bool:
        """Whether the manifest is there."""
        return (self.folder / MANIFEST).is_file()

    def claims(self) -> Claims:
        """The claims of this process."""
        return Claims(self.work / "claims")

    def recorded(self) -> set[int]:
        """Numbers of the shards that are done."""
        return {int(path.stem) for path in (self.work / "records").glob("[0-9]*.json")}

    def commit(self, number: int, rows: Sequence[Row], failed: Sequence[Failure]) -> None:
        """Write shard `number` and record it."""
        names = self.format.names(number)
        token = uuid4().hex
        drafts = [self.folder / f".draft-{token}-{name}" for name in names]
        try:
            self.format.write(rows, drafts)
            for draft in drafts:
                _sync(draft)
            files = tuple(describe_file(draft, name) for draft, name in zip(drafts, names, strict=True))
            for draft, name in zip(drafts, names, strict=True):
                draft.replace(self.folder / name)
        finally:
            for draft in drafts:
                draft.unlink(missing_ok=True)
        _sync(self.folder)
        shard = Shard(self.inputs[number], len(rows), sum(row["length"] for row in rows), files)
        labels = sorted({row["label"] for row in rows if isinstance(row.get("label"), str)})
        record = {"shard": asdict(shard), "failed": [asdict(failure) for failure in failed], "labels": labels}
        self._write(self.work / "records" / f"{number:05d}.json", json.dumps(record, ensure_ascii=False))

    def finish(self) -> Manifest:
        """Write the manifest; all shards must be recorded. Doing it twice gives the same."""
        if self.done:
            return self._ended()
        paths = [self.work / "records" / f"{number:05d}.json" for number in range(len(self))]
        records = [json.loads(path.read_text("utf-8")) for path in paths]
        shards = [_shard(record["shard"]) for record in records]
        failed = tuple(Failure(**failure) for record in records for failure in record["failed"])
        labels = self.plan.labels or tuple(sorted({label for record in records for label in record["labels"]}))
        if failed:
            lines = (json.dumps({"input": f.id, "error": f.error, "message": f.message}) for f in failed)
            self._write(self.folder / ERRORS, "".join(f"{line}\n" for line in lines))
        manifest = replace(
            self.plan,
            labels=labels,
            items=sum(shard.items for shard in shards),
            tokens=sum(shard.tokens for shard in shards),
            shards=self.format.finish(self.folder, shards),
            failed=failed,
        )
        _sync(self.folder)
        self._write(self.folder / MANIFEST, manifest.text())
        return self._ended()

    def _ended(self) -> Manifest:
        """The manifest, in a folder without traces of how it was made."""
        self.format.clean(self.folder, len(self))
        for pattern in (".draft-*", ".errors-*", ".manifest-*"):  # of processes that were killed
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)
        shutil.rmtree(self.work, ignore_errors=True)
        return Manifest.load(self.folder)

    def _agreed(self, plan: Manifest) -> Manifest:
        """The plan of the process that came first, which must be the same but for versions."""
        if self.done:
            found = Manifest.load(self.folder)
            _check_same(self.folder, _identity(plan), _identity(found))
            return found
        path, draft = self.work / "plan.json", self.work / f".plan-{uuid4().hex}"
        (self.work / "records").mkdir(parents=True, exist_ok=True)
        draft.write_text(plan.text(), encoding="utf-8")
        try:
            os.link(draft, path)
        except FileExistsError:
            found = Manifest.parse(path)
            _check_same(self.folder, _identity(plan), _identity(found))
            self._drop_broken()
            return found
        finally:
            draft.unlink()
        return plan

    def _drop_broken(self) -> None:
        """Forget shards whose files are no longer what was recorded."""
        for path in (self.work / "records").glob("[0-9]*.json"):
            shard = _shard(json.loads(path.read_text("utf-8"))["shard"])
            if not all(_is_there(self.folder, file) for file in shard.files):
                path.unlink(missing_ok=True)

    def _write(self, path: Path, text: str) -> None:
        with replacing(path) as draft:
            draft.write_text(text, encoding="utf-8")
            _sync(draft)
        _sync(path.parent)


def _identity(plan: Manifest) -> dict[str, Any]:
    """What two plans must have in common to be one export."""
    values = json.loads(json.dumps(asdict(plan)))
    for name in ("items", "tokens", "shards", "failed", "versions", "labels"):
        values.pop(name)
    return values


def _check_same(folder: Path, mine: dict[str, Any], found: dict[str, Any]) -> None:
    flat = [{**values.pop("options"), **values} for values in (mine, found)]
    differ = [name for name in flat[0] if flat[0][name] != flat[1].get(name)]
    if differ:
        shown = "; ".join(f"{name} {flat[1].get(name)!r} there, {flat[0][name]!r} here" for name in differ[:3])
        raise ValueError(
            f"{folder} holds another export ({shown}); give a new folder, or the options that it was begun with"
        )


def _shard(values: dict[str, Any]) -> Shard:
    return Shard(**{**values, "files": tuple(File(**file) for file in values["files"])})


def _is_there(folder: Path, file: File) -> bool:
    path = folder / file.name
    return path.is_file() and path.stat().st_size == file.bytes


def _sync(path: Path) -> None:
    """Have the disk hold a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
