"""The page that answers a reader's choices: it reacts, weighs little, and no name breaks it."""

import json
import re
import shutil

import pandas as pd
import pytest
from matplotlib.figure import Figure
from playwright.sync_api import sync_playwright

from ecgnb.analysis.advise import CERTAINTY
from ecgnb.report import tables

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
    other = {"title": BAD, "networks": [network("b", row(100, -0.05, "No.", "harms"))]}
    answers = {
        "title": "Should I transfer?",
        "pairs": [
            {"title": "North to South", "networks": [several], "diagnoses": diagnoses},
            {**other, "diagnoses": []},
        ],
        "certainty": CERTAINTY,
        "not_shown": "much",
        "links": [{"href": "x.html", "title": "More"}],
    }
    tables.show_decision(answers, pd.DataFrame({"pair": [BAD], "AUROC": ["0.7"]}), "decide")
    return tmp_path / "files" / "decide.html"


def test_it_is_light_asks_nobody_and_escapes_names(page):
    text = page.read_text()
    assert len(text) < 150_000
    assert not re.search(r"(src|href)=.?https?:|fetch\(|import\(", text)
    assert "<b id=broken>" not in text
    data = re.search(
        r'<script type="application/json" class="data">(.*?)</script>', text, re.DOTALL
    )
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
