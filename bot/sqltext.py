"""SQL as text: cut into statements as psql cuts it, and said of each what it may do to a transaction. Nothing is executed, nothing is guessed.

The rules are those of Postgres' own psql (src/fe_utils/psqlscan.l): quotes, E'' escapes, dollar quotes, nested comments, parentheses, and the
BEGIN ATOMIC bodies of functions. Which statements open or end a transaction, or can't run in one: the pages of the Postgres manual.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

# Each alternative matches at once or not at all, so nothing is searched twice. Prefixed strings come before names, names before numbers.
_PIECE = re.compile(
    r"""
  (?P<space> \s+ | --[^\n]* )
| (?P<comment> /\* )
| (?P<string> [eE]'[^'\\]*(?:(?:\\.|'')[^'\\]*)*(?P<e>')? | (?:[bBxXnN]|[uU]&)?'[^']*(?:''[^']*)*(?P<s>')? )
| (?P<quoted> (?:[uU]&)?"[^"]*(?:""[^"]*)*(?P<q>")? )
| (?P<word> [^\W\d][\w$]* )
| (?P<dollar> \$(?:[^\W\d]\w*)?\$ )
| (?P<number> \d[\w.]* )
| (?P<other> . )
""",
    re.VERBOSE | re.DOTALL,
)
_IN_COMMENT = re.compile(r"/\*|\*/")
_NOTHING = ("space", "comment")


class BrokenScript(ValueError):
    """The text can't be cut into statements; the sentence says where and why."""


@dataclass(frozen=True)
class Statement:
    """One statement without its semicolon; `line` is where it begins in its script, from 1."""

    text: str
    line: int

    @property
    def words(self) -> tuple[str, ...]:
        """Unquoted words, small: what a statement is can be read from them, and neither literals nor comments are in the way."""
        return tuple(piece.lower() for kind, piece in _read_pieces(self.text) if kind == "word")


def split(script: str) -> tuple[Statement, ...]:
    """Raises BrokenScript: a quote or comment that never ends, a command of psql's own, COPY from a terminal."""
    found: list[Statement] = []
    reader = _Reader(script)
    for statement in reader:
        words = statement.words
        if words[:1] == ("copy",) and "stdin" in words:
            raise BrokenScript(f"line {statement.line} copies rows from psql's input, which is not there")
        found.append(statement)
    return tuple(found)


def masked(sql: str) -> str:
    """Literals become ?, comments and white space one space. Two statements of one text here differ in nothing that matters."""
    pieces: list[str] = []
    for kind, piece in _read_pieces(sql):
        word = " " if kind in _NOTHING else "?" if kind in ("string", "dollar", "number") else piece
        if word != " " or pieces[-1:] != [" "]:
            pieces.append(word)
    return "".join(pieces).strip()


Control = Literal["begin", "commit", "other"]
_CONTROLS: dict[tuple[str, ...], Control] = {
    ("begin",): "begin", ("start", "transaction"): "begin", ("commit",): "commit", ("end",): "commit", ("rollback",): "other",
    ("abort",): "other", ("savepoint",): "other", ("release",): "other", ("prepare", "transaction"): "other",
}  # fmt: skip


def control(statement: Statement) -> Control | None:
    """Does it open or end a transaction?"""
    words = statement.words
    return next((kind for head, kind in _CONTROLS.items() if words[: len(head)] == head), None)


def unwrapped(statements: Sequence[Statement]) -> tuple[Statement, ...]:
    """Without the BEGIN and COMMIT that stand round a whole script. Raises BrokenScript for a transaction that ends anywhere else."""
    inner = tuple(statements)
    if len(inner) > 1 and control(inner[0]) == "begin" and control(inner[-1]) == "commit":
        inner = inner[1:-1]
    for one in inner:
        if control(one):
            raise BrokenScript(f"line {one.line} says {' '.join(one.words[:2]).upper()}: a script may not end transactions in its middle")
    return inner


