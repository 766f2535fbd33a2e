"""Which part of a recipe costs what: on tuning seeds and validation records only.

    python benchmarks/recipe.py run [--only plain ...] [--seeds 90 91] [--sizes 50 200 0]
    python benchmarks/recipe.py table

PTB-XL to Chapman-Shaoxing. Each variant differs in one part from ``plain``: pooling, then one
linear layer; records divided by one number; AdamW at 0.001 with a weight decay of 0.01; PyTorch's
one-cycle schedule over 300 updates of 32 (800 on the source); no clipping; the last weights. The
loop is written out here, apart from the package's. No test record is read, and no result of a study
uses the seeds. Of one training three sets of weights are looked at: the last, their running
average, and those that did best on validation.

``run`` goes on where it was stopped; one thread a process, so start as many as there are cores,
also beside a GPU.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own convention)
from torch import nn

from ecgnb.data.catalog import cache_root
from ecgnb.data.splits import source_split, subset, target_split
from ecgnb.files import locked
from ecgnb.models.build import Model, build_model
from ecgnb.study.data import open_dataset, read_labels
from ecgnb.study.declare import load_study
from ecgnb.training.device import choose_device
from ecgnb.training.metrics import macro_auroc

SEEDS = (90, 91, 92, 93, 94)  # tuning seeds: one for each fifth
SIZES = (50, 200, 0)
BATCH, LOOKS, EMA = 32, 15, 0.99
UNIT = 250.0  # microvolts
SOURCE = ("ptb-xl", "scp-all", 20)
TARGET = ("chapman-shaoxing", "snomed-all", 15)
DEVICE = choose_device()
RESULTS = Path(__file__).parent / "results" / "recipe.json"


@dataclass(frozen=True)
class Recipe:
    """How one network is trained."""

    model: str = "resnet1d18"
    head: str = "linear"
    rate: float = 0.001
    updates: int = 300
    schedule: str = "one-cycle"
    clipping: float = 0.0
    centred: bool = False
    augmented: bool = False


@dataclass(frozen=True)
class Variant:
    """A recipe for the target and one for the source."""

    target: Recipe = Recipe()
    source: Recipe = Recipe(updates=800)


PLAIN = Variant()


def _both(**changes: object) -> Variant:
    return Variant(replace(PLAIN.target, **changes), replace(PLAIN.source, **changes))  # type: ignore[arg-type]


def _target(**changes: object) -> Variant:
    return Variant(replace(PLAIN.target, **changes))  # type: ignore[arg-type]


VARIANTS = {
    "plain": PLAIN,
    "hidden layer, transferred": _both(head="pooled"),
    "hidden layer, thrown away": Variant(
        replace(PLAIN.target, head="hidden"), replace(PLAIN.source, head="pooled")
    ),
    "900 updates": _target(updates=900),
    "augmented": _target(augmented=True),
    "rate 0.003": _target(rate=0.003),
    "cosine": _target(schedule="cosine"),
    "clipped": _target(clipping=1.0),
    "each lead without its mean": _both(centred=True),
    "as recorded before": _both(head="pooled", schedule="cosine", clipping=1.0, centred=True),
    "900 updates, augmented": _target(updates=900, augmented=True),
    "source augmented": Variant(source=replace(PLAIN.source, augmented=True)),
    "source at rate 0.003": Variant(source=replace(PLAIN.source, rate=0.003)),
    "source, 2,400 updates": Variant(source=replace(PLAIN.source, updates=2400)),
}
GRU = {
    "gru": _both(model="gru", head="pooled", rate=0.003),
    "gru, clipped": _both(model="gru", head="pooled", rate=0.003, clipping=1.0),
    "gru, rate 0.001": _both(model="gru", head="pooled"),
    "gru, rate 0.01": _both(model="gru", head="pooled", rate=0.01),
    "gru, clipped, rate 0.01": _both(model="gru", head="pooled", rate=0.01, clipping=1.0),
    "gru, 900 updates": Variant(
        Recipe("gru", "pooled", 0.003, 900), Recipe("gru", "pooled", 0.003, 800)
    ),
    "gru, augmented": Variant(
        Recipe("gru", "pooled", 0.003, augmented=True), Recipe("gru", "pooled", 0.003, 800)
    ),
}
VARIANTS |= GRU
# What the recipe of the recurrent networks lacks with many records; see the log.
RECURRENT = {
    f"{model}, augmented, rate {rate}, {updates} updates": Variant(
        Recipe(model, "pooled", rate, updates, augmented=True),
        Recipe(model, "pooled", rate, 800, augmented=True),
    )
    for model, rate, updates in product(("gru", "lstm", "bilstm"), (0.003, 0.01), (300, 900))
}
VARIANTS |= RECURRENT


class Task:
    """Records, labels and splits of one side."""

    def __init__(self, dataset: str, label_set: str, min_positives: int) -> None:
        study = load_study("clinical")
        prepared = open_dataset(study, dataset)
        self.signals = torch.from_numpy(np.array(prepared.signals)).to(DEVICE)
        self.table = prepared.table
        self.labels = read_labels(self.table, dataset, label_set, min_positives).to_numpy()


def build(recipe: Recipe, task: Task, seed: int) -> Model:
    classes = task.labels.shape[1]
    return build_model(recipe.model, recipe.head, classes, 1000, seed).to(DEVICE)


def batches(rows: np.ndarray, updates: int, seed: int) -> Iterator[torch.Tensor]:
    rng = np.random.default_rng(seed)
    size = min(BATCH, len(rows))
    drawn = [rng.permutation(rows) for _ in range(-(-updates * size // len(rows)))]
    yield from torch.from_numpy(np.concatenate(drawn)[: updates * size]).to(DEVICE).split(size)


def inputs(signals: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    x = signals.float() / UNIT
    return x - x.mean(dim=2, keepdim=True) if recipe.centred else x


def augment(x: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Amplitude by up to a fifth, a shift by up to a second, and noise of 25 microvolts."""
    gain = 0.8 + 0.4 * torch.rand(len(x), 1, 1, generator=rng, device=DEVICE)
    shifts = torch.randint(-100, 101, (len(x), 1, 1), generator=rng, device=DEVICE)
    places = (torch.arange(x.shape[2], device=DEVICE) - shifts) % x.shape[2]
    moved = x.gather(2, places.expand(x.shape))
    return moved * gain + 0.1 * torch.randn(x.shape, generator=rng, device=DEVICE)


