"""An outside encoder's features stand beside the runs of a study, and leaks are seen."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import mistake
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from ecgnb import outside
from ecgnb.cli import app
from ecgnb.outside import probe, read_features
from ecgnb.study.data import open_dataset, read_labels, read_table
from ecgnb.study.declare import load_study
from ecgnb.study.run import run_study
from ecgnb.study.store import read_part

TINY = str(Path(__file__).with_name("tiny.toml"))


@pytest.fixture
def study(common, monkeypatch):
    monkeypatch.setenv("ECGNB_CACHE", str(common / "exported"))
    declared = load_study(TINY)
    run_study(declared, workers=1, progress=False)
    return declared


def write(folder, values, names, card='title = "Theirs"\nlicence = "MIT"\n'):
    folder.mkdir()
    np.save(folder / "features.npy", values)
    pd.DataFrame({"record": names}).to_csv(folder / "records.csv", index=False)
    (folder / "card.toml").write_text(card)
    return folder


def known(study):
    side = study.pairs[0].target
    table = read_table(study, side.dataset)
    labels = read_labels(table, side.dataset, side.label_set, side.min_positives)
    return table["record"], labels.to_numpy().astype(float)


def test_noise_is_not_better_and_labels_are_seen_as_a_leak(study, tmp_path):
    names, labels = known(study)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(names))  # rows may come in any order
    noise = rng.standard_normal((len(names), 16))
    leaking = np.hstack([noise, labels + 0.01 * rng.standard_normal(labels.shape)])
    said = {
        name: "\n".join(probe(study, write(tmp_path / name, values[order], names.iloc[order])))
        for name, values in (("noise", noise), ("leaking", leaking))
    }
    assert "LEAK" not in said["noise"]
    assert "16 features; licence MIT" in said["noise"]
    assert "from scratch, GRU" in said["noise"]
    assert "helps" not in said["noise"]
    assert said["leaking"].count("LEAK? feature") == labels.shape[1]
    assert float(said["leaking"].partition("AUROC ")[2][:5]) > 0.99


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda values, names: (values[:-1], names), "a row a name"),
        (lambda values, names: (values[:, 0], names), "must be a matrix"),
        (lambda values, names: (values[:-1], names[:-1]), "no features of 1 of"),
        (lambda values, names: (values, [names[0], *names[:-1]]), "twice"),
        (lambda values, names: (values * np.nan, names), "missing or infinite"),
    ],
)
def test_features_that_cannot_be_used_are_named(study, tmp_path, spoil, reason):
    names = list(known(study)[0])
    folder = write(tmp_path / "theirs", *spoil(np.ones((len(names), 3)), names))
    mistake(reason, read_features, folder, pd.Series(names))
    failed = CliRunner().invoke(app, ["probe", TINY, str(tmp_path)])
    assert "must hold features.npy" in str(failed.exception)


def install(monkeypatch, name, build):
    point = SimpleNamespace(name=name, module=__name__, load=lambda: build)
    monkeypatch.setattr(outside, "entry_points", lambda group: [point])


def test_an_encoder_of_ones_own_is_asked_for_its_features(study, tmp_path, monkeypatch):
    build = lambda weights: lambda records, rate: records.square().mean(2) @ weights["w"] * rate  # noqa: E731
    install(monkeypatch, "mean", build)
    prepared = open_dataset(study, study.pairs[0].target.dataset)
    weights = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    known = prepared.signals.astype(np.float32)
    values = known.var(axis=2) @ weights.numpy() * study.data.rate
    theirs = write(tmp_path / "theirs", values, prepared.table["record"])
    mine = tmp_path / "by" / "theirs"
    mine.mkdir(parents=True)
    save_file({"w": weights}, mine / "model.safetensors")
    card = (theirs / "card.toml").read_text()
    (mine / "card.toml").write_text(card + 'encoder = "mean"\n')
    made = outside.encode(mine, "mean", prepared, study.data.rate).values
    assert made == pytest.approx(values, rel=1e-3)
    said = [list(probe(study, one, tmp_path / "part", "We")) for one in (mine, theirs)]
    assert len(said[0]) == len(said[1])
    facts, runs = read_part(Path(said[0][-1].removeprefix("written: ")))
    assert {run.facts["origin"] for run in runs} == {facts["origin"]} == {"We"}
    assert {(run.spec.arm, run.spec.source) for run in runs} == {("linear-probe", "theirs")}
    for encoder, reason in (("other", "no installed package"), ("mean", "failed .KeyError: 'w'")):
        (theirs / "card.toml").write_text(f'encoder = "{encoder}"\n')
        mistake(reason, list, probe(study, theirs))


class Square(nn.Module):
    still = False

    def __init__(self, weights):
        super().__init__()
        self.weight = nn.Parameter(weights.get("w", torch.full((12, 4), 0.001)))

    def forward(self, records, rate):
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.still):
            return (records / 100).square().mean(2) @ self.weight


def test_an_encoder_of_ones_own_is_fine_tuned_as_the_study_trains(study, tmp_path, monkeypatch):
    made = []
    build = lambda weights: made.append(Square(weights)) or made[-1]  # noqa: E731
    install(monkeypatch, "own", build)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "card.toml").write_text('encoder = "own"\n')
    said = list(probe(study, mine, tmp_path / "part", finetune=0.05))
    assert "fine-tuned:" in said
    _, runs = read_part(Path(said[-1].removeprefix("written: ")))
    tuned = [run.spec for run in runs if run.spec.arm == "finetune"]
    first = next(one for one in study.cells() if one.arm == "scratch")
    assert {spec.seed for spec in tuned} == {*study.seeds}
    assert {(spec.updates, spec.recipe) for spec in tuned} == {(first.updates, first.recipe)}
    networks = len(made)
    monkeypatch.chdir(mine)
    list(probe(study, Path("."), finetune=0.05))
    assert len(made) == networks + 2  # what was fine-tuned is kept
    save_file({"w": torch.full((12, 4), 0.001)}, mine / "model.safetensors")
    list(probe(study, mine, finetune=0.05))
    assert len(made) == 2 * networks + 2  # with other weights, or code, it is done again
    tuning = replace(study, pairs=tuple(replace(p, arms=("finetune",)) for p in study.pairs))
    assert sum("s: AUROC" in line for line in probe(tuning, mine)) == len(study.pairs[0].sizes)
    paper = replace(study, protocol="paper")
    mistake("chooses on its test sets", list, probe(paper, mine, finetune=0.05))
    moved = [float((one.weight.detach() - 0.001).abs().max()) for one in made[2:networks]]
    assert min(moved) > 0.01  # a few updates at 0.05 each; what was only probed stays as it was
    assert made[0].weight.detach().eq(torch.full((12, 4), 0.001)).all()
    monkeypatch.setattr(Square, "still", True)
    mistake("learns nothing", list, probe(study, mine, finetune=0.07))
    features = write(tmp_path / "x", np.ones((3, 2)), ["a", "b", "c"])
    mistake("cannot be fine-tuned: name an encoder", list, probe(study, features, finetune=0.1))
    install(monkeypatch, "own", lambda weights: lambda records, rate: records.mean(2))
    mistake("no weights to tune", list, probe(study, mine, finetune=0.1))
