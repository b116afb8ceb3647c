"""Prepare the openly licensed meshes that the embedded shape model is trained and measured on.

    pip install "tokenizer-zoo[mesh]"
    python scripts/open_shapes.py data/open_shapes

Meshes come from the PyPI wheel of pybullet (downloaded with `pip download`, not installed) and from the Debian package
sweethome3d-furniture (`apt-get download`, no root, nothing is installed). They are divided into train, val and test by
a hash of collection and name, numbers at the end of a name left out, so that variants of a piece stay together:

    meshes/train/random_urdfs/000.obj ...   the meshes as they came, without materials
    train/random_urdfs/000.safetensors ...  what `zoo prepare-meshes` makes of them
    LICENSES/, NOTICE                       the packages' licences, and the author of every mesh

    random_urdfs       1000 procedural objects of pybullet, zlib licence
    blendswap_cc0       175 pieces of furniture, CC0
    blendswap_cc_by     135, CC-BY-3.0
    katorlegaz           90, CC-BY-3.0-US
    scopia              395, CC-BY-3.0
    reallusion           25, mostly people, CC-BY-3.0-US

A mesh whose surface is too open to have an inside is left out, and noted in `errors.jsonl` of its part.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

PYBULLET = "pybullet==3.2.7"
FURNITURE = "sweethome3d-furniture"
VALIDATION, TEST = 0.06, 0.1
LICENCES = {
    "random_urdfs": "zlib",
    "blendswap_cc0": "CC0",
    "blendswap_cc_by": "CC-BY-3.0",
    "katorlegaz": "CC-BY-3.0-US",
    "scopia": "CC-BY-3.0",
    "reallusion": "CC-BY-3.0-US",
}
CATALOGUES = {
    "BlendSwap-CC-0": "blendswap_cc0",
    "BlendSwap-CC-BY": "blendswap_cc_by",
    "KatorLegaz": "katorlegaz",
    "Scopia": "scopia",
    "Reallusion": "reallusion",
}
HEAD = """Meshes for training and measuring shape tokenizers, without materials, otherwise as they came.
Full licences are in LICENSES/.

random_urdfs     pybullet 3.2.7 (Erwin Coumans and contributors), zlib licence
blendswap_cc0    Blend Swap contributors, converted by Emmanuel Puybaret / eTeks, CC0
blendswap_cc_by  Blend Swap contributors, converted by Emmanuel Puybaret / eTeks, CC-BY-3.0
katorlegaz       Andrew Kator & Jennifer Legaz, CC-BY-3.0-US
scopia           Scopia Visual Interfaces Systems, s.l. (http://www.scopia.es), CC-BY-3.0
reallusion       Reallusion (http://www.reallusion.com), CC-BY-3.0-US

Authors of the furniture, as the catalogues of sweethome3d-furniture name them:
"""


@dataclass(frozen=True)
class Found:
    """A mesh of a package.

    Attributes:
        collection: folder that it goes to.
        name: of its file, without suffix.
        data: the OBJ file.
        author: "" where the collection has one for all.
    """

    collection: str
    name: str
    data: bytes
    author: str = ""

    @property
    def part(self) -> str:
        """train, val or test."""
        stem = self.name if self.collection == "random_urdfs" else re.sub(r"[\d_-]+$", "", self.name.lower())
        digest = hashlib.sha256(f"{self.collection}/{stem}".encode()).digest()
        share = int.from_bytes(digest[:8], "little") / 2**64
        return "test" if share < TEST else "val" if share < TEST + VALIDATION else "train"


def main(
    folder: Path,
    workers: Annotated[int, typer.Option(min=1, help="Processes that prepare meshes.")] = 1,
    collections: Annotated[str, typer.Option(help="Which of them, with commas between.")] = ",".join(LICENCES),
) -> None:
    """Fetch the meshes into FOLDER/meshes and prepare them; what is there already stays."""
    wanted = collections.split(",")
    if unknown := set(wanted) - set(LICENCES):
        raise SystemExit(f"no collection {', '.join(sorted(unknown))}; there are {', '.join(LICENCES)}")
    licences = folder / "LICENSES"
    licences.mkdir(parents=True, exist_ok=True)
    found: list[Found] = []
    with tempfile.TemporaryDirectory() as scratch:
        if "random_urdfs" in wanted:
            found += procedural(Path(scratch), licences)
        if set(wanted) - {"random_urdfs"}:
            found += [mesh for mesh in furniture(Path(scratch), licences) if mesh.collection in wanted]
    for mesh in found:
        target = folder / "meshes" / mesh.part / mesh.collection / f"{mesh.name}.obj"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(mesh.data)
    authors = sorted(f"{mesh.collection}/{mesh.name}: {mesh.author}\n" for mesh in found if mesh.author)
    (folder / "NOTICE").write_text(HEAD + "".join(authors))
    for part in ("train", "val", "test"):
        command = ["prepare-meshes", str(folder / "meshes" / part), "-o", str(folder / part), "--workers", str(workers)]
        subprocess.run([sys.executable, "-m", "zoo.cli", *command])
        count = len(list((folder / part).rglob("*.safetensors")))
        typer.echo(f"{folder / part}: {count} prepared shapes")


def procedural(scratch: Path, licences: Path) -> list[Found]:
    """The random objects of pybullet."""
    command = [sys.executable, "-m", "pip", "download", PYBULLET, "--no-deps", "--quiet", "--dest", str(scratch)]
    command += ["--only-binary", ":all:", "--python-version", "3.11", "--platform", "manylinux_2_17_x86_64"]
    if subprocess.run(command).returncode:
        raise SystemExit(f"pip could not download {PYBULLET}")
    with zipfile.ZipFile(next(scratch.glob("pybullet*.whl"))) as wheel:
        names = wheel.namelist()
        licence = next(name for name in names if name.endswith("dist-info/LICENSE.txt"))
        (licences / "pybullet.txt").write_bytes(wheel.read(licence))
        meshes = sorted(name for name in names if "/random_urdfs/" in name and name.endswith(".obj"))
        return [Found("random_urdfs", Path(name).stem, wheel.read(name)) for name in meshes]


def furniture(scratch: Path, licences: Path) -> list[Found]:
    """The models of the Debian package, with their authors."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise SystemExit("apt-get and dpkg are needed to fetch the furniture: run this on Debian or Ubuntu")
    try:
        subprocess.run(["apt-get", "download", FURNITURE], cwd=scratch, check=True)
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"apt-get could not download {FURNITURE}; is the package list fresh?") from error
    subprocess.run(["dpkg", "-x", next(scratch.glob("sweethome3d*.deb")).name, "."], cwd=scratch, check=True)
    shutil.copyfile(scratch / "usr/share/doc" / FURNITURE / "copyright", licences / f"{FURNITURE}.txt")
    found = []
    for name, collection in CATALOGUES.items():
        with zipfile.ZipFile(scratch / "usr/share/sweethome3d/furniture" / f"{name}.sh3f") as archive:
            lines = archive.read("PluginFurnitureCatalog.properties").decode("latin-1")
            facts = dict(re.findall(r"^(\w+#\d+)=(.*?)\s*$", lines, re.MULTILINE))
            for key, place in facts.items():
                if key.startswith("model#") and place.endswith(".obj"):
                    author = facts.get(key.replace("model", "creator"), "")
                    found.append(Found(collection, Path(place).stem, archive.read(place.lstrip("/")), author))
    return found


if __name__ == "__main__":
    typer.run(main)
