"""`whatwhere angles`: what a spectrum does to every frequency."""

from __future__ import annotations

import ast
import json
import math
import sys
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from whatwhere import spectra
from whatwhere.cli.console import console, plain_table, short
from whatwhere.errors import UnknownName, did_you_mean
from whatwhere.spectra import Family, Frequencies, Spectrum

__all__ = ["angles"]

TRAIN_LENGTH, FACTOR = 2048, 8.0
_ENDS = 6


def angles(
    spectrum: Annotated[str, typer.Argument(help="Its name: `whatwhere ls spectra` has them all.")],
    dim: Annotated[int, typer.Option(help="Rotated channels: head_dim; PoPE's is twice it.")] = 128,
    base: Annotated[float | None, typer.Option(help="Of the ladder.  [default: 10000]")] = None,
    train_length: Annotated[
        int | None, typer.Option(help="Tokens the model was trained at.  [default: 2048]")
    ] = None,
    factor: Annotated[
        str | None,
        typer.Option(help="How much longer: a number, or 'dynamic'.  [default: 8]"),
    ] = None,
    horizon: Annotated[
        int | None,
        typer.Option(help="Tokens of the text.  [default: factor times the training length]"),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="key=value of the spectrum's own; may be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="All numbers, in full.")] = False,
    every: Annotated[bool, typer.Option("--all", help="A row for every pair.")] = False,
) -> None:
    """Frequencies, wavelengths and amplitude of a spectrum.

    Base, training length and factor are the setting: a spectrum takes those that it has, and the
    output names any that you gave and it does not take. Options of its own go into --option.

    \b
    Examples:
      whatwhere angles yarn --factor 8 --train-length 2048
      whatwhere angles yarn --option beta_fast=16 --option truncate=false
      whatwhere angles dynamic_ntk --train-length 4096 --horizon 32768
      whatwhere angles longrope --dim 8 --option long_factor=[1,2,4,8]
      whatwhere angles llama3 --base 500000 --train-length 8192 --json
    """
    setting = {
        "base": base,
        "train_length": train_length,
        "factor": None if factor is None else read_value(factor),
    }
    chosen = Chosen.of(spectrum, setting, read_options(option or []), horizon)
    for key in chosen.unused:
        flag = f"--{key.replace('_', '-')} {short(setting[key])}"
        print(f"note: {spectrum} takes no {key}; {flag} is not used", file=sys.stderr)
    frequencies = chosen.spectrum(dim, chosen.horizon)
    if as_json:
        print(json.dumps(chosen.record(dim, frequencies), indent=2, allow_nan=False))
    else:
        chosen.show(dim, frequencies, every)


def read_value(text: str) -> Any:
    """A number, list, boolean, none or word, as written on a command line."""
    words = {"true": True, "false": False, "none": None}
    if text.strip().lower() in words:
        return words[text.strip().lower()]
    try:
        value = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError):
        return text
    return tuple(value) if isinstance(value, list) else value


def read_options(pairs: list[str]) -> dict[str, Any]:
    """The options of ``--option key=value …``; ValueError for other text and for repeated keys."""
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise ValueError(f"--option is {pair!r}; write key=value, such as beta_fast=16")
        key = key.strip().replace("-", "_")
        if key in options:
            raise ValueError(f"--option {key} is given twice")
        options[key] = read_value(value)
    return options


