"""`whatwhere explain`: an encoding in words, and who computes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from whatwhere.cli.console import console, plain_table, short
from whatwhere.errors import UnknownName, did_you_mean

if TYPE_CHECKING:
    from whatwhere.encodings import Encoding

__all__ = ["built", "explain"]

DEVICES = ("cpu", "cuda")


def explain(
    expression: Annotated[
        str, typer.Argument(help="An encoding: rope, pope+yarn, 'rope+yarn(factor=8)+logn', …")
    ],
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda.  [default: cuda if there is one]")
    ] = None,
    train: Annotated[
        bool, typer.Option("--train/--inference", help="Whether gradients are wanted.")
    ] = False,
    length: Annotated[int, typer.Option(help="Tokens of the text (the horizon).")] = 16384,
    train_length: Annotated[int, typer.Option(help="Tokens trained at.")] = 2048,
    heads: Annotated[int, typer.Option(help="Query heads.")] = 8,
    head_dim: Annotated[int, typer.Option(help="Channels of a head.")] = 64,
    kv_heads: Annotated[
        int | None, typer.Option(help="Key and value heads.  [default: heads]")
    ] = None,
) -> None:
    """An encoding in words, and every backend's "yes" or its reason.

    \b
    Examples:
      whatwhere explain rope
      whatwhere explain pope+dual_chunk --length 8192 --train-length 2048
      whatwhere explain "rope+yarn(factor=8)+logn" --train
      whatwhere explain alibi --device cuda
    """
    from whatwhere.cli.words import rule_words

    chosen = _device(device)
    if length < 1:
        raise ValueError(f"length is {length}; a text has at least one token")
    encoding = built(
        expression, train_length, length, heads=heads, head_dim=head_dim, kv_heads=kv_heads
    )
    screen = console()
    screen.print(f"[bold]{escape(expression)}[/bold]")
    about = Table.grid(padding=(0, 2))
    for name, line in _about(expression, encoding):
        about.add_row(name, escape(line))
    about.add_row("sizes", f"{heads} heads of {head_dim} channels")
    about.add_row("lengths", f"{train_length} tokens trained at, {length} now")
    screen.print(about)
    screen.print()

    table = plain_table("the rule", "score = τ(i) · <query, key> / √d + bias")
    for name, words in rule_words(encoding.rule(length, training=train), head_dim):
        table.add_row(name, escape(words))
    screen.print(table)
    screen.print()

    table = plain_table("trait", "value")
    for name, words in _traits(expression, encoding):
        table.add_row(name, escape(words))
    screen.print(table)
    screen.print()

    screen.print(_backends(encoding, chosen, train, length))


def built(expression: str, train_length: int, length: int, **sizes: Any) -> Encoding:
    """The encoding, with `factor` = length / train_length where an option is left out.

    Raises ValueError, also where the encodings themselves raise TypeError: what is wrong is what
    the user wrote (`alibi+yarn`: a spectrum around an encoding without one).
    """
    from whatwhere.encodings import make

    if train_length < 1:
        raise ValueError(f"train_length is {train_length}; it must be at least 1 token")
    try:
        return make(
            expression, train_length=train_length, factor=max(1.0, length / train_length), **sizes
        )
    except TypeError as error:
        raise ValueError(str(error)) from error


def _device(wanted: str | None) -> str:
    import torch

    if wanted is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted.partition(":")[0] not in DEVICES:
        raise UnknownName(did_you_mean("device", wanted, DEVICES))
    return wanted


def _about(expression: str, encoding: Encoding) -> Iterator[tuple[str, str]]:
    """A line for every part; then the trained encoding's formula, the head of its docstring."""
    from whatwhere.cli.ls import sentence
    from whatwhere.encodings import TABLE, parse
    from whatwhere.spectra import TABLE as SPECTRA

    for part in parse(expression).parts:
        about = SPECTRA.get(part.name)
        yield part.name, sentence(about) if about else TABLE[part.name].about
    while hasattr(encoding, "inner"):
        encoding = encoding.inner  # type: ignore[assignment]
    yield "formula", sentence(type(encoding))


def _traits(expression: str, encoding: Encoding) -> list[tuple[str, str]]:
    from whatwhere.cli.sources import keys_of

    limit = encoding.max_length
    layers = list(_layers(encoding))
    parameters = list(encoding.parameters())
    count = sum(parameter.numel() for parameter in parameters)
    owner = "in every layer" if encoding.per_layer else "for all layers together"
    return [
        ("weights", f"trained as {_trained(expression)}"),
        *((f"options of {name}", options) for name, options in layers if options),
        ("parameters", f"{count} {owner}" if count else "none"),
        ("relative", "yes" if encoding.relative else "no: shifting all positions changes scores"),
        ("length dependent", _dependent(encoding)),
        ("longest text", "no limit" if limit is None else f"{limit} tokens"),
        ("causal only", "yes" if encoding.causal_only else "no"),
        ("cite", ", ".join(keys_of(expression))),
    ]


def _trained(expression: str) -> str:
    from whatwhere.encodings import parse

    return parse(expression).trained


def _layers(encoding: Encoding) -> Iterator[tuple[str, str]]:
    """(name, options as used) of the encoding and of every wrapper, from the inside out."""
    inner = getattr(encoding, "inner", None)
    if inner is not None:
        yield from _layers(inner)
    options = {key: value for key, value in encoding.options.items() if key != "inner"}
    name = encoding.name
    if name == "rescaled":
        spectrum = options["spectrum"]
        name, options = spectrum.name, dict(spectrum.options)
    for key, value in options.items():
        if value is None:  # what was left out and worked out: a window, a chunk, the spectrum
            options[key] = getattr(encoding, key, None)
    shown = ", ".join(f"{k}={short(v)}" for k, v in options.items() if v is not None)
    yield name, shown


def _dependent(encoding: Encoding) -> str:
    if not encoding.length_dependent:
        return "no"
    return "yes: streaming and one pass may differ, as deeper layers saw other horizons"


def _backends(encoding: Encoding, device: str, train: bool, length: int) -> Any:
    import torch

    from whatwhere.cli.gallery import reasons

    kind = device.partition(":")[0]
    here = kind == "cpu" or torch.cuda.is_available()
    setting = f"{'training' if train else 'inference'} on {device}"
    title = setting + ("" if here else " (in principle: this machine has none)")
    answers = reasons(encoding, kind, train, length, named=False, here=here)
    first = next(name for name, reason in answers.items() if reason is None)
    table = plain_table("backend", title)
    for name, reason in answers.items():
        chosen = "yes: backend='auto' takes it" if name == first else "yes"
        table.add_row(name, chosen if reason is None else f"no: {escape(reason)}")
    return table
