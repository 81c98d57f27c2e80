"""The helper: runs in the application's own Python, beside its own alembic. Standard library only, Python 3.7 and later.

Backout reads these modules as text and hands them to that Python as one source with `-c`; nothing of Backout imports them.

In : stdin        one line: the request (JSON, holds a password); before it moves the database a second one, `go`. The end of stdin means: do not
                  begin. What the request names as `env` belongs to the environment before any user code runs
Out: frames on the first stdout, one a line: RS NONCE SP SEQ.PART/PARTS SP PIECE-OF-JSON NL
     What user code prints (Python, C, child processes) comes as frames of kind `out`, in order.
Exit: 0 done, 1 failed, 97 refused, 98 nothing was read, since what it had imported was replaced while it waited. Any refusal is os._exit: no
`except`, atexit or event loop of user code can go on after it.
"""

from __future__ import annotations

from pathlib import Path

_MODULES = ("frames", "normal", "history", "connections", "locks", "statements", "gate", "run")
HERE = ""  #: the folder in which it runs, and what of sys.path led there: set over there by boot.py
OWN_PATH: list[str] = []


def source() -> str:
    """The whole helper as one source text."""
    here = Path(__file__).parent
    modules = [(name, (here / f"{name}.py").read_text()) for name in _MODULES]
    return f"{(here / 'boot.py').read_text()}\n\nload({modules!r})\n"
