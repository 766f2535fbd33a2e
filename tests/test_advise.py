"""Advice on a dataset, and the page that answers a reader's choices."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import mistake
from matplotlib.figure import Figure
from playwright.sync_api import sync_playwright
from typer.testing import CliRunner

from ecgnb.analysis import advise
from ecgnb.cli import app
from ecgnb.report import tables

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
    mistake("ask about each", list, advise.advise("ptb-xl+georgia"))


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


BAD = "</script><b id=broken>&"


def row(records, mean, answer, verdict):
    return {
        **{"records": records, "first": 0.7, "second": 0.7 + mean, "mean": mean, "seeds": 5},
        **{"low": mean - 0.01, "high": mean + 0.01, "verdict": verdict, "tested": 300},
        **{"answer": answer, "certainty": "high", "times": "1.5", "found": {"AF": [40, 60]}},
    }


def network(name, *rows):
    said = {"labels": ["from scratch", "fine-tuned"], "cost": "little", "how": "so"}
    return {"name": name, "title": f"Network {name}", "rows": rows, **said}


@pytest.fixture
def page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    several = network("a", row(50, 0.05, "Yes, few.", "helps"), row(400, 0, "Same.", "equivalent"))
    diagnoses = [{"name": "AF", "title": "atrial fibrillation"}]
    harm = network("b", row(100, -0.05, "No.", "harms"))
    pairs = [
        {"title": "North to South", "networks": [several], "diagnoses": diagnoses},
        {"title": BAD, "networks": [harm], "diagnoses": []},
    ]
    answers = {"title": "?", "pairs": pairs, "certainty": advise.CERTAINTY, "not_shown": "much"}
    answers["links"] = [{"href": "x.html", "title": "More"}]
    tables.show_decision(answers, pd.DataFrame({"pair": [BAD], "AUROC": ["0.7"]}), "decide")
    return tmp_path / "files" / "decide.html"


def test_it_is_light_asks_nobody_and_escapes_names(page):
    text = page.read_text()
    assert len(text) < 150_000
    assert not re.search(r"(src|href)=.?https?:|fetch\(|import\(", text)
    assert "<b id=broken>" not in text
    data = re.search(r'<script type="application/json" class="data">(.*?)</script>', text, re.S)
    assert json.loads(data[1])["pairs"][1]["title"] == BAD


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium")
def test_it_answers_clicks_and_keys(page):
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown, asked = browser.new_page(), []
        shown.on("request", lambda request: asked.append(request.url))
        shown.goto(page.as_uri())
        out = [shown.inner_text("#d-head")]
        for records in ("90", "900"):
            shown.fill("#d-n", records)
            out.append(shown.inner_text("#d-head"))
        assert out == ["Same.", "Yes, few.", "Same."]  # 180 to train on are nearer to 400
        shown.focus("#d-pair")
        shown.keyboard.press("ArrowDown")
        assert shown.inner_text("#d-head") == "No."
        text = shown.inner_text("#d-text")
        assert "from scratch and 0.650 fine-tuned: −0.050, 95 % between −0.060 and −0.040" in text
        assert shown.text_content("#d-dots g") == "Too few of them to count."
        table = shown.locator(".every")
        assert table.get_attribute("open") is None
        table.locator("summary").click()
        assert table.locator("table").is_visible()
        assert not shown.locator("#broken, [hidden]").count()
        assert asked == [page.as_uri()]


def test_numbers_on_a_picture_keep_their_digits():
    figure = Figure()
    figure.text(0.123456, 0, "0.005 and 12.34567")
    assert ">0.005 and 12.34567<" in (svg := tables._svg(figure).decode())
    assert not re.search(r'[xyd]="[^"]*\d\.\d{3}', svg)
