"""Tables of a comparison: which row a cell shows, other ways of measuring, transformers' own."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from whatwhere.report.extension import extension
from whatwhere.report.extension_modes import agreement, modes, positions
from whatwhere.report.extension_page import extension_page
from whatwhere.report.extension_plot import extension_figures
from whatwhere.report.searches import searches


def row(method: str, length: int, perplexity: float, **changes: Any) -> dict[str, Any]:
    return {
        "study": "extend", "model": "tiny", "method": method, "encoding": f"rope+{method}",
        "engine": "whatwhere", "train_length": 512, "factor": 4.0, "task": "perplexity",
        "mode": "one_pass", "metric": "nll", "eval_length": length, "value": math.log(perplexity),
        "n": 4096, "seed": 0,
    } | changes  # fmt: skip


ROWS = [
    row("none", 512, 20.0), row("none", 1024, 60.0, factor=2.0), row("none", 2048, 200.0),
    row("yarn", 512, 21.0), row("yarn", 2048, 26.0), row("yarn", 1024, 22.0, factor=2.0),
    row("yarn", 2048, 99.0, factor=2.0, encoding="rope+x"),  # made for half of it
    row("none", 2048, 190.0, mode="streamed", stride=256),
    row("yarn", 2048, 26.0, mode="streamed", stride=256),
    row("yarn", 2048, 24.0, mode="sliding", stride=128),
    row("yarn", 1024, 23.0, mode="sliding", stride=128, factor=2.0),
    row("yarn", 2048, 26.0005, engine="transformers"),
    row("yarn", 1024, 22.0001, engine="transformers", factor=2.0),
    row("pi", 2048, 30.0, engine="transformers"),  # nothing of ours beside it
    row("yarn", 2048, 1.0, error="no memory", engine="transformers", mode="sliding"),
]  # fmt: skip
KEYS = [
    row(m, n, math.e, task="passkey", metric="accuracy", depth=d, factor=f) | {"value": v}
    for m, v in (("none", 0.0), ("yarn", 0.75))
    for n, f in ((512, 4.0), (1024, 2.0), (2048, 4.0))
    for d in (0.0, 1.0)
]


def printed(table: Any) -> str:
    console = Console(file=io.StringIO(), width=80)
    table.render(console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_cell_is_the_row_of_a_method_made_for_its_length() -> None:
    found = extension([*ROWS, *KEYS])
    none, yarn = found.lines
    assert found.targets == (1024, 2048)
    assert yarn.perplexity == pytest.approx((22.0, 26.0))
    assert yarn.short == pytest.approx(21.0)
    assert none.perplexity == pytest.approx((60.0, 200.0))
    assert (none.keys, yarn.keys) == ((0.0, 0.0), (0.75, 0.75))
    assert "| yarn | 21.00 | **22.00** | **26.00** | 75 75 |" in found.markdown()


def test_other_ways_of_measuring() -> None:
    found = modes(ROWS)
    assert found is not None
    assert found.columns == ("one_pass", "streamed", "sliding")
    none, yarn = dict(found.lines)["none"], dict(found.lines)["yarn"]
    assert none == pytest.approx((200.0, 190.0, None))
    assert yarn == pytest.approx((26.0, 26.0, 24.0))
    text = printed(found)
    for part in ("one pass", "190.00", "–", "256 tokens at a time", "after at least 1920"):
        assert part in text
    assert "| none | 200.00 | 190.00 | – |" in found.markdown()
    assert modes([each for each in ROWS if each["mode"] == "one_pass"]) is None


def test_how_far_transformers_own_code_is_from_ours() -> None:
    found = agreement(ROWS)
    assert found is not None
    assert (found.methods, found.rows, found.at) == (("yarn",), 2, ("yarn", 2048))
    assert found.worst == pytest.approx(5e-4, rel=1e-3)
    assert "at most 5.0e-04 from ours (yarn at 2048)" in found.sentence()
    assert agreement([each for each in ROWS if each["engine"] == "whatwhere"]) is None


def test_perplexity_by_position_is_of_the_longest_length() -> None:
    parts = {"positions": [0, 1024, 2048], "by_position": [math.log(25.0), math.log(400.0)]}
    rows = [
        row("none", 2048, 100.0, **parts), row("none", 1024, 60.0, factor=2.0, **parts),
        row("none", 2048, 1.0, mode="sliding", **parts), row("yarn", 2048, 1.0, error="x", **parts),
    ]  # fmt: skip
    assert positions(rows) == (["0–1024", "1024–2048"], [("none", ["25.00", "400.00"])])
    assert positions(ROWS) is None


def test_the_page_holds_every_table_and_figure(tmp_path: Path) -> None:
    figures = extension_figures([*ROWS, *KEYS], tmp_path)
    assert {file.name for file in figures} == {"figure.png", "figure.svg", "keys.png", "keys.svg"}
    page = extension_page([*ROWS, *KEYS], tmp_path / "report.html", figures, ["Take yarn."])
    text = page.read_text()
    for part in ("Take yarn.", "measured otherwise", "190.00", "5.0e-04", "26.00*"):
        assert part in text
    assert text.count("data:image/svg+xml") == 2


def test_searches_stand_beside_the_closed_forms() -> None:
    def of(method: str, windows: list[float], **changes: Any) -> dict[str, Any]:
        value = math.fsum(windows) / len(windows)
        return row(method, 2048, math.exp(value), study="search", role="held_out",
                   windows=windows, evaluations=90, optimizer="smooth") | changes  # fmt: skip

    rows = [of("ntk", [3.0, 3.4]), of("yarn", [2.0, 2.4]), of("longrope:smooth", [1.9, 2.2])]
    other = {"optimizer": "paper"}  # closed forms are measured again beside each search
    rows += [of("yarn", [2.0, 2.4], **other), of("longrope:paper", [2.1, 2.2], **other)]
    lines = searches(rows).splitlines()[2:]
    # differences 0.1 and 0.2: mean 0.15, standard error 0.0707 / sqrt(2) = 0.05
    assert lines == [
        "| 4× (2048) | ntk | – | 24.53 | – | – |",
        "| 4× (2048) | yarn | – | 9.03 | – | – |",
        "| 4× (2048) | longrope:paper | 90 | 8.58 | +0.0500 ± 0.1500 | – |",
        "| 4× (2048) | longrope:smooth | 90 | **7.77** | +0.1500 ± 0.0500 | +1.1500 ± 0.0500 |",
    ]
    with pytest.raises(ValueError, match="no measurement"):
        searches(ROWS)
