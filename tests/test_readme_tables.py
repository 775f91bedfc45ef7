"""The README's tables of numbers are what the rows in the repository say."""

import json

import pytest
from fresh import ROOT

from benchmarks import readme
from studies import readme as studies
from whatwhere import report
from whatwhere.report.speed import read_speed
from whatwhere.report.speed_plot import digest, drawn

README = (ROOT / "README.md").read_text()


def between(name: str) -> str:
    start, end = f"<!-- table:{name} -->\n", f"<!-- /table:{name} -->"
    assert README.count(start) == README.count(end) == 1
    return README.split(start)[1].split(end)[0].strip()


def test_speed() -> None:
    assert between("speed") == readme.table().strip()


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_figure_of_speeds_was_drawn_from_the_rows(suffix: str) -> None:
    figure = readme.FIGURE.with_suffix(f".{suffix}")
    assert f"({readme.FIGURE.relative_to(ROOT)}.png)" in README
    mark = digest(drawn(read_speed(readme.ROWS)))
    assert mark.encode() in figure.read_bytes(), "python -m benchmarks.readme --write draws it"


def test_chorales() -> None:
    assert (
        between("chorales")
        == report.table(report.read(ROOT / "studies/chorales")).markdown().strip()
    )


@pytest.mark.parametrize("name", ["pope_fused", "rope_cudnn"])
def test_the_rows_name_device_versions_and_commit(name: str) -> None:
    rows = [json.loads(line) for line in readme.ROWS.read_text().splitlines()]
    chosen = [row for row in rows if row.get("implementation") == name]
    assert chosen
    for row in chosen:
        assert row["device"] == "NVIDIA H200"
        assert row["versions"]["torch"]
        assert len(row["commit"]) >= 7


@pytest.mark.parametrize("name", sorted(studies.tables()))
def test_tables_of_the_extension_studies(name: str) -> None:
    assert between(name) == studies.tables()[name].strip(), "python studies/readme.py --write"
