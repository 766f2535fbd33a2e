"""The datasets of a study: which records it names, their labels and their fingerprints."""

import json
import os
import sysconfig
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

import ecgnb
from ecgnb.data import records, resample
from ecgnb.data.arrays import SELECTION, Options
from ecgnb.data.catalog import JOINT, card, data_root, find
from ecgnb.data.labels import encode
from ecgnb.data.labels import label_set as label_set_of
from ecgnb.data.prepare import DATASET, Prepared, join, join_fingerprints, join_tables, prepare
from ecgnb.errors import UserError
from ecgnb.files import put, writable
from ecgnb.study.spec import Study
from ecgnb.study.store import hash_of

_AS_DEFAULT = "default options"
_RECORDS = "records"  # what every folder of recorded results has
_SUMS = "SHA256SUMS"


def results_root() -> Path:
    """Return the folder of recorded results.

    It is ``ECGNB_RESULTS``, or ``results`` of the checkout, or what was installed of that, for all,
    for this user or beside the package (``pip install --target``).
    """
    if own := os.environ.get("ECGNB_RESULTS"):
        return Path(os.path.expanduser(own))  # a home that is not there is left as it is
    beside = Path(ecgnb.__file__).parents[1]
    user = sysconfig.get_path("data", sysconfig.get_preferred_scheme("user"))
    bases = [Path(base) for base in (sysconfig.get_path("data"), user, beside)]
    places = [beside / "results", *(base / "share" / "ecgnb" / "results" for base in bases)]
    return next((place for place in places if (place / _RECORDS).is_dir()), places[0])


def recorded_runs(study: Study) -> tuple[Path, ...]:
    """List the tables of a study's recorded runs: parts that are only ever added."""
    parts = (results_root() / study.name).glob("*.parquet")
    return tuple(sorted(parts)) if study.recorded else ()


def selection(study: Study, dataset: str) -> pd.DataFrame | None:
    """Return the records that a recorded study names; None where it takes all that are there."""
    path = _selected(study, dataset)
    return None if path is None else _named_records(path, path.stat().st_mtime_ns).copy()


@lru_cache(maxsize=16)
def _named_records(path: Path, changed: int) -> pd.DataFrame:
    sums = path.with_name(_SUMS).read_text() if path.with_name(_SUMS).is_file() else ""
    lines = (line.split(maxsplit=1) for line in sums.splitlines())
    if {name: digest for digest, name in lines}.get(path.name) not in (None, hash_of(path)):
        raise UserError(f"{path} is not as it was recorded; get that file again")
    kinds = dict.fromkeys(("record", "patient", "sex", "codes"), str)
    table = pd.read_csv(path, dtype=kinds, keep_default_na=False, na_values={"age": [""]})
    return table[list(SELECTION)]


def _selected(study: Study, dataset: str) -> Path | None:
    path = results_root() / _RECORDS / f"{dataset}.csv"
    return path if study.recorded and path.exists() else None


def open_dataset(study: Study, dataset: str, *, progress: bool = False) -> Prepared:
    """Prepare a dataset for a study; UserError if it gives other arrays than the recorded ones."""
    if JOINT in dataset:
        each = (open_dataset(study, name, progress=progress) for name in dataset.split(JOINT))
        return join(dataset, list(each))
    named = selection(study, dataset)
    prepared = prepare(dataset, study.data, selection=named, progress=progress)
    if named is not None and _recorded(study, dataset) not in (None, prepared.fingerprint):
        counts = prepared.manifest["counts"]
        raise UserError(
            f"{card(dataset).title} as found here gives other arrays than study {study.name} was "
            f"recorded on ({counts['kept']} of {len(named)} records usable); get the release that "
            "the datasets page names, whole"
        )
    return prepared


def read_table(study: Study, dataset: str) -> pd.DataFrame:
    """Return the table of a dataset's records, without the raw files where they are recorded."""
    if JOINT in dataset:
        return join_tables({name: read_table(study, name) for name in dataset.split(JOINT)})
    named = selection(study, dataset)
    return open_dataset(study, dataset).table if named is None else named


def read_labels(
    table: pd.DataFrame, dataset: str, label_set: str, min_positives: int
) -> pd.DataFrame:
    """Return one bool column a class for the rows of a dataset's table."""
    if JOINT in dataset:
        labels = [
            read_labels(rows, str(name), label_set, 0)
            for name, rows in table.groupby(DATASET, sort=False)
        ]
        whole = pd.concat(labels).fillna(False).astype(bool).loc[table.index]
        least = 0 if label_set_of(label_set).classes else min_positives
        return whole.loc[:, whole.sum() >= least]
    return encode(table["codes"], card(dataset).vocabulary, label_set, min_positives)


def fingerprints(study: Study) -> dict[str, str]:
    """Return the fingerprint of each dataset that is here, recorded or prepared now."""
    absent = missing_datasets(study)
    return {name: _fingerprint(study, name) for name in study.datasets if name not in absent}


def _fingerprint(study: Study, dataset: str) -> str:
    if JOINT in dataset:
        each = {name: _fingerprint(study, name) for name in dataset.split(JOINT)}
        return join_fingerprints(each)
    return _recorded(study, dataset) or open_dataset(study, dataset).fingerprint


