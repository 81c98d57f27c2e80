"""Named tests after the downgrade: each blocking or not, each with what was seen before and after.

A check is a dict {name, ok (None: shown, not judged), blocking, before, after, says}: small JSON for the journal, the thread's table and the report.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import operator
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from bot.durable import World
from bot.errors import StepFailed
from bot.evidence import Hypertable, Loss, Snapshot
from bot.model import Attempt
from bot.place import Answer
from bot.steps.restore_beside import itself
from bot.words import many

Check = dict[str, Any]

_COMPARE = {"=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_COMPARISON = re.compile(r"\s*(<=|>=|!=|=|<|>)\s*(.+?)\s*")
_CELL = 200  # characters of an answer that are shown
_HEALTHY_WITHIN = 60.0  # seconds
_LOOK_EVERY = 2.0


async def verification(world: World) -> list[Check]:
    """Everything that is checked after a downgrade, in the order in which people read it."""
    plan, database = world.plan, itself(world)
    done = world.earlier[plan.way.move]
    before, after = Snapshot(**done.facts["before"]), await database.snapshot(count=True)
    found = [_stood(done)] if plan.way.at_provider else [revision(plan.to, await database.heads(*plan.version))]
    if before.objects:
        found += schema(before, after, plan.loss if plan.way.by_tool else ())  # of a copy, before and after are both the copy
    found += counts(before, after)
    found += hypertables(before, after)
    found += await _queries(world, done)
    return found if world.target.platform.stops else found + await health_checks(world)


def _stood(done: Attempt) -> Check:
    """Where a backup stands that nobody could look into before can't be expected, only seen."""
    return check("revision", None, f"the database stands at {done.facts['stands']}", blocking=False, after=str(done.facts["stands"]))


async def _queries(world: World, done: Attempt) -> list[Check]:
    found = []
    for one in world.target.verify:
        await world.progress(f"checking: {one.name}")
        was = done.facts.get("answers", {}).get(one.name)
        try:
            after = await world.target.database.ask(one.sql)
        except StepFailed as error:
            found.append(check(one.name, False, error.message, blocking=one.blocking))
            continue
        before = Answer(**was) if was else None
        # Rows that come back, or a server, change what is counted, which is what people asked for: then `same` is shown and stops nothing.
        meant = world.plan.strategy in ("tables", "at_provider") and one.expected == "same"
        blocking = one.blocking and not meant
        found.append(judge(one.name, one.expected, blocking, before, after, stopped=world.plan.stops_writers))
    return found


async def health_checks(world: World) -> list[Check]:
    wanted = world.target.health
    if wanted is None:
        return []
    began = world.clock.monotonic()
    while True:
        try:
            ok, says = health(*await world.web.get(wanted.url, timeout=dt.timedelta(seconds=10)), wanted.expected)
        except StepFailed as error:
            ok, says = False, error.message
        if ok or world.clock.monotonic() - began >= _HEALTHY_WITHIN:
            return [check("health", ok, says)]
        await world.progress(f"health: {says}; looking again")
        await asyncio.sleep(_LOOK_EVERY)


async def health_now(world: World) -> dict[str, Any]:
    """One look: `ok`, `says`, `seconds`. Raises StepFailed when there is no answer; only for a target with `health`."""
    wanted = world.target.health
    if wanted is None:
        raise StepFailed("the target names no health address")
    status, body, seconds = await world.web.get(wanted.url, timeout=dt.timedelta(seconds=10))
    ok, says = health(status, body, seconds, wanted.expected)
    return {"ok": ok, "says": says, "seconds": seconds}


def check(name: str, ok: bool | None, says: str, *, blocking: bool = True, before: str = "", after: str = "") -> Check:
    return {"name": name, "ok": ok, "blocking": blocking, "before": before, "after": after, "says": says}


def revision(wanted: str, found: tuple[str, ...]) -> Check:
    stands = ", ".join(found) or "base"
    return check("revision", stands == wanted, f"the database stands at {stands}", before="", after=stands)


def schema(before: Snapshot, after: Snapshot, loss: Iterable[Loss]) -> list[Check]:
    """One line per kind of object: how many, what went, what came; invalid indexes and constraints are red."""
    kinds = sorted({name.split(" ", 1)[0] for name in (*before.objects, *after.objects)})
    checks = [_kind(kind, before, after) for kind in kinds]
    if before.objects == after.objects and any(one.kind in ("table", "column", "index", "constraint") for one in loss):
        checks.append(check("schema changed", False, "the scripts drop something, and the catalog is exactly as before: the downgrade did nothing"))
    return checks


def _kind(kind: str, before: Snapshot, after: Snapshot) -> Check:
    old = {name: text for name, text in before.objects.items() if name.startswith(kind + " ")}
    new = {name: text for name, text in after.objects.items() if name.startswith(kind + " ")}
    broken = sorted(name for name, text in new.items() if _broken(text) and not _broken(old.get(name, "")))
    gone, came = sorted(old.keys() - new.keys()), sorted(new.keys() - old.keys())
    changed = sorted(name for name in old.keys() & new.keys() if old[name] != new[name])
    said = [f"{word} {_few(names, kind)}" for word, names in (("gone:", gone), ("new:", came), ("changed:", changed)) if names]
    if broken:
        said.insert(0, f"NOT VALID: {_few(broken, kind)}")
    plural = {"index": "indexes", "policy": "policies"}.get(kind, kind + "s")
    return check(plural, not broken, "; ".join(said) or "as before", before=str(len(old)), after=str(len(new)))