def schedule_of(
    recipe: Recipe, optimiser: torch.optim.Optimizer
) -> torch.optim.lr_scheduler.LRScheduler:
    if recipe.schedule == "one-cycle":
        return torch.optim.lr_scheduler.OneCycleLR(
            optimiser, recipe.rate, total_steps=recipe.updates
        )
    warm = max(1, round(0.1 * recipe.updates))

    def factor(update: int) -> float:
        if update < warm:
            return (update + 1) / warm
        return 0.5 * (1 + float(np.cos(np.pi * (update - warm) / max(1, recipe.updates - warm))))

    return torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


def predict(model: nn.Module, task: Task, rows: np.ndarray, recipe: Recipe) -> np.ndarray:
    model.eval()
    with torch.inference_mode():
        parts = [
            torch.sigmoid(model(inputs(task.signals[part], recipe)))
            for part in torch.from_numpy(rows).to(DEVICE).split(128)
        ]
    model.train()
    return torch.cat(parts).cpu().numpy()


def train(
    model: Model, task: Task, rows: np.ndarray, validation: np.ndarray, recipe: Recipe, seed: int
) -> dict[str, np.ndarray]:
    """Train a network, and return its validation predictions with three sets of weights."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=0.01, fused=True)
    schedule = schedule_of(recipe, optimiser)
    average = copy.deepcopy(model)
    labels = torch.from_numpy(task.labels.astype(np.float32)).to(DEVICE)
    rng = torch.Generator(DEVICE).manual_seed(seed)
    stops = {round(recipe.updates * (look + 1) / LOOKS) for look in range(LOOKS)}
    best, picked = -np.inf, np.empty(0)
    model.train()
    for update, which in enumerate(batches(rows, recipe.updates, 2_000_000 + seed), 1):
        x = inputs(task.signals[which], recipe)
        loss = F.binary_cross_entropy_with_logits(
            model(augment(x, rng) if recipe.augmented else x), labels[which]
        )
        optimiser.zero_grad()
        loss.backward()
        if recipe.clipping:
            nn.utils.clip_grad_norm_(model.parameters(), recipe.clipping)
        optimiser.step()
        schedule.step()
        for kept, new in zip(
            average.state_dict().values(), model.state_dict().values(), strict=True
        ):
            if kept.dtype.is_floating_point:
                kept.lerp_(new, 1 - EMA)
            else:
                kept.copy_(new)
        if len(validation) and update in stops:
            said = predict(model, task, validation, recipe)
            score = macro_auroc(task.labels[validation], said, 3)
            if score > best:
                best, picked = score, said
    if not len(validation):
        return {}
    return {"last": said, "average": predict(average, task, validation, recipe), "picked": picked}


def _name(*parts: object) -> str:
    return "-".join(str(part) for part in parts).replace(" ", "_").replace(",", "")


def encoder(
    recipe: Recipe, seed: int, folder: Path, tasks: dict[str, Task], *, wait: bool = True
) -> dict[str, torch.Tensor]:
    """Train on the source, or read what was trained; without `wait`, leave it to who has begun."""
    path = folder / f"source-{zlib.crc32(repr(recipe).encode())}-{seed}.pt"
    with locked(path.with_suffix(".claim"), wait=wait) as mine:
        if mine and not path.exists():
            task = tasks["source"]
            split = source_split(task.table)
            model = build(recipe, task, seed)
            train(model, task, split.train, split.train[:0], recipe, seed)
            torch.save(model.encoder.state_dict(), path.with_suffix(".tmp"))
            os.replace(path.with_suffix(".tmp"), path)
    if not (wait or path.exists()):
        return {}
    return torch.load(path, map_location=DEVICE, weights_only=True)  # type: ignore[no-any-return]


def run(names: list[str], seeds: list[int], sizes: list[int], arms: list[str]) -> None:
    torch.set_num_threads(1)
    folder = cache_root() / "recipe"
    folder.mkdir(parents=True, exist_ok=True)
    tasks = {"source": Task(*SOURCE), "target": Task(*TARGET)}
    task = tasks["target"]
    if "finetune" in arms:  # the sources first, so that few wait for another
        for recipe, seed in product(dict.fromkeys(VARIANTS[name].source for name in names), seeds):
            encoder(recipe, seed, folder, tasks, wait=False)
    for name, seed, size, arm in product(names, seeds, sizes, arms):
        path = folder / f"{_name(name, seed, size, arm)}.npz"
        with locked(path.with_suffix(".claim"), wait=False) as mine:
            if not mine or path.exists():
                continue
            recipe = VARIANTS[name].target
            split = target_split(task.table, task.labels, seed)
            model = build(recipe, task, seed)
            if arm == "finetune":
                state = encoder(VARIANTS[name].source, seed, folder, tasks)
                if recipe.head == "hidden":  # which belongs to the new head
                    state = {key: v for key, v in state.items() if not key.startswith("hidden.")}
                model.encoder.load_state_dict(state)
            said = train(model, task, subset(split, size), split.validation, recipe, seed)
            with open(path.with_suffix(".tmp"), "wb") as file:
                np.savez_compressed(file, **{"rows": split.validation, **said})  # type: ignore[arg-type]
            os.replace(path.with_suffix(".tmp"), path)
            truth = task.labels[split.validation]
            scores = {kept: round(macro_auroc(truth, one, 3), 4) for kept, one in said.items()}
            print(name, seed, size, arm, scores, flush=True)


def table() -> pd.DataFrame:
    """Read what is there: one row a run and set of weights."""
    task, rows = Task(*TARGET), []
    for name, seed, size, arm in product(VARIANTS, SEEDS, SIZES, ("scratch", "finetune")):
        path = cache_root() / "recipe" / f"{_name(name, seed, size, arm)}.npz"
        if path.exists():
            with np.load(path, allow_pickle=False) as file:
                truth = task.labels[file["rows"]]
                for kept in ("last", "average", "picked"):
                    score = macro_auroc(truth, file[kept], 3)
                    rows.append((name, kept, arm, size, seed, round(score, 5)))
    return pd.DataFrame(rows, columns=["variant", "weights", "arm", "size", "seed", "auroc"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--sizes", nargs="+", type=int, default=list(SIZES))
    parser.add_argument("--arms", nargs="+", default=["scratch", "finetune"])
    chosen = parser.parse_args()
    if chosen.what == "run":
        return run(chosen.only, chosen.seeds, chosen.sizes, chosen.arms)
    found = table()
    if RESULTS.exists():  # what ran elsewhere stays
        before = pd.DataFrame(**json.loads(RESULTS.read_text()))
        found = pd.concat([before, found]).drop_duplicates(list(found.columns[:-1]), keep="last")
    RESULTS.write_text(json.dumps(found.to_dict(orient="split", index=False)) + "\n")
    means = found.groupby(["variant", "weights", "arm", "size"])["auroc"].agg(["mean", "count"])
    print(means.round(4).to_string())


if __name__ == "__main__":
    main()
