"""From rows to a table, a figure and a page: pure functions, and no torch.

    rows = report.read("results/chorales")        # JSONL, one measurement a line
    report.table(rows).render(console)            # or .markdown(), .records()
    figures = report.figure(rows, "out/figure")   # out/figure.png and out/figure.svg
    report.page(rows, "out/report.html", figures)
    report.claims_page(report.verdicts("studies"), "out/claims.html")   # papers' numbers, ours

What is missing from the rows is missing from all three, never 0; a failed run shows its reason.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whatwhere.report.claims import study_folders, verdicts
    from whatwhere.report.claims_pages import claims_page
    from whatwhere.report.pages import page
    from whatwhere.report.plot import figure
    from whatwhere.report.rows import Rows, expressions, read
    from whatwhere.report.tables import Table, table

__all__ = [
    "Rows",
    "Table",
    "claims_page",
    "expressions",
    "figure",
    "page",
    "read",
    "study_folders",
    "table",
    "verdicts",
]

# On first use: a table needs no matplotlib, and `whatwhere cite rows.jsonl` neither of them. The
# modules have other names than the functions: importing a submodule puts it here under its name.
_HOME = {
    "Rows": "rows",
    "Table": "tables",
    "claims_page": "claims_pages",
    "expressions": "rows",
    "figure": "plot",
    "page": "pages",
    "read": "rows",
    "study_folders": "claims",
    "table": "tables",
    "verdicts": "claims",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'whatwhere.report' has no attribute {name!r}")
    return getattr(import_module(f"whatwhere.report.{_HOME[name]}"), name)
