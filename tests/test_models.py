"""The fast layers compute what the plain ones compute."""

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (PyTorch's own convention)
from torch import nn

from ecgnb.models import MODELS
from ecgnb.models.build import build_model
from ecgnb.models.recurrent import gru
from ecgnb.models.resnet1d import Bottleneck, _relu

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


@pytest.mark.parametrize(
    ("steps", "batch", "width", "kind", "apart"),
    [
        *(
            (steps, batch, 10, torch.float64, 1e-12)
            for steps in (1, 16, 37, 100)
            for batch in (1, 3)
        ),
        (1000, 4, 100, torch.float32, 1e-5),  # a whole record
    ],
)
def test_gru_is_that_of_pytorch(steps, batch, width, kind, apart):
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
        found.append((result.detach(), leaf.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])
