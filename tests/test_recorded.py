"""The recorded runs of the published studies: read without data, and held to what they promise."""

import hashlib
import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from ecgnb.analysis.compare import CELL, pair, runs_table
from ecgnb.analysis.statistics import Fold, paired_difference
from ecgnb.study.data import read_table, recorded_runs
from ecgnb.study.declare import load_study
from ecgnb.study.plan import open_progress
from ecgnb.study.spec import changed

STUDY = load_study("clinical")
pytestmark = pytest.mark.skipif(not recorded_runs(STUDY), reason="no recorded runs")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What is recorded, with no data and nothing in the cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ECGNB_DATA", raising=False)
        patch.setenv("ECGNB_CACHE", str(tmp_path_factory.mktemp("empty")))
        yield open_progress(STUDY).finished()


def test_the_main_pair_is_whole_without_data(results):
    main = replace(STUDY, pairs=STUDY.pairs[:1])
    done = {replace(run.spec, learning_rate=0.0, source_learning_rate=0.0) for run in results}
    assert set(main.cells()) <= done


@pytest.mark.parametrize(
    ("name", "number", "digest"),
    [
        ("avetisyan2023", 490, "abdc05e4d06050b6"),
        ("clinical", 2164, "bcea87c4b16a861a"),
        ("clinical-cut", 180, "db0fe529a1b673f3"),
        ("clinical-paper", 70, "1576d3b1bcde5c36"),
        ("clinical-sources", 250, "81b9fb00fd2c1af7"),
        ("jang2021", 377, "4fa84fca80863f5c"),
    ],
)
def test_keys_are_those_that_were_recorded(name, number, digest):
    """What the declaration gives today is what it gave; runs may be added, with new values here."""
    keys = sorted(run.key for run in open_progress(load_study(name)).all_done())
    assert len(keys) == number
    assert hashlib.sha256("".join(keys).encode()).hexdigest()[:16] == digest


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
    verdicts = []
    few = [run for run in results if run.spec.seed < 10]
    counts = Counter(changed(run.spec, seed=0) for run in few)
    twice = [run for run in few if counts[changed(run.spec, seed=0)] == 10]
    for _, runs in runs_table(STUDY, twice).groupby([*CELL, "arm"]):
        first, second = (runs[runs["seed"] // 5 == half].assign(seed=range(5)) for half in (0, 1))
        rows = pair(first, second, on=[])
        # Half of the ways: the other half are their mirror images.
        for turned in itertools.product((1, -1), repeat=4):
            folds = [
                Fold(np.array([sign * score]), sign * boot[None])
                for sign, score, boot in zip((1, *turned), rows["score"], rows["boot"], strict=True)
            ]
            verdicts.append(paired_difference(folds).verdict)
    assert len(verdicts) >= 200
    wrong = np.mean([verdict in ("helps", "harms") for verdict in verdicts])
    assert wrong <= 0.05
