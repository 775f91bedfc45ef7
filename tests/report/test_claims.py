"""Verdicts: every one from made rows, and nothing claimed that rows do not carry."""

import html
import io
import json
import re
from pathlib import Path

import pytest
from fresh import ROOT, run_python
from made_claims import CLAIMS, RANK, RULE, claim, made_rows, make
from made_rows import row
from rich.console import Console

from whatwhere import report
from whatwhere.encodings import parse
from whatwhere.report.claims import Judged
from whatwhere.report.claims_table import claims_markdown, claims_records, render_claims
from whatwhere.report.paper import read_paper

EXPECTED = {
    "reproduced": ("reproduced", ""),
    "better": ("better", ""),
    "not reproduced": ("not reproduced", ""),
    "wide": ("undecided", "the interval crosses the tolerance"),
    "one seed": ("undecided", "1 of 3 seeds"),
    "failed": ("undecided", "seed 1 failed"),
    "not run": ("not run", "no row of alibi fits"),
    "no estimate": ("not run", "no row of cope fits"),
    "rank reproduced": ("reproduced", ""),
    "rank contradicted": ("not reproduced", ""),
    "rank undecided": ("undecided", "the interval crosses the tolerance"),
    "rank not run": ("not run", "no row of alibi fits"),
    "percent": ("reproduced", ""),
}


def judged(root: Path, lines: list[dict], rows: list[dict] | None, rule: str = RULE) -> Judged:
    """The verdict on the first claim."""
    (study,) = report.verdicts(make(root, lines, rows, rule))
    return study.judged[0]


@pytest.mark.parametrize("name", EXPECTED)
def test_every_verdict(name: str, tmp_path: Path) -> None:
    (line,) = (each for each in CLAIMS if each["claim"] == name)
    found = judged(tmp_path, [line], made_rows())
    assert (found.verdict, found.reason) == EXPECTED[name]


def test_numbers_are_those_of_the_rows(tmp_path: Path) -> None:
    found = judged(tmp_path, [claim("x", value=0.71)], made_rows())
    assert dict(found.ours) == {0: 0.700, 1: 0.710, 2: 0.715}
    assert found.difference is not None
    # mean -0.001667, s = 0.007638, t(2) = 4.302653: ± 0.018973
    ends = (found.difference.mean, found.difference.low, found.difference.high)
    assert ends == pytest.approx((-0.0016667, -0.0206397, 0.0173063), abs=1e-6)
    assert (found.seeds_missing, found.hours) == (0, 0)


def test_one_seed_shows_its_difference_and_claims_nothing(tmp_path: Path) -> None:
    (study,) = report.verdicts(make(tmp_path, CLAIMS, made_rows()))
    (record,) = (r for r in claims_records([study]) if r["claim"] == "one seed")
    assert record["ours"] == {"mean": 0.8, "std": None, "n_seeds": 1, "values": {"0": 0.8}}
    assert record["difference"] == {"mean": pytest.approx(0.01), "low": None, "high": None}
    assert (record["verdict"], record["seeds_missing"], record["hours_missing"]) == (
        "undecided", 2, 1.0,
    )  # fmt: skip


def test_more_seeds_than_the_least_can_not_be_decided_by_fewer(tmp_path: Path) -> None:
    two = [each for each in made_rows() if each["seed"] < 2]
    assert judged(tmp_path, [claim("x", value=0.705)], two).reason == "2 of 3 seeds"


def test_higher_turns_the_sides_round(tmp_path: Path) -> None:
    lines = [claim("x", metric="accuracy", better="higher", value=value, tolerance=0.02)
             for value in (0.5, 0.95, 0.999)]  # fmt: skip
    found = [judged(tmp_path / str(n), [line], made_rows()) for n, line in enumerate(lines)]
    # ours 0.94, 0.95, 0.96: ± 0.0248 is wider than the tolerance of the middle one
    assert [each.verdict for each in found] == ["better", "undecided", "not reproduced"]


def test_a_tolerance_below_the_papers_own_uncertainty_is_refused(tmp_path: Path) -> None:
    """s = 0.05 over 3 seeds: 4.3027 · 0.05 / √3 = 0.1242."""
    line = claim("x", value=0.71, spread=0.05, spread_seeds=3, tolerance=0.124)
    with pytest.raises(ValueError, match=r"uncertain by 0\.124: give at least that"):
        judged(tmp_path, [line], made_rows())
    assert judged(tmp_path, [line | {"tolerance": "0.125"}], made_rows()).verdict == "reproduced"


