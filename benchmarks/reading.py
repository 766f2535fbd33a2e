"""How fast records are read: ours against ``wfdb.rdsamp``, what a user would otherwise write.

Run as ``python benchmarks/reading.py`` with ECGNB_DATA set; writes ``results/reading.json`` beside
this file. "microvolts" does what ``rdsamp`` does: header, samples, physical units. Both read the
same files from the page cache, in turns, so that both meet the same load.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import wfdb
from machine import cpu

from ecgnb.data.catalog import card, data_root, find
from ecgnb.data.records import microvolts, read_digital, read_header

DATASETS = {
    "ptb-xl": "PTB-XL, format 16, 12 x 1000",
    "chapman-shaoxing": "Chapman, .mat, 12 x 5000",
}
RECORDS = 200
REPEATS = 5


def ours_microvolts(path: Path) -> None:
    header = read_header(path)
    microvolts(header, read_digital(header))


def ours_digital(path: Path) -> None:
    read_digital(read_header(path))


def wfdb_rdsamp(path: Path) -> None:
    wfdb.rdsamp(str(path.with_suffix("")))


READERS = (wfdb_rdsamp, ours_microvolts, ours_digital)


def seconds(reader: Callable[[Path], None], paths: list[Path]) -> float:
    start = time.perf_counter()
    for path in paths:
        reader(path)
    return time.perf_counter() - start


def measure(dataset: str) -> list[dict[str, object]]:
    folder = find(card(dataset), data_root())
    if folder is None:
        raise SystemExit(f"ECGNB_DATA holds no {dataset}")
    paths = sorted(folder.rglob("*.hea"))[:RECORDS]
    seconds(wfdb_rdsamp, paths[:10])
    seconds(ours_microvolts, paths)  # into the page cache
    times: dict[str, list[float]] = {reader.__name__: [] for reader in READERS}
    for _ in range(REPEATS):
        for reader in READERS:
            times[reader.__name__].append(seconds(reader, paths))
    rows = []
    for name, taken in times.items():
        ratios = [a / b for a, b in zip(times["wfdb_rdsamp"], taken, strict=True)]
        rows.append(
            {
                "dataset": dataset,
                "reader": name,
                "records": len(paths),
                "records_per_second": round(len(paths) / statistics.median(taken)),
                "times_faster": round(statistics.median(ratios), 1),
                "slowest_and_fastest": [round(min(ratios), 1), round(max(ratios), 1)],
            }
        )
    return rows


def main() -> None:
    rows = [row for dataset in DATASETS for row in measure(dataset)]
    facts = {
        "cpu": cpu(),
        "threads": 1,
        "repeats": REPEATS,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "wfdb": wfdb.__version__,
    }
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print(f"{'':30}{'reader':18}{'n':>5}{'records/s':>12}{'times faster':>14}")
    for row in rows:
        print(
            f"{DATASETS[str(row['dataset'])]:30}{row['reader']:18}{row['records']:>5}"
            f"{row['records_per_second']:>12,}{row['times_faster']:>14}"
        )
    file = Path(__file__).parent / "results" / "reading.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
