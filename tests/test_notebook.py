"""Notebooks: what they share, here and on a machine that is lent; and the page on the package."""

import ast
import re
import sys
import types
import warnings
from pathlib import Path

import nbformat
import pandas as pd
import papermill
import pytest
from conftest import mistake
from IPython.core.interactiveshell import InteractiveShell
from matplotlib.figure import Figure
from tiny import do

from ecgnb import cli
from ecgnb.data.catalog import card
from ecgnb.models import MODELS
from ecgnb.report import notebook, tables
from ecgnb.study import declare
from ecgnb.study.data import recorded_runs
from ecgnb.study.declare import load_study
from ecgnb.training.arms import ARMS

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("0*.ipynb"))
# Of the demo, what a chapter can still be read with.
_FEW = ("01", "02", "03", "06c", "07", "08")
SMALLER = {key: {"models": '["gru"]', "sizes": "[50, 0]"} for key in _FEW}
SMALLER |= {"04": {"sizes": 50}, "05": {"sizes": [45, 0]}, "simulated": {"sizes": [50]}}
SMALLER |= {"by": {"folds": 2, "updates": 5, "source_updates": 5}}
LIVE = [FOLDER / "by_hand.ipynb", FOLDER / "simulated.ipynb"]
NAMES = ("study", "target", "source", "models", "sizes", "seeds", "workers", "drive")


def code(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> InteractiveShell:
    """A kernel without its own process, that an earlier user has left something in."""
    own = InteractiveShell()
    monkeypatch.setattr(notebook, "get_ipython", lambda: own)
    own.run_cell("every, metric, results = 1, 'auroc', []", store_history=True)
    return own


def run(shell: InteractiveShell, *cells: str) -> None:
    for cell in cells:
        shell.run_cell(cell, store_history=True).raise_error()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_begins_alike_and_keeps_its_parameters(path):
    parameters, set_up, opened, *others = map(ast.parse, code(path))
    assert [ast.unparse(line.targets[0]) for line in parameters.body] == list(NAMES)
    assert ast.dump(set_up) == ast.dump(ast.parse(code(NOTEBOOKS[0])[1]))
    assert "plan = notebook.open_study(" in ast.unparse(opened)
    nodes = [node for cell in (opened, *others) for node in ast.walk(cell)]
    names = [node for node in nodes if isinstance(node, ast.Name)]
    # Else a second run in one kernel begins with another value.
    assert not {node.id for node in names if isinstance(node.ctx, ast.Store)} & {*NAMES}


def test_a_notebook_is_run_twice_in_one_kernel(shell):
    parameters, set_up, opened, *_ = code(LIVE[1])
    opened = opened.partition("\nruns = ")[0]
    for name in ("demo", "demo-paper"):
        run(shell, parameters, f"# Parameters\nstudy = '{name}'\nPAPERMILL_INPUT_PATH = 'a'")
        run(shell, set_up, opened)
        assert shell.user_ns["plan"].name == name
    run(shell, parameters, "# Parameters\nseed = 3")
    mistake("unknown parameter 'seed'; a notebook takes study, targ", run, shell, opened)


def test_parameters_replace_what_the_study_says():
    given = {"models": '["resnet1d18"]', "sizes": "[50, 0]", "seeds": 2, "workers": 2}
    plan = notebook.open_study("demo", **given, target=None, drive=False)
    for pair in plan.pairs:
        assert (pair.models, pair.sizes, pair.seeds) == (("resnet1d18",), (50, 0), (0, 1))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"study": 5}, "'study' is the name of a study or a file, not 5"),
        ({"drive": "yes"}, "'drive' is True or False, not 'yes'"),
        ({"workers": 0}, "'workers' is a number of processes, not 0"),
        ({"workers": "2"}, "'workers' is a number of processes, not '2'"),
        ({"stdy": "clinical"}, "unknown parameter 'stdy'; a notebook takes study, target"),
    ],
)
def test_a_wrong_parameter_is_refused_in_one_sentence(given, sentence):
    mistake(sentence, notebook.open_study, **{"study": "demo", **given})


