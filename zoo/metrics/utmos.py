"""UTMOS: opinion scores of speech, by the strong learner of the UTokyo-SaruLab system (arXiv 2204.02152).

The network is a wav2vec 2.0 of `transformers` in its base configuration with a BiLSTM and two linear layers behind;
fairseq and Lightning, with which the published checkpoint was made, are not needed.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, nn

from zoo.metrics.recordings import RecordingMean, require
from zoo.metrics.weights import digest_of

__all__ = ["UTMOS", "UTMOSNet", "convert", "read_checkpoint"]

RATE, WINDOW = 16000, 400
SPACE, FILE = "sarulab-speech/UTMOS-demo", "epoch=3-step=7459.ckpt"
SHA256 = "44c57e3e4135a243b43d2c82b6a693fcd56f15f9ad0e1eb2a8b31fdecd3a49b8"
DOMAIN, JUDGE = 0, 288

WAV2VEC = "feature_extractors.0.ssl_model."
HEADS = {
    "feature_extractors.1.embedding.": "domain.",
    "output_layers.0.judge_embedding.": "judge.",
    "output_layers.0.decoder_rnn.": "rnn.",
    "output_layers.1.net.0.": "head.0.",
    "output_layers.1.net.3.": "head.2.",
}
# fairseq's names of what only pretraining uses
PRETRAINING = ("mask_emb", "quantizer.", "project_q.", "final_proj.", "target_glu.")
PARTS = (
    ("feature_extractor.conv_layers.0.2.", "feature_extractor.conv_layers.0.layer_norm."),
    ("post_extract_proj.", "feature_projection.projection."),
    ("encoder.pos_conv.0.weight_g", "encoder.pos_conv_embed.conv.parametrizations.weight.original0"),
    ("encoder.pos_conv.0.weight_v", "encoder.pos_conv_embed.conv.parametrizations.weight.original1"),
    ("encoder.pos_conv.0.", "encoder.pos_conv_embed.conv."),
    (".self_attn_layer_norm.", ".layer_norm."),
    (".self_attn.", ".attention."),
    (".fc1.", ".feed_forward.intermediate_dense."),
    (".fc2.", ".feed_forward.output_dense."),
)


class UTMOS(RecordingMean):
    """Predicted opinion score of speech, about 1 to 5, from the output alone; higher is better.

    The number that Vocos, WavTokenizer, BigCodec and X-codec2 call UTMOS. Recordings of less than 25 ms are skipped.
    The published weights are fetched from the hub (a Space of its authors) and checked. That scores equal published
    ones is not verified, because the weights could not be had where this was written; the architecture is, with drawn
    weights in the published layout.

    Args:
        sample_rate: Hz; resampled to 16 kHz.
        weights: a file to use instead: that checkpoint, or the same state saved as safetensors. Its digest is told, not
            checked.
        **kwargs: of `torchmetrics.Metric`.

    Attributes:
        file: of the weights.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        FileNotFoundError, ConnectionError: the weights cannot be had; the message says what to do.
        ValueError: the file is damaged, or not such a checkpoint.
        RuntimeError: its tensors do not fit.
    """

    higher_is_better = True

    def __init__(self, sample_rate: int, *, weights: str | Path | None = None, **kwargs: Any) -> None:
        require("UTMOS", "speech", "transformers")
        super().__init__(sample_rate, rate=RATE, **kwargs)
        self.checked = weights is None
        self.file = _published() if weights is None else Path(weights)
        load_utmos(self.file)

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """Score of each recording: (R, T) -> (R,); the target is not looked at."""
        if output.shape[-1] < WINDOW:
            return torch.full(output.shape[:1], torch.nan)
        net = load_utmos(self.file).to(output.device)
        # One by one: no item can touch another, and long recordings fit.
        return torch.cat([net(recording[None]) for recording in output])

    def details(self) -> dict[str, Any]:
        """The rate, and the weights with their digest."""
        digest = digest_of(self.file)
        return {
            **super().details(),
            "network": f"{SPACE}/{FILE}" if self.checked else self.file.name,
            "sha256": digest,
            "published weights": digest == SHA256,
            "domain": DOMAIN,
            "judge": JUDGE,
        }


class UTMOSNet(nn.Module):
    """wav2vec 2.0, embeddings of a domain and a judge beside every frame, BiLSTM, and a score for each frame.

    Args:
        config: of the wav2vec 2.0; None for the base one.

    Raises:
        ModuleNotFoundError: transformers is not installed.
    """

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        require("UTMOS", "speech", "transformers")
        from transformers import Wav2Vec2Config, Wav2Vec2Model

        # Without masking there is no mask vector among the parameters.
        config = Wav2Vec2Config(mask_time_prob=0.0, apply_spec_augment=False) if config is None else config
        self.wav2vec = Wav2Vec2Model(config)
        self.domain = nn.Embedding(3, 128)
        self.judge = nn.Embedding(3000, 128)
        self.rnn = nn.LSTM(config.hidden_size + 256, 512, batch_first=True, bidirectional=True)
        self.head = nn.Sequential(nn.Linear(1024, 2048), nn.ReLU(), nn.Linear(2048, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Sounds of one length at 16 kHz, in [-1, 1] and not normalised, (B, T) with T >= 400 -> scores (B,)."""
        frames = self.wav2vec(x).last_hidden_state
        beside = torch.cat([self.domain.weight[DOMAIN], self.judge.weight[JUDGE]])
        states, _ = self.rnn(torch.cat([frames, beside.expand(*frames.shape[:2], -1)], -1))
        return self.head(states).mean((1, 2)) * 2 + 3


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published checkpoint's names, those of fairseq's wav2vec 2.0 within, as those of `UTMOSNet`.

    Raises:
        ValueError: the state is of something else.
    """
    if not any(key.startswith(WAV2VEC) for key in state):
        raise ValueError(
            f"expected the names of the UTMOS checkpoint, such as {WAV2VEC}post_extract_proj.weight; "
            f"got {', '.join(list(state)[:3])}"
        )
    found: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.startswith(WAV2VEC):
            name = key.removeprefix(WAV2VEC)
            if not name.startswith(PRETRAINING):
                found[f"wav2vec.{_renamed(name)}"] = value
        else:
            ours = next((new + key.removeprefix(old) for old, new in HEADS.items() if key.startswith(old)), key)
            found[ours] = value
    return found


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The tensors of a Lightning checkpoint, whatever else was pickled beside them; nothing of that is run.

    Hyperparameters and callbacks hold objects of fairseq, omegaconf and Lightning. Where the pickle names a class or a
    function that does not rebuild tensors, an empty stand-in takes its place: no package is imported, no foreign code
    called.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not such a file, or a damaged one.
    """
    from zoo.store.weights import read_state, unwrap

    if path.suffix == ".safetensors" or not zipfile.is_zipfile(path):
        return read_state(path)
    try:
        reader = SimpleNamespace(__name__=__name__, Unpickler=_Tensors)
        content = torch.load(path, "cpu", pickle_module=reader, weights_only=False)
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{path}: cannot be read as a checkpoint ({str(error)[:200]}); download it again") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    return unwrap(content, str(path))


