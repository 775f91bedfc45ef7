"""The figure and the page: complete, self-contained, and the same for the same rows."""

import html
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fresh import run_python
from made_rows import row, rows, write

from whatwhere import report
from whatwhere.report.blocks import blocks
from whatwhere.report.pages import rerun
from whatwhere.report.plot import _limits, apart
from whatwhere.report.style import styles


def test_png_and_svg_are_written_and_reproducible(tmp_path: Path) -> None:
    first = report.figure(rows(seeds=2), tmp_path / "a" / "figure")
    assert first == [tmp_path / "a" / "figure.png", tmp_path / "a" / "figure.svg"]
    again = report.figure(rows(seeds=2), tmp_path / "b" / "figure")
    assert first[1].read_bytes() == again[1].read_bytes()
    assert first[0].read_bytes().startswith(b"\x89PNG")


def test_a_block_in_which_all_failed_has_no_figure(tmp_path: Path) -> None:
    failed = [row("rope", 128, None, error="no")]
    assert report.figure(failed, tmp_path / "f") == []
    both = report.figure([*failed, *rows(), *(r | {"steps": 9} for r in rows())], tmp_path / "f")
    assert [path.name for path in both] == ["f.png", "f.svg", "f-2.png", "f-2.svg"]


@pytest.mark.parametrize("made", [[row("rope", 128, 0.5)], [row("rope", 512, 0.0)]])
def test_a_single_point_can_be_drawn(made: list[dict], tmp_path: Path) -> None:
    assert len(report.figure(made, tmp_path / "f")) == 2


def test_an_exploding_curve_is_clipped_and_labelled(tmp_path: Path) -> None:
    made = [*rows(), row("sinusoidal", 128, 0.8), row("sinusoidal", 512, 1e4)]
    (block,) = blocks(made)
    curves = {
        e: [(n, c.mean, 0.0) for n in block.lengths if (c := block.cell(e, n)).mean is not None]
        for e in block.encodings
    }
    low, high = _limits(block, curves)
    assert low < 0.69
    assert 1.7 <= high < 10
    # without it, everything is in view
    assert _limits(block, {"rope": curves["rope"]})[1] > 1.7
    assert len(report.figure(made, tmp_path / "f")) == 2


def test_labels_are_pushed_apart_within_the_plot() -> None:
    placed = apart([0.0, 0.01, 0.02, 0.5, 0.99, 1.0], gap=0.05)
    assert all(b - a >= 0.05 - 1e-6 for a, b in itertools.pairwise(placed))
    assert abs(placed[3] - 0.5) < 0.08
    assert apart([0.3]) == [0.3]


def test_an_encoding_keeps_its_colour() -> None:
    alone, among = styles(["pope"]), styles(["rope", "alibi", "pope", "rope+yarn"])
    assert alone["pope"].colour == among["pope"].colour == "#D55E00"
    assert alone["pope"].marker == among["pope"].marker
    assert among["rope"].colour == "#0072B2"
    assert styles(["cope"])["cope"].colour == styles(["rope", "cope"])["cope"].colour
    many = styles([f"rope(base={n})" for n in range(12)])
    assert len({style.colour for style in many.values()}) == 12
    assert styles(["rope(spectrum=yarn(factor=8))"])["rope(spectrum=yarn(factor=8))"].dash == "-"
    assert among["rope+yarn"].dash != "-"


class Outside(HTMLParser):
    """Collects what a page would load, and whether its tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value for key, value in attrs if key in ("src", "href") and value]
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def make_page(tmp_path: Path, made: list[dict], **more: str) -> str:
    figures = report.figure(made, tmp_path / "figure")
    path = report.page(made, tmp_path / "page.html", figures, **more)
    return path.read_text()


def test_the_page_is_one_file_with_everything(tmp_path: Path) -> None:
    text = make_page(tmp_path, rows(seeds=2), bibtex="@misc{rope,\n}")
    parser = Outside()
    parser.feed(text)
    assert parser.open == []
    assert len(parser.loads) == 1
    assert parser.loads[0].startswith("data:image/svg+xml;base64,")
    assert "url(" not in text
    assert "@import" not in text
    plain = html.unescape(re.sub(r"<[^>]+>", " ", text))
    for part in (
        *("0.715", "± 0.007", "weights: rope", "failed: position 255", "c0ffee", "torch 2.13.0"),
        *(
            "@misc{rope,",
            "whatwhere compare chorales --encodings",
            "width",
            "3 min 48 s",
        ),  # 6 trainings, 24 evaluations
    ):
        assert part in plain, part
    assert "Lowest negative log-likelihood in nats per note" in plain


def test_the_page_escapes_what_rows_say(tmp_path: Path) -> None:
    made = [row("rope", 128, 0.5), row("pope", 128, None, error="<script>alert(1)</script>")]
    assert "<script>" not in make_page(tmp_path, made)


def test_the_page_without_figures_and_with_bad_ones(tmp_path: Path) -> None:
    assert "<img" not in report.page(rows(), tmp_path / "p.html").read_text()
    with pytest.raises(ValueError, match=r"no \.svg or \.png"):
        report.page(rows(), tmp_path / "p.html", ["figure.gif"])


def test_the_command_that_measures_again_is_one_that_compare_reads() -> None:
    (block,) = blocks(rows(seeds=2))
    command = rerun(block)
    assert command is not None
    assert "--encodings rope,rope+yarn,pope,learned" in command
    assert "--seeds 0,1 " in command
    assert "--eval-lengths 128,256,512" in command
    assert "--steps 400" in command
    (one,) = blocks(rows())
    assert "--seeds 0, " in str(rerun(one))
    assert rerun(blocks([each | {"study": "other"} for each in rows()])[0]) is None
    from whatwhere.cli.compare import read_lengths, read_seeds, split_expressions

    assert split_expressions("rope,rope+yarn,pope,learned") == tuple(block.encodings)
    assert read_seeds("0,") == (0,)
    assert read_lengths("128,256,512", 128) == (128, 256, 512)


def test_report_needs_no_torch(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", rows())
    script = (
        "import sys\nfrom whatwhere import report\n"
        f"rows = report.read({str(path)!r})\n"
        "report.table(rows).markdown()\nassert 'matplotlib' not in sys.modules\n"
        f"report.page(rows, {str(tmp_path / 'p.html')!r}, "
        f"report.figure(rows, {str(tmp_path / 'f')!r}))\n"
        "assert 'torch' not in sys.modules\nprint('fine')"
    )
    assert run_python(script) == "fine\n"
