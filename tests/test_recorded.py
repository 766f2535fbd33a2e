"""The recorded runs of the published studies: read without data, and held to what they promise."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from ecgnb.analysis.compare import Scores, compare_arms
from ecgnb.chapters import common
from ecgnb.data.catalog import card
from ecgnb.data.labels import encode
from ecgnb.models import MODELS
from ecgnb.report import prose
from ecgnb.report.wording import signed
from ecgnb.study.data import read_table, recorded_runs, results_root
from ecgnb.study.declare import load_study, study_names
from ecgnb.study.plan import open_progress

STUDY = load_study("clinical")
pytestmark = pytest.mark.skipif(not recorded_runs(STUDY).exists(), reason="no recorded runs")


@pytest.fixture(scope="module")
def progress(tmp_path_factory):
    """What is recorded, with no data and nothing in the cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ECGNB_DATA", raising=False)
        patch.setenv("ECGNB_CACHE", str(tmp_path_factory.mktemp("empty")))
        yield open_progress(STUDY)


@pytest.fixture(scope="module")
def results(progress):
    return progress.finished()


def test_the_main_pair_is_whole_and_answers_without_data(progress, results):
    main = replace(STUDY, pairs=STUDY.pairs[:1])
    done = {replace(run.spec, learning_rate=0.0, source_learning_rate=0.0) for run in results}
    assert set(main.cells()) <= done
    gain = compare_arms(STUDY, common.main_pair(STUDY, results, head="pooled"))
    text = prose.answer(gain).data
    said = {}
    for sizes, line in re.findall(r"^- \*\*(.+?):\*\* (.+)$", text, re.MULTILINE):
        for title, differences in re.findall(r"(\w+) \(([^)]+)\)", line):
            pairs = zip(*(re.split(", | and ", part) for part in (sizes, differences)), strict=True)
            said |= {(title, records): difference for records, difference in pairs}
    assert said == {
        (MODELS[row.model].title, f"{row.records:,}"): signed(row.difference)
        for row in gain.itertuples()
    }
    few, many = (gain[gain["model"] == "resnet1d18"].iloc[end] for end in (0, -1))
    assert f"macro AUROC is {few.second:.3f} to {many.second:.3f} from scratch" in text


@pytest.mark.parametrize(
    "name", [name for name in study_names() if recorded_runs(load_study(name)).exists()]
)
def test_every_recorded_run_is_one_of_its_study(name, tmp_path, monkeypatch):
    monkeypatch.delenv("ECGNB_DATA", raising=False)
    monkeypatch.setenv("ECGNB_CACHE", str(tmp_path))
    study = load_study(name)
    recorded = set(pd.read_parquet(recorded_runs(study), columns=["key"])["key"])
    assert {run.key for run in open_progress(study).all_done()} == recorded


def test_five_seeds_test_every_record_once(results):
    for dataset in {run.spec.dataset for run in results}:
        tested = {}
        for run in results:
            if run.spec.dataset == dataset:
                tested.setdefault(run.spec.seed % 5, set()).update(run.records)
        for one, other in itertools.combinations(tested.values(), 2):
            assert not one & other
        assert set().union(*tested.values()) == set(read_table(STUDY, dataset)["record"])


def test_an_arm_does_not_beat_itself(results):
    """A/A: the same arm with disjoint seeds, in every way to say which run is the first.

    The seeds s and s + 5 test on the same patients. Whichever of the two is called the first in
    each fold, the verdict should seldom be that it helps or harms.
    """
    scores = Scores(STUDY, results)
    verdicts = []
    for cell, arm in {(cell, arm) for cell, arm, _ in scores.runs}:
        runs = scores.of(cell, arm)
        if not set(range(10)) <= runs.keys():
            continue
        # Half of the ways: the other half are their mirror images.
        for turned in itertools.product((False, True), repeat=4):
            swapped = dict(enumerate((False, *turned)))
            first = {seed: runs[seed + 5 * swapped[seed]] for seed in range(5)}
            second = {seed: runs[seed + 5 * (not swapped[seed])] for seed in range(5)}
            difference = scores.contrast([(1.0, first), (-1.0, second)])
            verdicts.append(difference.verdict)
    assert len(verdicts) >= 200
    wrong = np.mean([verdict in ("helps", "harms") for verdict in verdicts])
    assert wrong <= 0.05


@pytest.mark.slow
def test_an_outsider_can_recompute_a_table_of_chapter_one(results):
    """The files in results/, pandas and scikit-learn are enough; nothing of the package."""
    pair = STUDY.pairs[0]
    runs = pd.read_parquet(recorded_runs(STUDY))
    runs = runs[(runs["stage"] == "final") & (runs["dataset"] == pair.target.dataset)]
    runs = runs[runs["model"].isin(pair.models) & (runs["head"] == "pooled")]
    runs = runs[runs["source"].isin(["", pair.source.dataset])]
    table = pd.read_csv(results_root() / "records" / f"{pair.target.dataset}.csv", dtype=str)
    codes = table.set_index("record")["codes"]
    labels = encode(codes, card(pair.target.dataset).vocabulary, pair.target.label_set)
    aurocs = []
    for run in runs.itertuples():
        scores = np.frombuffer(run.predictions, "f2").reshape(len(run.records), -1)
        truth = labels.loc[run.records, run.classes].to_numpy()
        use = (truth.sum(axis=0) >= 10) & ((~truth).sum(axis=0) >= 10)
        aurocs.append(roc_auc_score(truth[:, use], scores[:, use]))
    means = runs.assign(auroc=aurocs).groupby(["model", "size", "arm"])["auroc"].mean()
    gain = compare_arms(STUDY, common.main_pair(STUDY, results, head="pooled"))
    for row in gain[gain["model"].isin(pair.models)].itertuples():
        assert row.first == pytest.approx(means[row.model, row.size, "finetune"])
        assert row.second == pytest.approx(means[row.model, row.size, "scratch"])
        assert row.difference == pytest.approx(row.first - row.second)
