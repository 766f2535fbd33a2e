"""How real the simulator is: a model that saw only simulated ECGs, tested on clinical ones.

Run as ``python benchmarks/sim_to_real.py`` with ECGNB_DATA set; writes ``results/sim_to_real.json``
beside this file. ResNet1d18 is trained on both simulated hospitals (folds 1-8), its checkpoint is
chosen on simulated records too (folds 9-10), and every clinical record that is there tests it.
The network never meets a clinical ECG, but the simulator's author did: amplitudes and spreads were
set by hand to PTB-XL (ecgnb/simulate/heart.py), and then revised after an earlier model's errors
on it. So this is a test without clinical training records, not one on datasets never looked at.
"""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import cpu

from ecgnb.data.arrays import Options
from ecgnb.data.labels import encode, label_set
from ecgnb.data.prepare import Prepared, prepare
from ecgnb.models.build import build_model
from ecgnb.study.store import provenance
from ecgnb.training.device import choose_device, choose_precision, share
from ecgnb.training.fit import Schedule, fit
from ecgnb.training.inputs import Data, Records, predict
from ecgnb.training.metrics import auroc

HOSPITALS = ("sim-north", "sim-south")
CLINICAL = ("ptb-xl", "chapman-shaoxing")
MODEL = "resnet1d18"
LABEL_SET = "challenge-2021"
CLASSES = ("AF", "STach", "SB", "LBBB", "RBBB", "IAVB", "PVC")
COLUMNS = [label_set(LABEL_SET).classes.index(name) for name in CLASSES]
RECORDS = 5000  # of each hospital
UPDATES, BATCH, EVALUATIONS = 875, 64, 7  # seven times through the training records
LEARNING_RATE = 0.002
SEEDS = (0, 1, 2)  # initial weights and order; the simulated records are the same


def labels(prepared: Prepared) -> np.ndarray:
    codes = prepared.table["codes"]
    return encode(codes, prepared.card.vocabulary, LABEL_SET).to_numpy()


def simulated() -> tuple[Data, Data]:
    """Return the training and the validation records of both hospitals."""
    found = [prepare(name, Options(simulated_records=RECORDS)) for name in HOSPITALS]
    device = choose_device()
    values = share(np.concatenate([each.signals for each in found]), device)
    truth = torch.from_numpy(np.concatenate([labels(each) for each in found])).float()
    trains = np.concatenate([each.table["fold"] <= 8 for each in found])
    train, validation = (
        Data(Records(values, torch.from_numpy(rows).to(device)), truth[rows].to(device))
        for rows in (np.flatnonzero(trains), np.flatnonzero(~trains))
    )
    return train, validation


def rows(test: Prepared, reached: list[np.ndarray]) -> list[dict[str, object]]:
    """Return a row a class, and their mean, from the AUROCs that each seed reached."""
    positives = [int(count) for count in labels(test)[:, COLUMNS].sum(axis=0)]
    values = np.column_stack([np.array(reached), np.mean(reached, axis=1)])
    return [
        {
            "dataset": test.card.name,
            "records": len(test.table),
            "class": name,
            "positives": count,
            "auroc": round(float(each.mean()), 3),
            "lowest_and_highest": [round(float(each.min()), 3), round(float(each.max()), 3)],
        }
        for name, count, each in zip((*CLASSES, "mean"), (*positives, ""), values.T, strict=True)
    ]


def measure() -> dict[str, Any]:
    """Train with each seed, and test on what is clinical."""
    device = choose_device()
    precision = choose_precision(MODEL, "auto", device)
    versions = provenance()  # before training: the code may be edited meanwhile
    train, validation = simulated()
    tests = [prepare(name) for name in CLINICAL]
    reached: list[list[np.ndarray]] = [[] for _ in tests]
    runs = []
    for seed in SEEDS:
        started = time.perf_counter()
        classes, samples = train.labels.shape[1], train.records.values.shape[2]
        model = build_model(MODEL, "pooled", classes, samples, seed).to(device)
        schedule = Schedule(LEARNING_RATE, UPDATES, BATCH, EVALUATIONS, seed)
        fitted = fit(model, train, validation, schedule, precision=precision)
        seconds = round(time.perf_counter() - started)
        simulated_auroc = round(fitted.score, 3)
        runs.append({"seed": seed, "seconds": seconds, "simulated_auroc": simulated_auroc})
        for test, values in zip(tests, reached, strict=True):
            every = Records(
                share(test.signals, device), torch.arange(len(test.table), device=device)
            )
            scores = predict(model, every, precision)
            values.append(auroc(labels(test)[:, COLUMNS], scores[:, COLUMNS]))
    return {
        "cpu": cpu(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "precision": precision,
        **versions,
        "train_records": len(train),
        "validation_records": len(validation),
        "updates": UPDATES,
        "batch_size": BATCH,
        "learning_rate": LEARNING_RATE,
        "runs": runs,
        "rows": [row for pair in zip(tests, reached, strict=True) for row in rows(*pair)],
    }


def main() -> None:
    facts = measure()
    print("\n".join(f"{key}: {value}" for key, value in facts.items() if key != "rows"))
    print(f"{'':18}{'class':7}{'positives':>10}{'AUROC':>8}  lowest and highest of {len(SEEDS)}")
    for row in facts["rows"]:
        print(
            "{dataset:18}{class:7}{positives:>10}{auroc:>8.3f}  {lowest_and_highest}".format(**row)
        )
    file = Path(__file__).parent / "results" / "sim_to_real.json"
    file.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
