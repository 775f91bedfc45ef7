"""`whatwhere adapt`: a short training at the longer length."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["adapt"]


def adapt(
    model: Annotated[
        str, typer.Argument(help="demo, smollm2, a folder, or OWNER/NAME[@REVISION] of the hub.")
    ],
    method: Annotated[str, typer.Option(help="As for `whatwhere extend`: yarn, ntk+logn, …")],
    to: Annotated[
        str, typer.Option("--to", metavar="N|Kx", help="Tokens of a window, or a multiple.")
    ] = "4x",
    text: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="What to train on; its last tenth is held out."),
    ] = None,
    train: Annotated[str, typer.Option(help="lora, or full.")] = "lora",
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 200,
    batch_size: Annotated[int, typer.Option(help="Windows of a step, over all processes.")] = 8,
    lr: Annotated[float, typer.Option(help="The highest learning rate.")] = 1e-3,
    warmup: Annotated[int, typer.Option(help="Steps.")] = 20,
    rank: Annotated[int, typer.Option(help="Of LoRA.")] = 16,
    precision: Annotated[str, typer.Option(help="float32, or bfloat16 on a GPU.")] = "float32",
    seed: Annotated[int, typer.Option(help="Of the order of windows.")] = 0,
    cpu: Annotated[bool, typer.Option("--cpu", help="Even where there is a GPU.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="[results/adapt-MODEL-METHOD-TO]")
    ] = None,
) -> int:
    """Train a model a little, at the longer length and with a method in force.

    It can be killed at any moment; the same command goes on where it was. `accelerate launch` or
    `torchrun -m whatwhere.cli adapt …` runs it on several GPUs or processes, which share the
    windows of a step. The result is an adapter, which `whatwhere extend --adapter` measures, or a
    whole model.

    \b
    Examples:
      whatwhere adapt demo --method yarn --to 8x --text book.txt
      whatwhere adapt ./model --method ntk --to 32768 --text a.txt --train full --lr 2e-5
      accelerate launch -m whatwhere.cli adapt ./model --method yarn --to 4x --text a.txt
    """
    from whatwhere.cli.progress import Interrupts
    from whatwhere.extend import adapting, models
    from whatwhere.extend.plan import lengths
    from whatwhere.extend.text import manual, of_files, tokens_of

    source = models.find(model)
    targets = lengths(to, source.train_length)
    if len(targets) != 1:
        raise ValueError(f"--to is {to!r}; a training has one length")
    plan = adapting.Adaptation(
        model=source.name, method=method, target=targets[0], train=train, steps=steps,
        batch_size=batch_size, lr=lr, warmup=warmup, rank=rank, precision=precision, seed=seed,
    )  # fmt: skip
    plan.check(source)
    content = of_files(text) if text else manual()
    ids = tokens_of(content, source.tokenizer, 2 * (plan.target + 1))
    out = out or Path("results") / f"adapt-{Path(source.name).name}-{method}-{plan.target}"
    interrupts = Interrupts()
    net = models.load(source)
    try:
        with interrupts:
            folder = adapting.adapt(
                plan, source, net, ids, out, _say, lambda: interrupts.asked, cpu=cpu
            )
    except KeyboardInterrupt:
        if _speaks():
            command = shlex.join(["whatwhere", *sys.argv[1:]])
            print(f"\nwhatwhere: interrupted; go on with\n  {command}", file=sys.stderr)
        return interrupts.code
    if _speaks():
        print(f"rows    {out / 'rows.jsonl'}\ntrained {folder}")
    return 0


def _speaks() -> bool:
    """Whether this is the first process."""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


def _say(line: str) -> None:
    print(line, file=sys.stderr)
