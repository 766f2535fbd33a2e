"""Links from the book to its repository: right where that is on GitHub, absent elsewhere."""

import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from ecgnb.repository import (
    find_repository,
    installed_from,
    notebook_links,
    on_github,
    source_link,
    write_address,
)

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
CHAPTER = "editions/demo/01_small_data"
TOKEN = "not-a-real-token"
COLAB = "https://colab.research.google.com/github/o-1/ecg.nb/blob/main/notebooks"


@pytest.mark.parametrize(
    "remote",
    [
        "https://github.com/o-1/ecg.nb",
        "https://github.com/o-1/ecg.nb.git",
        "https://github.com/o-1/ecg.nb/\n",
        "https://GitHub.com/o-1/ecg.nb.git",
        f"https://{TOKEN}@github.com/o-1/ecg.nb.git",
        f"https://someone:{TOKEN}@github.com/o-1/ecg.nb",
        "git@github.com:o-1/ecg.nb.git",
        "github.com:o-1/ecg.nb",
        "ssh://git@github.com/o-1/ecg.nb.git",
        "ssh://git@ssh.github.com:443/o-1/ecg.nb.git",
        "git://github.com/o-1/ecg.nb.git",
    ],
)
def test_remote_on_github(remote):
    assert on_github(remote) == "o-1/ecg.nb"


@pytest.mark.parametrize(
    "remote",
    [
        "",
        "https://gitlab.com/o-1/ecg.nb.git",
        "git@gitlab.com:o-1/ecg.nb.git",
        f"https://{TOKEN}@gitlab.com/o-1/ecg.nb.git",
        "https://gitlab.com/github.com/o-1.git",
        "https://github.com.example.org/o-1/ecg.nb.git",
        "https://notgithub.com/o-1/ecg.nb.git",
        "https://github.com/o-1",
        "https://github.com/o-1/ecg.nb/tree/main",
        "../ecg.nb",
        "file:///srv/github.com/o-1/ecg.nb.git",
    ],
)
def test_remote_elsewhere(remote):
    assert on_github(remote) == ""


def test_a_chapter_links_to_the_notebook_it_was_executed_from():
    links = notebook_links("o-1/ecg.nb", CHAPTER, "o-1/ecg.nb")
    assert links["Open in Colab"] == f"{COLAB}/01_small_data.ipynb"
    assert links["Notebook on GitHub"].startswith("https://github.com/o-1/ecg.nb/blob/main/")
    assert notebook_links("", CHAPTER, "") == {}
    assert notebook_links("o-1/ecg.nb", "protocol", "o-1/ecg.nb") == {}
    assert "Open in Colab" not in notebook_links("o-1/ecg.nb", CHAPTER, "another/fork")


def test_the_address_is_written_into_every_notebook(tmp_path):
    shutil.copytree(NOTEBOOKS, tmp_path / "notebooks")
    for name in ("o-1/ecg.nb", "o-2/other"):
        write_address(tmp_path / "notebooks", name)
        for path in (tmp_path / "notebooks").glob("*.ipynb"):
            assert installed_from(path) == name
            nbformat.validate(nbformat.read(path, as_version=4))
            assert path.read_text().count(f"git+https://github.com/{name}") == 1


def test_all_notebooks_are_set_up_alike():
    cells = [
        cell.source.partition("hosted.set_up(study, drive")[0]
        for path in NOTEBOOKS.glob("*.ipynb")
        for cell in nbformat.read(path, as_version=4).cells
        if "hosted.set_up" in cell.source
    ]
    assert len(cells) == len(list(NOTEBOOKS.glob("*.ipynb")))
    assert len(set(cells)) == 1


def test_a_name_links_to_its_lines():
    info = {"module": "ecgnb.repository", "fullname": "on_github"}
    link = source_link("o-1/ecg.nb", "py", info)
    path, _, lines = link.partition("#")
    assert path == "https://github.com/o-1/ecg.nb/blob/main/ecgnb/repository.py"
    first = int(lines.removeprefix("L").partition("-")[0])
    source = Path(__file__).parents[1] / "ecgnb" / "repository.py"
    assert source.read_text().splitlines()[first - 1].startswith("def on_github")
    assert source_link("", "py", info) is None
    assert source_link("o-1/ecg.nb", "c", info) is None
    constant = {"module": "ecgnb.models", "fullname": "MODELS"}
    assert source_link("o-1/ecg.nb", "py", constant).endswith("/ecgnb/models/__init__.py")


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", folder, *arguments], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout without a remote, with a book of one chapter and one page."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "none"))
    folder = tmp_path / "checkout"
    chapter = folder / "book" / f"{CHAPTER}.rst"
    chapter.parent.mkdir(parents=True)
    chapter.write_text("Small data\n==========\n\nThe answer.\n")
    page = (
        ".. toctree::\n   :glob:\n\n   editions/*/*\n\n.. autofunction:: ecgnb.models.check_model\n"
    )
    (folder / "book" / "index.rst").write_text(f"Book\n====\n\n{page}")
    shutil.copytree(NOTEBOOKS, folder / "notebooks")
    write_address(folder / "notebooks", "o-1/ecg.nb")
    git(tmp_path, "init", "-q", str(folder))
    return folder


def build(checkout: Path) -> tuple[str, str]:
    """The pages of the chapter and of the index, built as the book is: warnings are errors."""
    out = checkout / "_build"
    settings = [
        "extensions=sphinx.ext.autodoc,ecgnb.repository",
        "html_theme=sphinx_book_theme",
        "default_role=literal",
        "autodoc_typehints=none",
    ]
    options = [f"-D{setting}" for setting in settings]
    # In a process of its own: Sphinx warns when it is started twice in one.
    command = [sys.executable, "-m", "sphinx", "-CWnq", *options, checkout / "book", out]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    return (out / f"{CHAPTER}.html").read_text(), (out / "index.html").read_text()


def test_built_pages_link_to_the_repository(checkout):
    git(checkout, "remote", "add", "origin", f"https://someone:{TOKEN}@github.com/o-1/ecg.nb.git")
    chapter, index = build(checkout)
    assert f'href="{COLAB}/01_small_data.ipynb">Open in Colab</a>' in chapter
    assert chapter.index("<h1>") < chapter.index("Open in Colab") < chapter.index("The answer.")
    assert "Open in Colab" not in index
    assert 'href="https://github.com/o-1/ecg.nb/blob/main/ecgnb/models/__init__.py#L' in index
    assert 'href="https://github.com/o-1/ecg.nb"' in index
    assert TOKEN not in chapter + index


@pytest.mark.parametrize("remote", ["", f"https://someone:{TOKEN}@gitlab.com/o-1/ecg.nb.git"])
def test_built_pages_without_a_repository_on_github(remote, checkout):
    if remote:
        git(checkout, "remote", "add", "origin", remote)
    chapter, index = build(checkout)
    for text in ("Colab", "GitHub", "github.com", "gitlab.com", TOKEN):
        assert text not in chapter + index


def test_a_folder_inside_another_checkout_has_no_repository(checkout):
    git(checkout, "remote", "add", "origin", "git@github.com:o-1/ecg.nb.git")
    assert find_repository(checkout) == "o-1/ecg.nb"
    assert find_repository(checkout / "book") == ""
    assert find_repository(checkout / "nowhere") == ""


def test_without_git(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert find_repository(checkout) == ""