_OUTSIDE: tuple[tuple[str, ...], ...] = (
    ("vacuum",), ("create", "database"), ("drop", "database"), ("create", "tablespace"), ("drop", "tablespace"), ("alter", "system"),
    ("create", "subscription"), ("drop", "subscription"), ("alter", "subscription"), ("reindex", "database"), ("reindex", "system"),
    ("reindex", "schema"),
)  # fmt: skip


def outside(statement: Statement) -> bool:
    """It can't run in a transaction block, or (a new enum label) is of no use before its commit: it runs and commits by itself."""
    words = statement.words
    if any(words[: len(head)] == head for head in _OUTSIDE):
        return True
    if words[:2] == ("alter", "type"):
        return ("add", "value") in itertools.pairwise(words)
    return "concurrently" in words and words[0] in ("create", "drop", "reindex", "alter")


def _read_pieces(text: str) -> Iterator[tuple[str, str]]:
    for kind, piece, _ in _scanned(text):
        yield kind, piece


def _scanned(text: str) -> Iterator[tuple[str, str, bool]]:
    """(kind, piece, it has its end). A dollar quote and a comment are one piece."""
    at = 0
    while at < len(text):
        found = _PIECE.match(text, at)
        if found is None:  # cannot be: `other` matches anything
            raise BrokenScript(f"a character that can't be read at {at}")
        kind, piece, at = _kind(found), found.group(), found.end()
        ended = True
        if kind == "dollar":
            closes = text.find(piece, at)
            ended = closes >= 0
            at = closes + len(piece) if ended else len(text)
        elif kind == "comment":
            at, ended = _comments_end(text, at)
        elif kind in ("string", "quoted"):
            ended = bool(found["e"] or found["s"] or found["q"])
        yield kind, text[found.start() : at], ended


def _kind(found: re.Match[str]) -> str:
    return next(name for name in ("space", "comment", "string", "quoted", "word", "dollar", "number", "other") if found[name] is not None)


def _comments_end(text: str, at: int) -> tuple[int, bool]:
    """Comments of Postgres are nested."""
    depth = 1
    for found in _IN_COMMENT.finditer(text, at):
        depth += 1 if found.group() == "/*" else -1
        if depth == 0:
            return found.end(), True
    return len(text), False


class _Reader:
    """Goes once through a script."""

    def __init__(self, script: str) -> None:
        self._script = script

    def __iter__(self) -> Iterator[Statement]:
        self._begin()
        line = 1
        for kind, piece, ended in _scanned(self._script):
            if not ended:
                raise BrokenScript(f"line {line} begins a quote or comment that never ends")
            if kind == "other" and piece == "\\":
                raise BrokenScript(f"line {line} holds a command of psql's own (a backslash), which only psql can carry out")
            if kind == "other" and piece == ";" and not self._depth and not self._atomic:
                yield from self._statement()
                self._begin()
            else:
                self._take(kind, piece, line)
            line += piece.count("\n")
        yield from self._statement()

    def _begin(self) -> None:
        self._pieces: list[str] = []
        self._words: list[str] = []
        self._line = self._depth = self._atomic = 0

    def _statement(self) -> Iterator[Statement]:
        if self._line:
            yield Statement("".join(self._pieces).strip(), self._line)

    def _take(self, kind: str, piece: str, line: int) -> None:
        if not self._line and kind not in _NOTHING:
            self._line = line
        if self._line:
            self._pieces.append(piece)
        if kind == "word":
            self._count(piece.lower())
        elif kind == "other" and piece in "()":
            self._depth = max(0, self._depth + (1 if piece == "(" else -1))

    def _count(self, word: str) -> None:
        """As psql does it: in CREATE [OR REPLACE] FUNCTION or PROCEDURE, BEGIN and CASE open what END closes."""
        self._words = [*self._words, word][:4]
        routine = self._words[3:4] if self._words[1:3] == ["or", "replace"] else self._words[1:2]
        if self._words[:1] != ["create"] or routine not in (["function"], ["procedure"]) or self._depth:
            return
        if word == "begin" or (word == "case" and self._atomic):
            self._atomic += 1
        elif word == "end" and self._atomic:
            self._atomic -= 1
