"""How fast ECGs are simulated: signals alone, and written as WFDB records.

Run as ``python benchmarks/simulating.py``; writes ``results/simulating.json`` beside this file.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from machine import cpu

from ecgnb.simulate.hospital import (
    HOSPITALS,
    Hospital,
    draw_records,
    plan_hospital_record,
    write_hospital,
)

RECORDS = 400
REPEATS = 5


def signals(hospital: Hospital) -> None:
    for start in range(0, RECORDS, 4):
        numbers = range(start, start + 4)
        plans = {i: plan_hospital_record(hospital, 1, i)[1] for i in numbers}
        draw_records(hospital, plans, 1)


def files(hospital: Hospital) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_hospital(Path(folder) / hospital.name, hospital, RECORDS, 1)


def rate(make: Callable[[Hospital], None], hospital: Hospital) -> float:
    start = time.perf_counter()
    make(hospital)
    return RECORDS / (time.perf_counter() - start)


def measure() -> list[dict[str, object]]:
    rows = []
    for hospital in HOSPITALS.values():
        for make in (signals, files):
            rates = [rate(make, hospital) for _ in range(REPEATS)]
            row = {
                "hospital": hospital.name,
                "what": make.__name__,
                "records": RECORDS,
                "records_per_second": round(statistics.median(rates)),
                "slowest_and_fastest": [round(min(rates)), round(max(rates))],
            }
            rows.append(row)
            print(row)
    return rows


def main() -> None:
    rows = measure()
    facts = {"cpu": cpu(), "threads": 1, "repeats": REPEATS, "numpy": np.__version__}
    path = Path(__file__).parent / "results" / "simulating.json"
    path.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
