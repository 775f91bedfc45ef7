"""Claims of papers beside our rows: the rule, and the verdicts by it.

The rule stands here and in each study's `claims.toml` and `paper.csv`; all three are written
before the study is run, and a change of them after a run is told in LOG.md.

**What is compared.** From the rows of the study's folder those that fit the claim (encoding,
metric, every `row.KEY`), one value a seed (of a repeated measurement the last), in the published
unit. A row that names its training (`run`) fits only a claim that names it too, and a row of a
`probe`, something the paper does not report, only a claim that asks for it (row.probe). The gain g
of one seed is, with s = 1 if higher is better and -1 if lower is:

    value     g = s (ours - published)
    ranking   g = s (value of `encoding` - value of `other`), over the seeds that both have

**The interval** of the mean of g over seeds is Student's (or, where `claims.toml` asks, the
percentile bootstrap's) at its confidence, two-sided. The published number is taken as exact; what
its seeds did goes into the tolerance: where the paper gives a standard deviation s over n seeds,
the tolerance is at least the half width t s / √n of the paper's own interval.

**The verdict**, with tolerance t:

    not run         no row fits. The GPU hours of the seeds that the rule asks for are shown.
    undecided       fewer seeds than the rule asks for; or a seed failed (the mean of the others
                    flatters); or the rows that fit have several settings, of a speed also several
                    devices, on either side; or the interval crosses a boundary below. The reason
                    is shown. One seed has no interval, so it has no verdict either: its difference
                    is shown and nothing is claimed.
    value           reproduced       -t <= low and high <= t
                    better           low > t
                    not reproduced   high < -t
    ranking         reproduced       low > t
                    not reproduced   high < t

So "reproduced" is a test of equivalence, stricter than "no significant difference": too few seeds
can not make a claim reproduced. A ranking's t is 0, or a margin; a negative one asks only that
`encoding` be no worse than `other` by more than |t|. "Better" contradicts a published number as
well where it is a baseline's: the page shows the difference.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from whatwhere.report.beyond import Group, groups, solved_notes
from whatwhere.report.intervals import Estimate, bootstrap, student
from whatwhere.report.paper import Claim, Paper, Rule, Run, read_paper
from whatwhere.report.rows import Row, read

__all__ = ["VERDICTS", "Judged", "Study", "judge", "study_folders", "verdict_of", "verdicts"]

VERDICTS = ("reproduced", "better", "not reproduced", "undecided", "not run")

_INTERVALS = {"t": student, "bootstrap": bootstrap}
_OF_A_DEVICE = ("_per_second", "_mib")
_SETTING = ("task", "unit", "mode", "train_length", "eval_length", "steps", "trained_as")


@dataclass(frozen=True)
class Judged:
    """A claim with our values by seed, the interval of the difference, and the verdict.

    `difference` is ours - published (value) or `encoding` - `other` (ranking), not the gain: its
    sign is that of the numbers. `seeds_missing` and `hours` are what the rule still asks for (at
    most: a ranking of which one side is there counts both).
    """

    claim: Claim
    ours: Mapping[Any, float]
    other: Mapping[Any, float]
    mean: Estimate | None
    difference: Estimate | None
    verdict: str
    reason: str
    seeds_missing: int
    hours: float | None


@dataclass(frozen=True)
class Study:
    """A study's folder, its claims, the verdicts on them, and what else its rows hold."""

    folder: Path
    paper: Paper
    judged: tuple[Judged, ...]
    rows: int
    notes: tuple[str, ...]
    beyond: tuple[Group, ...] = ()

    @property
    def needed(self) -> dict[str, tuple[Run, int]]:
        """The trainings that are still to be run: name -> (run, seeds), each counted once."""
        found: dict[str, tuple[Run, int]] = {}
        for each in self.judged:
            for name in each.claim.runs if each.seeds_missing else ():
                least = max(found.get(name, (None, 0))[1], each.seeds_missing)
                found[name] = (self.paper.runs[name], least)
        return found

    @property
    def hours(self) -> float:
        """GPU hours of `needed`, as far as they are known."""
        return math.fsum((run.hours or 0) * seeds for run, seeds in self.needed.values())

    @property
    def unknown(self) -> int:
        """How many of `needed` have no estimate."""
        return sum(run.hours is None for run, _ in self.needed.values())


def study_folders(root: str | PathLike[str]) -> list[Path]:
    """The folders under `root` (or `root` itself) that hold a paper.csv."""
    root = Path(root)
    if (root / "paper.csv").exists():
        return [root]
    return sorted(file.parent for file in root.glob("*/paper.csv")) if root.is_dir() else []


def verdicts(root: str | PathLike[str]) -> list[Study]:
    """The verdicts of every study under `root`, from the rows that are there now.

    Raises FileNotFoundError if no folder has a paper.csv, ValueError for rows or claims that can
    not be read.
    """
    folders = study_folders(root)
    if not folders:
        raise FileNotFoundError(f"{root} has no folder with a paper.csv")
    return [verdict_of(folder) for folder in folders]


def verdict_of(folder: Path, rows_at: Path | None = None) -> Study:
    """The verdicts of one study, from its own rows or from those of another folder."""
    paper, place = read_paper(folder), rows_at or folder
    rows = read(place, none=True)
    judged = tuple(judge(claim, rows, paper.rule, paper.runs) for claim in paper.claims)
    notes = (*getattr(rows, "notes", ()), *solved_notes(rows, place / "curves.csv"))
    used = {id(row) for claim in paper.claims for side in sides_of(claim, rows) for row in side}
    others = groups([row for row in rows if id(row) not in used])
    return Study(folder, paper, judged, len(rows), notes, others)


