"""Random convolution kernels: the transform of another library, and a ridge that ranks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import do, tiny

from ecgnb.models.kernels import Kernels, draw_kernels, ridge
from ecgnb.study.store import Store, write_table
from ecgnb.training.metrics import alarm_thresholds, macro_auroc


def test_the_transform_is_that_of_aeon():
    """Kernels drawn, and features found, by aeon 1.6.0 (`MiniRocket`, several channels)."""
    with np.load(Path(__file__).parent / "minirocket.npz", allow_pickle=False) as made:
        known = dict(made)
    ends = np.cumsum(84 * known["features_per_dilation"])
    biases = [part.reshape(84, -1) for part in np.split(known["biases"], ends[:-1])]
    kernels = Kernels(tuple(map(int, known["dilations"])), known["leads"], tuple(biases))
    found = kernels.transform(torch.from_numpy(known["records"].astype(np.float32)))
    np.testing.assert_allclose(found, known["features"], atol=1e-6)


@pytest.fixture(scope="module")
def records() -> tuple[torch.Tensor, np.ndarray]:
    """Noise, to which every third record adds a wave in one lead, and every second in another."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(90, 12, 250)).astype(np.float32)
    wave = 3 * np.sin(np.arange(50) / 4).astype(np.float32)
    labels = np.stack([np.arange(90) % 3 == 0, np.arange(90) % 2 == 0, np.zeros(90, bool)], axis=1)
    values[labels[:, 0], 1, 100:150] += wave
    values[labels[:, 1], 7, 20:70] += wave
    return torch.from_numpy(values), labels


def test_kernels_are_drawn_by_seed_and_as_many_as_fit(records):
    values, _ = records
    first, again, other = (draw_kernels(values[:40], seed, 1000) for seed in (1, 1, 2))
    assert sum(bias.size for bias in first.biases) == 11 * 84
    np.testing.assert_array_equal(first.transform(values[:3]), again.transform(values[:3]))
    assert not np.array_equal(first.leads, other.leads)
    found = first.transform(values)
    assert found.min() >= 0
    assert found.max() <= 1
    assert 0.3 < found.mean() < 0.7  # biases are quantiles of responses
    with pytest.raises(ValueError, match="shorter than a kernel"):
        draw_kernels(values[:, :, :8], 1)


def test_ridge_ranks_what_it_has_not_seen(records):
    values, labels = records
    found = draw_kernels(values[:60], 0, 2000).transform(values)
    (scores,) = ridge(found[:60], labels[:60], found[60:])
    assert macro_auroc(labels[60:], scores, 3) > 0.9
    assert (scores[:, 2] == 0.5).all()  # a class without positives


SMALL = {"seeds": [0], "sizes": [30], "learning_rates": [0.01]}


def test_no_network_is_one_run_beside_all_networks(lent):
    models, recipe = ["gru", "resnet1d18"], {"RNN": "one-cycle"}
    runs = do(tiny(arms=["scratch", "no-network"], models=models, recipe=recipe, **SMALL))
    assert [(run.spec.model, run.spec.arm, run.spec.recipe) for run in runs] == [
        ("gru", "scratch", "one-cycle"),
        ("kernels", "no-network", ""),
        ("resnet1d18", "scratch", ""),
    ]
    for run in runs:
        assert run.predictions.shape == (len(run.records), len(run.classes))
        assert len(run.facts["alarm_thresholds"]) == len(run.classes)
    assert runs[1].spec.learning_rate == 0
    assert runs[1].facts["training_seconds"] > 0
    assert not runs[1].history


def test_a_final_run_keeps_what_later_questions_need(lent, tmp_path):
    tuned, run = do(tiny(arms=["scratch", "linear-probe"], **SMALL))
    assert tuned.validation.shape == (tuned.facts["validation_records"], len(tuned.classes))
    assert run.validation.size == 0  # a frozen encoder is no candidate
    assert np.isfinite([run.facts[name] for name in ("logme", "h_score", "leep", "melep")]).all()
    assert 0 <= run.facts["probe"] <= 1
    path = tmp_path / "part.parquet"
    write_table([tuned, run], path)
    store = Store(tmp_path / "none", (path,))
    for wanted in (tuned, run):
        assert (again := store.load(wanted.key))
        assert again.validation.tolist() == wanted.validation.tolist()


def test_a_threshold_lets_so_many_false_alarms_through():
    rng = np.random.default_rng(0)
    truth, scores = rng.random((400, 3)) < 0.3, rng.random((400, 3))
    truth[:, 2] = True
    thresholds = alarm_thresholds(truth, scores, 0.05)
    alarms = ((scores > thresholds) & ~truth).sum(axis=0) / np.maximum((~truth).sum(axis=0), 1)
    assert (alarms <= 0.05).all()
    assert (alarms[:2] > 0.04).all()
    assert np.isinf(thresholds[2])
