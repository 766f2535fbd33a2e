"""The study of a few seconds that many tests share, and what makes it cheap."""

import copy
import os
import subprocess
import sys
import time
import tomllib
from contextlib import suppress
from pathlib import Path

import pytest

from ecgnb.study.data import open_dataset
from ecgnb.study.declare import build_study
from ecgnb.study.plan import open_progress
from ecgnb.study.train import Materials, execute

FOLDER = Path(__file__).parent
TINY = tomllib.loads((FOLDER / "tiny.toml").read_text())
TINY |= {"recorded": False, "arms": ["scratch", "finetune", "linear-probe", "random-probe"]}
TINY["pairs"][0]["sizes"] += [0]  # all


def tiny(pair=(), source=(), target=(), table=(), **changes):
    """The study, with other fields, or others of its pair and that pair's two sides."""
    table = copy.deepcopy(TINY) | dict(table)
    first = table["pairs"][0]
    first |= dict(pair)
    for name, side in (("source", source), ("target", target)):
        if side:
            first[name] |= dict(side)
    return build_study("tiny", table, **changes)


def do(study):
    """Do all runs as `run_study` does, but in this process: none has to start and import torch.

    Where tests run in several processes, these help one another.
    """
    progress = open_progress(study)
    materials = Materials(study, progress.store)
    while waiting := progress.open_runs():
        for spec in waiting:
            with progress.store.claim(spec.key(progress.fingerprints)) as mine:
                if mine and spec in progress.open_runs():
                    execute(materials, spec)
            time.sleep(0 if mine else 0.05)
    return progress.finished()


def lend_data(cache, common):
    """Let an empty cache have the prepared data of the study, which are made once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ECGNB_CACHE", str(common / "tiny"))
        for name in tiny().datasets:
            open_dataset(tiny(), name, progress=False)
    cache.mkdir(parents=True, exist_ok=True)
    for part in ("simulated", "prepared"):
        with suppress(FileExistsError):
            (cache / part).symlink_to(common / "tiny" / part)
    return cache


def written(folder, pattern="runs/??/*.npz"):
    """When each file below a folder was last written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob(pattern)}


def wait_for(reached, seconds=300):
    """Wait until something holds, or fail."""
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def begin(*arguments, **options):
    """Start a Python program that may import what tests may."""
    paths = [str(FOLDER), os.environ.get("PYTHONPATH", ""), str(FOLDER.parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, text=True, **options)
