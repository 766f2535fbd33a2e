"""Whether the advice is as sure as it says: given on some patients, held against others.

    python benchmarks/advice.py

For each pair, network and size of the recorded study: what `ecgnb advise` would say of each arm
from three fifths of the patients, and the mean difference that the runs on the other two fifths
show. All ten ways to divide the fifths, which share patients.
"""

from itertools import combinations
from pathlib import Path

import pandas as pd

from ecgnb.analysis.advise import certainty, compare_arms
from ecgnb.analysis.compare import FOLDS
from ecgnb.analysis.statistics import MARGIN
from ecgnb.study.declare import load_study
from ecgnb.study.plan import open_progress
from ecgnb.study.store import Result

RESULTS = Path(__file__).parent / "results" / "advice.json"
STUDY = load_study("clinical")
ADVISED = 3  # fifths


def held_against(runs: list[Result], arm: str) -> float:
    """Return the mean difference from training from scratch, seed by seed."""
    rows = [(run.spec.arm, run.spec.seed, run.facts["auroc"]) for run in runs]
    scores = pd.DataFrame(rows, columns=["arm", "seed", "auroc"])
    table = scores.pivot_table(index="seed", columns="arm", values="auroc")
    return float((table[arm] - table["scratch"]).mean())


def advice(runs: list[Result]) -> list[tuple[str, str, float]]:
    """Return certainty, verdict and what other patients show, of each arm and each division."""
    found = []
    for advised in combinations(range(FOLDS), ADVISED):
        mine = [run for run in runs if run.spec.seed % FOLDS in advised]
        others = [run for run in runs if run.spec.seed % FOLDS not in advised]
        _, gains, _ = compare_arms(STUDY, mine)
        for row in gains.itertuples():
            found.append((certainty(row), str(row.verdict), held_against(others, str(row.arm))))
    return found


def main() -> None:
    cells: dict[tuple[object, ...], list[Result]] = {}
    finished = [run for run in open_progress(STUDY).finished() if run.spec.head != "flattened"]
    for run in finished:
        spec = run.spec
        if spec.source and spec.arm != "random-probe":
            cells.setdefault((spec.source, spec.dataset, spec.model, spec.size), []).append(run)
    rows = []
    for (_, target, model, size), runs in cells.items():
        for run in finished:
            spec = run.spec
            alone = spec.arm == "no-network" or (spec.arm == "scratch" and spec.model == model)
            if alone and (spec.dataset, spec.size) == (target, size):
                runs.append(run)
        if len({run.spec.seed for run in runs if run.spec.source}) >= 2 * FOLDS:
            rows += advice(runs)
    table = pd.DataFrame(rows, columns=["certainty", "verdict", "others"])
    right = {
        "helps": table["others"] > 0,
        "harms": table["others"] < 0,
        "equivalent": table["others"].abs() < 2 * MARGIN,
    }
    told = table[table["verdict"] != "undecided"].copy()
    told["right"] = False
    for verdict, answers in right.items():
        told["right"] |= (told["verdict"] == verdict) & answers
    kept = told.groupby(["certainty", "verdict"])["right"].agg(["mean", "count"]).reset_index()
    print(f"{len(table)} answers, {len(table) - len(told)} of them: cannot tell")
    print(kept.round(3).to_string(index=False))
    RESULTS.write_text(kept.to_json(orient="records", indent=1) + "\n")


if __name__ == "__main__":
    main()
