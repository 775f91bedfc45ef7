"""The page of methods that make a model longer: advice, table, figures, how it was made."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from whatwhere.report.extension import Extension, Line, extension
from whatwhere.report.extension_modes import agreement, modes, positions

__all__ = ["extension_page"]

Row = Mapping[str, Any]


def extension_page(
    rows: Sequence[Row],
    path: str | PathLike[str],
    figures: Sequence[Path],
    sentences: Sequence[str],
    bibtex: str = "",
) -> Path:
    """One self-contained HTML file: advice, table, figures, how it was made, sources."""
    found = extension(rows)
    head = "".join(
        f"<th scope='col'>{html.escape(a)}<small>{html.escape(b)}</small></th>"
        for a, b in found.head()
    )
    body = "".join(_html_line(found, line) for line in found.lines)
    images = "".join(
        f'<figure><img alt="{_ALT.get(file.stem, file.stem)}" src="data:image/svg+xml;base64,'
        f'{base64.b64encode(file.read_bytes()).decode("ascii")}"></figure>'
        for file in figures
        if file.suffix == ".svg"
    )
    facts = {
        "model": found.model,
        "text": _distinct(row.get("text") for row in rows),
        "tokens scored": _distinct(r.get("n") for r in rows if r["task"] == "perplexity"),
        "device": _distinct(row.get("device") for row in rows),
        "commit": _distinct(row.get("commit") for row in rows),
        "versions": _distinct(
            ", ".join(f"{k} {v}" for k, v in (row.get("versions") or {}).items()) for row in rows
        ),
        "time": f"{sum(float(row.get('seconds') or 0) for row in rows):.0f} s",
    }
    text = _PAGE.format(
        style=_style(),
        title=html.escape(f"{found.model} made longer"),
        advice="".join(f"<p>{html.escape(s)}</p>\n" for s in sentences),
        head=head,
        body=body,
        notes="".join(f"<li>{html.escape(n)}</li>" for n in found.notes()),
        modes=_modes(rows),
        figures=images,
        facts="".join(
            f"<tr><th scope='row'>{k}</th><td>{html.escape(v)}</td></tr>"
            for k, v in facts.items()
            if v
        ),
        sources=f"<h2>Sources</h2><pre class='bibtex'>{html.escape(bibtex)}</pre>" * bool(bibtex),
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


_ALT = {
    "figure": "Perplexity against length, one line a method",
    "keys": "Pass keys found, by length and depth, one map a method",
}

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>{title} · whatwhere</title>
{style}</head><body>
<h1>{title}</h1>
{advice}<h2>Results</h2>
<div class="scroll"><table><thead><tr><th scope="col">method</th>{head}</tr></thead>
<tbody>{body}</tbody></table></div><ul class="notes">{notes}</ul>
{modes}<h2>Figures</h2>{figures}
<h2>How it was made</h2><table class="facts"><tbody>{facts}</tbody></table>
{sources}</body></html>
"""


def _style() -> str:
    """The style sheet of the other page, so that both look alike."""
    from importlib import resources

    source = resources.files("whatwhere.report").joinpath("page.html.j2").read_text("utf-8")
    return source[source.index("<style>") : source.index("</style>")] + "</style>"


def _modes(rows: Sequence[Row]) -> str:
    """By position; streamed, sliding and transformers' own measurements, where there are any."""
    found, stock, places = modes(rows), agreement(rows), positions(rows)
    parts: list[str] = []
    if places is not None:
        title = "Perplexity by position in the window, at the longest length"
        parts.append(_table(title, *places))
    if found is not None:
        parts.append(_table(found.title(), found.titles(), found.cells(), found.notes()))
    if stock is not None:
        parts.append(f"<p>{html.escape(stock.sentence())}.</p>\n")
    return "".join(parts)


def _table(
    title: str, heads: Sequence[str], lines: Sequence[tuple[str, Sequence[str]]],
    notes: Sequence[str] = (),
) -> str:  # fmt: skip
    head = "".join(f"<th scope='col'>{html.escape(each)}</th>" for each in heads)
    body = "".join(
        f"<tr><th scope='row'>{html.escape(method)}</th>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
        for method, cells in lines
    )  # fmt: skip
    items = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
    return (
        f"<h2>{html.escape(title)}</h2>\n<div class='scroll'><table><thead><tr>"
        f"<th scope='col'>method</th>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f"<ul class='notes'>{items}</ul>\n"
    )


def _html_line(found: Extension, line: Line) -> str:
    cells = "".join(
        f"<td{' class=best' if cell.endswith('*') else ''}>{html.escape(cell)}</td>"
        for cell in found.cells(line)
    )
    expression = f"<small><code>{html.escape(_cut(line.expression))}</code></small>"
    return f"<tr><th scope='row'>{html.escape(line.method)}{expression}</th>{cells}</tr>"


def _cut(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"


def _distinct(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value is not None))
