"""The page: table, figure, configuration, versions, how to run it again and what to cite."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Iterable, Sequence
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any

from whatwhere.report.blocks import Block, multiple
from whatwhere.report.rows import Row, expressions
from whatwhere.report.tables import Table, table

__all__ = ["page", "rerun"]

_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}


def page(
    rows: Iterable[Row],
    path: str | PathLike[str],
    figures: Sequence[str | PathLike[str]] = (),
    *,
    bibtex: str = "",
) -> Path:
    """Write one self-contained HTML file and return its path.

    `figures` are files of `figure` and are embedded (of an svg and a png the svg);
    `bibtex` is the text for the page's last part (`whatwhere.cli.sources.bibtex_of`, since keys of
    expressions come from encodings, which this package does not import).
    """
    import jinja2

    rows = list(rows) if not isinstance(rows, list) else rows
    found = table(rows)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    source = resources.files("whatwhere.report").joinpath("page.html.j2").read_text("utf-8")
    text = environment.from_string(source).render(
        title=_title(found.blocks),
        summary=[_summary(block) for block in found.blocks],
        table=found,
        figures=_embedded(figures, found),
        runs=[_run(block) for block in found.blocks],
        bibtex=bibtex,
        count=len(rows),
        encodings=expressions(rows),
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _title(found: Sequence[Block]) -> str:
    tasks = dict.fromkeys(block.setting.get("task") for block in found)
    return f"Positional encodings on {', '.join(str(task) for task in tasks if task) or 'a task'}"


def _summary(block: Block) -> str:
    """Who is ahead at the training length and at the longest one, in a sentence."""
    names = {n: sorted(block.best(n)) for n in (block.train_length, block.lengths[-1])}
    known = {n: best for n, best in names.items() if best}
    parts = [
        f"at {multiple(n, block.train_length)} the training length {' and '.join(best)}"
        f" ({block.cell(best[0], n).mean:.3f})"
        for n, best in known.items()
    ]
    word = "Lowest" if block.sign == 1 else "Highest"
    return f"{word} {block.measure}: {'; '.join(parts)}." if parts else ""


def _embedded(figures: Sequence[str | PathLike[str]], found: Table) -> list[dict[str, str]]:
    chosen: dict[Path, Path] = {}
    for each in map(Path, figures):
        if each.suffix not in _TYPES:
            raise ValueError(f"figure {each} is no .svg or .png file")
        if each.suffix == ".svg" or each.with_suffix("") not in chosen:
            chosen[each.with_suffix("")] = each
    drawn = [block.title for block in found.blocks if any(c.values for c in block.cells.values())]
    titles = drawn + [""] * len(chosen)
    return [
        {
            "source": f"data:{_TYPES[file.suffix]};base64,"
            + base64.b64encode(file.read_bytes()).decode("ascii"),
            "alt": f"{title or file.stem}: a line for every encoding over the evaluation length",
        }
        for file, title in zip(chosen.values(), titles, strict=False)
    ]


def _run(block: Block) -> dict[str, Any]:
    """What made a block: configuration, provenance, and the command that makes it again."""
    rows = block.rows
    versions = sorted({json.dumps(row.get("versions") or {}, sort_keys=True) for row in rows})
    seconds = sum(float(row.get("seconds") or 0) for row in rows)
    training = {
        (block.trained_as[row["encoding"]], row.get("seed")): float(row.get("train_seconds") or 0)
        for row in rows
    }
    provenance = {
        "commit": _distinct(row.get("commit") for row in rows),
        "device": _distinct(row.get("device") for row in rows),
        "versions": "; ".join(
            ", ".join(f"{k} {v}" for k, v in json.loads(each).items()) for each in versions
        ),
        "seeds": ", ".join(str(seed) for seed in block.seeds),
        "time": _duration(seconds + sum(training.values())),
        "tokens scored": _distinct(row.get("n") for row in rows),
    }
    return {
        "title": block.title,
        "setting": {k: v for k, v in block.setting.items() if v is not None},
        "provenance": {key: value for key, value in provenance.items() if value},
        "command": rerun(block),
    }


def rerun(block: Block) -> str | None:
    """The command that measures a block again; None for studies that are not `compare`.

    Options are written out whatever their default, so that a later default changes nothing.
    """
    if block.setting.get("study") != "compare" or not block.setting.get("task"):
        return None
    setting = block.setting
    words = ["whatwhere", "compare"]
    if setting["task"] == "text":
        words += ["--text", str(setting.get("data") or "FILE")]
    else:
        words += [setting["task"]]
        words += ["--data", str(setting["data"])] if setting.get("data") else []
    words += ["--encodings", ",".join(block.encodings)]
    seeds = ",".join(str(seed) for seed in block.seeds)
    words += ["--seeds", seeds if "," in seeds else f"{seeds},"]  # "3" would mean three seeds
    words += ["--eval-lengths", ",".join(map(str, block.lengths))]
    for key in _FLAGS:
        if setting.get(key) is not None:
            words += [f"--{key.replace('_', '-')}", f"{setting[key]}"]
    words += ["--compile"] if setting.get("compile") else []
    return shlex.join(words)


_FLAGS = (
    *("train_length", "steps", "width", "layers", "heads", "kv_heads", "dropout", "batch_size"),
    *("lr", "eval_tokens", "device", "precision"),
)


def _distinct(values: Iterable[Any]) -> str:
    return ", ".join(dict.fromkeys(str(value) for value in values if value is not None))


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds else ""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"
