"""How fast ecgnb is: beside what a user would otherwise write, and beside what the machine allows.

Run as ``make bench``; writes ``results/speed.json`` beside this file and prints its tables. What is
measured stands in ``results/speed.part.json`` until all of it is.
``python benchmarks/bench.py --page FOLDER`` writes them from that file, for the book.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import machine
import numpy as np
import plain
import preparing
import psutil
import reading
import torch
import training
from tables import tables, write_pages

from ecgnb.study.declare import load_study
from ecgnb.study.plan import open_progress
from ecgnb.study.store import Result

RESULTS = Path(__file__).parent / "results"
PTB_XL_RECORDS = 21_837


def demo(cores: int) -> dict[str, Any]:
    """Do the study ``demo`` from nothing, as a user does, and see where the time went."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["ECGNB_CACHE"] = cache
        command = [sys.executable, "-m", "ecgnb", "run", "demo", "--workers", str(cores)]
        started = time.perf_counter()
        subprocess.run(command, check=True, env={**os.environ, "TQDM_DISABLE": "1"})
        wall = time.perf_counter() - started
        results = open_progress(load_study("demo")).all_done()
        del os.environ["ECGNB_CACHE"]
    return shares(results, wall, cores)


def shares(results: list[Result], wall: float, cores: int) -> dict[str, Any]:
    """Say where the time of `cores` processes went that did these runs in `wall` seconds."""
    trained = sum(result.facts["training_seconds"] for result in results)
    evaluated = sum(result.facts["seconds"] for result in results) - trained
    seconds: dict[tuple[str, str], list[float]] = {}
    for result in results:
        if result.spec.stage == "final":
            key = result.spec.arm, result.spec.model
            seconds.setdefault(key, []).append(result.facts["seconds"])
    return {
        "runs": len(results),
        "wall_seconds": round(wall, 1),
        "processes": cores,
        "share_training": round(trained / (wall * cores), 3),
        "share_validation_and_test": round(evaluated / (wall * cores), 3),
        "share_outside_runs": round(1 - (trained + evaluated) / (wall * cores), 3),
        "arm_seconds": [
            {"arm": arm, "model": model, "seconds": round(statistics.median(values), 2)}
            for (arm, model), values in seconds.items()
        ],
    }


def memory(
    model: str = "resnet1d18", records: int = PTB_XL_RECORDS, processes: Any = training.SPAWN
) -> dict[str, Any]:
    """Train on an array of PTB-XL's full size, and see how much memory that takes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "signals.npy"
        shape = (records, 12, training.SAMPLES)
        values = np.lib.format.open_memmap(path, mode="w+", dtype=np.int16, shape=shape)
        rng = np.random.default_rng(0)
        for part in np.array_split(values, 50):
            part[:] = rng.integers(-500, 500, part.shape, dtype=np.int16)
        values.flush()
        here, there = processes.Pipe()
        process = processes.Process(target=_train_once_over, args=(there, model, path))
        process.start()
        there.close()
        before, after = here.recv()
        process.join()
    return {
        "model": model,
        "records": records,
        "before_mb": round(before / 1e6),
        "peak_mb": round(after / 1e6),
        "over_import_mb": round((after - before) / 1e6),
    }


def _train_once_over(connection: Connection, model: str, path: Path) -> None:
    torch.set_num_threads(1)
    before = psutil.Process().memory_info().rss
    signals = np.load(path, mmap_mode="r")
    labels = np.random.default_rng(1).random((len(signals), training.CLASSES)) < 0.3
    trainer = training.Ours(model, signals, labels.astype(np.float32), training.BATCH)
    # Two fifths of an epoch, and all records as validation: every page of the array is touched.
    trainer.validation = trainer.train
    trainer.rate(max(1, len(signals) * 2 // 5 // training.BATCH))
    connection.send((before, peak()))


def peak() -> int:
    """Return the most memory that this process has held, pages of mapped files among it."""
    import resource

    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kilobytes * (1 if sys.platform == "darwin" else 1024)


def measure(cores: int, repeats: int, keep: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Measure everything; each pair of figures that is compared was measured in turns.

    `keep` is given what there is after each step.
    """
    machine.use_cores(cores)
    found: dict[str, Any] = {
        "when": time.strftime("%Y-%m-%d"),
        "machine": machine.describe(cores),
        "repeats": repeats,
        "limits": machine.limits(torch.device("cpu")),
        "training": [],
    }
    for model in plain.MODELS:
        found["training"].append(training.measure(model, cores, repeats))
        keep(found)
    for name, step in (
        ("demo", lambda: demo(cores)),
        ("memory", memory),
        ("preparing", preparing.measure),
    ):
        found[name] = step()
        keep(found)
    if os.environ.get("ECGNB_DATA"):
        found["reading"] = [row for dataset in reading.DATASETS for row in reading.measure(dataset)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cores", type=int, default=2, help="how many cores to use (2)")
    parser.add_argument("--repeats", type=int, default=5, help="timings of each figure (5)")
    parser.add_argument("--page", type=Path, metavar="FOLDER", help="write the book's pages only")
    options = parser.parse_args()
    if options.page:
        speed, precisions = (
            json.loads((RESULTS / f"{name}.json").read_text()) for name in ("speed", "precision")
        )
        write_pages(options.page, speed, precisions)
        return
    path, part = RESULTS / "speed.json", RESULTS / "speed.part.json"
    last = json.loads(path.read_text()) if path.exists() else None

    def keep(found: dict[str, Any]) -> None:
        part.write_text(json.dumps(found, indent=1) + "\n")

    keep(found := measure(options.cores, options.repeats, keep))
    part.replace(path)
    print(tables(found, last))


if __name__ == "__main__":
    main()
