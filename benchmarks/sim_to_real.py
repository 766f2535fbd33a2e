"""How real the simulator is: a model that saw only simulated ECGs, tested on clinical ones.

Run as ``python benchmarks/sim_to_real.py`` with ECGNB_DATA set; writes ``results/sim_to_real.json``
beside this file. ResNet1d18 is trained on both simulated hospitals (folds 1-8), its checkpoint is
chosen on simulated records too (folds 9-10), and every clinical record that is there tests it.
The network never meets a clinical ECG, but whoever wrote the simulator did: its wave amplitudes
were set by hand to medians of PTB-XL (ecgnb/data/heart.py). So PTB-XL is no unseen dataset.
"""

import json
import time
from pathlib import Path

import numpy as np
import torch
from reading import cpu

from ecgnb.data.arrays import Options
from ecgnb.data.labels import encode
from ecgnb.data.prepare import Prepared, prepare
from ecgnb.models import MODELS, build_model
from ecgnb.study.store import provenance
from ecgnb.training.fit import Data, Schedule, choose_device, choose_precision, fit, predict
from ecgnb.training.metrics import auroc

HOSPITALS = ("sim-north", "sim-south")
CLINICAL = ("ptb-xl", "chapman-shaoxing")
MODEL = "resnet1d18"
LABEL_SET = "challenge-2021"
CLASSES = ["AF", "STach", "SB", "LBBB", "RBBB", "IAVB", "PVC"]
RECORDS = 5000  # of each hospital
UPDATES, BATCH, EVALUATIONS = 875, 64, 7  # seven times through the training records
LEARNING_RATE = 0.002
SEEDS = (0, 1, 2)


def truth(prepared: Prepared) -> np.ndarray:
    labels = encode(prepared.table["codes"], prepared.card.vocabulary, LABEL_SET)
    return labels.to_numpy()


def simulated(device: torch.device) -> tuple[Data, Data]:
    """Return the training and the validation records of both hospitals."""
    found = [prepare(name, Options(simulated_records=RECORDS)) for name in HOSPITALS]
    signals = np.concatenate([prepared.signals for prepared in found])
    labels = np.concatenate([truth(prepared) for prepared in found]).astype(np.float32)
    train = np.concatenate([prepared.table["fold"] <= 8 for prepared in found])
    parts = ((signals[part], labels[part]) for part in (train, ~train))
    first, second = (Data(*(torch.from_numpy(a).to(device) for a in part)) for part in parts)
    return first, second


def main() -> None:
    device = choose_device()
    precision = choose_precision("auto", device, MODELS[MODEL].half_precision_on_cpu)
    facts = {
        "cpu": cpu(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "precision": precision,
        **provenance(),
    }
    train, validation = simulated(device)
    clinical = [prepare(name) for name in CLINICAL]
    order = list(encode(clinical[0].table["codes"], "scp", LABEL_SET).columns)
    columns = [order.index(name) for name in CLASSES]
    reached: dict[str, list[np.ndarray]] = {name: [] for name in CLINICAL}
    runs = []
    for seed in SEEDS:
        started = time.perf_counter()
        model = build_model(MODEL, "pooled", len(order), train.inputs.shape[2], seed).to(device)
        schedule = Schedule(LEARNING_RATE, UPDATES, BATCH, EVALUATIONS, seed)
        fitted = fit(
            model, train, validation, schedule, precision=precision, progress=f"seed {seed}"
        )
        runs.append(
            {
                "seed": seed,
                "best_update": fitted.best_update,
                "simulated_auroc": round(fitted.validation_auroc, 4),
                "seconds": round(time.perf_counter() - started),
            }
        )
        for prepared in clinical:
            signals = torch.from_numpy(np.ascontiguousarray(prepared.signals)).to(device)
            scores = predict(model, signals, precision)[:, columns]
            reached[prepared.card.name].append(auroc(truth(prepared)[:, columns], scores))
    facts |= {
        "train_records": len(train),
        "validation_records": len(validation),
        **{"updates": UPDATES, "batch_size": BATCH, "learning_rate": LEARNING_RATE},
        "runs": runs,
    }
    rows = []
    for prepared in clinical:
        positives = [int(count) for count in truth(prepared)[:, columns].sum(axis=0)]
        each = np.array(reached[prepared.card.name])  # (seeds, classes)
        each = np.column_stack([each, each.mean(axis=1)])
        for name, count, values in zip([*CLASSES, "mean"], [*positives, None], each.T, strict=True):
            rows.append(
                {
                    "dataset": prepared.card.name,
                    "records": len(prepared.table),
                    "class": name,
                    "positives": count,
                    "auroc": round(float(values.mean()), 3),
                    "lowest_and_highest": [round(float(f(values)), 3) for f in (min, max)],
                }
            )
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    print(f"{'':18}{'class':7}{'positives':>10}{'AUROC':>8}  lowest and highest of {len(SEEDS)}")
    for row in rows:
        print(
            f"{row['dataset']:18}{row['class']:7}{row['positives'] or '':>10}{row['auroc']:>8.3f}"
            f"  {row['lowest_and_highest']}"
        )
    file = Path(__file__).parent / "results" / "sim_to_real.json"
    file.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
