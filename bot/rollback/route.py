"""What is asked, against the history that is there: where to go, what is undone on the way, or the refusal that says why not. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from bot.errors import Refusal
from bot.model import History, Revision, Undone

BASE = "base"
_RELATIVE = re.compile(r"[-–—](\d{1,4})")
_SHOWN = 40  # characters of a revision that somebody typed


def shown(rev: str) -> str:
    """A typed revision as it may stand in a sentence: one line, no control or direction characters, cut."""
    plain = "".join(c for c in rev if c.isprintable())
    return plain if len(plain) <= _SHOWN else plain[:_SHOWN] + "…"


def route(rev: str, history: History, *, command: str = "/rollback") -> tuple[str, str, tuple[Revision, ...]]:
    """(from, to, undone newest first), all absolute; `to` may be 'base'. Raises Refusal with one of docs/contract.md's codes."""
    scripts = {one.revision: one for one in history.revisions}
    if BASE in scripts:
        raise Refusal(
            "broken_history", "A migration script has the id base, which is also the word for undoing everything.", "Give that revision another id."
        )  # fmt: skip
    current = _current(history, scripts, command)
    applied = _ancestors(current, scripts)
    to = _resolve(rev, current, applied, history, scripts, command)
    undone = _undone(to, applied, scripts)
    if not undone:
        raise _nothing(current, applied, scripts, command)
    _one_way(to, undone, applied, scripts, command)
    return current, to, undone


def forward(rev: str, history: History, *, command: str = "/rollback") -> tuple[str, str, tuple[Revision, ...]]:
    """(from, to, applied oldest first), all absolute; from may be 'base', REV also 'head'. Raises Refusal."""
    scripts = {one.revision: one for one in history.revisions}
    current = _current(history, scripts, command) if history.current else BASE
    applied = _ancestors(current, scripts)
    to = _head(history) if _is_head(rev, scripts) else _named(rev, history)
    if to in applied:
        raise Refusal(
            "not_ahead", f"{shown(to)} is applied already: the database stands at {current}.", f"To go back, write {command} {shown(to)}."
        )  # fmt: skip
    wanted = _ancestors(to, scripts)
    if not applied <= wanted:
        raise Refusal(
            "not_ahead", f"{shown(to)} is on another branch than {current}, where the database stands.", "Name a revision above it."
        )  # fmt: skip
    return current, to, tuple(scripts[one] for one in reversed(_newest_first(wanted - applied, scripts)))


def marked(rev: str, history: History) -> tuple[str, str, tuple[Revision, ...]]:
    """(from, to, what lies between them, newest first); each may be 'base', REV also 'head'. The database may stand at a revision that no script has.

    Raises Refusal.
    """
    scripts = {one.revision: one for one in history.revisions}
    if len(history.current) > 1:
        raise Refusal(
            "several_heads", f"The database stands at several heads: {', '.join(sorted(history.current))}. A stamp would forget all but one.",
            "Merge the heads with the tool itself.",
        )  # fmt: skip
    from_ = history.current[0] if history.current else BASE
    to = rev.casefold() if rev.casefold() == BASE and rev not in scripts else _head(history) if _is_head(rev, scripts) else _named(rev, history)
    if to == from_:
        raise Refusal("already_stamped", f"{history.version_table} says already that the database stands at {shown(to)}.", "There is nothing to do.")
    return from_, to, tuple(scripts[one] for one in _newest_first(_ancestors(from_, scripts) ^ _ancestors(to, scripts), scripts))


def _is_head(rev: str, scripts: Mapping[str, Revision]) -> bool:
    return rev.casefold() == "head" and rev not in scripts


def _head(history: History) -> str:
    if len(history.heads) != 1:
        raise Refusal("several_heads", f"The scripts have several heads: {', '.join(sorted(history.heads))}.", "Name the revision to go to.")
    return history.heads[0]


