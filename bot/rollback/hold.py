"""Does the approval still hold? Another database, script, set or class of loss voids it; counts may grow within bounds (databases.md F6)."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping

from bot.evidence import Loss, Snapshot, digest_of
from bot.model import Plan
from bot.place import Identity
from bot.ports import Database
from bot.rollback import loss

WITHIN = dt.timedelta(seconds=30)
_SHARE = 0.10  # of what was counted
_AT_LEAST = 1000  # rows


def differences(old: Plan, new: Plan) -> tuple[str, ...]:
    """Why the approvals of `old` don't hold for `new`, which was planned again and not rehearsed; in sentences, empty when they do."""
    if not old.way.by_tool:
        return _of_copies(old, new)
    found = [
        *_database(old.identity, new.identity),
        *_if(old.from_ != new.from_, f"the database moved from {old.from_} to {new.from_}"),
        *_if(old.to != new.to, f"the way leads to {new.to}, not to {old.to}"),
        *_if([u.revision for u in old.undone] != [u.revision for u in new.undone], "other revisions would be undone"),
        *_if([u.sha256 for u in old.undone] != [u.sha256 for u in new.undone], "the scripts were edited"),
        *_if({one.thing() for one in old.foreseen} != {one.thing() for one in new.foreseen}, "other things would be lost"),
        *_if([s.name for s in old.steps] != [s.name for s in new.steps], "other steps would be taken"),
        *_if(old.archive != new.archive, "another archive would be put back"),
        *_if(old.verify != new.verify, "the verification changed"),
    ]
    return tuple(found)


def _of_copies(old: Plan, new: Plan) -> tuple[str, ...]:
    """A copy that comes back is what it was; which migrations that undoes follows from it."""
    which = [(one.source.name, one.source.sha256, one.source.oid) if one.source else None for one in (old, new)]
    found = [
        *_database(old.identity, new.identity),
        *_if(old.from_ != new.from_, f"the database moved from {old.from_} to {new.from_}"),
        *_if(old.way.move == "stamp" and old.to != new.to, f"the way leads to {new.to}, not to {old.to}"),
        *_if(which[0] != which[1], "the backup is not the one that was looked at"),
        *_if((old.tables_back, old.rule) != (new.tables_back, new.rule), "other rows would come back"),
        *_if([s.name for s in old.steps] != [s.name for s in new.steps], "other steps would be taken"),
        *_if(old.verify != new.verify, "the verification changed"),
    ]
    return tuple(found)


def concerns(objects: Mapping[str, str], losses: Iterable[Loss]) -> dict[str, str]:
    """Of a catalog, what lies under the losses: object -> digest of its definition."""
    names = [one.name for one in losses if one.kind in ("table", "column", "rows", "values")]
    return {key: digest_of(text)[:16] for key, text in objects.items() if any(_under(key.partition(" ")[2], name) for name in names)}


def _under(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}.")


async def still(plan: Plan, database: Database) -> tuple[str, ...]:
    """What is lost, looked at and counted again. Sentences about what goes beyond the approval. What is kept, or dumped whole, is not lost."""
    rehearsal = plan.rehearsal
    if rehearsal is None or not rehearsal.done or plan.way.swaps or plan.way.in_place:
        return ()
    found: list[str] = []
    if rehearsal.concerns:
        now: Snapshot = await database.snapshot(count=False)
        found += _other_objects(rehearsal.concerns, concerns(now.objects, plan.loss))
    again = await database.recount(plan.loss, WITHIN)
    return (*found, *grown(plan, again))


def _other_objects(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if not changed:
        return []
    more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
    return [f"the schema changed since the rehearsal: {', '.join(changed[:4])}{more}"]


def grown(plan: Plan, again: Iterable[Loss]) -> tuple[str, ...]:
    """What was counted, plus 10 %, at least plus 1,000 rows, was approved; a class never rises."""
    approved = {one.thing(): one for one in plan.loss}
    now, found = list(again), []
    for one in now:
        was = approved.get(one.thing())
        if was is None or was.count is None or one.count is None:
            continue
        bound = was.count + max(int(was.count * _SHARE), _AT_LEAST)
        if one.count > bound:
            found.append(f"{one.kind} {one.name} has {one.count} now; {was.count} were counted, and up to {bound} were approved")
    if loss.higher(loss.loss_class(now), plan.loss_class):
        found.append(f"the loss class is {loss.loss_class(now)} now, not {plan.loss_class}")
    return tuple(found)


def _database(old: Identity, new: Identity) -> list[str]:
    if old.same_database(new):
        return _if(old.version != new.version, "the server was upgraded")
    if old.timeline != new.timeline:
        return ["the server failed over to another timeline"]
    return ["it is another database"]


def _if(true: bool, sentence: str) -> list[str]:
    return [sentence] if true else []
