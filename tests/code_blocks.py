"""The code blocks of README.md and docs/, and the commands in them.

A block is run by `tests/docs/test_blocks.py`. An HTML comment just above it can say why it is not run, or why only
`make test-long` runs it:

    <!-- not run: needs a GPU -->
    <!-- run by make test-long: trains two runs in processes of their own -->
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
# Languages of blocks: those that run, and those that a reader only looks at.
RUN, SHOWN = ("bash", "python"), ("text", "yaml", "json")
FENCE = re.compile(r"^( *)```(\S*)$")
MARK = re.compile(r"^ *<!-- (not run|run by make test-long): (\S.*) -->$")
INDENTED_COMMAND = re.compile(r"^ {4,}(natix-hf|python -m|accelerate launch|pip install|import |from \w+ import)")


class Block(NamedTuple):
    """A fenced block: its first line in the page, its language, its text, its mark and the reason in that mark."""

    page: Path
    line: int
    language: str
    text: str
    mark: str | None
    reason: str | None

    @property
    def runs(self) -> bool:
        """Whether each run of the tests runs it."""
        return self.language in RUN and self.mark is None

    @property
    def long(self) -> bool:
        """Whether only `make test-long` runs it."""
        return self.language in RUN and self.mark == "run by make test-long"

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"


class Command(NamedTuple):
    """A command of a shell block: a module of the package and its words, or None and all words of another program."""

    module: str | None
    words: list[str]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in their order."""
    found, opened, mark = [], None, (None, None)
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        fence = FENCE.match(line)
        if opened is None and fence:
            opened = (number, fence[1], fence[2], [])
        elif opened is None:
            marked = MARK.match(line)
            mark = marked.groups() if marked else mark if not line.strip() else (None, None)
        elif fence and not fence[2]:
            start, _, language, lines = opened
            found.append(Block(page, start, language, "\n".join(lines) + "\n", *mark))
            opened, mark = None, (None, None)
        else:
            opened[3].append(line.removeprefix(opened[1]))
    assert opened is None, f"{page.name}: the block of line {opened[0]} has no end"
    return found


def commands(text: str) -> list[Command]:
    """The commands of a shell block: one a line, or several joined by `&&` or `|`."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, "&&"]:
            if word in ("&&", "|", ";"):
                found += [_command(words)] if words else []
                words = []
            else:
                words.append(word)
    return found


def _command(words: list[str]) -> Command:
    if words[0] == "natix-hf" and len(words) > 1:
        return Command(f"natix_hf.{words[1]}", words[2:])
    if words[:2] == ["accelerate", "launch"] or words[:2] == ["python", "-m"]:
        module = words.index("-m") + 1
        if words[module].startswith("natix_hf."):
            return Command(words[module], words[module + 1 :])
    return Command(None, words)
