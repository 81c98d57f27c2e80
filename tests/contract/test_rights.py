"""What Backout's role may do is found by doing it, and nothing of it stays (databases.md F24)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bot.databases.connecting import quoted
from bot.databases.rights import rights
from bot.place import Connect
from tests.contract.places import Place, place, running
from tests.contract.servers import execute, session


@pytest.fixture(scope="module", params=[16, 18])
def own(request: pytest.FixtureRequest) -> Iterator[Connect]:
    with running(request.param) as connect:
        yield connect


async def found(at: Place) -> dict[str, str]:
    """What does not work: name -> what is missing."""
    seen = await rights(at.backout.model_copy(update={"database": at.app.database}), at.maintenance, at.app)
    assert len({one.name for one in seen}) == len(seen) == 7
    assert all(bool(one.missing) is not one.works for one in seen)
    return {one.name: one.missing for one in seen if not one.works}


async def everything(at: Place) -> list[str]:
    """Databases, roles and rights of the server, as text."""
    async with session(at.superuser) as asking:
        rows = await asking.fetch(
            "SELECT datname || coalesce(datacl::text, '') || datconnlimit FROM pg_database UNION ALL SELECT rolname FROM pg_roles ORDER BY 1"
        )
        return [str(row[0]) for row in rows]


async def test_a_superuser_may_everything_and_the_server_is_as_it_was(own: Connect) -> None:
    async with place(own, is_superuser=True) as at:
        before = await everything(at)
        assert await found(at) == {}
        assert await everything(at) == before


async def test_a_role_with_the_documented_rights_may_everything(own: Connect) -> None:
    async with place(own, is_superuser=False) as at:
        before = await everything(at)
        assert await found(at) == {}
        assert await everything(at) == before


async def test_each_missing_right_is_named_with_the_sql_that_gives_it(own: Connect) -> None:
    async with place(own, is_superuser=False) as at:
        await at.do(
            f"ALTER ROLE {at.me} NOCREATEDB NOCREATEROLE", f"REVOKE {quoted(at.app.user)} FROM {at.me}", f"REVOKE pg_signal_backend FROM {at.me}"
        )
        missing = await found(at)
        assert missing["make a database"] == f"ALTER ROLE {at.me} CREATEDB;"
        assert missing["make a role"] == f"ALTER ROLE {at.me} CREATEROLE;"
        assert missing["end the application's sessions"] == f"GRANT pg_signal_backend TO {at.me};"
        assert missing["read every table"].startswith(f"GRANT pg_read_all_data TO {at.me};")
        assert missing["put another database in this one's place"] == f"GRANT {quoted(at.app.user)} TO {at.me};"
        assert "take the target's lock" not in missing


async def test_the_sql_that_is_named_gives_the_right(own: Connect) -> None:
    async with place(own, is_superuser=False) as at:
        await at.do(f"ALTER ROLE {at.me} NOCREATEDB", f"REVOKE pg_signal_backend FROM {at.me}", f"REVOKE {quoted(at.app.user)} FROM {at.me}")
        for sql in (await found(at)).values():
            if sql.split()[0] in {"GRANT", "ALTER"}:
                await at.do(sql)
        assert await found(at) == {}


async def test_rows_hidden_by_row_security_are_a_missing_right(own: Connect) -> None:
    async with place(own, is_superuser=False) as at:
        await execute(at.app, "ALTER TABLE t ENABLE ROW LEVEL SECURITY", "ALTER TABLE t FORCE ROW LEVEL SECURITY")
        assert "BYPASSRLS" in (await found(at))["read every table"]


async def test_what_a_dead_check_left_is_removed_by_the_next(own: Connect) -> None:
    async with place(own, is_superuser=True) as at:
        await execute(at.maintenance, "CREATE DATABASE backout_check_0123abcd TEMPLATE template0")
        await found(at)
        assert not await at.value("SELECT count(*) FROM pg_database WHERE datname LIKE 'backout_check%'")