def _broken(text: str) -> bool:
    return "[invalid]" in text or "[not valid]" in text


def _few(names: list[str], kind: str, at_most: int = 4) -> str:
    plain = [name.removeprefix(kind + " ") for name in names]
    rest = f" and {len(plain) - at_most} more" if len(plain) > at_most else ""
    return ", ".join(plain[:at_most]) + rest


def counts(before: Snapshot, after: Snapshot) -> list[Check]:
    """Rows of the tables that are on both sides. Nobody can be said to be stopped yet, so a difference is a warning."""
    both = sorted(before.counts.keys() & after.counts.keys())
    differ = [f"{table} {before.counts[table]} -> {after.counts[table]}" for table in both if before.counts[table] != after.counts[table]]
    total = (str(sum(side.counts[table] for table in both)) for side in (before, after))
    says = "; ".join(differ[:4]) + (f" and {len(differ) - 4} more" if len(differ) > 4 else "") if differ else f"equal in {len(both)} tables"
    found = [check("rows", not differ, says, blocking=False, before=next(total), after=next(total))]
    for table, why in sorted({**before.uncounted, **after.uncounted}.items())[:10]:
        found.append(check(f"rows of {table}", None, f"not counted: {why}", blocking=False))
    return found


def hypertables(before: Snapshot, after: Snapshot) -> list[Check]:
    """One line for each: its chunks, and whether they have what it has. What was broken before is shown, not judged."""
    found = []
    for name, now in sorted(after.hypertables.items()):
        was = before.hypertables.get(name)
        broken = [one for one in now.broken if was is None or one not in was.broken]
        says = f"NOT WHOLE: {'; '.join(broken[:4])}" if broken else "; ".join(now.said)
        old = now.broken and not broken
        found.append(
            check(
                f"hypertable {name}", None if old else not broken, says, blocking=bool(broken), before=_chunks(was) if was else "", after=_chunks(now)
            )
        )
    return found


def _chunks(one: Hypertable) -> str:
    return f"{many(one.chunks, 'chunk')}, {one.rows}" + (f", {len(one.broken)} not whole" if one.broken else "")


def judge(name: str, expect: Any, blocking: bool, before: Answer | None, after: Answer, *, stopped: bool) -> Check:
    """CONTRACT's `expect`. `expect` is ... when there is none. `stopped`: writers were stopped, so a difference is an error and no accident."""
    seen = _say(after)
    was = _say(before) if before else ""
    if expect is ...:
        return check(name, None, "shown, not judged", blocking=False, before=was, after=seen)
    if expect == "same":
        same = before is not None and before == after
        says = "same as before" if same else "differs from before" + ("" if stopped else "; writers were not stopped, so this is a warning")
        return check(name, same, says, blocking=blocking and stopped, before=was, after=seen)
    if expect == "none":
        return check(name, not after.rows, "no rows" if not after.rows else f"{len(after.rows)} rows", blocking=blocking, before=was, after=seen)
    if len(after.rows) != 1 or len(after.columns) != 1:
        return check(
            name, False, f"expected one value, got {len(after.rows)} rows of {len(after.columns)}", blocking=blocking, before=was, after=seen
        )
    ok, wanted = _compare(expect, after.rows[0][0])
    return check(name, ok, f"expected {wanted}", blocking=blocking, before=was, after=seen)


def _compare(expect: Any, value: Any) -> tuple[bool, str]:
    if isinstance(expect, str) and (match := _COMPARISON.fullmatch(expect)):
        left, right = _number(value), _number(match[2])
        if left is None or right is None:
            text = {"=": str(value) == match[2], "!=": str(value) != match[2]}.get(match[1], False)
            return value is not None and text, expect.strip()
        return bool(_COMPARE[match[1]](left, right)), expect.strip()
    if isinstance(expect, bool) or expect is None or isinstance(value, bool):
        return value is expect, json.dumps(expect)
    numbers = _number(value), _number(expect)
    if not isinstance(expect, str) or (None not in numbers and not isinstance(value, str)):
        return None not in numbers and numbers[0] == numbers[1], str(expect)
    return str(value) == expect, expect


def _number(value: Any) -> Decimal | None:
    if isinstance(value, bool) or value is None:
        return None
    try:
        found = Decimal(str(value))
    except InvalidOperation:
        return None
    return None if found.is_nan() else found  # NaN can't be compared with anything


def _say(answer: Answer) -> str:
    if not answer.rows:
        return "no rows"
    if len(answer.rows) == 1 and len(answer.columns) == 1:
        return str(answer.rows[0][0])[:_CELL]
    text = "; ".join(", ".join(str(cell) for cell in row) for row in answer.rows[:3])
    return text[:_CELL] + (f" ({len(answer.rows)}{'+' if answer.truncated else ''} rows)" if len(answer.rows) > 3 else "")


def health(status: int, body: bytes, seconds: float, wanted: Mapping[str, Any] | None) -> tuple[bool, str]:
    """(healthy, in words). `wanted`: dotted JSON path -> value."""
    said = f"HTTP {status} in {seconds * 1000:.0f} ms"
    if not 200 <= status < 300:
        return False, said
    if not wanted:
        return True, said
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return False, f"{said}, but the body is no JSON"
    for path, value in wanted.items():
        found: Any = data
        for part in path.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if found != value or isinstance(found, bool) is not isinstance(value, bool):  # Python takes true for 1
            return False, f"{said}, but {path} is {json.dumps(found)[:60]}, not {json.dumps(value)}"
    return True, said
