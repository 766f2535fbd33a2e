"""What a plain recipe reaches, by somebody who has only the splits and a description.

    python benchmarks/outsider.py [--seeds 0 1 2 3 4]

PTB-XL to Chapman-Shaoxing, ResNet18 of one dimension with one linear layer behind its pooling;
records divided by one number; AdamW at 0.001 with a weight decay of 0.01, PyTorch's one-cycle
schedule over 300 updates of 32 (800 on the source), the last weights; nothing tuned, nothing
picked. The network and the loop are those of `plain`, not the package's. Test AUROC beside the
recorded runs of the same seeds; goes on where it was stopped, in ``results/outsider.json``. It
takes a GPU minutes, and a core hours.
"""

import argparse
import json
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own convention)
from plain import resnet
from torch import nn

from ecgnb.data.splits import source_split, subset, target_split
from ecgnb.study.data import open_dataset, read_labels
from ecgnb.study.declare import load_study
from ecgnb.study.plan import open_progress
from ecgnb.training.device import choose_device
from ecgnb.training.metrics import macro_auroc

SIZES = (50, 100, 200, 400, 0)
BATCH, RATE, DECAY, UNIT = 32, 0.001, 0.01, 250.0  # microvolts
RESULTS = Path(__file__).parent / "results" / "outsider.json"
DEVICE = choose_device()
STUDY = load_study("clinical")
PAIR = STUDY.pairs[0]


def network(classes: int, seed: int) -> nn.Sequential:
    """Build the plain ResNet18, without the published hidden layer."""
    torch.manual_seed(seed)
    whole = resnet((2, 2, 2, 2), 1, classes)
    layers = [*list(whole.children())[:-3], nn.Linear(512, classes)]
    return nn.Sequential(*layers).to(DEVICE)


def tensor(values: np.ndarray) -> torch.Tensor:
    """Bring values to the device."""
    return torch.from_numpy(values).float().to(DEVICE)


def train(
    model: nn.Module, signals: np.ndarray, labels: np.ndarray, updates: int, seed: int
) -> None:
    """Train on all records given, in an order drawn anew when they are through."""
    optimiser = torch.optim.AdamW(model.parameters(), RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=updates)
    rng, order = np.random.default_rng(seed), np.empty(0, dtype=int)
    model.train()
    for _ in range(updates):
        if len(order) < BATCH:
            order = np.concatenate([order, rng.permutation(len(signals))])
        batch, order = order[:BATCH], order[BATCH:]
        said = model(tensor(signals[batch] / UNIT))
        loss = F.binary_cross_entropy_with_logits(said, tensor(labels[batch]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    torch.set_num_threads(1)
    done = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    sides = []
    for side in (PAIR.source, PAIR.target):
        data = open_dataset(STUDY, side.dataset)
        labels = read_labels(data.table, side.dataset, side.label_set, side.min_positives)
        sides.append((np.asarray(data.signals), labels.to_numpy(), data.table))
    (x_source, y_source, source), (x, y, table) = sides
    recorded = {
        (run.spec.arm, run.spec.size, run.spec.seed): run.facts["auroc"]
        for run in open_progress(STUDY).finished()
        if run.spec.model == "resnet1d18"
        and run.spec.source in ("", PAIR.source.dataset)
        and run.spec.dataset == PAIR.target.dataset
    }
    for seed in parser.parse_args().seeds:
        rows, split = source_split(source).train, target_split(table, y, seed)
        begun: nn.Sequential | None = None
        for size, arm in product(SIZES, ("scratch", "finetune")):
            if (name := f"{arm} {size} {seed}") in done:
                continue
            model = network(y.shape[1], seed)
            if arm == "finetune":
                if begun is None:
                    begun = network(y_source.shape[1], seed)
                    train(begun, x_source[rows], y_source[rows], 800, seed)
                model[:-1].load_state_dict(begun[:-1].state_dict())
            few = subset(split, size)
            train(model, x[few], y[few], 300, seed)
            with torch.no_grad():
                said = model(tensor(x[split.test] / UNIT)).cpu().numpy()
            auroc = macro_auroc(y[split.test], said, PAIR.min_test_positives)
            done[name] = [auroc, recorded[arm, size, seed]]
            RESULTS.write_text(json.dumps(done, indent=1) + "\n")
    names = [name.split() for name in done]
    found = pd.DataFrame(done.values(), columns=["plain", "ours"])
    found[["arm", "size", "seed"]] = names
    print(found.groupby(["arm", "size"])[["plain", "ours"]].mean().diff(axis=1).round(4))
    print(found.groupby(["arm", "size"])[["plain", "ours"]].agg(["mean", "count"]).round(4))


if __name__ == "__main__":
    main()
