"""The command line: `whatwhere ls | explain | angles | show | cite | report | bench | …`.

One file a subcommand. None of them imports torch, matplotlib or pandas at its top: a command loads
what it needs when it runs, so that help and look-ups answer at once.
Exit codes: 0 done, 1 a fault of ours (with its traceback), 2 bad usage or input (one plain line on
stderr that names what was wrong), 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from whatwhere import __version__
from whatwhere.cli.adapt import adapt
from whatwhere.cli.angles import angles
from whatwhere.cli.bench import bench
from whatwhere.cli.cite import cite
from whatwhere.cli.compare import compare
from whatwhere.cli.explain import explain
from whatwhere.cli.extend import extend
from whatwhere.cli.ls import ls
from whatwhere.cli.report import report
from whatwhere.cli.reproduce import reproduce
from whatwhere.cli.search import search
from whatwhere.cli.show import show

__all__ = ["app", "main"]

app = typer.Typer(
    name="whatwhere",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"whatwhere {__version__}")
        raise typer.Exit


@app.callback()
def whatwhere(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and exit.")
    ] = False,
) -> None:
    """How does a transformer know where things are?

    Every positional encoding as a value of one type: look at them, compare them on the same task
    with the same seeds, cite them.

    \b
    Examples:
      whatwhere ls                            what there is
      whatwhere explain pope+yarn+dual_chunk  a combination, in words
      whatwhere angles yarn --factor 8        frequencies, wavelengths, turns
      whatwhere show rope alibi --out a.png   score patterns, angles, decay
      whatwhere COMMAND --help                more examples
    """


app.command()(ls)
app.command()(explain)
app.command()(angles)
app.command()(show)
app.command()(compare)
app.command()(extend)
app.command()(search)
app.command()(adapt)
app.command()(report)
app.command()(reproduce)
app.command()(cite)
app.add_typer(bench)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line (default: `sys.argv`) and exit with its code.

    Bad input is a ValueError or OSError that says what would be right: it is printed as one line.
    WHATWHERE_TRACEBACK=1 shows where it was raised.
    """
    # Before torch is loaded: threads that wait by spinning take the core from the one that works.
    # On two cores with one other busy process a training step took 4.5 times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        code = app(
            args=None if arguments is None else list(arguments),
            prog_name="whatwhere",
            standalone_mode=False,
        )
    except (KeyboardInterrupt, typer.Abort):
        code = _complain("interrupted", 130)
    except (ValueError, OSError) as error:
        if os.environ.get("WHATWHERE_TRACEBACK"):
            raise
        code = _complain(str(error), 2)
    except Exception as error:
        # Usage errors have no public base class in typer; their message is all that they share.
        if not hasattr(error, "format_message"):
            raise
        code = _usage(error)
    sys.exit(code if isinstance(code, int) else 0)


def _usage(error: Exception) -> int:
    message: str = error.format_message()  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message)
        return 2
    path = context.command_path if context else "whatwhere"
    return _complain(f"{message}\nSee: {path} --help", 2)


def _complain(message: str, code: int) -> int:
    print(f"whatwhere: {message}", file=sys.stderr)
    return code
