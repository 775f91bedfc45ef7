"""`whatwhere bench`: time and memory against what others offer, as rows that anyone can repeat."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from whatwhere.cli.bench_screen import announce, finish, show_engine, show_model, show_plan, watch

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
        show_plan(chosen, budget)
        return
    _need_gpu()
    from whatwhere.bench.attention import key, missing, run
    from whatwhere.bench.ledger import Ledger
    from whatwhere.report.speed import row_key

    ledger = Ledger(out or _place("attention"))
    waiting = missing(chosen, ledger)
    announce(ledger, len(chosen) - len(waiting), len(chosen))
    watch(waiting, ledger, run(waiting, ledger, budget or float("inf")))
    wanted = {row_key(key(job)) for job in chosen}
    found = [row for row in ledger.rows if row_key(row) in wanted]
    finish(found, ledger, as_json)


@bench.command()
def model(
    out: Out = None,
    layers: Annotated[int, typer.Option(help="Of the GPT.")] = 12,
    batch: Annotated[int, typer.Option(help="Sequences of 1,024 tokens.")] = 32,
    compile_: Annotated[
        str, typer.Option("--compile", metavar="blocks|model|none", help="What torch compiles.")
    ] = "blocks",
    as_json: AsJson = False,
) -> None:
    """A 124M GPT's training step, RoPE beside PoPE: tokens/s, peak memory, saved activations.

    12 layers of width 768, 12 heads of 64, 1,024 tokens, vocabulary 50,304, batch 32, bfloat16
    autocast, fused AdamW; torch compiles the blocks and the loss, or the whole step (--compile
    model: minutes). Both models take turns; medians over rounds.

    \b
    Examples:
      whatwhere bench model
      whatwhere bench model --compile model --out rows.jsonl
    """
    from whatwhere.errors import UnknownName, did_you_mean

    if compile_ not in ("blocks", "model", "none"):
        raise UnknownName(did_you_mean("--compile", compile_, ("blocks", "model", "none")))
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
    show_model(found)
    print(f"rows  {ledger.path}")


@bench.command()
def engine(
    out: Out = None,
    encodings: Annotated[str, typer.Option(help="Expressions, by comma.")] = "rope,pope",
    seeds: Annotated[str, typer.Option(help="How many are trained as one, by comma.")] = "1,2,4,8",
    as_json: AsJson = False,
) -> None:
    """The training engine on indirect indexing: seed-steps/s, whole steps in one CUDA graph.

    The PoPE paper's model (8 layers, 512 wide) and batch (64), several seeds stacked.

    \b
    Examples:
      whatwhere bench engine
      whatwhere bench engine --encodings pope --seeds 4,8 --out rows.jsonl
    """
    counts, words = read_sizes("seeds", seeds), _words(encodings)
    for name, found in (("encodings", words), ("seeds", counts)):
        if not found:
            raise ValueError(f"--{name} is empty; give one or more, by comma")
    _need_gpu()
    from rich.console import Console

    from whatwhere.bench import engine as whole
    from whatwhere.bench.ledger import Ledger

    ledger = Ledger(out or _place("engine"))
    case = replace(whole.PAPER, encodings=words, seeds=counts)
    with Console(stderr=True, highlight=False).status("starting") as status:
        found = [ledger.add(row) for row in whole.rows(case, say=status.update)]
    if as_json:
        print(json.dumps(found, indent=2))
        return
    show_engine(found)
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
