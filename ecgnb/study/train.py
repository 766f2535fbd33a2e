"""One run from its spec to its stored result."""

import json
import time
from dataclasses import asdict, fields, replace
from functools import cache, partial
from itertools import compress
from pkgutil import resolve_name
from typing import cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from ecgnb.data.splits import Split, source_split, subset, target_split
from ecgnb.errors import UserError
from ecgnb.models import MODELS
from ecgnb.models.build import Model, build_model, build_reconstructor
from ecgnb.study.data import example_headers, fingerprints, open_dataset, read_example, read_labels
from ecgnb.study.spec import RunSpec, Study
from ecgnb.study.store import Result, Store, hash_of, provenance, short
from ecgnb.training import device, inputs, metrics, transfer
from ecgnb.training.arms import ARMS, check_protocol
from ecgnb.training.checkpoint import Checkpoint
from ecgnb.training.device import choose_device, describe_device, share
from ecgnb.training.fit import Schedule
from ecgnb.training.inputs import CLASSIFY, RECONSTRUCT, Data, Records, task_of, wanted_of
from ecgnb.training.transfer import encode, train_arm, train_without_network
from ecgnb.training.transferability import scores

ORDER_SEED = 2_000_000  # keeps the order of records apart from the initial weights
_DRAWN = 4  # reconstructions that are kept where there are no examples
_NOTHING = np.empty((0, 0), dtype=np.float32)
_LONGEST_SHARED = 4096  # features a record; those of a flattened head are worth no room on disk


class Materials:
    """What the runs of a study read, opened once in a process and shared by all its runs."""

    def __init__(self, study: Study, store: Store) -> None:
        self.study = study
        self.store = store
        self.device = choose_device()
        self.fingerprints = fingerprints(study)
        self.prepared = cache(partial(open_dataset, study))
        self.signals = cache(lambda dataset: share(self.prepared(dataset).signals, self.device))
        self.labels = cache(self._labels)
        self._target_split = cache(self._split_of)

    def _labels(self, dataset: str, label_set: str, min_positives: int) -> pd.DataFrame:
        table = self.prepared(dataset).table
        if label_set == metrics.UNLABELLED:
            return pd.DataFrame(index=table.index)  # nobody looks at the codes
        return read_labels(table, dataset, label_set, min_positives)

    def records(self, dataset: str, rows: npt.NDArray[np.int64]) -> Records:
        """Name some records of a dataset, scaled as the study's protocol has it."""
        ranged = check_protocol(self.study.protocol).ranged
        return Records(self.signals(dataset), torch.from_numpy(rows).to(self.device), ranged)

    def split(self, spec: RunSpec) -> Split:
        """Return who trains, validates and tests in a run; `train` without its size."""
        if spec.stage != "pretrain":
            return self._target_split(spec.dataset, spec.label_set, spec.min_positives, spec.seed)
        split = source_split(self.prepared(spec.dataset).table)
        if not spec.size:
            return split
        # Each seed draws records of its own.
        return replace(split, train=np.random.default_rng(spec.seed).permutation(split.train))

    def _split_of(self, dataset: str, label_set: str, min_positives: int, seed: int) -> Split:
        labels = self.labels(dataset, label_set, min_positives).to_numpy()
        return target_split(self.prepared(dataset).table, labels, seed)

    def features(self, spec: RunSpec, model: Model, precision: str) -> torch.Tensor | None:
        """Return what a pre-trained frozen encoder says of every record of the target.

        All runs on one encoder share them: whoever comes first computes them. None where the
        encoder is trained, is random (its normalisation then depends on the training records), or
        says too much.
        """
        arm, pretraining = ARMS[spec.arm], spec.pretraining()
        asked = arm.trained and (arm.frozen or arm.probing)
        if not asked or pretraining is None or model.features > _LONGEST_SHARED:
            return None
        rows = np.arange(len(self.prepared(spec.dataset).table))
        print_ = self.fingerprints[spec.dataset]
        key = pretraining.key(self.fingerprints)
        weights = hash_of(self.store.weights(key))  # made again, they may be others
        values = self.store.shared(
            f"{key}-{weights[:12]}-{print_[:12]}-{precision}",
            lambda: encode(model, self.records(spec.dataset, rows), precision).numpy(),
        )
        return share(values, torch.device("cpu"))


