"""A statement's text without what differs from run to run: literals become ?, whitespace and comments a space. Linear in the text's length."""

from __future__ import annotations

import functools
import hashlib
import re

LONGEST = 64 * 1024  # characters that are looked at: a script may hold megabytes of rows
# Each alternative either matches at once or not at all, so nothing is searched twice. Names come before numbers: tmp_2 keeps its 2.
_TOKEN = re.compile(
    r"""
  (?P<space> \s+ | --[^\n]* )
| (?P<comment> /\* )
| (?P<string> [eE]'[^'\\]*(?:(?:\\.|'')[^'\\]*)*'? | (?:[bBxXnN]|[uU]&)?'[^']*(?:''[^']*)*'? )
| (?P<kept> (?:[uU]&)?"[^"]*(?:""[^"]*)*"? | [^\W\d][\w$]* | \$\d+ | %\(\w{1,100}\)s )
| (?P<dollar> \$(?:[^\W\d]\w*)?\$ )
| (?P<number> \d[\d_]*(?:[xXoObB][0-9a-fA-F_]+)?(?:\.(?!\.)[\d_]*)?(?:[eE][+-]?\d+)? | \.\d[\d_]*(?:[eE][+-]?\d+)? )
| (?P<other> . )
""",
    re.VERBOSE | re.DOTALL,
)
_IN_COMMENT = re.compile(r"/\*|\*/")


def normalised(sql: str) -> str:
    """Two statements with the same text here differ in literals, comments and whitespace only. Identifiers keep their digits and their case."""
    text, at = sql[:LONGEST], 0
    pieces: list[str] = []
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:  # cannot be: `other` matches anything
            break
        kind, token, at = found.lastgroup, found.group(), found.end()
        if kind == "dollar":
            closes = text.find(token, at)
            at = len(text) if closes < 0 else closes + len(token)
        elif kind == "comment":
            at = _comments_end(text, at)
        word = " " if kind in ("space", "comment") else "?" if kind in ("string", "dollar", "number") else token
        if word != " " or pieces[-1:] != [" "]:
            pieces.append(word)
    return "".join(pieces).strip(" ")


def _comments_end(text: str, at: int) -> int:
    """Comments of Postgres are nested."""
    depth = 1
    for found in _IN_COMMENT.finditer(text, at):
        depth += 1 if found.group() == "/*" else -1
        if depth == 0:
            return found.end()
    return len(text)


@functools.lru_cache(maxsize=256)
def normal_sha256(sql: str) -> str:
    return hashlib.sha256(normalised(sql).encode("utf-8", "surrogatepass")).hexdigest()
