"""Words of people, scripts and databases, made safe to show; and times and names, made easy to read."""

from __future__ import annotations

import datetime as dt
import re
import unicodedata

_BIDI = dict.fromkeys([*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C])
_USER = re.compile(r"[UW][A-Z0-9]{1,30}")
_CHANNEL = re.compile(r"&lt;#([CG][A-Z0-9]+)&gt;")
_SHORT = 12  # characters of a digest that people compare


def clean(text: object, limit: int = 200) -> str:
    """One line, no control characters, no direction overrides, at most `limit` characters."""
    words = " ".join(str(text).translate(_BIDI).split())
    words = "".join(char for char in words if unicodedata.category(char) not in {"Cc", "Cs"})
    return words if len(words) <= limit else words[: limit - 1].rstrip() + "…"


def escape(text: str) -> str:
    """Slack's three characters: after this nothing in the text can mention, link or ping."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def private(text: str) -> str:
    """A sentence for one person, escaped as a whole; references to channels, which ping nobody, stay."""
    return _CHANNEL.sub(r"<#\1>", escape(text))


def unescape(text: str) -> str:
    """What the person typed, from the text of a command or a message."""
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def safe(text: object, limit: int = 200) -> str:
    """Others' words within a sentence of ours: one line, escaped, and kept from turning the line's direction."""
    shown = escape(clean(text, limit))
    return f"\u2068{shown}\u2069" if _right_to_left(shown) else shown


def code(text: object, limit: int = 80) -> str:
    """A name as it is written in code; a backtick inside can't end it."""
    return f"`{safe(str(text).replace('`', chr(39)), limit) or ' '}`"


def fenced(lines: str, limit: int = 2500) -> str:
    """Several lines of output in a code block, the newest kept."""
    kept = "".join(char for char in lines.translate(_BIDI) if char in "\n\t" or unicodedata.category(char) not in {"Cc", "Cs"})
    shown = escape(kept.replace("`", "'").strip("\n"))
    if len(shown) > limit:
        shown = "…\n" + shown[-limit:].partition("\n")[2]
    return f"```\n{shown}\n```"


def person(user: str) -> str:
    """A mention of a Slack user; any other name is only shown."""
    return f"<@{user}>" if _USER.fullmatch(user) else code(user, 40)


def people(users: object, limit: int = 10) -> str:
    """Mentions, `nobody` when there are none."""
    named = [person(str(user)) for user in users] if isinstance(users, list | tuple | set | frozenset) else []
    more = f" and {len(named) - limit} more" if len(named) > limit else ""
    return ", ".join(named[:limit]) + more if named else "nobody"


def when(at: dt.datetime | str) -> str:
    """A moment that every reader sees in their own zone."""
    moment = dt.datetime.fromisoformat(at) if isinstance(at, str) else at
    return f"<!date^{int(moment.timestamp())}^{{date_short_pretty}} {{time}}|{moment.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC>"


def short(digest: str) -> str:
    return digest[:_SHORT]


def _right_to_left(text: str) -> bool:
    return any(unicodedata.bidirectional(char) in {"R", "AL"} for char in text)
