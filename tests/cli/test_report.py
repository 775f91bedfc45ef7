"""report: the same table, figure and page as the functions give, at the right places."""

from pathlib import Path

from made_rows import rows, write


def test_the_report_command(run, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", rows(), tail='{"torn')
    done = run("report", str(tmp_path))
    assert (done.code, done.err) == (0, "")
    names = [f"{tmp_path}/{name}" for name in ("figure.png", "figure.svg", "report.html")]
    assert done.out.splitlines()[-3:] == names
    assert "@inproceedings{pope," in Path(names[-1]).read_text()
    done = run("report", str(path), "--out", str(tmp_path / "pages" / "x.html"))
    assert (tmp_path / "pages" / "x.svg").exists()
    quiet = run("report", str(path), "--json")
    assert quiet.out.startswith("[\n")
    assert "cut off" in quiet.err
    assert "| `pope` |" in run("report", str(path), "--markdown").out
