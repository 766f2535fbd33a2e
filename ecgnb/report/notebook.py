"""What the notebooks share: opening a study, its runs, tables of them, the provenance."""

from __future__ import annotations

import ast
import html
import os
import shutil
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from IPython import get_ipython
from IPython.display import Markdown, display

from ecgnb.analysis.advise import advice
from ecgnb.data.catalog import card, own_cards, parts
from ecgnb.data.fetch import fetch
from ecgnb.errors import UserError
from ecgnb.files import put
from ecgnb.study.cost import groups
from ecgnb.study.data import (
    fingerprints,
    missing_datasets,
    read_table,
    recorded_runs,
    results_root,
    with_what_is_here,
)
from ecgnb.study.declare import chapter_study, load_study, study_names
from ecgnb.study.plan import duration, open_progress
from ecgnb.study.run import default_workers, run_study
from ecgnb.study.spec import Study
from ecgnb.study.store import Result, provenance, read_part
from ecgnb.training.device import choose_device, describe_device

_PARAMETERS = ("study", "target", "source", "models", "sizes", "seeds", "workers", "drive")


def open_study(study: str, chapter: str = "", **parameters: Any) -> Study:
    """Load the study of a notebook from its parameters; where hosted, fetch what it needs.

    It says so if the ECGs are simulated.

    Parameters
    ----------
    study : str
        See `ecgnb.study.declare.load_study`.
    chapter : str
        Where the chapter may have a study of its own, its name; see
        `ecgnb.study.declare.chapter_study`.
    **parameters
        The notebook's others: ``target``, ``source``, ``models``, ``sizes``, ``seeds``, which
        see `ecgnb.study.declare.load_study`; ``workers``, for `runs`; and ``drive``, whether a
        notebook in Google Colab keeps its runs on the user's Google Drive.

    Raises UserError if papermill has set a parameter that notebooks do not have, a value is of the
    wrong type, or the study cannot be done.
    """
    unknown = [name for name in (*parameters, *_injected()) if name not in _PARAMETERS]
    if unknown:
        raise UserError(
            f"unknown parameter {unknown[0]!r}; a notebook takes {', '.join(_PARAMETERS)}"
        )
    drive = parameters.pop("drive", False)
    workers = parameters.pop("workers", None)
    if not isinstance(study, str):
        raise UserError(f"the parameter 'study' is the name of a study or a file, not {study!r}")
    if not isinstance(drive, bool):
        raise UserError(f"the parameter 'drive' is True or False, not {drive!r}")
    if workers is not None and (type(workers) is not int or workers < 1):
        raise UserError(f"the parameter 'workers' is a number of processes, not {workers!r}")
    if hosted():
        _prepare_machine(drive=drive)
    plan = chapter_study(load_study(study, **parameters), chapter)
    if hosted():
        _fetch_missing(plan)
    if card(plan.pairs[0].target.dataset).simulated:
        display(Markdown("*The ECGs of this page are simulated: it says nothing about patients.*"))
    return plan


def _injected() -> list[str]:
    """Name what papermill has set in this kernel, in a cell that begins with "# Parameters"."""
    shell = get_ipython()
    cells = shell.history_manager.input_hist_raw if shell else []
    last = [cell for cell in cells if cell.startswith("# Parameters\n")][-1:]
    lines = [line for cell in last for line in ast.parse(cell).body if isinstance(line, ast.Assign)]
    names = [ast.unparse(target) for line in lines for target in line.targets]
    return [name for name in names if not name.startswith("PAPERMILL_")]  # of --inject-paths


def runs(study: Study, *, workers: int | None = None) -> list[Result]:
    """Return the final runs of a study.

    Those of a recorded study are read, as far as they have been recorded (`ecgnb run` does the
    others); those of any other study are trained where they are missing, `workers` at a time.
    """
    if recorded_runs(study):
        return open_progress(study).finished()
    if hosted():
        _say_how_long(study, workers)
    # Where output is kept, as in the book, the environment switches progress bars off.
    return run_study(study, workers=workers, progress="TQDM_DISABLE" not in os.environ)


def companion(study: Study, kind: str) -> tuple[Study, list[Result]]:
    """Return the recorded study beside a study, as ``clinical-paper`` beside ``clinical``.

    A study that has no such companion, or of which a part is asked for, is returned without runs.
    """
    name = f"{study.name}-{kind}"
    beside = load_study(name) if name in study_names() else study
    if study.asked or not beside.recorded or beside is study or not recorded_runs(beside):
        return study, []
    return beside, runs(beside)


def contributed(study: Study) -> list[Result]:
    """Return the final runs that others have made for a study, each with its ``origin``.

    They are the parts in ``results/contributed/STUDY/``, see `ecgnb.study.plan.write_part`; what
    was tested on other records than those of the study is left out.
    """
    parts = sorted((results_root() / "contributed" / study.name).glob("*.parquet"))
    runs = [run for part in parts for run in read_part(part)[1] if run.spec.stage == "final"]
    tested = {pair.target.dataset for pair in study.pairs} if runs else set()
    known = {name: {*read_table(study, name)["record"]} for name in tested}
    return [run for run in runs if known.get(run.spec.dataset, set()).issuperset(run.records)]


