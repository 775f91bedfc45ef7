"""`whatwhere bench`: time and memory against what others offer, as rows that anyone can repeat."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from whatwhere.bench.cases import Job
    from whatwhere.bench.ledger import Ledger

__all__ = ["bench"]

bench = typer.Typer(
    name="bench", no_args_is_help=True, rich_markup_mode=None, add_completion=False,
    help="Time and memory on this GPU, against what others offer; rows, then a table of ratios.",
)  # fmt: skip

Out = Annotated[
    Path | None,
    typer.Option(metavar="ROWS.jsonl", help="Where rows go.  [default: named after the GPU]"),
]
Budget = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="Leave out what does not fit.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the rows as JSON, no table.")]


@bench.command()
def attention(
    out: Out = None,
    lengths: Annotated[
        str, typer.Option(metavar="L,L,…", help="1024 or 1k, …  [default: all of the plan]")
    ] = "",
    head_dims: Annotated[
        str, typer.Option(metavar="D,D,…", help="64, 96, 128.  [default: all of the plan]")
    ] = "",
    only: Annotated[
        str, typer.Option(metavar="NAME,…", help="Implementations.  [default: all]")
    ] = "",
    budget: Budget = None,
    as_json: AsJson = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan with estimated seconds; no GPU used.")
    ] = False,
) -> None:
    """Attention with its encoding: forward, backward, peak memory at 1k to 64k tokens.

    RoPE and PoPE by this library, by cuDNN, FlashAttention-2, FlexAttention, torch.compile and
    PoPE-pytorch; grouped heads, windows, packed documents; attention alone. Most important first.
    Every implementation must agree with float64, values and gradients, before it is timed.

    A run can be killed at any moment: the same command goes on where it was. What this commit
    measured on this device is not measured again; failed rows are tried again.

    Exit codes: 0 done, 1 done but some rows failed, 2 bad usage or no GPU, 130 interrupted.

    \b
    Examples:
      whatwhere bench attention --dry-run
      whatwhere bench attention --budget 480
      whatwhere bench attention --only rope_cudnn,pope_fused --lengths 4k,16k --out rows.jsonl
    """
    from whatwhere.bench.cases import jobs

    chosen = jobs(_words(only), read_sizes("lengths", lengths), read_sizes("head-dims", head_dims))
    if dry_run:
        _plan(chosen, budget)
        return
    _need_gpu()
    from whatwhere.bench.attention import key, missing, run
    from whatwhere.bench.ledger import Ledger
    from whatwhere.report.speed import row_key

    ledger = Ledger(out or _place("attention"))
    waiting = missing(chosen, ledger)
    _tell(ledger, len(chosen) - len(waiting), len(chosen))
    _attend(waiting, ledger, run(waiting, ledger, budget or float("inf")))
    wanted = {row_key(key(job)) for job in chosen}
    found = [row for row in ledger.rows if row_key(row) in wanted]
    _finish(found, ledger, as_json)


@bench.command()
def model(
    out: Out = None,
    layers: Annotated[int, typer.Option(help="Of the GPT.")] = 12,
    batch: Annotated[int, typer.Option(help="Sequences of 1,024 tokens.")] = 32,
    compile_: Annotated[
        str, typer.Option("--compile", metavar="model|blocks|none", help="What torch compiles.")
    ] = "model",
    as_json: AsJson = False,
) -> None:
    """A 124M GPT's training step, RoPE beside PoPE: tokens/s, peak memory, saved activations.

    12 layers of width 768, 12 heads of 64, 1,024 tokens, vocabulary 50,304, batch 32, bfloat16
    autocast, torch.compile, fused AdamW. Both models take turns; medians over rounds.

    \b
    Examples:
      whatwhere bench model
      whatwhere bench model --compile blocks --out rows.jsonl
    """
    from whatwhere.errors import UnknownName, did_you_mean

    if compile_ not in ("model", "blocks", "none"):
        raise UnknownName(did_you_mean("--compile", compile_, ("model", "blocks", "none")))
    _need_gpu()
    from rich.console import Console

    from whatwhere.bench import model as whole
    from whatwhere.bench.ledger import Ledger

    ledger = Ledger(out or _place("model"))
    case = whole.ModelCase(layers=layers, batch=batch, compile=compile_)
    screen = Console(stderr=True, highlight=False)
    with screen.status("starting") as status:
        found = [ledger.add(row) for row in whole.rows(case, say=status.update)]
    if as_json:
        print(json.dumps(found, indent=2))
        return
    _show_model(found)
    print(f"rows  {ledger.path}")


@bench.command()
def prep(out: Out = None, as_json: AsJson = False) -> None:
    """The preparation kernels against a copy: bytes that must move, over time.

    \b
    Examples:
      whatwhere bench prep
      whatwhere bench prep --json
    """
    _need_gpu()
    module = _module("bandwidth")
    from whatwhere.bench.ledger import Ledger

    ledger = Ledger(out or _place("prep"))
    found: list[dict[str, Any]] = []
    for row in module.rows():
        found.append(ledger.add({"study": "prep"} | row))
        if not as_json:
            print(json.dumps(row), flush=True)
    if as_json:
        print(json.dumps(found, indent=2))


@bench.command()
def decode(out: Out = None, budget: Budget = None) -> None:
    """One token against a long cache, 4k to 512k keys: RoPE by cuDNN, PoPE and RoPE by our kernel.

    \b
    Examples:
      whatwhere bench decode --budget 110
    """
    _need_gpu()
    module = _module("decode")
    path = out or _place("decode")
    before = sys.argv
    # Its own parser reads the command line.
    sys.argv = [
        "decode",
        "--out",
        str(path),
        *([] if budget is None else ["--budget", str(budget)]),
    ]
    try:
        module.main()
    finally:
        sys.argv = before


def read_sizes(name: str, text: str) -> tuple[int, ...]:
    """ "1k,4096" -> 1024, 4096; "" -> nothing named."""
    found: list[int] = []
    for part in _words(text):
        number, factor = part.lower().removesuffix("k"), part.lower().endswith("k")
        if not number.isdecimal():
            raise ValueError(
                f"--{name} is {text!r}, of which {part!r} is no number; give 4096 or 4k"
            )
        found.append(int(number) * (1024 if factor else 1))
    return tuple(found)


def _words(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _need_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        raise ValueError(
            "bench measures on a CUDA GPU, and this machine has none (torch.cuda.is_available() "
            "is False); `whatwhere bench attention --dry-run` prints the plan anywhere"
        )


def _place(study: str) -> Path:
    """benchmarks/rows/STUDY-GPU.jsonl in a clone, results/bench/ elsewhere."""
    import torch

    words = torch.cuda.get_device_name().lower().replace("nvidia", "").split()
    rows = Path(__file__).parents[2] / "benchmarks" / "rows"
    folder = rows if rows.is_dir() else Path("results") / "bench"
    return folder / f"{study}-{'-'.join(words)}.jsonl"


def _module(name: str) -> Any:
    """A benchmark that may stand in the package or in the clone's benchmarks/."""
    for home in ("whatwhere.bench", "benchmarks"):
        try:
            return importlib.import_module(f"{home}.{name}")
        except ModuleNotFoundError as error:
            if error.name not in (home, f"{home}.{name}"):
                raise
    raise ValueError(f"this installation has no benchmark of {name}: run it from a clone")


