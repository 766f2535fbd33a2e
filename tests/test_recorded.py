"""The recorded runs of the published studies: read without data, and held to what they promise.

``golden/comparisons.parquet`` was computed from them at commit d289c91 by another implementation,
run by run, that has since been removed. Scores and their bootstraps are stand-ins there, drawn from
the names of the runs: what is compared is the pairing, the rounds and the statistics.
"""

import hashlib
import itertools
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ecgnb.analysis import compare, convergence, curves
from ecgnb.analysis.compare import CELL, FROM, NET, TASK, pair, runs_table, summarise
from ecgnb.analysis.statistics import Fold, paired_difference
from ecgnb.models import HEADS, MODELS
from ecgnb.study.data import read_table
from ecgnb.study.declare import load_study
from ecgnb.study.plan import open_progress
from ecgnb.study.spec import changed

STUDY = load_study("clinical")


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


GOLDEN = Path(__file__).parent / "golden" / "comparisons.parquet"
CLOSE = {"rtol": 1e-10, "atol": 1e-12, "check_dtype": False}
OTHERS = [f"{name}_other" for name in (*FROM, *NET)]


def stand_in(study, run, metric, only):
    rng = np.random.default_rng(zlib.crc32(f"{run.key} {metric} {only}".encode()))
    common = np.random.default_rng(run.spec.seed % 5).normal(0, 0.01, 1000)
    if len(only) == 1 and rng.random() < 0.02:
        return None
    score = run.facts["f1" if metric == "f1" else "auroc"] + 0.05 * rng.random()
    return score, score + common + rng.normal(0, 0.005, 1000)


def gains_of(runs):
    return pair(*(runs[runs["arm"] == arm] for arm in ("finetune", "scratch")))


def tables(name, monkeypatch):
    """Yield each comparison of a study, by its name in the golden table."""
    study = load_study(name)
    results = [run for run in open_progress(study).finished() if "auroc" in run.facts]
    monkeypatch.setattr(compare, "_scored", stand_in)
    runs = runs_table(study, results)
    yield "arms finetune scratch", summarise(gains_of(runs))
    yield "arms f1", summarise(gains_of(runs_table(study, results, "f1")))
    yield "means", summarise(runs, [*CELL, "arm"])
    tuned = runs[runs["arm"] == "finetune"]
    sides = pair(tuned, tuned)
    sides = sides[sides["source"] < sides["source_other"]]
    yield "sources", summarise(sides, [*CELL, "source_other"])
    first = study.pairs[0]
    main = runs[runs["dataset"] == first.target.dataset]
    main = main[main["source"].isin(["", first.source.dataset])]
    tuned, scratch = (main[main["arm"] == arm] for arm in ("finetune", "scratch"))
    across = pair(scratch, tuned, TASK)
    across = across[across["model"] != across["model_other"]]
    yield "across", summarise(across, [*CELL, *OTHERS])
    gains = gains_of(main)
    twice = pair(gains, gains, [*FROM, *TASK])
    place = [
        twice[f"head{end}"].map(HEADS.index) * 100 + twice[f"model{end}"].map(list(MODELS).index)
        for end in ("", "_other")
    ]
    yield "gains", summarise(twice[place[0] < place[1]], [*CELL, "model_other", "head_other"])
    if name == "jang2021":
        return  # two starts of its autoencoders were once fitted as one curve
    results = list(main["run"])
    monkeypatch.setattr(curves, "_REPLICATES", 50)
    found = [
        {**vars(one), "size": int(size), "mean": mean, "low": low, "high": high}
        for one in curves.data_multipliers(study, results)
        for size, mean, low, high in zip(one.records, *one.multiples, strict=True)
    ]
    yield "multiples", pd.DataFrame(found)
    times = convergence.times_to_target(study, results)
    names = {"saved": "mean", "scratch_mean": "first", "other_mean": "second"}
    summary = convergence.summarise_times(times).rename(columns=names)
    yield "times", summary.rename(columns={"budget": "updates"})
    names = {"targets": "mean", "fewest": "low", "most": "high", "budget": "updates"}
    yield "costs", convergence.break_even(times).rename(columns=names)


@pytest.mark.parametrize("name", sorted(set(pd.read_parquet(GOLDEN, columns=["study"])["study"])))
def test_comparisons_are_what_they_were(name, monkeypatch):
    golden = pd.read_parquet(GOLDEN)
    golden = golden[golden["study"] == name]
    seen = set()
    for title, table in tables(name, monkeypatch):
        wanted = golden[golden["table"] == title].set_index("row").dropna(axis=1, how="all")
        if wanted.empty:
            continue
        keys = [part.split("=")[0] for part in wanted.index[0].split(" ")]
        cells = table[keys].to_dict("records")
        rows = [" ".join(f"{key}={value}" for key, value in cell.items()) for cell in cells]
        same = [one for one in wanted if one in table and one not in ("study", "table")]
        assert "mean" in same
        found = table.set_axis(rows).loc[wanted.index, same].rename_axis("row")
        pd.testing.assert_frame_equal(found, wanted[same], **CLOSE)
        seen.add(title)
    assert seen == set(golden["table"])
