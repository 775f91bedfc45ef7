"""Zero-shot accuracy through lm-evaluation-harness (Gao et al. 2024): the paper's table 6.

    zero_shot(model, tokenizer, ["blimp", "piqa"], data="files")
    python -m whatwhere.study.zero_shot MODEL_DIR --tasks blimp,piqa --data files --out rows.jsonl

Prompts, scores and standard errors are lm-eval's; here is only what it is given to read. Without
`data` the tasks come from the hub, as lm-eval's users have them. BLiMP is the plain mean of its 67
parts and CBT of its two, as the paper averages them.
"""

from __future__ import annotations

import logging
import math
import random
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from whatwhere.errors import first_line, kind_of, whole_number
from whatwhere.nn import Decoder
from whatwhere.study.zero_shot_tasks import TASKS, Part, configure, harness_tasks, parts_of

__all__ = ["Score", "Step", "zero_shot"]

METRICS = {"acc": "accuracy", "acc_norm": "accuracy_norm"}
"""lm-eval's names and ours; acc_norm compares options by log-likelihood per byte."""


class Score(NamedTuple):
    """One number: `value` of `metric` on `task` over `n` items, and its standard error."""

    task: str
    metric: str
    value: float
    n: int
    stderr: float | None


class Step(NamedTuple):
    """What an observer is told after each part of a task: its scores, and what is left."""

    part: Part
    scores: list[Score]
    done: int
    total: int
    seconds: float


def zero_shot(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[str],
    limit: int | None = None,
    data: str | Path | Sequence[str | Path] | None = None,
    *,
    batch_size: int = 16,
    max_length: int | None = None,
    observe: Callable[[Step], None] | None = None,
    kept: Mapping[str, Sequence[Score]] | None = None,
) -> list[Score]:
    """Scores of a model on `TASKS`, one or two metrics a task.

    Args:
        model: a causal model of transformers, or a `whatwhere.nn.Decoder`.
        tokenizer: of transformers.
        tasks: names of `TASKS`, or of a part (blimp_adjunct_island, cbt_CN).
        limit: the first so many items of every part of a task.
        data: a folder with the tasks' files, or several (`zero_shot_data`); None is the hub.
        batch_size: texts in a batch, padded on the right. It is 1 where frequencies follow the
            length: padding would change them.
        max_length: where texts are cut on the left; default what the model's config says.
        observe: is told after every part.
        kept: scores of parts that were measured before, by the part's name within lm-eval.
    Raises UnknownName for a task that is none, FileNotFoundError for one that `data` lacks,
    ConnectionError for one that the hub does not give, ModuleNotFoundError without lm-eval.
    """
    names, folders = _checked(tasks, limit, data)
    whole_number("batch_size", batch_size)
    harness_tasks()
    parts = [part for name in names for part in parts_of(name)]
    kept = kept or {}
    with tempfile.TemporaryDirectory() as place, _quiet():
        todo = [part for part in parts if part.known_as not in kept]
        configure(todo, Path(place), folders)
        found: dict[Part, list[Score]] = {p: list(kept[p.known_as]) for p in parts if p not in todo}
        run = None
        started = time.monotonic()
        for number, part in enumerate(todo, start=1):
            if run is None:
                run = _runner(model, tokenizer, Path(place), limit, batch_size, max_length)
            try:
                found[part] = run(part)
            except OSError as error:  # of which the hub's are kinds
                if folders is not None:
                    raise
                raise ConnectionError(
                    f"{part.known_as} could not be read from the hub "
                    f"({first_line(error)}); give data=FOLDER with its files"
                ) from error
            if observe is not None:
                seconds = time.monotonic() - started
                observe(Step(part, found[part], number, len(todo), seconds))
    return [
        score
        for name in names
        for score in _mean(name, [found[part] for part in parts if part.asked == name])
    ]


def _checked(
    tasks: Sequence[str], limit: int | None, data: str | Path | Sequence[str | Path] | None
) -> tuple[list[str], list[Path] | None]:
    if isinstance(tasks, str) or not isinstance(tasks, Sequence) or not tasks:
        raise TypeError(f"tasks is {tasks!r}; give a list of names, of {', '.join(TASKS)}")
    if limit is not None:
        whole_number("limit", limit)
    if data is None:
        return list(dict.fromkeys(tasks)), None
    folders = [Path(each) for each in ([data] if isinstance(data, str | Path) else data)]
    for folder in folders:
        if not folder.is_dir():
            raise FileNotFoundError(f"data is {str(folder)!r}, which is no folder")
    return list(dict.fromkeys(tasks)), folders