def test_a_negative_margin_asks_for_no_worse(tmp_path: Path) -> None:
    lines = {
        margin: [claim("x", "rope", other="pope", **RANK | {"tolerance": str(margin)})]
        for margin in (0, -0.2)
    }
    found = {m: judged(tmp_path / f"{m}", line, made_rows()) for m, line in lines.items()}
    assert (found[0].verdict, found[-0.2].verdict) == ("not reproduced", "reproduced")


def test_a_margin_that_is_missed_is_not_reproduced(tmp_path: Path) -> None:
    """pope is better by 0.099 ± 0.003: by more than 0.05, but not by 0.2."""
    lines = {t: [claim("x", "pope", other="rope", **RANK | {"tolerance": t})]
             for t in ("0.05", "0.2")}  # fmt: skip
    found = [judged(tmp_path / t, line, made_rows()).verdict for t, line in lines.items()]
    assert found == ["reproduced", "not reproduced"]


def test_rankings_compare_the_same_seeds(tmp_path: Path) -> None:
    made = [each for each in made_rows() if (each["encoding"], each["seed"]) != ("pope", 1)]
    found = judged(tmp_path, [claim("x", "pope", other="rope", **RANK)], made)
    assert (found.verdict, found.reason) == ("undecided", "2 of 3 seeds")
    assert found.difference is not None
    assert found.difference.mean == pytest.approx(-0.099)


def test_the_other_side_may_have_another_length(tmp_path: Path) -> None:
    line = claim("pope holds", "pope", other="pope", at=256, **RANK | {"tolerance": "-0.2"})
    found = judged(tmp_path, [line | {"other.eval_length": "128"}], made_rows())
    assert set(found.other.values()) == {0.6, 0.611, 0.617}
    assert found.verdict == "reproduced"


def test_rows_of_several_settings_are_not_seeds_of_one(tmp_path: Path) -> None:
    made = [*made_rows(), row("rope", 128, 0.71, 3, steps=800)]
    found = judged(tmp_path, [claim("x", value=0.71)], made)
    assert (found.verdict, found.reason) == (
        "undecided", "the rows differ in steps: pin it in paper.csv",
    )  # fmt: skip
    pinned = judged(tmp_path, [claim("x", value=0.71) | {"row.steps": "400"}], made)
    assert pinned.verdict == "reproduced"
    option = judged(tmp_path, [claim("x", value=0.71) | {"row.width": "97"}], made)
    assert option.verdict == "not run"


def test_a_repeated_seed_counts_once_and_a_mended_one_has_not_failed(tmp_path: Path) -> None:
    made = [*made_rows(), row("t5", 128, 0.8, 1), row("t5", 128, 0.8, 1)]
    found = judged(tmp_path, [claim("x", "t5", value=0.80)], made)
    assert (found.verdict, len(found.ours)) == ("reproduced", 3)
    assert found.reason == "all seeds gave the same value"


def test_a_row_of_another_training_or_of_a_probe_is_no_seed_of_a_claim(tmp_path: Path) -> None:
    """QK-norm, a share of the steps, other examples: rows that only look like the paper's."""
    own = [each | {"run": "rope"} for each in made_rows()]
    strange = [
        row("rope", 128, 9.0, 3, run="rope_qk"),
        row("rope", 128, 9.0, 3, run="rope@0.1", steps=40),
        row("rope", 128, 9.0, 3, run="rope", probe="padded"),
    ]
    found = judged(tmp_path, [claim("x", value=0.71)], own + strange)
    assert (found.verdict, len(found.ours)) == ("reproduced", 3)
    only = judged(tmp_path / "only", [claim("x", value=0.71)], strange)
    assert (only.verdict, only.reason) == ("not run", "no row of rope fits")
    asked = claim("x", value=9.0) | {"row.probe": "padded"}
    assert judged(tmp_path / "asked", [asked], own + strange).reason == "1 of 3 seeds"


