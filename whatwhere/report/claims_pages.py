"""The page of all verdicts, with the figures of every study."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from importlib import resources
from os import PathLike
from pathlib import Path
from textwrap import dedent
from typing import Any

from whatwhere.report import claims
from whatwhere.report.beyond import HEAD
from whatwhere.report.claims import Judged, Study
from whatwhere.report.claims_table import cells, cost, needed, tally

__all__ = ["claims_page"]


def claims_page(
    studies: Sequence[Study],
    path: str | PathLike[str],
    *,
    figures_under: str | PathLike[str] | None = None,
) -> Path:
    """Write one self-contained HTML file and return its path.

    The .svg files of each study's folder are embedded, and those of folders under `figures_under`
    that claim nothing. Studies with a verdict come first; claims that were not run are folded.
    """
    import jinja2

    folders = {study.folder.resolve() for study in studies}
    rest = [
        folder
        for folder in sorted(Path(figures_under).iterdir() if figures_under else ())
        if folder.resolve() not in folders and list(folder.glob("*.svg"))
    ]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(_source("claims.html.j2"))
    run_first = sorted(map(_section, studies), key=lambda each: not each["judged"])
    plain = _source("page.html.j2")
    style = plain[plain.index("<style>") : plain.index("</style>")] + "</style>"
    text = template.render(
        style=style,
        tally=tally(studies),
        rule=_rule(),
        studies=[*run_first, *map(_figures_only, rest)],
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _rule() -> list[tuple[str, str]]:
    """The rule as the module states it, without its first line: (tag, text) of each paragraph."""
    text = (claims.__doc__ or "").partition("\n\n")[2].replace("**", "").replace("`", "")
    return [
        ("pre", dedent(part).strip("\n"))
        if part.startswith("    ")
        else ("p", " ".join(part.split()))
        for part in text.split("\n\n")
    ]


def _source(name: str) -> str:
    return resources.files("whatwhere.report").joinpath(name).read_text("utf-8")


def _section(study: Study) -> dict[str, Any]:
    return {
        "name": study.folder.name,
        "title": study.paper.title,
        "source": study.paper.source.rstrip("."),
        "rule": study.paper.rule,
        "judged": [_line(each) for each in study.judged if each.verdict != "not run"],
        "open": [_line(each) for each in study.judged if each.verdict == "not run"],
        "notes": [note.rstrip(".") for note in study.notes],
        "needed": needed(study),
        "cost": cost([study]),
        "beyond": [group.cells for group in study.beyond],
        "head": HEAD,
        "figures": _embedded(study.folder),
    }


def _figures_only(folder: Path) -> dict[str, Any]:
    empty = {"source": "", "rule": None, "judged": [], "open": [], "notes": [], "needed": [],
             "cost": "", "beyond": [], "head": HEAD}  # fmt: skip
    name = folder.name
    return {"name": name, "title": f"{name} (no claim of a paper)", **empty} | {
        "figures": _embedded(folder)
    }


def _line(each: Judged) -> dict[str, Any]:
    shown, claim = cells(each), each.claim
    place = f"table {claim.table}" if claim.table[0].isdigit() else claim.table
    return {
        "cells": shown,
        "verdict": each.verdict,
        "detail": shown[-1].partition(": ")[2],
        "kind": each.verdict.replace(" ", "-"),
        "place": f"{place}, p. {claim.page}" if claim.page else place,
        "tolerance": f"{claim.tolerance:g}",
        "note": claim.note,
    }


def _embedded(folder: Path) -> list[dict[str, str]]:
    return [
        {
            "source": "data:image/svg+xml;base64,"
            + base64.b64encode(file.read_bytes()).decode("ascii"),
            "alt": f"{file.stem} of {folder.name}",
        }
        for file in sorted(folder.glob("*.svg"))
    ]
