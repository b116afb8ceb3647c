"""Time and memory of a call, on machines that others use as well."""

from __future__ import annotations

import gc
import json
import platform
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

__all__ = ["contest", "machine", "peak_bytes", "seconds"]

Call = Callable[[], object]
SHORTEST = 0.02  # seconds of one measurement; quicker calls are repeated within it


def seconds(call: Call, device: torch.device, loops: int = 1) -> float:
    """Time of one call: CPU seconds of this process on a CPU, time between two events on a GPU."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(loops):
            call()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / 1000 / loops
    begun = time.process_time()
    for _ in range(loops):
        call()
    return (time.process_time() - begun) / loops


def contest(calls: Mapping[str, Call], device: torch.device, repeats: int, budget: float) -> dict[str, float]:
    """Shortest time of each call, in seconds, taken in turns so that a busy moment does not fall on one of them.

    Args:
        calls: what competes.
        device: where it runs.
        repeats: measurements of each.
        budget: seconds after which a call is measured no more, once it has been measured.
    """
    first = {name: max(seconds(call, device), 1e-7) for name, call in calls.items()}
    loops = {name: max(1, round(SHORTEST / time_)) for name, time_ in first.items()}
    best, spent = dict(first), dict(first)
    for _ in range(repeats):
        for name, call in calls.items():
            if spent[name] < budget:
                found = seconds(call, device, loops[name])
                best[name], spent[name] = min(best[name], found), spent[name] + found * loops[name]
    return best


def peak_bytes(call: Call, device: torch.device) -> int:
    """Most memory that tensors made during a call occupy at one time, its results included.

    On a CPU every allocation and release that torch's profiler reports is added up.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    warnings.filterwarnings("ignore", message=".*Profiler clears events", category=UserWarning)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        result = call()
    del result
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        found.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text("utf-8"))["traceEvents"]
    changes = [(event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]"]
    held = peak = 0
    for _, change in sorted(changes, key=lambda item: item[0]):
        held += change
        peak = max(peak, held)
    return peak


def machine(device: torch.device) -> str:
    """Name of the processor that did the work."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text("utf-8").splitlines() if info.exists() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
