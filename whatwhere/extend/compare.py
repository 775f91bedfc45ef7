"""Every method on the same tokens: perplexity against length, pass keys, copies, as rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from jaxtyping import Int64
from torch import Tensor

from whatwhere import hf
from whatwhere.encodings import make
from whatwhere.errors import FAULTS, first_line
from whatwhere.extend import methods, stock
from whatwhere.extend.measure import measured
from whatwhere.extend.models import Source
from whatwhere.extend.plan import Plan
from whatwhere.extend.results import Results, key_of
from whatwhere.hf.sizes import shape_of
from whatwhere.study.rows import commit, device_name, versions

__all__ = ["Task", "compare", "plan_of"]

Row = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """One measurement of one method: a row once it is done, `work` in arbitrary units."""

    made: methods.Made
    engine: str
    target: int
    row: Row
    work: float


def plan_of(plan: Plan, source: Source) -> list[Task]:
    """All measurements, those of one method and target one after another; equal ones once."""
    found: dict[tuple[Any, ...], Task] = {}
    for method in plan.methods:
        for target in plan.targets:
            made = methods.make(method, target / source.train_length, source.train_length)
            follows = _follows_length(made.expression, source)
            for engine in ("whatwhere", "transformers") if plan.stock else ("whatwhere",):
                for row in _rows(plan, source.train_length, target, follows):
                    row = _named(plan, source, made, engine, target) | row
                    if engine == "transformers" and row["task"] != "perplexity":
                        continue
                    key = (made, engine, tuple(row.get(k) for k in _PLACE))
                    found.setdefault(key, Task(made, engine, target, row, _work(plan, row)))
    return list(found.values())


_PLACE = ("task", "mode", "metric", "eval_length", "depth")


def _follows_length(expression: str, source: Source) -> bool:
    """Whether frequencies depend on the text's length; what can not be made is said later."""
    shape = shape_of(source.config)
    try:
        made = make(
            expression, heads=shape.heads, head_dim=shape.head_dim, kv_heads=shape.kv_heads,
            width=shape.width, train_length=source.train_length,
        )  # fmt: skip
    except ValueError:
        return False
    return made.length_dependent


def _rows(plan: Plan, trained: int, target: int, follows: bool) -> Iterator[Row]:
    # What a method costs short texts is asked of the longest target: there it costs most.
    lengths = dict.fromkeys((trained, target) if target == plan.longest else (target,))
    for length in lengths:
        yield {"task": "perplexity", "mode": "one_pass", "metric": "nll", "eval_length": length}
    # Streamed is one pass unless frequencies follow the length: then the longest shows it.
    if plan.streamed and (follows or target == plan.longest):
        yield {"task": "perplexity", "mode": "streamed", "metric": "nll", "eval_length": target,
               "stride": plan.streamed}  # fmt: skip
    if plan.sliding:
        yield {"task": "perplexity", "mode": "sliding", "metric": "nll", "eval_length": target,
               "stride": plan.sliding}  # fmt: skip
    for length in lengths:
        for depth in plan.depths if plan.keys else ():
            yield {"task": "passkey", "mode": "one_pass", "metric": "accuracy",
                   "eval_length": length, "depth": depth}  # fmt: skip
    for length in lengths if plan.copies else ():
        yield {"task": "copy", "mode": "one_pass", "metric": "accuracy", "eval_length": length}


def compare(
    plan: Plan,
    source: Source,
    model: Any,
    text: Int64[Tensor, "n"],
    results: Results,
    told: Callable[[Task, Row | None], None] = lambda task, row: None,
    stop: Callable[[], bool] = lambda: False,
) -> list[Row]:
    """Measure what is missing in `results`; the rows of this plan, in its order.

    told is called before a measurement (row None) and after it. What fails becomes a row with
    `error`. Raises KeyboardInterrupt between two measurements once stop() holds.
    """
    tasks = plan_of(plan, source)
    open_tasks = [task for task in tasks if not results.has(task.row)]
    groups: dict[tuple[Any, ...], list[Task]] = {}
    for task in open_tasks:
        groups.setdefault((task.made.expression, task.engine, task.made.method), []).append(task)
    for group in groups.values():
        _group(plan, source, model, text, results, group, told, stop)
    return [results.rows[key] for task in tasks if (key := key_of(task.row)) in results.rows]


def _group(
    plan: Plan, source: Source, model: Any, text: Tensor, results: Results, group: list[Task],
    told: Callable[[Task, Row | None], None], stop: Callable[[], bool],
) -> None:  # fmt: skip
    """The measurements that share a method: the model is given it once."""
    made = group[0].made
    try:
        handle, encoding = _used(plan, source, model, made, group[0].engine)
    except FAULTS as error:
        if group[0].engine == "transformers":  # the method has no form there: nothing to measure
            return
        for task in group:
            results.add(task.row | {"error": first_line(error)[:300]})
            told(task, results.rows[key_of(task.row)])
        return
    try:
        form = methods.form_of(made.expression, source.config, encoding)
        for task in group:
            if stop():
                raise KeyboardInterrupt
            told(task, None)
            row = task.row | _cost(form)
            began = time.monotonic()
            if task.engine == "transformers":
                stock.renew(model)
            try:
                row |= measured(plan, source, model, text, task.row, encoding, task.engine)
            except FAULTS as error:
                row["error"] = first_line(error)[:300]
            row["seconds"] = round(time.monotonic() - began, 3)
            results.add(row)
            told(task, row)
    finally:
        handle()


def _used(
    plan: Plan, source: Source, model: Any, made: methods.Made, engine: str
) -> tuple[Callable[[], Any], Any]:
    """The model under a method: what takes it back, and the encoding of its layers."""
    probe = hf.use(model, made.expression, train_length=source.train_length)
    encoding = probe.decoder.rotary_emb.encoding(0)[0]
    if engine == "transformers":
        probe.undo()
        return stock.use(model, hf.to_rope_parameters(made.expression, source.config)), encoding
    terms = len(encoding.rule(2).terms)
    if plan.backend == "auto" and not plan.in_pieces(terms):
        return probe.undo, encoding
    probe.undo()
    backend = "reference" if plan.backend == "auto" else plan.backend
    again = hf.use(model, made.expression, train_length=source.train_length, backend=backend)
    return again.undo, encoding


def _named(plan: Plan, source: Source, made: methods.Made, engine: str, target: int) -> Row:
    return {
        "study": "extend",
        "model": source.name,
        "method": made.method,
        "encoding": made.expression,
        "engine": engine,
        "train_length": source.train_length,
        "factor": target / source.train_length,
        "unit": "token",
        "seed": plan.seed,
        "dtype": plan.dtype,
        "adapter": plan.adapter,
        "device": device_name(plan.device),
        "commit": commit(),
        "versions": versions() | {"transformers": _transformers()},
    }


def _cost(form: methods.Form) -> Row:
    found = asdict(form)
    parameters = found.pop("parameters") or {}
    kinds = parameters.get("rope_type") or sorted(
        {str(each.get("rope_type")) for each in parameters.values() if isinstance(each, dict)}
    )
    return found | {"rope_type": kinds or None}


def _work(plan: Plan, row: Row) -> float:
    length = row["eval_length"]
    tokens = {
        "perplexity": plan.scored,
        "passkey": length * plan.keys,
        "copy": length * plan.copies,
    }[row["task"]]
    if row["mode"] == "sliding":
        tokens = length * plan.sliding_windows
    return tokens * (1.0 + length / 4096)


def _transformers() -> str:
    import transformers

    return transformers.__version__
