"""The README's table and figure of speeds, from the committed rows.

python -m benchmarks.readme            # prints the table
python -m benchmarks.readme --write    # puts it into README.md and draws benchmarks/speed.*
"""

from __future__ import annotations

import argparse
from pathlib import Path

from whatwhere.report.speed import markdown, read_speed
from whatwhere.report.speed_plot import speed_figure

HERE = Path(__file__).parent
ROWS = HERE / "rows" / "attention-h200.jsonl"
FIGURE = HERE / "speed"
SHOWN = (
    "rope_fused", "rope_fa2", "rope_flex", "pope_fused", "pope_own",
    "pope_expand_cudnn", "pope_flex", "pope_package",
)  # fmt: skip
CASES = [(d, n) for d in (64, 128) for n in (1024, 4096, 16384, 65536)]
START, END = "<!-- table:speed -->\n", "<!-- /table:speed -->"


def table(path: Path = ROWS) -> str:
    """Forward plus backward, encoding included: the anchor in milliseconds, else ratios to it."""
    rows = read_speed(path)
    measured = {(row.get("head_dim"), row.get("length")) for row in rows}
    return markdown(rows, SHOWN, [case for case in CASES if case in measured], bold=("pope_fused",))


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--write", action="store_true", help="README.md and the figure")
    if not options.parse_args().write:
        print(table())
        return
    readme = HERE.parent / "README.md"
    before, rest = readme.read_text().split(START)
    after = rest.split(END)[1]
    readme.write_text(f"{before}{START}{table()}\n{END}{after}")
    for path in (readme, *speed_figure(read_speed(ROWS), FIGURE)):
        print(path)


if __name__ == "__main__":
    main()
