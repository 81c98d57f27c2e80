"""Evidence in words, the same on the card, in the post-mortem and at the command line. Pure.

`name` and `text` make others' words safe where they are shown: names of objects and keys, and sentences.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterable, Mapping

from bot.evidence import Locked, Loss, LossKind, Rehearsal, size

Show = Callable[[object], str]

#: what a downgrade does to it, when that is sure and when it is not
_DOES: Mapping[LossKind, tuple[str, str]] = {
    "table": ("drops table", "may drop table"),
    "rows": ("deletes rows of", "may delete rows of"),
    "column": ("drops column", "may drop column"),
    "values": ("changes values of", "may change values of"),
    "enum": ("removes the enum label", "may remove the enum label"),
    "type": ("drops type", "may drop type"),
    "row security": ("turns off row security of", "may turn off row security of"),
    "policy": ("drops policy", "may drop policy"),
    "unique": ("drops unique key", "may drop unique key"),
    "foreign key": ("drops foreign key", "may drop foreign key"),
    "constraint": ("drops constraint", "may drop constraint"),
    "index": ("drops index", "may drop index"),
    "unreadable": ("can't be read:", "can't be read:"),
}
#: worst first
_WORST = tuple(_DOES)
#: what holds data; the rest guards it or makes it fast
DATA: frozenset[LossKind] = frozenset({"table", "rows", "column", "values", "enum", "type", "unreadable"})
#: without these, one tenant may see another's rows
ISOLATION: frozenset[LossKind] = frozenset({"row security", "policy"})
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
_LETTERS = f"{string.ascii_uppercase} "
_MINUTE = len("2026-11-19 22:10")


def many(number: int, noun: str) -> str:
    """1 row, 12,000 rows."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def span(seconds: float) -> str:
    """Seconds for people: 3 ms, 0.4 s, 12 s, 3 min 5 s, 2 h 4 min."""
    if 0 < seconds < 0.05:
        return f"{max(1, round(seconds * 1000))} ms"
    if seconds < 10:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def worst_first(losses: Iterable[Loss]) -> list[Loss]:
    """By kind; among the same kind what loses most."""
    return sorted(losses, key=lambda one: (one.count == 0, one.kind != "unreadable", _WORST.index(one.kind), -(one.count or 0)))


def does(loss: Loss, name: Show) -> str:
    """'drops column public.orders.score'."""
    if loss.kind == "policy" and loss.why:
        return f"changes policy {name(loss.name)}"
    return f"{_DOES[loss.kind][0 if loss.certain else 1]} {name(loss.name)}"


def destroyed(loss: Loss, name: Show, text: Show) -> str:
    """What follows 'it destroys': '1,204 values of public.orders.score (the newest of 2026-11-19 22:10)'."""
    counted = _counted(loss)
    if not loss.certain and loss.kind != "unreadable":
        return f"perhaps {_thing(loss, name)}"
    if loss.kind == "table":
        how_many = "" if counted is None else f" with {counted}" if loss.count else ", which is empty"
        said = f"table {name(loss.name)}{how_many}"
    elif loss.kind == "enum":
        said = f"{_thing(loss, name)}{f', used by {counted}' if counted else ''}"
    elif counted is None or not loss.count:
        said = f"{_thing(loss, name)}{', which is empty' if loss.count == 0 and loss.kind == 'column' else ''}"
    else:
        said = f"{counted} of {name(loss.name)}"
    notes = [part for part in (_written(loss), f"the newest of {text(loss.newest[:_MINUTE])}" if loss.newest else "") if part]
    return said + (f" ({', '.join(notes)})" if notes else "")


def line(loss: Loss, name: Show, text: Show) -> str:
    """All that is known of it: 'drops column X: 10,000 values, 3 ever written differently from the default, 1.2 MB, the newest of ..., e.g. id=1'."""
    found = [part for part in (_amount(loss), size(loss.bytes) if loss.bytes else "") if part]
    if loss.newest:
        found.append(f"the newest of {text(loss.newest[:_MINUTE])}")
    if loss.keys:
        found.append("e.g. " + ", ".join(name(key) for key in loss.keys[:3]))
    said = does(loss, name) + (f": {', '.join(found)}" if found else "")
    return f"{said} ({text(loss.why)})" if loss.why else said


def _amount(loss: Loss) -> str:
    counted = _counted(loss)
    if counted is None:
        return ""
    if not loss.count and loss.kind in ("table", "column"):
        return "empty"
    whole = f" of {loss.of:,}" if loss.of is not None and loss.kind in ("rows", "values") else ""
    return ", ".join(part for part in (f"{counted}{whole}", _written(loss)) if part)


def _written(loss: Loss) -> str:
    """Values that somebody wrote, where the rest is the column's default."""
    if loss.written is None or loss.written == loss.count:
        return ""
    return f"{loss.written:,} ever written differently from the default"


def _counted(loss: Loss) -> str | None:
    """'1,204 values'; None where nothing was counted."""
    noun = {"table": "row", "rows": "row", "column": "value", "values": "value", "enum": "row", "type": "value"}.get(loss.kind)
    return many(loss.count, noun) if loss.count is not None and noun else None


def _thing(loss: Loss, name: Show) -> str:
    what = {
        "rows": "rows of", "values": "values of", "enum": "the enum label", "row security": "the row security of", "unique": "unique key",
        "unreadable": "what can't be read:",
    }.get(loss.kind, loss.kind)  # fmt: skip
    return f"{what} {name(loss.name)}"


def lock(mode: str) -> str:
    """AccessExclusiveLock, as the manual has it: ACCESS EXCLUSIVE. It comes from the application's own environment: letters only."""
    return "".join(char for char in _CAMEL.sub(" ", mode.removesuffix("Lock")).upper() if char in _LETTERS)


def locked(one: Locked, name: Show) -> str:
    """'locks public.orders (ACCESS EXCLUSIVE) for 0.2 s, 1.2 GB, 3,000,000 rows'. The time is the copy's, the size production's."""
    told = f"locks {name(one.table)} ({lock(one.mode)})"
    told += f" for {span(one.held / 1000)}" if one.held is not None else ""
    told += f", {size(one.bytes)}" if one.bytes is not None else ""
    # An estimate of none is a table that was never analyzed.
    return told + (f", {many(one.rows, 'row')}" if one.rows is not None and one.rows > 0 else "")


def moved(rehearsal: Rehearsal) -> float:
    """Seconds that the downgrade, or the upgrade of a reapply, took on the copy."""
    return rehearsal.seconds.get("move", 0.0)


def forward(rehearsal: Rehearsal, text: Show) -> str:
    """Whether the way forward works; empty where that was not tried."""
    says = {"works": "Going forward again works.", "differs": "Going forward again leads elsewhere.", "fails": "Going forward again fails."}
    return text(rehearsal.forward_says) or says.get(rehearsal.forward, "")


def expected(rehearsal: Rehearsal, text: Show) -> str:
    """The schema against what the scripts build from nothing; empty where that was not asked. The first finding stands for all."""
    findings = rehearsal.findings
    match rehearsal.expected:
        case "same":
            return "The schema came out as the scripts say."
        case "differs":
            first = f": {text(findings[0])}" if findings else "."
            return f"The schema did not come out as the scripts say, {many(len(findings), 'difference')}{first}"
        case "unverifiable":
            return text("".join(findings[:1])) or "The schema could not be compared with what the scripts build."
        case _:
            return ""
