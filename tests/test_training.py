"""Training: the loop, the arms, and scores of transferability beside their papers' formulas."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import mistake
from sklearn.covariance import LedoitWolf
from sklearn.metrics import f1_score, roc_auc_score

from ecgnb.models import MODELS
from ecgnb.models.build import build_model
from ecgnb.training import checkpoint as checkpoints
from ecgnb.training import transfer, transferability
from ecgnb.training.arms import ARMS, PROTOCOLS, RECIPES
from ecgnb.training.checkpoint import Checkpoint
from ecgnb.training.device import choose_precision
from ecgnb.training.fit import Schedule, _factors, fit
from ecgnb.training.inputs import Data, Records, augment, predict
from ecgnb.training.metrics import auroc, best_thresholds, eligible, evaluate, f1, macro_auroc
from ecgnb.training.transfer import load_encoder, save_weights, train_arm

SAMPLES, CLASSES = 128, 3
SCHEDULE = Schedule(learning_rate=3e-3, updates=12, batch_size=8, evaluations=3, seed=0)


def _data(count: int = 40, seed: int = 0) -> Data:
    rng = np.random.default_rng(seed)
    labels = rng.random((count, CLASSES)) < 0.4
    signals = rng.normal(0, 200, (count, 12, SAMPLES))
    # Each class has a lead of its own whose amplitude tells it.
    signals[:, :CLASSES] *= np.where(labels, 3, 1)[:, :, None]
    inputs = torch.from_numpy(signals.astype(np.int16))
    records = Records(inputs, torch.arange(count))
    return Data(records, torch.from_numpy(labels.astype(np.float32)))


def _gru():
    return build_model("gru", "pooled", CLASSES, SAMPLES, 0)


def _equal(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_same_seed_same_encoder_whatever_the_classes():
    one = build_model("gru", "pooled", 3, SAMPLES, 4).encoder.state_dict()
    other = build_model("gru", "pooled", 7, SAMPLES, 4).encoder.state_dict()
    assert _equal(one, other)


@pytest.mark.parametrize("arm", [name for name in ARMS if ARMS[name].frozen or ARMS[name].probing])
def test_frozen_encoders_are_left_and_their_features_not_augmented(arm):
    model = _gru()
    before = copy.deepcopy(model.encoder.state_dict())
    schedule = replace(SCHEDULE, recipe="one-cycle-augmented-average")
    records = _data(seed=2).records
    trained = train_arm(model, arm, _data(), _data(seed=1), records, schedule)
    # A head was trained on scaled features, and says the same of plain ones.
    np.testing.assert_allclose(predict(model, records, "float32"), trained.test, atol=1e-5)
    assert trained.fitted.best_update == (SCHEDULE.updates if ARMS[arm].trained else 0)
    assert trained.test.shape == (40, CLASSES)
    assert _equal(before, model.encoder.state_dict()) == ARMS[arm].frozen


def test_training_learns_and_probing_comes_first_at_its_share_of_the_updates(monkeypatch):
    """A third of the updates train the head; fine-tuning begins with just that network."""
    model = build_model("resnet1d18", "pooled", CLASSES, SAMPLES, 0)
    before = copy.deepcopy(model.encoder.state_dict())
    begun = []

    def watched(trained, train, validation, schedule, **settings):
        if trained is model:
            assert _equal(before, model.encoder.state_dict())
            begun.append(macro_auroc(truth, predict(model, validation.records, "float32"), 3))
        return fit(trained, train, validation, schedule, **settings)

    train, validation = _data(120), _data(80, 1)
    truth = validation.labels.numpy().astype(bool)
    monkeypatch.setattr(transfer, "fit", watched)
    schedule = Schedule(5e-3, 36, 16, 6, 0)
    trained = train_arm(model, "probe-then-finetune", train, validation, None, schedule)
    history = trained.fitted.history
    assert history["update"] == [6, 12, 18, 24, 30, 36]
    assert history["seconds"] == sorted(history["seconds"])
    assert trained.fitted.best_update > 12
    assert trained.fitted.score > 0.85
    assert history["train_loss"][-1] < history["train_loss"][2]
    assert begun == [pytest.approx(max(history["validation_auroc"][:2]))]
    assert not _equal(before, model.encoder.state_dict())


def test_batches_smaller_than_the_batch_size():
    fitted = fit(_gru(), _data(5), _data(), SCHEDULE)
    assert len(fitted.history["train_loss"]) == 3


def test_bf16_is_close_to_float32():
    model = build_model("resnet1d18", "pooled", CLASSES, SAMPLES, 0)
    records = _data().records
    exact = predict(model, records, "float32", sigmoid=False)
    half = predict(model, records, "bf16", sigmoid=False)
    assert np.abs(exact - half).max() < 0.05 * np.abs(exact).max()


def test_mistakes_are_said(tmp_path):
    mistake("resnet1d18", build_model, "resnet", "pooled", 2, SAMPLES, 0)
    mistake("pooled", build_model, "resnet1d18", "flattened", 2, SAMPLES, 0)
    mistake("float32", choose_precision, "gru", "double", torch.device("cpu"))
    mistake("scratch, finetune", train_arm, _gru(), "frozen", _data(), _data(), None, SCHEDULE)
    unlabelled = Data(_data().records, torch.zeros(40, CLASSES))
    mistake("validation", fit, _gru(), _data(), unlabelled, SCHEDULE)
    (tmp_path / "w.safetensors").write_bytes(b"nothing")
    mistake("does not hold the weights", load_encoder, _gru(), tmp_path / "w.safetensors")


def test_auroc_and_f1_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    truth = rng.random((200, 4)) < 0.3
    scores = (truth * 0.4 + rng.random((200, 4))).round(1)  # with ties
    expected = [roc_auc_score(truth[:, k], scores[:, k]) for k in range(4)]
    assert auroc(truth, scores) == pytest.approx(expected)
    assert f1(truth, scores > 0.7) == pytest.approx(f1_score(truth, scores > 0.7, average=None))


def test_classes_with_few_positives_are_not_scored():
    truth = np.zeros((100, 3), dtype=bool)
    truth[:9, 0] = truth[:10, 1] = truth[:95, 2] = True
    assert eligible(truth).tolist() == [False, True, False]
    scores = np.tile(np.linspace(1, 0, 100)[:, None], 3)
    assert macro_auroc(truth, scores) == 1
    assert evaluate(truth, scores, np.full(3, 0.5))["classes"] == 1


def test_thresholds_maximise_f1():
    rng = np.random.default_rng(1)
    truth = rng.random((300, 2)) < 0.2
    scores = truth * 0.3 + rng.random((300, 2))
    best = best_thresholds(truth, scores)
    for column in range(2):
        reached = f1(truth, scores >= best)[column]
        others = [f1(truth, scores >= value)[column] for value in scores[:, column]]
        assert reached == pytest.approx(max(others))


@pytest.mark.parametrize("updates", [10, 300])
def test_one_cycle_is_that_of_pytorch(updates):
    optimiser = torch.optim.AdamW([torch.zeros(1, requires_grad=True)])
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1.0, total_steps=updates)
    for update in range(updates):
        group = optimiser.param_groups[0]
        wanted = (group["lr"], group["betas"][0])
        assert _factors(update, updates, "one-cycle") == pytest.approx(wanted, abs=1e-7)
        optimiser.step()
        if update < updates - 1:
            cycle.step()


def test_an_average_of_weights_is_not_the_last_of_them():
    recipes = ("one-cycle", "one-cycle-average")
    last, average = (_train("gru", "pooled", recipe=name)[0].state_dict() for name in recipes)
    assert not _equal(last, average)


def test_augmented_records_are_the_same_again_and_near_the_originals():
    batch = _data().records[torch.arange(20)]
    first, again, later = (augment(batch, 1, update) for update in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert first.shape == batch.shape
    ratio = first.std(dim=(1, 2)) / batch.std(dim=(1, 2))
    assert ratio.min() > 0.75
    assert ratio.max() < 1.3


class _StopError(Exception):
    pass


class _StopsAfter(Checkpoint):
    """Saves after some updates, and ends the training there, as a kill would."""

    def __init__(self, path, updates, made_by="this"):
        super().__init__(path, made_by)
        self.updates, self.trained = updates, 0

    def due(self):
        self.trained += 1
        return self.trained == self.updates

    def save(self, state, model, optimiser):
        super().save(state, model, optimiser)
        raise _StopError


def _train(name, head, path=None, updates=0, precision="float32", **changes):
    model = build_model(name, head, CLASSES, SAMPLES, 0)
    checkpoint = _StopsAfter(path, updates) if path else None
    schedule = replace(SCHEDULE, **changes)
    test = _data(seed=3) if schedule.protocol == "paper" else None
    settings = {"precision": precision, "test": test, "checkpoint": checkpoint}
    return model, fit(model, _data(), _data(seed=1), schedule, **settings), checkpoint


CASES = [
    (name, head, "cosine-best")
    for name, entry in MODELS.items()
    if entry.build and name != "resnet1d101"  # which has the layers of resnet1d50
    for head in (entry.heads if name != "resnet1d50" else ["pooled"])
]
CASES += [("gru", "pooled", name) for name in RECIPES if name != "cosine-best"]


@pytest.mark.parametrize(("name", "head", "recipe"), CASES)
def test_every_model_trains_transfers_and_ends_alike_if_stopped(name, head, recipe, tmp_path):
    """Whether it is stopped between two looks at validation (5) or right after one (8)."""
    precision = choose_precision(name, "auto", torch.device("cpu"))
    protocol = recipe if recipe in PROTOCOLS else "clean"
    changes = {"protocol": protocol, "recipe": recipe, "precision": precision}
    whole, fitted, _ = _train(name, head, **changes)
    assert fitted.history["update"] == [4, 8, 12]
    assert fitted.best_update in ([12] if recipe.startswith("one-cycle") else [4, 8, 12])
    said = predict(whole, _data(seed=1).records, precision)
    assert np.array_equal(said, fitted.validation)
    save_weights(whole, tmp_path / "w.safetensors", {"model": name})
    target = build_model(name, head, 5, SAMPLES, seed=2)
    untouched = copy.deepcopy(target.head.state_dict())
    load_encoder(target, tmp_path / "w.safetensors")
    assert _equal(whole.encoder.state_dict(), target.encoder.state_dict())
    assert _equal(untouched, target.head.state_dict())
    scores = predict(target, _data().records, "float32")
    assert scores.shape == (40, 5)
    assert ((scores >= 0) & (scores <= 1)).all()
    path = tmp_path / "one.checkpoint"
    for updates in (5, 3):
        with pytest.raises(_StopError):
            _train(name, head, path, updates, **changes)
    stopped, resumed, checkpoint = _train(name, head, path, **changes)
    assert checkpoint.trained == SCHEDULE.updates - 8  # the others were not done again
    assert _equal(whole.state_dict(), stopped.state_dict())
    assert np.array_equal(fitted.validation, resumed.validation)
    assert (fitted.best_update, fitted.score) == (resumed.best_update, resumed.score)
    for series in fitted.history.keys() - {"seconds"}:
        assert fitted.history[series] == resumed.history[series]
    assert 0 < resumed.earlier_seconds < resumed.history["seconds"][-1]


@pytest.mark.parametrize("spoil", ["another", "torn"])
def test_a_checkpoint_that_does_not_fit_is_left(spoil, tmp_path, recwarn):
    path = tmp_path / "one.checkpoint"
    with pytest.raises(_StopError):
        _train("gru", "pooled", path, 5)
    if spoil == "torn":
        path.write_bytes(path.read_bytes()[:1000])
    checkpoint = _StopsAfter(path, 0, "another" if spoil == "another" else "this")
    fit(_gru(), _data(), _data(seed=1), SCHEDULE, checkpoint=checkpoint)
    assert checkpoint.trained == SCHEDULE.updates
    assert ["is damaged" in str(one.message) for one in recwarn] == [True] * (spoil == "torn")


def test_a_checkpoint_is_due_once_a_minute(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    checkpoint = Checkpoint(tmp_path / "one.checkpoint", "this")
    assert not checkpoint.due()
    now[0] = 60.0
    assert checkpoint.due()
    fit(_gru(), _data(), _data(seed=1), SCHEDULE, checkpoint=checkpoint)
    assert checkpoint.path.exists()
    assert not checkpoint.due()


@pytest.fixture(scope="module", params=[(60, 20), (30, 50)], ids=["tall", "wide"])
def made(request):
    rng = np.random.default_rng(1)
    count, width = request.param
    labels = rng.random((count, 3)) < [0.5, 0.3, 0.2]
    features = rng.normal(size=(count, width)) + labels @ rng.normal(size=(3, width))
    source = 1 / (1 + np.exp(-features[:, :4]))
    return features, labels, source


def _log_evidence(features, label, alpha, beta):
    """Bishop (2006), equation 3.86, with the matrices as they stand there."""
    count, width = features.shape
    precision = alpha * np.eye(width) + beta * features.T @ features
    mean = beta * np.linalg.solve(precision, features.T @ label)
    error = beta / 2 * np.sum((label - features @ mean) ** 2) + alpha / 2 * mean @ mean
    _, determinant = np.linalg.slogdet(precision)
    twice = width * np.log(alpha) + count * np.log(beta) - determinant - count * np.log(2 * np.pi)
    return twice / 2 - error


def test_logme_is_the_largest_evidence(made):
    features, labels, _ = made
    grid = np.logspace(-3, 5, 65)
    best = [
        max(_log_evidence(features, label, a, b) for a in grid for b in grid) / len(label)
        for label in labels.T.astype(float)
    ]
    assert transferability.logme(features, labels) == pytest.approx(np.mean(best), abs=5e-3)


def test_h_score_is_a_trace(made):
    features, labels, _ = made
    fitted = LedoitWolf().fit(features)
    found = []
    for label in labels.T:
        means = np.stack([features[label == side].mean(axis=0) for side in label.astype(int)])
        between = np.cov(means, rowvar=False, bias=True) * (1 - fitted.shrinkage_)
        found.append(np.trace(np.linalg.pinv(fitted.covariance_) @ between))
    assert transferability.h_score(features, labels) == pytest.approx(np.mean(found))


def _plain_leep(theta, label):
    """Nguyen et al. (2020), equations 1 and 2, sample by sample."""
    count, classes = theta.shape
    joint = np.zeros((2, classes))
    for one, y in zip(theta, label, strict=True):
        joint[int(y)] += one / count
    total = 0.0
    for one, y in zip(theta, label, strict=True):
        total += np.log(sum(joint[int(y), z] / joint[:, z].sum() * one[z] for z in range(classes)))
    return total / count


def test_leep_and_melep_are_their_formulas(made):
    _, labels, source = made
    shares = source / source.sum(axis=1, keepdims=True)
    each = [_plain_leep(shares, label) for label in labels.T]
    assert transferability.leep(source, labels) == pytest.approx(np.mean(each))
    melep = [
        -np.mean([_plain_leep(np.stack([1 - z, z], axis=1), label) for z in source.T])
        for label in labels.T
    ]
    weighted = np.average(melep, weights=labels.mean(axis=0))
    assert transferability.melep(source, labels) == pytest.approx(weighted)


def test_features_that_know_the_labels_score_higher():
    rng = np.random.default_rng(0)
    labels = rng.random((200, 2)) < 0.4
    patients = np.arange(200) // 2
    noise = rng.normal(size=(200, 10))
    known = np.column_stack([noise, labels])
    source = labels * 0.8 + 0.1
    told = [transferability.scores(one, labels, source, patients) for one in (noise, known)]
    assert told[0]["probe"] == pytest.approx(0.5, abs=0.1)
    assert told[1]["probe"] > 0.99
    nothing = transferability.scores(noise, np.zeros((200, 2), bool), labels * 0.5, patients)
    assert all(np.isnan(value) for value in nothing.values())
