"""What GitHub is asked to do, and told of its address: well-formed, and no more than it must."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from address import write_address  # of book/, which pyproject.toml lets tests import
from check_jsonschema import main
from click.testing import CliRunner

ROOT = Path(__file__).resolve().parents[1]
GITHUB = ROOT / ".github"
WORKFLOW = GITHUB / "workflows" / "check.yml"
DECLARED = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))
FILES = [(WORKFLOW, "github-workflows"), (GITHUB / "dependabot.yml", "dependabot")]


def problems(path: Path, schema: str) -> str:
    """What is wrong with a file by the published schema, which comes with the checker."""
    done = CliRunner().invoke(main, [f"--builtin-schema=vendor.{schema}", str(path)])
    return done.output if done.exit_code else ""


def test_every_file_follows_the_published_schema(tmp_path):
    assert sorted(GITHUB.rglob("*.yml")) == sorted(path for path, _ in FILES)
    assert [problems(path, schema) for path, schema in FILES] == ["", ""]
    broken = tmp_path / "check.yml"
    broken.write_text(WORKFLOW.read_text().replace("    steps:\n", "    step:\n"))
    assert "step" in problems(broken, "github-workflows")


def test_there_is_no_second_way_to_check():
    steps = DECLARED["jobs"]["check"]["steps"]
    commands = [step["run"].strip() for step in steps if "run" in step]
    assert commands[-1] == ".ci/run"
    assert not re.search(r"\bmake\b|pytest|jupyter-book", " ".join(commands))


def test_actions_are_pinned_to_commits():
    used = re.findall(r"uses: (\S+)( # v\d+\.\d+\.\d+)?$", WORKFLOW.read_text(), re.MULTILINE)
    steps = [step for job in DECLARED["jobs"].values() for step in job["steps"]]
    assert [action for action, _ in used] == [step["uses"] for step in steps if "uses" in step]
    for action, version in used:
        assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}", action)
        assert version, f"say after {action} which version that is"


def test_only_the_last_step_may_write():
    assert DECLARED["permissions"] == {"contents": "read"}
    assert "permissions" not in DECLARED["jobs"]["check"]
    assert DECLARED["jobs"]["publish"]["permissions"] == {"pages": "write", "id-token": "write"}
    assert "refs/heads/main" in DECLARED["jobs"]["publish"]["if"]


TOKEN = "not-a-real-token"
LONG = f"{'o' * 39}/{'n' * 100}"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    for name in ("_config.yml", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


HERE = f"""
https://github.com/o-1/ecg.nb https://github.com/o-1/ecg.nb/ git@github.com:o-1/ecg.nb.git
https://{TOKEN}@GitHub.com/o-1/ecg.nb.git https://someone:{TOKEN}@github.com/o-1/ecg.nb
ssh://git@ssh.github.com:443/o-1/ecg.nb.git git://github.com/o-1/ecg.nb.git"""
ELSEWHERE = f"""
https://{TOKEN}@gitlab.com/o-1/ecg.nb.git https://gitlab.com/github.com/o-1.git
https://github.com.example.org/o-1/ecg.nb.git https://notgithub.com/o-1/ecg.nb.git
https://github.com/o-1 https://github.com/o-1/ecg.nb/tree/main
file:///srv/github.com/o-1/ecg.nb.git"""


@pytest.mark.parametrize("remote", HERE.split())
def test_remote_on_github(remote, tmp_path):
    (tmp_path / "_config.yml").write_text((ROOT / "_config.yml").read_text())
    assert write_address(tmp_path, f"{remote}\n") == "o-1/ecg.nb"
    written = (tmp_path / "_config.yml").read_text()
    assert re.findall(r"\bhttps://.*", written)[0].split()[0] == "https://github.com/o-1/ecg.nb"


@pytest.mark.parametrize("remote", ["", *ELSEWHERE.split()])
def test_remote_elsewhere(remote, checkout):
    with pytest.raises(SystemExit, match="not on GitHub"):
        write_address(checkout, remote)


def test_no_name_is_too_long_and_a_fork_writes_its_own(checkout):
    before = {path: nbformat.read(path, 4) for path in checkout.glob("notebooks/*.ipynb")}
    for name in ("o-1/ecg.nb", LONG, LONG, "o-2/other"):
        write_address(checkout, f"https://github.com/{name}")
        for path in before:
            text = path.read_text()
            assert text.count(f"git+https://github.com/{name}\\n") == 1
            assert text.count(f"{name}/blob/main/notebooks/{path.name})") == 1
            assert text.count("github") == 2
            nbformat.validate(nbformat.read(path, 4))
        for check in (["format", "--check"], ["check", "--ignore", "I001"]):
            command = [sys.executable, "-m", "ruff", *check, "-q", "notebooks"]
            subprocess.run(command, cwd=checkout, check=True)
    for path, old in before.items():
        new = nbformat.read(path, 4)
        assert new.cells[3:] == old.cells[3:]
        assert [cell.source for cell in new.cells[1:2]] == [cell.source for cell in old.cells[1:2]]


@pytest.mark.parametrize(("old", "new"), [("_address = ", "_from = "), ("# ", "## ")])
def test_it_fails_where_nothing_was_replaced(old, new, checkout):
    path = sorted(checkout.glob("notebooks/*.ipynb"))[0]
    notebook = nbformat.read(path, 4)
    for cell in (notebook.cells[0], notebook.cells[2]):
        cell.source = cell.source.replace(old, new, 1)
    nbformat.write(notebook, path)
    with pytest.raises(SystemExit, match=f"{path.name} has no place for the address"):
        write_address(checkout, "https://github.com/o/n")
