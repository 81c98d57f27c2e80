"""What a database consists of, how many rows it has, and what it answers: exact, or said why not."""

from __future__ import annotations

import asyncpg
import pytest

from bot.databases.catalog import counts
from bot.databases.connecting import CATALOG, connected
from bot.databases.postgres import PostgresDatabase
from bot.errors import StepFailed
from bot.place import Connect
from tests.conftest import MakeDatabase
from tests.contract.servers import Open, database_of, execute, session


@pytest.fixture
def shop(make_database: MakeDatabase) -> Connect:
    return make_database("shop")


@pytest.fixture
def database(shop: Connect, server: Connect) -> PostgresDatabase:
    return database_of(shop, server)


# ------------------------------------------------------------------ catalogs and counts

EVERYTHING = """
CREATE TYPE mood AS ENUM ('sad', 'so; so', 'glad');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE pair AS (a int, b text);
CREATE SEQUENCE numbers INCREMENT 5;
CREATE TABLE parents (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text COLLATE "C" NOT NULL DEFAULT 'x',
  twice int GENERATED ALWAYS AS (7 * 2) STORED);
CREATE TABLE orders (id bigint, parent int REFERENCES parents, score numeric(8,3), feeling mood) PARTITION BY LIST (parent);
CREATE TABLE orders_1 PARTITION OF orders FOR VALUES IN (1);
CREATE TABLE orders_2 PARTITION OF orders FOR VALUES IN (2);
ALTER TABLE parents ADD CONSTRAINT named CHECK (name <> '') NOT VALID;
CREATE INDEX by_name ON parents (lower(name)) WHERE id > 5;
CREATE VIEW seen AS SELECT id FROM parents;
CREATE MATERIALIZED VIEW kept AS SELECT id FROM parents;
CREATE FUNCTION add(a int, b int) RETURNS int LANGUAGE sql AS 'SELECT a + b';
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER touched BEFORE UPDATE ON parents FOR EACH ROW EXECUTE FUNCTION touch();
ALTER TABLE parents ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON parents FOR SELECT TO PUBLIC USING (id > 0);
CREATE RULE silent AS ON DELETE TO parents DO INSTEAD NOTHING;
INSERT INTO parents (name) VALUES ('a'), ('b');
INSERT INTO orders VALUES (1, 1), (2, 1), (3, 2);
"""


async def test_a_snapshot_has_every_kind_of_object_by_its_full_name(database: PostgresDatabase, shop: Connect) -> None:
    await execute(shop, EVERYTHING)
    found = (await database.snapshot(count=False)).objects
    expected = {
        "table public.parents": f"owner {shop.user}; row security on",
        "table public.orders_1": f"owner {shop.user}; row security off; public.orders; FOR VALUES IN (1)",
        "column public.orders.score": "numeric(8,3)",
        "column public.parents.id": "integer NOT NULL GENERATED ALWAYS AS IDENTITY",
        "column public.parents.name": """text COLLATE pg_catalog."C" NOT NULL DEFAULT 'x'::text""",
        "column public.parents.twice": "integer GENERATED ALWAYS AS ((7 * 2)) STORED",
        "column public.orders.feeling": "public.mood",
        "index public.by_name": "CREATE INDEX by_name ON public.parents USING btree (lower(name)) WHERE (id > 5) [valid]",
        "constraint public.parents.named": "CHECK ((name <> ''::text)) NOT VALID [not valid]",
        "constraint public.parents.parents_pkey": "PRIMARY KEY (id) [valid]",
        "type public.mood": f"owner {shop.user}; enum ('sad', 'so; so', 'glad')",
        "type public.pair": f"owner {shop.user}; composite (a integer, b text)",
        "policy public.parents.own": "PERMISSIVE FOR SELECT TO PUBLIC USING ((id > 0))",
    }
    assert {name: found.get(name) for name in expected} == expected
    kinds = {name.split(" ")[0] for name in found}
    assert {"schema", "sequence", "view", "materialized", "function", "trigger", "rule", "extension"} < kinds
    assert [name for name in found if "pg_" in name.split(" ", 1)[1] or "information_schema" in name] == []
    assert "function public.add(a integer, b integer)" in found
    assert not [name for name in found if name.startswith("type ") and "parents" in name]


