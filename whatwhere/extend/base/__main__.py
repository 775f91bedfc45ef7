"""python -m whatwhere.extend.base: books in, a model that plain transformers loads out."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from whatwhere.extend.base import books
from whatwhere.extend.base.llama import Sizes
from whatwhere.extend.base.needles import Batches, Needles
from whatwhere.extend.base.plan import Plan
from whatwhere.extend.base.train import Training


def arguments() -> argparse.ArgumentParser:
    """The options; sizes and schedule are those of `Sizes` and `Plan`."""
    parser = argparse.ArgumentParser(
        prog="python -m whatwhere.extend.base",
        description="Train the demonstration's base model. A killed run goes on when repeated.",
    )
    parser.add_argument(
        "--data", nargs="+", type=Path, required=True, metavar="FILE",
        help="books (.jsonl, .jsonl.xz), or a directory prepared before",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, help="optimizer steps")
    length.add_argument("--seconds", type=float, help="as many steps as take this long here")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile the loss")
    parser.add_argument("--every", type=float, default=30, help="seconds between checkpoints")
    parser.add_argument("--prepare-only", action="store_true", help="stop before the training")
    for kind in (Sizes, Plan):
        for each in fields(kind):
            if each.name not in ("steps", "sizes"):
                name = "--" + each.name.replace("_", "-")
                parser.add_argument(name, type=type(each.default), default=each.default)
    return parser


def main(line: Sequence[str] | None = None) -> int:
    """Prepare if need be, train, score what is shipped; 0, or 130 when stopped on the way."""
    options = arguments().parse_args(line)
    tokens = prepared(options.data, options.out, options.vocab_size)
    if options.prepare_only:
        return 0
    training = opened(options, tokens)
    asked: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _: asked.append(received))
    if not training.run(options.every, stop=lambda: bool(asked)):
        say("stopped; the same command goes on")
        return 130
    training.finish()
    return 0


def prepared(data: list[Path], out: Path, vocab_size: int) -> Path:
    """The directory of tokens: the one given, or out/tokens, written first if it is not there."""
    if data[0].is_dir():
        return data[0]
    if not (out / "tokens" / "books.json").exists():
        say("tokenizing …")
        books.prepare(data, out / "tokens", vocab_size)
    return out / "tokens"


def opened(options: argparse.Namespace, directory: Path) -> Training:
    """The training of these options, new or gone on with; ValueError if `out` holds another."""
    from tokenizers import Tokenizer

    started = time.monotonic()
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    given: dict[str, Any] = {**vars(options), "vocab_size": tokenizer.get_vocab_size()}
    sizes = Sizes(**{each.name: given[each.name] for each in fields(Sizes)})
    rest: dict[str, Any] = {
        e.name: given[e.name] for e in fields(Plan) if e.name not in ("steps", "sizes")
    }
    plan = Plan(steps=options.steps or 4000, sizes=sizes, **rest)
    file, fresh = options.out / "plan.json", True
    if file.exists():
        found, fresh = Plan.load(file), False
        if different := found.differing(plan):
            raise ValueError(f"--out {options.out} was begun with another {', '.join(different)}")
        if options.steps not in (None, found.steps):
            raise ValueError(f"--out {options.out} was begun with --steps {found.steps}")
        plan = found
    needles = Needles(lambda text: tokenizer.encode(text).ids, sizes.vocab_size)
    train, valid = books.load(directory, "train"), books.load(directory, "valid")
    batches = Batches(train, needles, plan.batch_size, plan.length, plan.seed)
    training = Training(
        plan, batches, valid, options.out, options.device, options.compile,
        directory / "tokenizer.json", say,
    )  # fmt: skip
    say(
        f"{sum(p.numel() for p in training.model.parameters()):,} parameters, {len(train):,} "
        f"tokens, {options.device}, ready in {time.monotonic() - started:.1f} s"
    )
    if fresh and options.seconds:
        training.plan = replace(plan, steps=training.steps_in(options.seconds))
        say(f"{training.plan.steps} steps take about {options.seconds:.0f} s")
    training.plan.save(file)
    return training


def say(line: str) -> None:
    """One line of progress on stderr."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ValueError, OSError) as error:
        say(f"error: {error}")
        sys.exit(2)
