"""Figures are true to scale, their texts come from the numbers, the examples are real."""

import re
from pathlib import Path

import numpy as np
import pages
import pandas as pd
import pytest
from conftest import mistake

from ecgnb.analysis.describe import counterparts, describe, find_example
from ecgnb.data import records
from ecgnb.data.catalog import CATALOG, card
from ecgnb.data.labels import LABEL_SETS, encode, full_name
from ecgnb.report import charts, ecg_paper, tables
from ecgnb.study.declare import load_study

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "results" / "examples"
LISTED = pd.read_csv(EXAMPLES / "examples.csv", dtype=str)


@pytest.fixture(scope="module")
def clinical():
    """The clinical study without any raw data: its tables are in results/."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ECGNB_DATA", raising=False)
        study = load_study("clinical")
        yield study, *describe(study)


def traces(figure):
    """The lines of an ECG that are waves: neither grid, nor calibration, nor tick."""
    return [line for line in figure.axes[0].lines if len(line.get_xdata()) > 6 and line.zorder == 2]


@pytest.mark.parametrize(("columns", "strips"), [(4, 1), (2, 2)])
def test_ecg_is_true_to_scale(columns, strips):
    rate = 200.0
    signals = np.zeros((12, 2000))
    signals[:, 100:120] = 1000.0  # 1 mV for 0.1 s, half a second after the first column's start
    figure = ecg_paper.draw_ecg(signals, rate, title="a", columns=columns)
    axes = figure.axes[0]
    width, height = figure.get_size_inches()
    per_x, per_y = width / np.ptp(axes.get_xlim()), height / np.ptp(axes.get_ylim())
    assert per_x == pytest.approx(per_y)  # a millimetre is a millimetre on both axes
    x, y = traces(figure)[0].get_data()
    raised = y > y.min() + 5
    assert np.ptp(y) == pytest.approx(10)  # 10 mm/mV
    assert x[raised][0] - x[0] == pytest.approx(0.5 * 25)  # 25 mm/s
    assert len(traces(figure)) == 12 + strips
    names = [text.get_text().split()[0] for text in axes.texts[: 12 + strips]]
    assert names == [*records.LEADS, *["II"] * strips]
    assert sum(len(line.get_xdata()) for line in traces(figure)[12:]) == 10 * rate


@pytest.mark.parametrize(("samples", "columns"), [(1000, 4), (500, 4), (500, 2)])
def test_ecg_columns_follow_each_other_in_time(samples, columns):
    signals, each = np.tile(np.arange(float(samples)), (12, 1)), samples // columns
    lines = traces(ecg_paper.draw_ecg(signals, 100, columns=columns))[:12]
    starts = np.array([[line.get_xdata()[0], line.get_ydata()[0]] for line in lines])
    assert np.ptp(starts[: 12 // columns, 0]) == 0
    steps = np.diff(starts[:: 12 // columns], axis=0)
    assert steps[:, 0] == pytest.approx(62.5)  # 2.5 seconds of 25 mm, or less and a gap
    assert steps[:, 1] == pytest.approx(each / 100)  # of 1 uV each
    assert all(len(line.get_xdata()) == each for line in lines)


def test_rows_never_touch_and_short_records_are_drawn_as_far_as_they_go():
    signals = np.zeros((12, 1000))
    signals[1, 50:60], signals[0, 50:60] = 4000.0, -4000.0  # lead II under lead I
    first, second = traces(ecg_paper.draw_ecg(signals, 100))[:2]
    assert first.get_ydata().min() > second.get_ydata().max()
    assert second.get_ydata().max() < ecg_paper.draw_ecg(signals, 100).axes[0].get_ylim()[1]
    short = traces(ecg_paper.draw_ecg(signals[:, :600], 100))
    assert max(len(line.get_xdata()) for line in short) == 600


@pytest.mark.parametrize(("shape", "columns"), [((11, 1000), 4), ((1000, 12), 4), ((12, 1000), 5)])
def test_ecg_of_another_shape_is_refused(shape, columns):
    with pytest.raises(ValueError, match="cannot draw"):
        ecg_paper.draw_ecg(np.zeros(shape), 100, columns=columns)


def test_tables_and_figures_leave_their_numbers_in_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = []
    monkeypatch.setattr(tables, "display", lambda data, **more: shown.append((data, more)))
    frame = pd.DataFrame({"hospital": ["<b>A & B</b>"], "verdict": [tables.MARKS["helps"]]})
    tables.show_table(frame, "t", "Which <one>", whole=frame.assign(p=0.123456789, run=None))
    page = shown[-1][0]["text/html"]
    assert "&lt;b&gt;A &amp; B&lt;/b&gt;" in page
    assert "<caption>Which &lt;one&gt;</caption>" in page
    assert 'role="region" aria-label="Which &lt;one&gt;" tabindex="0"' in page
    assert list(pd.read_csv("files/t.csv")) == ["hospital", "verdict", "p"]
    figure, axes = charts.panel()
    axes.plot([1, 2], [3, 4], **charts.arm_style("finetune"))
    for _ in range(2):
        tables.show_figure(figure, "f", pd.DataFrame({"x": [1, 2]}))
    assert shown[-1] == shown[-2]  # the same figure, the same page
    assert shown[-1][0]["image/svg+xml"] == (tmp_path / "files" / "f.svg").read_text()
    assert pd.read_csv("files/f.csv")["x"].tolist() == [1, 2]
    tables.say("It **helps**.", "answer")
    glued, more = shown[-1]
    assert glued == {"application/papermill.record/text/plain": "'It helps.'"}
    assert more["metadata"]["scrapbook"]["name"] == "answer"


def test_labels_of_lines_stand_apart():
    _, axes = charts.panel()
    axes.set_ylim(1, 100)
    axes.set_yscale("log")
    charts.label_ends(axes, [("a", 1, 10, "red"), ("b, of two lines it is", 1, 10, "blue")])
    low, high = (text.xy[1] for text in axes.texts)  # in shares of the height
    assert low == pytest.approx(0.5)
    assert axes.texts[0].xycoords == axes.get_xaxis_transform()
    assert high >= 0.5 + 0.07


def test_verdicts_are_marks_in_a_grid():
    table = pd.DataFrame(
        [("A to B", "GRU", size, 0.02, "helps") for size in ("800", "all", "50")]
        + [("B to A", "GRU", "50", -0.01, "undecided")],
        columns=["group", "row", "column", "mean", "verdict"],
    )
    axes = charts.draw_verdicts(table).axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["50", "800", "all"]
    texts = [text.get_text() for text in axes.texts]
    assert texts.count("▲+.02") == 3
    assert {"?-.01", "A to B", "B to A"} <= set(texts)


def test_counterparts_are_found_through_the_common_labels(clinical):
    _, source, target = clinical
    table = counterparts(source, target).set_index("label")
    assert list(table.index.sort_values()) == sorted(target.labels)
    assert table.at["AF", "source"] == source.common["AF"].sum()
    assert table.at["VPB", "source"] == source.common["PVC"].sum()  # another code, the same class
    assert table["source"].isna().any()


def test_an_example_is_what_the_labels_say(clinical):
    study, source, target = clinical
    for side in (source, target):
        for label in ("AF", "LBBB"):
            example = find_example(study, side, label)
            assert example.record in set(LISTED["record"])
            assert example.signals.shape == (12, study.data.samples)
            row = side.table["record"] == example.record
            assert side.common.loc[row, label].all()
            assert f"{500 if side is target else 100} Hz, drawn at 100 Hz" in example.recorded
    mistake("choose one of", find_example, study, source, "nonsense")
    mistake("no example", find_example, study, target, "PRWP")


@pytest.mark.parametrize(("dataset", "record"), LISTED[["dataset", "record"]].to_numpy().tolist())
def test_stored_record_is_real_readable_and_listed(dataset, record):
    facts = card(dataset)
    (path,) = (EXAMPLES / dataset).glob(f"{record}*.hea")
    header = records.read_header(path)
    signals = records.microvolts(header, records.read_digital(header))
    assert signals.shape == (header.samples, 12)
    assert header.samples / header.sampling_rate == 10
    assert np.isfinite(signals).all()
    spans = np.ptp(signals, axis=0)
    assert 200 < spans.max() < 10000  # microvolts of a heart
    flat = [records.LEADS[lead] for lead in np.flatnonzero(spans == 0)]
    assert flat == (["V6"] if record == "JS01040" else [])
    table = pd.read_csv(ROOT / "results" / "records" / f"{dataset}.csv", dtype=str)
    codes = table.loc[table["record"] == record, "codes"]
    every = encode(codes, facts.vocabulary, f"{facts.vocabulary}-all")
    (finding,) = LISTED.loc[LISTED["record"] == record, "finding"]
    assert finding in [full_name(str(name)) for name in every]


def test_the_examples_are_few_small_and_licensed():
    assert not LISTED["record"].duplicated().any()
    files = [path for path in EXAMPLES.rglob("*") if path.is_file()]
    assert len([path for path in files if path.suffix == ".hea"]) == len(LISTED) <= 20
    assert sum(path.stat().st_size for path in files) < 2_000_000
    licence = (EXAMPLES / "LICENSE.md").read_text(encoding="utf-8")
    for dataset in LISTED["dataset"].unique():
        assert f"## `{dataset}/`" in licence
        assert card(dataset).licence in licence


def test_the_page_of_datasets_names_everything(tmp_path):
    pages.write_datasets(tmp_path)
    page = (tmp_path / "datasets.md").read_text()
    assert page.startswith("# Datasets\n")
    for facts in CATALOG.values():
        assert f"\n## {facts.title}\n" in page
        assert facts.licence in page
        assert facts.notes in page
    for name in LABEL_SETS:
        assert f"| `{name}` |" in page
    keys = set(re.findall(r"^@\w+\{(\S+),", (ROOT / "book/references.bib").read_text(), re.M))
    assert set(re.findall(r"\{cite:p\}`(\S+)`", page)) <= keys
    for side in (load_study("clinical").pairs[0].source, load_study("clinical").pairs[0].target):
        section = page.split(f"\n## {card(side.dataset).title}\n")[1].split("\n## ")[0]
        assert "`clinical` (" in section


def test_names_are_clear_of_the_waves():
    signals = np.zeros((12, 1000))
    signals[:, 10:14] = 2000.0
    figure = ecg_paper.draw_ecg(signals, 100, note="500 Hz, drawn at 100 Hz", columns=2)
    tops = [line.get_ydata().max() for line in traces(figure)]
    texts = figure.axes[0].texts
    written = [text.get_position()[1] for text in texts[:14]]
    assert all(name > top for name, top in zip(written, tops, strict=True))
    assert [text.get_text() for text in texts[12:14]] == ["II   0–5 s", "II   5–10 s"]
    assert "500 Hz, drawn at 100 Hz" in texts[14].get_text()


def test_names_from_data_are_drawn_as_they_are(tmp_path, monkeypatch, recwarn):
    monkeypatch.chdir(tmp_path)
    figure, axes = charts.panel()
    axes.plot([0, 1], [0, 1])
    charts.label_ends(axes, [("$x^$", 1, 1, "black"), ("心房颤动", 1, 0, "black")])
    tables.show_figure(figure, "names")
    drawn = (tmp_path / "files" / "names.svg").read_text(encoding="utf-8")
    assert "$x^$" in drawn
    assert "心房颤动" in drawn
    assert not len(recwarn)
