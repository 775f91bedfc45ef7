"""What the documents show, as data: fenced blocks, the shell commands in them, links."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<body>.*?)^```[ \t]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?P<target>[^)#\s]+)[^)]*\)|(?:src|href)=\"(?P<html>[^\"#]+)\"")
SHELLS = {"bash", "sh", "console"}


@dataclass(frozen=True)
class Block:
    """A fenced block: ```language words, its text, and the line its text begins on (from 1).

    The word `fragment` (```python fragment) says that a block is a piece to be read, not run.
    """

    language: str
    words: tuple[str, ...]
    text: str
    line: int
    gap: str  # what stands between the block before and this one

    @property
    def runnable(self) -> bool:
        return "fragment" not in self.words


def blocks(document: str) -> list[Block]:
    found: list[Block] = []
    before = 0
    for match in FENCE.finditer(document):
        language, *words = match["info"].split() or [""]
        line = document.count("\n", 0, match.start("body")) + 1
        gap = document[before : match.start()]
        found.append(Block(language, tuple(words), match["body"], line, gap))
        before = match.end()
    return found


def commands(block: Block) -> Iterator[list[str]]:
    """Each simple command of a shell block as words; pipes, redirections and comments are cut off.

    A console block holds output too: there only what follows "$ " was typed. In the others a "$ "
    is a prompt all the same. Assignments before a command (A=1 whatwhere …) are dropped.
    """
    text = block.text.replace("\\\n", " ")
    for line in text.splitlines():
        typed = line.strip().removeprefix("$ ")
        if block.language == "console" and typed == line.strip():
            continue
        yield from simple_commands(typed)


def simple_commands(typed: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(typed, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words: list[str] = []
    listening = True  # not behind a pipe or a redirection
    for token in [*lexer, ";"]:
        if set(token) <= set("|&;<>"):
            if token in {"&&", ";", "||", "|", "&"}:
                if words:
                    yield words
                words, listening = [], True
            else:
                listening = False
        elif listening and (words or not re.fullmatch(r"[A-Za-z_]\w*=.*", token)):
            words.append(token)


def links(document: str) -> list[str]:
    """Targets of links and images outside fenced blocks, without those that name another host."""
    prose = FENCE.sub("", document)
    targets = [match["target"] or match["html"] for match in LINK.finditer(prose)]
    return [target for target in targets if "://" not in target and ":" not in target]


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
