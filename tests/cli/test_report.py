"""report: the same table, figure and page as the functions give, at the right places."""

import json
import os
from pathlib import Path

from made_claims import CLAIMS, made_rows, make
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


def test_a_folder_of_studies_gives_verdicts(run, tmp_path: Path) -> None:
    make(tmp_path, CLAIMS, None)
    done = run("report", str(tmp_path))
    assert (done.code, done.err) == (0, "")
    assert "13 claims: 13 not run." in done.out
    assert done.out.splitlines()[-1] == f"{tmp_path}/report.html"
    page = run("report", str(tmp_path / "made"), "--out", str(tmp_path / "one.html"))
    assert page.out.splitlines()[-1] == f"{tmp_path}/one.html"
    claims = json.loads(run("report", str(tmp_path), "--json").out)
    assert {each["verdict"] for each in claims} == {"not run"}
    assert "| rank not run | 1 |" in run("report", str(tmp_path), "--markdown").out


def test_figures_are_drawn_where_rows_have_none(run, tmp_path: Path) -> None:
    folder = make(tmp_path, CLAIMS, made_rows())
    run("report", str(tmp_path))
    assert (folder / "figure.svg").exists()
    assert "data:image/svg+xml" in (tmp_path / "report.html").read_text()
    before = (folder / "figure.svg").read_text()
    os.utime(folder / "figure.svg", (0, 0))  # older than its rows, as a clone may leave it
    run("report", str(tmp_path))
    assert (folder / "figure.svg").stat().st_mtime == 0, "what shows these rows is not drawn again"
    rows = folder / "rows.jsonl"
    rows.write_text(rows.read_text().replace('"value": 0.7', '"value": 0.9'))
    drawn = (folder / "figure.svg").stat().st_mtime
    os.utime(rows, (drawn + 1, drawn + 1))  # rows of a run that --minutes stopped
    run("report", str(tmp_path))
    assert (folder / "figure.svg").read_text() != before
    (folder / "paper.csv").write_text("study,claim\nmade,x\n")
    done = run("report", str(tmp_path))
    assert done.code == 2
    assert "paper.csv, line 2: there is no column 'kind'" in done.err
