"""Piano performances: a folder of MIDI files as REMI tokens.

    Bar TimeSig_4/4 Position_8 Pitch_60 Velocity_35 Duration_1.6.8 Position_18 Pitch_62 ...

A note is three tokens, pitch, velocity and duration, after a position in the bar where it is a new
one; a bar is a token of its own (Huang and Yang, "Pop Music Transformer", 2020). Each performance
stands between BOS and EOS. Training hears it in 2 `transpose` + 1 keys, from -3 to +3 semitones:
drawing a place of that stream at random draws the key uniformly, as the PoPE paper does.

The paper trains on MAESTRO v3.0.0 (magenta.tensorflow.org/datasets/maestro, CC BY-NC-SA 4.0), split
90/5/5, 328 tokens; its tokenizer's settings are not printed. Here they are MidiTok's defaults for
one piano without drums, 295 tokens. The split is by work, not by recording, where a table in the
folder names the works (MAESTRO's maestro-v3.0.0.csv, ASAP's metadata.csv): otherwise another
pianist's recording of a test piece would be trained on.
"""

from __future__ import annotations

import csv
import importlib
from importlib.metadata import version
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from whatwhere.errors import whole_number
from whatwhere.tasks.drawn import SPLITS
from whatwhere.tasks.pieces import transposed as _moved
from whatwhere.tasks.shares import assign
from whatwhere.tasks.task import Progress, Task

SPECIAL = ("PAD", "BOS", "EOS", "MASK")

Ids = NDArray[np.uint16]


def load(data: Path | None = None, progress: Progress | None = None) -> Task:
    """The MIDI files in the folder `data`: `maestro(data)`. ValueError without a folder."""
    if data is None:
        raise ValueError(
            "task 'maestro' needs data=FOLDER of MIDI files: unpack maestro-v3.0.0-midi.zip from "
            "magenta.tensorflow.org/datasets/maestro"
        )
    return maestro(data, progress=progress)


def load_plain(data: Path | None = None, progress: Progress | None = None) -> Task:
    """As `load`, in the key of the recordings alone: what `Pieces` transposes as it draws."""
    return load(data, progress) if data is None else maestro(data, 0, progress)


def maestro(
    folder: str | PathLike[str], transpose: int = 3, progress: Progress | None = None
) -> Task:
    """All .mid and .midi files below `folder` as a task, split 90/5/5 of the tokens by work.

    `transpose` is the largest transposition of the training part in semitones (0: none); a note
    that leaves the keyboard goes an octave back. metadata["grouped_by"] is "work" or "file",
    ["skipped"] has the files without notes. The streams are int64: 8 (2 transpose + 1) bytes a
    token. `progress(done, total)` counts files.

    ModuleNotFoundError without miditok and symusic (``pip install whatwhere[study]``);
    FileNotFoundError without such a folder, NotADirectoryError for a file (an archive);
    ValueError naming a file that is no MIDI, or if there are fewer than three works.
    """
    folder = Path(folder)
    whole_number("transpose", transpose, 0)
    if folder.is_file():
        raise NotADirectoryError(
            f"data={str(folder)!r} is a file; give the folder of MIDI files that it unpacks to"
        )
    if not folder.is_dir():
        raise FileNotFoundError(f"data={str(folder)!r}: there is no such folder of MIDI files")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".mid", ".midi"))
    if not files:
        raise ValueError(f"data={str(folder)!r} holds no .mid or .midi file")
    tokenizer = _tokenizer()
    pieces: dict[str, Ids] = {}
    skipped: list[str] = []
    for number, path in enumerate(files):
        name = path.relative_to(folder).as_posix()
        if len(ids := _ids(tokenizer, path)):
            pieces[name] = ids
        else:
            skipped.append(name)
        if progress is not None:
            progress(number + 1, len(files))
    works = _works(folder)
    groups = {name: works.get(name, name) for name in pieces}
    sizes: dict[str, int] = {}
    for name, group in groups.items():
        sizes[group] = sizes.get(group, 0) + len(pieces[name])
    split_of = assign(sizes)
    chosen = {s: [pieces[n] for n, g in groups.items() if split_of[g] == s] for s in SPLITS}
    keys = range(-transpose, transpose + 1)
    chosen["train"] = [transposed(ids, key, tokenizer) for key in keys for ids in chosen["train"]]
    streams = {s: torch.from_numpy(np.concatenate(p).astype(np.int64)) for s, p in chosen.items()}
    heard = f"training transposed by up to {transpose}, " if transpose else ""
    named = any(name in works for name in pieces)
    return Task(
        name="maestro",
        vocab_size=len(tokenizer),
        unit="token",
        describe=(
            f"{len(pieces)} piano performances of {len(sizes)} {'works' if named else 'files'} "
            f"from {folder.name}, REMI, {heard}{sum(map(len, streams.values())):,} tokens"
        ),
        metadata={
            "source": str(folder),
            "pitch_tokens": _pitches(tokenizer),
            "special": {name: tokenizer[f"{name}_None"] for name in SPECIAL},
            "grouped_by": "work" if named else "file",
            "transpose": transpose,
            "skipped": skipped,
            "pieces": {s: sum(split_of[g] == s for g in groups.values()) for s in SPLITS},
            "tokens": {s: len(stream) for s, stream in streams.items()},
            "versions": {name: version(name) for name in ("miditok", "symusic")},
        },
        **streams,
    )