@lru_cache(maxsize=1)
def load_utmos(path: Path) -> UTMOSNet:
    """The network with the weights of a file, ready to judge; one for all metrics of a process."""
    from zoo.store.weights import load_strict

    try:
        state = convert(read_checkpoint(path))
    except ValueError as error:
        raise ValueError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
    net = UTMOSNet()
    load_strict(net, state, source=str(path))
    return net.eval().requires_grad_(False)


def _published() -> Path:
    from zoo.store.hub import fetch
    from zoo.store.weights import check_digest

    try:
        path = fetch(SPACE, FILE, space=True)
    except (FileNotFoundError, ConnectionError, PermissionError) as error:
        raise type(error)(
            f"UTMOS needs {FILE} of the Space {SPACE} (about 400 MB), which cannot be had: {error}. With the file at "
            "hand: --weights utmos=FILE"
        ) from error
    check_digest(path, SHA256)
    return path


def _renamed(name: str) -> str:
    """fairseq's name of a part of wav2vec 2.0, as that of transformers."""
    if name.startswith("layer_norm."):
        return f"feature_projection.{name}"
    if name.startswith("feature_extractor.conv_layers.") and name.endswith(".0.weight"):
        return f"{name.removesuffix('.0.weight')}.conv.weight"
    for old, new in PARTS:
        name = name.replace(old, new)
    return name


class _Nothing:
    """Stands for an object that is not wanted: takes whatever it is given, and does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...

    def __setitem__(self, key: Any, value: Any) -> None: ...

    def append(self, item: Any) -> None:
        """Of a list."""

    def extend(self, items: Any) -> None:
        """Of a list."""

    def __hash__(self) -> int:
        return id(self)


class _Tensors(pickle.Unpickler):
    """Rebuilds tensors in plain containers; see `read_checkpoint`."""

    allowed = frozenset(
        {("collections", "OrderedDict"), ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter")}
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self.allowed or (module == "torch" and name.endswith("Storage")):
            return super().find_class(module, name)
        return cast(Any, _Nothing)