@pytest.mark.parametrize("content", ["", '{"encoding": "ro'])
def test_a_run_that_was_killed_before_its_first_row_has_none(tmp_path: Path, content: str) -> None:
    folder = make(tmp_path, [claim("x", value=0.71)], None)
    (folder / "rows.jsonl").write_text(content)
    (study,) = report.verdicts(folder)
    assert (study.judged[0].verdict, study.judged[0].reason) == ("not run", "no rows yet")


def test_a_speed_is_compared_on_one_device(tmp_path: Path) -> None:
    speed, numbers = "train_tokens_per_second", (100.0, 101.0, 102.0)
    line = claim("x", "pope", "rope pope", other="rope", metric=speed, better="higher", **RANK)

    def rows(device: str) -> list[dict]:
        slow = [row("rope", 128, v, s, metric=speed) for s, v in enumerate(numbers)]
        return slow + [dict(r, encoding="pope", value=2 * r["value"], device=device) for r in slow]

    assert judged(tmp_path, [line], rows("a test")).verdict == "reproduced"
    found = judged(tmp_path, [line], rows("a faster one"))
    why = "measured on a faster one and a test: one device compares"
    assert (found.verdict, found.reason) == ("undecided", why)
    loss = [dict(r, metric="nll") for r in rows("a faster one")]
    assert judged(tmp_path, [dict(line, metric="nll")], loss).verdict == "reproduced"


def test_the_bootstrap_where_it_is_asked_for(tmp_path: Path) -> None:
    rule = RULE.replace('"t"', '"bootstrap"').replace("seeds = 3", "seeds = 5")
    made = [row("rope", 128, value, seed) for seed, value in enumerate((1, 1, 1, 1, 9))]
    found = judged(tmp_path, [claim("x", value=4, tolerance=3)], made, rule)
    assert found.difference is not None
    assert found.difference.low == -3  # resamples of ones only; Student's would be -5.8
    assert found.verdict == "reproduced"
    with pytest.raises(ValueError, match=r"claims\.toml: seeds is 3; .* bootstrap wants 5"):
        judged(tmp_path, [claim("x", value=4)], made, RULE.replace('"t"', '"bootstrap"'))


def test_perplexity_is_taken_seed_by_seed(tmp_path: Path) -> None:
    made = [row("rope", 128, value, seed) for seed, value in enumerate((0.0, 1.0, 1e6))]
    found = judged(tmp_path, [claim("x", value=2, **{"as": "perplexity"})], made)
    assert [found.ours[0], found.ours[1]] == pytest.approx([1.0, 2.718281828])
    assert found.verdict == "undecided"


def test_trainings_are_counted_once(tmp_path: Path) -> None:
    (study,) = report.verdicts(make(tmp_path, CLAIMS, None))
    assert {each.verdict for each in study.judged} == {"not run"}
    assert (study.hours, study.unknown) == (3 * 0.5 + 3 * 2, 1)


