"""A trained network to take home: weights, a card that says what they are, and predictions."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import nn

import ecgnb
from ecgnb.analysis.compare import runs_table, summarise
from ecgnb.data import checks
from ecgnb.data.arrays import Options, convert_record
from ecgnb.data.catalog import card, parts
from ecgnb.data.labels import full_name
from ecgnb.data.layouts import Tensor, open_tensor
from ecgnb.data.own import check_file
from ecgnb.data.records import LEADS, RecordError, read_header
from ecgnb.errors import UserError
from ecgnb.files import plain, put, writable
from ecgnb.models.build import build_model
from ecgnb.study.data import fingerprints
from ecgnb.study.plan import open_progress
from ecgnb.study.spec import Study, changed, size_label
from ecgnb.study.store import Result, Store, hash_of, open_store, spare_room
from ecgnb.study.train import Materials, execute
from ecgnb.training.arms import ARMS, check_protocol
from ecgnb.training.device import choose_device
from ecgnb.training.inputs import Records, normalise, predict, to_range
from ecgnb.training.transfer import load_encoder

WEIGHTS, CARD, ONNX = "model.safetensors", "card.json", "model.onnx"
_FORMAT = 1  # of the card; raised when an older `predict` could not read it
_BATCH = 256  # records
_ENOUGH = 10  # records, from which on their amplitude tells a wrong unit


def export(study: Study, folder: Path, **wanted: object) -> Result:
    """Train a finished run again, and write its network with a card of what it is.

    Parameters
    ----------
    study : Study
        One of its first pair's finished runs is exported: the first seed of the network, arm and
        size that were best on validation, over the seeds they have.
    folder : Path
        New, or holding an earlier export; gets ``model.safetensors`` and ``card.json``.
    **wanted
        ``model``, ``arm``, ``size``: only among runs with these.

    Returns the run as it came out now, in float32. Raises UserError if no such run is finished, its
    data are not here, it comes out otherwise than it did, or the folder cannot be written.
    """
    chosen, among = _chosen(study, {name: one for name, one in wanted.items() if one is not None})
    spec = chosen[0].spec
    with spare_room() as room:
        store = Store(Path(room))
        _bring_encoder(study, chosen[0], store)
        materials = Materials(study, store)
        result = store.load(execute(materials, spec, "float32", keep_weights=True), spec)
        assert result is not None
        apart = float(np.abs(_wide(result) - _wide(chosen[0])).max())
        if chosen[0].facts["precision"] == "float32" and apart > 0.2:
            raise UserError(
                f"the network came out otherwise than its run, by up to {apart:.2f} of "
                "probability: are data, versions and machine those of the run?"
            )
        facts = _card(study, result, chosen, among, materials) | {"apart": apart}
        with writable(folder, "nothing was exported; name a folder that you can write to"):
            folder.mkdir(parents=True, exist_ok=True)
            weights = store.weights(result.key)
            put(folder / WEIGHTS, lambda path: path.write_bytes(weights.read_bytes()))
            text = json.dumps(facts | {"weights": hash_of(folder / WEIGHTS)}, indent=1)
            put(folder / CARD, lambda path: path.write_text(text + "\n", encoding="utf-8"))
    return result


def _wide(result: Result) -> npt.NDArray[np.float64]:
    return result.predictions.astype(np.float64)


def _chosen(study: Study, wanted: dict[str, object]) -> tuple[list[Result], list[Result]]:
    """Return the runs of the best cell by validation; what it was chosen among, and no network."""
    target = study.pairs[0].target.dataset
    runs = [
        run for run in open_progress(study).finished() if run.spec.dataset == target and run.classes
    ]
    plain = [run for run in runs if not ARMS[run.spec.arm].network]
    runs = [run for run in runs if ARMS[run.spec.arm].network]
    if not runs:
        raise UserError(
            f"no network of study {study.name} is finished; `ecgnb run {study.name}` trains them"
        )
    kept = [run for run in runs if all(getattr(run.spec, k) == v for k, v in wanted.items())]
    if not kept:
        there = {k: sorted({str(getattr(run.spec, k)) for run in runs}) for k in wanted}
        said = "; ".join(f"{name} {', '.join(values)}" for name, values in there.items())
        raise UserError(f"no finished run of study {study.name} is that; there are {said}")
    if "size" not in wanted:  # the records of smaller ones are among those of the largest
        most = max(run.facts["train_records"] for run in kept)
        kept = [run for run in kept if 2 * run.facts["train_records"] > most]

    def cell(run: Result) -> str:  # what only seeds differ in
        return str(changed(run.spec, seed=0))

    cells = [list(runs) for _, runs in groupby(sorted(kept, key=cell), cell)]
    best = max(cells, key=lambda runs: float(np.mean([run.score for run in runs])))
    size = best[0].spec.size
    rivals = [run for run in plain if run.spec.size == size]
    return sorted(best, key=lambda run: run.spec.seed), [*kept, *rivals]


def _bring_encoder(study: Study, run: Result, store: Store) -> None:
    """Copy the encoder that a run starts from, where the cache has it; else it is trained again."""
    pretraining = run.spec.pretraining()
    if pretraining is None:
        return
    key, here = pretraining.key(fingerprints(study)), open_store()
    if here.sound_weights(key):
        for old, new in ((here.weights, store.weights), (here.path, store.path)):
            new(key).parent.mkdir(parents=True, exist_ok=True)
            new(key).write_bytes(old(key).read_bytes())


def _card(
    study: Study, run: Result, seeds: list[Result], among: list[Result], materials: Materials
) -> dict[str, Any]:
    """Say all that who uses the network has to know; names and thresholds are by class."""
    spec = run.spec
    labels = materials.labels(spec.dataset, spec.label_set, spec.min_positives)
    scored = {one: _score(study, seeds, one) for one in run.classes}
    thresholds = zip(run.facts["thresholds"], run.facts["alarm_thresholds"], strict=True)
    classes = [
        {"name": one, "meaning": full_name(one), "threshold": t, "alarm_threshold": a} | scored[one]
        for one, (t, a) in zip(run.classes, thresholds, strict=True)
    ]
    data = [part for name in (spec.dataset, spec.source) if name for part in parts(card(name))]
    native = [rate for part in parts(card(spec.dataset)) for rate in part.sampling_rates]
    unscored = [one for one in run.classes if scored[one]["auroc"] is None]
    arms = {one.spec.arm for one in among if ARMS[one.spec.arm].network}
    rival = [one.facts["auroc"] for one in among if not ARMS[one.spec.arm].network]
    own = float(np.mean([one.facts["auroc"] for one in seeds]))
    return {
        "format": _FORMAT,
        "package": ecgnb.__version__,
        "study": study.name,
        "run": {"key": run.key, **asdict(spec)},
        "chosen": f"best of {len(arms)} arms by mean AUROC on validation; "
        f"seed {spec.seed} of {len(seeds)}",
        "outputs": list(labels.columns),
        "classes": classes,
        "input": {
            "leads": list(LEADS),
            "unit": "microvolts",
            "options": asdict(study.data),
            "samples": study.data.samples,
            "lowest_rate": min([study.data.rate, *native]),
            "z_scored": card(spec.dataset).amplitude == "z-score",
        },
        "trained_on": f"{run.facts['train_records']} records of {card(spec.dataset).title}",
        "data": [
            {"name": part.name, "title": part.title, "licence": part.licence, "url": part.url}
            for part in data
        ],
        "fingerprints": {name: materials.fingerprints[name] for name in (spec.dataset,)},
        "limits": [
            "Scores are of patients of the same dataset; another hospital's are usually lower.",
            "Thresholds were chosen on few validation records and hold for this dataset's mix.",
            "No medical device: a network of a study, for research.",
            *[
                f"No network at all reaches a mean AUROC of {np.mean(rival):.3f}, this {own:.3f}."
                for _ in rival[:1]
                if np.mean(rival) > own
            ],
            *[f"{one} had too few positives to be scored." for one in unscored],
        ],
    }


def _score(study: Study, runs: list[Result], name: str) -> dict[str, Any]:
    """Return the test AUROC of one class, the mean over all seeds with its interval."""
    found = summarise(runs_table(study, runs, only=(name,)), ["arm"])
    if not len(found):
        return {"auroc": None, "low": None, "high": None, "seeds": 0}
    row = found.iloc[0]
    ends = {
        e: float(np.clip(row[e], 0, 1)) if np.isfinite(row[e]) else None for e in ("low", "high")
    }
    return {"auroc": float(row["mean"]), **ends, "seeds": int(row["seeds"])}


def describe(facts: dict[str, Any], folder: Path) -> Iterator[str]:
    """Say in a few lines what was exported, from its card."""
    run = facts["run"]
    arm = ARMS[run["arm"]].title
    yield f"{folder}: {run['model']}, {arm}, {size_label(run['size'])} records; {facts['chosen']}"
    for one in facts["classes"]:
        if one["auroc"] is None:
            continue
        ends = f" ({one['low']:.3f} to {one['high']:.3f})" if one["low"] is not None else ""
        yield f"  {one['meaning']}: AUROC {one['auroc']:.3f}{ends}"
    yield from (f"  {limit}" for limit in facts["limits"] if limit.startswith("No network"))
    yield f"  test predictions differ from the stored run's by {facts['apart']:.5f} at most"


class Network:
    """An exported network, ready to be asked; `export` wrote its folder, on any computer.

    Raises UserError if it is no such folder, or its files do not belong together.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self.card: dict[str, Any] = json.loads(check_file(folder / CARD).read_text("utf-8"))
            noted = self.card["format"], self.card["weights"]
            if noted != (_FORMAT, hash_of(check_file(folder / WEIGHTS))):
                raise UserError(f"{folder / WEIGHTS} is not what {CARD} describes; export it again")
            run, given, outputs = self.card["run"], self.card["input"], [*self.card["outputs"]]
            self.options = Options(**given["options"] | {"every_window": False})
            self.lowest_rate, self.z_scored = float(given["lowest_rate"]), bool(given["z_scored"])
            self.known = [one["name"] for one in self.card["classes"]]
            self.kept = [outputs.index(one) for one in self.known]
            self.ranged = check_protocol(run["protocol"]).ranged
            size = len(outputs), self.options.samples
            self.model = build_model(run["model"], run["head"], *size, 0)
            load_encoder(self.model, folder / WEIGHTS, head=True)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, ArithmeticError) as error:
            raise UserError(
                f"{folder} holds no exported network ({type(error).__name__}: {error}); "
                "`ecgnb export` writes one"
            ) from error

    def ask(self, signals: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
        """Return probabilities, shape (records, classes of the card).

        `signals` are microvolts of shape (records, 12, samples), as `ecgnb.data.prepare` leaves
        them.
        """
        device = choose_device()
        values = torch.from_numpy(np.ascontiguousarray(signals)).to(device)
        rows = torch.arange(len(signals), device=device)
        said = predict(self.model.to(device), Records(values, rows, self.ranged), "float32")
        return said[:, self.kept]

    def read(self, source: Path | Tensor, record: str) -> tuple[npt.NDArray[np.int16], str]:
        """Return one record as the network wants it, and its flags; RecordError refuses it."""
        if isinstance(source, Path):
            header = read_header(source / record)
            rate, units = header.sampling_rate, {one.unit.upper() for one in header.signals}
            if ("NU" in units) != self.z_scored:
                raise RecordError(
                    "is z-scored, and the network knows millivolts"
                    if "NU" in units
                    else "is in millivolts, and the network knows z-scored leads only"
                )
        else:
            rate = source.sampling_rate
        if rate < self.lowest_rate:
            raise RecordError(
                f"is sampled at {rate:g} Hz, and the network wants {self.lowest_rate:g} or more"
            )
        path, tensor = (source, None) if isinstance(source, Path) else (Path(), source)
        content, found = convert_record(record, path, False, tensor, self.options)
        return np.frombuffer(content, "<i2").reshape(len(LEADS), -1), found["flags"]


class _Whole(nn.Module):
    """From microvolts to the probabilities of the classes that an exported network's card names."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.model = network.model
        self.enter = to_range if network.ranged else normalise
        self.kept = network.kept

    def forward(self, microvolts: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.model(self.enter(microvolts)))[:, self.kept]


def write_onnx(folder: Path) -> None:
    """Write an exported network as ``model.onnx`` too, for any runtime of that format.

    It maps ``microvolts``, int16 of shape (records, 12, samples), prepared as the card says, to
    the ``probabilities`` of its classes. Raises UserError if the package onnx is missing.
    """
    if not find_spec("onnx"):
        raise UserError("model.onnx needs the package onnx: pip install onnx")
    network = Network(folder)
    example = torch.zeros(1, len(LEADS), network.options.samples, dtype=torch.int16)
    names = {"input_names": ["microvolts"], "output_names": ["probabilities"]}
    axes = {name: {0: "records"} for (name,) in names.values()}
    # The newer exporter, dynamo, unrolls recurrent layers.
    given: dict[str, Any] = {"dynamo": False, "dynamic_axes": axes, **names}
    with catch_warnings():
        simplefilter("ignore")
        put(folder / ONNX, lambda to: torch.onnx.export(_Whole(network), (example,), to, **given))


def predict_records(
    folder: Path, names: Sequence[str], rate: float | None = None
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Ask an exported network about records.

    Parameters
    ----------
    folder : Path
        As `export` wrote it.
    names : sequence of str
        WFDB records, with or without ``.hea``; folders of them; or arrays, ``.npy`` of shape
        (records, 12, samples) with leads in the standard order: floating-point numbers are
        millivolts, whole ones microvolts.
    rate : float, optional
        Sampling rate of the arrays in Hz.

    Returns a table with ``record``, the probability of each class, and ``flags`` as in a prepared
    table; and the records that the network is not for, with the reason of each. Raises UserError if
    there is no network, no such record, or none that can be used.
    """
    network = Network(folder)
    rows: list[pd.DataFrame] = []
    refused: dict[str, str] = {}
    spans: list[int] = []
    batch: list[tuple[str, npt.NDArray[np.int16], str]] = []
    for place, (path, source, record) in enumerate(found := list(_expanded(names, rate)), start=1):
        name = plain(path)  # pandas refuses a name that is no text
        try:
            values, flags = network.read(source, record)
        except (RecordError, ValueError, ArithmeticError) as error:
            refused[name] = str(error)
        else:
            spans.append(int(np.median(np.ptp(values.astype(int), axis=1))))
            batch.append((name, values, flags))
        if batch and (len(batch) == _BATCH or place == len(found)):
            said = network.ask(np.stack([values for _, values, _ in batch]))
            table = pd.DataFrame(said, columns=network.known)
            table.insert(0, "record", [name for name, _, _ in batch])
            rows.append(table.assign(flags=[flags for _, _, flags in batch]))
            batch = []
    if not rows:
        first, why = next(iter(refused.items()))
        raise UserError(f"none of {len(refused)} records can be used; the first, {first}: {why}")
    # An array does not say its unit.
    asked = len(spans) >= _ENOUGH or any(isinstance(source, Tensor) for _, source, _ in found)
    if asked and not network.z_scored:
        for note in checks.of_amplitude(np.array(spans)):
            raise UserError(f"nothing is predicted: {note}")
    return pd.concat(rows, ignore_index=True), refused


def _expanded(names: Iterable[str], rate: float | None) -> Iterator[tuple[str, Path | Tensor, str]]:
    """List each record: its name, the folder or array that holds it, and its name there."""
    for name in names:
        path = Path(os.path.expanduser(name))
        if path.suffix == ".npy":
            if rate is None:
                raise UserError(f"{name} does not say its sampling rate; add --rate, in Hz")
            try:
                tensor = open_tensor(path, "", rate, LEADS)
            except (OSError, ValueError) as error:
                raise UserError(f"{name} cannot be read: {error}") from error
            yield from ((f"{path.name}#{row}", tensor, str(row)) for row in range(tensor.records))
        elif path.is_dir():
            headers = sorted(path.rglob("*.hea"))
            if not headers:
                raise UserError(f"{name} holds no WFDB record, no file that ends in .hea")
            yield from ((str(one.with_suffix("")), one.parent, one.name) for one in headers)
        else:
            header = path if path.suffix == ".hea" else path.with_name(f"{path.name}.hea")
            if not header.is_file():
                raise UserError(f"there is no record {name}: looked for {header}")
            yield str(header.with_suffix("")), header.parent, header.name
