"""What hears words: recognisers of speech for `zoo.metrics.words`."""

from __future__ import annotations

import os
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from zoo.metrics.recordings import require

__all__ = ["PocketSphinx", "Recognizer", "SpeechPipeline"]

RATE = 16000


class Recognizer(Protocol):
    """Hears words in a sound. Anything with these two methods will do."""

    def __call__(self, x: Tensor) -> str:
        """What is said in (T,) float32 at 16 kHz; "" for nothing."""
        ...

    def details(self) -> dict[str, Any]:
        """What it is, as plain data."""
        ...


class PocketSphinx:
    """English, offline: CMU PocketSphinx with the models inside its package.

    It is of an older kind and makes many mistakes: good for telling reconstructions apart by how much of what it heard
    before it still hears, not for word error rates beside published ones.

    Raises:
        ModuleNotFoundError: pocketsphinx is not installed.
    """

    def __init__(self) -> None:
        require("the recogniser PocketSphinx", "words", "pocketsphinx")

    def __call__(self, x: Tensor) -> str:
        """What is said in (T,) at 16 kHz; nothing in digital silence, in which it would hear noises."""
        if not x.any():
            return ""
        decoder = _decoder()
        samples = (x.cpu().clamp(-1, 1) * 32767).round().short().numpy().tobytes()
        # From the same start for every sound, or earlier ones would tell what to expect of the microphone.
        decoder.reinit_feat()
        decoder.start_utt()
        decoder.process_raw(samples, no_search=False, full_utt=True)
        decoder.end_utt()
        found = decoder.hyp()
        return found.hypstr if found is not None else ""

    def details(self) -> dict[str, Any]:
        """The package's version."""
        return {"recognizer": "pocketsphinx en-us", "version": version("pocketsphinx")}


class SpeechPipeline:
    """A network of transformers for speech recognition, such as "openai/whisper-large-v3" or a wav2vec 2.0 with CTC.

    Args:
        name: a hub id, or a folder with its files.
        language: for those that know several; None lets them guess.
        device: where it runs.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        ConnectionError: the network cannot be had; the message says what to do.
    """

    def __init__(self, name: str | Path, *, language: str | None = None, device: str = "cpu") -> None:
        require("this recogniser", "speech", "transformers")
        self.name, self.language, self.device = str(name), language, device
        _pipeline(self.name, self.device)

    def __call__(self, x: Tensor) -> str:
        """What is said in (T,) at 16 kHz; long sounds are read 30 s at a time."""
        options: dict[str, Any] = {"chunk_length_s": 30} if len(x) > 30 * RATE else {}
        if self.language is not None:
            options["generate_kwargs"] = {"language": self.language}
        sound = {"raw": x.cpu().numpy(), "sampling_rate": RATE}
        return str(_pipeline(self.name, self.device)(sound, **options)["text"])

    def details(self) -> dict[str, Any]:
        """The network, its revision and the language."""
        revision = getattr(_pipeline(self.name, self.device).model.config, "_commit_hash", None)
        found = {"recognizer": self.name, "revision": revision, "language": self.language}
        return {**found, "version": f"transformers {version('transformers')}"}


@lru_cache(maxsize=1)
def _decoder() -> Any:
    import pocketsphinx

    return pocketsphinx.Decoder(samprate=RATE, loglevel="FATAL")


@lru_cache(maxsize=1)
def _pipeline(name: str, device: str) -> Any:
    from transformers import pipeline

    root = os.environ.get("ZOO_HUB")
    place = str(Path(root) / name) if root and not Path(name).is_dir() else name
    try:
        return pipeline("automatic-speech-recognition", model=place, device=device)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConnectionError(
            f"the recogniser {name} cannot be had ({reason}); check the name and the network, or give a folder with "
            "its files: --weights recognizer=FOLDER"
        ) from error