SAID = """
CREATE TABLE "My t" (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "a.b" int, c int CHECK (c > 0));
CREATE INDEX ix ON "My t" (c); CREATE TYPE mood AS ENUM ('sad'); CREATE VIEW v AS SELECT 1 AS n; CREATE SEQUENCE numbers;
CREATE FUNCTION add(a int, b int) RETURNS int LANGUAGE sql AS 'SELECT a + b'; CREATE POLICY p ON "My t" USING (true);
CREATE STATISTICS st ON c, "a.b" FROM "My t";
GRANT SELECT, INSERT ON "My t" TO PUBLIC; GRANT UPDATE ("a.b") ON "My t" TO PUBLIC; GRANT USAGE ON SEQUENCE numbers TO PUBLIC;
REVOKE ALL ON FUNCTION add FROM PUBLIC; REVOKE USAGE ON TYPE mood FROM PUBLIC; GRANT SELECT ON v TO PUBLIC WITH GRANT OPTION;
CREATE SCHEMA side; GRANT USAGE ON SCHEMA side TO PUBLIC; ALTER DEFAULT PRIVILEGES IN SCHEMA side GRANT SELECT ON TABLES TO PUBLIC;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
COMMENT ON TABLE "My t" IS 'one'; COMMENT ON COLUMN "My t"."a.b" IS 'two'; COMMENT ON CONSTRAINT "My t_c_check" ON "My t" IS 'three';
COMMENT ON INDEX ix IS 'four'; COMMENT ON FUNCTION add IS 'five'; COMMENT ON TYPE mood IS 'six'; COMMENT ON SCHEMA side IS 'seven';
COMMENT ON POLICY p ON "My t" IS 'eight'; COMMENT ON VIEW v IS 'nine';
"""


async def test_rights_comments_publications_and_statistics_are_said_of_the_names_that_things_have(
    database: PostgresDatabase, shop: Connect, server: Connect
) -> None:
    await execute(shop, SAID.replace("TO PUBLIC WITH GRANT OPTION", f'TO "{server.user}" WITH GRANT OPTION'))
    await execute(
        server.model_copy(update={"database": shop.database}),
        'CREATE PUBLICATION pub FOR TABLE "My t" WHERE (id > 1), TABLES IN SCHEMA side',
        "CREATE FUNCTION look() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
        "CREATE EVENT TRIGGER watch ON ddl_command_end WHEN TAG IN ('DROP TABLE') EXECUTE FUNCTION look()",
    )
    found = (await database.snapshot(count=False)).objects
    own = "DELETE, INSERT, MAINTAIN, REFERENCES, SELECT, TRIGGER, TRUNCATE, UPDATE"
    expected = {
        'grant table public."My t"': f"PUBLIC: INSERT, SELECT; {shop.user}: {own}",
        'grant column public."My t"."a.b"': "PUBLIC: UPDATE",
        "grant sequence public.numbers": f"PUBLIC: USAGE; {shop.user}: SELECT, UPDATE, USAGE",
        "grant function public.add(a integer, b integer)": f"{shop.user}: EXECUTE",
        "grant type public.mood": f"{shop.user}: USAGE",
        "grant view public.v": f"{server.user}: SELECT*; {shop.user}: {own}",
        "grant schema side": f"PUBLIC: USAGE; {shop.user}: CREATE, USAGE",
        f"grant default of {shop.user} in side on tables": "PUBLIC: SELECT",
        f"grant default of {shop.user} on functions": f"{shop.user}: EXECUTE",
        'comment table public."My t"': "one",
        'comment column public."My t"."a.b"': "two",
        'comment constraint public."My t"."My t_c_check"': "three",
        "comment index public.ix": "four",
        "comment function public.add(a integer, b integer)": "five",
        "comment type public.mood": "six",
        "comment schema side": "seven",
        'comment policy public."My t".p': "eight",
        "comment view public.v": "nine",
        "statistics public.st": 'CREATE STATISTICS public.st ON "a.b", c FROM public."My t"',
        "publication pub": f"owner {server.user}; insert update delete truncate",
        "publication pub schema side": "member",
        "trigger watch": f'EVENT TRIGGER ON ddl_command_end WHEN TAG IN {{"DROP TABLE"}} owner {server.user} EXECUTE public.look()',
    }
    assert {name: found.get(name) for name in expected} == expected
    assert found['publication pub table public."My t"'].startswith("member rows ")
    assert found['sequence public."My t_id_seq"'].endswith('OWNED BY public."My t".id')
    kinds = ("grant", "comment")
    assert {name for name in found if name.split(" ")[0] in kinds} - set(expected) <= {"grant schema public"}


