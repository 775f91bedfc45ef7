"""`whatwhere compare`, the main job: one small decoder per encoding, trained and read further."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from whatwhere.cli.seeds import chosen_seeds
from whatwhere.study.config import DEFAULT_ENCODINGS, Config

if TYPE_CHECKING:
    from whatwhere.cli.progress import Interrupts, Screen

__all__ = ["compare"]

_DEFAULT = Config()
_ALL = ",".join(DEFAULT_ENCODINGS)


def compare(
    task: Annotated[
        str | None, typer.Argument(help="A task: `whatwhere ls tasks`. Or use --text.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Train on the bytes of FILE instead.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The task's data, where it can read a file."),
    ] = None,
    encodings: Annotated[
        str, typer.Option(metavar="A,B+C,…", help="What to compare, separated by commas.")
    ] = _ALL,
    seeds: Annotated[
        str,
        typer.Option(
            metavar="N|I,J-K", help="How many seeds (0 … N-1); else which ones: 0,7 or 5-9."
        ),
    ] = "1",
    steps: Annotated[int, typer.Option(help="Optimizer steps of each training.")] = _DEFAULT.steps,
    train_length: Annotated[
        int, typer.Option(help="Tokens of a training window.")
    ] = _DEFAULT.train_length,
    eval_lengths: Annotated[
        str,
        typer.Option(metavar="L,L,…", help="Evaluation lengths: tokens, or 4x the training's."),
    ] = "1x,2x,4x,8x,16x",
    eval_tokens: Annotated[
        int, typer.Option(help="Tokens of the test split to score, at most.")
    ] = _DEFAULT.eval_tokens,
    width: Annotated[int, typer.Option(help="Of the model.")] = _DEFAULT.width,
    layers: Annotated[int, typer.Option(help="Blocks of attention and MLP.")] = _DEFAULT.layers,
    heads: Annotated[int, typer.Option(help="Query heads.")] = _DEFAULT.heads,
    kv_heads: Annotated[
        int | None, typer.Option(help="Key and value heads.  [default: as --heads]")
    ] = None,
    dropout: Annotated[float, typer.Option(help="In training.")] = _DEFAULT.dropout,
    batch_size: Annotated[int, typer.Option(help="Windows of a step.")] = _DEFAULT.batch_size,
    lr: Annotated[float, typer.Option(help="The highest learning rate.")] = _DEFAULT.lr,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")] = "cpu",
    precision: Annotated[
        str, typer.Option(help="float32, or bfloat16 on a GPU.")
    ] = _DEFAULT.precision,
    compile_: Annotated[
        bool, typer.Option("--compile", help="torch.compile the training step.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where results go.  [default: results/TASK]"),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume/--no-resume", help="Go on with what is in --out, or start again there."
        ),
    ] = True,
) -> int:
    """Train a small decoder per encoding; see how each reads texts longer than it was trained on.

    The part of an encoding before its first "+" is trained, everything after it is applied at
    evaluation only: rope+yarn shares rope's weights, and its factor is the evaluation length over
    the training length. Same weights at the start and same data in the same order for all. The
    result is the negative log-likelihood in nats per token of the same held-out tokens at every
    length.

    A run can be killed at any moment; the same command goes on where it was. --encodings and
    --seeds may change between runs in one --out, everything else asks for a new one.

    Exit codes: 0 done, 1 done but some encodings failed (their rows say why), 2 bad usage or input,
    130 interrupted.

    \b
    Examples:
      whatwhere compare chorales
      whatwhere compare chorales --seeds 3 --out results/three-seeds
      whatwhere compare chorales --encodings "rope,rope+yarn,rope+dual_chunk,pope"
      whatwhere compare chorales --train-length 256 --eval-lengths 256,512,8x --steps 1000
      whatwhere compare --text novel.txt --width 256 --layers 6 --device cuda --precision bfloat16
    """
    config = Config(
        task="text" if text is not None and task is None else task or "",
        data=_data(task, text, data),
        encodings=split_expressions(encodings),
        seeds=read_seeds(seeds),
        steps=steps,
        train_length=train_length,
        eval_lengths=read_lengths(eval_lengths, train_length),
        eval_tokens=eval_tokens,
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        dropout=dropout,
        batch_size=batch_size,
        lr=lr,
        device=device,
        precision=precision,
        compile=compile_,
    )
    name = config.task if text is None else f"text-{text.stem}"
    return _run(config, out or Path("results") / name, resume)


def split_expressions(text: str) -> tuple[str, ...]:
    """The expressions of "a,b(x=1,y=2)+c": commas within brackets do not separate."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([") - (letter in ")]")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    found = tuple(part.strip() for part in parts if part.strip())
    if not found:
        raise ValueError(f"--encodings is {text!r}; name at least one, such as rope,pope")
    return found


