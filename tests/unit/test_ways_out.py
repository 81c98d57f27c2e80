"""After a failed step: which ways there are, in words; nothing is promised that was not looked at."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from bot.durable import TargetParts
from bot.evidence import BackupFile
from bot.model import AttemptState, Run, State
from bot.ports import Journal
from bot.rollback.ways_out import ways_out
from tests.unit.slack_parts import attempt, plan, run

SOURCE = BackupFile(name="shop-r1.dump", path="/b/shop-r1.dump", sha256="00", size=2_000_000)


class NoBackups:
    async def backups(self, _target: str) -> tuple[dict[str, Any], ...]:
        return ()


def failed(summary: str) -> Run:
    ended = attempt("restore_beside", AttemptState.FAILED, {}).model_copy(update={"summary": summary})
    return run(State.NEEDS_DECISION, plan=plan(strategy="restore", source=SOURCE), attempts=(ended,))


async def ways(broken: Run, *, stops: bool = True, tries: bool = True) -> list[str]:
    shop = SimpleNamespace(
        name="shop", pitr=None, provider=None, platform=SimpleNamespace(stops=stops), rehearsal=SimpleNamespace(where=object() if tries else None)
    )
    return await ways_out(cast("TargetParts", shop), broken, cast("Journal", NoBackups()), "/rollback")


FULL = "This backup can't be restored: TABLE DATA public orders: could not extend file: No space left on device."


async def test_where_two_databases_do_not_fit_a_restore_in_place_is_named() -> None:
    (said,) = await ways(failed(FULL))
    assert said.startswith("/rollback restore shop shop-r1.dump in place (a run of its own, after Leave): the database is dropped first")


async def test_it_is_not_named_where_it_would_be_refused_or_is_not_what_is_missing() -> None:
    assert await ways(failed("This backup can't be restored: it is damaged.")) == []
    assert await ways(failed(FULL), stops=False) == [], "writers have to be stopped for it"
    assert await ways(failed(FULL), tries=False) == [], "it has to be tried on a copy first"
