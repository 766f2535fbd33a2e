"""A Sphinx extension: links from the book to its repository, as far as that is on GitHub.

The address is asked of git while the book is built, so that a fork links to itself. Without a
remote on GitHub every link is left out.

A hosted notebook cannot ask git where to install the package from. ``python -m ecgnb.repository``
writes the address into the notebooks' set-up cells; chapters whose notebooks name another
repository than this one have no link to Colab.
"""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from functools import partial
from operator import attrgetter
from pathlib import Path, PurePosixPath

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config

import ecgnb

_BRANCH = "main"
_COLAB = "https://colab.research.google.com/github"
_GITHUB = "https://github.com"

# https://[user[:token]@]github.com/OWNER/NAME[.git] and the like, or [user@]github.com:OWNER/NAME.
_REMOTE = re.compile(
    r"(?:(?:https?|ssh|git)://(?:[^@/]*@)?(?:ssh\.|www\.)?github\.com(?::\d+)?/|"
    r"(?:[^@/:]+@)?github\.com:/?)"
    r"(?P<owner>[a-z\d-]+)/(?P<name>[\w.-]+?)(?:\.git)?/?",
    re.IGNORECASE | re.ASCII,
)

# As it stands in the JSON of a notebook.
_SOURCE = re.compile(r'_source = \\"([^"\\]*)\\"')


def on_github(remote: str) -> str:
    """Return OWNER/NAME of a git remote on GitHub; empty if it is anywhere else.

    Parameters
    ----------
    remote : str
        An address as ``git remote get-url`` prints it, https or SSH. A user or a token in it goes
        no further.
    """
    found = _REMOTE.fullmatch(remote.strip())
    return f"{found['owner']}/{found['name']}" if found else ""


def find_repository(checkout: Path) -> str:
    """Return OWNER/NAME of the remote ``origin`` of a checkout; empty if it has none on GitHub.

    Parameters
    ----------
    checkout : Path
        Its top folder. A folder inside another repository's checkout is none.
    """
    if _git(checkout, "rev-parse", "--show-prefix") != "\n":
        return ""
    return on_github(_git(checkout, "remote", "get-url", "origin"))


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout
    except OSError:  # no git: the files were downloaded without it
        return ""


def installed_from(notebook: Path) -> str:
    """Return OWNER/NAME of the repository in a notebook's set-up cell; empty if there is none."""
    found = _SOURCE.search(notebook.read_text(encoding="utf-8"))
    return on_github(found[1].removeprefix("git+")) if found else ""


def write_address(notebooks: Path, repository: str) -> None:
    """Write into the set-up cell of each notebook of a folder where it installs the package from.

    Parameters
    ----------
    notebooks : Path
    repository : str
        OWNER/NAME.
    """
    address = f'_source = \\"git+{_GITHUB}/{repository}\\"'
    for path in sorted(notebooks.glob("*.ipynb")):
        text = path.read_text(encoding="utf-8")
        path.write_text(_SOURCE.sub(lambda _: address, text), encoding="utf-8")


def notebook_links(repository: str, page: str, installed_from: str) -> dict[str, str]:
    """Return what a page of the book links to, by the text of the link.

    Parameters
    ----------
    repository : str
        OWNER/NAME, or empty.
    page : str
        Name of the page, such as ``editions/clinical/01_small_data``. Chapters link to the
        notebook they were executed from, since executed notebooks are not in git; other pages
        have no links.
    installed_from : str
        OWNER/NAME of the repository that the notebook installs the package from in Colab.
    """
    chapter = PurePosixPath(page)
    if not repository or chapter.parts[0] != "editions":
        return {}
    path = f"{repository}/blob/{_BRANCH}/notebooks/{chapter.name}.ipynb"
    links = {"Notebook on GitHub": f"{_GITHUB}/{path}"}
    return {"Open in Colab": f"{_COLAB}/{path}", **links} if installed_from == repository else links


def source_link(repository: str, domain: str, info: dict[str, str]) -> str | None:
    """Return where the source of a documented name is; None if no link can be made.

    Parameters
    ----------
    repository : str
        OWNER/NAME, or empty.
    domain, info
        As ``sphinx.ext.linkcode`` gives them.
    """
    if not repository or domain != "py":
        return None
    module = importlib.import_module(info["module"])
    path = Path(str(module.__file__)).relative_to(Path(ecgnb.__file__).parents[1])
    link = f"{_GITHUB}/{repository}/blob/{_BRANCH}/{path.as_posix()}"
    try:
        lines, first = inspect.getsourcelines(attrgetter(info["fullname"])(module))
    except TypeError:  # a constant or a property has no lines of its own
        return link
    return f"{link}#L{first}-L{first + len(lines) - 1}"


def setup(app: Sphinx) -> dict[str, bool]:
    """Let Sphinx use this module as an extension."""
    app.setup_extension("sphinx.ext.linkcode")
    app.connect("config-inited", _configure)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _configure(app: Sphinx, config: Config) -> None:
    repository = find_repository(Path(app.srcdir).parent)
    config.linkcode_resolve = partial(source_link, repository)
    if repository:
        options = {"repository_url": f"{_GITHUB}/{repository}", "use_repository_button": True}
        config.html_theme_options = {**config.html_theme_options, **options}
        app.connect("doctree-read", partial(_add_links, repository))


def _add_links(repository: str, app: Sphinx, doctree: nodes.document) -> None:
    """Put a chapter's links under its title."""
    page = app.env.docname
    notebook = Path(app.srcdir).parent / "notebooks" / f"{PurePosixPath(page).name}.ipynb"
    links = notebook_links(repository, page, installed_from(notebook) if notebook.exists() else "")
    title = next(doctree.findall(nodes.title), None)
    if not links or title is None:
        return
    line = nodes.paragraph(classes=["repository-links"])
    for text, address in links.items():
        line += nodes.reference(text, text, refuri=address, internal=False)
        line += nodes.Text(" ")
    title.parent.insert(title.parent.index(title) + 1, line)


if __name__ == "__main__":
    folder = Path(__file__).parents[1]
    if repository := find_repository(folder):
        write_address(folder / "notebooks", repository)
        print(f"notebooks install ecgnb from {_GITHUB}/{repository} in Colab")
    else:
        sys.exit("ecgnb: the remote `origin` is not on GitHub: add it with `git remote add origin`")
