"""Every encoding has a golden file."""

from pathlib import Path

from whatwhere import encodings


def test_every_encoding_has_a_golden_file() -> None:
    here = Path(__file__).parent
    files = {path.stem.removeprefix("test_") for path in here.glob("test_*.py")}
    missing = sorted(set(encodings.TABLE) - files)
    assert not missing, f"write tests/golden/test_<name>.py for {', '.join(missing)}"
