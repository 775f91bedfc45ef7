"""MIDI to REMI: tokens of a made score, transposition, splits by work, what is no MIDI."""

import sys

import numpy as np
import pytest
import torch

from whatwhere import tasks
from whatwhere.tasks import maestro

symusic = pytest.importorskip("symusic")
pytest.importorskip("miditok")


def write(path, pitches, tracks=1):
    """A score of quarter notes, note i in track i % tracks."""
    score = symusic.Score(480)
    score.tracks = [symusic.Track(program=0) for _ in range(tracks)]
    for i, pitch in enumerate(pitches):
        score.tracks[i % tracks].notes.append(symusic.Note(480 * i, 480, pitch, 64))
    path.parent.mkdir(parents=True, exist_ok=True)
    score.dump_midi(path)


def names(stream) -> list[str]:
    words = {token: name for name, token in maestro._tokenizer().vocab.items()}
    return [words[token] for token in stream.tolist()]


def pitches(stream) -> list[int]:
    return [int(name[6:]) for name in names(stream) if name.startswith("Pitch_")]


@pytest.fixture
def folder(tmp_path):
    for number in range(6):
        write(tmp_path / f"2004/piece{number}.midi", range(40 + number, 60 + number))
    return tmp_path


def test_every_piece_is_between_bos_and_eos_and_heard_in_seven_keys(folder):
    task = tasks.load("maestro", folder)
    read = {split: names(stream) for split, stream in task.splits().items()}
    for words in read.values():
        assert words[0] == "BOS_None"
        assert words[-1] == "EOS_None"
        assert words[1] == "Bar_None"
    assert task.metadata["pieces"] == {"train": 4, "valid": 1, "test": 1}
    assert read["train"].count("BOS_None") == 7 * 4
    heard = sorted(set(pitches(task.train)[::20]))
    plain = maestro.maestro(folder, transpose=0)
    first = pitches(plain.train)[::20]
    assert heard == sorted({p + key for p in first for key in range(-3, 4)})
    assert torch.equal(plain.test, task.test)
    assert pitches(task.test) == list(range(pitches(task.test)[0], pitches(task.test)[0] + 20))
    assert (task.vocab_size, task.metadata["special"]["PAD"]) == (295, 0)
    assert task.metadata["grouped_by"] == "file"


def test_pieces_are_read_plain_and_transposed_as_they_are_drawn(folder):
    data = tasks.pieces("maestro", folder, length=200)
    plain = maestro.maestro(folder, transpose=0)
    assert "transposed" not in plain.describe
    assert data.transpose == 3
    assert data.metadata["pitch_tokens"] == maestro._pitches(maestro._tokenizer())
    heard = set()
    for number in range(40):
        inputs, targets = data.examples("train", torch.tensor(4 * number))
        heard.add(tuple(pitches(targets[targets != tasks.IGNORED])))
        assert names(inputs)[0] == "BOS_None"
    first = pitches(plain.train)[:20]
    assert heard == {tuple(p + key for p in first) for key in range(-3, 4)}
    inputs, targets = next(data.held_out("test", 1))
    assert torch.equal(targets[targets != tasks.IGNORED], plain.test[1:])
    with pytest.raises(ValueError, match="is transposed already, by up to 3"):
        tasks.Pieces(tasks.load("maestro", folder), 200, transpose=3)
    with pytest.raises(ValueError, match="needs data=FOLDER"):
        tasks.pieces("maestro")


def test_transposition_moves_pitches_alone_and_stays_on_the_keyboard():
    tokenizer = maestro._tokenizer()
    words = ["BOS_None", "Bar_None", "Pitch_60", "Velocity_63", "Pitch_108", "Pitch_21"]
    ids = np.array([tokenizer[word] for word in words], np.uint16)
    assert names(maestro.transposed(ids, 3, tokenizer)) == [
        "BOS_None", "Bar_None", "Pitch_63", "Velocity_63", "Pitch_99", "Pitch_24",
    ]  # fmt: skip
    assert names(maestro.transposed(ids, -3, tokenizer))[-2:] == ["Pitch_105", "Pitch_30"]
    assert np.array_equal(maestro.transposed(ids, 0, tokenizer), ids)


def test_transposing_tokens_is_transposing_the_score(tmp_path):
    write(tmp_path / "low.mid", [50, 62, 70])
    write(tmp_path / "high.mid", [52, 64, 72])
    tokenizer = maestro._tokenizer()
    low, high = (maestro._ids(tokenizer, tmp_path / name) for name in ("low.mid", "high.mid"))
    assert np.array_equal(maestro.transposed(low, 2, tokenizer), high)


def test_tracks_are_one_piano(tmp_path):
    write(tmp_path / "one.mid", range(50, 60))
    write(tmp_path / "two.mid", range(50, 60), tracks=2)
    tokenizer = maestro._tokenizer()
    one, two = (maestro._ids(tokenizer, tmp_path / name) for name in ("one.mid", "two.mid"))
    assert np.array_equal(one, two)


@pytest.mark.parametrize(
    "head", ["midi_filename,canonical_composer,canonical_title", "midi_performance,composer,title"]
)
def test_recordings_of_one_work_stay_together(folder, head):
    rows = [f"2004/piece{i}.midi,Liszt,{'Etude' if i < 3 else i}" for i in range(6)]
    (folder / "table.csv").write_text("\n".join([head, *rows]))
    task = maestro.maestro(folder, transpose=0)
    assert task.metadata["grouped_by"] == "work"
    assert "of 4 works" in task.describe
    together = {40, 41, 42}
    for stream in task.splits().values():
        assert len(together & set(pitches(stream)[::20])) in (0, 3)


def test_what_is_no_folder_of_midi_is_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="needs data=FOLDER"):
        tasks.load("maestro")
    with pytest.raises(FileNotFoundError, match="no such folder"):
        tasks.load("maestro", tmp_path / "absent")
    (tmp_path / "maestro.zip").write_bytes(b"PK")
    with pytest.raises(NotADirectoryError, match=r"is a file; give the folder of MIDI files"):
        tasks.load("maestro", tmp_path / "maestro.zip")
    with pytest.raises(ValueError, match=r"holds no \.mid"):
        tasks.load("maestro", tmp_path)
    write(tmp_path / "a.mid", [60])
    write(tmp_path / "silent.mid", [])
    with pytest.raises(ValueError, match=r"there are 1: 'a\.mid'"):
        tasks.load("maestro", tmp_path)
    with pytest.raises(ValueError, match="transpose is -1"):
        maestro.maestro(tmp_path, transpose=-1)
    (tmp_path / "b.mid").write_bytes(b"no midi at all")
    with pytest.raises(ValueError, match=r"b\.mid' is no MIDI file"):
        tasks.load("maestro", tmp_path)
    monkeypatch.setitem(sys.modules, "miditok", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'whatwhere\[study\]'"):
        tasks.load("maestro", tmp_path)
