"""Seconds an epoch on a GPU, several replicates at once, and the published grid projected.

Run as ``python benchmarks/gpu.py`` on a machine with an NVIDIA GPU; writes ``results/gpu.json``
beside this file. An epoch is one pass of training over PTB-XL's 17,418 training records. Its
floor is the larger of two times: its operations at the measured rate of bf16 products, and its
bytes at the measured rate of copies. Replicates are processes that share the GPU.
"""

import argparse
import json
import statistics
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import machine
import numpy as np
import torch
from plain import MODELS
from training import CLASSES, SAMPLES, SPAWN, Ours, forward_gflop

from ecgnb.training.device import choose_device

RECORDS = 17_418
TARGETS = {"ptb-xl": RECORDS, "cpsc": 4_603, "georgia": 6_895, "ptb": 349, "ribeiro": 554}
SOURCES = ("ptb-xl", "cpsc", "georgia")
EPOCHS = 100
BATCH = 256  # as published
REPLICATES = (1, 2, 4, 8)


def measure(
    model: str, replicates: int, records: int, batch: int, repeats: int, processes: Any = SPAWN
) -> dict[str, Any]:
    """Time epochs of several replicates that train side by side.

    Returns
    -------
    dict
        ``seconds_an_epoch`` of all of them together, the median of `repeats`, and that of one,
        ``seconds_a_replicate``.
    """
    team: list[Connection] = []
    started = []
    for _ in range(replicates):
        here, there = processes.Pipe()
        process = processes.Process(target=_serve, args=(there, model, records, batch))
        process.start()
        there.close()
        started.append(process)
        team.append(here)
    rounds = []
    for _ in range(repeats + 1):
        for connection in team:
            connection.send(True)
        rounds.append(max(connection.recv() for connection in team))
    for connection in team:
        connection.send(False)
    for process in started:
        process.join()
    seconds = statistics.median(rounds[1:])  # the first warms up
    return {
        "model": model,
        "replicates": replicates,
        "seconds_an_epoch": round(seconds, 3),
        "seconds_a_replicate": round(seconds / replicates, 3),
    }


def _serve(connection: Connection, model: str, records: int, batch: int) -> None:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    signals = rng.integers(-500, 500, (records, 12, SAMPLES), dtype=np.int16)
    labels = (rng.random((records, CLASSES)) < 0.3).astype(np.float32)
    trainer = Ours(model, signals, labels, batch)
    updates = max(1, records // batch)
    while connection.recv():
        connection.send(updates * batch / trainer.rate(updates))


def floor(model: str, records: int, limits: dict[str, float]) -> float | None:
    """Return the seconds an epoch would take at the measured limits."""
    forward = forward_gflop(model)
    if forward is None:
        return None
    products = records * 3 * forward / limits["bf16"]
    copies = records * 12 * SAMPLES * np.dtype(np.int16).itemsize / (limits["copy"] * 1e9)
    return round(max(products, copies), 3)


def grid_hours(rows: list[dict[str, Any]]) -> float:
    """Project the published grid from the best rate of each model, trained epoch by epoch.

    Each model: every source onto every other target, each target from scratch, each source.
    """
    fine_tuned = [target for source in SOURCES for target in TARGETS if target != source]
    passes = sum(TARGETS[name] for name in [*fine_tuned, *TARGETS, *SOURCES]) / RECORDS * EPOCHS
    best = {
        model: min(row["seconds_a_replicate"] for row in rows if row["model"] == model)
        for model in MODELS
    }
    return round(sum(best.values()) * passes / 3600, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=RECORDS, help="records of an epoch")
    parser.add_argument("--repeats", type=int, default=5, help="timings of each figure (5)")
    options = parser.parse_args()
    device = choose_device()
    if device.type != "cuda":
        raise SystemExit("there is no NVIDIA GPU here; `make bench` measures the CPU")
    limits = machine.limits(device)
    path = Path(__file__).parent / "results" / "gpu.json"
    facts = {"machine": machine.describe(1), "limits": limits, "repeats": options.repeats}
    rows: list[dict[str, Any]] = []
    for model in MODELS:
        for replicates in REPLICATES:
            row = measure(model, replicates, options.records, BATCH, options.repeats)
            rows.append(row | {"floor": floor(model, options.records, limits)})
            print(rows[-1], flush=True)
            path.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")  # as it goes
    hours = grid_hours(rows)
    path.write_text(json.dumps({**facts, "rows": rows, "grid_hours": hours}, indent=1) + "\n")
    print(f"the published grid: {hours} hours")


if __name__ == "__main__":
    main()
