"""Files of hub repositories: the Hugging Face hub, or a local folder that stands in for it."""

from __future__ import annotations

import os
from pathlib import Path

from zoo.store.cards import HUB_ID, safe_name

__all__ = ["fetch"]

ADVICE = "check the network and HF_ENDPOINT, or set ZOO_HUB to a folder with org/name/file"


def fetch(
    repo: str, file: str, *, revision: str | None = None, offline: bool | None = None, space: bool = False
) -> Path:
    """Path of a hub file, downloaded once and kept in the hub's cache; a connection that breaks is taken up again.

    With the environment variable `ZOO_HUB=/some/folder`, files are read from `/some/folder/org/name/file` instead.

    Args:
        repo: hub id `org/name`.
        file: relative path inside the repository.
        revision: commit, tag or branch; None for the newest.
        offline: use the cache only; None follows `HF_HUB_OFFLINE`.
        space: the repository is that of a Space, not of a model.

    Raises:
        ValueError: a malformed id or a file name that leaves its folder.
        FileNotFoundError: the repository, revision or file does not exist, or is not cached while offline.
        PermissionError: the repository is gated or private.
        ConnectionError: the hub cannot be reached and the file is not cached.
    """
    if not HUB_ID.fullmatch(repo) or ".." in repo:
        raise ValueError(f"hub id {repo!r} is refused: expected org/name")
    safe_name(file)
    folder = os.environ.get("ZOO_HUB")
    return _local(Path(folder), repo, file) if folder else _remote(repo, file, revision, offline, space)


def _local(root: Path, repo: str, file: str) -> Path:
    if not root.is_dir():
        raise FileNotFoundError(f"ZOO_HUB={root} is not a folder; unset it to use the Hugging Face hub")
    path = root / repo / file
    if not path.is_file():
        raise FileNotFoundError(f"{repo}: no file {file!r}; looked for {path} because ZOO_HUB={root}")
    if not path.resolve().is_relative_to(root.resolve()):
        raise ValueError(f"{path} is refused: it is a link that leaves ZOO_HUB={root}")
    return path


def _remote(repo: str, file: str, revision: str | None, offline: bool | None, space: bool) -> Path:
    from huggingface_hub import constants, errors, hf_hub_download

    at = f"{repo}/{file}" + (f" at {revision}" if revision else "")
    kind = "space" if space else "model"
    try:
        return Path(hf_hub_download(repo, file, repo_type=kind, revision=revision, local_files_only=bool(offline)))
    except errors.GatedRepoError as error:
        raise PermissionError(f"{at}: access is gated; accept the terms on the hub, then `hf auth login`") from error
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(f"{at}: no such hub repository, or it is private; check the id or log in") from error
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(f"{at}: the repository has no revision {revision!r}") from error
    except errors.LocalEntryNotFoundError as error:
        if offline or constants.HF_HUB_OFFLINE:
            raise FileNotFoundError(
                f"{at}: not in the local cache, and offline mode is on; load it once with a network, "
                "or set ZOO_HUB to a folder with org/name/file"
            ) from error
        raise ConnectionError(
            f"{at}: {constants.ENDPOINT} cannot be reached and the file is not in the local cache; {ADVICE}"
        ) from error
    except errors.EntryNotFoundError as error:
        raise FileNotFoundError(f"{at}: the repository has no such file") from error
    except errors.HfHubHTTPError as error:
        raise ConnectionError(f"{at}: the hub answered with an error: {str(error).splitlines()[0]}") from error
    except Exception as error:
        raise ConnectionError(f"{at}: download failed, {type(error).__name__}: {error}; {ADVICE}") from error
