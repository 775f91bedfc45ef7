"""The table of encodings × backends: who computes what, asked of the backends themselves.

`whatwhere ls backends --markdown` prints it for the README.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from rich.console import Console

from whatwhere.attention import BACKENDS, Call, Where
from whatwhere.cli.console import plain_table
from whatwhere.encodings import Context, Encoding, Shape, build, encodings, modifiers

__all__ = ["Gallery", "OnDevice", "example_call", "gallery", "reasons"]

_CONTEXT = Context(train_length=256, factor=8.0)
_HORIZON = 2048
_SETTINGS = (("cuda", True), ("cuda", False), ("cpu", True), ("cpu", False))


@dataclass(frozen=True, eq=False)
class OnDevice(Call):
    """A call that says it is on a device which this machine need not have.

    Backends decide by `call.device`, so the table can be made, and ``explain --device cuda`` asked,
    where there is no GPU.
    """

    pretended: str = "cpu"

    @property
    def device(self) -> torch.device:
        """The device that the call pretends to be on."""
        return torch.device(self.pretended)


def example_call(shape: Shape, device: str, train: bool, named: bool, here: bool) -> OnDevice:
    """A tiny call of that shape: backends look at its device, dtype and gradients, not its data."""
    q = torch.zeros(1, shape.heads, 2, shape.head_dim, requires_grad=train)
    k, v = (torch.zeros(1, shape.groups, 2, shape.head_dim) for _ in "kv")
    where = Where(2, 2)
    return OnDevice(q, k, v, where, 1.0, named=named, hypothetical=not here, pretended=device)


def reasons(
    encoding: Encoding,
    device: str,
    train: bool,
    horizon: int,
    named: bool = True,
    here: bool = True,
) -> dict[str, str | None]:
    """For every backend None, or its reason not to compute this encoding there.

    With `here` False the question is about such devices, not about this machine.
    """
    with torch.set_grad_enabled(train):
        rule = encoding.rule(horizon, training=train)
        call = example_call(encoding.shape, device, train, named, here)
        return {backend.name: backend.why_not(rule, call) for backend in BACKENDS}


@dataclass(frozen=True)
class Gallery:
    """Rows (expression, {backend: cell}) and the footnotes that cells point to, from 1."""

    rows: tuple[tuple[str, dict[str, tuple[str, int | None]]], ...]
    footnotes: tuple[str, ...]

    def markdown(self) -> str:
        """The table and its footnotes as Markdown."""
        names = [backend.name for backend in BACKENDS]
        lines = [f"| encoding | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
        for expression, cells in self.rows:
            shown = [text + (f"<sup>{n}</sup>" if n else "") for text, n in cells.values()]
            lines.append(f"| `{expression}` | {' | '.join(shown)} |")
        notes = [f"{number}. {text}" for number, text in enumerate(self.footnotes, start=1)]
        return "\n".join([*lines, "", *notes])

    def show(self, screen: Console) -> None:
        """The same in the terminal."""
        names = [backend.name for backend in BACKENDS]
        table = plain_table("encoding", *names)
        for expression, cells in self.rows:
            shown = (text + (f" [dim]({n})[/dim]" if n else "") for text, n in cells.values())
            table.add_row(expression, *shown)
        screen.print(table)
        screen.print()
        for number, text in enumerate(self.footnotes, start=1):
            screen.print(f"({number}) {text}", markup=False)


def gallery() -> Gallery:
    """Every encoding, and every modifier around rope, against every backend asked by name."""
    footnotes: dict[str, int] = {}
    rows = []
    for expression in (*encodings(), "rope+yarn", *(f"rope+{name}" for name in modifiers())):
        encoding = build(expression, Shape(heads=4, head_dim=16), _CONTEXT)
        by_setting = {
            setting: reasons(encoding, *setting, horizon=_HORIZON, here=False)
            for setting in _SETTINGS
        }
        cells = {}
        for backend in BACKENDS:
            answers = {setting: found[backend.name] for setting, found in by_setting.items()}
            text, note = _cell(answers)
            number = footnotes.setdefault(note, len(footnotes) + 1) if note else None
            cells[backend.name] = (text, number)
        rows.append((expression, cells))
    return Gallery(tuple(rows), tuple(footnotes))


def _cell(answers: dict[tuple[str, bool], str | None]) -> tuple[str, str | None]:
    """Yes, no, GPU (nothing on a CPU) or partly (not for training); and why."""
    refused = {setting: reason for setting, reason in answers.items() if reason}
    if not refused:
        return "yes", None
    if len(refused) == len(answers):  # a GPU is asked first: its reason is about the encoding
        return "no", _sentence("; ".join(dict.fromkeys(_on("cuda", refused).values())))
    where: dict[str, list[str]] = {}
    for device, name in (("cuda", "a GPU"), ("cpu", "a CPU")):
        there = _on(device, refused)
        for reason in dict.fromkeys(there.values()):
            trained = [train for train, why in there.items() if why == reason]
            word = (
                "on"
                if len(trained) == 2
                else "for training on"
                if trained[0]
                else "for inference on"
            )
            where.setdefault(reason, []).append(f"{word} {name}")
    note = "; ".join(f"not {' or '.join(names)}: {reason}" for reason, names in where.items())
    if _on("cuda", refused):
        return "partly", _sentence(note)
    return "GPU" if len(_on("cpu", refused)) == 2 else "yes", _sentence(note)


def _on(device: str, refused: dict[tuple[str, bool], str]) -> dict[bool, str]:
    return {train: reason for (each, train), reason in refused.items() if each == device}


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")
