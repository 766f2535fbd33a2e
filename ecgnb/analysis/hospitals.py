"""How hospitals differ: whether features or labels tell them apart, what their classes mean."""

from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np
import pandas as pd

from ecgnb.analysis.bootstrap import labels_and_patients, scorable
from ecgnb.data.catalog import JOINT, card
from ecgnb.data.labels import label_set as label_set_of
from ecgnb.data.labels import meanings
from ecgnb.data.splits import source_split, subset
from ecgnb.models.kernels import draw_kernels
from ecgnb.study.data import missing_datasets, read_table, results_root
from ecgnb.study.spec import RunSpec, Study
from ecgnb.study.store import Result, open_store
from ecgnb.study.train import Materials
from ecgnb.training.metrics import CALIBRATION_BINS, tell_apart
from ecgnb.training.transferability import energy_distance

DISTANCES = "distances.csv"  # of a recorded study, beside its runs
TRIED = "tried.csv"  # of pairs whose runs are not kept, what the chapter on sources made of them
_FEATURES = 1_000
_SHOWN = 20  # records of a source, from which on a network can have learnt a diagnosis there


def source_diagnoses(study: Study, source: str, label_set: str) -> tuple[str, ...]:
    """Name the diagnoses of which a source has 20 records or more."""
    counts = labels_of(study, source, label_set).sum()
    return tuple(counts.index[counts >= _SHOWN])


def shared_diagnoses(study: Study, came: Iterable[RunSpec]) -> tuple[str, ...]:
    """Name the diagnoses of all sources of networks that are used unchanged, see above."""
    sources = sorted({(spec.source, spec.source_label_set) for spec in came})
    sets = [set(source_diagnoses(study, *source)) for source in sources]
    return tuple(sorted(set.intersection(*sets))) if sets else ()


def labels_of(study: Study, dataset: str, label_set: str) -> pd.DataFrame:
    """Return the labels of a dataset, a row a record; all callers get the same table."""
    return labels_and_patients(study, dataset, label_set)[0]


def reliability(study: Study, runs: Sequence[Result], only: tuple[str, ...] = ()) -> pd.DataFrame:
    """Compare what networks say with how often it is true, over all records and classes.

    Only classes that can be scored take part, as in the calibration error; of them, those of
    `only`, if it is not empty. One row a bin of probability that is not empty: ``said`` and
    ``true`` (means), ``count``.
    """
    said, true = [], []
    for run in runs:
        truth, scores, *_ = scorable(study, run, only)
        said.append(scores.ravel())
        true.append(truth.ravel())
    frame = pd.DataFrame({"said": np.concatenate(said), "true": np.concatenate(true)})
    place = np.minimum((frame["said"] * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    groups = frame.groupby(place)
    return groups.mean().assign(count=groups.size()).reset_index(drop=True)


def told_apart(study: Study, results: Sequence[Result]) -> pd.DataFrame:
    """Average how well features tell the source from the target, and how well labels alone do.

    One row a source, target, arm and size: ``source``, ``target``, ``arm``, ``size``, ``records``,
    ``mean`` (AUROC of the probe on features, over seeds), ``labels`` (that of the same probe on the
    labels of the same records, missing where the two share no class) and ``seeds``.
    """
    rows = []
    for run in results:
        if not pd.isna(probed := run.facts.get("hospital_auroc")):
            spec, source = run.spec, (run.spec.source, run.spec.source_label_set)
            alone = _by_labels(study, *source, spec.dataset, spec.label_set, run.records)
            cell = (spec.source, spec.dataset, spec.arm, spec.size)
            rows.append((*cell, run.facts["train_records"], probed, alone))
    if not rows:
        return pd.DataFrame()
    names = ["source", "target", "arm", "size", "records", "mean", "labels"]
    groups = pd.DataFrame(rows, columns=names).groupby(names[:4], sort=False)
    table = groups[["records", "mean", "labels"]].mean().assign(seeds=groups.size()).reset_index()
    return table.assign(records=table["records"].round().astype(int))


@cache
def _by_labels(
    study: Study, source: str, source_set: str, target: str, label_set: str, tested: tuple[str, ...]
) -> float:
    """Tell two hospitals apart by the classes that both have, on what the features are asked on."""
    labels = [labels_of(study, source, source_set), labels_of(study, target, label_set)]
    both = [name for name in labels[0] if all(name in one and one[name].any() for one in labels)]
    if not both:
        return float("nan")
    tables = [read_table(study, name).set_index("record", drop=False) for name in (source, target)]
    rows = [list(tables[0].index[source_split(tables[0]).test]), list(tested)]
    return tell_apart(
        *[one.loc[some][both].to_numpy(np.float32) for one, some in zip(labels, rows, strict=True)],
        *[one["patient"].loc[some] for one, some in zip(tables, rows, strict=True)],
    )


def definitions(study: Study) -> pd.DataFrame:
    """List of what each class consists in each dataset of a study that is here.

    One row a class, dataset and native code: ``label``, ``dataset``, ``code``, ``records``.
    """
    label_set = study.pairs[0].target.label_set
    absent = missing_datasets(study)
    names = {one for name in study.datasets if name not in absent for one in name.split(JOINT)}
    tables = []
    for name in sorted(names):
        facts = card(name)
        if facts.vocabulary not in label_set_of(label_set).vocabularies:
            continue
        found = meanings(read_table(study, name)["codes"], facts.vocabulary, label_set)
        tables.append(found.assign(dataset=name))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def distances(study: Study) -> pd.DataFrame:
    """Measure how far sources' ECGs lie from targets'; read it where the study is recorded.

    Both are seen by the same 1,000 random convolution kernels, biases from the target; their
    distance is that of `ecgnb.training.transferability.energy_distance`, of all records that train.
    One row a ``source``, ``source_size``, ``target`` and ``draw``: the seed that drew the source's
    records, or the fifth of the target that is left out where they are all; ``distance``.
    """
    names = ["source", "source_size", "target", "draw"]
    path = results_root() / study.name / DISTANCES
    if study.recorded and path.is_file():
        return pd.read_csv(path)
    materials, found = Materials(study, open_store()), {}
    for spec in study.cells():
        first, draw = spec.pretraining(), spec.seed if spec.source_size else spec.seed % 5
        cell = (spec.source, spec.source_size, spec.dataset, draw)
        if first is None or cell in found:
            continue
        rows = subset(materials.split(first), first.size), materials.split(spec).train
        sides = zip((first.dataset, spec.dataset), rows, strict=True)
        signals = [materials.signals(name)[some].float() for name, some in sides]
        kernels = draw_kernels(signals[1], draw, _FEATURES)
        found[cell] = energy_distance(*map(kernels.transform, signals))
    return pd.DataFrame(
        [(*cell, value) for cell, value in found.items()], columns=[*names, "distance"]
    )
