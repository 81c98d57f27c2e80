"""How many rehearsals there may be (databases.md F3): one at a time for each server, one in a while for each person."""

from __future__ import annotations

import datetime as dt

from bot.errors import Refusal
from bot.journal.pooled import Connection

_KEY = 0x0BAC_0F3  # of the lock under which two requests of one instant are looked at one after the other
#: one that waits for a provider takes nothing from the server, and may wait for hours
_BUSY = """
select id, target from backout.runs where state = 'rehearsing' and id <> $1 and plan->'identity'->>'system' = $2
  and not coalesce(plan->'rehearse'->0->'params' ? 'provider', false) limit 1"""
#: a plan without a digest is one that is to be rehearsed
_LAST = """
select max(e.at) from backout.events e join backout.runs r on r.id = e.run
where e.kind = 'planned' and not e.data ? 'digest' and e.at > $2 and r.id <> $1
  and r.request->'by'->>'id' = (select request->'by'->>'id' from backout.runs where id = $1)"""


async def refuse(db: Connection, run: str, system: str, since: dt.datetime) -> None:
    """In the transaction that would begin it. Raises Refusal(rehearsal_in_progress, rehearsed_too_soon)."""
    await db.execute("select pg_advisory_xact_lock($1)", _KEY)
    if busy := await db.fetchrow(_BUSY, run, system):
        raise Refusal(
            "rehearsal_in_progress", f"Run {busy['id']} of {busy['target']} is being rehearsed, and its database is on the same server.",
            f"Wait until it asks for approval, or end it with /rollback abort {busy['id']}.",
        )  # fmt: skip
    if last := await db.fetchval(_LAST, run, since):
        waits = (last - since).total_seconds()
        raise Refusal(
            "rehearsed_too_soon", f"You began a rehearsal at {last:%H:%M} UTC, and each one costs production a dump.",
            f"Ask again in {max(1, round(waits / 60))} min, or let somebody else ask.",
        )  # fmt: skip