async def test_a_right_that_was_given_and_taken_back_leaves_no_trace(database: PostgresDatabase, shop: Connect) -> None:
    await execute(shop, "CREATE TABLE t (n int)", "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'")
    before = (await database.snapshot(count=False)).objects
    for what in ("SELECT ON t", "UPDATE (n) ON t", "EXECUTE ON FUNCTION f()"):
        await execute(shop, f"GRANT {what} TO {shop.user}", f"REVOKE {what} FROM PUBLIC", f"GRANT {what} TO PUBLIC")
        if "FUNCTION" not in what:
            assert (await database.snapshot(count=False)).objects != before
            await execute(shop, f"REVOKE {what} FROM PUBLIC")
        if "(n)" in what:
            await execute(shop, f"REVOKE {what} FROM {shop.user}")
        assert (await database.snapshot(count=False)).objects == before


async def test_the_fingerprint_changes_with_the_schema_and_not_with_the_rows(database: PostgresDatabase, shop: Connect) -> None:
    await execute(shop, EVERYTHING)
    before = (await database.snapshot(count=False)).fingerprint()
    await execute(shop, "INSERT INTO parents (name) VALUES ('c')", "SELECT nextval('numbers')", "ANALYZE")
    assert (await database.snapshot(count=False)).fingerprint() == before
    for change in ("ALTER TYPE mood ADD VALUE 'new'", "ALTER TABLE parents DISABLE TRIGGER touched", "ALTER TABLE parents VALIDATE CONSTRAINT named"):
        await execute(shop, change)
        after = (await database.snapshot(count=False)).fingerprint()
        assert after != before, change
        before = after


async def test_an_index_that_is_not_valid_says_so(database: PostgresDatabase, shop: Connect) -> None:
    await execute(shop, "CREATE TABLE t AS SELECT 1 AS n UNION ALL SELECT 1")
    with pytest.raises(asyncpg.UniqueViolationError):
        await execute(shop, "CREATE UNIQUE INDEX CONCURRENTLY broken ON t (n)")
    assert (await database.snapshot(count=False)).objects["index public.broken"].endswith("[invalid]")


async def test_what_an_extension_brings_is_left_out(database: PostgresDatabase, shop: Connect, server: Connect) -> None:
    before = (await database.snapshot(count=False)).objects
    await execute(server.model_copy(update={"database": shop.database}), "CREATE EXTENSION vector")
    after = (await database.snapshot(count=False)).objects
    assert set(after) - set(before) == {"extension vector"}


async def test_counts_are_exact_and_a_partitioned_table_has_the_rows_of_its_parts(database: PostgresDatabase, shop: Connect) -> None:
    await execute(shop, EVERYTHING)
    snapshot = await database.snapshot(count=True)
    assert snapshot.counts == {"public.parents": 2, "public.orders": 3, "public.orders_1": 2, "public.orders_2": 1}
    assert snapshot.uncounted == {}


async def test_an_owner_under_forced_row_security_gets_no_count_and_never_zero(shop: Connect, server: Connect) -> None:
    await execute(
        shop,
        "CREATE TABLE secret AS SELECT generate_series(1, 1000) AS n",
        "CREATE TABLE open AS SELECT 1 AS n",
        "ALTER TABLE secret ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE secret FORCE ROW LEVEL SECURITY",
    )
    snapshot = await database_of(shop, shop).snapshot(count=True)
    assert snapshot.counts == {"public.open": 1}
    assert "row-level security policy" in snapshot.uncounted["public.secret"]
    assert (await database_of(shop, server).snapshot(count=True)).counts["public.secret"] == 1000


async def test_names_are_those_of_the_snapshot_also_while_somebody_holds_the_tables(database: PostgresDatabase, shop: Connect) -> None:
    await execute(shop, EVERYTHING)
    expected = {key for key in (await database.snapshot(count=False)).objects if key.startswith(("table ", "column "))}
    async with session(shop) as holder, holder.transaction():
        await holder.execute("LOCK TABLE parents, orders")
        assert await database.names() == expected


