"""Several datasets as one: arrays, tables, labels, and a study that is pre-trained on them."""

import copy

import numpy as np
import pytest
from test_study import TINY

from ecgnb.data.catalog import card
from ecgnb.data.labels import LABEL_SETS
from ecgnb.errors import UserError
from ecgnb.study.data import fingerprints, missing_datasets, open_dataset, read_labels, read_table
from ecgnb.study.declare import build_study
from ecgnb.study.run import run_study


def _study(source):
    table = copy.deepcopy(TINY)
    pair = table["pairs"][0]
    pair["source"] |= {"dataset": source, "label_set": "challenge-2021"}
    pair |= {"sizes": [30], "seeds": 1, "arms": ["scratch", "finetune"]}
    return build_study("joined", table)


@pytest.mark.data
def test_parts_stand_one_behind_the_other():
    study = _study("sim-north+ptb-xl")
    whole = open_dataset(study, "sim-north+ptb-xl")
    parts = [open_dataset(study, name) for name in ("sim-north", "ptb-xl")]
    assert np.array_equal(whole.signals, np.concatenate([part.signals for part in parts]))
    assert whole.table["record"].is_unique
    assert whole.table["record"].iloc[0].startswith("sim-north/")
    assert whole.table["patient"].nunique() == sum(p.table["patient"].nunique() for p in parts)
    assert open_dataset(study, "sim-north+ptb-xl").folder == whole.folder
    labels = read_labels(whole.table, "sim-north+ptb-xl", "challenge-2021", 0)
    assert list(labels) == list(LABEL_SETS["challenge-2021"].classes)
    for part, rows in zip(parts, np.split(labels.to_numpy(), [len(parts[0].table)]), strict=True):
        own = read_labels(part.table, part.card.name, "challenge-2021", 0)
        assert np.array_equal(own.to_numpy(), rows)
    assert read_table(study, "sim-north+ptb-xl")["record"].equals(whole.table["record"])
    assert fingerprints(study)["sim-north+ptb-xl"] == whole.fingerprint


def test_a_card_of_several():
    whole = card("ptb-xl+cpsc2018")
    assert whole.title == "PTB-XL + CPSC2018"
    assert whole.records == card("ptb-xl").records + card("cpsc2018").records
    assert not whole.patients_known  # of one of them it is not known
    with pytest.raises(UserError, match="There is no dataset 'ptb-xk'"):
        card("ptb-xl+ptb-xk")


def test_the_target_must_not_be_among_the_sources():
    with pytest.raises(UserError, match="have patients in common"):
        _study("sim-north+sim-south")
    with pytest.raises(UserError, match="have patients in common"):
        _study("sim-south+ptb-xl")


def test_one_missing_part_is_a_missing_source(monkeypatch, tmp_path):
    monkeypatch.setenv("ECGNB_DATA", str(tmp_path))
    assert missing_datasets(_study("sim-north+georgia")) == ["sim-north+georgia"]


@pytest.mark.data
def test_a_study_with_a_joined_source_runs():
    results = run_study(_study("sim-north+cpsc2018"), workers=1, progress=False)
    assert [run.spec.arm for run in results] == ["scratch", "finetune"]
    assert {run.spec.source for run in results} == {"", "sim-north+cpsc2018"}
