"""Figures and tables on a page."""

from __future__ import annotations

import base64
import html
import io

import matplotlib as mpl
import pandas as pd
from IPython.display import HTML, display
from matplotlib.figure import Figure

_PHONE = "(max-width: 600px)"
_CAPTION = "text-align:left;color:inherit;font-size:0.9em;font-weight:normal;letter-spacing:normal"


def show(figure: Figure, caption: str, alt: str, *, narrow: Figure | None = None) -> None:
    """Show a figure with its caption and its alternative text.

    Parameters
    ----------
    figure : Figure
    caption, alt : str
        Plain text. The alternative text says in words what the picture shows.
    narrow : Figure, optional
        Stands in for the figure on narrow screens.
    """
    source = f'<source media="{_PHONE}" srcset="{_uri(narrow)}">' if narrow else ""
    image = f'<img src="{_uri(figure)}" alt="{html.escape(alt)}" style="max-width:100%">'
    page = (
        f'<figure style="margin:1em 0;text-align:left"><picture>{source}{image}</picture>'
        f'<figcaption style="{_CAPTION}">{html.escape(caption)}</figcaption></figure>'
    )
    display({"text/html": page, "text/plain": f"{alt}\n{caption}"}, raw=True)


def _uri(figure: Figure) -> str:
    buffer = io.BytesIO()
    # Neither the date nor random ids: the same figure gives the same page.
    with mpl.rc_context({"svg.hashsalt": "ecgnb"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def as_table(frame: pd.DataFrame, *, wrap: bool = False) -> HTML:
    """Show a table for reading, without row numbers; `wrap` lets long cells break."""
    classes = [] if wrap else ["unbroken"]
    return HTML(frame.to_html(index=False, border=0, justify="left", classes=classes))
