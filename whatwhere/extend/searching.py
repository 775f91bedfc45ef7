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
from pathlib import Path
from typing import Any

from torch import Tensor

from whatwhere.extend import search
from whatwhere.extend.models import Source
from whatwhere.extend.objective import Needles, Objective, Perplexity, needles, windows
from whatwhere.extend.search import Candidate, Ledger, Space
from whatwhere.extend.search_plan import AMPLITUDES, OPTIMIZERS, Search, devices, least_text
from whatwhere.extend.search_rows import held_out, result_of
from whatwhere.spectra.parts import magnitude
from whatwhere.study.rows import append

__all__ = ["OPTIMIZERS", "Search", "devices", "least_text", "run"]

Told = Callable[[str, int, float], None]


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
    began = time.monotonic()
    space, expression, used = _Stages(plan, source, models, text, out, told).walk()
    result = result_of(plan, source, expression, used, time.monotonic() - began)
    rows = held_out(plan, source, models[0], text, space, expression, used)
    result["held_out"] = {row["method"]: row["value"] for row in rows if row["role"] == "held_out"}
    result["searched"] = {row["method"]: row["value"] for row in rows if row["role"] == "searched"}
    (out / "rows.jsonl").unlink(missing_ok=True)
    for row in rows:
        append(out / "rows.jsonl", row)
    beside = out / ".result.json.new"
    beside.write_text(json.dumps(result, indent=2) + "\n")
    beside.replace(out / "result.json")
    return json.loads((out / "result.json").read_text())


@dataclass
class _Stages:
    """The factors on the way, one after another, each from what the one before found."""

    plan: Search
    source: Source
    models: Sequence[tuple[str, Any]]
    text: Tensor
    out: Path
    told: Told

    def walk(self) -> tuple[Space, str, int]:
        """The last space, the expression that won, and the evaluations that it took."""
        plan, used, previous = self.plan, 0, None
        stages = [*plan.through, plan.factor]
        share = plan.evaluations // len(stages)
        space, best = self.space(stages[0]), Candidate(())
        for number, factor in enumerate(stages):
            space = self.space(factor)
            starts = None if previous is None else [_scaled(space, previous, factor)]
            last = number == len(stages) - 1
            limit = plan.evaluations - share * number if last else share
            space, best, count = self.stage(space, starts, limit)
            previous, used = (best, factor), used + count
        spectrum = space.spectrum(best)
        if plan.recover:
            short, count = self.recovered(space)
            spectrum, used = spectrum.replace(short_factor=short.factors), used + count
        return space, f"rope+{spectrum}".replace(" ", ""), used

    def space(self, factor: float) -> Space:
        """Where one stage looks."""
        from whatwhere.hf.sizes import parameters_of, rotated_share, shape_of

        config = self.source.config
        own = next(iter(parameters_of(config).values()))
        dim = int(shape_of(config).head_dim * rotated_share(own))
        starts = search.STARTS if self.plan.n_hat else (0,)
        base = float(own.get("rope_theta") or 10000.0)
        # A number, because "yarn" in an expression is a spectrum.
        policy = round(magnitude(factor), 6) if self.plan.amplitude == "yarn" else "su"
        return Space(dim, factor, self.source.train_length, base, starts, policy)

    def stage(
        self, space: Space, starts: list[Candidate] | None, limit: int
    ) -> tuple[Space, Candidate, int]:
        """One factor: amplitude first (two looks), factors, amplitude last."""
        name, count, searched = f"{space.factor:g}", 0, self.plan.amplitude == "search"
        if searched:
            values: dict[float | str, float] = {}
            form = space.closed_forms()["yarn"]
            for policy in ("su", round(magnitude(space.factor), 6)):
                trial = replace(space, attention_factor=policy)
                (values[policy],) = self.ledger(trial, f"{name}-{policy}")([form])
            space = replace(space, attention_factor=min(values, key=values.__getitem__))
            limit, count = limit - AMPLITUDES, count + 1
        ledger = self.ledger(space, f"{name}-{space.attention_factor}", limit)
        best = _optimized(self.plan, space, ledger, starts, limit)
        count += len(ledger.used)
        if searched:
            space, more = self.amplitude(space, best)
            count += more
        return space, best, count

    def amplitude(self, space: Space, best: Candidate) -> tuple[Space, int]:
        """The best amplitude for the winner's factors, of a few around the policies' own."""
        low, high = 1.0, 1.0 + 1.5 * (magnitude(space.factor) - 1.0)
        tried = [round(low + (high - low) * n / (AMPLITUDES - 2), 4) for n in range(AMPLITUDES - 1)]
        spaces = [replace(space, attention_factor=value) for value in tried]
        values: list[float] = []
        for value, trial in zip(tried, spaces, strict=True):
            values += self.ledger(trial, f"{space.factor:g}-{value:g}")([best])
        (own,) = self.ledger(space, f"{space.factor:g}-{space.attention_factor}")([best])
        least = min(range(len(values)), key=values.__getitem__)
        return (spaces[least] if values[least] < own else space), len(tried)

    def recovered(self, space: Space) -> tuple[Candidate, int]:
        """Factors for texts up to the trained length, from the identity on (paper, section 3.4)."""
        limit = max(16, self.plan.evaluations // 4)
        ledger = self.ledger(space, "short", limit, self.source.train_length)
        identity = space.candidate([1.0] * space.count)
        forms = list(space.closed_forms().values())
        options = _evolution(self.plan, limit)
        best = search.evolve(space, ledger, options, starts=[identity, *forms])
        return best, len(ledger.used)

    def ledger(
        self, space: Space, name: str, limit: int | None = None, length: int | None = None
    ) -> Ledger:
        """The evaluations of one space, those that a killed search left included."""
        plan, text = self.plan, self.text
        length = length or round(space.factor * space.train_length)
        half = text[: len(text) // 2]
        objectives = [self.objective(space, *pair, half, length) for pair in self.models]
        file = self.out / "evaluations" / f"{plan.optimizer}-{name}.jsonl"
        subject = asdict(plan) | {"length": length, "amplitude_now": space.attention_factor}
        subject |= {"tokens": len(text), "text": int(text.sum())}
        subject.pop("evaluations")  # more of them go on with the same
        best = [math.inf]

        def heard(candidate: Candidate, value: float) -> None:
            best[0] = min(best[0], value)
            self.told(name, len(ledger.values), best[0])

        ledger = Ledger(file, objectives, subject, limit, heard)
        return ledger

    def objective(
        self, space: Space, device: str, model: Any, text: Tensor, length: int
    ) -> Objective:
        """What is minimised, on one device."""
        plan = self.plan
        if plan.objective == "needle":
            samples = needles(text, self.source.tokenizer, length, plan.samples, plan.seed)
            return Needles(model, space, device, plan.batch_tokens, samples)
        samples = windows(text, length, plan.samples)
        return Perplexity(model, space, device, plan.batch_tokens, samples)


def _optimized(
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


def _scaled(space: Space, previous: tuple[Candidate, float], factor: float) -> Candidate:
    """The factors of a shorter stage, stretched to this one's: λ^(ln s / ln s')."""
    candidate, before = previous
    power = math.log(factor) / math.log(before)
    return space.candidate([value**power for value in candidate.factors], candidate.n_hat)
