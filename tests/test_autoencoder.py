"""Pre-training without labels: the autoencoder, its task, and a study that uses it."""

import numpy as np
import pytest
import torch
from tiny import do, tiny

import ecgnb.study.train as trainer
from ecgnb.data.records import LEADS
from ecgnb.errors import UserError
from ecgnb.models.build import build_model, build_reconstructor
from ecgnb.study.plan import open_progress
from ecgnb.study.store import Store, write_table
from ecgnb.training.fit import Schedule, fit, wanted_of
from ecgnb.training.inputs import (
    RECONSTRUCT,
    UNIT,
    Data,
    Records,
    explained_variance,
    predict,
    reconstruction,
)
from ecgnb.training.transfer import load_encoder, save_weights


@pytest.mark.parametrize("samples", [2048, 500, 64])
def test_the_code_is_an_eighth_and_the_way_back_ends_where_it_began(samples):
    model = build_reconstructor("autoencoder", 0).eval()
    records = torch.randn(3, 12, samples)
    codes = model.head[0](model.encoder.maps(records))
    assert codes[0].numel() == -(-samples // 32) * 4
    assert model(records).shape == (3, samples)
    other = records.clone()
    other[:, [lead for lead in range(12) if LEADS[lead] != "II"]] = 0
    assert torch.equal(model(records), model(other))


def test_only_an_autoencoder_is_pretrained_without_labels():
    with pytest.raises(UserError, match="gru cannot be pre-trained without labels; choose one of"):
        build_reconstructor("gru", 0)


def test_explained_variance():
    wanted = np.random.default_rng(0).normal(size=(20, 50)).astype(np.float32)
    assert explained_variance(wanted, wanted) == 1
    assert explained_variance(np.zeros_like(wanted), wanted) == 0
    found = reconstruction(wanted + 0.1, wanted)
    assert found["mse"] == pytest.approx((0.1 * UNIT) ** 2, rel=1e-3)
    assert found["explained_variance"] == pytest.approx(1 - 0.01 / np.square(wanted).mean())


def _waves(count: int, seed: int) -> Data:
    """Records whose lead II is a sine wave; they have no labels."""
    rng = np.random.default_rng(seed)
    time = np.arange(128) / 128
    waves = np.sin(2 * np.pi * (rng.uniform(2, 5, (count, 1)) * time + rng.random((count, 1))))
    signals = rng.normal(0, 100, (count, 12, 128))
    signals[:, LEADS.index("II")] = 500 * waves
    records = Records(torch.from_numpy(signals.astype(np.int16)), torch.arange(count))
    return Data(records, torch.zeros(count, 0))


def test_reconstruction_is_learnt_and_the_encoder_is_handed_on(tmp_path):
    train, validation = _waves(120, 0), _waves(40, 1)
    model = build_reconstructor("autoencoder", 0)
    schedule = Schedule(3e-3, updates=60, batch_size=16, evaluations=3, seed=0)
    fitted = fit(model, train, validation, schedule, task=RECONSTRUCT)
    history = fitted.history["validation_explained"]
    assert history[-1] > max(0.5, history[0])
    assert fitted.score == max(history)
    wanted = wanted_of(RECONSTRUCT, validation)
    output = predict(model, validation.records, "float32", sigmoid=False)
    assert explained_variance(output, wanted) == pytest.approx(fitted.score)
    save_weights(model, tmp_path / "w.safetensors", {})
    classifier = build_model("autoencoder", "pooled", 4, 128, 1)
    load_encoder(classifier, tmp_path / "w.safetensors")
    mine, theirs = (one.encoder.state_dict() for one in (classifier, model))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def test_a_study_pretrains_without_reading_a_label(lent, tmp_path, monkeypatch):
    pair = {"models": ["autoencoder"], "sizes": [30], "seeds": 1, "arms": ["scratch", "finetune"]}
    study = tiny(pair, {"label_set": "unlabelled", "min_positives": 0})
    read = trainer.read_labels

    def refuse(table, dataset, *given):
        assert dataset == "sim-south"
        return read(table, dataset, *given)

    monkeypatch.setattr(trainer, "read_labels", refuse)
    assert [run.spec.arm for run in do(study)] == ["scratch", "finetune"]
    progress = open_progress(study)
    pretrained = [run for run in progress.all_done() if run.spec.stage == "pretrain"]
    for run in pretrained:
        assert run.facts["explained_variance"] <= 1
        assert run.predictions.shape == (4, 200) == (len(run.records), 200)
    path = tmp_path / "jang.parquet"
    write_table(progress.all_done(), path)
    recorded = Store(tmp_path / "none", (path,))
    for run in progress.all_done():
        again = recorded.load(run.key)
        assert again.score == run.score == recorded.scores()[run.key]
        assert np.array_equal(again.predictions, run.predictions)
