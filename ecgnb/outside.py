"""Somebody else's encoder: probed, or fine-tuned, beside the runs of a study."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from safetensors.torch import load_file
from torch import nn

from ecgnb.analysis.advise import certainty
from ecgnb.analysis.compare import pair, runs_table, summarise
from ecgnb.data.own import check_file
from ecgnb.data.prepare import Prepared
from ecgnb.data.splits import subset, target_split
from ecgnb.errors import UserError
from ecgnb.files import read_toml
from ecgnb.models import MODELS, NO_NETWORK
from ecgnb.models.build import Model
from ecgnb.models.kernels import ridge
from ecgnb.study.data import fingerprints, open_dataset, read_labels, read_table
from ecgnb.study.plan import open_progress, write_part
from ecgnb.study.spec import RunSpec, Study, changed, size_label
from ecgnb.study.store import Result, hash_of, open_store
from ecgnb.study.train import ORDER_SEED
from ecgnb.training.arms import ARMS, check_protocol
from ecgnb.training.device import choose_device, share
from ecgnb.training.fit import Schedule
from ecgnb.training.inputs import UNIT, Data, Records, predict
from ecgnb.training.metrics import auroc, macro_auroc, report
from ecgnb.training.transfer import train_arm
from ecgnb.training.transferability import h_score, logme

_KEYS = ["target", "label_set", "min_positives", "size"]
_DIFFER = ("arm", "model", "head", "source", "source_size", "shuffled", "updates")
_OTHER = ["size", *(f"{name}_other" for name in _DIFFER)]
# What a run lacks that starts from no source of the study's.
_PLAIN = {f.name: f.default for f in fields(RunSpec) if f.name[:4] in ("sour", "shuf", "tell")}
_LEAK = 0.995  # AUROC that no single number about an ECG reaches honestly
_FACTS = ("title", "licence", "url", "trained_on")
_GROUP, _WEIGHTS = "ecgnb.encoders", "model.safetensors"

_Parts = tuple[npt.NDArray[np.int64], ...]  # rows that train, validate and test
_Said = Sequence[npt.NDArray[np.float32]]  # probabilities of validation and of test
_Train = Callable[[RunSpec, npt.NDArray[np.bool_], _Parts], _Said]
_Tune = tuple[float, _Train, str]  # at a learning rate; and a hash of what is tuned


@dataclass(frozen=True)
class Features:
    """What an encoder says of the records of a dataset."""

    name: str  # of its folder
    facts: dict[str, str]  # title, licence, url and trained_on, as far as card.toml says them
    values: npt.NDArray[np.float32]  # shape (records, features)


def read_features(folder: Path, records: pd.Series) -> Features:
    """Read a folder with ``features.npy``, ``records.csv`` and, if it is there, ``card.toml``.

    Parameters
    ----------
    folder : Path
        The column ``record`` of ``records.csv`` names the rows of the array.
    records : Series of str
        The records that are wanted, in the order that is wanted.

    Raises UserError if a file is damaged, a row has no or two names, or a number or record lacks.
    """
    try:
        values = np.load(check_file(folder / "features.npy"), allow_pickle=False)
        rows = pd.read_csv(check_file(folder / "records.csv"), dtype=str)["record"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{folder} must hold features.npy, of shape (records, features), and records.csv with "
            f"a column 'record' ({type(error).__name__}: {error})"
        ) from error
    if values.ndim != 2 or values.dtype.kind not in "fiu" or len(values) != len(rows):
        raise UserError(
            f"{folder}: features.npy holds {values.dtype} of shape {values.shape}, and "
            f"records.csv names {len(rows)} rows; it must be a matrix of numbers with a row a name"
        )
    if rows.duplicated().any():
        raise UserError(f"{folder}: records.csv names {rows[rows.duplicated()].iloc[0]} twice")
    places = pd.Series(range(len(rows)), index=rows).reindex(records)
    if places.isna().any():
        first = places.index[places.isna()][0]
        raise UserError(
            f"{folder} has no features of {int(places.isna().sum())} of {len(records)} records, "
            f"such as {first}; it names {rows.iloc[0] if len(rows) else 'none'}"
        )
    return _checked(folder, values[places.to_numpy(int)].astype(np.float32))


def _said(folder: Path) -> dict[str, Any]:
    card = folder / "card.toml"
    return read_toml(card, "card") if card.exists() else {}


def _checked(folder: Path, values: npt.NDArray[np.float32]) -> Features:
    if not np.isfinite(values).all():
        raise UserError(f"{folder}: the features hold numbers that are missing or infinite")
    facts = {key: str(value) for key, value in _said(folder).items() if key in _FACTS}
    return Features(folder.name, facts, values)


class Theirs(nn.Module):
    """An encoder of somebody else's, asked as ours are: of records as `normalise` leaves them.

    `ask` takes records in microvolts, each lead without its mean, a float32 tensor of shape
    (records, 12, samples), and their `rate` in Hz, and returns features, (records, features).
    """

    def __init__(self, ask: Callable[[torch.Tensor, float], Any], rate: float) -> None:
        super().__init__()
        self.ask, self.rate = ask, rate

    def forward(self, records: torch.Tensor) -> torch.Tensor:
        """Return the features of records."""
        return torch.as_tensor(self.ask(records * UNIT, self.rate)).float()


@contextmanager
def _blamed(encoder: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # it is anybody's code
        raise UserError(
            f"the encoder '{encoder}' failed ({type(error).__name__}: {error})"
        ) from error


def load_encoder(folder: Path, encoder: str, rate: float) -> Theirs:
    """Build an encoder of one's own, with the weights in ``model.safetensors``, where it has some.

    `encoder` is its name among the entry points ``ecgnb.encoders`` of the installed packages: a
    function that takes a dict of the weights, tensors by name, and returns what `Theirs` asks; for
    fine-tuning, an ``nn.Module``. Raises a UserError if no installed package has it, or it fails.
    """
    entry, weights = _entry(encoder), folder / _WEIGHTS
    with _blamed(encoder):
        return Theirs(entry.load()(load_file(weights) if weights.exists() else {}), rate)


def _entry(encoder: str) -> EntryPoint:
    there = {point.name: point for point in entry_points(group=_GROUP)}
    if encoder not in there:
        raise UserError(
            f"no installed package has an encoder '{encoder}' (there {', '.join(there) or 'are'}"
            f"{'' if there else ' none'}); a package names it under the entry points '{_GROUP}'"
        )
    return there[encoder]


def encode(folder: Path, encoder: str, records: Prepared, rate: float) -> Features:
    """Let an encoder of one's own make the features of a dataset prepared at a rate in Hz.

    Raises a UserError as `load_encoder` does, or if it does not return a row of numbers a record.
    """
    theirs = load_encoder(folder, encoder, rate)
    signals = share(records.signals, torch.device("cpu"))
    with _blamed(encoder):
        whole = Records(signals, torch.arange(len(signals)))
        values = predict(theirs, whole, "float32", sigmoid=False)
    if values.ndim != 2 or len(values) != len(signals):
        raise UserError(
            f"the encoder '{encoder}' made an array of shape {values.shape} of "
            f"{len(signals)} records; a row a record is wanted"
        )
    return _checked(folder, values)


def probe(
    study: Study, folder: Path, part: Path | None = None, origin: str = "", finetune: float = 0.0
) -> Iterator[str]:
    """Say, line by line, what somebody's encoder reaches beside a study's finished runs.

    Its features are read from the folder, see `read_features`, or made by the ``encoder`` that its
    ``card.toml`` names, see `encode`.

    The same records train, validate and test, and the same classes are scored, as in the study's
    first pair, by a linear probe: a ridge regression, its penalty chosen within the training
    records. With a learning rate as `finetune`, the encoder is also fine-tuned, by the recipe and
    for the updates of the study's first network. All are written as a `part`, if one is named,
    which stands in the book as somebody else's runs do. Raises UserError as these do, or if the
    study's target is not here.
    """
    side, folder = study.pairs[0].target, folder.resolve()  # whose name names the encoder
    tune: _Tune | None = None
    if encoder := _said(folder).get("encoder"):
        prepared = open_dataset(study, side.dataset)
        table, features = prepared.table, encode(folder, encoder, prepared, study.data.rate)
        if finetune:
            build = partial(load_encoder, folder, encoder, study.data.rate)
            if not [*build().parameters()]:
                raise UserError(f"the encoder '{encoder}' has no weights to tune: no nn.Module")
            if check_protocol(study.protocol).chosen_on_test:
                raise UserError(f"study {study.name} chooses on its test sets: take a clean one")
            train = partial(_finetune, build, prepared.signals, features.values.shape[1])
            tune = finetune, train, _state(folder, encoder)
    elif finetune:
        raise UserError(f"{folder} holds features, which cannot be fine-tuned: name an encoder")
    else:
        table = read_table(study, side.dataset)
        features = read_features(folder, table["record"])
    yield f"{features.facts.get('title', features.name)}: {features.values.shape[1]} features" + (
        "".join(f"; {key} {value}" for key, value in features.facts.items() if key != "title")
    )
    labels = read_labels(table, side.dataset, side.label_set, side.min_positives)
    yield from leaks(features, labels)
    done = list(_runs(study, features, table, labels, tune))
    mine = [run for run, _ in done]
    means = pd.DataFrame([told for _, told in done if told]).mean()
    yield "  before any training: " + ", ".join(f"{k} {v:.3f}" for k, v in means.items())
    others = [run for run in open_progress(study).finished() if run.spec.dataset == side.dataset]
    runs = runs_table(study, [*mine, *others])
    own = (runs["model"] == NO_NETWORK) & (runs["source"] == features.name)
    for arm, rows in runs[own].groupby("arm", sort=False):
        yield f"{ARMS[str(arm)].title}:"
        for row in summarise(rows, _KEYS).itertuples():
            yield f"  {row.records} records: AUROC {row.mean:.3f} ({row.low:.3f} to {row.high:.3f})"
        beside = pair(rows, runs[~own & (runs["head"] != "flattened")], _KEYS)
        for row in summarise(beside, _OTHER).itertuples():
            other: dict[str, Any] = {name: getattr(row, f"{name}_other") for name in _DIFFER}
            kind = [ARMS[other["arm"]].title]
            if other["model"] != NO_NETWORK:
                kind += [MODELS[other["model"]].title, f"{other['head']} head"]
            if other["source"]:
                size = other["source_size"] and f", {other['source_size']:,} records"
                kind += [f"on {other['source']}{size or ''}", *["shuffled"] * other["shuffled"]]
            yield (
                f"  {size_label(int(str(row.size)))}: less {', '.join(kind)}: {row.mean:+.3f} "
                f"({row.low:+.3f} to {row.high:+.3f}) {row.verdict}, certainty {certainty(row)}"
            )
    if part:
        yield f"written: {write_part(study, part, origin or features.name, mine)}"


def _state(folder: Path, encoder: str) -> str:
    """Hash the weights and the code of an encoder: what is kept of others counts no more."""
    top = find_spec(_entry(encoder).module.partition(".")[0])
    folders = top.submodule_search_locations if top else None
    code = [path for one in folders or () for path in sorted(Path(one).rglob("*.py"))]
    code = code or [Path(str(top and top.origin))]
    files = [*code, *filter(Path.exists, [folder / _WEIGHTS])]
    return hashlib.sha256("".join(map(hash_of, files)).encode()).hexdigest()


def leaks(features: Features, labels: pd.DataFrame) -> Iterator[str]:
    """Say where one feature alone tells who has a label: it may have been made from the labels."""
    for name in labels:
        has = labels[[name]].to_numpy()
        if min(has.sum(), (~has).sum()) < 5:
            continue
        area = auroc(np.broadcast_to(has, features.values.shape), features.values)
        place = int(np.abs(area - 0.5).argmax())
        if max(area[place], 1 - area[place]) > _LEAK:
            yield (
                f"  LEAK? feature {place} alone tells who has {name}: AUROC "
                f"{max(area[place], 1 - area[place]):.3f}; was it made from the labels?"
            )


def _finetune(
    build: Callable[[], Theirs],
    signals: npt.NDArray[np.int16],
    width: int,
    cell: RunSpec,
    truth: npt.NDArray[np.bool_],
    parts: _Parts,
) -> _Said:
    """Train an encoder with a new head as a cell of the study has it."""
    device = choose_device()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(cell.seed)
        model = Model(build(), width, truth.shape[1]).to(device)
    shared = share(signals, device)
    train, validation, test = (Records(shared, torch.from_numpy(p).to(device)) for p in parts)
    wanted = [torch.from_numpy(truth[rows].astype(np.float32)).to(device) for rows in parts]
    given = {entry.name: getattr(cell, entry.name) for entry in fields(Schedule)}
    schedule = Schedule(**given | {"seed": ORDER_SEED + cell.seed})
    sides = Data(train, wanted[0]), Data(validation, wanted[1])
    trained = train_arm(model, "finetune", *sides, test, schedule)
    if all(weight.grad is None for weight in model.encoder.parameters()):
        raise UserError("the encoder learns nothing: no weight of it has a gradient")
    return trained.fitted.validation, trained.test


def _runs(
    study: Study, features: Features, table: pd.DataFrame, labels: pd.DataFrame, tune: _Tune | None
) -> Iterator[tuple[Result, dict[str, float]]]:
    """Fit the probe for each seed and size, with the scores of transferability; and fine-tune."""
    truth = labels.to_numpy()
    target, store = study.pairs[0].target.dataset, open_store()
    prints = {target: fingerprints(study)[target]}
    prints[features.name] = hashlib.sha256(features.values.tobytes()).hexdigest()
    first = study.pairs[0].target
    wanted_ = (target, first.label_set, first.min_positives)
    cells = [c for c in study.cells() if (c.dataset, c.label_set, c.min_positives) == wanted_]
    cells.sort(key=lambda cell: cell.arm == "scratch")
    for cell in {(one.seed, one.size): one for one in cells}.values():
        split = target_split(table, truth, cell.seed)
        parts = subset(split, cell.size), split.validation, split.test
        cell = changed(cell, **_PLAIN, model=NO_NETWORK, head="pooled")
        cell = changed(cell, source=features.name)
        values, *asked = (features.values[rows] for rows in parts)
        known = truth[parts[0]]
        use = known.any(axis=0) & ~known.all(axis=0)
        wanted = values.astype(np.float64), known[:, use]
        told = {"LogME": logme(*wanted), "H-score": h_score(*wanted)}
        spec = changed(cell, arm="linear-probe", recipe="")
        said: _Said = ridge(values, known, *asked)
        yield _result(spec.key(prints), spec, table, labels, parts, said), told
        if tune:
            rate, train, state = tune
            spec = changed(cell, arm="finetune", learning_rate=rate)
            key = spec.key(prints | {features.name: state})
            tuned = store.load(key, spec)
            if tuned is None:  # it takes long, and is kept
                said = train(spec, truth, parts)
                tuned = _result(key, spec, table, labels, parts, said)
                store.save(tuned)
            yield tuned, {}


def _result(
    key: str, spec: RunSpec, table: pd.DataFrame, labels: pd.DataFrame, parts: _Parts, said: _Said
) -> Result:
    """Score what was said of validation and test, as the study's own runs are scored."""
    truth, (validation, test) = labels.to_numpy(), said
    shown = np.atleast_1d(truth.any(axis=0))
    stored = test.astype(np.float16)
    sides = (truth[parts[1]], validation), (truth[parts[2]], stored.astype(np.float64))
    facts = {
        **report(*sides, spec.min_test_positives, shown),
        "validation_auroc": macro_auroc(truth[parts[1]], validation, spec.min_test_positives),
        "train_records": len(parts[0]),
    }
    return Result(
        key,
        spec,
        tuple(compress(labels.columns, shown)),
        tuple(table["record"].iloc[parts[2]]),
        stored[:, shown],
        {},
        facts,
    )