def judge(claim: Claim, rows: Sequence[Row], rule: Rule, runs: Mapping[str, Run]) -> Judged:
    """The verdict on one claim by the rule above."""
    sides = sides_of(claim, rows)
    values = [_values(side, claim.unit) for side in sides]
    seeds = [seed for seed in values[0] if all(seed in side for side in values)]
    missing = max(0, rule.seeds - len(seeds))
    cost = [runs[name].hours for name in claim.runs]
    hours = None if None in cost else math.fsum(h or 0 for h in cost) * missing
    mean = difference = None
    if len(values[0]) > 1 and claim.kind == "value":
        mean = _INTERVALS["t"](list(values[0].values()), rule.confidence)
    if len(seeds) == 1 and rule.seeds > 1:
        single = _single(claim, values, seeds[0])
        difference = Estimate(single, -math.inf, math.inf)
    elif len(seeds) > 1:
        gaps = [_single(claim, values, seed) for seed in seeds]
        difference = _INTERVALS[rule.interval](gaps, rule.confidence)
    verdict, reason = _verdict(claim, sides, seeds, difference, rule, len(rows))
    other = values[1] if len(values) > 1 else {}
    return Judged(claim, values[0], other, mean, difference, verdict, reason, missing, hours)


def sides_of(claim: Claim, rows: Sequence[Row]) -> list[list[Row]]:
    """The rows that fit a claim, and of a ranking those that fit its other side."""
    named = [row for row in rows if row.get("run", claim.runs[0]) in claim.runs]
    sides = [_fitting(named, claim.encoding, claim.metric, claim.where)]
    if claim.kind == "ranking":
        sides.append(_fitting(named, claim.other, claim.metric, claim.other_where))
    return sides


def _verdict(
    claim: Claim,
    sides: Sequence[Sequence[Row]],
    seeds: Sequence[Any],
    difference: Estimate | None,
    rule: Rule,
    count: int,
) -> tuple[str, str]:
    empty = [n for n, side in zip((claim.encoding, claim.other), sides, strict=False) if not side]
    if empty:
        return "not run", f"no row of {' and '.join(empty)} fits" if count else "no rows yet"
    for side in sides:
        if several := _several(side):
            return "undecided", f"the rows differ in {', '.join(several)}: pin it in paper.csv"
    devices = dict.fromkeys(str(row.get("device")) for side in sides for row in side)
    if claim.metric.endswith(_OF_A_DEVICE) and len(devices) > 1:
        return "undecided", f"measured on {' and '.join(devices)}: one device compares"
    failed = dict.fromkeys(s for side in sides for s in _failed(side))
    if failed:
        return "undecided", f"seed {', '.join(map(str, failed))} failed"
    if len(seeds) < rule.seeds or difference is None:
        return "undecided", f"{len(seeds)} of {rule.seeds} seeds"
    low, high = sorted((claim.sign * difference.low, claim.sign * difference.high))
    tolerance, same = claim.tolerance, _identical(sides, claim)
    if low > tolerance:
        return ("reproduced" if claim.kind == "ranking" else "better"), same
    if high < (tolerance if claim.kind == "ranking" else -tolerance):
        return "not reproduced", same
    if claim.kind == "value" and -tolerance <= low and high <= tolerance:
        return "reproduced", same
    return "undecided", "the interval crosses the tolerance"


def _single(claim: Claim, values: Sequence[Mapping[Any, float]], seed: Any) -> float:
    less = claim.value if claim.kind == "value" else values[1][seed]
    assert less is not None
    return values[0][seed] - less


def _fitting(
    rows: Sequence[Row], encoding: str, metric: str, where: Mapping[str, str]
) -> list[Row]:
    return [
        row
        for row in rows
        if row["encoding"] == encoding
        and row["metric"] == metric
        and (not row.get("probe") or "probe" in where)
        and all(_equal(_get(row, key), value) for key, value in where.items())
    ]


def _get(row: Row, key: str) -> Any:
    return row[key] if key in row else (row.get("options") or {}).get(key)


def _equal(value: Any, text: str) -> bool:
    """Whether a row's value is what the cell says: as a number if both are one."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(text) == value
        except ValueError:
            return False
    return str(value).lower() == text.lower() if isinstance(value, bool) else str(value) == text


def _values(rows: Sequence[Row], unit: str) -> dict[Any, float]:
    """Seed -> value in the published unit; a seed whose last row is a failure has none."""
    last = {row.get("seed"): row for row in rows}
    return {s: _published_unit(row["value"], unit) for s, row in last.items() if "value" in row}


def _published_unit(value: float, unit: str) -> float:
    if unit == "perplexity":
        return math.exp(min(value, 100.0))  # the square of e^400 is no number
    return 100.0 * value if unit == "percent" else float(value)


def _failed(rows: Sequence[Row]) -> list[Any]:
    last = {row.get("seed"): row for row in rows}
    return [seed for seed, row in last.items() if row.get("error")]


def _several(rows: Sequence[Row]) -> list[str]:
    """The keys in which rows differ that should be seeds of one setting."""
    settings = [
        {key: row.get(key) for key in _SETTING}
        | {k: v for k, v in (row.get("options") or {}).items() if k not in ("seed", "device")}
        for row in rows
    ]
    keys = dict.fromkeys(key for each in settings for key in each)
    return [k for k in keys if len({json.dumps(s.get(k), sort_keys=True) for s in settings}) > 1]


def _identical(sides: Sequence[Sequence[Row]], claim: Claim) -> str:
    """A remark if all seeds gave the same value, as they do when a seed changes nothing."""
    values = list(_values(sides[0], claim.unit).values())
    same = len(values) > 1 and statistics.pstdev(values) == 0
    return "all seeds gave the same value" if same else ""
