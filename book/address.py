"""``make address``: write where this repository is into what cannot ask git for it.

The set-up cell of each notebook, which installs the package in Colab, a link to Colab under the
title of each, and the book's link to its repository.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import nbformat

# https://[user[:token]@]github.com/OWNER/NAME[.git] and the like, or [user@]github.com:OWNER/NAME.
_REMOTE = re.compile(
    r"(?:(?:https?|ssh|git)://(?:[^@/]*@)?(?:ssh\.|www\.)?github\.com(?::\d+)?/|"
    r"(?:[^@/:]+@)?github\.com:/?)"
    r"(?P<owner>[a-z\d-]+)/(?P<name>[\w.-]+?)(?:\.git)?/?",
    re.IGNORECASE | re.ASCII,
)
# The address has a line of its own: the formatter breaks none inside quotes, however long.
_ADDRESS = re.compile(r'(?<=^_address = """\n)(?:git\+.*\n)?(?=""")', re.MULTILINE)
_LINK = re.compile(r"\A# .*\n(?:\n\[Open in Colab\]\(.*\)\n?)?")
_BOOK = re.compile(r"(?<=^  url: )\S*(?=\s)|(?<=^  use_repository_button: )\w+", re.MULTILINE)


def write_address(folder: Path, remote: str) -> str:
    """Write the address of a remote into the notebooks and the settings of a checkout.

    Parameters
    ----------
    folder : Path
        Its top folder.
    remote : str
        An address as ``git remote get-url`` prints it, https or SSH. A user or a token in it goes
        no further.

    Returns
    -------
    str
        OWNER/NAME.
    """
    found = _REMOTE.fullmatch(remote.strip())
    if not found:
        sys.exit("ecgnb: the remote `origin` is not on GitHub: add it with `git remote add origin`")
    name = f"{found['owner']}/{found['name']}"
    for path in sorted(folder.glob("notebooks/*.ipynb")):
        notebook = nbformat.read(path, 4)
        link = f"[Open in Colab](https://colab.research.google.com/github/{name}/blob/main/notebooks/{path.name})"
        title, set_up = notebook.cells[0], notebook.cells[2]
        heading = title.source.partition("\n")[0]
        title.source = _replace(path, _LINK, f"{heading}\n\n{link}\n", title.source + "\n").strip()
        address = f"git+https://github.com/{name}\n"
        set_up.source = _replace(path, _ADDRESS, address, set_up.source)
        nbformat.write(notebook, path)
    settings = folder / "_config.yml"
    values = iter(["true", f"https://github.com/{name}"])
    text = _BOOK.sub(lambda _: next(values), settings.read_text("utf-8"))
    settings.write_text(text, "utf-8")
    if next(values, ""):
        sys.exit(f"ecgnb: {settings.name} has no place for the address")
    return name


def _replace(path: Path, pattern: re.Pattern[str], instead: str, text: str) -> str:
    changed, count = pattern.subn(lambda _: instead, text)
    if count != 1:
        sys.exit(f"ecgnb: {path.name} has no place for the address: its set-up cell was changed")
    return changed


if __name__ == "__main__":
    top = Path(__file__).parents[1]
    command = ["git", "-C", str(top), "remote", "get-url", "origin"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    print(f"notebooks and book know this repository: {write_address(top, asked.stdout)}")
