"""The zero-shot tasks of the paper's table 6 as configurations of lm-evaluation-harness.

Each is lm-eval's own file, included, with at most its data set replaced by a local file. Prompts,
scores and standard errors are lm-eval's.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from whatwhere.errors import UnknownName, did_you_mean
from whatwhere.study import zero_shot_data as data

__all__ = ["TASKS", "Part", "Task", "configure", "harness_tasks", "parts_of"]

Function = str  # a dotted name that lm-eval imports


@dataclass(frozen=True)
class Task:
    """A task: lm-eval's file of it (or, with `{}`, of each part), and the split that it reads.

    column: what tells the parts apart in a local file. own: our configuration where lm-eval has
    none. functions: keys of it that name a function.
    """

    file: str
    split: str
    column: str = ""
    parts: tuple[str, ...] = ("",)
    own: Mapping[str, Any] | None = None
    functions: Mapping[str, Function] | None = None


_CBT = {
    "dataset_path": "cam-cst/cbt",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "",
    "target_delimiter": "",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
_ASKED = {
    "doc_to_choice": "whatwhere.study.zero_shot_cbt.texts",
    "doc_to_target": "whatwhere.study.zero_shot_cbt.gold",
}

TASKS: dict[str, Task] = {
    "lambada_openai": Task("lambada/lambada_openai.yaml", "test"),
    "blimp": Task("blimp/{}.yaml", "train", column="UID", parts=()),  # the parts are its files
    "cbt": Task("", "test", "part", ("CN", "NE"), _CBT, _ASKED),
    "hellaswag": Task("hellaswag/hellaswag.yaml", "validation"),
    "piqa": Task("piqa/piqa.yaml", "validation"),
    "arc_easy": Task("arc/arc_easy.yaml", "test"),
}
"""The tasks by lm-eval's name (cbt: ours)."""


@dataclass(frozen=True)
class Part:
    """What lm-eval runs at once: a task, or one of those that a task is the mean of.

    asked: the name in the results; task: its name in `TASKS`; name: that of the part, or "".
    """

    asked: str
    task: str
    name: str

    @property
    def known_as(self) -> str:
        """Its name within lm-eval."""
        return f"{self.task}_{self.name}" if self.name else self.task


def parts_of(asked: str) -> list[Part]:
    """The parts of a task, or the one that is named itself: blimp_adjunct_island, cbt_CN.

    Raises UnknownName for what is neither.
    """
    if asked in TASKS:
        return [Part(asked, asked, name) for name in _names(asked)]
    for task in TASKS:
        if asked.startswith(f"{task}_"):
            known = {f"{task}_{name}": name for name in _names(task) if name}
            if asked in known:
                return [Part(asked, task, known[asked])]
            if known:
                raise UnknownName(did_you_mean(f"part of {task}", asked, known))
    raise UnknownName(did_you_mean("zero-shot task", asked, TASKS))


def configure(parts: Iterable[Part], into: Path, folders: Sequence[Path] | None) -> None:
    """Write the configuration of every part into a folder that lm-eval then reads.

    `folders` hold the data; None leaves them to the hub.
    Raises FileNotFoundError for a task that is in none of the folders, ValueError for a file that
    is not as it should be.
    """
    read: dict[str, list[dict[str, Any]]] = {}
    for part in parts:
        rows = None
        if folders is not None:
            if part.task not in read:
                read[part.task] = _read(part.task, folders)
            rows, column = read[part.task], TASKS[part.task].column
            if column:
                rows = [row for row in rows if row[column] == part.name]
            if not rows:
                raise ValueError(f"the file of {part.task} has no row with {column} {part.name}")
        _write(part, TASKS[part.task], into, rows)


def _read(task: str, folders: Sequence[Path]) -> list[dict[str, Any]]:
    path = data.find(task, folders)
    if path is None:
        raise FileNotFoundError(
            f"{task} is in none of {', '.join(map(str, folders))}: give a folder with "
            f"{task}.jsonl, whose rows have {', '.join(data.COLUMNS[task])}"
        )
    return data.rows_of(task, path)


def harness_tasks() -> Path:
    """The folder of lm-eval's configurations. Raises ModuleNotFoundError that says what to do."""
    found = find_spec("lm_eval")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(
            "zero-shot tasks need lm-evaluation-harness: pip install 'whatwhere[zero-shot]'",
            name="lm_eval",
        )
    return Path(found.submodule_search_locations[0]) / "tasks"


def _names(task: str) -> tuple[str, ...]:
    names = TASKS[task].parts
    if names:
        return names
    folder = (harness_tasks() / TASKS[task].file).parent
    return tuple(sorted(file.stem for file in folder.glob("*.yaml") if file.stem[0] != "_"))


def _write(part: Part, task: Task, into: Path, rows: list[dict[str, Any]] | None) -> None:
    config: dict[str, Any] = {"task": part.known_as}
    if task.own is None:
        config["include"] = str(harness_tasks() / task.file.format(part.name))
    else:
        config |= {**task.own, "dataset_name": part.name or None}
    if part.task == "lambada_openai":
        # Its perplexity would be bootstrapped in a pool of processes, beside a GPU in use.
        config["metric_list"] = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
    if rows is not None:
        file = into / f"{part.known_as}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        config |= {
            "dataset_path": "json",
            "dataset_name": None,
            "dataset_kwargs": {
                "data_files": {task.split: str(file)},
                "cache_dir": str(into / "cache"),
            },
            # lm-eval looks for examples in every split that a configuration names.
            **dict.fromkeys(("training_split", "validation_split", "test_split")),
            "test_split" if task.split == "test" else "validation_split": task.split,
        }
    lines = [f"{key}: {json.dumps(value)}" for key, value in config.items()]
    lines += [f"{key}: !function {name}" for key, name in (task.functions or {}).items()]
    (into / f"{part.known_as}.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