def _runner(
    model: Any,
    tokenizer: Any,
    place: Path,
    limit: int | None,
    batch_size: int,
    max_length: int | None,
) -> Callable[[Part], list[Score]]:
    """A function that runs one part, with lm-eval loaded and the model wrapped once."""
    # By name: it is no part of what the tests install.
    harness: Any = import_module("lm_eval")
    hugging_face: Any = import_module("lm_eval.models.huggingface")
    # It asks git about the folder we stand in, part by part, and git complains on the terminal.
    setattr(import_module("lm_eval.evaluator"), "get_git_commit_hash", lambda: None)  # noqa: B010
    manager = import_module("lm_eval.tasks").TaskManager(
        include_path=str(place), include_defaults=False
    )

    if isinstance(model, Decoder):
        from whatwhere.hf.decoder import DecoderForCausalLM

        model = DecoderForCausalLM.from_decoder(model)
    if not hasattr(model, "config") or not hasattr(model, "generate"):
        raise TypeError(f"model is {kind_of(model)}; give one of transformers, or a Decoder")
    if getattr(tokenizer, "bos_token_id", None) is None and (
        getattr(tokenizer, "eos_token_id", None) is None
    ):
        raise ValueError(
            "tokenizer has neither a bos_token nor an eos_token: texts that are scored whole need "
            "one before their first word"
        )
    one = _length_dependent(model)
    model.eval()
    lm = hugging_face.HFLM(
        pretrained=model,
        tokenizer=tokenizer,
        backend="causal",
        batch_size=1 if one else batch_size,
        max_length=max_length,
    )

    def run(part: Part) -> list[Score]:
        results: Any = harness.simple_evaluate(
            model=lm,
            tasks=[part.known_as],
            limit=limit,
            task_manager=manager,
            log_samples=False,
            # Nothing is drawn in a zero-shot task: the caller's generators stay as they are.
            random_seed=None,
            numpy_random_seed=None,
            torch_random_seed=None,
        )
        values = results["results"][part.known_as]
        n = int(results["n-samples"][part.known_as]["effective"])
        return [
            Score(part.asked, ours, float(values[f"{its},none"]), n, _error(values, its))
            for its, ours in METRICS.items()
            if f"{its},none" in values
        ]

    return run


def _error(values: Mapping[str, Any], metric: str) -> float | None:
    """lm-eval writes "N/A" where there is no standard error: of a single item."""
    error = values.get(f"{metric}_stderr,none")
    return float(error) if isinstance(error, float) and math.isfinite(error) else None


def _mean(task: str, parts: Sequence[Sequence[Score]]) -> list[Score]:
    """The plain mean over parts, se = sqrt(Σ se²) / parts: every part weighs the same."""
    scores: list[Score] = []
    for at in zip(*parts, strict=True):
        errors = [score.stderr for score in at]
        known = [error for error in errors if error is not None]
        total = math.sqrt(math.fsum(e * e for e in known)) / len(at)
        scores.append(
            Score(
                task,
                at[0].metric,
                math.fsum(score.value for score in at) / len(at),
                sum(score.n for score in at),
                total if len(known) == len(errors) else None,
            )
        )
    return scores


def _length_dependent(model: Any) -> bool:
    """Whether any encoding in use follows the length of what it reads."""
    decoder = getattr(model, "decoder", None)
    holders = decoder.active if isinstance(decoder, Decoder) else model.modules()
    return any(getattr(each, "length_dependent", False) is True for each in holders)


@contextmanager
def _quiet() -> Generator[None]:
    """Without lm-eval's warnings on a model that is given whole, and bars that nobody watches."""
    logger = logging.getLogger("lm_eval")
    level, made, drawn = logger.level, tqdm.__init__, random.getstate()

    def unseen(self: Any, *arguments: Any, **options: Any) -> None:
        made(self, *arguments, **options | {"disable": True})

    logger.setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        tqdm.__init__ = unseen  # every bar is one of these, and no option reaches them all
    try:
        yield
    finally:
        tqdm.__init__ = made
        logger.setLevel(level)
        random.setstate(drawn)  # a run draws from it, asked to seed it or not


if __name__ == "__main__":
    from whatwhere.study.zero_shot_command import main

    sys.exit(main())
