"""The project's files agree with each other, and its own rules hold."""

import ast
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import ecgnb

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ecgnb"
MODULES = sorted(PACKAGE.rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

# Lower may not import higher. The exception class may be used everywhere.
ORDER = {"errors": 0, "files": 1, "data": 2, "simulate": 2, "models": 3, "training": 4, "study": 5}
ORDER |= {"studies": 5, "analysis": 6, "report": 7, "export": 8, "cli": 9}
ORDER |= {"outside": 8.5, "__main__": 10}

# Ceilings on size, in lines: they may only be lowered.
MOST_LINES = {"ecgnb": 12_438, "tests": 8_319}
MOST_LINES_OF_A_MODULE = 434
MOST_LINES_OF_A_CELL = 25
MAX_RESULTS_BYTES = 30e6


def _read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@cache
def _pyproject() -> dict:
    return tomllib.loads(_read("pyproject.toml"))


def _requirements() -> list[Requirement]:
    project = _pyproject()["project"]
    extras = project["optional-dependencies"].values()
    return [Requirement(r) for group in (project["dependencies"], *extras) for r in group]


@cache
def _constraints() -> dict[str, Version]:
    lines = [line.split("#")[0].strip() for line in _read("constraints.txt").splitlines()]
    pairs = [line.split(";")[0].strip().split("==") for line in lines if line]
    return {canonicalize_name(name): Version(version) for name, version in pairs}


def test_versions_agree():
    citation = yaml.safe_load(_read("CITATION.cff"))
    top = re.search(r"^## \[(.+?)\] - (\d{4}-\d{2}-\d{2})$", _read("CHANGELOG.md"), re.MULTILINE)
    assert top is not None
    assert citation["version"] == top[1] == ecgnb.__version__
    assert str(citation["date-released"]) == top[2]
    assert _pyproject()["tool"]["setuptools"]["dynamic"]["version"]["attr"] == "ecgnb.__version__"


def test_requirements_are_floors_each_named_once_and_satisfied_by_the_constraints():
    names = [canonicalize_name(requirement.name) for requirement in _requirements()]
    assert len(names) == len(set(names))
    for name, requirement in zip(names, _requirements(), strict=True):
        assert name in _constraints(), f"constraints.txt does not name {name}"
        assert _constraints()[name] in requirement.specifier, str(requirement)
    # A hosted notebook must be able to keep the versions it comes with.
    for text in _pyproject()["project"]["dependencies"]:
        assert [s.operator for s in Requirement(text).specifier] == [">="], text


def test_environment_adds_nothing_of_its_own():
    """Conda brings the interpreter; packages and versions are written down once."""
    environment = yaml.safe_load(_read("environment.yml"))
    project = _pyproject()["project"]
    assert environment["name"] == project["name"]
    python, pip, from_pip = environment["dependencies"]
    assert pip == "pip"
    floor = project["requires-python"].removeprefix(">=")
    assert python == f"python={floor}"
    extras = sorted(project["optional-dependencies"])
    assert from_pip == {"pip": ["-c constraints.txt", f"-e .[{','.join(extras)}]"]}


def test_readme_names_the_two_commands():
    assert {"make book", "make test"} <= set(re.findall(r"make \w+", _read("README.md")))


def test_every_page_of_the_book_has_a_source_and_every_notebook_is_in_it():
    toc = yaml.safe_load(_read("_toc.yml"))
    pages = [toc["root"]] + [c["file"] for part in toc["parts"] for c in part["chapters"]]
    assert len(pages) == len(set(pages))
    for page in pages:
        if not page.startswith(("editions/", "live/", "generated/")):
            assert (ROOT / "book" / f"{page}.md").is_file(), page
    wanted = {
        f"editions/clinical/{path.stem}" if path.stem[0].isdigit() else f"live/{path.stem}"
        for path in NOTEBOOKS
    }
    assert wanted
    assert wanted == {page for page in pages if page.startswith(("editions/", "live/"))}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_is_stored_as_the_book_needs_it(path: Path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    tagged = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1, "exactly one cell is tagged `parameters`"
    for cell in cells:
        assert cell.outputs == [], "stored without outputs"
        assert cell.execution_count is None, "stored without outputs"
        assert len(cell.source.splitlines()) <= MOST_LINES_OF_A_CELL, cell.source


@pytest.mark.parametrize("room", MOST_LINES)
def test_size_stays_below_its_ceiling(room: str):
    lines = {p: len(p.read_text("utf-8").splitlines()) for p in (ROOT / room).rglob("*.py")}
    assert sum(lines.values()) <= MOST_LINES[room]
    assert room == "tests" or max(lines.values()) <= MOST_LINES_OF_A_MODULE


def _imported_rooms(path: Path) -> set[str]:
    """The rooms of the package that a module imports, by absolute or by relative import."""
    package = path.relative_to(ROOT).parent.parts
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *filter(None, [node.module])])
            names += [f"{module}.{alias.name}" for alias in node.names]
    inside = [name.split(".") for name in names if name.split(".")[0] == "ecgnb"]
    return {parts[1] for parts in inside if len(parts) > 1 and parts[1] in ORDER}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_run_one_way(path: Path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if room == "__init__":  # `import ecgnb` alone stays fast and loads no room
        assert _imported_rooms(path) == set()
        return
    assert room in ORDER, f"{room} is not a room of the house: give it a place in ORDER"
    for other in _imported_rooms(path) - {room}:
        side = {room, other} in ({"data", "simulate"},)
        assert ORDER[other] < ORDER[room] or side, f"{room} imports {other}"


def test_recorded_results_stay_small():
    files = (ROOT / "results").glob("*/*.parquet")
    assert sum(path.stat().st_size for path in files) < MAX_RESULTS_BYTES


def test_no_path_of_one_machine():
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    pattern = re.compile(r"(?<![\w.~$)}-])/(?:home|root|tmp|work|Users|mnt|scratch)/\w")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if not path.is_file() or path.stat().st_size > 1_000_000:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # a picture or an array
            continue
        match = pattern.search(text)
        assert match is None, f"{name}: {match}"