def transposed(ids: Ids, semitones: int, tokenizer: Any) -> Ids:
    """`ids` with every pitch moved by `semitones`; one that leaves the keyboard, an octave back."""
    tokens = torch.from_numpy(ids.astype(np.int64))
    return _moved(tokens, semitones, *_pitches(tokenizer)).numpy().astype(np.uint16)


def _pitches(tokenizer: Any) -> tuple[int, int]:
    """The first and the last pitch token, which are consecutive."""
    found = sorted((int(n[6:]), i) for n, i in tokenizer.vocab.items() if n.startswith("Pitch_"))
    first, last = found[0], found[-1]
    if last[1] - first[1] != last[0] - first[0] or len(found) != last[0] - first[0] + 1:
        raise RuntimeError("MidiTok's pitch tokens are not consecutive; another version is needed")
    return first[1], last[1]


def _tokenizer() -> Any:
    miditok = _module("miditok")
    return miditok.REMI(
        miditok.TokenizerConfig(special_tokens=list(SPECIAL), use_pitchdrum_tokens=False)
    )


def _ids(tokenizer: Any, path: Path) -> Ids:
    """BOS, the tokens of all tracks as one piano, EOS; nothing for a file without notes."""
    try:
        score = _module("symusic").Score(path)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"data: {str(path)!r} is no MIDI file: {error}") from None
    played = [track for track in score.tracks if not track.is_drum and len(track.notes)]
    if not played:
        return np.empty(0, np.uint16)
    for track in played[1:]:
        played[0].notes.extend(track.notes)
    played[0].notes.sort()
    played[0].program = 0
    score.tracks = played[:1]
    sequence = tokenizer(score)
    sequence = sequence[0] if isinstance(sequence, list) else sequence
    ends = (tokenizer["BOS_None"], tokenizer["EOS_None"])
    return np.array([ends[0], *sequence.ids, ends[1]], np.uint16)


def _works(folder: Path) -> dict[str, str]:
    """From a performance's path below `folder` to "composer: title", where a table says so."""
    columns = (
        ("midi_filename", "canonical_composer", "canonical_title"),  # MAESTRO
        ("midi_performance", "composer", "title"),  # ASAP
    )
    result: dict[str, str] = {}
    for table in sorted(folder.rglob("*.csv")):
        below = table.parent.relative_to(folder)
        with table.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for path, composer, title in columns:
                    if row.get(path):
                        place = (below / row[path]).as_posix()
                        result[place] = f"{row.get(composer)}: {row.get(title)}"
    return result


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ModuleNotFoundError(
            f"task 'maestro' needs {name}: pip install 'whatwhere[study]'", name=name
        ) from None
