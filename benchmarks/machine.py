"""The machine that was measured: what it is, and how fast it could be."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import torch

from ecgnb.training.device import choose_device, describe_device

REPEATS = 7
_SIZE = 2048  # of the matrices: large enough for the full rate, small enough for the cache
_COPIED = 2**28  # bytes: larger than a share of any cache


def cpu() -> str:
    """Name the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def describe(cores: int) -> dict[str, object]:
    """Say what was measured on, for a reader of the numbers and for a later comparison."""
    return {
        "cpu": cpu(),
        "cores_used": cores,
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "device": describe_device(choose_device()),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def use_cores(count: int) -> None:
    """Keep this process, and those it starts, to some of the cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    torch.set_num_threads(count)


def limits(device: torch.device) -> dict[str, float]:
    """Measure what bounds every training: products and copies, medians of `REPEATS`.

    Returns
    -------
    dict
        ``bf16`` and ``float32`` matrix products in GFLOP/s, ``copy`` in GB/s (read and written).
    """
    found = {}
    for name, kind in (("bf16", torch.bfloat16), ("float32", torch.float32)):
        a, b = (torch.randn(_SIZE, _SIZE, device=device).to(kind) for _ in range(2))
        found[name] = 2 * _SIZE**3 / _median_seconds(partial(torch.matmul, a, b), device) / 1e9
    source = torch.ones(_COPIED, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    found["copy"] = 2 * _COPIED / _median_seconds(lambda: target.copy_(source), device) / 1e9
    return {name: float(f"{value:.3g}") for name, value in found.items()}


def _median_seconds(work: Callable[[], object], device: torch.device) -> float:
    taken = []
    for _ in range(REPEATS + 2):
        synchronise(device)
        started = time.perf_counter()
        work()
        synchronise(device)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[2:])


def synchronise(device: torch.device) -> None:
    """Wait until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
