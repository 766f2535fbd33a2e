"""The demo study, its runner killed at 50 random moments: is anything lost, or done twice?

Run as ``python benchmarks/kills.py``; it takes half an hour of two cores and writes
``results/kills.json`` beside this file.
"""

import contextlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from machine import describe

from ecgnb.study.declare import load_study
from ecgnb.study.plan import open_progress
from ecgnb.study.store import Result

STUDY = "demo"
KILLS = 50
WORKERS = 2
SECONDS = (0.5, 25.0)  # after the start of the program: importing it takes about two of them
END_S = 5.0  # until the processes of a killed runner have ended
COMMAND = [sys.executable, "-m", "ecgnb", "run", STUDY, "--workers", str(WORKERS)]


def start(cache: Path) -> subprocess.Popen:
    environment = {**os.environ, "ECGNB_CACHE": str(cache), "TQDM_DISABLE": "1"}
    return subprocess.Popen(COMMAND, env=environment, stdout=subprocess.DEVNULL)


def results_in(cache: Path) -> dict[str, Result]:
    os.environ["ECGNB_CACHE"] = str(cache)
    return {result.key: result for result in open_progress(load_study(STUDY)).finished()}


def stamps(cache: Path) -> dict[str, int]:
    """Say when each finished run was written."""
    return {path.name: path.stat().st_mtime_ns for path in cache.glob("runs/??/*.npz")}


def survivors(cache: Path) -> int:
    """Count the processes of a killed runner that live on."""
    count = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            count += process.environ().get("ECGNB_CACHE") == str(cache)
    return count


def left_by_killed(cache: Path) -> list[str]:
    checkpoints = cache.rglob("*.checkpoint")
    return [str(path.relative_to(cache)) for path in (*cache.rglob(".*"), *checkpoints)]


def measure() -> dict[str, Any]:
    """Kill the runner `KILLS` times, start it again each time, and compare with one left alone."""
    draw = random.Random(0)
    counts = ("kills", "while_preparing", "studies", "lost", "repeated", "differing", "survivors")
    found: dict[str, Any] = {**dict.fromkeys(counts, 0), "left": []}
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "uninterrupted"
        assert start(whole).wait() == 0
        expected = results_in(whole)
        found["runs"] = len(stamps(whole))
        while found["kills"] < KILLS:
            cache = Path(folder) / f"killed-{found['studies']}"
            seen: dict[str, int] = {}
            ended = False
            while not ended:
                process = start(cache)
                try:
                    last = found["kills"] >= KILLS
                    process.wait(timeout=None if last else draw.uniform(*SECONDS))
                    ended = True
                    assert process.returncode == 0
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                    time.sleep(END_S)  # its processes end with it, when they have begun
                    found["kills"] += 1
                    found["survivors"] += survivors(cache)
                now = stamps(cache)
                found["while_preparing"] += not ended and not now
                found["lost"] += len(seen.keys() - now.keys())
                found["repeated"] += sum(now.get(name, then) != then for name, then in seen.items())
                seen = now
                print(found["kills"], len(seen), flush=True)
            found["studies"] += 1
            found["left"] += left_by_killed(cache)
            mine = results_in(cache)
            assert mine.keys() == expected.keys()
            found["differing"] += sum(
                not np.array_equal(mine[key].predictions, expected[key].predictions)
                for key in expected
            )
    return found


def main() -> None:
    found = measure()
    path = Path(__file__).with_name("results") / "kills.json"
    path.write_text(json.dumps({"machine": describe(WORKERS), **found}, indent=1) + "\n")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