def _current(history: History, scripts: Mapping[str, Revision], command: str) -> str:
    if not history.current:
        raise Refusal(
            "version_table_empty", f"{history.version_table} is there but empty: no migration is applied here, or the table was emptied.",
            f"If the schema is there, write its revision down first: {command} stamp REV.",
        )  # fmt: skip
    if len(history.current) > 1:
        raise Refusal(
            "several_heads", f"The database stands at several heads: {', '.join(sorted(history.current))}. Taking back one alone can't be pinned.",
            "Merge the heads, or downgrade the one branch with the tool itself.",
        )  # fmt: skip
    current = history.current[0]
    if current not in scripts:
        raise Refusal(
            "revision_unknown_to_scripts",
            f"The database says it is at {shown(current)}, and the deployed scripts don't have that revision. They are older, or of another branch.",
            "Deploy the scripts that have it to where the tool runs, then ask again.",
        )  # fmt: skip
    return current


def _ancestors(of: str, scripts: Mapping[str, Revision]) -> set[str]:
    seen: set[str] = set()
    stack = [of]
    while stack:
        one = stack.pop()
        if one in seen or one not in scripts:
            continue
        seen.add(one)
        stack += [*scripts[one].down, *scripts[one].depends_on]
    return seen


def _resolve(rev: str, current: str, applied: set[str], history: History, scripts: Mapping[str, Revision], command: str) -> str:
    if rev.casefold() == BASE and rev not in scripts:
        return _base(applied, scripts)
    if relative := _RELATIVE.fullmatch(rev):
        return _steps_down(int(relative[1]), current, applied, scripts, command)
    to = _named(rev, history)
    if to == current:
        raise _nothing(current, applied, scripts, command)
    if to not in applied:
        raise Refusal(
            "not_an_ancestor", f"{to} is not below {current}, where the database stands: it was never applied here, or lies on another branch.",
            f"Choose a revision that {current} was built on; {command} plan -1 shows the nearest.",
        )  # fmt: skip
    return to


def _base(applied: set[str], scripts: Mapping[str, Revision]) -> str:
    bases = sorted(one for one in applied if not scripts[one].down)
    if len(bases) > 1:
        raise Refusal(
            "several_bases", f"This history has several beginnings: {', '.join(bases)}. 'base' would undo all of them.",
            "Name the revision that shall stay applied.",
        )  # fmt: skip
    return BASE


def _steps_down(count: int, current: str, applied: set[str], scripts: Mapping[str, Revision], command: str) -> str:
    if count < 1:
        raise Refusal("unknown_revision", "-0 undoes nothing.", f"{command} -1 undoes the newest migration.")
    at = current
    for done in range(count):
        down = scripts[at].down if at in scripts else ()
        if len(down) > 1:
            raise Refusal(
                "merge_point", f"{at} merges {' and '.join(down)}: counting down does not say which way.",
                _past_the_merge(at, applied, scripts, command),
            )  # fmt: skip
        if not down:
            if done + 1 == count:
                return BASE
            raise Refusal(
                "unknown_revision", f"-{count} is further than this history goes: {done + 1} migrations are applied.",
                f"{command} base undoes all of them.",
            )  # fmt: skip
        at = down[0]
    return at


def _named(rev: str, history: History) -> str:
    ids = [one.revision for one in history.revisions]
    if rev in ids:
        return rev
    found = sorted(one for one in ids if one.startswith(rev)) if rev else []
    if not found:
        near = ", ".join(ids[:5])
        raise Refusal(
            "unknown_revision", f"The deployed scripts have no revision {shown(rev)!r}.", f"The newest are: {near}. Check the id, or use -1."
        )  # fmt: skip
    if len(found) > 1:
        raise Refusal(
            "ambiguous_revision", f"{shown(rev)!r} begins {len(found)} revisions: {', '.join(found[:5])}.", "Type one character more."
        )  # fmt: skip
    return found[0]


def _undone(to: str, applied: set[str], scripts: Mapping[str, Revision]) -> tuple[Revision, ...]:
    order = _newest_first(applied if to == BASE else _above(to, applied, scripts), scripts)
    return tuple(scripts[one] for one in order)


def _above(to: str, applied: set[str], scripts: Mapping[str, Revision]) -> set[str]:
    """What is applied and stands on `to`, by descent or by dependency."""
    children: dict[str, list[str]] = {}
    for one in applied:
        for below in (*scripts[one].down, *scripts[one].depends_on):
            children.setdefault(below, []).append(one)
    seen: set[str] = set()
    stack = list(children.get(to, ()))
    while stack:
        one = stack.pop()
        if one not in seen:
            seen.add(one)
            stack += children.get(one, ())
    return seen


