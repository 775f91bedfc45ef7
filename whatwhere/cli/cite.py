"""`whatwhere cite`: BibTeX of what was used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["cite"]


def cite(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="EXPRESSION|ROWS…",
            help="Encodings, modifiers or spectra; or a rows.jsonl (or its folder).",
        ),
    ],
) -> None:
    """BibTeX of the sources behind encodings, or behind results.

    \b
    Examples:
      whatwhere cite pope
      whatwhere cite rope+yarn alibi >> paper.bib
      whatwhere cite results/chorales/rows.jsonl
    """
    from whatwhere import report
    from whatwhere.cli.sources import bibtex_of

    texts: list[str] = []
    for word in what:
        path = Path(word)
        is_file = path.suffix == ".jsonl" or "/" in word or (path / "rows.jsonl").exists()
        texts += report.expressions(report.read(path)) if is_file else [word]
    print(bibtex_of(texts))
