"""What the documents show is true: code runs, printed output is the output, commands parse.

The python blocks of one document share one namespace and run in order in one fresh process, as a
reader would type them. A ```text block that follows a python block with nothing between them is
what the block prints, word for word. A shell block's `whatwhere …` commands are parsed by the CLI
itself; the cheap ones are run. "fragment" after the language says that a block is not for running.
"""

import itertools
import json
import re
from pathlib import Path

import documents
import pytest
from fresh import ROOT, run_python

DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "studies").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
NAMES = [document.relative_to(ROOT).as_posix() for document in DOCUMENTS]
CHEAP = {"ls", "explain", "angles", "cite"}

# Runs the blocks it reads and prints, as JSON, what each printed; tracebacks show the document.
RUNNER = """
import contextlib, io, json, sys
path, blocks = json.load(sys.stdin)
namespace, printed = {"__name__": "__main__"}, []
for line, text in blocks:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile("\\n" * (line - 1) + text, path, "exec"), namespace)
    printed.append(out.getvalue())
print(json.dumps(printed))
"""


def run_blocks(document: Path, shown: list[documents.Block], where: Path) -> list[str]:
    """What each python block prints; fails with the traceback if one raises."""
    work = json.dumps([str(document), [(block.line, block.text) for block in shown]])
    return json.loads(run_python(RUNNER, where, work).splitlines()[-1])


def promised(shown: list[documents.Block]) -> dict[int, str]:
    """Line of each python block -> the ```text block that stands directly below it."""
    return {
        block.line: below.text
        for block, below in itertools.pairwise(shown)
        if block.language == "python" and below.language == "text" and not below.gap.strip()
    }


def check_python(document: Path, where: Path) -> None:
    shown = documents.blocks(documents.read(document))
    python = [block for block in shown if block.language == "python" and block.runnable]
    outputs = promised(shown)
    for block, printed in zip(python, run_blocks(document, python, where), strict=True):
        if block.line in outputs:
            claim = outputs[block.line].split()
            assert printed.split() == claim, f"{document.name}:{block.line} printed\n{printed}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_python_blocks_run_and_print_what_is_shown(document: Path, tmp_path: Path) -> None:
    check_python(document, tmp_path)


def shown_commands(name: str) -> list[tuple[str, list[str]]]:
    """(document, words) of each simple command that is `name`."""
    return [
        (document.relative_to(ROOT).as_posix(), words[1:])
        for document in DOCUMENTS
        for block in documents.blocks(documents.read(document))
        if block.language in documents.SHELLS and block.runnable
        for words in documents.commands(block)
        if words[0] == name
    ]


COMMANDS = shown_commands("whatwhere")


def parse_command_line(arguments: list[str]) -> None:
    """Let the CLI's own parser read the arguments, without running the command; raises."""
    import typer

    from whatwhere.cli import app

    command, context = typer.main.get_command(app), None
    while hasattr(command, "resolve_command"):
        outer = type(command).context_class(command, parent=context)
        name, command, arguments = command.resolve_command(outer, arguments)
        context = outer
        assert command is not None, f"no command {name}"
    command.make_context(name, list(arguments), parent=context)


@pytest.mark.parametrize(("document", "arguments"), COMMANDS)
def test_shown_commands_parse(document: str, arguments: list[str]) -> None:
    if not {"--help", "--version"} & set(arguments):
        parse_command_line(arguments)


@pytest.mark.parametrize("arguments", [args for _, args in COMMANDS if args and args[0] in CHEAP])
def test_shown_cheap_commands_run(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from whatwhere.cli import app

    if any(word.startswith("results") for word in arguments):
        pytest.skip("reads what an earlier command wrote")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert done.output.strip()


def test_shown_make_targets_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", documents.read(ROOT / "Makefile"), re.MULTILINE))
    wanted = {(document, args[0]) for document, args in shown_commands("make") if args}
    assert {("README.md", "demo"), ("README.md", "test")} <= wanted
    assert {target for _, target in wanted} <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=NAMES)
def test_links_lead_somewhere(document: Path) -> None:
    targets = documents.links(documents.read(document))
    assert [target for target in targets if not (document.parent / target).exists()] == []


def test_readme_shows_code_and_the_command_line() -> None:
    shown = documents.blocks(documents.read(ROOT / "README.md"))
    assert any(block.language == "python" and block.runnable for block in shown)
    if (ROOT / "whatwhere" / "cli").exists():
        assert any(document == "README.md" for document, _ in COMMANDS)