def _newest_first(wanted: set[str], scripts: Mapping[str, Revision]) -> list[str]:
    """Each before whatever it stands on. Raises Refusal(broken_history) for a circle."""
    on_it = dict.fromkeys(wanted, 0)
    for one in wanted:
        for below in {*scripts[one].down, *scripts[one].depends_on} & wanted:
            on_it[below] += 1
    order: list[str] = []
    ready = sorted(one for one, count in on_it.items() if not count)
    while ready:
        order += ready
        following = []
        for one in ready:
            for below in {*scripts[one].down, *scripts[one].depends_on} & wanted:
                on_it[below] -= 1
                following += [below] if not on_it[below] else []
        ready = sorted(following)
    if len(order) < len(wanted):
        raise Refusal("broken_history", "The history of migrations goes round in a circle.", "Mend down_revision in the scripts.")
    return order


def _one_way(to: str, undone: tuple[Revision, ...], applied: set[str], scripts: Mapping[str, Revision], command: str) -> None:
    for one in undone:
        if one.depends_on:
            raise Refusal(
                "depends_on", f"{one.revision} depends on {', '.join(one.depends_on)}, another branch: undoing it alone can't be pinned.",
                "Downgrade this branch with the tool itself, or restore a backup.",
            )  # fmt: skip
    beside = set() if to == BASE else _beside(to, applied, scripts)
    if beside:
        merge = next((one.revision for one in undone if len(one.down) > 1), undone[0].revision)
        raise Refusal(
            "merge_point", f"Between here and {to} lies {merge}, a merge: {', '.join(sorted(beside))} would stay applied beside it.",
            _past_the_merge(merge, applied, scripts, command),
        )  # fmt: skip
    _undoable(undone)


def _beside(to: str, applied: set[str], scripts: Mapping[str, Revision]) -> set[str]:
    """The other heads that would be left when `to` stays and what stands on it is undone."""
    kept = applied - _above(to, applied, scripts)
    return kept - {below for one in kept for below in scripts[one].down} - {to}


def _nearest(below: str, applied: set[str], scripts: Mapping[str, Revision]) -> str | None:
    """The newest revision under `below` that can stay applied alone; None when not even base can."""
    for one in _newest_first(_ancestors(below, scripts) - {below}, scripts):
        if not _beside(one, applied, scripts):
            return one
    return BASE if sum(not scripts[one].down for one in applied) == 1 else None


def _past_the_merge(merge: str, applied: set[str], scripts: Mapping[str, Revision], command: str) -> str:
    nearest = _nearest(merge, applied, scripts)
    if nearest is None:
        return "Choose a revision above the merge, or go back by a restore: its branches have separate beginnings."
    return f"Choose a revision above the merge, or go to where its branches part: {command} {nearest}"


def _undoable(undone: tuple[Revision, ...]) -> None:
    for one in undone:
        if one.why:
            raise Refusal("no_way_down", f"{one.revision} can't be undone: {one.why}.", "Write its way down, or go back by a restore.")
    empty = [one.revision for one in undone if one.downgrade in ("empty", "missing")]
    if empty:
        raise Refusal(
            "empty_downgrade", f"The downgrade of {', '.join(empty)} does nothing: the tool would report success and the schema would stay as it is.",
            "Write the downgrade, or go back by a restore.",
        )  # fmt: skip
    raising = [one.revision for one in undone if one.downgrade == "raises"]
    if raising:
        raise Refusal(
            "raising_downgrade", f"The downgrade of {', '.join(raising)} only raises: its author says that it can't be undone.",
            "Go back by a restore, or fix forward.",
        )  # fmt: skip


def _nothing(current: str, applied: set[str], scripts: Mapping[str, Revision], command: str) -> Refusal:
    below = _nearest(current, applied, scripts)
    return Refusal(
        "nothing_to_roll_back", f"{current} is where the database stands. The revision that you name stays applied: nothing is above it.",
        f"{current} stays; to undo it: {command} {below}" if below else f"{current} stays; to undo it, a merge, go back by a restore.",
    )  # fmt: skip


def undone_of(revisions: tuple[Revision, ...]) -> tuple[Undone, ...]:
    return tuple(
        Undone(revision=one.revision, message=one.message, date=one.date, sha256=one.sha256, script=one.source if one.generated else "")
        for one in revisions
    )
