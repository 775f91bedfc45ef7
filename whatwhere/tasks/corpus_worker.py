"""Read Bach chorales with music21: `python corpus_worker.py INDEX COUNT [FILE ...]`.

It takes every COUNT-th file from INDEX on and prints one JSON object a line: file, total (the files
of all workers), and either steps, the grid of four voices, or reason, why there is none.

A script of its own, which imports neither torch nor whatwhere, so that workers start in a second;
and not multiprocessing, whose spawned children import the caller's main script again and so break
every script without `if __name__ == "__main__"`.
"""

from __future__ import annotations

import gc
import json
import math
import sys
from pathlib import Path
from typing import Any

STEPS_PER_QUARTER = 4
VOICES = ("Soprano", "Alto", "Tenor", "Bass")
SILENCE = -1


def files() -> list[Path]:
    """The scores by Bach in music21's corpus that may be chorales, in the order of their names."""
    from music21 import corpus

    scores = (Path(path) for path in corpus.getComposer("bach"))
    kinds = (".mxl", ".xml", ".krn")  # .rntxt are harmonic analyses, without notes
    return sorted((path for path in scores if path.suffix in kinds), key=lambda path: path.name)


def read(path: Path) -> list[list[int]] | str:
    """The grid of the score at `path`, or the reason why it has none.

    music21's own pickles are neither read nor written: they lie in a shared temporary directory.
    """
    from music21 import converter

    score: Any = converter.parse(path, forceSource=True, storePickle=False)
    parts = four_voices(list(score.parts))
    return parts if isinstance(parts, str) else grid(parts) or "no notes"


def four_voices(parts: list[Any]) -> list[Any] | str:
    """Soprano, alto, tenor and bass among `parts` by name, or else four parts in score order.

    Instruments that double or accompany are left out. A score with two sopranos is refused.
    """
    chosen: list[Any] = []
    for voice in VOICES:
        named = [part for part in parts if str(part.id).startswith(voice)]
        if len(named) > 1:
            return f"{len(named)} parts named {voice}"
        chosen += named
    if len(chosen) == 4:
        return chosen
    return parts if len(parts) == 4 else f"{len(parts)} parts, not four voices"


def grid(parts: list[Any]) -> list[list[int]]:
    """The MIDI pitch that sounds in each part at each sixteenth, -1 for silence: steps × parts.

    Step s is the instant s / 4 quarter notes after the start, and a note of onset o and length q
    sounds there if o <= s/4 < o + q. Shorter notes between two steps, and grace notes, are not
    seen; ties need no care. Silent steps before the first and after the last note are cut off.
    """
    voices = [
        [(note.offset, note.quarterLength, note.pitches) for note in part.flatten().notesAndRests]
        for part in parts
    ]
    end = max((onset + length for voice in voices for onset, length, _ in voice), default=0)
    steps = [[SILENCE] * len(parts) for _ in range(math.ceil(STEPS_PER_QUARTER * end))]
    for column, voice in enumerate(voices):
        for onset, length, pitches in voice:
            first = math.ceil(STEPS_PER_QUARTER * onset)
            for step in range(first, math.ceil(STEPS_PER_QUARTER * (onset + length))):
                if pitches:
                    steps[step][column] = max(pitch.midi for pitch in pitches)
    sounding = [index for index, step in enumerate(steps) if max(step) > SILENCE]
    return steps[sounding[0] : sounding[-1] + 1] if sounding else []


def main(index: int, count: int, wanted: list[str]) -> None:
    """Print the lines of one worker; `wanted` are file names, none means all."""
    output, sys.stdout = sys.stdout, sys.stderr  # whatever music21 prints is not ours
    gc.set_threshold(200_000, 20, 20)  # a quarter faster: scores are large and full of cycles
    chosen = [path for path in files() if not wanted or path.name in wanted]
    for path in chosen[index::count]:
        result = read(path)
        key = "reason" if isinstance(result, str) else "steps"
        line = {"file": path.name, "total": len(chosen), key: result}
        print(json.dumps(line, separators=(",", ":")), file=output, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
