"""A line of migrations that are SQL files: what is undone or applied between two of them, and whether that is what was planned."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from bot.errors import Refusal, StepFailed
from bot.model import DowngradeKind, Revision
from bot.sqltext import BrokenScript, Statement, split, unwrapped
from bot.tools.sql_session import NotThatSession


@dataclass(frozen=True)
class Way:
    """One direction of a migration: its file, and what is in it."""

    path: str
    text: str

    @property
    def statements(self) -> tuple[Statement, ...]:
        """Raises BrokenScript."""
        return unwrapped(split(self.text))


@dataclass(frozen=True)
class Migration:
    """`down` is None where there is no way down; `why` then says so. `way` names its kind, for people.

    `nothing_there`: nothing of it is in the schema, so that a way down without a statement is the right one.
    """

    revision: str
    name: str
    up: Way | None
    down: Way | None
    why: str = ""
    way: str = ""
    nothing_there: bool = False
    date: str | None = None
    #: a program wrote the way down just now
    generated: bool = False

    @property
    def sha256(self) -> str:
        """Of both files: what was rehearsed is what runs, in either direction."""
        whole = hashlib.sha256()
        for way in (self.up, self.down):
            whole.update(b"\0" if way is None else hashlib.sha256(way.text.encode("utf-8", "surrogateescape")).digest())
        return whole.hexdigest()

    def told(self, below: str | None) -> Revision:
        kind, why = self._kind()
        return Revision(
            revision=self.revision, down=(below,) if below else (), message=f"{self.name} ({self.way})" if self.way else self.name,
            date=self.date, path=(self.up or self.down or Way("", "")).path, sha256=self.sha256, downgrade=kind, why=why,
            source=self.down.text if self.down else "", language="sql", generated=self.generated,
        )  # fmt: skip

    def _kind(self) -> tuple[DowngradeKind, str]:
        if self.down is None:
            return "missing", self.why
        try:
            return ("real" if self.down.statements or self.nothing_there else "empty"), ""
        except BrokenScript as error:
            return "missing", f"{self.down.path}: {error}"


def told(line: Sequence[Migration]) -> tuple[Revision, ...]:
    """Newest first, as tools list them. `line` is oldest first."""
    found = [one.told(line[place - 1].revision if place else None) for place, one in enumerate(line)]
    return tuple(reversed(found))


def between(line: Sequence[Migration], lower: str, upper: str) -> tuple[Migration, ...]:
    """Above `lower`, up to and with `upper`; oldest first. 'base' is below all. Raises NotThatSession for a revision that is not there."""
    places = {one.revision: place for place, one in enumerate(line, 1)} | {"base": 0}
    for one in (lower, upper):
        if one not in places:
            raise NotThatSession(f"Revision {one} is not among the scripts any more.", "Ask for a new plan.")
    return tuple(line[places[lower] : places[upper]])


def as_planned(found: Iterable[Migration], planned: Mapping[str, str] | None) -> None:
    """The same revisions and bytes. Raises NotThatSession."""
    if planned is None:
        return
    those = list(found)
    if sorted(one.revision for one in those) != sorted(planned):
        listed = ", ".join(one.revision for one in those) or "no revision"
        raise NotThatSession(f"The scripts would run {listed}, which is not what was planned.", "Ask for a new plan.")
    changed = [(one.up or one.down or Way(one.revision, "")).path for one in those if one.sha256 != planned[one.revision]]
    if changed:
        raise NotThatSession(
            f"The scripts changed since the plan: {', '.join(changed)}.", "Ask for a new plan: what was approved is not what would run."
        )


def cut(way: Way | None, revision: str) -> tuple[Statement, ...]:
    """Raises NotThatSession where there is no such way, or it can't be cut into statements."""
    if way is None:
        raise NotThatSession(f"{revision} has no script for that direction.", "Write it, then ask for a new plan.")
    try:
        return way.statements
    except BrokenScript as error:
        raise NotThatSession(f"{way.path} can't be run: {error}.", "Mend that script, then ask for a new plan.") from error


@contextmanager
def before_anything() -> Iterator[None]:
    """Whatever stands in the way in here is said as a step that executed nothing."""
    try:
        yield
    except NotThatSession as why:
        raise StepFailed(f"{why.told} Nothing was executed. {why.following}") from why
    except Refusal as why:
        raise StepFailed(f"{why.message} Nothing was executed. {why.next}") from why


@contextmanager
def unless_missing(*, allowed: bool) -> Iterator[list[str]]:
    """To be filled with where the database stands: nowhere, where it has no version table and that is `allowed`."""
    try:
        yield []
    except Refusal as refusal:
        if not allowed or refusal.code != "version_table_missing":
            raise


def literal(value: str) -> str:
    """A text as SQL, whatever standard_conforming_strings says."""
    quoted = "'" + value.replace("'", "''") + "'"
    return f"E{quoted.replace(chr(92), chr(92) * 2)}" if "\\" in value else quoted


def identifier(*names: str) -> str:
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)
