"""`whatwhere compare` from the command line: what it reads, writes, refuses and returns."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from fresh import ROOT

from whatwhere.cli import main
from whatwhere.cli.compare import read_lengths, read_seeds, split_expressions

SIZES = [
    *("--train-length=8", "--eval-lengths=1x,4x", "--width=8", "--layers=1", "--heads=2"),
    *("--batch-size=2", "--eval-tokens=64"),
]


@pytest.fixture
def text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    words = random.Random(3).choices(["where", "what", "there", "that", "then"], k=700)
    (tmp_path / "words.txt").write_text(" ".join(words))
    return "words.txt"


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as exit_:
        main(["compare", *arguments])
    out, err = capsys.readouterr()
    return exit_.value.code, out, err


def test_a_text_is_compared(text, tmp_path, capsys):
    arguments = ("--text", text, *SIZES, "--steps=3", "--encodings=rope,rope+yarn,learned")
    code, out, err = run(capsys, *arguments)
    assert code == 1  # the learned table ends at 8
    assert "outside the learned table of 8 positions" in err
    made = tmp_path / "results" / "text-words"
    names = ("rows.jsonl", "report.html", "figure.png", "figure.svg", "curves.csv")
    assert all((made / name).stat().st_size > 0 for name in names)
    assert "rope+yarn" in out
    assert "results/text-words/rows.jsonl" in out
    rows = (made / "rows.jsonl").read_text()
    assert rows.count("\n") == 6
    # Again, with a part of it: nothing is measured twice, and all is well.
    code, out, err = run(capsys, "--text", text, *SIZES, "--steps=3", "--encodings=rope")
    assert (code, err) == (0, "")
    assert (made / "rows.jsonl").read_text() == rows
    code, _, err = run(capsys, "--text", text, *SIZES, "--steps=4")
    assert code == 2
    assert "steps was 3 and is now 4" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["choral"], "unknown task 'choral'; did you mean 'chorales'?"),
        ([], "or --text FILE, one of the two"),
        (["chorales", "--text=words.txt"], "one of the two"),
        (["--text=words.txt", "--encodings=rope,alibbi"], "did you mean 'alibi'?"),
        (["--text=words.txt", "--encodings=rope(layuot=half)"], "did you mean 'layout'?"),
        (["--text=words.txt", "--encodings=,"], "--encodings is ','"),
        (["--text=words.txt", "--steps=0"], "steps is 0"),
        (["--text=words.txt", "--seeds=x"], "--seeds is 'x'"),
        (["--text=words.txt", "--eval-lengths=1x,y"], "'y' is no length"),
        (["--text=words.txt", "--widht=3"], "--width"),
        (["--text=words.txt"], "test split has 189 tokens"),
        (["--text=missing.txt"], "'missing.txt': there is no such file"),
        (["--text=words.txt", "--device=gpu"], "--device gpu can not be used"),
        (["--text=words.txt", *SIZES, "--out=words.txt"], "--out words.txt is a file"),
    ],
)
def test_bad_usage_exits_with_2_and_leaves_nothing(text, tmp_path, capsys, arguments, message):
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert message in " ".join(err.split())
    assert [entry.name for entry in tmp_path.iterdir()] == [text]


def test_expressions_are_split_outside_brackets():
    text = "rope(layout=half, partial=0.5)+yarn, pope ,rope(spectrum=longrope(long_factor=[1,2]))"
    assert split_expressions(text) == (
        "rope(layout=half, partial=0.5)+yarn",
        "pope",
        "rope(spectrum=longrope(long_factor=[1,2]))",
    )


def test_seeds_and_lengths():
    assert read_seeds("3") == (0, 1, 2)
    assert read_seeds("7,") == (7,)
    assert read_seeds("4, 1") == (4, 1)
    assert read_seeds("0,5-7") == (0, 5, 6, 7)
    assert read_lengths("96, 4x", 64) == (96, 256)
    for bad in ("", "0", "-1", "1,-1", "7-5", "two"):
        with pytest.raises(ValueError, match="--seeds is"):
            read_seeds(bad)
    for bad in ("", "0x", "x", "-4", "1.5x"):
        with pytest.raises(ValueError, match="--eval-lengths is"):
            read_lengths(bad, 64)


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT")
def test_ctrl_c_saves_says_how_to_go_on_and_exits_with_130(text, tmp_path):
    command = ["compare", "--text", text, *SIZES, "--steps=1000000", "--out=o", "--encodings=rope"]
    process = subprocess.Popen(
        [sys.executable, "-m", "whatwhere.cli", *command],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    try:
        while not (tmp_path / "o" / "config.json").exists():
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "go on with" in err
    assert "whatwhere compare --text words.txt" in err
    assert "--steps=1000000" in err
    assert (tmp_path / "o" / "checkpoints" / "rope.seed0.pt").exists()
