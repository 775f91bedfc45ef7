"""Published numbers: `paper.csv` beside `claims.toml`, the rule by which ours are compared.

`paper.csv`, one claim a line (empty cells are "not stated"; unknown columns are refused):

    study          the folder's name
    claim          what is claimed, in a few words; tells the lines of one study apart
    kind           value: a published number; ranking: `encoding` does better than `other`
    encoding       as in our rows
    other          ranking only: the encoding it is compared with
    metric, as     the metric of our rows, and how it becomes the published unit:
                   same, percent (times 100), perplexity (e to the value)
    value          value only: the published number
    spread, spread_seeds   its standard deviation, and over how many seeds
    better         higher or lower
    tolerance      in the published unit; `whatwhere.report.claims` says what it does
    runs           names of the trainings it needs, in `claims.toml`
    table, page    where it stands in the paper
    note           anything else
    row.KEY        a row counts only if its KEY (else its option KEY) has this value
    other.KEY      ranking only: the same for the rows of `other`; empty: as row.KEY

`claims.toml`: title, source, and the tables [rule] (seeds, confidence, interval = "t" |
"bootstrap", why) and [runs.NAME] (hours of one seed on one GPU, or no `hours` where nothing to
estimate from is stated; basis: how it was estimated).
"""

from __future__ import annotations

import csv
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whatwhere.errors import UnknownName, did_you_mean
from whatwhere.report.intervals import t_quantile

__all__ = ["Claim", "Paper", "Rule", "Run", "read_paper"]

_COLUMNS = (
    *("study", "claim", "kind", "encoding", "other", "metric", "as", "value", "spread"),
    *("spread_seeds", "better", "tolerance", "runs", "table", "page", "note"),
)
_CHOICES = {
    "kind": ("value", "ranking"),
    "as": ("same", "percent", "perplexity"),
    "better": ("higher", "lower"),
}


@dataclass(frozen=True)
class Run:
    """A training that claims need: GPU hours of one seed (None: unknown) and how we know."""

    name: str
    hours: float | None
    basis: str


@dataclass(frozen=True)
class Rule:
    """What a study's verdicts need, fixed before it is run."""

    seeds: int
    confidence: float
    interval: str
    why: str


@dataclass(frozen=True)
class Claim:
    """One line of paper.csv; `printed` is the value with the paper's digits, `where` and
    `other_where` are conditions on rows."""

    name: str
    kind: str
    encoding: str
    other: str
    metric: str
    unit: str
    value: float | None
    printed: str
    spread: tuple[float, int] | None
    sign: int
    tolerance: float
    runs: tuple[str, ...]
    table: str
    page: str
    note: str
    where: Mapping[str, str]
    other_where: Mapping[str, str]

    @property
    def better(self) -> str:
        """What is better: higher or lower."""
        return "higher" if self.sign == 1 else "lower"


@dataclass(frozen=True)
class Paper:
    """The claims of one study folder, the rule, and what their trainings cost."""

    folder: Path
    title: str
    source: str
    rule: Rule
    runs: Mapping[str, Run]
    claims: tuple[Claim, ...]


def read_paper(folder: Path) -> Paper:
    """The claims of `folder`. ValueError names the file and line of what can not be meant."""
    plan, table = folder / "claims.toml", folder / "paper.csv"
    if not plan.exists():
        raise FileNotFoundError(f"{folder} has a paper.csv but no claims.toml: the rule is missing")
    try:
        data = tomllib.loads(plan.read_text("utf-8"))
        known("key of claims.toml", data, ("title", "source", "rule", "runs"))
        rule, runs = _rule(data["rule"]), _runs(data["runs"])
    except KeyError as error:
        raise ValueError(f"{plan}: {error.args[0]!r} is missing") from None
    except ValueError as error:
        raise type(error)(f"{plan}: {error}") from None
    claims: dict[str, Claim] = {}
    with table.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, restkey="too many cells", strict=True)
        for cells in reader:
            try:
                claim = _claim({k: v or "" for k, v in cells.items()}, folder.name, runs)
                if claim.name in claims:
                    raise ValueError(f"the claim {claim.name!r} stands there twice")
            except ValueError as error:
                raise type(error)(f"{table}, line {reader.line_num}: {error}") from None
            claims[claim.name] = claim
    for claim in claims.values():
        _check_tolerance(table, claim, rule)
    return Paper(
        folder, data.get("title", folder.name), data.get("source", ""), rule, runs,
        tuple(claims.values()),
    )  # fmt: skip


