"""The datasets of a study: which records it names, their labels and their fingerprints."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd

import ecgnb
from ecgnb.data.arrays import SELECTION
from ecgnb.data.catalog import card
from ecgnb.data.labels import encode
from ecgnb.data.prepare import Prepared, prepare
from ecgnb.errors import UserError
from ecgnb.study.declare import Study

_TEXT = dict.fromkeys(("record", "patient", "sex", "codes"), str)


def results_root() -> Path:
    """Return the folder of recorded results: ``ECGNB_RESULTS``, or ``results`` of the checkout."""
    default = Path(ecgnb.__file__).parents[1] / "results"
    return Path(os.environ.get("ECGNB_RESULTS") or default)


def recorded_runs(study: Study) -> Path:
    """Return where the recorded runs of a study stand."""
    return results_root() / f"{study.name}.parquet"


def selection(study: Study, dataset: str) -> pd.DataFrame | None:
    """Return the records that a recorded study names; None where it takes all that are there."""
    path = results_root() / "records" / f"{dataset}.csv"
    if not study.recorded or not path.exists():
        return None
    table = pd.read_csv(path, dtype=_TEXT, keep_default_na=False, na_values={"age": [""]})
    return table[list(SELECTION)]


def open_dataset(study: Study, dataset: str, *, progress: bool = False) -> Prepared:
    """Prepare a dataset for a study, and check that it is what the study was recorded on.

    Raises
    ------
    UserError
        If it is not there, or gives other arrays than the recorded ones.
    """
    named = selection(study, dataset)
    prepared = prepare(dataset, study.data, selection=named, progress=progress)
    expected = recorded_fingerprints().get(dataset) if named is not None else None
    if expected and prepared.fingerprint != expected:
        counts = prepared.manifest["counts"]
        raise UserError(
            f"{card(dataset).title} as found here gives other arrays than study {study.name} was "
            f"recorded on ({counts['kept']} of {0 if named is None else len(named)} records "
            "usable); get the release that the datasets page names, whole"
        )
    return prepared


def read_table(study: Study, dataset: str) -> pd.DataFrame:
    """Return the table of a dataset's records, without the raw files where they are recorded."""
    named = selection(study, dataset)
    return open_dataset(study, dataset).table if named is None else named


def read_labels(
    table: pd.DataFrame, dataset: str, label_set: str, min_positives: int
) -> pd.DataFrame:
    """Return one bool column a class for the rows of a dataset's table."""
    return encode(table["codes"], card(dataset).vocabulary, label_set, min_positives)


def fingerprints(study: Study) -> dict[str, str]:
    """Return the fingerprint of each dataset, recorded or prepared now."""
    recorded = recorded_fingerprints()
    return {
        name: recorded[name]
        if selection(study, name) is not None and name in recorded
        else open_dataset(study, name).fingerprint
        for name in study.datasets
    }


def recorded_fingerprints() -> dict[str, str]:
    """Return the recorded fingerprints by dataset."""
    path = results_root() / "records" / "fingerprints.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def record_dataset(prepared: Prepared) -> Path:
    """Write down which records a dataset has, their labels and its fingerprint.

    Returns
    -------
    Path
        The table, in ``results/records/``.
    """
    folder = results_root() / "records"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{prepared.card.name}.csv"
    prepared.table[list(SELECTION)].to_csv(path, index=False, lineterminator="\n")
    known = {**recorded_fingerprints(), prepared.card.name: prepared.fingerprint}
    text = json.dumps(known, indent=1, sort_keys=True)
    (folder / "fingerprints.json").write_text(text + "\n")
    return path
