"""Prepare the openly licensed speech that the embedded audio models are trained and measured on.

    pip install "tokenizer-zoo[open-data]"
    python scripts/open_speech.py data/open_speech

Debian packages are fetched with `apt-get download` (no root, nothing is installed), unpacked, and written as FLAC,
16 kHz mono, with the packages' copyright files under LICENSES/ and a NOTICE that names the speakers:

    train/festvox-ru/     600 sentences of one speaker (m), BSD-like
    train/asterisk-en/    prompts of one speaker (f), CC-BY-SA-3.0
    train/asterisk-es/    prompts of the same speaker, CC-BY-SA-3.0
    train/asterisk-it/    prompts of one speaker (m), CC-BY-3.0
    train/asterisk-ru/    prompts of one speaker (f), CC-BY-3.0
    val/festvox-ru/       the last 20 sentences of that package
    test/asterisk-fr/     prompts of a speaker (f) and in a language that train/ does not have, CC-BY-SA-3.0
    test/pocketsphinx/    10 English utterances of other speakers, BSD

Prompts below 1 s (8 kB), and the few that are no speech, are left out.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import av
import numpy as np
import soundfile
import typer

RATE = 16000
VALIDATION = 20
SHORTEST = 8000  # bytes of G.722 at 64 kbit/s: one second
NO_SPEECH = ("ascending-2tone", "beep", "beeperr", "descending-2tone", "tt-monkeys")
EXPECTED = {
    "train/festvox-ru": 600,
    "train/asterisk-en": 362,
    "train/asterisk-es": 357,
    "train/asterisk-it": 314,
    "train/asterisk-ru": 306,
    "val/festvox-ru": 20,
    "test/asterisk-fr": 343,
    "test/pocketsphinx": 10,
}
NOTICE = """Speech for training and measuring audio tokenizers, converted to FLAC (16 kHz, mono) without other changes.
The full copyright files of the Debian packages are in LICENSES/.

festvox-ru    (c) 2005 Nickolay V. Shmyrev, BSD-like licence
asterisk-en   Allison Smith, http://www.theivrvoice.com, CC-BY-SA-3.0
asterisk-es   Allison Smith, http://www.theivrvoice.com, CC-BY-SA-3.0
asterisk-it   Carlo Flora, http://www.carloflora.com (translated by Silvia Petrin), CC-BY-3.0
asterisk-ru   provided by Maxim Topal, http://www.ivrvoice.ru, CC-BY-3.0
asterisk-fr   June Wallack, http://www.junewallack.com (translated by Clod Patry, Kristopher Lalletti), CC-BY-SA-3.0
pocketsphinx  (c) 1995-2014 Carnegie Mellon University, 2014-2015 Alpha Cephei Inc., BSD-2-Clause

The asterisk recordings were paid for by Digium, Inc., and for French by Unlimitel and BGM Informatique as well.
"""


def main(folder: Path) -> None:
    """Write train/, val/ and test/ below FOLDER; a finished folder is left as it is."""
    if {name: count(folder / name) for name in EXPECTED} == EXPECTED:
        typer.echo(f"{folder} is complete")
        return
    with tempfile.TemporaryDirectory() as scratch:
        room = unpack("festvox-ru", Path(scratch), folder)
        sentences = sorted(room.glob("usr/share/festival/voices/russian/*/wav/*.wav"))
        for number, path in enumerate(sentences):
            part = "train" if number < len(sentences) - VALIDATION else "val"
            write(folder / part / "festvox-ru" / f"{path.stem}.flac", read_wav(path))
        for language in ("en", "es", "it", "ru", "fr"):
            room = unpack(f"asterisk-core-sounds-{language}-g722", Path(scratch), folder)
            target = folder / ("test" if language == "fr" else "train") / f"asterisk-{language}"
            for voice in sorted((room / "usr/share/asterisk/sounds").iterdir()):
                for path in prompts(voice):
                    name = "-".join(path.relative_to(voice).with_suffix(".flac").parts)
                    write(target / name, read_g722(path))
        room = unpack("pocketsphinx-testdata", Path(scratch), folder)
        for path in sorted((room / "usr/share/pocketsphinx/test/data").rglob("*.wav")):
            write(folder / "test/pocketsphinx" / f"{path.parent.name}-{path.stem}.flac", read_wav(path))
    (folder / "NOTICE").write_text(NOTICE)
    for name, expected in EXPECTED.items():
        found = count(folder / name)
        note = "" if found == expected else f"  (expected {expected}: has the package changed?)"
        typer.echo(f"{folder / name}: {found} recordings, {hours(folder / name):.2f} h{note}")


def unpack(package: str, scratch: Path, folder: Path) -> Path:
    """Download and unpack one Debian package and keep its copyright file; where its content lies."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise SystemExit("apt-get and dpkg are needed to fetch the recordings: run this on Debian or Ubuntu")
    room = scratch / package
    room.mkdir()
    try:
        subprocess.run(["apt-get", "download", package], cwd=room, check=True)
    except subprocess.CalledProcessError as error:
        raise SystemExit(
            f"apt-get could not download {package}; is the package list fresh (apt-get update)?"
        ) from error
    subprocess.run(["dpkg", "-x", next(room.glob("*.deb")).name, "."], cwd=room, check=True)
    licences = folder / "LICENSES"
    licences.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(room / "usr/share/doc" / package / "copyright", licences / f"{package}.txt")
    return room


def prompts(voice: Path) -> list[Path]:
    """The spoken prompts of a voice that are at least a second long."""
    found = (path for path in voice.rglob("*.g722") if path.parent.name != "silence" and path.stem not in NO_SPEECH)
    return sorted(path for path in found if path.stat().st_size >= SHORTEST)


def read_wav(path: Path) -> np.ndarray:
    """Samples (T,) int16 of a file that is 16 kHz mono already."""
    samples, rate = soundfile.read(path, dtype="int16")
    if rate != RATE or samples.ndim != 1:
        raise SystemExit(f"{path}: expected {RATE} Hz mono, got {rate} Hz and shape {samples.shape}")
    return samples


def read_g722(path: Path) -> np.ndarray:
    """Samples (T,) int16 of a headerless G.722 file of 64 kbit/s, which is 16 kHz mono."""
    with av.open(str(path), format="g722") as recording:
        return np.concatenate([frame.to_ndarray()[0] for frame in recording.decode(audio=0)])


def write(path: Path, samples: np.ndarray) -> None:
    """Write one 16-bit FLAC file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, RATE, subtype="PCM_16")


def count(folder: Path) -> int:
    """Recordings in a folder that may not exist."""
    return len(list(folder.glob("*.flac")))


def hours(folder: Path) -> float:
    """Their length together."""
    return sum(soundfile.info(path).duration for path in folder.glob("*.flac")) / 3600


if __name__ == "__main__":
    typer.run(main)
