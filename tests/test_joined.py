"""Several datasets as one: arrays, tables, labels, and a study that is pre-trained on them."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import edit, mistake
from test_own import write_card
from test_prepare import FullDisk
from tiny import do, tiny

from ecgnb.analysis.describe import COMMON, counterparts, describe, find_examples
from ecgnb.data import prepare as room
from ecgnb.data.arrays import Options
from ecgnb.data.catalog import card
from ecgnb.data.labels import LABEL_SETS
from ecgnb.data.prepare import join, prepare
from ecgnb.simulate.hospital import write_hospital
from ecgnb.study.data import fingerprints, missing_datasets, open_dataset, read_labels, read_table

pytestmark = pytest.mark.usefixtures("simulated")


def _study(source):
    pair = {"sizes": [30], "seeds": 1, "arms": ["scratch", "finetune"]}
    side = {"dataset": source, "label_set": "challenge-2021"}
    return tiny(pair, side, learning_rates=[0.003])


@pytest.mark.data
def test_parts_stand_one_behind_the_other_and_a_study_learns_from_them():
    study = _study("sim-north+cpsc2018")
    whole = open_dataset(study, "sim-north+cpsc2018")
    parts = [open_dataset(study, name) for name in ("sim-north", "cpsc2018")]
    assert np.array_equal(whole.signals, np.concatenate([part.signals for part in parts]))
    assert whole.table["record"].is_unique
    assert whole.table["record"].iloc[0].startswith("sim-north/")
    assert whole.table["patient"].nunique() == sum(p.table["patient"].nunique() for p in parts)
    assert open_dataset(study, "sim-north+cpsc2018").folder == whole.folder
    labels = read_labels(whole.table, "sim-north+cpsc2018", "challenge-2021", 0)
    assert list(labels) == list(LABEL_SETS["challenge-2021"].classes)
    for part, rows in zip(parts, np.split(labels.to_numpy(), [len(parts[0].table)]), strict=True):
        own = read_labels(part.table, part.card.name, "challenge-2021", 0)
        assert np.array_equal(own.to_numpy(), rows)
    assert read_table(study, "sim-north+cpsc2018")["record"].equals(whole.table["record"])
    assert fingerprints(study)["sim-north+cpsc2018"] == whole.fingerprint
    results = do(study)
    assert [run.spec.arm for run in results] == ["scratch", "finetune"]
    assert {run.spec.source for run in results} == {"", "sim-north+cpsc2018"}


@pytest.fixture
def hospitals():
    return [prepare(name, Options(simulated_records=12)) for name in ("sim-north", "sim-south")]


@pytest.mark.parametrize("name", ["signals.npy", "records.parquet", "manifest.json"])
def test_a_damaged_whole_is_joined_again(hospitals, name):
    whole = join("sim-north+sim-south", hospitals)
    before = (whole.folder / name).read_bytes()
    (whole.folder / name).unlink()  # the open map lives on
    (whole.folder / name).write_bytes(before[: len(before) // 2])
    again = join("sim-north+sim-south", hospitals)
    assert (again.folder / name).read_bytes() == before
    assert np.array_equal(again.signals, np.concatenate([part.signals for part in hospitals]))


def test_a_full_disk_is_one_sentence_and_leaves_nothing(hospitals, cache, monkeypatch):
    monkeypatch.setattr(room, "_CHUNK", 4)
    with monkeypatch.context() as patch:
        patch.setattr(room, "open", FullDisk, raising=False)
        mistake(r"No space left on device.*free some space", join, "sim-north+sim-south", hospitals)
    assert not [path for path in (cache / "prepared").iterdir() if "joined" in path.name]
    assert len(join("sim-north+sim-south", hospitals).signals) == 24


@pytest.mark.parametrize(
    ("vocabulary", "label_set"),
    [("snomed", COMMON), ("snomed", "unlabelled"), ("text", "unlabelled")],
)
def test_the_chapter_on_the_data_reads_every_part(root, vocabulary, label_set):
    """Each part in its own vocabulary, and none where a source is learnt from without labels."""
    write_hospital(root / "mine", "sim-north", 60, seed=3)
    edit(root / "mine" / "N00000.hea", "#Dx: ", "#Dx: 123,")
    edit(write_card(root, "challenge"), '"own"', f'"{vocabulary}"')
    study = _study("sim-north")
    side = replace(study.pairs[0].source, dataset="sim-north+mine", label_set=label_set)
    study = replace(study, pairs=(replace(study.pairs[0], source=side, min_test_positives=2),))
    source, target = describe(study)
    mine = (source.table["dataset"] == "mine").to_numpy()
    assert source.common[~mine].any().any()
    assert source.common[mine].any().any() == (vocabulary == "snomed")
    assert source.labels.empty == (label_set == "unlabelled")
    table = counterparts(source, target).set_index("label")
    alone = counterparts(describe(_study("sim-north"))[0], target).set_index("label")
    assert (table["source"].dropna() >= alone["source"].dropna()).all()
    assert (table.at["AF", "source"] > alone.at["AF", "source"]) == (vocabulary == "snomed")
    assert len(find_examples(study, source, target)) == 2


def test_a_card_of_several_and_a_missing_part(root):
    whole = card("ptb-xl+cpsc2018")
    assert whole.title == "PTB-XL + CPSC2018"
    assert whole.records == card("ptb-xl").records + card("cpsc2018").records
    assert not whole.patients_known  # of one of them it is not known
    mistake("There is no dataset 'ptb-xk'", card, "ptb-xl+ptb-xk")
    mistake("names ptb-xl twice", card, "ptb-xl+ptb-xl")
    assert missing_datasets(_study("sim-north+georgia")) == ["sim-north+georgia"]
