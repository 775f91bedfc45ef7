"""Verdicts in the terminal, as Markdown and as records."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from whatwhere.report.beyond import beyond_markdown, beyond_table
from whatwhere.report.claims import VERDICTS, Judged, Study
from whatwhere.report.intervals import Estimate
from whatwhere.report.paper import Claim, Run

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "cells",
    "claims_markdown",
    "claims_records",
    "claims_summary",
    "cost",
    "needed",
    "render_claims",
    "tally",
]

HEAD = ("claim", "paper", "ours", "difference", "verdict")
_MISSING = "–"
_STYLE = {
    "reproduced": "green",
    "better": "green",
    "not reproduced": "red",
    "undecided": "yellow",
    "not run": "dim",
}


def cells(judged: Judged) -> tuple[str, str, str, str, str]:
    """Claim, published, ours, difference with its interval, verdict with its reason or hours."""
    claim = judged.claim
    return (
        claim.name,
        _published(claim),
        _ours(judged),
        _difference(judged),
        _verdict(judged),
    )


def _published(claim: Claim) -> str:
    return claim.printed or f"{claim.better} is better"


def _ours(judged: Judged) -> str:
    sides = [judged.ours, judged.other] if judged.claim.kind == "ranking" else [judged.ours]
    if not any(sides):
        return _MISSING
    return " against ".join(_mean(side) for side in sides)


def _mean(side: Mapping[Any, float]) -> str:
    if not side:
        return _MISSING
    values = list(side.values())
    spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4g}{spread} ({len(values)})"


def _difference(judged: Judged) -> str:
    found = judged.difference
    if found is None:
        return _MISSING
    if math.isinf(found.low):
        return f"{found.mean:+.3g}, no interval"
    ends = ", ".join(f"{end:+.3g}" for end in (found.low, found.high))
    return f"{found.mean:+.3g} [{ends}]"


def _verdict(judged: Judged) -> str:
    parts = [judged.reason] if judged.verdict != "not run" or "fits" in judged.reason else []
    if judged.seeds_missing:
        parts.append(hours_text(judged.hours))
    detail = "; ".join(part for part in parts if part)
    return f"{judged.verdict}: {detail}" if detail else judged.verdict


def hours_text(hours: float | None) -> str:
    """GPU hours as printed: two digits, since they are estimates."""
    if hours is None:
        return "hours unknown"
    return f"{hours:.0f} h" if hours >= 10 else f"{hours:.2g} h"


def tally(studies: Sequence[Study]) -> str:
    """How many claims have which verdict, and the hours that are missing."""
    count = Counter(each.verdict for study in studies for each in study.judged)
    total = sum(count.values())
    words = ", ".join(f"{count[v]} {v}" for v in VERDICTS if count[v])
    text = f"{total} claim{'s' if total != 1 else ''}: {words}."
    costs = cost(studies)
    return text + (f" What is missing needs {costs}." if costs else "")


def cost(studies: Sequence[Study]) -> str:
    """The GPU hours that are missing, in words; trainings that two studies share count twice."""
    hours, unknown = math.fsum(s.hours for s in studies), sum(s.unknown for s in studies)
    parts = [f"about {hours_text(hours)} on one GPU (an estimate)"] * bool(hours)
    parts += [f"{unknown} training{'s' if unknown > 1 else ''} of unknown cost"] * bool(unknown)
    return " and ".join(parts)


def needed(study: Study) -> list[str]:
    """One sentence for every training that is still to be run."""
    return [f"{run.name}: {_cost(run, seeds)}" for run, seeds in study.needed.values()]


def _cost(run: Run, seeds: int) -> str:
    if run.hours is None:
        return f"hours unknown. {run.basis}"
    plural = "s" if seeds != 1 else ""
    return f"{seeds} seed{plural} × {hours_text(run.hours)}. {run.basis}"


def render_claims(studies: Sequence[Study], console: Console) -> None:
    """Print one table a study; in a narrow terminal cells wrap, and nothing is cut."""
    from rich.table import Table
    from rich.text import Text

    for study in studies:
        console.print(f"{study.folder.name}: {study.paper.title}", style="bold", markup=False)
        shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for name, ratio in zip(HEAD, (26, 13, 14, 14, 17), strict=True):
            shown.add_column(name, ratio=ratio, overflow="fold")
        shown.expand = console.width <= 100
        for each in study.judged:
            *plain, verdict = cells(each)
            shown.add_row(*map(Text, plain), Text(verdict, style=_STYLE[each.verdict]))
        console.print(shown)
        if study.beyond:
            console.print("beyond the claims:", style="dim", markup=False)
            console.print(beyond_table(study.beyond))
        missing = cost([study])
        for note in [*study.notes, *([f"missing here: {missing}"] if missing else [])]:
            console.print(f"note: {note}", style="dim", markup=False)
        console.print()
    console.print(tally(studies), markup=False)


def claims_markdown(studies: Sequence[Study]) -> str:
    """All claims as Markdown, with the place in the paper, and what else the rows hold."""
    lines = [tally(studies), ""]
    for study in studies:
        lines += [f"**{study.folder.name}**: {study.paper.title}", ""]
        lines += [*_markdown(study.judged), ""]
        if study.beyond:
            lines += ["Beyond the claims:", "", *beyond_markdown(study.beyond), ""]
    return "\n".join(lines).rstrip()


def claims_summary(studies: Sequence[Study]) -> str:
    """For a front page: the claims that have rows; what was not run is a line a study."""
    judged = [each for study in studies for each in study.judged]
    nothing = all(each.verdict == "not run" for each in judged)
    lines = ["**Nothing of these papers has been run yet.** " * nothing + tally(studies), ""]
    for study in studies:
        ran = [each for each in study.judged if each.verdict != "not run"]
        if ran:
            lines += [f"**{study.folder.name}**: {study.paper.title}", "", *_markdown(ran), ""]
    for study in studies:
        count = sum(each.verdict == "not run" for each in study.judged)
        if count:
            costs = cost([study])
            lines.append(
                f"* `{study.folder.name}`, {study.paper.title}: {count} of {len(study.judged)} "
                f"claims not run" + (f"; what is missing needs {costs}." if costs else ".")
            )
    return "\n".join(lines).rstrip()


def _markdown(judged: Sequence[Judged]) -> list[str]:
    lines = [
        "| claim | table | paper | ours | difference | verdict |",
        "|---|---|---|---|---|---|",
    ]
    for each in judged:
        first, *rest = (cell.replace("|", "\\|") for cell in cells(each))
        lines.append(f"| {first} | {each.claim.table} | {' | '.join(rest)} |")
    return lines


def claims_records(studies: Sequence[Study]) -> list[dict[str, Any]]:
    """One JSON object a claim; what is not known is null."""
    return [_record(study, each) for study in studies for each in study.judged]


def _record(study: Study, each: Judged) -> dict[str, Any]:
    claim, paper = each.claim, study.paper
    ranking = claim.kind == "ranking"
    spread, seeds = claim.spread or (None, None)
    return {
        "study": study.folder.name,
        "claim": claim.name,
        "kind": claim.kind,
        "encoding": claim.encoding,
        "other": claim.other or None,
        "metric": claim.metric,
        "unit": claim.unit,
        "better": claim.better,
        "setting": dict(claim.where),
        "other_setting": dict(claim.other_where) if ranking else None,
        "source": paper.source,
        "table": claim.table,
        "page": claim.page or None,
        "published": {"value": claim.value, "std": spread, "n_seeds": seeds},
        "ours": _side(each.ours),
        "others": _side(each.other) if ranking else None,
        "mean_interval": _ends(each.mean),
        "difference": _ends(each.difference),
        "tolerance": claim.tolerance,
        "min_seeds": paper.rule.seeds,
        "confidence": paper.rule.confidence,
        "interval": paper.rule.interval,
        "verdict": each.verdict,
        "reason": each.reason or None,
        "seeds_missing": each.seeds_missing,
        "hours_missing": each.hours,
        "note": claim.note or None,
    }


def _side(values: Mapping[Any, float]) -> dict[str, Any] | None:
    if not values:
        return None
    found = list(values.values())
    return {
        "mean": statistics.fmean(found),
        "std": statistics.stdev(found) if len(found) > 1 else None,
        "n_seeds": len(found),
        "values": {str(seed): value for seed, value in values.items()},
    }


def _ends(found: Estimate | None) -> dict[str, float | None] | None:
    if found is None:
        return None
    ends = (found.low, found.high)
    low, high = (None if math.isinf(end) else end for end in ends)
    return {"mean": found.mean, "low": low, "high": high}