def execute(
    materials: Materials, spec: RunSpec, precision: str = "auto", *, keep_weights: bool = False
) -> str:
    """Train one run, and the pre-training that it lacks; save its result, and return its key."""
    store, prints = materials.store, materials.fingerprints
    pretraining = spec.pretraining()
    if pretraining and not store.sound_weights(pretraining.key(prints)):
        execute(materials, pretraining, precision)
    started = time.perf_counter()
    key = spec.key(prints)
    task = task_of(spec.label_set)
    labels = materials.labels(spec.dataset, spec.label_set, spec.min_positives)
    truth = labels.to_numpy()
    # A label set may have classes that no record of the dataset shows.
    shown = np.atleast_1d(truth.any(axis=0))
    classes = tuple(compress(labels.columns, shown))
    if spec.stage == "pretrain" and spec.shuffled:
        truth = truth[np.random.default_rng(spec.seed).permutation(len(truth))]
    split = materials.split(spec)
    rows = subset(split, spec.size)
    precision = device.choose_precision(spec.model, precision, materials.device)
    device.activate(precision, materials.device)
    made_by = {"precision": precision, "device": describe_device(materials.device), **provenance()}

    def data(part: npt.NDArray[np.int64]) -> Data:
        wanted = torch.from_numpy(truth[part].astype(np.float32)).to(materials.device)
        return Data(materials.records(spec.dataset, part), wanted)

    parts = data(rows), data(split.validation)
    test = None if spec.stage == "tune" else materials.records(spec.dataset, split.test)
    model: Model | None = None
    if not ARMS[spec.arm].network:
        trained = train_without_network(*parts, test, spec.seed)
    else:
        model = _build(materials, spec, truth.shape[1])
        said = {entry.name: getattr(spec, entry.name) for entry in fields(Schedule)}
        trained = train_arm(
            model,
            spec.arm,
            *parts,
            test,
            Schedule(**{**said, "seed": ORDER_SEED + spec.seed}),
            precision=precision,
            features=materials.features(spec, model, precision),
            chosen_on=data(split.test) if check_protocol(spec.protocol).chosen_on_test else None,
            checkpoint=Checkpoint(store.checkpoint(key), json.dumps(made_by)),
            task=task,
        )
    lost = spec.stage != "tune" and trained.fitted.history and not trained.fitted.best_update
    if lost or not np.isfinite(trained.test).all():
        rate = f"a learning rate of {spec.learning_rate:g}"
        raise UserError(f"{spec.model} diverges at {rate}: give the study a smaller one")
    facts: dict[str, object] = {
        "train_records": len(rows),
        "validation_records": len(split.validation),
        task.name: trained.fitted.score,
        "best_update": trained.fitted.best_update,
        **made_by,
    }
    records: tuple[str, ...] = ()
    predictions = trained.test.astype(np.float16)
    if spec.stage != "tune" and task is RECONSTRUCT and model:
        facts.update(inputs.reconstruction(trained.test, wanted_of(task, data(split.test))))
        records, predictions = _drawn_again(materials, spec, model, precision)
    elif spec.stage != "tune":
        # Scores are taken from what is stored, so that anyone can compute them again.
        tested = truth[split.test], predictions.astype(np.float64)
        asked = truth[split.validation], trained.fitted.validation
        facts.update(metrics.report(asked, tested, spec.min_test_positives, shown))
        predictions = predictions[:, shown]
        if spec.stage == "final":
            records = tuple(materials.prepared(spec.dataset).table["record"].iloc[split.test])
        else:  # of a pre-training nobody asks more than how good it is
            predictions = predictions[:0]
    if spec.tells_hospitals and spec.stage == "final" and model:
        facts["hospital_auroc"] = _tell_hospitals(materials, spec, model, precision)
    seconds = time.perf_counter() - started + trained.fitted.earlier_seconds
    facts.update(seconds=seconds, training_seconds=trained.seconds)
    if spec.arm == "linear-probe" and spec.stage == "final" and model:
        facts.update(_transferability(materials, spec, model, rows, truth[rows], precision))
    # What chooses between beginnings; a frozen encoder is no candidate.
    chooses = spec.stage == "final" and task is CLASSIFY and not (model and ARMS[spec.arm].frozen)
    validation = short(trained.fitted.validation[:, shown] if chooses else _NOTHING)
    history = trained.fitted.history
    result = Result(key, spec, classes, records, predictions, history, facts, validation)
    if model and (keep_weights or spec.stage == "pretrain"):
        store.save(result, lambda path: transfer.save_weights(model, path, asdict(spec)))
    else:
        store.save(result)
    return key


