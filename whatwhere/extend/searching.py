"""`whatwhere search`: factors for one model and one length, kept so that a kill loses nothing.

The text is halved: candidates are scored on windows of the first half, and what is reported is
measured on windows of the second, beside the closed forms.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from whatwhere import hf
from whatwhere.errors import UnknownName, did_you_mean, real_number, whole_number
from whatwhere.extend import methods, search
from whatwhere.extend.models import Source
from whatwhere.extend.objective import Needles, Objective, Perplexity, needles, windows
from whatwhere.extend.search import Candidate, Ledger, Space
from whatwhere.spectra.parts import magnitude
from whatwhere.study.rows import append, commit, device_name, versions

__all__ = ["OPTIMIZERS", "Search", "run"]

OPTIMIZERS = ("paper", "smooth", "longrope2")
AMPLITUDES = 8
"""Evaluations that are kept back for the amplitude, which the paper does not search."""

Told = Callable[[str, int, float], None]


@dataclass(frozen=True)
class Search:
    """What a search is: everything its values depend on.

    factor: target over trained length; through: factors on the way to it, ascending. evaluations:
    in all. objective: "perplexity" or "needle". samples: windows (or keys) per evaluation. n_hat:
    whether positions that keep their frequencies are searched too; such a result has no form in
    rope_parameters. amplitude: "search", or "su" or "yarn" as it stands. recover: search factors
    for texts of the trained length as well.
    """

    model: str
    factor: float
    optimizer: str = "smooth"
    objective: str = "perplexity"
    evaluations: int = 134
    samples: int = 4
    held_out: int = 8
    through: tuple[float, ...] = ()
    n_hat: bool = False
    amplitude: str = "search"
    recover: bool = False
    seed: int = 42
    batch_tokens: int = 8192
    dtype: str = "float32"
    adapter: str | None = None

    def __post_init__(self) -> None:
        real_number("--factor", self.factor, above=1, why="it is target / trained length")
        for name, known in (
            ("optimizer", OPTIMIZERS),
            ("objective", ("perplexity", "needle")),
            ("amplitude", ("search", "su", "yarn")),
        ):
            if getattr(self, name) not in known:
                raise UnknownName(did_you_mean(f"--{name}", getattr(self, name), known))
        for name in ("evaluations", "samples", "held_out"):
            whole_number(f"--{name}", getattr(self, name))
        if self.evaluations < AMPLITUDES + 8:
            raise ValueError(f"--evaluations is {self.evaluations}; give at least {AMPLITUDES + 8}")
        steps = (1.0, *self.through, self.factor)
        if any(a >= b for a, b in pairwise(steps)):
            raise ValueError(
                f"--through {self.through} must ascend from above 1 to below the factor"
            )


def run(
    plan: Search,
    source: Source,
    models: Sequence[tuple[str, Any]],
    text: Tensor,
    out: Path,
    told: Told = lambda stage, done, best: None,
) -> dict[str, Any]:
    """Search, stage by stage; the result as written to out/result.json.

    models: (device, model) pairs, one candidate at a time each. Raises ValueError where `out` holds
    evaluations of another search, and for a text too short for its windows.
    """
    began, used, previous = time.monotonic(), 0, None
    stages = [*plan.through, plan.factor]
    share = plan.evaluations // len(stages)
    space, best = _space(plan, source, stages[0]), Candidate(())
    for number, factor in enumerate(stages):
        space = _space(plan, source, factor)
        starts = None if previous is None else [_scaled(space, previous, factor)]
        limit = plan.evaluations - share * number if number == len(stages) - 1 else share
        space, best, count = _stage(plan, source, models, text, out, space, starts, limit, told)
        previous, used = (best, factor), used + count
    spectrum = space.spectrum(best)
    if plan.recover:
        short, count = _recovered(plan, source, models, text, out, space, told)
        spectrum, used = spectrum.replace(short_factor=short.factors), used + count
    expression = f"rope+{spectrum}".replace(" ", "")
    result = _result(plan, source, expression, used, time.monotonic() - began)
    rows = _held_out(plan, source, models[0], text, space, expression, used)
    result["held_out"] = {row["method"]: row["value"] for row in rows if row["role"] == "held_out"}
    result["searched"] = {row["method"]: row["value"] for row in rows if row["role"] == "searched"}
    (out / "rows.jsonl").unlink(missing_ok=True)
    for row in rows:
        append(out / "rows.jsonl", row)
    beside = out / ".result.json.new"
    beside.write_text(json.dumps(result, indent=2) + "\n")
    beside.replace(out / "result.json")
    return json.loads((out / "result.json").read_text())


def least_text(plan: Search, train_length: int) -> int:
    """Tokens that a text needs: a window of the target length in each half."""
    return 2 * (round(plan.factor * train_length) + 1)


def _space(plan: Search, source: Source, factor: float) -> Space:
    from whatwhere.hf.sizes import parameters_of, rotated_share, shape_of

    own = next(iter(parameters_of(source.config).values()))
    dim = int(shape_of(source.config).head_dim * rotated_share(own))
    starts = search.STARTS if plan.n_hat else (0,)
    base = float(own.get("rope_theta") or 10000.0)
    # A number, because "yarn" in an expression is a spectrum.
    policy = round(magnitude(factor), 6) if plan.amplitude == "yarn" else "su"
    return Space(dim, factor, source.train_length, base, starts, policy)


def _stage(
    plan: Search, source: Source, models: Sequence[tuple[str, Any]], text: Tensor, out: Path,
    space: Space, starts: list[Candidate] | None, limit: int, told: Told,
) -> tuple[Space, Candidate, int]:  # fmt: skip
    """One factor: amplitude first (two looks), factors, amplitude last."""
    factor, name, count = space.factor, f"{space.factor:g}", 0
    if plan.amplitude == "search":
        values: dict[float | str, float] = {}
        form = space.closed_forms()["yarn"]
        for policy in ("su", round(magnitude(factor), 6)):
            trial = replace(space, attention_factor=policy)
            ledger = _ledger(plan, source, models, text, out, trial, f"{name}-{policy}", None, told)
            (values[policy],) = ledger([form])
        space = replace(space, attention_factor=min(values, key=values.__getitem__))
        limit, count = limit - AMPLITUDES, count + 1
    policy = space.attention_factor
    ledger = _ledger(plan, source, models, text, out, space, f"{name}-{policy}", limit, told)
    best = _walk(plan, space, ledger, starts, limit)
    count += len(ledger.used)
    if plan.amplitude == "search":
        space, more = _amplitude(plan, source, models, text, out, space, best, told)
        count += more
    return space, best, count


def _walk(
    plan: Search, space: Space, ledger: Ledger, starts: list[Candidate] | None, limit: int
) -> Candidate:
    if plan.optimizer == "smooth":
        options = search.Smooth(seed=plan.seed, generations=max(12, limit // 10))
        return search.descend(space, ledger, options, starts=starts)
    if plan.optimizer == "longrope2":
        return search.evolve_critical(space, ledger, _evolution(plan, limit))
    forms = list(space.closed_forms().values())
    return search.evolve(space, ledger, _evolution(plan, limit), starts=[*(starts or []), *forms])


def _evolution(plan: Search, limit: int) -> search.Evolution:
    """The paper's sizes where they fit; else a population of an eighth of the evaluations."""
    if limit >= 1344:
        return search.Evolution(seed=plan.seed, iterations=max(40, limit // 32))
    size = max(4, min(64, limit // 8))
    return search.Evolution(
        population=size, parents=max(2, size // 2), mutations=max(1, size // 4),
        crossovers=max(1, size // 4), iterations=limit, seed=plan.seed,
    )  # fmt: skip


def _amplitude(
    plan: Search, source: Source, models: Sequence[tuple[str, Any]], text: Tensor, out: Path,
    space: Space, best: Candidate, told: Told,
) -> tuple[Space, int]:  # fmt: skip
    """The best amplitude for the winner's factors, of a few around the policies' own."""
    low, high = 1.0, 1.0 + 1.5 * (magnitude(space.factor) - 1.0)
    tried = [round(low + (high - low) * n / (AMPLITUDES - 2), 4) for n in range(AMPLITUDES - 1)]
    spaces = [replace(space, attention_factor=value) for value in tried]
    values: list[float] = []
    for trial in spaces:
        name = f"{space.factor:g}-{trial.attention_factor:g}"
        values += _ledger(plan, source, models, text, out, trial, name, None, told)([best])
    own = _ledger(
        plan, source, models, text, out, space, f"{space.factor:g}-{space.attention_factor}", None,
        told,
    )([best])[0]  # fmt: skip
    least = min(range(len(values)), key=values.__getitem__)
    return (spaces[least] if values[least] < own else space), len(tried)


def _recovered(
    plan: Search, source: Source, models: Sequence[tuple[str, Any]], text: Tensor, out: Path,
    space: Space, told: Told,
) -> tuple[Candidate, int]:  # fmt: skip
    """Factors for texts up to the trained length, from the identity on (paper, section 3.4)."""
    limit = max(16, plan.evaluations // 4)
    ledger = _ledger(
        plan, source, models, text, out, space, "short", limit, told, length=source.train_length
    )
    identity = space.candidate([1.0] * space.count)
    forms = list(space.closed_forms().values())
    best = search.evolve(space, ledger, _evolution(plan, limit), starts=[identity, *forms])
    return best, len(ledger.used)


def _ledger(
    plan: Search, source: Source, models: Sequence[tuple[str, Any]], text: Tensor, out: Path,
    space: Space, name: str, limit: int | None, told: Told, length: int | None = None,
) -> Ledger:  # fmt: skip
    length = length or round(space.factor * space.train_length)
    half = text[: len(text) // 2]
    objectives = [_objective(plan, source, space, *pair, half, length) for pair in models]
    file = out / "evaluations" / f"{plan.optimizer}-{name}.jsonl"
    subject = asdict(plan) | {"length": length, "amplitude_now": space.attention_factor}
    subject |= {"tokens": len(text), "text": int(text.sum())}
    subject.pop("evaluations")  # more of them go on with the same
    best = [math.inf]

    def heard(candidate: Candidate, value: float) -> None:
        best[0] = min(best[0], value)
        told(name, len(ledger.values), best[0])

    ledger = Ledger(file, objectives, subject, limit, heard)
    return ledger


def _objective(
    plan: Search, source: Source, space: Space, device: str, model: Any, text: Tensor, length: int
) -> Objective:
    if plan.objective == "needle":
        samples = needles(text, source.tokenizer, length, plan.samples, plan.seed)
        return Needles(model, space, device, plan.batch_tokens, samples)
    return Perplexity(model, space, device, plan.batch_tokens, windows(text, length, plan.samples))


def _held_out(
    plan: Search, source: Source, model: tuple[str, Any], text: Tensor, space: Space,
    expression: str, used: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows of the result and the closed forms, on the second half and on what was searched on."""
    length = round(plan.factor * source.train_length)
    device, net = model
    half = len(text) // 2
    named = {f"longrope:{plan.optimizer}": expression}
    for name in ("none", "pi", "ntk", "yarn"):
        named[name] = methods.make(name, plan.factor, source.train_length).expression
    rows: list[dict[str, Any]] = []
    for role, part, count in (
        ("held_out", text[half:], plan.held_out),
        ("searched", text[:half], plan.samples),
    ):
        samples = windows(part, length, count)
        objective = Perplexity(net, space, device, plan.batch_tokens, samples)
        for method, written in named.items():
            began = time.monotonic()
            values = objective.by_window(written)
            rows.append(
                _row(plan, source, method, written, length, device) | {
                    "role": role, "value": math.fsum(values) / len(values), "n": count * length,
                    "windows": [round(v, 5) for v in values], "evaluations": used,
                    "seconds": round(time.monotonic() - began, 3),
                }
            )  # fmt: skip
    return rows


def _row(
    plan: Search, source: Source, method: str, expression: str, length: int, device: str
) -> dict[str, Any]:
    return {
        "study": "search", "model": source.name, "method": method, "encoding": expression,
        "optimizer": plan.optimizer, "objective": plan.objective,
        "train_length": source.train_length, "eval_length": length, "factor": plan.factor,
        "task": "perplexity", "mode": "one_pass", "metric": "nll", "unit": "token",
        "seed": plan.seed, "samples": plan.samples, "dtype": plan.dtype, "adapter": plan.adapter,
        "device": device_name(device), "commit": commit(), "versions": versions(),
    }  # fmt: skip


def _result(
    plan: Search, source: Source, expression: str, used: int, seconds: float
) -> dict[str, Any]:
    try:
        form, reason = hf.to_rope_parameters(expression, source.config), ""
    except ValueError as error:
        form, reason = None, str(error)
    return {
        "name": "longrope" if plan.optimizer == "paper" else f"longrope:{plan.optimizer}",
        "expression": expression,
        "rope_parameters": form,
        "reason": reason,
        "factor": plan.factor,
        "train_length": source.train_length,
        "evaluations": used,
        "seconds": round(seconds, 1),
        "plan": asdict(plan),
    }


def _scaled(space: Space, previous: tuple[Candidate, float], factor: float) -> Candidate:
    """The factors of a shorter stage, stretched to this one's: λ^(ln s / ln s')."""
    candidate, before = previous
    power = math.log(factor) / math.log(before)
    return space.candidate([value**power for value in candidate.factors], candidate.n_hat)


def devices(text: str) -> list[str]:
    """ "cuda:0,cuda:1" -> both; ValueError for one that is not there."""
    found = [part.strip() for part in text.split(",") if part.strip()]
    for name in found:
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from None
    if not found:
        raise ValueError("--device is empty; give cpu, cuda, or several: cuda:0,cuda:1")
    return found


__all__ += ["devices", "least_text"]
