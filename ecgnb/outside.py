"""Features of somebody else's encoder: a linear probe on them beside the runs of a study."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import entry_points
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from safetensors.torch import load_file

from ecgnb.analysis.advise import certainty
from ecgnb.analysis.compare import pair, runs_table, summarise
from ecgnb.data.own import check_file
from ecgnb.data.prepare import Prepared
from ecgnb.data.splits import subset, target_split
from ecgnb.errors import UserError
from ecgnb.files import read_toml
from ecgnb.models import MODELS, NO_NETWORK
from ecgnb.models.kernels import ridge
from ecgnb.study.data import open_dataset, read_labels, read_table
from ecgnb.study.plan import open_progress, write_part
from ecgnb.study.spec import Study, changed, size_label
from ecgnb.study.store import Result
from ecgnb.training.arms import ARMS
from ecgnb.training.metrics import alarm_thresholds, auroc, best_thresholds, evaluate
from ecgnb.training.transferability import h_score, logme

_ARM = "linear-probe"
_KEYS = ["target", "label_set", "min_positives", "size"]
_LEAK = 0.995  # AUROC that no single number about an ECG reaches honestly
_FACTS = ("title", "licence", "url", "trained_on")
_GROUP, _WEIGHTS, _BATCH = "ecgnb.encoders", "model.safetensors", 64  # records


@dataclass(frozen=True)
class Features:
    """What an encoder says of the records of a dataset."""

    name: str  # of its folder
    facts: dict[str, str]  # title, licence, url and trained_on, as far as card.toml says them
    values: npt.NDArray[np.float32]  # shape (records, features)


def read_features(folder: Path, records: pd.Series) -> Features:
    """Read a folder with ``features.npy``, ``records.csv`` and, if it is there, ``card.toml``.

    Parameters
    ----------
    folder : Path
        The column ``record`` of ``records.csv`` names the rows of the array.
    records : Series of str
        The records that are wanted, in the order that is wanted.

    Raises
    ------
    UserError
        If a file is missing or damaged, a row has no or two names, a number is missing, or a
        record has no features.
    """
    try:
        values = np.load(check_file(folder / "features.npy"), allow_pickle=False)
        rows = pd.read_csv(check_file(folder / "records.csv"), dtype=str)["record"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{folder} must hold features.npy, of shape (records, features), and records.csv with "
            f"a column 'record' ({type(error).__name__}: {error})"
        ) from error
    if values.ndim != 2 or values.dtype.kind not in "fiu" or len(values) != len(rows):
        raise UserError(
            f"{folder}: features.npy holds {values.dtype} of shape {values.shape}, and "
            f"records.csv names {len(rows)} rows; it must be a matrix of numbers with a row a name"
        )
    if rows.duplicated().any():
        raise UserError(f"{folder}: records.csv names {rows[rows.duplicated()].iloc[0]} twice")
    places = pd.Series(range(len(rows)), index=rows).reindex(records)
    if places.isna().any():
        first = places.index[places.isna()][0]
        raise UserError(
            f"{folder} has no features of {int(places.isna().sum())} of {len(records)} records, "
            f"such as {first}; it names {rows.iloc[0] if len(rows) else 'none'}"
        )
    return _checked(folder, values[places.to_numpy(int)].astype(np.float32))


def _said(folder: Path) -> dict[str, Any]:
    card = folder / "card.toml"
    return read_toml(card, "card") if card.exists() else {}


def _checked(folder: Path, values: npt.NDArray[np.float32]) -> Features:
    if not np.isfinite(values).all():
        raise UserError(f"{folder}: the features hold numbers that are missing or infinite")
    facts = {key: str(value) for key, value in _said(folder).items() if key in _FACTS}
    return Features(folder.name, facts, values)


def encode(folder: Path, encoder: str, records: Prepared, rate: float) -> Features:
    """Let an encoder of one's own make the features of a prepared dataset.

    Parameters
    ----------
    folder : Path
        With ``model.safetensors``, where the encoder has weights.
    encoder : str
        Its name among the entry points ``ecgnb.encoders`` of the installed packages: a function
        that takes a dict of the weights, tensors by name, and returns another, which takes
        records, a float32 tensor of microvolts of shape (records, 12, samples), and their rate in
        Hz, and returns their features, (records, features).
    records : Prepared
    rate : float
        Sampling rate of the prepared records in Hz.

    Raises
    ------
    UserError
        If no installed package has that encoder, the weights are damaged, or it fails.
    """
    there = {point.name: point for point in entry_points(group=_GROUP)}
    if encoder not in there:
        raise UserError(
            f"no installed package has an encoder '{encoder}' (there {', '.join(there) or 'are'}"
            f"{'' if there else ' none'}); a package names it under the entry points '{_GROUP}'"
        )
    weights, signals = folder / _WEIGHTS, records.signals
    try:
        ask = there[encoder].load()(load_file(weights) if weights.exists() else {})
        with torch.inference_mode():
            batches = [signals[i : i + _BATCH] for i in range(0, len(signals), _BATCH)]
            said = [ask(torch.from_numpy(batch.astype(np.float32)), rate) for batch in batches]
        values = np.concatenate([np.asarray(one, np.float32) for one in said])
    except Exception as error:  # it is anybody's code
        raise UserError(
            f"the encoder '{encoder}' failed ({type(error).__name__}: {error})"
        ) from error
    if values.ndim != 2 or len(values) != len(signals):
        raise UserError(
            f"the encoder '{encoder}' made an array of shape {values.shape} of "
            f"{len(signals)} records; a row a record is wanted"
        )
    return _checked(folder, values)


def probe(study: Study, folder: Path, part: Path | None = None, origin: str = "") -> Iterator[str]:
    """Say, line by line, what a linear probe on features reaches beside a study's finished runs.

    They are read from the folder, see `read_features`, or made by the ``encoder`` that its
    ``card.toml`` names, see `encode`.

    The same records train, validate and test, and the same classes are scored, as in the study's
    first pair; a ridge regression, its penalty chosen within the training records. They are written
    as a `part`, if one is named, which stands in the book as somebody else's runs do.

    Raises
    ------
    UserError
        See `read_features` and `encode`; or if the study's target is not here.
    """
    side = study.pairs[0].target
    if encoder := _said(folder).get("encoder"):
        prepared = open_dataset(study, side.dataset)
        table, features = prepared.table, encode(folder, encoder, prepared, study.data.rate)
    else:
        table = read_table(study, side.dataset)
        features = read_features(folder, table["record"])
    yield f"{features.facts.get('title', features.name)}: {features.values.shape[1]} features" + (
        "".join(f"; {key} {value}" for key, value in features.facts.items() if key != "title")
    )
    labels = read_labels(table, side.dataset, side.label_set, side.min_positives)
    yield from leaks(features, labels)
    mine, scores = zip(*_runs(study, features, table, labels), strict=True)
    means = pd.DataFrame(scores).mean()
    yield "  before any training: " + ", ".join(f"{k} {v:.3f}" for k, v in means.items())
    others = [run for run in open_progress(study).finished() if run.spec.dataset == side.dataset]
    runs = runs_table(study, [*mine, *others])
    own = (runs["arm"] == _ARM) & (runs["source"] == features.name)
    for row in summarise(runs[own], _KEYS).itertuples():
        yield f"  {row.records} records: AUROC {row.mean:.3f} ({row.low:.3f} to {row.high:.3f})"
    beside = pair(runs[own], runs[~own & (runs["head"] != "flattened")], _KEYS)
    by = ["size", "arm_other", "model_other", "source_other"]
    for row in summarise(beside, by).itertuples():
        arm, model, source = str(row.arm_other), str(row.model_other), str(row.source_other)
        kind = ARMS[arm].title + f", {MODELS[model].title}" * (model != NO_NETWORK)
        kind += f" on {source}" * bool(source)
        yield (
            f"  {size_label(int(str(row.size)))}: less {kind}: {row.mean:+.3f} ({row.low:+.3f} to "
            f"{row.high:+.3f}) {row.verdict}, certainty {certainty(row)}"
        )
    if part:
        yield f"written: {write_part(study, part, origin or features.name, mine)}"


def leaks(features: Features, labels: pd.DataFrame) -> Iterator[str]:
    """Say where one feature alone tells who has a label: it may have been made from the labels."""
    for name in labels:
        has = labels[[name]].to_numpy()
        if min(has.sum(), (~has).sum()) < 5:
            continue
        area = auroc(np.broadcast_to(has, features.values.shape), features.values)
        place = int(np.abs(area - 0.5).argmax())
        if max(area[place], 1 - area[place]) > _LEAK:
            yield (
                f"  LEAK? feature {place} alone tells who has {name}: AUROC "
                f"{max(area[place], 1 - area[place]):.3f}; was it made from the labels?"
            )


def _runs(
    study: Study, features: Features, table: pd.DataFrame, labels: pd.DataFrame
) -> Iterator[tuple[Result, dict[str, float]]]:
    """Fit the probe for each seed and size; with the scores of transferability."""
    truth = labels.to_numpy()
    shown = np.atleast_1d(truth.any(axis=0))
    first, cells = study.pairs[0], study.cells()
    mine = (one for one in cells if (one.dataset, one.arm) == (first.target.dataset, "scratch"))
    for (seed, size), cell in {(one.seed, one.size): one for one in mine}.items():
        split = target_split(table, truth, seed)
        rows = subset(split, size)
        asked = features.values[split.validation], features.values[split.test]
        validation, test = ridge(features.values[rows], truth[rows], *asked)
        spec = changed(
            cell,
            **{"arm": _ARM, "model": NO_NETWORK, "head": "pooled", "size": size, "recipe": ""},
            **{"source": features.name, "source_label_set": "", "updates": first.target.updates},
        )
        thresholds = best_thresholds(truth[split.validation], validation)
        alarms = alarm_thresholds(truth[split.validation], validation)
        tested = truth[split.test], test.astype(np.float64)
        measured = asdict(evaluate(*tested, thresholds, first.min_test_positives))
        result = Result(
            f"{features.name}-{seed}-{size}",
            spec,
            tuple(compress(labels.columns, shown)),
            tuple(table["record"].iloc[split.test]),
            test.astype(np.float16)[:, shown],
            {},
            {
                **measured,
                "train_records": len(rows),
                "thresholds": thresholds[shown].tolist(),
                "alarm_thresholds": alarms[shown].tolist(),
            },
        )
        known = features.values[rows].astype(np.float64), truth[rows]
        use = known[1].any(axis=0) & ~known[1].all(axis=0)
        wanted = known[0], known[1][:, use]
        yield result, {"LogME": logme(*wanted), "H-score": h_score(*wanted)}
