"""report.html: what preparation made of the sources, to be looked at. One file, no script, nothing from elsewhere.

It holds no time of day and no duration of work, so equal outputs have equal reports. What it says is gathered in
content.py; how it looks is in templates/report.html.
"""

from __future__ import annotations

from pathlib import Path

import jinja2

from pipelines.preparation.recipe import Recipe
from pipelines.report.content import read_page
from pipelines.report.page import MAX_TEXT, Page
from pipelines.report.pictures import PLOT_HEIGHT, PLOT_WIDTH
from pipelines.storage import Storage

REPORT = "report.html"


def write_report(folder: Path, storage: Storage, recipe: Recipe) -> None:
    """Write `folder/report.html` about the tables in a local folder and the controls in OUT.

    Args:
        folder: holds videos.parquet, segments.parquet, stats.parquet and errors.parquet.
        storage: OUT, with the files that segments.parquet names.
        recipe: what OUT is made with.
    """
    (folder / REPORT).write_bytes(render(read_page(folder, storage, recipe)))


def render(page: Page) -> bytes:
    """The page as HTML. Everything users wrote is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipelines.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"clock": _clock, "short": _short, "number": _number}
    template = environment.get_template("report.html")
    return template.render(page=page, plot_width=PLOT_WIDTH, plot_height=PLOT_HEIGHT).encode()


def _clock(seconds: float) -> str:
    """`1:02.5` of 62.5 seconds."""
    minutes, rest = divmod(round(seconds * 10), 600)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest / 10:04.1f}" if minutes >= 60 else f"{minutes}:{rest / 10:04.1f}"


def _short(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


def _number(value: float) -> str:
    return f"{value:.4g}"