def read_seeds(text: str) -> tuple[int, ...]:
    """ "3" -> 0, 1, 2; "7,8", "7," and "5-7" exactly these."""
    advice = "give how many, such as 3, or which ones, such as 0,7 or 5-9"
    if not text.strip().isdecimal():
        return chosen_seeds(text, advice)
    if int(text) < 1:
        raise ValueError(f"--seeds is {text!r}; {advice}")
    return tuple(range(int(text)))


def read_lengths(text: str, train_length: int) -> tuple[int, ...]:
    """ "128,4x" -> 128 and four times the training length."""
    found: list[int] = []
    for part in text.split(","):
        number, factor = part.strip().removesuffix("x"), part.strip().endswith("x")
        if not number.isdecimal() or int(number) < 1:
            raise ValueError(
                f"--eval-lengths is {text!r}, of which {part!r} is no length; give tokens such as "
                "512, or multiples of the training length such as 4x"
            )
        found.append(int(number) * (train_length if factor else 1))
    return tuple(found)


def _data(task: str | None, text: Path | None, data: Path | None) -> str | None:
    from whatwhere import tasks
    from whatwhere.errors import UnknownName, did_you_mean

    if (task is None) == (text is None):
        names = ", ".join(name for name in tasks.TABLE if name != "text")
        raise ValueError(f"give a task ({names}) or --text FILE, one of the two")
    if text is not None and data is not None:
        raise ValueError("--text and --data both name the data; give one of them")
    if task is not None and task not in tasks.TABLE:
        raise UnknownName(did_you_mean("task", task, tasks.TABLE))
    chosen = text or data
    return None if chosen is None else str(chosen)


def _run(config: Config, out: Path, resume: bool) -> int:
    from whatwhere.cli.progress import Interrupts, Screen
    from whatwhere.study.plan import check_encodings

    check_encodings(config)  # misspelt names at once, not after half a minute of parsing
    interrupts = Interrupts()
    screen = Screen(interrupts)
    try:
        rows = _rows(config, out, resume, screen, interrupts)
    except KeyboardInterrupt:
        screen.close()
        words = [word for word in sys.argv[1:] if word != "--no-resume"]
        command = shlex.join(["whatwhere", *words])
        print(f"\nwhatwhere: interrupted; go on with\n  {command}", file=sys.stderr)
        return interrupts.code
    finally:
        screen.close()
    _show(rows, out)
    return 1 if any("error" in row for row in rows) else 0


def _rows(
    config: Config, out: Path, resume: bool, screen: Screen, interrupts: Interrupts
) -> list[dict[str, Any]]:
    from whatwhere import tasks
    from whatwhere.study.directory import open_directory
    from whatwhere.study.plan import check
    from whatwhere.study.runner import run

    def progress(done: int, total: int) -> None:
        screen.reading(config.task, done, total)

    task = tasks.load(config.task, config.data, progress)
    check(config, task)
    with open_directory(out, config, task, resume) as directory, interrupts:
        return run(config, task, directory, screen)


def _show(rows: list[dict[str, Any]], out: Path) -> None:
    from whatwhere import report
    from whatwhere.cli.console import console
    from whatwhere.cli.report import publish

    screen = console()
    report.table(rows).render(screen)
    *figures, page = publish(rows, out / "report.html")
    screen.print(f"\nrows    {out / 'rows.jsonl'}", soft_wrap=True)
    screen.print(f"figure  {', '.join(map(str, figures))}", soft_wrap=True)
    screen.print(f"page    {page}", soft_wrap=True)
