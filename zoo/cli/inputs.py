"""Which files a command works on and where their results go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import glob, has_magic
from pathlib import Path

__all__ = ["Item", "errors_beside", "find_items", "output_paths", "suffixes", "written_as"]


@dataclass(frozen=True, slots=True)
class Item:
    """One input file.

    Attributes:
        path: the file.
        place: its path relative to the folder that was named on the command line, else its name.
    """

    path: Path
    place: Path


def find_items(inputs: Sequence[str], suffixes: Sequence[str]) -> list[Item]:
    """Files named directly or by a glob as they are, and those of folders that have one of the suffixes.

    Each file appears once, at the place of its first mention. A file that is named but does not exist is kept, so
    that the job reports it as a failed item.

    Raises:
        ValueError: nothing matches.
    """
    found: dict[Path, Item] = {}
    for text in inputs:
        for item in _expand(text, tuple(suffixes)):
            found.setdefault(item.path.absolute(), item)
    if not found:
        raise ValueError(f"no input files in {', '.join(inputs)}; folders are searched for {', '.join(suffixes)}")
    return list(found.values())


def suffixes(modality: str) -> Sequence[str]:
    """Of the files that commands read from folders."""
    if modality == "audio":
        from zoo.data.audio import AUDIO_SUFFIXES

        return AUDIO_SUFFIXES
    if modality == "shape":
        from zoo.shapes.meshes import CLOUD_SUFFIXES, MESH_SUFFIXES

        return tuple(dict.fromkeys((*MESH_SUFFIXES, *CLOUD_SUFFIXES)))
    from zoo.data.images import IMAGE_SUFFIXES

    return IMAGE_SUFFIXES


def written_as(file_format: str | None, modality: str) -> str:
    """The suffix that `--format` asks for, or the usual one.

    Raises:
        ValueError: nothing of this modality is written so.
    """
    if modality == "audio":
        from zoo.data.audio import WRITABLE_AUDIO

        kinds, what = list(WRITABLE_AUDIO), "sounds"
    elif modality == "shape":
        from zoo.shapes.meshes import WRITABLE_MESHES

        kinds, what = list(WRITABLE_MESHES), "shapes"
    else:
        from zoo.data.images import WRITABLE

        kinds, what = list(WRITABLE), "pictures"
    suffix = kinds[0] if file_format is None else f".{file_format.lower().lstrip('.')}"
    if suffix not in kinds:
        names = ", ".join(kind[1:] for kind in kinds)
        raise ValueError(f"--format is one of {names} for {what}, got {file_format!r}")
    return suffix


def output_paths(
    items: Sequence[Item], output: Path, suffix: str | Sequence[str], *, single: Sequence[str]
) -> list[Path]:
    """Where the result of each item goes.

    Args:
        output: a file when it ends in one of the suffixes `single`, which suits one item only; else a folder, in which
            results keep the places of their inputs.
        suffix: of results in a folder, of all or of each. Inputs that differ in their suffix alone keep it:
            `a.png.safetensors`.

    Raises:
        ValueError: one file for several items.
    """
    if _is_file(output, single):
        if len(items) > 1:
            raise ValueError(f"{len(items)} inputs cannot go to the one file {output}; name a folder")
        return [output]
    stems = Counter(item.place.with_suffix("") for item in items)
    places = Counter(item.place for item in items)
    endings = [suffix] * len(items) if isinstance(suffix, str) else suffix
    results = []
    for number, (item, ending) in enumerate(zip(items, endings, strict=True)):
        name = item.place.with_suffix("") if stems[item.place.with_suffix("")] == 1 else item.place
        if places[item.place] > 1:
            name = name.with_name(f"{name.name}.{number}")
        results.append(output / f"{name}{ending}")
    return results


def errors_beside(output: Path, single: Sequence[str]) -> Path:
    """`errors.jsonl` in the output folder, or beside the output file; arguments as for `output_paths`."""
    return (output.parent if _is_file(output, single) else output) / "errors.jsonl"


def _is_file(output: Path, single: Sequence[str]) -> bool:
    return output.suffix.lower() in single and not output.is_dir()


def _expand(text: str, suffixes: tuple[str, ...]) -> Iterator[Item]:
    path = Path(text).expanduser()
    if path.is_dir():
        yield from _walk(path, suffixes)
    elif path.exists() or not has_magic(text):
        yield Item(path, Path(path.name))
    else:
        for match in sorted(glob(str(path), recursive=True)):
            if Path(match).is_dir():
                yield from _walk(Path(match), suffixes)
            else:
                yield Item(Path(match), Path(Path(match).name))


def _walk(folder: Path, suffixes: tuple[str, ...]) -> Iterator[Item]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in suffixes and path.is_file() and not hidden:
            yield Item(path, path.relative_to(folder))
