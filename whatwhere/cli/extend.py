"""`whatwhere extend`: a trained model made longer, every method side by side, and which to take."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from whatwhere.extend.models import Source
    from whatwhere.extend.plan import Plan

__all__ = ["extend"]

_SHORT = "none,pi,ntk,dynamic_ntk,yarn,llama3,rerope,self_extend,dual_chunk"


def extend(
    model: Annotated[
        str, typer.Argument(help="demo, smollm2, a folder, or OWNER/NAME[@REVISION] of the hub.")
    ],
    to: Annotated[
        str,
        typer.Option("--to", metavar="N|Kx,…", help="Target lengths: tokens, or multiples."),
    ] = "2x,4x,8x",
    methods: Annotated[
        str | None,
        typer.Option(metavar="A,B+C,…", help="Methods, expressions, results of search.  [all]"),
    ] = None,
    text: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Texts to measure on.  [Python's language reference]"),
    ] = None,
    tokens: Annotated[
        int, typer.Option(help="Tokens that are scored at every length.  [2 × the longest]")
    ] = 0,
    keys: Annotated[int, typer.Option(help="Pass keys per length and depth; 0 for none.")] = 2,
    depths: Annotated[
        str, typer.Option(metavar="D,D,…", help="Where the keys stand, in shares of the text.")
    ] = "0,0.25,0.5,0.75,1",
    copies: Annotated[int, typer.Option(help="Passages to copy per length; 0 for none.")] = 4,
    sliding: Annotated[
        int, typer.Option(metavar="STRIDE", help="Measure a sliding window as well.")
    ] = 0,
    sliding_windows: Annotated[int, typer.Option(metavar="N", help="So many of them.")] = 8,
    streamed: Annotated[
        int, typer.Option(metavar="TOKENS", help="Measure pieces through the cache as well.")
    ] = 0,
    stock: Annotated[
        bool, typer.Option("--stock", help="Measure transformers' own code as well.")
    ] = False,
    needs: Annotated[
        str, typer.Option(help="What has to run it: anything, transformers, vllm.")
    ] = "anything",
    extra_cost: Annotated[
        bool, typer.Option("--extra-cost/--no-extra-cost", help="Methods that cost more a token.")
    ] = True,
    fine_tune: Annotated[
        bool, typer.Option("--fine-tune/--no-fine-tune", help="Whether more training may follow.")
    ] = True,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, …")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16.")] = "float32",
    seed: Annotated[int, typer.Option(help="Of pass keys and passages.")] = 0,
    adapter: Annotated[
        Path | None, typer.Option(metavar="DIR", help="What `whatwhere adapt` wrote.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Rows go here.  [results/extend-MODEL]")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the model with the best method.")
    ] = None,
) -> int:
    """What each way of making a model longer does, measured on your text, and which one to take.

    Every method is made for every target and measured there, and for the longest also at the
    trained length: perplexity of the same tokens in one pass over windows of that length, pass
    keys at several depths, and passages to copy. Rows are kept; the same command goes on where it
    was killed. "extend demo" alone takes a few minutes on two CPU cores: fewer methods and tokens.

    Methods are names (none, pi, ntk, dynamic_ntk, by_parts, yarn, llama3, abf, rerope,
    leaky_rerope, self_extend, dual_chunk), any of them joined by "+", with "+logn" too;
    expressions such as "rope+yarn(factor=4)+logn"; or a result.json of `whatwhere search`.

    Exit codes: 0 done, 1 done but some methods failed (their rows say why), 2 bad usage or input,
    130 interrupted.

    \b
    Examples:
      whatwhere extend demo
      whatwhere extend demo --to 2048 --methods none,ntk,yarn,ntk+logn --no-extra-cost
      whatwhere extend HuggingFaceTB/SmolLM2-135M --to 4x --text book.txt --device cuda
      whatwhere extend ./model --to 32768 --text a.txt --needs vllm --save ./model-32k
    """
    from whatwhere.cli.compare import split_expressions
    from whatwhere.extend import models
    from whatwhere.extend.advice import Limits
    from whatwhere.extend.plan import Plan, lengths
    from whatwhere.extend.saving import free
    from whatwhere.study.devices import usable

    usable(device)
    if save is not None:
        free(save)
    limits = Limits(needs, extra_cost, fine_tune)
    quick = model == "demo" and methods is None and text is None and to == "2x,4x,8x"
    source = models.find(model)
    plan = Plan(
        model=source.name,
        targets=lengths(to, source.train_length),
        methods=split_expressions(methods or (_SHORT if quick else _all())),
        tokens=tokens or (4096 if quick else 0),
        keys=1 if quick and keys == 2 else keys,
        depths=_depths("0" if quick and depths == "0,0.25,0.5,0.75,1" else depths),
        copies=0 if quick and copies == 4 else copies,
        sliding=sliding,
        sliding_windows=sliding_windows,
        streamed=streamed,
        stock=stock,
        device=device,
        dtype=dtype,
        seed=seed,
        adapter=None if adapter is None else str(adapter),
    )
    plan.check(source.train_length)
    return _run(plan, source, text, limits, out, save)


def _all() -> str:
    from whatwhere.extend.methods import DEFAULT

    return ",".join(DEFAULT)


def _depths(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--depths is {text!r}; give shares such as 0,0.5,1") from None


def _run(
    plan: Plan, source: Source, files: list[Path] | None, limits: Any, out: Path | None,
    save: Path | None,
) -> int:  # fmt: skip
    from whatwhere.cli.extend_screen import Bar
    from whatwhere.cli.progress import Interrupts
    from whatwhere.extend import models, text
    from whatwhere.extend.compare import compare, plan_of
    from whatwhere.extend.results import open_results

    content = text.of_files(files) if files else text.manual()
    ids = text.tokens_of(content, source.tokenizer, plan.scored + 1)
    out = out or Path("results") / f"extend-{Path(source.name).name}"
    results = open_results(out, plan.identity() | {"text": content.fingerprint})
    tasks = plan_of(plan, source)
    interrupts = Interrupts()
    bar = Bar(tasks, [task for task in tasks if results.has(task.row)])
    try:
        missing = any(not results.has(task.row) for task in tasks)
        model = models.load(source, plan.device, plan.dtype, plan.adapter) if missing else None
        with interrupts, bar:
            rows = compare(plan, source, model, ids, results, bar.told, lambda: interrupts.asked)
    except KeyboardInterrupt:
        command = shlex.join(["whatwhere", *sys.argv[1:]])
        print(f"\nwhatwhere: interrupted; go on with\n  {command}", file=sys.stderr)
        return interrupts.code
    best = _show(rows, plan, limits, out)
    if save is not None:
        _save(plan, source, best, save)
    return 1 if any("error" in row for row in rows) else 0


def _show(rows: list[dict[str, Any]], plan: Plan, limits: Any, out: Path) -> Any:
    from whatwhere.cli.console import console
    from whatwhere.cli.sources import bibtex_of
    from whatwhere.extend.advice import advise
    from whatwhere.report.extension import extension
    from whatwhere.report.extension_modes import agreement, modes
    from whatwhere.report.extension_page import extension_page
    from whatwhere.report.extension_plot import extension_figures

    screen = console()
    extension(rows).render(screen)
    otherwise, stock = modes(rows), agreement(rows)
    if otherwise is not None:
        screen.print()
        otherwise.render(screen)
    if stock is not None:
        screen.print(f"\n{stock.sentence()}", markup=False)
    advice = advise(rows, plan.longest, limits)
    screen.print()
    for sentence in advice.sentences:
        screen.print(sentence, markup=False)
    figures = extension_figures(rows, out)
    bibtex = bibtex_of(dict.fromkeys(row["encoding"] for row in rows))
    page = extension_page(rows, out / "report.html", figures, advice.sentences, bibtex)
    screen.print(f"\nrows    {out / 'rows.jsonl'}", soft_wrap=True)
    screen.print(f"figure  {', '.join(map(str, figures))}", soft_wrap=True)
    screen.print(f"page    {page}", soft_wrap=True)
    return advice.best


def _save(plan: Plan, source: Source, best: Any, folder: Path) -> None:
    from whatwhere.extend import models
    from whatwhere.extend.saving import save

    if best is None:
        raise ValueError("--save: no method is within the limits, so there is nothing to save")
    model = models.load(source, "cpu", plan.dtype, plan.adapter)
    print(save(model, source, best.expression, folder, length=plan.longest))
