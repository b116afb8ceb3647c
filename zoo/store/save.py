"""Saving a tokenizer as a folder, and uploading that folder."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import zoo
from zoo.store.files import replacing
from zoo.store.load import CONFIG, FORMAT, WEIGHTS

if TYPE_CHECKING:
    from zoo.tokenizer import Tokenizer

__all__ = ["model_card", "push_to_hub", "save_pretrained"]


def save_pretrained(tokenizer: Tokenizer, folder: str | Path) -> Path:
    """Write `model.safetensors`, `README.md` and, last, `config.json`; `zoo.load(folder)` reads them back.

    Each file replaces an older one only once it is complete.

    Raises:
        ValueError: the tokenizer was put together by hand, or its config is not plain data.
    """
    from safetensors.torch import save_file

    config = _config_text(tokenizer)
    folder = Path(folder).expanduser()
    state = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tokenizer.state_dict().items()}
    with replacing(folder / WEIGHTS) as draft:
        save_file(state, draft, metadata={"format": "pt"})
    with replacing(folder / "README.md") as draft:
        draft.write_text(model_card(tokenizer), "utf-8")
    with replacing(folder / CONFIG) as draft:
        draft.write_text(config, "utf-8")
    return folder


def push_to_hub(tokenizer: Tokenizer, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload the model folder to the hub repository `org/name`, which is made if needed.

    Args:
        private: whether a new repository is private.
        token: a hub token with write access; None for the one of `hf auth login` or `HF_TOKEN`.

    Returns:
        Address of the repository.

    Raises:
        ValueError: a malformed id, or a tokenizer that cannot be saved.
        ConnectionError: the hub refused or could not be reached; nothing local is changed.
    """
    from huggingface_hub import HfApi

    from zoo.store.cards import HUB_ID

    if not HUB_ID.fullmatch(repo_id):
        raise ValueError(f"hub id {repo_id!r} is refused: expected org/name")
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(tokenizer, folder)
        try:
            address = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=f"tokenizer-zoo {zoo.__version__}")
        except Exception as error:
            raise ConnectionError(
                f"{repo_id}: upload failed ({type(error).__name__}: {error}); check the network, and log in with "
                "`hf auth login` or pass token="
            ) from error
    return str(address)


def model_card(tokenizer: Tokenizer) -> str:
    """Text of the folder's README.md: front matter, what the model is, and how to use it."""
    spec = tokenizer.spec
    rows = {
        "family": type(tokenizer).__name__,
        "modality": spec.modality,
        "input": " x ".join(map(str, spec.input_shape)) + (", any size" if spec.any_size else ""),
        "tokens": f"{spec.num_tokens} ({spec.order}{', any prefix decodes' if spec.flexible else ''})",
        "codebooks": "continuous" if spec.continuous else ", ".join(map(str, spec.codebook_sizes)),
        "bits per item": "-" if spec.continuous else f"{spec.bits:.0f}",
        "parameters": f"{sum(p.numel() for p in tokenizer.parameters()):,}",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    return f"""---
library_name: tokenizer-zoo
tags: [tokenizer, {spec.modality}]
---
# {type(tokenizer).__name__} tokenizer

| | |
|---|---|
{table}

```python
import zoo

tokenizer = zoo.load("path/to/this/folder")   # or the hub id org/name
tokens = tokenizer.encode(x)                  # x: (B, {", ".join(map(str, spec.input_shape))}) in [-1, 1]
restored = tokenizer.decode(tokens)
```

Saved by tokenizer-zoo {zoo.__version__}.
"""


def _config_text(tokenizer: Tokenizer) -> str:
    if not tokenizer.config:
        raise ValueError(
            f"this {type(tokenizer).__name__} was put together by hand, so its config is unknown; "
            "make it with zoo.build(node), or set tokenizer.config to the node that builds it"
        )
    document = {
        "format": FORMAT,
        "tokenizer": tokenizer.config,
        "spec": tokenizer.spec.to_dict(),
        "zoo_version": zoo.__version__,
    }
    try:
        return json.dumps(document, indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ValueError(f"tokenizer.config must be plain data to be saved as {CONFIG}: {error}") from error
