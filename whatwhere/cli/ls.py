"""`whatwhere ls`: what there is."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer
from rich.console import Console, Group
from rich.text import Text

from whatwhere.cli.console import console, plain_table, short
from whatwhere.errors import UnknownName, did_you_mean

__all__ = ["ls", "sentence"]

KINDS = ("encodings", "spectra", "backends", "tasks")


def ls(
    kind: Annotated[
        str | None, typer.Argument(metavar="[KIND]", help="encodings, spectra, backends or tasks.")
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="With backends: the README's table.")
    ] = False,
) -> None:
    """What there is: encodings, spectra, backends, tasks.

    Of one kind, with options and their defaults.

    \b
    Examples:
      whatwhere ls
      whatwhere ls encodings
      whatwhere ls spectra
      whatwhere ls backends --markdown
    """
    if kind is not None and kind not in KINDS:
        raise UnknownName(did_you_mean("kind", kind, KINDS))
    if markdown and kind != "backends":
        raise ValueError("--markdown is the table of backends: whatwhere ls backends --markdown")
    if markdown:
        from whatwhere.cli.gallery import gallery

        print(gallery().markdown())
        return
    screen = console()
    for number, each in enumerate(KINDS if kind is None else (kind,)):
        if number:
            screen.print()
        _LISTS[each](screen, kind is not None)


def sentence(thing: Any) -> str:
    """The first sentence of a docstring."""
    text = " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
    return text.partition(". ")[0].removesuffix(".")


def _encodings(screen: Console, full: bool) -> None:
    from whatwhere.encodings import TABLE

    for title, modifier in (("Encodings", False), ("Modifiers: write rope+NAME", True)):
        table = plain_table("name", "what it is" + " · options with their defaults" * full)
        for name, entry in TABLE.items():
            if entry.modifier != modifier:
                continue
            shown = _described(entry.about, _encoding_options(name)) if full else Text(entry.about)
            table.add_row(name, shown)
        screen.print(f"[bold]{title}[/bold]")
        screen.print(table)
        if not modifier:
            screen.print()
    screen.print("Every spectrum is a modifier too (rope+yarn) and an option: rope(spectrum=yarn).")


def _encoding_options(name: str) -> dict[str, Any]:
    from whatwhere.encodings import TABLE

    entry = TABLE[name]
    parameters = inspect.signature(entry.kind.__init__).parameters
    options = {key: p.default for key, p in parameters.items()}
    for key in ("self", "shape", "inner"):
        options.pop(key, None)
    if "spectrum" in options:
        options["spectrum"] = "geometric"
    return options | entry.preset


def _spectra(screen: Console, full: bool) -> None:
    from whatwhere.spectra import TABLE, Family

    table = plain_table("name", "what it is" + " · options with their defaults" * full)
    for name, family in TABLE.items():
        about = sentence(family)
        required = {k: "…" if v is Family.REQUIRED else v for k, v in family.parameters.items()}
        table.add_row(name, _described(about, required) if full else Text(about))
    screen.print("[bold]Spectra[/bold]")
    screen.print(table)
    if full:
        screen.print(
            "… stands for an option without a default. factor=none is horizon / train_length,\n"
            "factor=dynamic that ratio but never below 1. Details: whatwhere angles NAME"
        )


def _backends(screen: Console, full: bool) -> None:
    from whatwhere.attention import BACKENDS

    table = plain_table("name", "what it is")
    for backend in BACKENDS:
        table.add_row(backend.name, sentence(type(backend)))
    screen.print("[bold]Backends[/bold], in the order in which backend='auto' asks them")
    screen.print(table)
    if full:
        from whatwhere.cli.gallery import gallery

        screen.print()
        gallery().show(screen)


def _tasks(screen: Console, full: bool) -> None:
    from whatwhere.tasks import TABLE

    table = plain_table("name", "what it is")
    for name, loader in TABLE.items():
        table.add_row(name, sentence(loader))
    screen.print("[bold]Tasks[/bold]")
    screen.print(table)


_LISTS = {"encodings": _encodings, "spectra": _spectra, "backends": _backends, "tasks": _tasks}


def _described(about: str, options: dict[str, Any]) -> Group | Text:
    """A sentence, and under it the options; those without a default stand alone."""
    if not options:
        return Text(about)
    shown = [key if value is None else f"{key}={short(value)}" for key, value in options.items()]
    return Group(Text(about), Text("  ".join(shown), style="dim"))
