"""Did the downgrade change the schema as the history says it would? Changes are compared, not states: production drifts for honest reasons (F17).

Expected is the change between two databases built from nothing, at from and at to; actual is the change of the copy. Pure.
What hangs on a thing (a table's columns, its indexes, their grants) goes along with it and is not named again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from bot.evidence import Snapshot

_AT_MOST = 50  # sentences; the rest is counted
_LONG = 80  # letters of a definition that are shown

_IDENT = r'(?:"(?:[^"]|"")*"|[^."\s(),]+)'
_LAST = re.compile(rf"\.{_IDENT}$")
_ON = re.compile(rf"\b(?:ON|FROM)(?: ONLY)? ({_IDENT}\.{_IDENT})")
_OWNED = re.compile(rf"OWNED BY ({_IDENT}\.{_IDENT}\.{_IDENT})")
_PUBLISHED = re.compile(rf"^publication {_IDENT} (table .*)$")
_OWNER = re.compile(rf"\bowner {_IDENT}")
_KINDS_OF_TABLE = ("table", "foreign table", "view", "materialized view")
#: may be hand-made, and goes with a column that it names
_WITH_COLUMN = frozenset({"index", "constraint", "statistics"})


@dataclass(frozen=True)
class Change:
    """`gone` and `came`: name -> definition; `changed`: name -> (old, new). `before` and `after` are the states themselves."""

    gone: dict[str, str]
    came: dict[str, str]
    changed: dict[str, tuple[str, str]]
    before: Mapping[str, str] = field(repr=False)
    after: Mapping[str, str] = field(repr=False)


def change(before: Snapshot, after: Snapshot, *, leave_out: str | None = None) -> Change:
    """`leave_out` is the version table, 'public.alembic_version': it and all that hangs on it."""
    old, new = _without(before.objects, leave_out), _without(after.objects, leave_out)
    return Change(
        gone={name: old[name] for name in sorted(old.keys() - new.keys())},
        came={name: new[name] for name in sorted(new.keys() - old.keys())},
        changed={name: (old[name], new[name]) for name in sorted(old.keys() & new.keys()) if old[name] != new[name]},
        before=old,
        after=new,
    )


def did_nothing(made: Change) -> bool:
    return not (made.gone or made.came or made.changed)


def findings(expected: Change, actual: Change) -> tuple[str, ...]:
    """Each a sentence: where the downgrade did another thing than the history says. Empty when it did exactly that."""
    if did_nothing(actual) and not did_nothing(expected):
        count = len(_tops(expected.gone)) + len(_tops(expected.came)) + len(expected.changed)
        if wanted := _missing(expected, actual):
            was = "change was" if count == 1 else "changes were"
            return _few([f"the downgrade did nothing: {count} {was} expected", *wanted])
    return _few([*_missing(expected, actual), *_unexpected(expected, actual)])


def along(expected: Change, actual: Change) -> tuple[str, ...]:
    """What only this database has, and what went with a thing that was to go: no fault of the downgrade, but to be known."""
    those = _Things(expected.gone)
    gone = {name: text for name, text in actual.gone.items() if name not in expected.gone}
    return _few([f"{name} goes along with {top}" for name, text in gone.items() if (top := those.above(name, text))])


def drift(built: Snapshot, copy: Snapshot, *, leave_out: str | None = None) -> tuple[str, ...]:
    """How the database differs from one that is built from nothing, before anything was done. Owners count by themselves: roles differ."""
    found = change(built, copy, leave_out=leave_out)
    differ = [(name, old, new) for name, (old, new) in found.changed.items() if _unowned(old) != _unowned(new)]
    return _few(
        [
            *(f"{name} is only in this database" for name in _tops(found.came)),
            *(f"{name} is missing in this database" for name in _tops(found.gone)),
            *(f"{name} is {_short(new)} in this database, and {_short(old)} in one built from nothing" for name, old, new in differ),
        ]
    )


def back_again(before: Snapshot, after_up_again: Snapshot, *, leave_out: str | None = None) -> tuple[str, ...]:
    """What a downgrade and the upgrade after it did not bring back as it was."""
    found = change(before, after_up_again, leave_out=leave_out)
    return _few(
        [
            *(f"{name} did not come back" for name in _tops(found.gone)),
            *(f"{name} is new" for name in _tops(found.came)),
            *(f"{name} was {_short(old)} and is {_short(new)}" for name, (old, new) in found.changed.items()),
        ]
    )


# ------------------------------------------------------------------ the two changes


def _missing(expected: Change, actual: Change) -> list[str]:
    """What should have been done. What the copy never had can't go; what it had already can't come."""
    still = {name: text for name, text in expected.gone.items() if name in actual.before and name in actual.after}
    absent = {name: text for name, text in expected.came.items() if name not in actual.after}
    found = [f"{name} is still there" for name in _tops(still)]
    found += [f"{name} should have come back, and did not" for name in _tops(absent)]
    for name, (_, new) in expected.changed.items():
        if name in actual.after and name in actual.before and name not in actual.changed and _unowned(actual.after[name]) != _unowned(new):
            found.append(f"{name} did not change: it is {_short(actual.after[name])}, and should be {_short(new)}")
    return found


def _unexpected(expected: Change, actual: Change) -> list[str]:
    found = [f"{name} is gone, though nothing says so" for name in _tops(_beyond(actual.gone, expected.gone))]
    found += [f"{name} came, though nothing says so" for name in _tops(_beyond(actual.came, expected.came))]
    for name in sorted(actual.came.keys() & expected.came.keys()):
        mine, theirs = actual.came[name], expected.came[name]
        if _unowned(mine) != _unowned(theirs) and _kind(name) != "grant":
            found.append(f"{name} came back as {_short(mine)}, and should be {_short(theirs)}")
    for name, (old, new) in actual.changed.items():
        if name not in expected.changed:
            found.append(f"{name} changed, though nothing says so: it was {_short(old)} and is {_short(new)}")
        elif not _same_step((old, new), expected.changed[name]):
            found.append(f"{name} is {_short(new)} now, and should be {_short(expected.changed[name][1])}")
    return found


def _beyond(actual: Mapping[str, str], expected: Mapping[str, str]) -> dict[str, str]:
    those = _Things(expected)
    return {name: text for name, text in actual.items() if name not in expected and not those.above(name, text)}


def _same_step(mine: tuple[str, str], theirs: tuple[str, str]) -> bool:
    """The same end, or, where the beginnings differ by drift, the same parts taken and given."""
    if _unowned(mine[1]) == _unowned(theirs[1]):
        return True
    return _step(*mine) == _step(*theirs)


def _step(old: str, new: str) -> tuple[set[str], set[str]]:
    before, after = ({part.strip() for part in _unowned(text).split(";")} for text in (old, new))
    return before - after, after - before


# ------------------------------------------------------------------ what hangs on what


def _kind(name: str) -> str:
    return name.split(" ", 1)[0]


def _parents(name: str, text: str) -> list[str]:
    """Keys of the things that it goes along with, whatever kind of table they hang on."""
    kind, rest = name.split(" ", 1)
    if kind in ("grant", "comment"):
        return [rest]
    if kind == "publication":
        published = _PUBLISHED.match(name)
        return [published[1]] if published else []
    if kind in ("column", "constraint", "trigger", "rule", "policy") and _LAST.search(rest):
        return _tables(_LAST.sub("", rest))
    if kind in ("index", "statistics") and (on := _ON.search(text)):
        return _tables(on[1])
    if kind == "sequence" and (owned := _OWNED.search(text)):
        return [f"column {owned[1]}"]
    return []


def _tables(name: str) -> list[str]:
    return [f"{kind} {name}" for kind in _KINDS_OF_TABLE]


class _Things:
    """Things that others may go along with."""

    def __init__(self, things: Mapping[str, str]) -> None:
        self._texts = things
        self._columns: dict[str, list[str]] = {}
        for name in things:
            if name.startswith("column "):
                self._columns.setdefault(_LAST.sub("", name.removeprefix("column ")), []).append(name)

    def above(self, name: str, text: str) -> str | None:
        """The highest of them that it goes along with."""
        parents = _parents(name, text)
        for parent in parents:
            if top := self.above(parent, self._texts.get(parent, "")):
                return top
            if parent in self._texts:
                return parent
        if _kind(name) in _WITH_COLUMN and parents:
            columns = self._columns.get(parents[0].removeprefix("table "), ())
            return next((column for column in columns if _names(text, column)), None)
        return None


def _names(text: str, column: str) -> bool:
    last = _LAST.search(column)
    if last is None:
        return False
    return re.search(rf'(?<![\w"]){re.escape(last[0][1:])}(?![\w"])', text.split("(", 1)[-1]) is not None


def _tops(things: Mapping[str, str]) -> list[str]:
    those = _Things(things)
    return [name for name, text in things.items() if those.above(name, text) is None]


def _without(objects: Mapping[str, str], table: str | None) -> dict[str, str]:
    if table is None:
        return dict(objects)
    top = f"table {table}"
    those = _Things({top: ""})
    left = {name for name, text in objects.items() if name == top or ((table in name or table in text) and those.above(name, text))}
    said = {f"{what} {name}" for what in ("grant", "comment") for name in left}
    return {name: text for name, text in objects.items() if name not in left and name not in said}


# ------------------------------------------------------------------ in words


def _unowned(text: str) -> str:
    return _OWNER.sub("owner", text)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return f"'{line if len(line) <= _LONG else line[: _LONG - 3] + '...'}'"


def _few(sentences: list[str]) -> tuple[str, ...]:
    rest = len(sentences) - _AT_MOST
    return tuple(sentences) if rest <= 0 else (*sentences[:_AT_MOST], f"and {rest} more")
