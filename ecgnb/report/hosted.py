"""Setting up a notebook on a machine that is lent for some hours, as Google Colab lends them."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch

from ecgnb.data.catalog import card, parts
from ecgnb.data.fetch import fetch
from ecgnb.files import put
from ecgnb.study.cost import groups
from ecgnb.study.data import missing_datasets, recorded_runs
from ecgnb.study.declare import chapter_study, load_study
from ecgnb.study.plan import duration, open_progress
from ecgnb.study.run import default_workers
from ecgnb.study.spec import Study
from ecgnb.training.device import choose_device, describe_device

_MACHINE = Path("/content")  # what is written here is gone with the machine
_DRIVE = _MACHINE / "drive"
_KEPT = _DRIVE / "MyDrive" / "ecgnb" / "runs"


def set_up(study: str, drive: bool = False, chapter: str = "", *, trains: bool = True) -> None:
    """Prepare a hosted notebook for its study; anywhere else do nothing.

    It says which GPU there is, fetches the datasets that the notebook is going to train on, and
    says how long that will take.

    Parameters
    ----------
    study : str
        See `ecgnb.study.declare.load_study`.
    drive : bool
        Whether finished runs are kept on the user's Google Drive, who is asked for permission.
    chapter : str
        See `ecgnb.study.declare.chapter_study`.
    trains : bool
        Whether the notebook needs the runs of the study, or its records only.

    Raises
    ------
    UserError
        If the study is unknown, or a dataset cannot be fetched.
    """
    if not is_hosted():
        return
    os.environ.setdefault("ECGNB_DATA", str(_MACHINE / "ecg"))
    os.environ.setdefault("ECGNB_CACHE", str(_MACHINE / "ecgnb"))
    Path(os.environ["ECGNB_DATA"]).mkdir(parents=True, exist_ok=True)
    _keep_runs(drive)
    print(f"Computing on {describe_device(choose_device())}.")
    if not torch.cuda.is_available():
        print("For a GPU: Runtime, Change runtime type, T4 GPU; then run all cells again.")
    declared = chapter_study(load_study(study), chapter)
    if declared.recorded and recorded_runs(declared).exists():
        print("This study is recorded: its runs are read, and none is trained.")
        return
    needed = [part for name in missing_datasets(declared) for part in parts(card(name))]
    for part in dict.fromkeys(needed):
        if part.homes:  # and if it is here already, `fetch` says so
            fetch(part.name)
    if trains:
        _say_how_long(declared)
    else:
        print("This chapter trains nothing.")


def is_hosted() -> bool:
    """Tell whether this notebook runs in Google Colab."""
    with suppress(ModuleNotFoundError):  # there is no package `google` at all
        return find_spec("google.colab") is not None
    return False


def _keep_runs(drive: bool) -> None:
    """Let the folder of runs be one on Drive; datasets stay here, where they are read faster."""
    runs = Path(os.environ["ECGNB_CACHE"]) / "runs"
    if drive:
        from google.colab import drive as google_drive

        google_drive.mount(str(_DRIVE))
        _KEPT.mkdir(parents=True, exist_ok=True)
        if not runs.is_symlink():
            _move(runs)
            runs.symlink_to(_KEPT, target_is_directory=True)
    if runs.is_symlink():
        print(f"Finished runs are kept in {_KEPT}.")
    else:
        print("Runs are lost with this machine. To keep them on your Drive, set drive = True.")


def _move(runs: Path) -> None:
    """Move what was trained before to Drive; a file is gone here only when all are there, whole."""
    runs.mkdir(parents=True, exist_ok=True)
    for path in sorted(runs.rglob("*")):
        kept = _KEPT / path.relative_to(runs)
        if path.is_file() and not kept.exists():
            put(kept, partial(shutil.copyfile, path))
    shutil.rmtree(runs)


def _say_how_long(study: Study) -> None:
    rows = groups(study, open_progress(study).score)
    left = sum(group.runs - group.done for group in rows)
    if not left:
        print("All runs are here: they are read, and none is trained.")
        return
    seconds = sum(group.seconds_left for group in rows)
    print(
        f"{left} runs are to be trained, about {duration(seconds / default_workers(study))} here. "
        "Finished runs are not repeated: run the notebook again to go on."
    )
