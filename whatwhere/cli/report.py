"""`whatwhere report`: table, figure and page from rows; verdicts on the claims of papers."""

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
    rows: Annotated[
        Path,
        typer.Argument(
            metavar="DIR|ROWS", help="A run's folder, its rows, or a folder of studies."
        ),
    ],
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

    The figure (png and svg) stands beside the page. A folder with a paper.csv (or a folder of
    such folders) gives verdicts instead: each published number, ours, the difference, its
    interval over seeds, and by the rule written before the run: reproduced, better, not
    reproduced, undecided, or not run with the hours it needs. --json prints those claims.

    \b
    Examples:
      whatwhere report results/chorales
      whatwhere report results/chorales/rows.jsonl --out pages/chorales.html
      whatwhere report results/chorales --json | jq '.[] | select(.best)'
      whatwhere report studies/
    """
    from whatwhere.cli.console import console
    from whatwhere.report import read, study_folders, table

    if out is not None and out.suffix not in (".html", ".htm"):
        raise ValueError(f"--out is {str(out)!r}; the page is HTML: give a name ending in .html")
    if study_folders(rows):
        _claims(rows, out or rows / "report.html", as_json, markdown)
        return
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


def _claims(root: Path, page: Path, as_json: bool, markdown: bool) -> None:
    """Verdicts of all studies under `root`; figures that rows lack or outran are drawn."""
    from whatwhere.cli.console import console
    from whatwhere.report import claims_page, figure, read, verdicts
    from whatwhere.report.claims_table import claims_markdown, claims_records, render_claims
    from whatwhere.report.study_plot import source_of, study_figures

    found = verdicts(root)
    if as_json:
        print(json.dumps(claims_records(found), indent=2, allow_nan=False, ensure_ascii=False))
    if markdown:
        print(claims_markdown(found))
    if as_json or markdown:
        return
    render_claims(found, console())
    for study in found:
        if not study.rows:
            continue
        rows, curves = read(study.folder), study.folder / "curves.csv"
        source, drawn = source_of(rows, curves), list(study.folder.glob("*.svg"))
        # Not by their times: a clone's files have those of the checkout.
        if not drawn or any(source not in file.read_text(encoding="utf-8") for file in drawn):
            stem = study.folder / "figure"
            if not study_figures(rows, curves, stem):
                figure(rows, stem)
    alone = (root / "paper.csv").exists()
    print()
    print(claims_page(found, page, figures_under=None if alone else root))


def publish(rows: Sequence[Row], path: Path) -> list[Path]:
    """Write the page with its figures and sources; returns all files, the page last.

    Beside report.html the figure is called figure, beside any other page it has the page's name.
    """
    from whatwhere.cli.sources import bibtex_of
    from whatwhere.report import expressions, figure, page

    stem = path.with_name("figure") if path.name == "report.html" else path.with_suffix("")
    figures = figure(rows, stem)
    return [*figures, page(rows, path, figures, bibtex=bibtex_of(expressions(rows)))]
