"""What a file in a store may be called: no name leads out of the store, none is taken for an option."""

from __future__ import annotations

import re

from bot.errors import Refusal

PARTIAL = ".partial"
_NAME = re.compile(r"[^\W.-][\w.-]{0,199}")
#: what others put there: spaces and the like too, and one folder
_READABLE = re.compile(r"[^\x00-\x1f/.-][^\x00-\x1f/]{0,254}(/[^\x00-\x1f/.-][^\x00-\x1f/]{0,254})?")


def writable(name: str) -> str:
    """Raises Refusal(store_unusable) for what Backout would not call a file."""
    if not _NAME.fullmatch(name) or name.endswith(PARTIAL):
        raise Refusal("store_unusable", f"A backup can't be called {name!r}.", "Use letters, digits, dots, - and _ only, in the target's name too.")
    return name


def readable(name: str) -> str:
    """Raises Refusal(store_unusable) for what would lead out of the store."""
    if not _READABLE.fullmatch(name):
        raise Refusal("store_unusable", f"There is no backup {name[:80]!r}.", "Take a name from the list of backups.")
    return name


def is_listed(name: str) -> bool:
    """Whole, not hidden, in one folder at most."""
    return _READABLE.fullmatch(name) is not None and not name.endswith(PARTIAL)
