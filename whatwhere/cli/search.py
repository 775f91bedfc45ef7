"""`whatwhere search`: LongRoPE's factors for one's own model and text."""

from __future__ import annotations

import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from whatwhere.extend.searching import Search

__all__ = ["search"]


def search(
    model: Annotated[
        str, typer.Argument(help="demo, smollm2, a folder, or OWNER/NAME[@REVISION] of the hub.")
    ],
    factor: Annotated[float, typer.Option(help="Target length over the trained length.")],
    optimizer: Annotated[
        str,
        typer.Option(help="smooth (CMA-ES on a curve), paper (LongRoPE's), longrope2."),
    ] = "smooth",
    objective: Annotated[
        str | None,
        typer.Option(help="perplexity, or needle.  [perplexity; longrope2: needle]"),
    ] = None,
    evaluations: Annotated[int, typer.Option(help="In all; the paper's search takes 1,344.")] = 134,
    samples: Annotated[int, typer.Option(help="Windows, or keys, of an evaluation.")] = 4,
    held_out: Annotated[int, typer.Option(help="Windows of the final measurement.")] = 8,
    through: Annotated[
        str, typer.Option(metavar="S,S,…", help="Factors to search on the way.")
    ] = "",
    recover: Annotated[
        bool, typer.Option("--recover", help="Also search a short_factor for short texts.")
    ] = False,
    n_hat: Annotated[
        bool, typer.Option("--n-hat", help="Also search first positions that stay (no export).")
    ] = False,
    amplitude: Annotated[str, typer.Option(help="search, or su or yarn as it stands.")] = "search",
    text: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Texts; half of them is held out.  [Python's reference]"),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, or several: cuda:0,cuda:1.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16.")] = "float32",
    seed: Annotated[int, typer.Option(help="Of the search.")] = 42,
    adapter: Annotated[
        Path | None, typer.Option(metavar="DIR", help="What `whatwhere adapt` wrote.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="[results/search-MODEL-FACTOR-OPTIMIZER]")
    ] = None,
) -> int:
    """Search one factor per frequency for a model, and measure the result on held-out text.

    Each evaluation is kept as it is made: the same command goes on after a kill, and more
    --evaluations go on with the same. The result is an expression and rope_parameters, in
    OUT/result.json, which `whatwhere extend --methods` takes.

    \b
    Examples:
      whatwhere search demo --factor 8
      whatwhere search demo --factor 8 --optimizer paper --evaluations 1344
      whatwhere search demo --factor 8 --through 2,4 --recover --text book.txt
      whatwhere extend demo --methods none,yarn,results/search-demo-8-smooth/result.json
    """
    from whatwhere.extend import models, searching
    from whatwhere.extend.text import manual, of_files, tokens_of

    plan = searching.Search(
        model=model, factor=factor, optimizer=optimizer,
        objective=objective or ("needle" if optimizer == "longrope2" else "perplexity"),
        evaluations=evaluations, samples=samples, held_out=held_out, through=_numbers(through),
        n_hat=n_hat, amplitude=amplitude, recover=recover, seed=seed, dtype=dtype,
        adapter=None if adapter is None else str(adapter),
    )  # fmt: skip
    places = searching.devices(device)
    source = models.find(model)
    plan = replace(plan, model=source.name)
    content = of_files(text) if text else manual()
    least = searching.least_text(plan, source.train_length)
    ids = tokens_of(content, source.tokenizer, least)
    name = f"search-{Path(source.name).name}-{factor:g}-{optimizer}"
    out = out or Path("results") / name
    out.mkdir(parents=True, exist_ok=True)
    loaded = [(place, models.load(source, place, dtype, plan.adapter)) for place in places]
    try:
        result = searching.run(plan, source, loaded, ids, out, _Line(plan).told)
    except KeyboardInterrupt:
        command = shlex.join(["whatwhere", *sys.argv[1:]])
        print(f"\nwhatwhere: interrupted; go on with\n  {command}", file=sys.stderr)
        return 130
    _show(result, out)
    return 0


class _Line:
    """A line on stderr now and then: stage, evaluations, the best so far, time left."""

    def __init__(self, plan: Search) -> None:
        self.plan, self.began, self.spoken, self.count = plan, time.monotonic(), 0.0, 0

    def told(self, stage: str, done: int, best: float) -> None:
        import math

        self.count += 1
        now = time.monotonic()
        wait = 1.0 if sys.stderr.isatty() else 20.0
        if now - self.spoken < wait:
            return
        self.spoken = now
        left = (now - self.began) / self.count * max(0, self.plan.evaluations - self.count)
        value = f"{math.exp(best):.3f}" if best < 50 else "–"
        print(
            f"{stage}: {done} of {self.plan.evaluations} evaluations, best perplexity {value}, "
            f"about {left:.0f} s left",
            file=sys.stderr,
        )


def _show(result: dict[str, Any], out: Path) -> None:
    import math

    from whatwhere.cli.console import console, plain_table

    screen = console()
    table = plain_table(
        "method", "searched on", "held out", right=("searched on", "held out"),
    )  # fmt: skip
    screen.print(
        f"Perplexity at {result['factor']:g} times the trained length, after "
        f"{result['evaluations']} evaluations", style="bold",
    )  # fmt: skip
    for method, value in result["held_out"].items():
        table.add_row(
            method, f"{math.exp(result['searched'][method]):.3f}", f"{math.exp(value):.3f}"
        )
    screen.print(table)
    screen.print(f"\n{result['expression']}", soft_wrap=True, markup=False)
    if result["rope_parameters"] is None:
        screen.print(f"no rope_parameters: {result['reason']}", soft_wrap=True, markup=False)
    screen.print(f"result  {out / 'result.json'}", soft_wrap=True)
    screen.print(f"rows    {out / 'rows.jsonl'}", soft_wrap=True)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise ValueError(f"--through is {text!r}; give factors such as 2,4") from None
