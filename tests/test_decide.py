"""The page that answers a reader's choices: it reacts, weighs little, and no name breaks it."""

import json
import re
import shutil
import subprocess
from types import SimpleNamespace

import pandas as pd
import pytest
from matplotlib.figure import Figure

from ecgnb.analysis.advise import CERTAINTY, answer, certainty
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


ASK = """<script>
const out = [], told = () => out.push(document.querySelector('#d-head').textContent);
const set = (id, value) => { const e = document.querySelector('#d-' + id); e.value = value;
  e.dispatchEvent(new Event('input')); told(); };
told(); set('n', 90); set('n', 900); set('pair', 1);
for (const id of ['text', 'dots']) out.push(document.querySelector('#d-' + id).textContent);
out.push(document.querySelector('.every').open, document.querySelectorAll('[hidden]').length,
  document.querySelector('#broken') === null);
document.title = JSON.stringify(out);
</script>"""


@pytest.mark.skipif(not shutil.which("chromium"), reason="there is no Chromium")
def test_it_answers_what_is_chosen(page, tmp_path):
    (tmp_path / "asked.html").write_text(page.read_text().replace("</html>", ASK + "</html>"))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += [f"--user-data-dir={tmp_path / 'browser'}", (tmp_path / "asked.html").as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    out = json.loads(re.search("<title>(.*?)</title>", dom)[1].replace("&amp;", "&"))
    assert out[:4] == ["Same.", "Yes, few.", "Same.", "No."]  # 180 to train on are nearer to 400
    assert "from scratch and 0.650 fine-tuned: −0.050, 95 % between −0.060 and −0.040" in out[4]
    assert out[5:] == ["No count.Too few of them to count.", False, 0, True]


@pytest.mark.parametrize(
    ("verdict", "gain", "holds", "said", "sure"),
    [
        ("helps", 0.05, True, "Yes, clearly.", "high"),
        ("helps", 0.012, False, "Yes; expect a little.", "moderate"),
        ("undecided", 0.05, True, "Cannot tell", "low"),
        ("harms", -0.05, True, "No. Start from nothing.", "high"),
    ],
)
def test_words_follow_size_and_certainty(verdict, gain, holds, said, sure):
    row = SimpleNamespace(verdict=verdict, first=0.8 + gain, second=0.8, holds=holds)
    assert answer(row).startswith(said)
    assert certainty(row) == sure


def test_numbers_on_a_picture_keep_their_digits():
    figure = Figure()
    figure.text(0.123456, 0, "0.005 and 12.34567")
    assert ">0.005 and 12.34567<" in (svg := tables._svg(figure).decode())
    assert not re.search(r'[xyd]="[^"]*\d\.\d{3}', svg)
