"""Records trained a second: ours against the plain loop, in turns, on the same cores.

The plain loop has all cores in one process, as PyTorch does by default. Ours has one process a
core, each with one thread, as ``ecgnb run`` does.
"""

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import plain
import torch

from ecgnb.models import MODELS, build
from ecgnb.training.device import LARGE_PAGES, activate, choose_device, choose_precision, share
from ecgnb.training.fit import Schedule, fit
from ecgnb.training.inputs import Data, Records

BATCH = 64
RECORDS = 1024
SAMPLES = 1000
CLASSES = 20
SPAWN = multiprocessing.get_context("spawn")  # tests take threads instead
_ROUND_S = 1.5  # how long one side is timed before the other's turn
_FLOPS_AN_UPDATE = 3  # times those of a forward pass


class Ours:
    """The package's training loop on a memory-mapped array."""

    def __init__(self, model: str, signals: np.ndarray, labels: np.ndarray, batch: int) -> None:
        device = choose_device()
        self.precision = choose_precision(model, "auto", device)
        activate(self.precision, device)
        self.model = build.build_model(model, "pooled", labels.shape[1], signals.shape[2], 0).to(
            device
        )
        rows = torch.arange(len(signals), device=device)
        self.train = Data(
            Records(share(signals, device), rows), torch.from_numpy(labels).to(device)
        )
        some = Records(self.train.records.values, rows[:batch])
        self.validation = Data(some, self.train.labels[:batch])
        self.batch = batch

    def rate(self, updates: int) -> float:
        """Return the records trained a second."""
        schedule = Schedule(1e-3, updates, self.batch, 1, 0)
        fitted = fit(self.model, self.train, self.validation, schedule, precision=self.precision)
        seconds = fitted.history["seconds"][-1] - fitted.evaluation_seconds
        return updates * self.batch / seconds


class Trainer(Protocol):
    """One side: its rate of records trained a second, over so many updates."""

    def rate(self, updates: int) -> float: ...


SIDES: dict[str, Callable[..., Trainer]] = {"plain": plain.Trainer, "ours": Ours}


def forward_gflop(model: str) -> float | None:
    """Count the operations of a convolutional network on one record.

    None for recurrent networks, whose time goes into steps and not into products.
    """
    if MODELS[model].family != "CNN":
        return None
    return build.forward_gflop(model, "pooled", CLASSES, SAMPLES)


def measure(model: str, cores: int, repeats: int, processes: Any = SPAWN) -> dict[str, Any]:
    """Time both sides of a model in turns.

    Returns
    -------
    dict
        Rates in records/s (of all processes together), medians of `repeats`; their ratio pair by
        pair, with the smallest and the largest.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "signals.npy"
        rng = np.random.default_rng(0)
        np.save(path, rng.normal(0, 250, (RECORDS, 12, SAMPLES)).astype(np.int16))
        teams: dict[str, list[Connection]] = {}
        started = []
        for side, threads in (("plain", [cores]), ("ours", [1] * cores)):
            if side == "ours":
                os.environ.setdefault(*LARGE_PAGES)
            for count in threads:
                here, there = processes.Pipe()
                process = processes.Process(target=_serve, args=(there, side, model, path, count))
                process.start()
                there.close()  # so that a process which dies ends the wait
                started.append(process)
                teams.setdefault(side, []).append(here)
        os.environ.pop(LARGE_PAGES[0], None)
        updates = {side: _calibrate(team) for side, team in teams.items()}
        rates: dict[str, list[float]] = {side: [] for side in teams}
        for _ in range(repeats):
            for side, team in teams.items():
                rates[side].append(sum(_rates(team, updates[side])))
        for connection in (connection for team in teams.values() for connection in team):
            connection.send(0)
        for process in started:
            process.join()
    ratios = [a / b for a, b in zip(rates["ours"], rates["plain"], strict=True)]
    ours = statistics.median(rates["ours"])
    forward = forward_gflop(model)
    return {
        "model": model,
        "title": MODELS[model].title,
        "precision": choose_precision(model, "auto", choose_device()),
        "batch": BATCH,
        "plain": round(statistics.median(rates["plain"]), 1),
        "ours": round(ours, 1),
        "times": round(statistics.median(ratios), 2),
        "least_and_most": [round(min(ratios), 2), round(max(ratios), 2)],
        "forward_gflop": forward and round(forward, 3),
        "gflop_per_second": forward and round(ours * _FLOPS_AN_UPDATE * forward, 1),
    }


def _serve(connection: Connection, side: str, model: str, path: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    signals = np.load(path, mmap_mode="r")
    labels = (np.random.default_rng(1).random((len(signals), CLASSES)) < 0.3).astype(np.float32)
    trainer = SIDES[side](model, signals, labels, BATCH)
    while updates := connection.recv():
        connection.send(trainer.rate(updates))


def _rates(team: list[Connection], updates: int) -> list[float]:
    for connection in team:
        connection.send(updates)
    return [connection.recv() for connection in team]


def _calibrate(team: list[Connection]) -> int:
    """Find how many updates take about a round; the first ones warm up."""
    _rates(team, 1)
    started = time.perf_counter()
    _rates(team, 2)
    return max(2, round(2 * _ROUND_S / (time.perf_counter() - started)))
