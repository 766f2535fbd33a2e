"""How hospitals differ: whether features or labels tell them apart, what their classes mean."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pandas as pd

from ecgnb.data.catalog import JOINT, card
from ecgnb.data.labels import label_set as label_set_of
from ecgnb.data.labels import meanings
from ecgnb.data.splits import source_split
from ecgnb.study.data import missing_datasets, read_table
from ecgnb.study.generalise import labels_of
from ecgnb.study.grid import Study
from ecgnb.study.result import Result
from ecgnb.training.hospitals import tell_apart


def told_apart(study: Study, results: Sequence[Result]) -> pd.DataFrame:
    """Average how well features tell the source from the target, and how well labels alone do.

    Returns
    -------
    DataFrame
        One row a source, target, arm and size: ``source``, ``target``, ``arm``, ``size``,
        ``records``, ``mean`` (AUROC of the probe on features, over seeds), ``labels`` (that of the
        same probe on the labels of the same records, missing where the two share no class) and
        ``seeds``.
    """
    rows = []
    groups: dict[tuple[str, str, str, int], list[Result]] = {}
    for run in results:
        if "hospital_auroc" in run.facts and not pd.isna(run.facts["hospital_auroc"]):
            spec = run.spec
            groups.setdefault((spec.source, spec.dataset, spec.arm, spec.size), []).append(run)
    for (source, target, arm, size), runs in groups.items():
        sides = [(source, run.spec.source_label_set, target, run.spec.label_set) for run in runs]
        rows.append(
            {
                "source": source,
                "target": target,
                "arm": arm,
                "size": size,
                "records": round(np.mean([run.facts["train_records"] for run in runs])),
                "mean": np.mean([run.facts["hospital_auroc"] for run in runs]),
                "labels": np.mean(
                    [
                        _by_labels(study, *names, run.records)
                        for names, run in zip(sides, runs, strict=True)
                    ]
                ),
                "seeds": len(runs),
            }
        )
    return pd.DataFrame(rows)


@cache
def _by_labels(
    study: Study, source: str, taught: str, target: str, label_set: str, tested: tuple[str, ...]
) -> float:
    """Tell two hospitals apart by the classes that both have, on what the features are asked on."""
    labels = [labels_of(study, source, taught), labels_of(study, target, label_set)]
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

    Returns
    -------
    DataFrame
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
