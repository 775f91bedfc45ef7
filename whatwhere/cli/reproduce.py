"""`whatwhere reproduce`: the trainings of a study, from its cells to rows and verdicts."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from whatwhere.cli.seeds import chosen_seeds
from whatwhere.errors import did_you_mean

if TYPE_CHECKING:
    from whatwhere.cli.board import Board
    from whatwhere.cli.farming import Starter
    from whatwhere.study.cells import Study
    from whatwhere.study.data import Library

__all__ = ["load_study", "main", "reproduce"]

TIME_IS_OVER = 3


def reproduce(
    study: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder with a study.py.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where rows go.  [default: the study's folder]"),
    ] = None,
    only: Annotated[
        str | None, typer.Option(metavar="A,B", help="These cells only (--dry-run names them).")
    ] = None,
    seeds: Annotated[str | None, typer.Option(metavar="0-7|I,J", help="These seeds only.")] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="A data set, where it lies. Repeatable."),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            help="cpu, cuda, or several: cuda:0,cuda:1.  [default: cuda where there is one]"
        ),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(help="Save and stop after so many, with exit code 3.")
    ] = None,
    share: Annotated[
        float,
        typer.Option(help="Train with a share of the steps: rows named CELL@SHARE, no claim's."),
    ] = 1.0,
    pieces: Annotated[
        int | None,
        typer.Option(metavar="N", help="Read each batch in N pieces: less memory, same batch."),
    ] = None,
    checkpoints: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Trainings; studies that share it share them."),
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Measure again what failed.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show cells, what is done, and hours; do nothing.")
    ] = False,
) -> int:
    """Train and evaluate the cells of a study; then its verdicts beside the published numbers.

    Every finished evaluation is a row in DIR/rows.jsonl at once. A run can be killed at any moment;
    the same command goes on there, and nothing is done twice. Cells whose data is not given are
    left out, and named. Checkpoints lie in DIR/checkpoints, of studies/* in studies/checkpoints.

    Exit codes: 0 done, 1 done but some seeds failed (their rows say why) or a device's process
    broke, 2 bad usage or input, 3 --minutes are over and there is more to do, 130 interrupted.

    \b
    Examples:
      whatwhere reproduce studies/pope_table_1 --dry-run
      whatwhere reproduce studies/pope_table_1 --only rope,pope --seeds 0-4 --minutes 25
      whatwhere reproduce studies/pope_table_1 --device cuda:0,cuda:1,cuda:2,cuda:3
      whatwhere reproduce studies/pope_table_2 --data jsb=Jsb16thSeparated.json --only jsb_rope
      whatwhere reproduce studies/pope_figure_2 --share 0.2 --data books=books/ --out results/short
      whatwhere reproduce studies/pope_table_2 --only asap_rope --data asap=asap/ --pieces 16
    """
    import torch

    from whatwhere.cli.board import Board
    from whatwhere.cli.farming import Starter, named_devices
    from whatwhere.cli.study_table import show_plan
    from whatwhere.study.data import Library, named_files

    found = load_study(study)
    names = None if only is None else [part.strip() for part in only.split(",") if part.strip()]
    found.chosen(names)  # misspelt names at once
    if names == []:
        raise ValueError(f"--only is {only!r}, which names no cell; --dry-run shows their names")
    given, which = named_files(data or ()), read_seeds(seeds)
    # A plan is the study's own; on a CPU its precision would be another one than its rows'.
    told = device is not None or not dry_run
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    out = out or found.folder
    if minutes is not None and not minutes > 0:
        raise ValueError(f"--minutes is {minutes}; give a number above 0")
    devices = named_devices(device)
    found = found.shortened(share)
    if pieces is not None:
        found = found.in_pieces(pieces)
    if told:
        found = found.on(devices[0].partition(":")[0] if devices else device)
    if share != 1 and names is not None:
        names = [f"{name}@{share:g}" for name in names]
    if dry_run:
        show_plan(found, out, Library(given), names, which, share)
        return 0
    place = checkpoints or (found.folder.parent if out == found.folder else out) / "checkpoints"
    board = Board(minutes)
    same = ["--share", str(share), *(["--retry"] if retry else [])]
    same += [] if pieces is None else ["--pieces", str(pieces)]
    start = Starter(devices, found.folder, place, given, same, board) if devices else None
    return _run(found, out, place, given, names, which, board, retry, start)


def main(folder: str | os.PathLike[str]) -> None:
    """The command of a study's own study.py: `whatwhere reproduce FOLDER` with its arguments."""
    from whatwhere.cli import main as whatwhere

    whatwhere(["reproduce", str(folder), *sys.argv[1:]])


def load_study(path: Path) -> Study:
    """The STUDY of a folder's study.py.

    FileNotFoundError without the file, ValueError for a file without a STUDY.
    """
    import runpy

    from whatwhere.study.cells import Study

    file = path / "study.py" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"{file}: there is no such study: {_where_studies_are(path)}")
    found = runpy.run_path(str(file)).get("STUDY")
    if not isinstance(found, Study):
        raise ValueError(f"{file} defines no STUDY = Study(…)")
    return found


def _where_studies_are(path: Path) -> str:
    around = (Path(), *Path().resolve().parents)
    beside = [path, *(folder / "studies" for folder in around)]
    folders = {str(file.parent) for folder in beside for file in folder.glob("*/study.py")}
    if not folders:
        return "studies are folders of the repository (studies/), which no installed package holds"
    return did_you_mean("folder", str(path), folders)