async def test_a_table_that_is_locked_or_slow_is_named_and_the_others_are_counted(database: PostgresDatabase, shop: Connect) -> None:
    await execute(shop, "CREATE TABLE locked (n int)", "CREATE TABLE free (n int)", "CREATE TABLE big AS SELECT generate_series(1, 300000) AS n")
    async with session(shop) as holder, holder.transaction():
        await holder.execute("LOCK TABLE locked")
        snapshot = await database.snapshot(count=True)
        assert snapshot.uncounted == {"public.locked": "another session has it locked"}
        assert snapshot.counts == {"public.free": 0, "public.big": 300000}
    async with connected(shop, {**CATALOG, "statement_timeout": "5s"}) as mine:
        await mine.execute("SET statement_timeout = 1")
        with pytest.raises(asyncpg.QueryCanceledError):
            await mine.fetchval("SELECT count(*) FROM public.big")
        assert (await _counted_slowly(mine))["public.big"].startswith("counting did not end")


async def _counted_slowly(mine: Open) -> dict[str, str]:
    class Hurried:
        """Reads the catalogs in peace, and counts in a hurry."""

        async def fetch(self, sql: str) -> list[asyncpg.Record]:
            await mine.execute("SET statement_timeout = '10s'")
            return await mine.fetch(sql)

        async def fetchval(self, sql: str) -> object:
            await mine.execute("SET statement_timeout = 1")
            return await mine.fetchval(sql)

    return (await counts(Hurried()))[1]  # type: ignore[arg-type]


async def test_foreign_rows_are_never_read(database: PostgresDatabase, shop: Connect, server: Connect) -> None:
    await execute(
        server.model_copy(update={"database": shop.database}),
        "CREATE FOREIGN DATA WRAPPER nowhere",
        "CREATE SERVER far FOREIGN DATA WRAPPER nowhere",
        "CREATE TABLE p (n int) PARTITION BY LIST (n)",
        "CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1)",
        "CREATE FOREIGN TABLE p2 PARTITION OF p FOR VALUES IN (2) SERVER far",
    )
    snapshot = await database.snapshot(count=True)
    assert snapshot.counts == {"public.p1": 0}
    assert snapshot.uncounted == {"public.p": "1 of its parts can't be counted, or are foreign"}
    assert "foreign table public.p2" in snapshot.objects


# ------------------------------------------------------------------ questions


async def test_an_answer_is_json_and_at_most_a_hundred_rows(database: PostgresDatabase) -> None:
    answer = await database.ask(
        "SELECT 1 AS n, 1.50::numeric AS price, true AS yes, NULL AS nothing, 'NaN'::float8 AS odd, '2026-11-20'::date AS day,"
        " '\\xdead'::bytea AS raw, ARRAY[1.5, 2]::numeric[] AS many, 'a'::text AS word"
    )
    assert answer.columns == ("n", "price", "yes", "nothing", "odd", "day", "raw", "many", "word")
    assert answer.rows == ((1, "1.50", True, None, "nan", "2026-11-20", "dead", ["1.5", "2"], "a"),)
    answer.model_dump_json()
    many = await database.ask("SELECT generate_series(1, 1000)")
    assert (len(many.rows), many.truncated) == (100, True)
    assert not (await database.ask("SELECT generate_series(1, 100)")).truncated


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE t",
        "INSERT INTO t VALUES (1) RETURNING n",
        "WITH gone AS (DELETE FROM t RETURNING n) SELECT * FROM gone",
        "COMMIT",
        "COMMIT; DROP TABLE t",
        "SELECT 1; DROP TABLE t",
        "ROLLBACK AND CHAIN",
        "SET default_transaction_read_only = off",
        "SELECT set_config('transaction_read_only', 'off', true)",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "COPY t TO STDOUT",
        "DO $$ BEGIN DROP TABLE t; END $$",
        "EXPLAIN ANALYZE INSERT INTO t VALUES (1)",
        "SELECT nextval('s')",
        "SELECT no_such_column",
        "",
    ],
)
async def test_a_question_that_is_not_one_read_is_refused_with_the_servers_words(shop: Connect, server: Connect, sql: str) -> None:
    await execute(shop, "CREATE TABLE t (n int)", "CREATE SEQUENCE s")
    database = database_of(server.model_copy(update={"database": shop.database}), server)
    with pytest.raises(StepFailed) as caught:
        await database.ask(sql)
    assert len(caught.value.message) > 20
    async with session(shop) as looking:
        assert [tuple(row) for row in await looking.fetch("SELECT count(*), (SELECT last_value FROM s) FROM t")] == [(0, 1)]


async def test_questions_are_asked_as_the_tools_user(database: PostgresDatabase, shop: Connect) -> None:
    assert (await database.ask("SELECT current_user::text")).rows == ((shop.user,),)
