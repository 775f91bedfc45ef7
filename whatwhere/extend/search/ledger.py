"""Evaluations, each made once: kept in a file, read back by whoever asks again.

A search is a pure function of its seed and of what the evaluations give. So it needs no state of
its own to be resumed: started again it asks the same questions, and the file answers those that
were answered before it was killed.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from whatwhere.extend.search.candidates import Candidate

__all__ = ["Exhausted", "Ledger", "Objective"]

#: what is minimised: a candidate's perplexity (or its logarithm), finite
Objective = Callable[[Candidate], float]


class Exhausted(Exception):
    """The number of evaluations that was allowed is reached."""


class Ledger:
    """Values of candidates by an objective, in a JSONL file.

    objectives: one per device, the same function of a candidate; they are called side by side from
    threads, one call at a time each. subject: what the values depend on (model, text, length): a
    file made for another subject is refused. limit: most evaluations in all, those in the file
    included. Raises ValueError for a file of another subject; a line cut off by a kill is dropped.
    """

    def __init__(
        self,
        path: Path,
        objectives: Sequence[Objective],
        subject: dict[str, Any],
        limit: int | None = None,
        told: Callable[[Candidate, float], None] | None = None,
    ) -> None:
        if not objectives:
            raise ValueError("objectives is empty; give at least one function to minimise")
        self.path, self.objectives, self.limit, self.told = path, objectives, limit, told
        self.values: dict[Candidate, float] = {}
        self.used: list[Candidate] = []  # in the order in which this search asked
        self._read(json.loads(json.dumps(subject)))

    def __call__(self, candidates: Iterable[Candidate]) -> list[float]:
        """The value of each, computed unless known. Raises Exhausted at the limit, after keeping
        what was still allowed."""
        wanted = list(dict.fromkeys(candidates))
        fresh = [c for c in wanted if c not in set(self.used)]
        if self.limit is not None:
            fresh = fresh[: max(0, self.limit - len(self.used))]
        self._compute([c for c in fresh if c not in self.values])
        self.used += fresh
        if any(c not in set(self.used) for c in wanted):
            raise Exhausted(f"{self.limit} evaluations are used up")
        return [self.values[c] for c in wanted]

    @property
    def best(self) -> tuple[Candidate, float]:
        """The best candidate that this search has seen, the earlier one of equals."""
        if not self.used:
            raise ValueError("nothing has been evaluated yet")
        found = min(self.used, key=lambda c: self.values[c])
        return found, self.values[found]

    def _compute(self, candidates: list[Candidate]) -> None:
        free = list(self.objectives)
        running: dict[Future[tuple[float, float]], tuple[Candidate, Objective]] = {}
        with ThreadPoolExecutor(len(free)) as pool:
            waiting = list(reversed(candidates))
            while waiting or running:
                while waiting and free:
                    candidate, objective = waiting.pop(), free.pop()
                    running[pool.submit(_timed, objective, candidate)] = candidate, objective
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    candidate, objective = running.pop(future)
                    free.append(objective)
                    self._keep(candidate, *future.result())

    def _keep(self, candidate: Candidate, value: float, seconds: float) -> None:
        if not math.isfinite(value):
            value = math.inf  # a candidate that breaks the model loses, it does not end the search
        line = {"candidate": candidate.key, "value": value, "seconds": round(seconds, 3)}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
        self.values[candidate] = value
        if self.told is not None:
            self.told(candidate, value)

    def _read(self, subject: dict[str, Any]) -> None:
        if not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps({"subject": subject}) + "\n")
            return
        text = self.path.read_text()
        whole = text[: text.rfind("\n") + 1]
        lines = [json.loads(line) for line in whole.splitlines()]
        if not lines or lines[0].get("subject") != subject:
            differing = _differing(lines[0].get("subject", {}) if lines else {}, subject)
            raise ValueError(
                f"{self.path} holds evaluations of something else ({differing}); give another "
                "directory, or delete the file"
            )
        if whole != text:
            self.path.write_text(whole)
        for line in lines[1:]:
            self.values[Candidate.from_key(line["candidate"])] = line["value"]


def _timed(objective: Objective, candidate: Candidate) -> tuple[float, float]:
    began = time.monotonic()
    return objective(candidate), time.monotonic() - began


def _differing(old: dict[str, Any], new: dict[str, Any]) -> str:
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return "; ".join(f"{key}: {old.get(key)!r}, now {new.get(key)!r}" for key in keys[:3])