def read_seeds(text: str | None) -> tuple[int, ...] | None:
    """ "0-3,7" -> 0, 1, 2, 3, 7."""
    return None if text is None else chosen_seeds(text, "write 0-7, or which ones: 0,3")


def _run(
    study: Study,
    out: Path,
    checkpoints: Path,
    given: Mapping[str, str],
    names: Sequence[str] | None,
    seeds: Sequence[int] | None,
    board: Board,
    retry: bool,
    start: Starter | None,
) -> int:
    from whatwhere.cli.study_table import show_verdicts
    from whatwhere.study.data import Library
    from whatwhere.study.farm import farm
    from whatwhere.study.reproduce import open_ledger
    from whatwhere.study.reproduce import reproduce as run

    library = Library(given, lambda done, total: board.reading("data", done, total))
    names = _at_hand(study, library) if names is None else names
    first = os.environ.get("RANK", "0") == "0"  # of several processes, one writes and talks
    board.console.quiet = not first
    try:
        with open_ledger(study, out, retry, first, names) as ledger, board.interrupts:
            if start is None:
                broken = []
                rows = run(
                    study, ledger, library, checkpoints, only=names, seeds=seeds, observer=board
                )
            else:
                broken = farm(
                    study, ledger, library, start.devices, start, board, board.console.print,
                    only=names, seeds=seeds,
                )  # fmt: skip
                rows = list(ledger.done.values())
    except KeyboardInterrupt:
        board.close()
        why = "the time is over" if board.late else "interrupted"
        command = shlex.join(["whatwhere", *_words()])
        print(f"\nwhatwhere: {why}; go on with\n  {command}", file=sys.stderr)
        return TIME_IS_OVER if board.late else board.interrupts.code
    finally:
        board.close()
    if first:
        show_verdicts(study, out)
    return 1 if broken or any("error" in row for row in rows) else 0


def _words() -> list[str]:
    """The arguments as typed; of study.py those of the command that it stands for."""
    script = Path(sys.argv[0])
    own = ["reproduce", str(script.parent)] if script.name == "study.py" else []
    return [*own, *sys.argv[1:]]


def _at_hand(study: Study, library: Library) -> list[str]:
    """The cells whose data is there; the others are named on stderr."""
    kept: list[str] = []
    missing: dict[str, list[str]] = {}
    for cell in study.cells:
        lacks = library.lacks(cell)
        if lacks:
            missing.setdefault(lacks, []).append(cell.name)
        else:
            kept.append(cell.name)
    for what, cells in missing.items():
        print(f"whatwhere: left out without {what}: {', '.join(cells)}", file=sys.stderr)
    if not kept:
        raise ValueError(f"no cell of {study.name} has its data: give {', '.join(missing)}")
    return kept
