"""The JSON format of github.com/czhuang/JSB-Chorales-dataset, which the PoPE paper trains on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from whatwhere.errors import UnknownName, did_you_mean
from whatwhere.tasks.corpus_worker import SILENCE, VOICES
from whatwhere.tasks.task import no_file

SPLITS = ("train", "valid", "test")


def read_json(path: Path) -> dict[str, list[list[list[int]]]]:
    """The pieces of each split: {"train": [piece, ...], "valid": ..., "test": ...}.

    A piece is a list of steps, a step the MIDI pitches [soprano, alto, tenor, bass], -1 for
    silence. The authors' own jsb-chorales-16th.json has no -1: its steps are shorter where a voice
    rests and do not say which, so the silence is put below the notes that are left. Pitches may
    be written as 67.0. The authors' split and order are kept.

    FileNotFoundError without a file, UnknownName (a ValueError) for another split, ValueError
    naming the first place that is not in this format.
    """
    if not path.is_file():
        raise FileNotFoundError(no_file(path))
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"data={str(path)!r} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"data={str(path)!r} holds no splits; expected {{{', '.join(SPLITS)}}}")
    for name in content:
        if name not in SPLITS:
            raise UnknownName(f"data={str(path)!r}: {did_you_mean('split', name, SPLITS)}")
    splits: dict[str, list[list[list[int]]]] = {}
    for name in SPLITS:
        pieces = content.get(name)
        if not isinstance(pieces, list) or not pieces:
            raise ValueError(f"data={str(path)!r} has no pieces under {name!r}")
        splits[name] = [_piece(p, f"{path.name}: {name}[{i}]") for i, p in enumerate(pieces)]
    return splits


def _piece(steps: Any, place: str) -> list[list[int]]:
    if not isinstance(steps, list) or not steps:
        raise ValueError(f"{place} is {steps!r:.60}; a piece is a list of steps, at least one")
    return [_step(step, f"{place}[{index}]") for index, step in enumerate(steps)]


def _step(step: Any, place: str) -> list[int]:
    if not isinstance(step, list) or len(step) > len(VOICES):
        raise ValueError(f"{place} is {step!r:.60}; a step is at most {len(VOICES)} pitches")
    for pitch in step:
        if isinstance(pitch, bool) or pitch not in range(SILENCE, 128):
            raise ValueError(
                f"{place} has pitch {pitch!r:.60}; MIDI pitches are 0..127, silence -1"
            )
    return [int(pitch) for pitch in step] + [SILENCE] * (len(VOICES) - len(step))
