"""How fast a dataset of PTB-XL's size is prepared: ours against wfdb and scipy in a loop.

Run as ``python benchmarks/preparing.py``; writes ``results/preparing.json`` beside this file. The
records are simulated, 12 leads of 10 s at 500 Hz, and become 100 Hz with a filter against
aliasing. Both sides read the same files from the page cache, in turns.
"""

import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import machine
import numpy as np
import psutil
import scipy
import wfdb
from scipy import signal
from training import SPAWN

from ecgnb.data.catalog import card
from ecgnb.data.prepare import prepare
from ecgnb.simulate.hospital import write_hospital

RECORDS = 21_837
_DISTINCT = 500  # simulated; the others are copies of them under other names
_PLAIN_RECORDS = 400
_WATCH_S = 0.02


def plain(headers: list[Path]) -> np.ndarray:
    """Prepare records as a user would otherwise do."""
    signals = []
    for header in headers:
        values, fields = wfdb.rdsamp(str(header.with_suffix("")))
        signals.append(signal.resample_poly(values, 100, fields["fs"], axis=0).T)
    return np.stack(signals).astype(np.float32)


def write_records(folder: Path, count: int) -> list[Path]:
    """Write records in the layout of the PhysioNet Challenge; return their headers."""
    write_hospital(folder / "distinct", "sim-north", min(count, _DISTINCT), seed=0)
    originals = sorted((folder / "distinct").glob("*.hea"))
    raw = folder / "made"
    raw.mkdir()
    headers = []
    for number in range(count):
        original, name = originals[number % len(originals)], f"M{number:05d}"
        header = raw / f"{name}.hea"
        text = original.read_text().replace(original.stem, name)
        lines = [line for line in text.splitlines() if not line.startswith("#Patient")]
        header.write_text("\n".join(lines) + "\n")
        shutil.copyfile(original.with_suffix(".dat"), header.with_suffix(".dat"))
        headers.append(header)
    shutil.rmtree(folder / "distinct")
    return headers


def _prepare(connection: Connection, folder: Path) -> None:
    made = replace(card("georgia"), name="made", title="Made", version="1", folders=("made",))
    os.environ.update(ECGNB_DATA=str(folder), ECGNB_CACHE=str(folder / "cache"))
    started = time.perf_counter()
    prepared = prepare(made)
    taken = time.perf_counter() - started
    started = time.perf_counter()
    prepare(made)
    connection.send((taken, time.perf_counter() - started, len(prepared.signals)))


def _prepare_once(folder: Path, processes: Any) -> tuple[float, float, int]:
    """Prepare in a new process; return the seconds, those of opening again, and the peak memory."""
    here, there = processes.Pipe()
    process = processes.Process(target=_prepare, args=(there, folder))
    process.start()
    tree = psutil.Process(getattr(process, "pid", None))  # a thread is of this one
    peak = 0
    there.close()  # so that a process which dies ends the wait: its end was the last one
    while not here.poll(_WATCH_S):
        held = 0
        for each in (tree, *tree.children(recursive=True)):
            try:
                held += each.memory_info().rss
            except psutil.NoSuchProcess:  # it ended meanwhile
                continue
        peak = max(peak, held)
    taken, opened, count = here.recv()
    process.join()
    shutil.rmtree(folder / "cache")
    print(f"{count} records in {taken:.2f} s, peak {peak / 1e6:.0f} MB", flush=True)
    return taken, opened, peak


def measure(records: int = RECORDS, repeats: int = 5, processes: Any = SPAWN) -> dict[str, Any]:
    """Time both sides in turns, and the memory of all processes together at its peak."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        headers = write_records(folder, records)
        os.sync()  # writing them must not go on while others are timed
        some = headers[:: max(1, len(headers) // _PLAIN_RECORDS)][:_PLAIN_RECORDS]
        plain(some)
        plain_rates, rates, opened, peaks = [], [], [], []
        for _ in range(repeats):
            started = time.perf_counter()
            plain(some)
            plain_rates.append(len(some) / (time.perf_counter() - started))
            taken, again, peak = _prepare_once(folder, processes)
            rates.append(records / taken)
            opened.append(again)
            peaks.append(peak)
    ratios = [a / b for a, b in zip(rates, plain_rates, strict=True)]
    return {
        "records": records,
        "repeats": repeats,
        "plain_records_per_second": round(statistics.median(plain_rates), 1),
        "records_per_second": round(statistics.median(rates), 1),
        "times_faster": round(statistics.median(ratios), 1),
        "least_and_most": [round(min(ratios), 1), round(max(ratios), 1)],
        "peak_mb": round(max(peaks) / 1e6),
        "open_again_seconds": round(statistics.median(opened), 2),
    }


def main() -> None:
    cores = 2
    machine.use_cores(cores)
    facts = {
        "cpu": machine.cpu(),
        "cores": cores,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "wfdb": wfdb.__version__,
    }
    found = {**facts, **measure()}
    print("\n".join(f"{key}: {value}" for key, value in found.items()))
    path = Path(__file__).parent / "results" / "preparing.json"
    path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
