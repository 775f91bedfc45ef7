"""How the commands print: one console, one kind of table, fit for 80 columns."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["console", "plain_table", "short"]


def console() -> Console:
    """A console as wide as the terminal (80 columns in a pipe), without guessing at colours."""
    return Console(highlight=False)


def plain_table(*headers: str, right: tuple[str, ...] = (), title: str | None = None) -> Table:
    """A table without frames: bold headers over a line; the columns named in `right` hold numbers.

    Only the last column wraps, so that names and numbers stay whole.
    """
    table = Table(
        box=None, pad_edge=False, padding=(0, 2, 0, 0), title=title, title_justify="left",
        title_style="bold", header_style="dim",
    )  # fmt: skip
    for header in headers:
        last = header == headers[-1] and header not in right
        table.add_column(header, justify="right" if header in right else "left", no_wrap=not last)
    return table


def short(value: Any) -> str:
    """An option's value as one would type it."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(short, value)) + "]"
    return str(value)
