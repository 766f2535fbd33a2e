"""Figures and tables on a page, each with its numbers in a file beside it.

The files stand in the folder `FILES` of where the notebook runs, under the name that the notebook
gives, and its last cell links to them.
"""

from __future__ import annotations

import html
import io
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any
from warnings import catch_warnings, filterwarnings

import matplotlib as mpl
import pandas as pd
from IPython.display import display
from matplotlib.figure import Figure

from ecgnb.files import put

FILES = Path("files")

MARKS = {
    "helps": "▲ helps",
    "harms": "▼ harms",
    "equivalent": "= equivalent",
    "undecided": "? undecided",
}
"""Verdicts for reading: a mark and the word."""


def show_figure(figure: Figure, name: str, data: pd.DataFrame | None = None) -> None:
    """Show a figure, and write it and what it draws as ``NAME.svg`` and ``NAME.csv``.

    Its alternative text is one sentence in the cell's metadata: ``mystnb``, ``image``, ``alt``.
    """
    svg = _svg(figure)
    put(_file(f"{name}.svg"), lambda path: path.write_bytes(svg))
    if data is not None:
        write_csv(data, name)
    display({"image/svg+xml": svg.decode(), "text/plain": f"Figure: {name}"}, raw=True)


def show_table(
    frame: pd.DataFrame, name: str, caption: str, *, whole: pd.DataFrame | None = None
) -> None:
    """Show a table for reading, its columns as they come, and write it as ``NAME.csv``.

    Parameters
    ----------
    frame : DataFrame
        At most five columns, or it does not fit. What stands in it is text, never HTML.
    name, caption : str
    whole : DataFrame, optional
        What the file has instead: all rows and columns, at full precision.
    """
    write_csv(frame if whole is None else whole, name)
    body = frame.to_html(index=False, border=0, justify="left")
    title = html.escape(caption)
    body = body.replace("<thead>", f"<caption>{title}</caption>\n  <thead>", 1)
    page = f'<div class="reading" role="region" aria-label="{title}" tabindex="0">{body}</div>'
    plain = f"{caption}\n{frame.to_string(index=False)}"
    display({"text/html": page, "text/plain": plain}, raw=True)


def show_decision(answers: dict[str, Any], table: pd.DataFrame, name: str) -> None:
    """Show a page that answers a reader's choices; write it as ``NAME.html``, to stand alone.

    Another page can hold what is in ``NAME-part.html``. `answers` is what ``decide.html`` draws, as
    JSON; no number in it may be missing. The table is the same to be read without JavaScript.
    """
    page = (resources.files("ecgnb.report") / "decide.html").read_text(encoding="utf-8")
    # A name in it may be anything: nothing ends the script.
    data = json.dumps(answers, allow_nan=False).replace("<", "\\u003c")
    page = page.replace("TABLE", table.to_html(index=False, border=0, justify="left"))
    page = page.replace("DATA", data)
    title = html.escape(answers["title"])
    alone = f"{_ALONE}<title>{title}</title>\n<main><h1>{title}</h1>\n{page}</main></html>\n"
    _write(f"{name}.html", alone)
    _write(f"{name}-part.html", page)
    display({"text/html": page, "text/plain": table.to_string(index=False)}, raw=True)


_ALONE = """<!doctype html><html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:720px;padding:12px}</style>
<script>if (matchMedia("(prefers-color-scheme: dark)").matches) {
  const {dataset, style} = document.documentElement, colours = {"text-base": "#eee",
    "text-muted": "#aab", background: "#121212", surface: "#1e2328", border: "#39414a"};
  dataset.theme = "dark"; style.background = "#121212";
  for (const name in colours) style.setProperty("--pst-color-" + name, colours[name]); }</script>
"""


def write_csv(data: pd.DataFrame, name: str) -> None:
    """Write a table as ``NAME.csv``, without the columns that hold arrays or runs."""
    columns = [
        column for column in data if column not in ("boot", "run", "boot_other", "run_other")
    ]
    _write(f"{name}.csv", data[columns].to_csv(index=False, lineterminator="\n"))


def _write(name: str, text: str) -> None:
    put(_file(name), lambda path: path.write_text(text, encoding="utf-8"))


def _file(name: str) -> Path:
    FILES.mkdir(exist_ok=True)
    return FILES / name


def say(text: str, name: str = "") -> None:
    """Show a computed sentence, as Markdown.

    Under its name, other pages can have it, plain: ``{glue:text}`PAGE.ipynb::NAME```.
    """
    page = html.escape(text, quote=False)  # a name in it may be anything
    display({"text/markdown": page, "text/plain": text}, raw=True)
    if name:
        prefix = "application/papermill.record/"  # where myst-nb looks for what is glued
        plain = {f"{prefix}text/plain": repr(text.replace("*", ""))}
        display(plain, raw=True, metadata={"scrapbook": {"name": name, "mime_prefix": prefix}})


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Neither the date nor random ids: the same figure gives the same page. Text stays text, so that
    # the reader's fonts draw what those here do not have, such as names in Chinese.
    with mpl.rc_context({"svg.hashsalt": "ecgnb", "svg.fonttype": "none"}), catch_warnings():
        filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    # Nobody sees less than a hundredth of a point, half of the file; a number that is text stays.
    return re.sub(rb"(\d\.\d\d)\d+(?=[^<]*>)", rb"\1", buffer.getvalue())