_MACHINE = Path("/content")  # of Google Colab; what is written here is gone with the machine
_DRIVE = _MACHINE / "drive"
_KEPT = _DRIVE / "MyDrive" / "ecgnb" / "runs"


def hosted() -> bool:
    """Tell whether this notebook runs in Google Colab, whose kernels begin with its package."""
    return "google.colab" in sys.modules


def _prepare_machine(*, drive: bool) -> None:
    """Say what the machine has; let runs be kept on Drive, and datasets where reading is fast."""
    os.environ.setdefault("ECGNB_DATA", str(_MACHINE / "ecg"))
    os.environ.setdefault("ECGNB_CACHE", str(_MACHINE / "ecgnb"))
    Path(os.environ["ECGNB_DATA"]).mkdir(parents=True, exist_ok=True)
    kept = Path(os.environ["ECGNB_CACHE"]) / "runs"
    if drive:
        import_module("google.colab.drive").mount(str(_DRIVE))
        _KEPT.mkdir(parents=True, exist_ok=True)
        if not kept.is_symlink():
            _move(kept)
            kept.symlink_to(_KEPT, target_is_directory=True)
    if kept.is_symlink():
        print(f"Finished runs are kept in {_KEPT}.")
    else:
        print("Runs are lost with this machine. To keep them on your Drive, set drive = True.")
    device = choose_device()
    print(f"Computing on {describe_device(device)}.")
    if device.type == "cpu":
        print("For a GPU: Runtime, Change runtime type, T4 GPU; then run all cells again.")


def _move(folder: Path) -> None:
    """Move what was trained before to Drive; a file is gone here only when all are there, whole."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.rglob("*")):
        kept = _KEPT / path.relative_to(folder)
        if path.is_file() and not kept.exists():
            put(kept, partial(shutil.copyfile, path))
    shutil.rmtree(folder)


def _fetch_missing(study: Study) -> None:
    if recorded_runs(study):
        print("This study is recorded: its runs are read, and none is trained.")
        return
    needed = [part for name in missing_datasets(study) for part in parts(card(name))]
    for part in dict.fromkeys(needed):
        if part.homes:  # and if it is here already, `fetch` says so
            fetch(part.name)


def _say_how_long(study: Study, workers: int | None) -> None:
    rows = groups(open_progress(study))
    left = sum(group.runs - group.done for group in rows)
    seconds = sum(group.seconds_left for group in rows) / (workers or default_workers(study))
    print(
        f"{left} runs are to be trained, about {duration(seconds)} here. Finished runs are not "
        "repeated: run the notebook again to go on."
        if left
        else "All runs are here: they are read, and none is trained."
    )


def footer(study: Study, results: Sequence[Result] = ()) -> Markdown:
    """Say which study, data, seeds and versions made a page; before it, of own ECGs, what to do."""
    target = study.pairs[0].target.dataset
    if target in own_cards() and (lines := advice(study, results)):
        names = html.escape(f"What to do with {card(target).title}", quote=False)
        display(Markdown("\n".join([f"## {names}", "", *(f"- {line}" for line in lines)])))
    prints = fingerprints(study)
    data = ", ".join(f"{card(name).short_title} `{value[:12]}`" for name, value in prints.items())
    seeds = sorted({result.spec.seed for result in results} or study.seeds)
    here = provenance()
    lines = [
        f"- study `{study.name}`, version `{study.digest}`, protocol `{study.protocol}`",
        f"- data (fingerprint of the prepared arrays): {data}",
        f"- seeds {seeds[0]} to {seeds[-1]}, as far as they have been run",
        f"- page made with ecgnb {here['package']}, Python {here['python']}, torch "
        f"{here['torch']}, numpy {here['numpy']}",
    ]
    if results:
        made = _makers(results)
        total = sum(result.facts["seconds"] for result in results)
        where = "trained here"
        if recorded_runs(study):
            progress = open_progress(with_what_is_here(study))
            done, declared = len(progress.finished()), len(list(progress.study.cells()))
            where = f"recorded; of the whole study {done:,} of {declared:,}"
        lines.insert(
            3,
            f"- {len(results)} runs ({where}), {total / 3600:.1f} hours added up, made with {made}",
        )
    text = html.escape("\n".join(lines), quote=False)  # a title may be anything
    return Markdown(f"**What made this page**\n\n{text}")


def _makers(results: Sequence[Result]) -> str:
    kinds = {
        f"ecgnb {facts['package']}, torch {facts['torch']}, {facts['device']} in "
        f"{facts['precision']}"
        for facts in (result.facts for result in results)
    }
    return "; ".join(sorted(kinds))
