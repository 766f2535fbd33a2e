"""Whether bfloat16 changes what the clinical study finds: its runs again in float32.

Run as ``python benchmarks/precision.py`` with ECGNB_DATA set; it takes a good hour of four cores,
keeps what is done in ECGNB_CACHE, and writes ``results/precision.json`` beside this file. The
recorded runs of ResNet1d18 were trained in bfloat16; here each is trained again in float32, its
pre-training too, with the same records, seed and learning rate.
"""

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor as Pool
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import describe
from scipy import stats
from tqdm import tqdm

from ecgnb.data.catalog import cache_root
from ecgnb.study.data import recorded_runs
from ecgnb.study.declare import load_study
from ecgnb.study.plan import Progress
from ecgnb.study.run import default_workers
from ecgnb.study.spec import RunSpec, size_label
from ecgnb.study.store import Store
from ecgnb.study.train import Materials, execute

STUDY, MODEL = "clinical", "resnet1d18"
ARMS = ("scratch", "finetune")


def measure() -> dict[str, Any]:
    """Train the recorded runs again in float32, and compare them run by run."""
    study = load_study(STUDY, models=[MODEL])
    # The recorded runs alone.
    state = Progress(study, Store(cache_root() / "none", recorded_runs(study)))
    recorded = [run for run in state.finished() if run.spec.arm in ARMS]
    again = Store(cache_root() / "float32")
    final = [run.spec for run in recorded]
    sources = dict.fromkeys(source for spec in final if (source := spec.pretraining()))
    context = multiprocessing.get_context("spawn")
    workers = default_workers(study)
    with Pool(workers, context, torch.set_num_threads, (1,)) as pool:
        for specs in (list(sources), final):
            work = pool.map(partial(_train, again), specs)
            for _ in tqdm(work, total=len(specs), desc="float32"):
                pass
    rows = []
    for run in recorded:
        other = again.load(run.key)
        assert other is not None
        rows.append((run.spec, run.facts["auroc"], other.facts["auroc"]))
    return {
        "machine": describe(workers),
        "seeds": list(study.seeds),
        "all": _compare(rows),
        "by_arm_and_size": [
            {"arm": arm, "records": size_label(size)}
            | _compare([row for row in rows if (row[0].arm, row[0].size) == (arm, size)])
            for arm in ARMS
            for size in study.pairs[0].sizes
        ],
    }


def main() -> None:
    text = json.dumps(measure(), indent=1)
    (Path(__file__).parent / "results" / "precision.json").write_text(text + "\n")
    print(text)


def _train(store: Store, spec: RunSpec) -> None:
    materials = Materials(load_study(STUDY, models=[MODEL]), store)
    if store.load(spec.key(materials.fingerprints)) is None:
        execute(materials, spec, "float32")


def _compare(rows: list[tuple[RunSpec, float, float]]) -> dict[str, object]:
    """Compare the test AUROC of both precisions run by run; the interval is over seeds."""
    halves, wholes = (np.array([row[column] for row in rows]) for column in (1, 2))
    seeds = np.array([row[0].seed for row in rows])
    differences = [float((halves - wholes)[seeds == seed].mean()) for seed in np.unique(seeds)]
    reach = stats.t.ppf(0.975, len(differences) - 1) * stats.sem(differences)
    mean = float(np.mean(differences))
    return {
        "runs": len(rows),
        "bf16": round(float(halves.mean()), 4),
        "float32": round(float(wholes.mean()), 4),
        "difference": round(mean, 4),
        "interval": [round(mean - reach, 4), round(mean + reach, 4)],
    }


if __name__ == "__main__":
    main()
