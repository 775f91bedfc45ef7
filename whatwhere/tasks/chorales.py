"""Bach's four-part chorales, one token per voice and sixteenth note.

The voices are read in raster order: soprano, alto, tenor and bass of the first sixteenth, then of
the second, and so on; a held note repeats its pitch. From the second bar of BWV 1.6 ("Wie schön
leuchtet der Morgenstern"), as MIDI pitches::

    sixteenth    19  20  21  22  23  24
    soprano      72  74  74  74  74  74
    alto         65  70  70  70  70  70
    tenor        57  53  53  53  53  65
    bass         45  46  46  48  48  50

    stream   ... 72 65 57 45  74 70 53 46  74 70 53 46  74 70 53 48  74 70 53 48  74 70 65 50 ...

Four tokens back stands the same voice, one token back the voice above: *where* matters as much as
*what*. A separator stands before each piece and at the very end; silence is a token.

This is the representation of the PoPE paper (Gopalakrishnan et al., arXiv 2509.10534, JSB,
sixteenth notes, raster scan). Like theirs it does not tell a held note from a repeated one.
Their file (github.com/czhuang/JSB-Chorales-dataset) can be given as `data`; by default the scores
come from the music21 corpus, and the split differs from theirs in one respect: all settings of a
melody stay on one side of it. In their file 38 of the 77 test chorales open with the melody of a
training chorale and 26 share more than half of their notes with one; here 1 of 81 does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

from whatwhere.tasks import corpus
from whatwhere.tasks.chorale_file import read_json
from whatwhere.tasks.corpus import Grid
from whatwhere.tasks.corpus_worker import SILENCE, STEPS_PER_QUARTER
from whatwhere.tasks.task import Progress, Task

SEPARATOR_TOKEN = 0
SILENCE_TOKEN = 1
FIRST_PITCH_TOKEN = 2

TEST_SHARE, VALID_SHARE = 0.2, 0.15
"""Of the melodies, not of the pieces: the hashes give 81 and 37 of 401 pieces."""
MOST_SILENCE = 0.25
"""Pieces with more are cantata movements whose voices wait for instruments that are not here."""
OPENING = 6
"""Beat-to-beat intervals of the soprano by which two settings count as one melody."""


def load(data: Path | None = None, progress: Progress | None = None) -> Task:
    """The chorales as a task: from music21's corpus, or from the JSON file `data`.

    Token 0 is the separator, 1 silence, 2 + i the i-th pitch of metadata["pitches"], the sorted
    MIDI pitches of all splits. The order of the pieces is fixed and shuffled. The first load parses
    the corpus (half a minute on two cores, `progress(done, total)` counts files) and caches it.

    ModuleNotFoundError without music21 if `data` is None; FileNotFoundError or ValueError for a
    file that is missing or not in the format of `chorale_file.read_json`.
    """
    if data is None:
        found = corpus.load(progress)
        kept, dropped = clean(found.grids)
        source = f"music21 {corpus.version()}"
        return _task(split(kept), source, {"skipped": found.skipped, "dropped": dropped})
    return _task(read_json(Path(data)), str(data), {})


def clean(grids: dict[str, Grid]) -> tuple[dict[str, Grid], dict[str, str]]:
    """The pieces worth keeping, and the others with the reason.

    Of pieces that are equal up to a transposition the first by name stays.
    """
    kept: dict[str, Grid] = {}
    dropped: dict[str, str] = {}
    seen: dict[bytes, str] = {}
    for name, grid in sorted(grids.items()):
        tokens = [pitch for step in grid for pitch in step]
        silence = tokens.count(SILENCE) / len(tokens)
        lowest = min(pitch for pitch in tokens if pitch != SILENCE)
        content = repr([p if p == SILENCE else p - lowest for p in tokens]).encode()
        if silence > MOST_SILENCE:
            dropped[name] = f"{silence:.0%} silence"
        elif content in seen:
            dropped[name] = f"equals {seen[content]}"
        else:
            seen[content] = name
            kept[name] = grid
    return kept, dropped


def split(grids: dict[str, Grid]) -> dict[str, list[Grid]]:
    """Train, valid and test: 65, 15 and 20 % of the melodies, the pieces in shuffled order.

    A hash of the opening of its melody decides where a piece goes and a hash of its name where it
    stands there: no piece moves when others come or go, and no setting of a test melody is trained
    on.
    """
    result: dict[str, list[Grid]] = {"train": [], "valid": [], "test": []}
    for name in sorted(grids, key=lambda name: (_uniform(name), name)):
        place = _uniform(repr(melody(grids[name])))
        if place < TEST_SHARE:
            result["test"].append(grids[name])
        elif place < TEST_SHARE + VALID_SHARE:
            result["valid"].append(grids[name])
        else:
            result["train"].append(grids[name])
    return result


def melody(grid: Grid) -> tuple[int | None, ...]:
    """The opening of the soprano: semitones from its first note on the next six beats.

    None is a rest. Beats skip the passing notes in which settings differ, and differences do not
    know the key.
    """
    soprano = [step[0] for step in grid]
    start = next((i for i, pitch in enumerate(soprano) if pitch != SILENCE), 0)
    beats = soprano[start::STEPS_PER_QUARTER][: OPENING + 1]
    return tuple(None if pitch == SILENCE else pitch - beats[0] for pitch in beats[1:])


def encode(pieces: Iterable[Grid], pitches: Sequence[int]) -> torch.Tensor:
    """The stream of `pieces`: separator, raster scan, separator, raster scan, ..., separator.

    KeyError for a pitch that is not among `pitches`.
    """
    token = {SILENCE: SILENCE_TOKEN}
    token |= {pitch: FIRST_PITCH_TOKEN + index for index, pitch in enumerate(pitches)}
    stream = [SEPARATOR_TOKEN]
    for grid in pieces:
        stream += [token[pitch] for step in grid for pitch in step]
        stream.append(SEPARATOR_TOKEN)
    return torch.tensor(stream, dtype=torch.int64)


def decode(stream: torch.Tensor | Sequence[int], pitches: Sequence[int]) -> list[Grid]:
    """The grids of the pieces in `stream`, also of one that a model wrote.

    Pieces without tokens are left out, and so are the voices of a last step that is not complete.
    """
    pitch = [SILENCE, *pitches]
    result: list[Grid] = []
    piece: list[int] = []
    for token in [*map(int, stream), SEPARATOR_TOKEN]:
        if token != SEPARATOR_TOKEN:
            piece.append(pitch[token - SILENCE_TOKEN])
            continue
        if steps := [piece[i : i + 4] for i in range(0, len(piece) - 3, 4)]:
            result.append(steps)
        piece = []
    return result


def _task(splits: dict[str, list[Grid]], source: str, metadata: dict[str, Any]) -> Task:
    heard = {p for pieces in splits.values() for grid in pieces for step in grid for p in step}
    pitches = tuple(sorted(heard - {SILENCE}))
    streams = {name: encode(pieces, pitches) for name, pieces in splits.items()}
    sizes = [4 * len(grid) for pieces in splits.values() for grid in pieces]
    return Task(
        name="chorales",
        vocab_size=FIRST_PITCH_TOKEN + len(pitches),
        unit="note",
        describe=(
            f"{len(sizes)} four-part chorales by J. S. Bach ({Path(source).name}), sixteenth "
            f"notes, raster scan, {sum(map(len, streams.values())):,} tokens"
        ),
        metadata={
            "source": source,
            "separator": SEPARATOR_TOKEN,
            "silence": SILENCE_TOKEN,
            "pitches": pitches,
            "pitch_tokens": _pitch_tokens(pitches),
            "pieces": {name: len(pieces) for name, pieces in splits.items()},
            "tokens": {name: len(stream) for name, stream in streams.items()},
            "median_piece": median(sizes),
            **metadata,
        },
        **streams,
    )


def _pitch_tokens(pitches: Sequence[int]) -> tuple[int, int] | None:
    """The first and the last token of a pitch, if the tokens are a semitone apart."""
    if not pitches or pitches[-1] - pitches[0] != len(pitches) - 1:
        return None
    return FIRST_PITCH_TOKEN, FIRST_PITCH_TOKEN + len(pitches) - 1


def _uniform(text: str) -> float:
    """A number in [0, 1) that depends on `text` alone, on every machine and in every run."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
