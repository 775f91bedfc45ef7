"""python -m whatwhere.study.zero_shot: a model's folder in, rows out; a killed run goes on."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from whatwhere.study import rows, zero_shot_data
from whatwhere.study.zero_shot import Score, Step, zero_shot
from whatwhere.study.zero_shot_tasks import TASKS, harness_tasks, parts_of

__all__ = ["main"]


def arguments() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m whatwhere.study.zero_shot",
        description="Zero-shot accuracy through lm-evaluation-harness. The same command goes on "
        "where a killed one stopped.",
    )
    parser.add_argument("model", metavar="MODEL", help="a folder with model and tokenizer, or a "
                        "model of the hub")  # fmt: skip
    parser.add_argument(
        "--tasks", default="lambada_openai,blimp,hellaswag,piqa,arc_easy",
        help=f"of {', '.join(TASKS)}, or parts such as blimp_adjunct_island (default: all but cbt)",
    )  # fmt: skip
    parser.add_argument(
        "--data", nargs="+", type=Path, metavar="DIR",
        help="folders with the tasks' files (default: the hub)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FILE", help="where rows are appended (.jsonl)")
    parser.add_argument("--limit", type=int, help="the first so many items of every part")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-length", type=int, help="cut texts on the left to so many tokens")
    parser.add_argument("--encoding", help="use another expression, of a model of ours")
    parser.add_argument("--factor", type=float, help="longer than trained by this, for --encoding")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument(
        "--write-data", type=Path, metavar="DIR",
        help="only write the tasks' files from --data as small ones, which travel, into DIR",
    )  # fmt: skip
    return parser


def main(line: Sequence[str] | None = None) -> int:
    """0, 130 when interrupted, 2 for what can not be done, with one line that says why."""
    options = arguments().parse_args(line)
    try:
        return _run(options)
    except KeyboardInterrupt:
        _say("stopped; the same command goes on")
        return 130
    except (ValueError, TypeError, OSError, ImportError) as error:
        _say(f"error: {error}")
        return 2


def _run(options: argparse.Namespace) -> int:
    names = [name.strip() for name in options.tasks.split(",") if name.strip()]
    if not names:
        raise ValueError(f"--tasks is {options.tasks!r}; give names, of {', '.join(TASKS)}")
    if options.write_data is not None:
        if options.data is None:
            raise ValueError("--write-data needs --data DIR to read from")
        for path in zero_shot_data.write(names, options.data, options.write_data):
            _say(f"{path}: {path.stat().st_size:,} bytes")
        return 0
    if options.factor is not None and options.encoding is None:
        raise ValueError("--factor goes with --encoding")
    harness_tasks()
    for name in names:  # before minutes of loading
        parts_of(name)
    from whatwhere.hf.loading import load_model

    model, tokenizer = load_model(options.model, options.device, options.dtype)
    _use(model, options.encoding, options.factor)
    about = _about(model, options)
    for name in names:
        ledger = Ledger(options.out, about | {"read": _read(name, options.data)})
        scores = zero_shot(
            model, tokenizer, [name], options.limit, options.data, batch_size=options.batch_size,
            max_length=options.max_length, observe=_Screen(ledger), kept=ledger.kept,
        )  # fmt: skip
        for score in scores:
            ledger.row(score)
            spread = "" if score.stderr is None else f" ± {score.stderr:.4f}"
            sys.stdout.write(
                f"{score.task}\t{score.metric}\t{score.value:.4f}{spread}\tn={score.n}\n"
            )
    return 0


class Ledger:
    """The file of rows, and beside it one with the parts that were measured: FILE.parts.jsonl.

    Only what was measured under the same settings on the same weights counts as done.
    """

    def __init__(self, out: Path | None, about: dict[str, Any]) -> None:
        self.out, self.about = out, about
        self.kept: dict[str, list[Score]] = {}
        self.parts = None if out is None else out.with_name(out.stem + ".parts.jsonl")
        self._done: set[tuple[str, str]] = set()
        if out is None or self.parts is None:
            return
        out.parent.mkdir(parents=True, exist_ok=True)
        for file in (out, self.parts):
            rows.mend(file)
        for row in rows.read_rows(self.parts):
            if row["about"] == about:
                self.kept[row["part"]] = [Score(*score) for score in row["scores"]]
        for row in rows.read_rows(out):
            if all(row.get(key) == value for key, value in about.items()):
                self._done.add((row["task"], row["metric"]))

    def part(self, name: str, scores: Sequence[Score]) -> None:
        """Keep the scores of a part."""
        if self.parts is not None:
            kept = {"part": name, "scores": [list(score) for score in scores], "about": self.about}
            rows.append(self.parts, kept)

    def row(self, score: Score) -> None:
        """Append a row unless the file has it."""
        if self.out is None or (score.task, score.metric) in self._done:
            return
        self._done.add((score.task, score.metric))
        provenance = {"commit": rows.commit(), "versions": rows.versions()}
        rows.append(self.out, {**self.about, **score._asdict(), **provenance})


class _Screen:
    """One line a part on stderr: what came out, how far it is, and the time left."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger

    def __call__(self, step: Step) -> None:
        self.ledger.part(step.part.known_as, step.scores)
        left = step.seconds / step.done * (step.total - step.done)
        found = ", ".join(f"{score.metric} {score.value:.4f}" for score in step.scores)
        _say(
            f"{step.part.known_as}: {found} ({step.done} of {step.total}, "
            f"{step.seconds:.0f} s, {left:.0f} s left)"
        )


def _use(model: Any, encoding: str | None, factor: float | None) -> None:
    if encoding is None:
        return
    decoder = getattr(model, "decoder", None)
    if decoder is None or not hasattr(decoder, "used"):
        raise ValueError(f"--encoding is for models of ours, not for {type(model).__name__}")
    decoder.use(encoding, factor)


def _about(model: Any, options: argparse.Namespace) -> dict[str, Any]:
    """All that a score depends on."""
    decoder = getattr(model, "decoder", None)
    used = getattr(decoder, "used", (None, None))
    trained = getattr(getattr(decoder, "config", None), "encoding", None)
    folder = Path(options.model)
    return {
        "study": "zero_shot",
        "model": options.model,
        "weights": _digest(_weights(folder)) if folder.is_dir() else None,
        "encoding": used[0] or getattr(model.config, "model_type", None),
        "trained_as": trained,
        "factor": used[1],
        "limit": options.limit,
        "max_length": options.max_length,
        "batch_size": options.batch_size,
        "dtype": options.dtype,
        "device": rows.device_name(options.device),
        "harness": f"lm_eval {metadata.version('lm_eval')}",
    }


def _read(task: str, folders: Sequence[Path] | None) -> str:
    """Hash of the file that a task is read from, or "hub"."""
    if folders is None:
        return "hub"
    path = zero_shot_data.find(parts_of(task)[0].task, folders)
    if path is None:
        return "nothing"  # zero_shot says where it looked
    return _digest([each for each in path.rglob("*") if each.is_file()] or [path])


def _weights(folder: Path) -> list[Path]:
    """The weights, and what says how to use them."""
    names = ("config.json", "tokenizer.json")
    return [p for p in folder.iterdir() if p.suffix == ".safetensors" or p.name in names]


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(2**22):
                digest.update(block)
    return digest.hexdigest()[:16]


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
