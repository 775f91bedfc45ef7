"""What no claim asks for is shown as well, and the front page says what was not run."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from made_claims import CLAIMS, claim, made_rows, make
from made_rows import row
from matplotlib.axes import Axes
from rich.console import Console

from whatwhere import report
from whatwhere.report.beyond import groups, steps_to_solve
from whatwhere.report.claims_table import claims_markdown, claims_summary, render_claims
from whatwhere.report.study_parts import asked_of, asked_panels, position_panels
from whatwhere.report.study_plot import study_figures
from whatwhere.report.style import styles

EXTRA = [
    row("rope", 11, value, seed, metric="accuracy", run="rope_qk", probe="±3")
    for seed, value in enumerate((0.1, 0.95, 1.0))
]
CURVES = """run,seed,step,train_nll,valid_nll,valid_accuracy
rope,0,10,1.0,1.1,0.2
rope,0,20,0.9,1.0,0.91
rope,0,30,0.8,0.9,0.7
rope,1,30,0.8,0.9,0.3
"""


def test_a_group_is_a_line(tmp_path: Path) -> None:
    failed = row("rope", 11, None, 3, metric="accuracy", run="rope_qk", probe="±3", error="no")
    (found,) = groups([*EXTRA, failed, *made_rows()])  # rows without a run are others' business
    assert found.cells == (
        "rope_qk", "rope", "accuracy at 11, ±3", "3, 1 failed, 2 solved", "0.6833 ± 0.51",
        "0.1 … 1",
    )  # fmt: skip
    again = row("rope", 11, 0.9, 0, metric="accuracy", run="rope_qk", probe="±3")
    assert groups([*EXTRA, again])[0].values[0] == 0.9
    assert groups([row("rope", 11, 1.0, run="x", positions="0-4")]) == ()


def test_they_stand_behind_the_claims(tmp_path: Path) -> None:
    own = [each | {"run": "rope"} for each in made_rows() if each["encoding"] == "rope"]
    (study,) = report.verdicts(make(tmp_path, [claim("x", value=0.71)], own + EXTRA))
    runs = {(group.run, group.metric, group.eval_length) for group in study.beyond}
    assert runs == {("rope_qk", "accuracy", 11), ("rope", "nll", 256), ("rope", "accuracy", 128)}
    assert "| rope_qk | rope | accuracy at 11, ±3 | 3, 2 solved |" in claims_markdown([study])
    screen = Console(file=io.StringIO(), width=80, no_color=True)
    render_claims([study], screen)
    assert "beyond the claims:" in screen.file.getvalue()
    page = report.claims_page([study], tmp_path / "p.html").read_text()
    assert "Beyond the claims: 3 measurements" in page


def test_the_front_page_says_that_nothing_was_run(tmp_path: Path) -> None:
    text = claims_summary(report.verdicts(make(tmp_path, CLAIMS, None)))
    assert text.startswith("**Nothing of these papers has been run yet.** 13 claims: 13 not run.")
    assert "| claim |" not in text
    assert "* `made`, Made claims: 13 of 13 claims not run; what is missing needs about" in text


def test_the_front_page_shows_what_was_run(tmp_path: Path) -> None:
    text = claims_summary(report.verdicts(make(tmp_path, CLAIMS, made_rows())))
    assert "Nothing of these papers" not in text
    assert "| reproduced | 1 | 0.71 |" in text
    assert "| not run |" not in text
    assert "3 of 13 claims not run" in text


def test_steps_to_solve(tmp_path: Path) -> None:
    path = tmp_path / "curves.csv"
    path.write_text(CURVES)
    assert steps_to_solve(path) == {"rope": {"0": 20, "1": None}}
    folder = make(tmp_path, [claim("x", value=0.71)], [row("rope", 11, 0.5, run="rope",
                                                            metric="accuracy")])  # fmt: skip
    (folder / "curves.csv").write_text(CURVES)
    (study,) = report.verdicts(folder)
    assert study.notes == (
        "rope: 1 of 2 seeds get 90% of validation right, first at step 20",
    )  # fmt: skip


def test_figures_of_a_study(tmp_path: Path) -> None:
    curves = tmp_path / "curves.csv"
    curves.write_text(CURVES)
    rows = [
        row("rope", length, value, seed, run="s_rope")
        for length, value in ((16, 2.0), (32, 3.0))
        for seed in (0, 1)
    ]
    names = [path.name for path in study_figures(rows, curves, tmp_path / "a")]
    assert names == ["a.png", "a.svg", "a-curves.png", "a-curves.svg"]
    assert [p.name for p in study_figures(EXTRA, curves, tmp_path / "b")] == ["b.png", "b.svg"]
    first = (tmp_path / "a.svg").read_bytes()
    study_figures(rows, curves, tmp_path / "a")
    assert (tmp_path / "a.svg").read_bytes() == first
    assert study_figures(EXTRA, tmp_path / "none.csv", tmp_path / "c") == []


def test_what_a_mean_hides_is_a_figure(tmp_path: Path) -> None:
    """Loss by position in the longest pass, accuracy by what is asked; no lines of the table."""
    shifts = [
        row("pope", 11, 0.5, seed, metric="accuracy", run="pope_slow", probe=f"shift {s:+d}")
        for s in (-1, 0, 1)
        for seed in (0, 1)
    ]
    parts = [
        row("rope", 32, value, run="s_rope", data="books", train_length=16, positions=part)
        for part, value in (("0-16", 2.0), ("16-32", 2.5))
    ]
    assert groups([*shifts, *parts]) == ()
    assert asked_of(EXTRA[0]) is None  # "±3" is one probe, not one of a series
    none = tmp_path / "none.csv"
    drawn = study_figures([*shifts, *parts], none, tmp_path / "d")
    assert [path.name for path in drawn if path.suffix == ".svg"] == [
        "d-positions.svg",
        "d-asked.svg",
    ]
    assert len(asked_panels(shifts)) == len(position_panels(parts)) == 1


def test_other_targets_are_another_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line through lengths of two evaluations would join losses of different targets."""
    rows = [
        row("rope", length, 2.0 + far, run="s_rope", **({"probe": "to 32k"} if far else {}))
        for far, lengths in ((0, (16, 32)), (1, (16, 64)))
        for length in lengths
    ]
    titles: list[str] = []
    monkeypatch.setattr(Axes, "set_title", lambda _, text: titles.append(text))
    study_figures(rows, tmp_path / "none.csv", tmp_path / "e")
    assert titles == ["the same targets at every length", f"to 32k: {titles[0]}"]


def test_a_curve_has_its_encoding_s_colour_wherever_the_data_s_name_stands(tmp_path: Path) -> None:
    curves = tmp_path / "curves.csv"
    for run, data in (("rope_books@0.1", "books"), ("jsb_rope", "jsb")):
        curves.write_text(CURVES.replace("rope", run))
        (_, svg) = study_figures([row("rope", 16, 2.0, run=run, data=data)], curves, tmp_path / "a")
        assert styles(["rope"])["rope"].colour.lower() in svg.read_text().lower(), run
