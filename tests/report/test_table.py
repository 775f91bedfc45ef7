"""Reading rows and the table: nothing is invented, nothing is lost."""

import io
import json
import statistics
from pathlib import Path

import pytest
from made_rows import LENGTHS, row, rows, write
from rich.console import Console

from whatwhere import report
from whatwhere.report.blocks import blocks


def rendered(made: list[dict], width: int = 80) -> str:
    screen = Console(file=io.StringIO(), width=width, no_color=True)
    report.table(made).render(screen)
    return screen.file.getvalue()


def line_of(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(start))


def test_reading_a_file_and_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", rows())
    assert report.read(tmp_path) == report.read(tmp_path / "rows.jsonl") == rows()
    assert report.read(str(tmp_path)).notes == []


def test_a_torn_last_line_is_left_out_and_said(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", rows(), tail='{"study": "comp')
    found = report.read(path)
    assert found == rows()
    assert found.notes == ["rows.jsonl: the last line is cut off and was left out"]
    assert "cut off" in rendered(found)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"broken\n{}\n', "line 1: no JSON object"),
        ("[1]\n", "line 1: a row is a JSON object, not list"),
        ("{}\n", "line 1: the row has no 'encoding'"),
        (json.dumps(row("rope", 128, None)) + "\n", "neither value nor error"),
        (json.dumps(row("rope", 128, 1.0)).replace("1.0", "NaN") + "\n", "value is nan"),
        (json.dumps(row("rope", 0, 1.0)) + "\n", "eval_length is 0"),
        ("\n", "no rows"),
        ('{"torn', "no rows"),
    ],
)
def test_what_is_no_row_is_refused_with_its_line(tmp_path: Path, lines: str, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(lines)
    with pytest.raises(ValueError, match=r"rows\.jsonl") as refused:
        report.read(path)
    assert message in str(refused.value)


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        report.read(tmp_path / "none.jsonl")
    with pytest.raises(FileNotFoundError, match=r"no rows\.jsonl"):
        report.read(tmp_path)


def test_one_seed() -> None:
    text = rendered(rows())
    assert line_of(text, "rope ").split() == ["rope", "0.700", "1.200", "1.700", "+1.000"]
    assert line_of(text, "pope ").split() == ["pope", "0.690*", "0.710*", "0.730*", "+0.040"]
    assert line_of(text, "evaluated at").split() == [
        "evaluated",
        "at",
        "128",
        "256",
        "512",
        "to",
        "4×",
    ]
    assert "weights: rope" in text
    assert text.count("weights:") == 1  # the others are their own
    assert "±" not in text


def test_failures_are_footnotes_and_not_numbers() -> None:
    text = rendered(rows())
    assert line_of(text, "learned").split() == ["learned", "0.800", "failed(1)", "failed(1)", "–"]
    assert "(1) failed: position 255 is outside the table" in text


def test_missing_stays_missing() -> None:
    made = [each for each in rows() if (each["encoding"], each["eval_length"]) != ("rope", 256)]
    assert line_of(rendered(made), "rope ").split() == ["rope", "0.700", "–", "1.700", "+1.000"]
    assert not any(
        record["encoding"] == "rope" and record["eval_length"] == 256
        for record in report.table(made).records()
    )


def test_seeds_give_mean_and_standard_deviation() -> None:
    made = rows(seeds=3)
    values = [each["value"] for each in made if each["encoding"] == "pope"][0::3]
    values = [e["value"] for e in made if (e["encoding"], e["eval_length"]) == ("pope", 256)]
    (record,) = (
        each
        for each in report.table(made).records()
        if (each["encoding"], each["eval_length"]) == ("pope", 256)
    )
    assert record["mean"] == pytest.approx(statistics.fmean(values))
    assert record["std"] == pytest.approx(statistics.stdev(values))
    assert record["n_seeds"] == 3
    assert record["best"]
    text = rendered(made)
    assert "0.720*" in line_of(text, "pope")
    assert "± 0.010" in text
    assert "mean ± standard deviation over 3 seeds" in text


def test_a_cell_with_fewer_seeds_is_marked() -> None:
    made = [
        each
        for each in rows(seeds=3)
        if (each["encoding"], each["eval_length"], each["seed"]) != ("rope", 256, 2)
    ]
    text = rendered(made)
    assert "1.205†" in line_of(text, "rope ")
    assert "† fewer than 3 seeds" in text


def test_the_change_compares_the_same_seeds() -> None:
    made = [
        each
        for each in rows(seeds=2)
        if (each["encoding"], each["eval_length"], each["seed"]) != ("rope", 512, 1)
    ]
    (block,) = blocks(made)
    assert block.change("rope") == pytest.approx(1.0)
    assert block.change("learned") is None


def test_of_repeated_measurements_the_last_counts_and_it_is_said() -> None:
    made = [*rows(), row("learned", 256, 0.9)]  # measured again, this time without failing
    text = rendered(made)
    assert line_of(text, "learned").split()[2] == "0.900"
    assert "1 measurement is repeated" in text


def test_unlike_things_do_not_share_a_column() -> None:
    made = [*rows(), *(each | {"steps": 800} for each in rows())]
    made += [each | {"options": {**each["options"], "width": 256}} for each in rows()]
    found = report.table(made)
    assert len(found.grids) == 3
    assert [grid.title.partition("one pass")[2] for grid in found.grids] == [
        ", steps 400, width 96",
        ", steps 800, width 96",
        ", steps 400, width 256",
    ]


def test_equal_values_share_the_star_and_one_encoding_gets_none() -> None:
    made = [row("rope", 128, 0.5), row("pope", 128, 0.50004), row("alibi", 128, 0.6)]
    assert [r["best"] for r in report.table(made).records()] == [True, True, False]
    assert "*" not in rendered([row("rope", 128, 0.5)])


def test_accuracy_is_better_when_larger() -> None:
    made = [row("rope", 128, 0.5, metric="accuracy"), row("pope", 128, 0.6, metric="accuracy")]
    assert [r["best"] for r in report.table(made).records()] == [False, True]


def test_markdown_has_the_same_cells() -> None:
    text = report.table(rows(seeds=2)).markdown()
    assert "| `rope+yarn` | `rope` | 0.715 ± 0.007 |" in text
    assert "| **0.695 ± 0.007** |" in text
    assert "| failed<sup>(1)</sup> |" in text
    assert "(1) failed: position 255 is outside the table" in text


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_every_column_is_shown_at_any_width(width: int) -> None:
    made = [row("rope", 128 * 2**step, 1.0 + step) for step in range(9)]
    made += [row("rope(spectrum=yarn(factor=8))+dual_chunk+logn", 128, 0.5)]
    text = rendered(made, width)
    assert all(len(line.rstrip()) <= width for line in text.splitlines()[1:])
    assert all(f"{1.0 + step:.3f}" in text for step in range(9))


def test_encodings_in_their_order() -> None:
    assert report.expressions(rows()) == ["rope", "rope+yarn", "pope", "learned"]
    assert tuple(blocks(rows())[0].lengths) == LENGTHS
