"""`whatwhere show`: encodings as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whatwhere.errors import UnknownName, did_you_mean

if TYPE_CHECKING:
    from whatwhere.encodings import Encoding

__all__ = ["show"]

KINDS = ("all", "scores", "angles", "decay")
SUFFIXES = (".png", ".svg", ".pdf")
_LONGEST = 1 << 16


def show(
    encodings: Annotated[
        list[str], typer.Argument(metavar="ENCODING…", help="Expressions: rope, rope+yarn, alibi …")
    ],
    out: Annotated[
        Path, typer.Option(metavar="FIG", help="The file: .png, .svg or .pdf.", show_default=False)
    ],
    kind: Annotated[str, typer.Option(help="scores, angles, decay or all three.")] = "all",
    train_length: Annotated[int, typer.Option(help="Tokens trained at; marked.")] = 256,
    factor: Annotated[
        list[int] | None,
        typer.Option(help="How much longer; may be repeated: a row of angles each.  [default: 4]"),
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(help="Tokens to show.  [default: the largest factor times the training's]"),
    ] = None,
    heads: Annotated[int, typer.Option(help="Query heads.")] = 4,
    head_dim: Annotated[int, typer.Option(help="Channels of a head.")] = 64,
    seed: Annotated[int, typer.Option(help="Of the random content and parameters.")] = 0,
) -> None:
    """Score patterns, rotation angles and decay, as pictures.

    \b
    scores  the score of two equal random vectors by distance; biases by head
    angles  the angle of every frequency by distance; hatched: not in training
    decay   expected score and RoPE's upper bound, all encodings in one plot

    \b
    Examples:
      whatwhere show rope alibi pope --out patterns.png
      whatwhere show rope rope+linear rope+ntk rope+yarn --kind angles \\
          --factor 2 --factor 8 --out angles.svg
      whatwhere show rope rope+rerope --kind decay --train-length 1024 \\
          --out decay.pdf
    """
    factors = factor or [4]
    _check(kind, out, factors, train_length, length)
    texts = list(dict.fromkeys(encodings))
    longest = length or max(factors) * train_length

    import torch

    torch.manual_seed(seed)
    from whatwhere.cli.explain import built
    from whatwhere.cli.pictures import Picture

    def make(text: str, tokens: int) -> Encoding:
        return built(text, train_length, tokens, heads=heads, head_dim=head_dim)

    picture = Picture(texts, make, train_length, longest, tuple(factors), seed)
    for note in picture.save(out, KINDS[1:] if kind == "all" else (kind,)):
        typer.echo(f"note: {note}", err=True)
    print(out)


def _check(kind: str, out: Path, factors: list[int], train_length: int, length: int | None) -> None:
    if kind not in KINDS:
        raise UnknownName(did_you_mean("kind", kind, KINDS))
    if out.suffix not in SUFFIXES:
        raise ValueError(f"--out is {str(out)!r}; give a name ending in {', '.join(SUFFIXES)}")
    if min(factors) < 1:
        raise ValueError(f"--factor is {min(factors)}; it must be at least 1")
    if train_length < 2:
        raise ValueError(f"--train-length is {train_length}; it must be at least 2 tokens")
    tokens = length or max(factors) * train_length
    if not 2 <= tokens <= _LONGEST:
        raise ValueError(f"{tokens} tokens to show; give 2 to {_LONGEST} (--length, --factor)")
