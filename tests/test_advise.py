"""Advice on a dataset: what it studies, what it says, and when it says that it cannot tell."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from ecgnb.analysis import advise
from ecgnb.cli import app
from ecgnb.errors import UserError

TINY = str(Path(__file__).with_name("tiny.toml"))


def rows(**arms):
    return pd.DataFrame(
        [
            {"arm": arm, "mean": mean, "low": mean - half, "high": mean + half, "verdict": word}
            | {"first": 0.8 + mean, "second": 0.8, "holds": True, "tested": 200}
            for arm, (mean, half, word) in arms.items()
        ]
    )


def tuned(*gain, holds=True):
    return rows(finetune=gain).assign(holds=holds)


BOTH = rows(**{"no-network": (0.1, 0.05, "helps")}, finetune=(0.02, 0.04, "undecided"))


@pytest.mark.parametrize(
    ("gains", "said"),
    [
        (BOTH, ["Take: no network", "certainty high", "Cannot tell", "Certainty low"]),
        (BOTH, ["4.0 times as many", "800 ECGs"]),
        (tuned(0.05, 0.01, "helps"), ["Take: fine-tuned", "Yes, clearly. Certainty high"]),
        (tuned(0.012, 0.01, "helps", holds=False), ["Yes; expect a little. Certainty moderate"]),
        (tuned(0.0, 0.005, "equivalent"), ["Train from scratch", "no difference"]),
        (tuned(-0.1, 0.05, "harms"), ["Train from scratch", "No. Start from nothing"]),
        (tuned(0.0, np.inf, "undecided"), ["Cannot tell of any way", "One seed cannot"]),
    ],
)
def test_a_verdict_is_what_the_intervals_say(gains, said):
    text = "\n".join(advise.verdict(gains, gains.head(0)))
    assert all(one in text for one in said), text


def test_the_quick_study_takes_a_source_with_other_patients():
    for dataset, source in (("sim-south", "sim-north"), ("sim-north", "sim-south")):
        side = advise.quick_study(dataset).pairs[0]
        assert (side.target.dataset, side.source.dataset) == (dataset, source)
    with pytest.raises(UserError, match="ask about each"):
        list(advise.advise("ptb-xl+georgia"))


def test_advice_is_one_page_that_ends_with_what_to_do(monkeypatch, common):
    monkeypatch.setenv("ECGNB_CACHE", str(common / "exported"))
    monkeypatch.setattr(advise, "QUICK", TINY)
    monkeypatch.setattr(advise, "_NEAREST", 1)
    said = CliRunner().invoke(app, ["advise", "sim-south", "--workers", "1"])
    assert said.exit_code == 0, said.output
    lines = said.stdout.splitlines()
    assert [line[0] for line in lines if line[:1].isdigit()] == list("12345")
    assert "from scratch" in said.stdout
    assert lines[-1].endswith("--target sim-south --source sim-north")
    assert len(lines) < 60