def test_a_kernel_without_the_package_is_told_which_to_choose(shell, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"choose the kernel of \.venv"):
        run(shell, code(NOTEBOOKS[0])[1])
    assert not list(tmp_path.glob("*.txt"))


@pytest.fixture
def colab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list:
    """A stand-in for Google Colab; what was mounted or fetched."""
    happened: list = []
    drive = types.SimpleNamespace(mount=happened.append)
    monkeypatch.setitem(sys.modules, "google.colab", types.SimpleNamespace(drive=drive))
    monkeypatch.setitem(sys.modules, "google.colab.drive", drive)
    monkeypatch.setattr(notebook, "_KEPT", tmp_path / "drive" / "runs")
    monkeypatch.setattr(notebook, "fetch", happened.append)
    monkeypatch.setenv("ECGNB_DATA", str(tmp_path / "ecg"))
    return happened


def test_a_hosted_kernel_installs_by_its_own_interpreter(colab, shell, monkeypatch):
    commands = []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("subprocess.run", lambda command, **_: commands.append(command))
    run(shell, code(NOTEBOOKS[0])[1].replace('"""\n', '"""\ngit+https://github.com/o/n\n', 1))
    assert [command[:3] for command in commands] == [[sys.executable, "-m", "pip"]] * 2
    assert commands[1][-1] == "git+https://github.com/o/n"


@pytest.mark.parametrize(
    ("left", "said"), [(4, "4 runs are to be trained, about 60 min here"), (0, "All runs are here")]
)
def test_it_says_how_long_a_study_takes(left, said, colab, capsys, monkeypatch):
    group = types.SimpleNamespace(runs=4, done=4 - left, seconds_left=1800 * left)
    monkeypatch.setattr(notebook, "open_progress", lambda study: None)
    monkeypatch.setattr(notebook, "groups", lambda progress: [group])
    monkeypatch.setattr(notebook, "run_study", lambda study, **_: [])
    notebook.runs(notebook.open_study("demo"), workers=2)
    printed = capsys.readouterr().out
    assert "Computing on " in printed
    assert "set drive = True" in printed
    assert said in printed
    assert colab == []


def test_what_is_recorded_is_read_and_what_is_missing_is_fetched(colab, capsys):
    notebook.open_study("clinical")
    assert "its runs are read" in capsys.readouterr().out
    assert colab == []
    notebook.open_study("nguyen2025")
    assert colab == [name for name in load_study("nguyen2025").datasets if card(name).homes]


def test_nothing_happens_elsewhere(capsys):
    notebook.open_study("clinical", drive=True)
    assert capsys.readouterr().out == ""


def test_runs_are_kept_on_drive_also_those_of_before(colab, cache, tmp_path, capsys):
    drive = tmp_path / "drive" / "runs"
    for folder, name in ((cache / "runs" / "ab", "new"), (drive / "cd", "old")):
        folder.mkdir(parents=True)
        (folder / f"{name}.npz").write_text(name)
    notebook.open_study("demo")
    assert "Runs are lost" in capsys.readouterr().out
    for _ in range(2):  # a notebook may be run again
        notebook.open_study("demo", drive=True)
        assert "Finished runs are kept in" in capsys.readouterr().out
    assert colab == [str(notebook._DRIVE)] * 2
    assert (cache / "runs").resolve() == drive
    assert {path.read_text() for path in drive.rglob("*.npz")} == {"new", "old"}
    notebook.open_study("demo")  # the link is still there
    assert "Finished runs are kept in" in capsys.readouterr().out


EVIL = "<script>alert(1)</script>"


