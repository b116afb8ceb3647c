"""How much a reconstruction sounds like the same speaker."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.metrics.recordings import RecordingMean, Remembered, require

__all__ = ["SpeakerSimilarity", "XVector"]

RATE = 16000
FILES = ("preprocessor_config.json", "config.json")
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
SHORTEST = 0.1  # s; the x-vector's layers read 15 frames of 20 ms, shorter sounds are extended by zeros


class SpeakerSimilarity(RecordingMean):
    """Cosine of the angle between embeddings of output and target, -1 to 1; higher is better.

    Values depend on the network as much as on the sound: compare only those of one. Silent recordings are skipped.

    Args:
        sample_rate: Hz; resampled to 16 kHz.
        embed: (T,) float32 at 16 kHz -> (D,) float; its name, or what `details()` of it gives, is told.
        **kwargs: of `torchmetrics.Metric`.
    """

    higher_is_better = True

    def __init__(self, sample_rate: int, embed: Callable[[Tensor], Tensor], **kwargs: Any) -> None:
        super().__init__(sample_rate, rate=RATE, **kwargs)
        self.embed = embed
        self.remembered = Remembered(embed)

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """Cosine of each recording: (R, T) twice -> (R,); NaN for silence."""
        return torch.stack([self._score(*pair) for pair in zip(output, target, strict=True)])

    def details(self) -> dict[str, Any]:
        """The rate and the network."""
        told = getattr(self.embed, "details", None)
        name = getattr(self.embed, "__name__", type(self.embed).__name__)
        return {**super().details(), **(told() if told else {"network": name})}

    def _score(self, output: Tensor, target: Tensor) -> Tensor:
        if not target.any() or not output.any() or len(target) < SHORTEST * RATE:
            return torch.tensor(torch.nan, dtype=torch.float64)
        ours, theirs = self.embed(output).double().cpu(), self.remembered(target).double().cpu()
        return torch.cosine_similarity(ours, theirs, dim=0)


class XVector:
    """Embeddings by a network of transformers with an x-vector head, such as WavLM's or wav2vec 2.0's.

    Args:
        name: a hub id, or a folder with its files. The default is what most codec papers mean by "WavLM-SV (base)";
            others report "WavLM-large" fine-tuned, whose numbers differ.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        FileNotFoundError, ConnectionError: the files cannot be had; the message says what to do.
        ValueError: they are of another kind of network.
    """

    def __init__(self, name: str | Path = "microsoft/wavlm-base-plus-sv") -> None:
        require("speaker similarity", "speech", "transformers")
        self.name = str(name)
        self.folder = _folder(name)
        _network(self.folder)

    def __call__(self, x: Tensor) -> Tensor:
        """(T,) at 16 kHz -> (D,)."""
        extractor, net = _network(self.folder)
        inputs = extractor(x.cpu().numpy(), sampling_rate=RATE, return_tensors="pt")["input_values"]
        inputs = torch.nn.functional.pad(inputs, (0, max(0, RATE // 2 - inputs.shape[-1])))
        with torch.no_grad():
            return net.to(x.device)(inputs.to(x.device)).embeddings[0]

    def details(self) -> dict[str, Any]:
        """The network, and the digest of its weights."""
        from zoo.metrics.weights import digest_of

        weights = next(self.folder / name for name in WEIGHTS if (self.folder / name).is_file())
        return {"network": self.name, "sha256": digest_of(weights)}


def _folder(name: str | Path) -> Path:
    """Where the files of a network lie, after they were fetched if need be."""
    from zoo.store.hub import fetch

    path = Path(name).expanduser()
    if path.is_dir():
        return path
    try:
        for file in FILES:
            path = fetch(str(name), file)
        try:
            fetch(str(name), WEIGHTS[0])
        except FileNotFoundError:
            fetch(str(name), WEIGHTS[1])
    except (FileNotFoundError, ConnectionError, PermissionError, ValueError) as error:
        raise type(error)(
            f"speaker similarity needs the network {name}, which cannot be had: {error}. With its files in a folder: "
            "--weights speaker=FOLDER"
        ) from error
    return path.parent


@lru_cache(maxsize=2)
def _network(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoFeatureExtractor, AutoModelForAudioXVector

    try:
        extractor = AutoFeatureExtractor.from_pretrained(folder)
        net, found = AutoModelForAudioXVector.from_pretrained(folder, output_loading_info=True)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{folder}: no network of transformers with an x-vector head ({reason})") from error
    # The loss of its training has weights of its own, which files may leave out.
    missing = [key for key in found["missing_keys"] if not key.startswith("objective.")]
    if missing:
        raise ValueError(f"{folder}: {len(missing)} tensors are missing ({', '.join(missing[:3])}); not an x-vector?")
    return extractor, net.eval().requires_grad_(False)