def _build(materials: Materials, spec: RunSpec, classes: int) -> Model:
    """Build the network of a run as its arm begins."""
    samples = materials.prepared(spec.dataset).signals.shape[2]
    if task_of(spec.label_set) is RECONSTRUCT:  # it has an encoder and a head, as a model has
        model = cast(Model, build_reconstructor(spec.model, spec.seed))
    else:
        model = build_model(spec.model, spec.head, classes, samples, spec.seed)
    if pretraining := spec.pretraining():
        path = materials.store.weights(pretraining.key(materials.fingerprints))
        transfer.load_encoder(model, path, head=ARMS[spec.arm].keeps_head)
    load_imagenet = MODELS[spec.model].load_imagenet
    if ARMS[spec.arm].photographs and load_imagenet:  # which `load_study` has made sure of
        resolve_name(f"ecgnb.models.{load_imagenet}")(model.encoder)
    return model.to(materials.device)


def _transferability(
    materials: Materials,
    spec: RunSpec,
    model: Model,
    rows: npt.NDArray[np.int64],
    labels: npt.NDArray[np.bool_],
    precision: str,
) -> dict[str, float]:
    """Score the encoder of a linear probe on the records that it trains on."""
    features, pretraining = materials.features(spec, model, precision), spec.pretraining()
    plain = spec.head != "hidden" and spec.source_label_set != metrics.UNLABELLED
    if features is None or pretraining is None or not plain:
        return {}
    path = materials.store.weights(pretraining.key(materials.fingerprints))
    patients = materials.prepared(spec.dataset).table["patient"].to_numpy()[rows]
    known = features[torch.from_numpy(rows)]
    return scores(known.numpy(), labels, transfer.source_probabilities(path, known), patients)


def _drawn_again(
    materials: Materials, spec: RunSpec, model: Model, precision: str
) -> tuple[tuple[str, ...], npt.NDArray[np.float16]]:
    """Reconstruct records to be looked at: examples of the targets, else of its own test fold."""
    study = materials.study
    headers = example_headers(study, *(pair.target.dataset for pair in study.pairs))
    if headers:
        signals = np.stack([read_example(study, header) for header in headers.values()])
        values = torch.from_numpy(np.rint(signals).astype(np.int16)).to(materials.device)
        ranged = check_protocol(spec.protocol).ranged
        shown = Records(values, torch.arange(len(values)).to(materials.device), ranged)
        names = tuple(headers)
    else:
        rows = materials.split(spec).test[:_DRAWN]
        shown = materials.records(spec.dataset, rows)
        found = materials.prepared(spec.dataset).table["record"].iloc[rows]
        names = tuple(one if "/" in one else f"{spec.dataset}/{one}" for one in found)
    return names, inputs.predict(model, shown, precision, sigmoid=False).astype(np.float16)


def _tell_hospitals(materials: Materials, spec: RunSpec, model: Model, precision: str) -> float:
    """Ask which of the records that neither training has seen come from the target."""
    sides = {
        spec.source: source_split(materials.prepared(spec.source).table).test,
        spec.dataset: materials.split(spec).test,
    }
    features, patients = [], []
    for dataset, rows in sides.items():
        features.append(encode(model, materials.records(dataset, rows), precision).numpy())
        patients.append(materials.prepared(dataset).table["patient"].to_numpy()[rows])
    return metrics.tell_apart(*features, *patients)
