"""A Sphinx extension: links from the book to its repository, as far as that is on GitHub.

The address is asked of git while the book is built, so that no file names it and a fork links to
itself. Without a remote on GitHub every link is left out.
"""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
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


def notebook_links(repository: str, page: str) -> dict[str, str]:
    """Return what a page of the book links to, by the text of the link.

    Parameters
    ----------
    repository : str
        OWNER/NAME, or empty.
    page : str
        Name of the page, such as ``editions/clinical/01_small_data``. Chapters link to the
        notebook they were executed from, since executed notebooks are not in git; other pages
        have no links.
    """
    chapter = PurePosixPath(page)
    if not repository or chapter.parts[0] != "editions":
        return {}
    path = f"{repository}/blob/{_BRANCH}/notebooks/{chapter.name}.ipynb"
    return {"Open in Colab": f"{_COLAB}/{path}", "Notebook on GitHub": f"{_GITHUB}/{path}"}


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
    links = notebook_links(repository, app.env.docname)
    title = next(doctree.findall(nodes.title), None)
    if not links or title is None:
        return
    line = nodes.paragraph(classes=["repository-links"])
    for text, address in links.items():
        line += nodes.reference(text, text, refuri=address, internal=False)
        line += nodes.Text(" ")
    title.parent.insert(title.parent.index(title) + 1, line)
