"""tokenizer-zoo: image, audio and 3D tokenizers behind one contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "Reconstruction",
    "TokenDataset",
    "Tokenizer",
    "TokenizerSpec",
    "Tokens",
    "VocabularyLayout",
    "build",
    "fit_length",
    "list_models",
    "list_recipes",
    "load",
]

if TYPE_CHECKING:
    from zoo.fit import fit_length
    from zoo.spec import TokenizerSpec
    from zoo.store.build import build
    from zoo.store.cards import list_models, list_recipes
    from zoo.store.load import load
    from zoo.token_dataset import TokenDataset
    from zoo.tokenizer import Reconstruction, Tokenizer
    from zoo.tokens import Tokens
    from zoo.vocabulary import VocabularyLayout

_HOMES = {
    "Reconstruction": "zoo.tokenizer",
    "TokenDataset": "zoo.token_dataset",
    "Tokenizer": "zoo.tokenizer",
    "TokenizerSpec": "zoo.spec",
    "Tokens": "zoo.tokens",
    "VocabularyLayout": "zoo.vocabulary",
    "build": "zoo.store.build",
    "fit_length": "zoo.fit",
    "list_models": "zoo.store.cards",
    "list_recipes": "zoo.store.cards",
    "load": "zoo.store.load",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import zoo` loads no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'zoo' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
