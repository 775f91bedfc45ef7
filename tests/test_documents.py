"""The checks on the documents can fail: each is shown a document that is wrong."""

from pathlib import Path

import documents
import pytest
import test_readme

SOUND = "Text\n\n```python\nx = 2\n```\n\nmore\n\n```python\nprint(x + 1)\n```\n\n```text\n3\n```\n"


def test_a_true_document_passes(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text(SOUND)
    test_readme.check_python(document, tmp_path)


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("```text\n3", "```text\n4", "page.md:10 printed"),
        ("x = 2", "x = 1 / 0", 'page.md", line 4'),
        ("x = 2", "y = 2", "NameError"),
    ],
)
def test_a_false_document_fails(tmp_path: Path, right: str, wrong: str, message: str) -> None:
    document = tmp_path / "page.md"
    document.write_text(SOUND.replace(right, wrong))
    with pytest.raises(AssertionError) as error:
        test_readme.check_python(document, tmp_path)
    assert message in str(error.value)


def test_fragments_are_not_run() -> None:
    (block,) = documents.blocks("```python fragment\n1 / 0\n```\n")
    assert not block.runnable


TYPED = [
    ("bash", "whatwhere ls  # all of it\n", ["whatwhere ls"]),
    ("bash", "$ whatwhere compare \\\n    --seeds 3\n", ["whatwhere compare --seeds 3"]),
    ("bash", "A=1 whatwhere ls | head -3\n", ["whatwhere ls", "head -3"]),
    ("bash", "cd x && whatwhere ls > out.txt\n", ["cd x", "whatwhere ls"]),
    ("console", "$ whatwhere explain 'rope+pi'\nwhatwhere prints\n", ["whatwhere explain rope+pi"]),
    ("bash", "# only a comment\n\n", []),
]


@pytest.mark.parametrize(("language", "text", "found"), TYPED)
def test_commands_are_read_as_a_shell_would(language: str, text: str, found: list[str]) -> None:
    (block,) = documents.blocks(f"```{language}\n{text}```\n")
    assert [" ".join(words) for words in documents.commands(block)] == found


def test_links_outside_code() -> None:
    page = "[a](docs/a.md#part) ![b](b.png) [c](https://x.org)\n```python\n[d](d)\n```\n"
    assert documents.links(page) == ["docs/a.md", "b.png"]
