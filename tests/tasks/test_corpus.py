"""Chorales read by music21: against an independent data set, against hand-made scores, and killed.

Only three real chorales are parsed here; the whole corpus is the slow test at the end.
"""

import hashlib
import json
import os

import pytest

from whatwhere.tasks import chorales, corpus, corpus_worker

music21 = pytest.importorskip("music21")

# Written down from github.com/czhuang/JSB-Chorales-dataset, jsb-chorales-16th.json, whose scores
# come from other editions: most of its chorales differ from music21's in a few notes, these do not.
# file: (its place under "test", number of steps, SHA-256 of the steps as json.dumps writes them)
CZHUANG = {
    "bwv298.mxl": (57, 148, "793dc4d96e9fbd9914f43a2398274b69f7dd65b12258f275b32a4a4877888a57"),
    "bwv393.mxl": (2, 196, "8e0d38432256690977dc1f8359df56fce66ef2d7f4291d56a24b36d4f6cf4df0"),
    "bwv153.9.mxl": (55, 192, "228909cee7757271cbbd294a67876ab4ef0ede29c4a01a4dec5dc6008fc22b1a"),
}


@pytest.fixture(scope="module")
def parsed():
    seen = []
    result = corpus.parse(tuple(CZHUANG), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    return result


@pytest.mark.parametrize("file", CZHUANG)
def test_three_chorales_equal_those_of_another_data_set(parsed, file):
    _, steps, digest = CZHUANG[file]
    grid = parsed.grids[file]
    assert len(grid) == steps
    assert hashlib.sha256(json.dumps(grid).encode()).hexdigest() == digest


def test_the_workers_order_does_not_show(parsed):
    assert list(parsed.grids) == sorted(CZHUANG)
    assert parsed.skipped == {}


def voice(name, *notes):
    """A part from (pitch or None for a rest, quarter notes) pairs."""
    part = music21.stream.Part(id=name)
    for pitch, length in notes:
        kind = music21.note.Rest() if pitch is None else music21.note.Note(pitch)
        kind.quarterLength = length
        part.append(kind)
    return part


def test_a_step_is_what_sounds_at_its_instant():
    third = music21.common.opFrac(1 / 3)
    parts = [
        voice("s", (72, 0.75), (71, 0.25), (None, 0.5), (69, 0.5)),
        voice("a", (60, 0.125), (62, 0.125), (64, 0.25), (65, 1.5)),  # thirty-seconds
        voice("t", (55, third), (57, third), (59, third)),  # triplet: onsets 0, 4/3, 8/3 sixteenths
        voice("b", (48, 2)),
    ]
    assert corpus_worker.grid(parts) == [
        [72, 60, 55, 48],
        [72, 64, 55, 48],
        [72, 65, 57, 48],
        [71, 65, 59, 48],
        [-1, 65, -1, 48],
        [-1, 65, -1, 48],
        [69, 65, -1, 48],
        [69, 65, -1, 48],
    ]


def test_silence_around_a_piece_is_cut_off_and_ties_are_held():
    tied = voice("s", (None, 1), (67, 0.25), (67, 0.25), (None, 1))
    tied.notes[0].tie = music21.tie.Tie("start")
    tied.notes[1].tie = music21.tie.Tie("stop")
    assert corpus_worker.grid([tied]) == [[67], [67]]
    assert corpus_worker.grid([voice("s", (None, 4))]) == []


def names(*parts):
    chosen = corpus_worker.four_voices([music21.stream.Part(id=name) for name in parts])
    return chosen if isinstance(chosen, str) else [part.id for part in chosen]


def test_the_four_voices_are_found_among_the_instruments():
    satb = ["Soprano", "Alto", "Tenor", "Bass"]
    assert names("Horn 2", *satb, "Continuo") == satb
    assert names("Alto", "Bass", "Soprano", "Tenor") == satb
    doubled = ["Soprano Oboe 1 Violin1", "Alto Oboe 2 Viloin 2", "Tenor Viola", "Bass Continuo"]
    assert names("Trumpet 1", *doubled) == doubled
    assert names("spine_6", "spine_4", "spine_2", "spine_0")[0] == "spine_6"
    assert names("Soprano 1", "Soprano 2", "Alto", "Tenor", "Bass") == "2 parts named Soprano"
    assert names("P1-Staff1", "P1-Staff2") == "2 parts, not four voices"


@pytest.fixture
def cache(tmp_path, monkeypatch, parsed):
    """An empty cache, and a parse that takes no time; the list counts its calls."""
    calls = []

    def parse(only=(), progress=None):
        calls.append(only)
        return parsed

    monkeypatch.setenv("WHATWHERE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(corpus, "parse", parse)
    return tmp_path / "cache", calls


def test_the_corpus_is_parsed_once(cache, parsed):
    directory, calls = cache
    assert corpus.load() == corpus.load() == parsed
    assert len(calls) == 1
    (file,) = directory.iterdir()
    assert music21.__version__ in file.name


def test_a_cache_of_another_version_is_not_used(cache, monkeypatch):
    directory, calls = cache
    corpus.load()
    monkeypatch.setattr(corpus, "FORMAT", corpus.FORMAT + 1)
    corpus.load()
    monkeypatch.setattr(corpus, "version", lambda: "0.0")
    corpus.load()
    assert len(calls) == 3
    assert len(list(directory.iterdir())) == 3


@pytest.mark.parametrize("damage", [lambda text: text[:1000], lambda _: "", lambda _: "[]"])
def test_a_damaged_cache_is_made_again(cache, parsed, damage):
    directory, calls = cache
    corpus.load()
    (file,) = directory.iterdir()
    file.write_text(damage(file.read_text()))
    assert corpus.load() == parsed
    assert corpus.load() == parsed
    assert len(calls) == 2


def test_a_cache_that_cannot_be_written_costs_a_warning(cache, parsed, monkeypatch):
    directory, _ = cache
    directory.write_text("a file where the directory should be")
    with pytest.warns(UserWarning, match="set WHATWHERE_CACHE"):
        assert corpus.load() == parsed


def test_a_parse_that_is_interrupted_leaves_no_cache_and_no_worker(tmp_path, monkeypatch):
    monkeypatch.setenv("WHATWHERE_CACHE", str(tmp_path / "cache"))
    started = []
    popen = corpus.subprocess.Popen

    def remembered(*args, **options):
        started.append(popen(*args, **options))
        return started[-1]

    def interrupt(done, total):
        raise KeyboardInterrupt

    monkeypatch.setattr(corpus.subprocess, "Popen", remembered)
    with pytest.raises(KeyboardInterrupt) as caught:
        corpus.load(progress=interrupt)
    assert started
    assert caught.traceback  # keeps the frames, as a debugger does: their generators live on
    assert all(worker.poll() not in (None, 0) for worker in started)  # ended, and not by itself
    assert not (tmp_path / "cache").exists()


def test_a_worker_that_fails_says_why(monkeypatch, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit('the corpus is gone')")
    monkeypatch.setattr(corpus_worker, "__file__", os.fspath(broken))
    with pytest.raises(RuntimeError, match=r"(?s)could not read its corpus.*the corpus is gone"):
        corpus.parse()


def test_an_unknown_file_is_not_nothing():
    with pytest.raises(RuntimeError, match="gave 0 chorales"):
        corpus.parse(["bwv0.mxl"])


def test_without_music21_the_error_names_the_extra(monkeypatch):
    def missing(name):
        raise corpus.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(corpus.metadata, "version", missing)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'whatwhere\[study\]'"):
        chorales.load()


@pytest.mark.slow
def test_the_whole_corpus(tmp_path, monkeypatch):
    monkeypatch.setenv("WHATWHERE_CACHE", str(tmp_path))
    seen = []
    task = chorales.load(progress=lambda done, total: seen.append((done, total)))
    total = seen[-1][1]
    assert seen == [(done, total) for done in range(1, total + 1)]
    assert total >= 400  # 413 in music21 10.5.1
    pieces = {
        name: chorales.decode(stream, task.metadata["pitches"])
        for name, stream in task.splits().items()
    }
    counts = {name: len(grids) for name, grids in pieces.items()}
    assert counts == task.metadata["pieces"]
    assert counts["train"] > 3 * counts["test"] > 6 * counts["valid"] > 120
    melodies = {name: set(map(chorales.melody, grids)) for name, grids in pieces.items()}
    assert not melodies["train"] & melodies["test"]
    assert not melodies["train"] & melodies["valid"]
    assert not melodies["valid"] & melodies["test"]
    seen.clear()
    again = chorales.load(progress=lambda done, total: seen.append((done, total)))
    assert not seen  # from the cache
    assert all((again.splits()[name] == stream).all() for name, stream in task.splits().items())