def _recorded(study: Study, dataset: str) -> str | None:
    named = _selected(study, dataset) is not None
    return recorded_fingerprints(study.data).get(dataset) if named else None


def missing_datasets(study: Study) -> list[str]:
    """List the datasets of a study that are neither recorded nor where ``ECGNB_DATA`` points."""
    root = data_root() if os.environ.get("ECGNB_DATA") else None

    def here(name: str) -> bool:
        facts = card(name)
        return bool(facts.simulated or _recorded(study, name) or (root and find(facts, root)))

    return [name for name in study.datasets if not all(map(here, name.split(JOINT)))]


def say_missing(study: Study) -> str:
    """Say which datasets, or recorded runs, of a study are missing; "" if none is."""
    if study.recorded and not recorded_runs(study):
        return (
            f"no recorded runs of {study.name} are in {results_root()}, so all would be trained: "
            "let ECGNB_RESULTS name the folder 'results' of the repository"
        )
    absent = missing_datasets(study)
    waiting = sum(not {*absent}.isdisjoint(pair.datasets) for pair in study.pairs)
    names, count = ", ".join(card(name).title for name in absent), len(study.pairs)
    return f"not here: {names}; {waiting} of {count} pairs wait for them" if absent else ""


def with_what_is_here(study: Study) -> Study:
    """Leave out the pairs whose source or target is missing; UserError if none is left."""
    absent = missing_datasets(study)
    pairs = tuple(pair for pair in study.pairs if {*absent}.isdisjoint(pair.datasets))
    if not pairs:
        names = ", ".join(card(name).title for name in absent)
        raise UserError(
            f"study {study.name} needs {names}, and {'they are' if absent[1:] else 'it is'} not "
            "here; `ecgnb datasets` tells where they come from, and ECGNB_DATA where they are"
        )
    return replace(study, pairs=pairs)


def recorded_fingerprints(options: Options) -> dict[str, str]:
    """Return the recorded fingerprints by dataset, as these options prepare it."""
    return _all_fingerprints().get(options.label or _AS_DEFAULT, {})


def _all_fingerprints() -> dict[str, dict[str, str]]:
    path = results_root() / _RECORDS / "fingerprints.json"
    try:
        return dict(json.loads(path.read_text())) if path.exists() else {}
    except ValueError as error:
        raise UserError(f"{path} is damaged; get that file again") from error


def record_dataset(prepared: Prepared, options: Options) -> Path:
    """Write down which records a dataset has, their labels and its fingerprint; return the table.

    The records are those of the default options, once it is prepared with these; until then, those
    of the first. The fingerprint is kept for each.
    """
    folder = results_root() / _RECORDS
    path = folder / f"{prepared.card.name}.csv"
    records = prepared.table[list(SELECTION)]
    known = _all_fingerprints()
    of_options = known.setdefault(options.label or _AS_DEFAULT, {})
    of_options[prepared.card.name] = prepared.fingerprint
    text = json.dumps(known, indent=1, sort_keys=True) + "\n"
    with writable(folder, "what was there is as it was; point ECGNB_RESULTS at another folder"):
        if not options.label or not path.exists():
            put(path, lambda name: records.to_csv(name, index=False, lineterminator="\n"))
        put(folder / "fingerprints.json", lambda name: name.write_text(text))
        sums = (f"{hash_of(one)}  {one.name}\n" for one in sorted(folder.glob("*.csv")))
        put(folder / _SUMS, lambda name: name.write_text("".join(sums)))
    return path


def example_headers(study: Study, *datasets: str) -> dict[str, Path]:
    """Return the headers of example records by ``dataset/record``; none if the study is live."""
    folder = results_root() / "examples"
    return {
        f"{dataset}/{path.stem.split('_')[0]}": path
        for dataset in (dict.fromkeys(datasets) if study.recorded else ())
        for path in sorted((folder / dataset).glob("*.hea"))
    }


def read_example(study: Study, header: Path) -> npt.NDArray[np.float64]:
    """Read an example as a study prepares it, microvolts of shape (12, samples)."""
    found = records.read_header(header)
    values = records.microvolts(found, records.read_digital(found))
    values = resample.resample(
        values, found.sampling_rate, study.data.rate, antialias=study.data.antialias
    )
    return values[: study.data.samples].T


def read_record(study: Study, name: str) -> npt.NDArray[np.float64]:
    """Read an example or a record that is here by ``dataset/record``: microvolts, (12, samples)."""
    dataset, _, record = name.partition("/")
    if header := example_headers(study, dataset).get(name):
        return read_example(study, header)
    prepared = open_dataset(study, dataset)
    (row,) = np.flatnonzero(prepared.table["record"] == record)
    return prepared.signals[row].astype(np.float64)


def finding_of(name: str) -> str:
    """Say what an example named ``dataset/record`` shows; empty for any other record."""
    path = results_root() / "examples" / "examples.csv"
    if not path.exists():
        return ""
    table = pd.read_csv(path, dtype=str)
    found = table["finding"][table["dataset"] + "/" + table["record"] == name]
    return "".join(found)