BAD = [
    ({"kind": "valeu"}, "did you mean 'value'"),
    ({"better": "up"}, "unknown better 'up'"),
    ({"value": "much"}, "value is 'much'"),
    ({"value": ""}, "value is missing"),
    ({"tolerance": "0"}, "tolerance is '0'"),
    ({"runs": "ropf"}, "unknown run 'ropf'; did you mean 'rope'"),
    ({"other": "pope"}, "other is 'pope', but must be empty"),
    ({"spread": "1"}, "belong together"),
    ({"study": "moon"}, "the folder is 'made'"),
    ({"valeu": "1"}, "unknown column 'valeu'; did you mean 'value'"),
    ({"rows.steps": "1"}, "unknown column 'rows.steps'. Known: other.KEY, row.KEY"),
    ({"table": ""}, "table is missing"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_claims_that_can_not_be_meant_are_refused(
    change: dict[str, str], message: str, tmp_path: Path
) -> None:
    folder = make(tmp_path, [claim("x", value=0.7) | change], None)
    with pytest.raises(ValueError, match=r"paper\.csv, line 2") as refused:
        read_paper(folder)
    assert message in str(refused.value)


def test_a_study_without_its_rule_is_refused(tmp_path: Path) -> None:
    folder = make(tmp_path, [claim("x", value=0.7)] * 2, None)
    with pytest.raises(ValueError, match="stands there twice"):
        read_paper(folder)
    (folder / "claims.toml").write_text(RULE.replace("seeds", "seed"))
    with pytest.raises(ValueError, match="did you mean 'seeds'"):
        read_paper(folder)
    (folder / "claims.toml").unlink()
    with pytest.raises(FileNotFoundError, match="the rule is missing"):
        report.verdicts(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no folder with a paper\.csv"):
        report.verdicts(tmp_path / "nowhere")


def test_the_terminal_table_fits_and_says_all(tmp_path: Path) -> None:
    studies = report.verdicts(make(tmp_path, CLAIMS, made_rows()))
    screen = Console(file=io.StringIO(), width=80, no_color=True)
    render_claims(studies, screen)
    text = screen.file.getvalue()
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines())
    flat = " ".join(text.split())
    assert "13 claims: 3 reproduced, 1 better, 2 not reproduced, 4 undecided, 3 not run." in flat
    assert "hours unknown" in flat


def test_markdown_and_records(tmp_path: Path) -> None:
    studies = report.verdicts(make(tmp_path, CLAIMS, made_rows()))
    text = claims_markdown(studies)
    assert (
        "| not reproduced | 1 and 9 | 0.5 | 0.7083 ± 0.0076 (3) "
        "| +0.208 [+0.189, +0.227] | not reproduced |"
    ) in text
    assert "| not run | 1 | 0.7 | – | – | not run: no row of alibi fits; 7.5 h |" in text
    records = json.loads(json.dumps(claims_records(studies), allow_nan=False))
    assert {r["claim"]: r["verdict"] for r in records} == {k: v for k, (v, _) in EXPECTED.items()}
    assert [r["page"] for r in records][:3] == [None, None, "7"]


def test_the_page_has_every_verdict_and_loads_nothing(tmp_path: Path) -> None:
    folder = make(tmp_path, [claim("<b>", value=0.7), *CLAIMS], made_rows())
    (folder / "figure.svg").write_text("<svg/>")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "figure.svg").write_text("<svg/>")
    page = report.claims_page(
        report.verdicts(tmp_path), tmp_path / "p.html", figures_under=tmp_path
    )
    text = page.read_text()
    assert text.count("data:image/svg+xml") == 2
    assert "http" not in text
    assert "<b>" not in text
    plain = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())
    for part in ("● not reproduced", "seed 1 failed", "tolerance 0.05", "table 1 and 9, p. 7",
                 "undecided fewer seeds than the rule asks for", "rope : 3 seeds"):  # fmt: skip
        assert part.replace("● ", "").replace(" :", ":") in plain, part


def test_verdicts_need_no_torch(tmp_path: Path) -> None:
    make(tmp_path, CLAIMS, made_rows())
    script = (
        "import sys\nfrom whatwhere import report\n"
        f"report.claims_page(report.verdicts({str(tmp_path)!r}), {str(tmp_path / 'p.html')!r})\n"
        "assert not {'torch', 'matplotlib'} & set(sys.modules)\nprint('fine')"
    )
    assert run_python(script) == "fine\n"


STUDIES = report.study_folders(ROOT / "studies")


@pytest.mark.parametrize("folder", STUDIES, ids=lambda folder: folder.name)
def test_the_studies_here_can_be_judged(folder: Path) -> None:
    (study,) = report.verdicts(folder)
    paper, readme = study.paper, (folder / "README.md").read_text()
    assert paper.rule.seeds >= 3
    # The others go beyond the paper; tests/study/test_cells.py asks that each is a cell.
    assert {name for each in paper.claims for name in each.runs} <= set(paper.runs)
    for each in paper.claims:
        for text in filter(None, (each.encoding, each.other)):
            assert parse(text).text == text  # rows carry the canonical expression
    assert f"whatwhere report studies/{folder.name}" in readme


@pytest.mark.parametrize(
    ("study", "name", "value"),
    [  # read from the papers' tables, apart from the files
        ("pope_table_1", "PoPE, uniform delta", 94.82),
        ("pope_table_2", "JSB, PoPE", 0.4889),
        ("pope_table_3", "hg38, RoPE", 4.217),
        ("pope_table_4_5", "774M, PoPE", 15.45),
        ("pope_table_4_5", "124M, PoPE, CBT", 44.43),
        ("alibi_figure_1", "sinusoidal at 16,024", 453.32),
    ],
)
def test_published_numbers(study: str, name: str, value: float) -> None:
    claims = {each.name: each for each in read_paper(ROOT / "studies" / study).claims}
    assert claims[name].value == value
