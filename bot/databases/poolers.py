"""A pooler in front of a server, which takes turns: no lock and no setting stays on a session, so nothing could be promised through it."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from bot.databases.connecting import CATALOG, Connection, connected, pooler
from bot.errors import StepFailed
from bot.place import Connect


async def refuse_pooler(connect: Connect) -> None:
    """A pooler that takes turns gives the idle client another session; one that keeps its last session warm gives it to the second client."""
    try:
        async with connected(connect, CATALOG) as one, connected(connect, CATALOG) as two:
            mine = [await _seen(one), await _seen(one)]
            async with two.transaction():
                other = await _seen(two)
                mine += [await _seen(one), await _seen(one)]
    except StepFailed as error:
        if isinstance(error.__cause__, asyncpg.InvalidSQLStatementNameError | asyncpg.DuplicatePreparedStatementError):
            raise pooler("a prepared statement did not stay on its session") from error
        raise
    if evidence := pooled(mine, other):
        raise pooler(evidence)


async def _seen(session: Connection) -> tuple[int, str]:
    row = await session.fetchrow("SELECT pg_backend_pid(), current_setting('search_path')")
    assert row is not None  # noqa: S101  a SELECT without FROM has one row
    return row[0], row[1]


def pooled(mine: Sequence[tuple[int, str]], other: tuple[int, str]) -> str | None:
    """What gives a pooler away; None when nothing does.

    `mine`: pid and search_path as one client saw them, statement by statement; `other`: as a second client saw them meanwhile.
    """
    pids = {pid for pid, _ in mine}
    if len(pids) > 1:
        return f"statements of one connection ran in several sessions ({', '.join(map(str, sorted(pids)))})"
    if other[0] in pids:
        return f"two connections ran in one session ({other[0]})"
    if {path for _, path in (*mine, other)} != {CATALOG["search_path"]}:
        return "a setting of the session did not stick"
    return None