def test_names_from_data_are_text_wherever_they_are_shown(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    pages = []
    for module in (tables, notebook):
        monkeypatch.setattr(module, "display", lambda shown, **_: pages.append(str(shown)))
    tables.show_table(pd.DataFrame({EVIL: [EVIL]}), "table", EVIL)
    tables.say(f"{EVIL} **helps**")
    figure = Figure()
    figure.text(0, 0, EVIL)
    tables.show_figure(figure, "figure")
    plan = notebook.open_study("clinical")
    monkeypatch.setattr(notebook, "card", lambda name: types.SimpleNamespace(short_title=EVIL))
    pages.append(notebook.footer(plan).data)
    html_ = [page.partition("'text/plain'")[0] for page in pages]
    assert len(html_) == 4
    assert all("<script" not in page and "script" in page for page in html_)
    cli._say("a\x1b[31mb")
    assert capsys.readouterr().out == "a\\x1b[31mb\n"


@pytest.fixture
def demo(common, tmp_path, monkeypatch):
    """Parameters of a notebook: the demo with a few records, trained once for all of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ECGNB_CACHE", str(common / "demo"))
    monkeypatch.setenv("TQDM_DISABLE", "1")
    for path in Path(declare.__file__).parents[1].glob("studies/demo*.toml"):
        text = path.read_text()
        text = re.sub(r"updates = (\d+)", lambda m: f"updates = {int(m[1]) // 9 + 1}", text)
        text = text.replace("= 1500", "= 300").replace("225", "45")
        text = text.replace("evaluations = 6", "evaluations = 2\nmin_test_positives = 3")
        text = text.replace("batch_size = 32", "batch_size = 8")
        Path(path.name).write_text(re.sub(r'= "(demo-\w+)"', r'= "\1.toml"', text))
    return {"study": "demo.toml", "seeds": 1}


def given(path: Path, demo: dict) -> dict:
    return SMALLER.get(path.stem.partition("_")[0], {}) | (demo if path.stem != "by_hand" else {})


@pytest.mark.parametrize("path", [*NOTEBOOKS, *LIVE], ids=lambda path: path.stem)
def test_every_notebook_runs_twice_in_one_kernel(path, demo, shell, monkeypatch, capsys):
    """And says nothing on standard error, where a kernel shows warnings."""
    monkeypatch.setattr(notebook, "run_study", lambda study, **_: do(study))
    parameters, *others = code(path)
    said = "\n".join(f"{name} = {value!r}" for name, value in given(path, demo).items())
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        run(shell, parameters, f"# Parameters\n{said}")
        for _ in range(2):
            run(shell, *(cell.replace("=1500", "=300") for cell in others))
    assert not [str(one.message) for one in caught]
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_a_notebook_runs_by_papermill(demo):
    options = {"kernel_name": "python3", "progress_bar": False}
    parameters = given(LIVE[1], demo) | {"workers": 1}
    done = papermill.execute_notebook(LIVE[1], "out.ipynb", parameters, **options)
    outputs = [output for cell in done.cells for output in cell.get("outputs", [])]
    assert outputs
    assert not [output.text for output in outputs if output.get("name") == "stderr"]


PAGE = (FOLDER.parent / "book" / "api.md").read_text(encoding="utf-8")
TRAIN, COMPARE = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def run_example(text):
    namespace = {}
    exec(compile(text, "book/api.md", "exec"), namespace)
    return namespace


@pytest.mark.slow
def test_training_of_ones_own(capsys):
    done = run_example(TRAIN)
    assert done["trained"].test.shape == done["labels"][done["split"].test].shape
    assert 0.5 < float(capsys.readouterr().out) <= 1


@pytest.mark.slow
@pytest.mark.skipif(not recorded_runs(load_study("clinical")), reason="no recorded runs")
def test_comparison_of_recorded_runs(capsys):
    assert len(run_example(COMPARE)["gains"])
    assert "verdict" in capsys.readouterr().out


def test_every_model_and_arm_is_named():
    assert not [name for name in (*MODELS, *ARMS) if f"`{name}`" not in PAGE]
