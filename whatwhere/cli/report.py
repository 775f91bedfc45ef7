"""`whatwhere report`: table, figure and page from rows."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from whatwhere.report.rows import Row

__all__ = ["publish", "report"]


def report(
    rows: Annotated[Path, typer.Argument(metavar="DIR|ROWS", help="A run's folder or its rows.")],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="PAGE.html",
            help="The page.  [default: report.html beside the rows]",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the table as JSON and write no file.")
    ] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the table as Markdown and write no file.")
    ] = False,
) -> None:
    """Table, figure and page from rows; nothing is measured again.

    The figure (png and svg) stands beside the page.

    \b
    Examples:
      whatwhere report results/chorales
      whatwhere report results/chorales/rows.jsonl --out pages/chorales.html
      whatwhere report results/chorales --json | jq '.[] | select(.best)'
    """
    from whatwhere.cli.console import console
    from whatwhere.report import read, table

    if out is not None and out.suffix not in (".html", ".htm"):
        raise ValueError(f"--out is {str(out)!r}; the page is HTML: give a name ending in .html")
    found = read(rows)
    if as_json:
        print(json.dumps(table(found).records(), indent=2, allow_nan=False))
    if markdown:
        print(table(found).markdown())
    if as_json or markdown:
        for note in found.notes:
            print(f"note: {note}", file=sys.stderr)
        return
    table(found).render(console())
    beside = (rows if rows.is_dir() else rows.parent) / "report.html"
    print()
    for path in publish(found, out or beside):
        print(path)


def publish(rows: Sequence[Row], path: Path) -> list[Path]:
    """Write the page with its figures and sources; returns all files, the page last.

    Beside report.html the figure is called figure, beside any other page it has the page's name.
    """
    from whatwhere.cli.sources import bibtex_of
    from whatwhere.report import expressions, figure, page

    stem = path.with_name("figure") if path.name == "report.html" else path.with_suffix("")
    figures = figure(rows, stem)
    return [*figures, page(rows, path, figures, bibtex=bibtex_of(expressions(rows)))]
