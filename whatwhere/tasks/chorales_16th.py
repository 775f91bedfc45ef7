"""Bach's chorales in the file and the split that the PoPE paper trains on: 229 / 76 / 77 pieces.

    [[74, 70, 53, 46], [74, 70, 53, 48]]   ->   | 74 70 53 46 74 70 53 48 |

The same tokens as the task "chorales": sixteenth notes, down the voices and then along time, a
separator between pieces (`whatwhere.tasks.chorales` draws an example). The authors' split is kept,
with its leak: half of the test chorales open with a melody of the training set. Use it to compare
with published numbers, and "chorales" for conclusions.

The paper's vocabulary has 90 entries, this one the pitches that occur, silence and the separator.
Source: github.com/czhuang/JSB-Chorales-dataset, Jsb16thSeparated.json, in which silence is -1, as
in the paper. The older jsb-chorales-16th.json is read too; there a step with a silent voice does
not say which one (`whatwhere.tasks.chorale_file`).
"""

from __future__ import annotations

import json
import urllib.request
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path

from whatwhere.tasks import chorales
from whatwhere.tasks.cache import cache_dir, write_atomically
from whatwhere.tasks.task import Progress, Task

URL = "https://raw.githubusercontent.com/czhuang/JSB-Chorales-dataset/master/Jsb16thSeparated.json"
PIECES = {"train": 229, "valid": 76, "test": 77}


def load(data: Path | None = None, progress: Progress | None = None) -> Task:
    """The chorales from the file `data`, or from `URL`, which is fetched once and kept.

    ValueError if the file is not in this format or does not hold 229, 76 and 77 pieces (the task
    "chorales" takes any number); FileNotFoundError without a file; OSError, naming the address and
    what to do instead, when it cannot be fetched.
    """
    path = _fetched() if data is None else Path(data)
    task = chorales.load(path, progress)
    if task.metadata["pieces"] != PIECES:
        raise ValueError(
            f"data={str(path)!r} holds {task.metadata['pieces']} pieces; the data set of the paper "
            f"holds {PIECES}. Task 'chorales' reads any file of this format"
        )
    return replace(task, name="chorales_16th")


def _fetched() -> Path:
    path = cache_dir() / "Jsb16thSeparated.json"
    if not path.exists():
        try:
            with urllib.request.urlopen(URL, timeout=60) as answer:
                content = answer.read().decode()
            json.loads(content)  # a sign-in page would be kept, and refused, for ever
        except (OSError, HTTPException, ValueError) as error:
            raise OSError(
                f"{URL} cannot be fetched ({error}); fetch it elsewhere and give data=FILE"
            ) from error
        write_atomically(path, content)
    return path