@dataclass(frozen=True)
class Chosen:
    """The spectrum that a command line means, and the setting it is looked at in."""

    spectrum: Spectrum
    train_length: int
    horizon: int | None
    unused: tuple[str, ...]

    @staticmethod
    def of(
        name: str, setting: dict[str, Any], options: dict[str, Any], horizon: int | None
    ) -> Chosen:
        """Settings left out get a default only where the spectrum has none of its own."""
        if name not in spectra.TABLE:
            raise UnknownName(did_you_mean("spectrum", name, spectra.TABLE))
        family = spectra.TABLE[name]
        values, unused = dict(options), list[str]()
        for key, value in setting.items():
            if key in options and value is not None:
                raise ValueError(f"{key} is given twice: as --{key.replace('_', '-')} and --option")
            if key in options:
                continue
            if key not in family.parameters:
                # The training length is always used: turns are counted in it.
                if value is not None and key != "train_length":
                    unused.append(key)
                continue
            default = _default(family, key, horizon)
            if value is not None or default is not None:
                values[key] = default if value is None else value
        spectrum = family(**values)
        used = dict(spectrum.options)
        length = used.get("train_length") or setting["train_length"] or TRAIN_LENGTH
        if length < 1:
            raise ValueError(f"train_length is {length}; it must be at least 1 token")
        if horizon is None and spectrum.length_dependent:
            wanted = setting["factor"]
            ratio = float(wanted) if isinstance(wanted, int | float) else FACTOR
            horizon = round(ratio * length)
            unused = [key for key in unused if key != "factor"]  # the horizon is made of it
        return Chosen(spectrum, length, horizon, tuple(unused))

    def plain(self, dim: int) -> tuple[float, ...]:
        """The ladder that the ratios are taken to: the same base, unscaled."""
        base = dict(self.spectrum.options).get("base", 10000.0)
        return spectra.geometric(base=base)(dim).inv_freq

    def record(self, dim: int, frequencies: Frequencies) -> dict[str, Any]:
        """Everything as JSON types; null for the wavelength of a pair that does not turn."""
        pairs = zip(frequencies.inv_freq, self.plain(dim), strict=True)
        record = {
            "spectrum": self.spectrum.name,
            "text": str(self.spectrum),
            "dim": dim,
            "horizon": self.horizon,
            "train_length": self.train_length,
            "parameters": self.spectrum.to_dict()["options"],
            "unused": list(self.unused),
            "amplitude": frequencies.amplitude,
            "inv_freq": list(frequencies.inv_freq),
            "wavelengths": [None if math.isinf(w) else w for w in frequencies.wavelengths],
            "turns": list(frequencies.turns_within(self.train_length)),
            "ratio": [value / plain for value, plain in pairs],
        }
        if frequencies.start_inv_freq is not None:
            record["start"] = frequencies.start
            record["start_inv_freq"] = list(frequencies.start_inv_freq)
        return record

    def show(self, dim: int, frequencies: Frequencies, every: bool) -> None:
        """The table for people."""
        screen, record = console(), self.record(dim, frequencies)
        options = ", ".join(f"{key}={short(v)}" for key, v in record["parameters"].items())
        screen.print(f"[bold]{self.spectrum.name}[/bold]  {options}", soft_wrap=False)
        horizon = f", horizon {self.horizon}" if self.horizon else ""
        square = frequencies.amplitude**2
        scores = f": scores times {square:.6g}" if square != 1 else ""
        screen.print(f"dim {dim}{horizon}; amplitude {frequencies.amplitude:.6g}{scores}\n")
        table = plain_table(*_HEADERS, right=_HEADERS)
        count = len(frequencies.inv_freq)
        for pair in range(count):
            if not every and count > 2 * _ENDS + 1 and _ENDS <= pair < count - _ENDS:
                if pair == _ENDS:
                    table.add_row("…", style="dim")
                continue
            table.add_row(str(pair), *_cells(record, pair))
        screen.print(table)
        screen.print("\n" + self._summary(record, count))

    def _summary(self, record: dict[str, Any], count: int) -> str:
        slow = sum(turns < 1 for turns in record["turns"])
        lines = [f"{slow} of {count} pairs turn less than once within {self.train_length} tokens."]
        if "start" in record:
            lines.append(f"Positions below {record['start']} turn with the unscaled frequencies.")
        return "\n".join(lines)


_HEADERS = ("pair", "rad/token", "wavelength", "turns in training", "ratio to plain")


def _cells(record: dict[str, Any], pair: int) -> tuple[str, ...]:
    wavelength = record["wavelengths"][pair]
    return (
        f"{record['inv_freq'][pair]:.6g}",
        "never turns" if wavelength is None else f"{wavelength:.6g}",
        f"{record['turns'][pair]:.4g}",
        f"{record['ratio'][pair]:.5g}",
    )


def _default(family: Family[...], key: str, horizon: int | None) -> Any:
    """The setting's default, or None where the spectrum's own holds."""
    if family.parameters[key] not in (None, Family.REQUIRED):
        return None
    if key == "factor":  # None there means horizon / train_length, which a given horizon decides
        return FACTOR if horizon is None else None
    return TRAIN_LENGTH if key == "train_length" else None
