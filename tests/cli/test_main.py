"""The command line as a whole: usage errors, exit codes, help."""

import pytest

COMMANDS = ("ls", "explain", "angles", "show", "compare", "report", "cite")


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_examples(run, command) -> None:
    done = run(command, "--help")
    assert done.code == 0
    assert f"whatwhere {command} " in done.out.partition("Examples:")[2]


def test_help_lists_every_command(run) -> None:
    out = run("--help").out
    assert all(f"\n  {command} " in out for command in COMMANDS)


def test_version(run) -> None:
    from whatwhere import __version__

    assert run("--version").out == f"whatwhere {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["explian", "rope"], "'explain'"),
        (["angles", "yarn", "--dmi", "8"], "--dim"),
        (["angles"], "Missing argument"),
        (["angles", "yarn", "--dim", "many"], "--dim"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_usage_is_two_lines_and_points_to_help(run, arguments, message) -> None:
    done = run(*arguments)
    assert done.code == 2
    assert message in done.err
    assert done.err.count("\n") == 2
    assert done.err.rstrip().endswith("--help")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ls", "encoding"], "did you mean 'encodings'?"),
        (["ls", "tasks", "--markdown"], "ls backends --markdown"),
        (["explain", "rop"], "did you mean 'rope'?"),
        (["explain", "rope+yarm"], "did you mean 'yarn'?"),
        (["explain", "yarn"], "rope+yarn"),
        (["explain", "alibi+yarn"], "has none"),
        (["explain", "rope(layuot=half)"], "did you mean 'layout'?"),
        (["explain", "rope(("], "can not read"),
        (["explain", "rope", "--device", "cupu"], "did you mean 'cpu'?"),
        (["explain", "rope", "--length", "0"], "length is 0"),
        (["explain", "rope", "--head-dim", "7"], "7"),
        (["cite", "ropee"], "did you mean 'rope'?"),
        (["cite", "no/such/rows.jsonl"], "no such file"),
        (["report", "no/such"], "no such file"),
        (["report", ".", "--out", "page.pdf"], ".html"),
        (["show", "rope", "--out", "x.gif"], ".png"),
        (["show", "rope", "--out", "x.png", "--kind", "angel"], "did you mean 'angles'?"),
        (["show", "rope", "--out", "x.png", "--factor", "0"], "at least 1"),
        (["show", "rope", "--out", "x.png", "--length", "999999999"], "2 to 65536"),
        (["show", "alibi", "--out", "x.png", "--kind", "angles"], "nothing turns"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(run, arguments, message, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert done.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_fault_of_ours_is_not_hidden(monkeypatch) -> None:
    from whatwhere import cli, report

    def broken(_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(report, "read", broken, raising=False)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["report", "."])
