"""The page on the package: its examples run, and what it names is there."""

import re
from pathlib import Path

import pytest

from ecgnb.models import MODELS
from ecgnb.study.data import recorded_runs
from ecgnb.study.declare import load_study
from ecgnb.training.arms import ARMS

PAGE = (Path(__file__).parents[1] / "book" / "api.md").read_text(encoding="utf-8")
TRAIN, COMPARE = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def run(example):
    namespace = {}
    exec(compile(example, "book/api.md", "exec"), namespace)
    return namespace


@pytest.mark.slow
def test_training_of_ones_own(capsys):
    done = run(TRAIN)
    assert done["trained"].test.shape == done["labels"][done["split"].test].shape
    assert 0.5 < float(capsys.readouterr().out) <= 1


@pytest.mark.slow
@pytest.mark.skipif(not recorded_runs(load_study("clinical")), reason="no recorded runs")
def test_comparison_of_recorded_runs(capsys):
    assert len(run(COMPARE)["gains"])
    assert "verdict" in capsys.readouterr().out


def test_every_model_and_arm_is_named():
    assert not [name for name in (*MODELS, *ARMS) if f"`{name}`" not in PAGE]
