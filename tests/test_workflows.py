"""What the repository's host is asked to do is well-formed, and does no more than it must."""

import re
from pathlib import Path

import yaml
from check_jsonschema import main
from click.testing import CliRunner

GITHUB = Path(__file__).resolve().parents[1] / ".github"
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
