"""Results as `zoo evaluate` leaves them, made up: for tests of the pages that show them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.evaluation.results import (
    DataRecord,
    Failure,
    Measured,
    Origin,
    ProtocolRecord,
    Rate,
    Run,
    SettingResult,
    Speed,
)

TITLES = {"psnr": ("PSNR", "dB", "higher", 2), "ssim": ("SSIM", "", "higher", 4), "rfid": ("rFID", "", "lower", 3)}
VIEWS = {
    "titok": {"size": 256, "resize": "pil_bicubic", "crop": "center", "levels": "truncate"},
    "adm": {"size": 256, "resize": "adm", "crop": "center", "levels": "round"},
}


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def number(
    name: str, value: float | None, protocol: str = "titok", *, samples: int = 100, why: str = "", **details: Any
) -> Measured:
    title, unit, better, digits = TITLES[name]
    skipped = 100 - samples
    return Measured(f"{name}[{protocol}]", name, "", title, value, unit, better, digits, samples, skipped, details, why)


def setting(
    numbers: Mapping[str, float | Measured],
    *,
    protocol: str = "titok",
    tokens: int | None = None,
    codebooks: int | None = None,
    bits: float | None = 3072.0,
    samples: Sequence[str] = (),
) -> SettingResult:
    rate = Rate(tokens or 256, bits, 65536.0, None if bits is None else bits / 65536, "bit/pixel")
    found = [item if isinstance(item, Measured) else number(name, item, protocol) for name, item in numbers.items()]
    return SettingResult(tokens, codebooks, rate, found, Speed(12.5, 12.5 * 65536, 8.0), list(samples))


def run(
    model: str,
    settings: Sequence[SettingResult],
    *,
    protocol: str = "titok",
    data: str = "photos",
    items: int = 100,
    available: int = 100,
    reference: Mapping[str, Any] | None = None,
    weights: str = "",
    created: str = "2026-01-02T03:04:05+00:00",
    failed: Sequence[str] = (),
    originals: Sequence[str] = (),
    **options: Any,
) -> Run:
    view = VIEWS[protocol.partition("@")[0]]
    return Run(
        model=model,
        title=f"{model}, a tokenizer",
        modality="image",
        spec={},
        weights=digest(weights or model),
        protocol=ProtocolRecord(protocol, digest(protocol), f"what {protocol} does", "a paper", "val", 50000, view),
        data=DataRecord(
            data, "images", items, available, digest(f"{data} {items}"), dict(reference or {"kind": "paired"})
        ),
        origin=Origin(
            created,
            f"zoo evaluate {model} --data {data}",
            9.0,
            {"system": "Linux x86_64", "processor": "a processor"},
            {"tokenizer-zoo": "0.1.0", "torch": "2.11.0"},
            {"device": "cpu", "dtype": "float32", **options},
        ),
        fingerprint=digest(model + protocol + data),
        settings=list(settings),
        failed=[Failure(name, "OSError", "the picture breaks off") for name in failed],
        originals=list(originals),
        encode=Speed(40.0, 40.0 * 65536, 2.5),
    )
