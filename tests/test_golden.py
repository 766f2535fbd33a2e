"""Every kind of comparison of the recorded studies, beside what an independent layer made of them.

``golden/comparisons.parquet`` was computed at commit d289c91 by another implementation, run by run,
that has since been removed. Scores and their bootstraps are stand-ins, drawn from the names of the
runs: what is compared is the pairing, the rounds and the statistics.
"""

import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ecgnb.analysis import compare, convergence, curves
from ecgnb.analysis.compare import CELL, FROM, NET, TASK, pair, runs_table, summarise
from ecgnb.models import HEADS, MODELS
from ecgnb.study.declare import load_study
from ecgnb.study.plan import open_progress

GOLDEN = Path(__file__).parent / "golden" / "comparisons.parquet"
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
    across = summarise(across, [*CELL, *OTHERS])
    yield "across", across[["size", *NET, *OTHERS[2:], *across.columns[len(CELL) + 4 :]]]
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
        found, close = table.set_axis(rows).loc[wanted.index, same], {"rtol": 1e-10, "atol": 1e-12}
        pd.testing.assert_frame_equal(found, wanted[same], check_dtype=False, **close)
        seen.add(title)
    assert seen == set(golden["table"])
