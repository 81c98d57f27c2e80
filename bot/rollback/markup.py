"""Words of others as Markdown that means nothing but itself; times in UTC."""

from __future__ import annotations

import datetime as dt
import re

BLANK = "_(not written down yet)_"
#: at the beginning of a line it would be a list, a quotation, a rule
_BEGINS = re.compile(r"[-+>=]")
_SPECIAL = re.compile(r"([\\`*_\[\]<#|~])")


def plain(text: object, most: int = 600) -> str:
    """Text from people, scripts and databases as one line of Markdown that means nothing but itself."""
    said = line(text)
    escaped = _SPECIAL.sub(r"\\\1", said if len(said) <= most else said[:most] + "…")
    return f"\\{escaped}" if _BEGINS.match(escaped) else escaped


def line(text: object) -> str:
    """Without line breaks, control and direction characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def code(text: object, most: int = 600) -> str:
    """The same as a code span, where it is easier to read: SQL, paths, output."""
    said = line(text).replace("`", "'")
    return f"`{said if len(said) <= most else said[:most] + '…'}`"


def utc(at: dt.datetime | None) -> str:
    return at.astimezone(dt.UTC).strftime("%Y-%m-%d %H:%M:%S") if at else BLANK


def seconds(took: float | None) -> str:
    return "-" if took is None else f"{took:.1f} s"
