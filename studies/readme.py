"""Put the tables of the studies into the README: python studies/readme.py [--write]."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from whatwhere import report
from whatwhere.report.claims import verdicts
from whatwhere.report.claims_table import claims_summary
from whatwhere.report.extension import extension
from whatwhere.report.searches import searches

ROOT = Path(__file__).parents[1]


def rows(name: str) -> list[dict[str, Any]]:
    """The rows of a file under studies."""
    return [json.loads(line) for line in (ROOT / "studies" / name).read_text().splitlines()]


def tables() -> dict[str, str]:
    """The Markdown of every table that is there, by the name of its marker."""
    found = {"claims": claims_summary(verdicts(ROOT / "studies"))}
    found["chorales"] = report.table(report.read(ROOT / "studies/chorales")).markdown()
    for study in ("extend_demo", "extend_smollm2"):
        if (ROOT / "studies" / study / "rows.jsonl").exists():
            found[study] = extension(rows(f"{study}/rows.jsonl")).markdown()
    if (ROOT / "studies/extend_demo/search.jsonl").exists():
        found["search_demo"] = searches(rows("extend_demo/search.jsonl"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="into README.md, between its marks")
    write = parser.parse_args().write
    path = ROOT / "README.md"
    text = path.read_text()
    for name, table in tables().items():
        start, end = f"<!-- table:{name} -->\n", f"<!-- /table:{name} -->"
        if start not in text:
            print(f"README.md has no place for {name}:\n{table}\n")
            continue
        before, rest = text.split(start)
        text = f"{before}{start}{table}\n{end}{rest.split(end)[1]}"
    if write:
        path.write_text(text)


if __name__ == "__main__":
    main()
