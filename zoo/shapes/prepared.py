"""What training needs to know of a mesh, measured once: points of its surface, and the space around it.

One safetensors file for each mesh, with these tensors in the frame of the placement:

    points, normals                float16 (N, 3)   even over the surface; unit normals
    sharp, sharp_normals           float16 (S, 3)   along sharp edges; S is 0 where there are none
    volume, near                   float16 (Q, 3)   queries, uniform in [-1, 1]^3 and close to the surface
    volume_sdf, near_sdf           float16 (Q,)     distance from the surface, positive inside
    volume_inside, near_inside     uint8 (Q / 8,)   occupancy, one bit a query (`numpy.unpackbits`)
    frame                          float64 (4,)     centre x, y, z and scale: world = normalised * scale + centre
    extent                         float32 (4,)     largest |x|, |y|, |z| and distance from the origin

Queries are rounded to float16 before they are measured, so occupancy and distance are exact where they say they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.shapes.meshes import Floats, Mesh
from zoo.shapes.placement import Frame, Kind
from zoo.shapes.sampling import near_surface, sample_sharp, sample_surface
from zoo.shapes.winding import ambiguous, distance, winding_number
from zoo.store.files import replacing

__all__ = ["Prepared", "Preparation", "parse_prepared", "prepare"]


@dataclass(frozen=True, slots=True)
class Preparation:
    """How meshes are prepared.

    Attributes:
        points: of the surface.
        sharp: points along sharp edges.
        queries: in the volume, and as many near the surface.
        spreads: standard deviations of the distances of near queries from the surface, each for an equal share.
        placement: "box", "sphere" or "none"; see `Frame.around`.
        extent: half side or radius that shapes get; below 1, so that their surface stays clear of the cube's.
        most_ambiguous: share of queries, in [0, 1], that may lie where inside and outside are unclear.
        seed: of all draws, together with the name of the mesh.
    """

    points: int = 16384
    sharp: int = 4096
    queries: int = 16384
    spreads: tuple[float, ...] = (0.01, 0.05)
    placement: Kind = "box"
    extent: float = 0.95
    most_ambiguous: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if self.points < 1 or self.sharp < 0 or self.queries < 8 or self.queries % 8:
            raise ValueError(
                "expected points >= 1, sharp >= 0 and queries a multiple of 8, got "
                f"{self.points}, {self.sharp} and {self.queries}"
            )
        if not self.spreads or min(self.spreads) <= 0:
            raise ValueError(f"spreads are above 0, got {list(self.spreads)}")
        if not 0 <= self.most_ambiguous <= 1:
            raise ValueError(f"the share of ambiguous queries is in [0, 1], got {self.most_ambiguous}")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A prepared mesh.

    Attributes:
        arrays: by name; see the head of this module.
        ambiguous: share of queries, in [0, 1], where inside and outside are unclear.
        inside: share of the volume queries that are inside.
    """

    arrays: Mapping[str, np.ndarray]
    ambiguous: float
    inside: float

    def save(self, path: str | Path, how: Preparation, facts: Mapping[str, Any]) -> None:
        """Write the file; `facts` (source, author, ...) go into its metadata beside what was measured."""
        from safetensors.numpy import save

        told = {**facts, "ambiguous": f"{self.ambiguous:.6f}", "inside": f"{self.inside:.6f}"}
        told["preparation"] = json.dumps(asdict(how))
        data = save(dict(self.arrays), metadata={name: str(value) for name, value in told.items()})
        with replacing(path) as draft:
            draft.write_bytes(data)


def prepare(mesh: Mesh, how: Preparation, name: str) -> Prepared:
    """Place a mesh, sample its surface, and measure the space around it.

    What comes out depends on the mesh, the options and the name alone.

    Raises:
        ValueError: too many queries are ambiguous, or none is inside: the mesh encloses no space. Or, for an extent
            above 1 or no placement, it reaches out of [-1, 1]^3.
        RuntimeError: libigl is not installed.
    """
    digest = hashlib.sha256(name.encode()).digest()
    rng = np.random.default_rng([how.seed, int.from_bytes(digest[:8], "little")])
    frame = Frame.around(mesh.vertices, how.placement, how.extent)
    mesh = Mesh(frame.normalise(mesh.vertices), mesh.faces)
    if (reach := float(np.abs(mesh.vertices).max())) > 1 + 1e-6:
        raise ValueError(f"expected a mesh inside [-1, 1]^3, got coordinates up to {reach:.4g}; use placement box")
    arrays: dict[str, np.ndarray] = {}
    arrays["points"], arrays["normals"] = map(_half, sample_surface(mesh, how.points, rng))
    arrays["sharp"], arrays["sharp_normals"] = map(_half, sample_sharp(mesh, how.sharp, rng))
    volume = _half(rng.uniform(-1, 1, (how.queries, 3)))
    near = _half(near_surface(mesh, how.queries, rng, how.spreads))
    both = np.concatenate([volume, near]).astype(np.float64)
    winding = winding_number(mesh, both)
    share = ambiguous(winding)
    if share > how.most_ambiguous:
        raise ValueError(
            f"{share:.1%} of the queries are neither clearly inside nor outside (at most {how.most_ambiguous:.1%} may "
            "be): the surface is open; close it, or allow more"
        )
    inside = np.abs(winding) > 0.5
    if not inside.any():
        raise ValueError("the surface encloses no space: no query is inside")
    signed = np.where(inside, 1.0, -1.0) * distance(mesh, both)
    for kind, part in (("volume", slice(how.queries)), ("near", slice(how.queries, None))):
        arrays[kind] = volume if kind == "volume" else near
        arrays[f"{kind}_sdf"] = _half(signed[part])
        arrays[f"{kind}_inside"] = np.packbits(inside[part])
    arrays["frame"] = np.asarray(frame.numbers)
    arrays["extent"] = _extent(mesh.vertices)
    return Prepared(arrays, share, float(inside[: how.queries].mean()))


def parse_prepared(data: bytes) -> dict[str, np.ndarray]:
    """The arrays of a prepared file.

    Raises:
        ValueError: it is damaged, or something else.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(data)
    except SafetensorError as error:
        raise ValueError(f"damaged, or no prepared shape ({error})") from error
    names = {"points", "normals", "sharp", "sharp_normals", "frame", "extent"}
    names |= {f"{kind}{part}" for kind in ("volume", "near") for part in ("", "_sdf", "_inside")}
    if missing := names - set(arrays):
        raise ValueError(f"no prepared shape: without {', '.join(sorted(missing))}; `zoo prepare-meshes` makes them")
    return arrays


def _half(values: Floats) -> np.ndarray:
    return values.astype(np.float16)


def _extent(vertices: Floats) -> np.ndarray:
    """(4,) float32: largest |x|, |y| and |z|, and the largest distance from the origin."""
    return np.append(np.abs(vertices).max(axis=0), np.linalg.norm(vertices, axis=1).max()).astype(np.float32)