def _check_tolerance(table: Path, claim: Claim, rule: Rule) -> None:
    """A tolerance below the paper's own uncertainty would judge the paper's seeds, not us."""
    if claim.spread is None:
        return
    spread, seeds = claim.spread
    least = t_quantile((1 + rule.confidence) / 2, seeds - 1) * spread / math.sqrt(seeds)
    if claim.tolerance < least:
        raise ValueError(
            f"{table}: tolerance of {claim.name!r} is {claim.tolerance:g}; {spread:g} over {seeds} "
            f"seeds leaves the published mean uncertain by {least:.3g}: give at least that"
        )


def known(kind: str, names: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    """Raise UnknownName for the first name that is not allowed."""
    for name in names:
        if name not in allowed:
            raise UnknownName(did_you_mean(kind, name, allowed))


def _rule(data: Mapping[str, Any]) -> Rule:
    known("key of [rule]", data, ("seeds", "confidence", "interval", "why"))
    rule = Rule(data["seeds"], data["confidence"], data["interval"], data["why"])
    least = {"t": 2, "bootstrap": 5}.get(rule.interval)
    if least is None:
        raise UnknownName(did_you_mean("interval", rule.interval, ("t", "bootstrap")))
    if not isinstance(rule.seeds, int) or rule.seeds < least:
        raise ValueError(f"seeds is {rule.seeds}; an interval by {rule.interval} wants {least}")
    if not 0.5 <= rule.confidence < 1:
        raise ValueError(f"confidence is {rule.confidence}; give a share in [0.5, 1)")
    return rule


def _runs(data: Mapping[str, Mapping[str, Any]]) -> dict[str, Run]:
    for name, run in data.items():
        known(f"key of [runs.{name}]", run, ("hours", "basis"))
        hours = run.get("hours")
        if hours is not None and not (isinstance(hours, int | float) and hours > 0):
            raise ValueError(f"hours of {name} is {hours!r}; leave it out where it is unknown")
    return {name: Run(name, run.get("hours"), run["basis"]) for name, run in data.items()}


def _claim(cells: dict[str, str], study: str, runs: Mapping[str, Run]) -> Claim:
    """One line, checked."""
    plain = {key: value.strip() for key, value in cells.items() if "." not in key}
    known("column", plain, _COLUMNS)
    for key in cells:
        if "." in key and key.partition(".")[0] not in ("row", "other"):
            raise UnknownName(did_you_mean("column", key, ("row.KEY", "other.KEY")))
    if missing := [key for key in _COLUMNS if key not in plain]:
        raise ValueError(f"there is no column {missing[0]!r}")
    if plain["study"] != study:
        raise ValueError(f"study is {plain['study']!r}, but the folder is {study!r}")
    for key, allowed in _CHOICES.items():
        if plain[key] not in allowed:
            raise UnknownName(did_you_mean(key, plain[key], allowed))
    ranking = plain["kind"] == "ranking"
    for key, wanted in (("claim", True), ("encoding", True), ("metric", True), ("table", True),
                        ("runs", True), ("value", not ranking), ("other", ranking)):  # fmt: skip
        if bool(plain[key]) != wanted:
            word = "is missing" if wanted else f"is {plain[key]!r}, but must be empty"
            raise ValueError(f"{key} {word} (kind {plain['kind']})")
    known("run", dict.fromkeys(plain["runs"].split()), tuple(runs))
    where = {k[4:]: v.strip() for k, v in cells.items() if k.startswith("row.") and v.strip()}
    others = {k[6:]: v.strip() for k, v in cells.items() if k.startswith("other.") and v.strip()}
    tolerance = _number("tolerance", plain["tolerance"])
    if tolerance is None or (tolerance <= 0 and not ranking):
        raise ValueError(f"tolerance is {plain['tolerance']!r}; a value wants one above 0")
    return Claim(
        plain["claim"], plain["kind"], plain["encoding"], plain["other"], plain["metric"],
        plain["as"], _number("value", plain["value"]), _printed(plain), _spread(plain),
        1 if plain["better"] == "higher" else -1, tolerance, tuple(plain["runs"].split()),
        plain["table"], plain["page"], plain["note"], where, {**where, **others},
    )  # fmt: skip


def _spread(plain: Mapping[str, str]) -> tuple[float, int] | None:
    spread, seeds = (_number(key, plain[key]) for key in ("spread", "spread_seeds"))
    if spread is None and seeds is None:
        return None
    if spread is None or seeds is None or seeds < 2:
        raise ValueError("spread and spread_seeds (at least 2) belong together")
    return spread, int(seeds)


def _printed(plain: Mapping[str, str]) -> str:
    spread, seeds = plain["spread"], plain["spread_seeds"]
    return plain["value"] + (f" ± {spread} ({seeds})" if spread else "")


def _number(name: str, text: str) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        raise ValueError(f"{name} is {text!r}; it must be a number") from None