def _plan(chosen: list[Job], budget: float | None) -> None:
    from whatwhere.cli.console import console, plain_table

    table = plain_table("implementation", "case", "s", "sum", right=("s", "sum"))
    total = 0.0
    for job in chosen:
        total += job.seconds
        late = budget is not None and total > budget
        table.add_row(job.name, str(job.case), f"{job.seconds:.1f}", f"{total:.0f}{'*' * late}")
    screen = console()
    screen.print(table)
    note = "; *: over the budget" if budget is not None and total > budget else ""
    screen.print(f"{len(chosen)} rows, about {total:.0f} s on an H200 (estimated){note}")


def _tell(ledger: Ledger, done: int, total: int) -> None:
    shared = ledger.shared
    print(f"{shared['device']}, commit {shared['commit'][:21]}, {ledger.path}", file=sys.stderr)
    if done:
        print(f"{done} of {total} rows are there already", file=sys.stderr)


def _attend(waiting: list[Job], ledger: Ledger, rows: Iterable[tuple[Job, dict[str, Any]]]) -> None:
    """Measure with a bar; Ctrl-C ends behind the row in work."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from whatwhere.cli.progress import Interrupts

    screen, interrupts = Console(stderr=True, highlight=False), Interrupts()
    bars = Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"), console=screen, disable=not screen.is_terminal,
        transient=True,
    )  # fmt: skip
    left = sum(job.seconds for job in waiting)
    with interrupts, bars:
        task = bars.add_task("measuring", total=left, left=f"about {left:.0f} s left")
        for job, row in rows:
            screen.print(_line(job, row), markup=False, soft_wrap=True)
            left -= job.seconds
            bars.update(task, advance=job.seconds, left=f"about {left:.0f} s left")
            if interrupts.asked:
                raise KeyboardInterrupt


def _line(job: Job, row: dict[str, Any]) -> str:
    head = f"{job.name:22s} {job.case!s:24s}"
    if "error" in row:
        return f"{head} {row['error'].splitlines()[0][:160]}"
    times = f"{row['forward_ms']:9.3f} + {row['backward_ms']:9.3f} ms {row['peak_mib']:7.0f} MiB"
    return f"{head} {times}  {row['seconds']} s"


def _finish(found: list[dict[str, Any]], ledger: Ledger, as_json: bool) -> None:
    from whatwhere.cli.console import console
    from whatwhere.report.speed import last, render

    if as_json:
        print(json.dumps(last(found), indent=2))
    else:
        render(found, console())
        print(f"rows  {ledger.path}")
    if any("error" in row for row in last(found)):
        raise typer.Exit(1)


def _show_model(found: list[dict[str, Any]]) -> None:
    from whatwhere.cli.console import console, plain_table

    columns = ("", "tokens/s", "ms a step", "peak MiB", "saved bytes", "backend")
    table = plain_table(*columns, right=columns[1:5])
    merged: dict[str, dict[str, Any]] = {}
    for row in found:
        merged.setdefault(row["encoding"], {}).update(row)
    for name, row in merged.items():
        peak = f"{row['peak_mib']:.0f}" if "peak_mib" in row else "–"
        table.add_row(
            name, f"{row['tokens_per_s']:.0f}", f"{row['step_ms']:.2f}", peak,
            f"{row['saved_bytes']}", row["backend"],
        )  # fmt: skip
    first, second = (row for row in merged.values())
    speed = second["tokens_per_s"] / first["tokens_per_s"]
    saved = second["saved_bytes"] / first["saved_bytes"]
    table.add_row("ratio", f"{speed:.3f}", "", "", f"{saved:.3f}", "")
    console().print(table)
