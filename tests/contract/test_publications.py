"""What a database publishes, read as statements and said again in another: the same tables, operations, filters, columns, owners."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from bot.databases.publications import Publications
from bot.place import Connect
from tests.contract.places import Place, place
from tests.contract.servers import execute, session
from tests.contract.test_swap import inside

SHOWN = """
SELECT p.pubname::text, pg_get_userbyid(p.pubowner)::text, obj_description(p.oid, 'pg_publication'), (to_jsonb(p) - 'oid' - 'pubowner')::text,
  (SELECT string_agg(concat_ws(' ', t.schemaname, t.tablename, t.attnames, t.rowfilter), '; ' ORDER BY t.schemaname, t.tablename)
   FROM pg_publication_tables t WHERE t.pubname = p.pubname)
FROM pg_publication p ORDER BY 1"""
TABLES = ('CREATE TABLE "My t" (id int PRIMARY KEY, "a,b" text, secret text)', "CREATE SCHEMA side", "CREATE TABLE side.u (id int PRIMARY KEY)")
MADE = (
    "CREATE PUBLICATION everything FOR ALL TABLES WITH (publish = 'insert, delete')",
    """CREATE PUBLICATION "it's; DROP" FOR TABLE "My t" (id, "a,b") WHERE (id > 5 AND "a,b" <> 'x'';') WITH (publish_via_partition_root = true)""",
    "CREATE PUBLICATION nothing WITH (publish = '')",
    "CREATE PUBLICATION schemas FOR TABLES IN SCHEMA side, TABLE t",
    "COMMENT ON PUBLICATION nothing IS 'no; \\ ''word'''",
)


@pytest.fixture
async def two(eighteen: Any) -> AsyncIterator[tuple[Place, Connect]]:
    """A database that publishes, and another one with the same tables."""
    async with place(eighteen, is_superuser=True) as at, place(eighteen, is_superuser=True) as other:
        here, there = inside(at.superuser, at.app.database), inside(at.superuser, other.app.database)
        for each in (here, there):
            await execute(each, *TABLES, f'ALTER TABLE "My t" OWNER TO {at.app.user}', f"ALTER TABLE t OWNER TO {at.app.user}")
        await execute(here, *MADE, f'ALTER PUBLICATION "it\'s; DROP" OWNER TO {at.app.user}')
        yield at, there
        await execute(there, *(f"REASSIGN OWNED BY {at.app.user} TO CURRENT_USER; DROP OWNED BY {at.app.user}",))


async def shown(connect: Connect) -> list[tuple[object, ...]]:
    async with session(connect) as asking:
        return [tuple(row) for row in await asking.fetch(SHOWN)]


async def test_everything_is_made_again_to_the_letter_and_twice_is_harmless(two: tuple[Place, Connect]) -> None:
    at, there = two
    wanted = await Publications(inside(at.backout, at.app.database)).there()
    assert [each.name for each in wanted] == ["everything", "it's; DROP", "nothing", "schemas"]
    making = Publications(there)
    for _ in range(2):
        assert await making.make(wanted, "backout/test") == {}
        assert await shown(there) == await shown(inside(at.superuser, at.app.database))


async def test_what_this_role_may_not_is_said_and_the_rest_is_made(two: tuple[Place, Connect]) -> None:
    at, there = two
    wanted = await Publications(inside(at.backout, at.app.database)).there()
    await execute(there, f'GRANT CREATE ON DATABASE "{there.database}" TO {at.app.user}', 'DROP TABLE "My t"')
    refused = await Publications(at.app.model_copy(update={"database": there.database})).make(wanted, "backout/test")
    assert sorted(refused) == ["everything", "it's; DROP", "nothing", "schemas"]
    assert "superuser" in refused["everything"]
    assert "does not exist" in refused["it's; DROP"]
    assert await shown(there) == [], "none by half: one that would belong to another role is none"
