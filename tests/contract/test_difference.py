"""What a downgrade destroyed, found by comparing everything: each trap of counting is a test (databases.md F19)."""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from bot.databases.connecting import connected
from bot.databases.difference import lost_since, recount
from bot.databases.merging import Part, Question, answer
from bot.databases.tables import READING, read_shapes, read_tables
from bot.evidence import Loss
from bot.place import Connect
from tests.conftest import MakeDatabase
from tests.contract.servers import execute, session

Found = dict[tuple[str, str], Loss]
Lose = Callable[..., Awaitable[Found]]


async def _nothing(_: str) -> None: ...


@pytest.fixture
def shop(make_database: MakeDatabase) -> Connect:
    return make_database("shop")


@pytest.fixture
async def before(shop: Connect, server: Connect) -> AsyncIterator[Connect]:
    """Where the clone will be."""
    clone = server.model_copy(update={"database": f"backout_{secrets.token_hex(4)}_before"})
    yield clone
    await execute(server, f'DROP DATABASE IF EXISTS "{clone.database}" WITH (FORCE)')


@pytest.fixture
def lose(shop: Connect, server: Connect, before: Connect) -> Lose:
    """`lose(setup, downgrade)`: cloned in between; what is found by kind and name, all of it as the superuser."""
    entered = server.model_copy(update={"database": shop.database})

    async def _lose(setup: str, downgrade: str, *, superuser: bool = False) -> Found:
        who = entered if superuser else shop
        await execute(who, setup)
        await execute(server, f'CREATE DATABASE "{before.database}" TEMPLATE "{shop.database}"')
        await execute(entered, "SELECT pg_stat_reset()")
        await execute(who, *filter(None, map(str.strip, downgrade.split(";\n"))))
        found = await lost_since(before, entered, _nothing)
        assert await lost_since(before, entered, _nothing, counted=True) == found, "where the server's counters say what to pass over"
        return {loss.thing(): loss for loss in found}

    return _lose


ORDERS = """
CREATE TABLE orders (id int PRIMARY KEY, total numeric(8,3), note text, at timestamptz);
INSERT INTO orders SELECT n, n * 1.001, 'note ' || n, timestamptz '2026-01-01 00:00+00' + n * interval '1 hour' FROM generate_series(1, 1000) n;
"""


async def test_nothing_is_lost_when_nothing_is_done(lose: Lose) -> None:
    assert await lose(ORDERS, "") == {}


# ------------------------------------------------------------------ tables


async def test_a_dropped_table_has_its_rows_bytes_newest_moment_and_first_keys(lose: Lose) -> None:
    found = await lose(ORDERS, "DROP TABLE orders")
    loss = found.pop(("table", "public.orders"))
    assert (loss.count, loss.of, loss.newest, loss.keys) == (1000, 1000, "2026-02-11 16:00:00+00", ("id=1", "id=2", "id=3"))
    assert loss.bytes is not None
    assert loss.bytes > 50_000
    assert found == {}  # what hung on it is not named again


async def test_a_renamed_or_moved_table_is_not_lost(lose: Lose) -> None:
    renames = [
        "ALTER TABLE orders RENAME TO sales",
        "ALTER TABLE sales RENAME note TO remark",
        "ALTER TABLE sales RENAME CONSTRAINT orders_pkey TO k",
    ]
    assert await lose(ORDERS, ";\n".join([*renames, "CREATE SCHEMA other", "ALTER TABLE sales SET SCHEMA other"])) == {}


async def test_a_table_that_was_made_anew_is_compared_by_name_and_key(lose: Lose) -> None:
    rebuilt = (
        "CREATE TABLE made (note text, id int PRIMARY KEY, at timestamptz, total numeric(8,3));\n"
        "INSERT INTO made SELECT CASE id WHEN 7 THEN 'other' ELSE note END, id, at, total FROM orders WHERE id <> 9;\n"
        "DROP TABLE orders;\nALTER TABLE made RENAME TO orders"
    )
    found = await lose(ORDERS, rebuilt)
    rows, values = found.pop(("rows", "public.orders")), found.pop(("values", "public.orders.note"))
    assert (rows.count, rows.of, rows.keys) == (1, 1000, ("id=9",))
    assert (values.count, values.keys) == (1, ("id=7",))
    assert found == {}


async def test_names_with_quotes_dots_and_capitals(lose: Lose) -> None:
    setup = """CREATE SCHEMA "My ""S"; CREATE TABLE "My ""S"."weird"".table" ("Id" int, t text, "select" text, "a.b" int, PRIMARY KEY ("Id"));
    INSERT INTO "My ""S"."weird"".table" VALUES (1, 'a', 's', 4), (2, 'b', NULL, NULL), (3, 'c', 's', 6);
    CREATE TABLE "Gone" (k int, _backout_ text); INSERT INTO "Gone" VALUES (1, 'x');"""
    name = '"My ""S"."weird"".table"'
    found = await lose(setup, f'ALTER TABLE {name} DROP "select";\nUPDATE {name} SET t = \'z\' WHERE "Id" = 2;\nDROP TABLE "Gone"')
    assert set(found) == {("column", f'{name}."select"'), ("values", f"{name}.t"), ("table", 'public."Gone"')}
    assert found["values", f"{name}.t"].keys == ('"Id"=2',)
    assert found["column", f'{name}."select"'].count == 2


# ------------------------------------------------------------------ columns


async def test_a_dropped_column_counts_what_is_there_and_what_somebody_wrote(lose: Lose) -> None:
    setup = """CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 10000);
    ALTER TABLE t ADD COLUMN c int NOT NULL DEFAULT 0; UPDATE t SET c = 5 WHERE id IN (17, 170, 1700);
    ALTER TABLE t ADD COLUMN price numeric(8,2) DEFAULT 0; UPDATE t SET price = 1 WHERE id = 3;
    ALTER TABLE t ADD COLUMN word varchar(9) DEFAULT 'a''b' || 'c'; ALTER TABLE t ADD COLUMN seen timestamptz DEFAULT now();
    ALTER TABLE t ADD COLUMN n int; UPDATE t SET n = 1 WHERE id < 3;
    ALTER TABLE t ADD COLUMN twice int GENERATED ALWAYS AS (id * 2) STORED;"""
    found = await lose(setup, "ALTER TABLE t DROP c, DROP price, DROP word, DROP seen, DROP n, DROP twice")
    counted = {name.removeprefix("public.t."): (loss.count, loss.written, loss.of) for (_, name), loss in found.items()}
    assert counted == {
        "c": (10000, 3, 10000),
        "price": (10000, 1, 10000),
        "word": (10000, 0, 10000),
        "seen": (10000, 10000, 10000),
        "n": (2, 2, 10000),
        "twice": (10000, 0, 10000),
    }
    assert found["column", "public.t.c"].keys == ("id=17", "id=170", "id=1700")
    assert found["column", "public.t.c"].bytes == 40000
    assert "computes it again" in found["column", "public.t.twice"].why


async def test_a_default_that_is_a_function_of_somebodys_is_never_called(lose: Lose) -> None:
    setup = """CREATE FUNCTION bad() RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''called''; END';
    CREATE TABLE t (id int PRIMARY KEY, c int); INSERT INTO t VALUES (1, 1); ALTER TABLE t ALTER c SET DEFAULT bad();"""
    found = await lose(setup, "ALTER TABLE t DROP c")
    assert (found["column", "public.t.c"].count, found["column", "public.t.c"].written) == (1, 1)


async def test_a_cast_that_somebody_made_is_never_called(lose: Lose) -> None:
    setup = """CREATE TYPE pair AS (a int, b text); CREATE TABLE t (id int PRIMARY KEY, p pair, q pair);
    CREATE FUNCTION bad(pair) RETURNS text LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''called''; END';
    CREATE CAST (pair AS text) WITH FUNCTION bad(pair) AS IMPLICIT;
    INSERT INTO t VALUES (1, (1, 'x'), (1, 'x')), (2, (1, NULL), NULL), (3, NULL, NULL);"""
    found = await lose(setup, "ALTER TABLE t DROP q;\nUPDATE t SET p = (1, 'y') WHERE id = 1;\nUPDATE t SET p = NULL WHERE id = 2")
    assert {thing: loss.count for thing, loss in found.items()} == {("column", "public.t.q"): 1, ("values", "public.t.p"): 2}


async def test_columns_that_went_with_an_extension_or_a_type_are_found(lose: Lose) -> None:
    setup = """CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE EXTENSION vector;
    CREATE TABLE a (id int PRIMARY KEY, m mood); CREATE TABLE b (id int PRIMARY KEY, v vector(2));
    INSERT INTO a VALUES (1, 'sad'), (2, NULL); INSERT INTO b VALUES (1, '[1,2]'), (2, '[3,4]');"""
    found = await lose(setup, "DROP TYPE mood CASCADE;\nDROP EXTENSION vector CASCADE", superuser=True)
    assert {thing: loss.count for thing, loss in found.items()} == {("column", "public.a.m"): 1, ("column", "public.b.v"): 2}


# ------------------------------------------------------------------ rows and values


async def test_deleted_rows_and_changed_values_are_counted_each(lose: Lose) -> None:
    change = "DELETE FROM orders WHERE id % 100 = 0;\nUPDATE orders SET note = 'x', total = 0 WHERE id IN (5, 6);\nUPDATE orders SET at = at"
    found = await lose(ORDERS, change)
    assert {thing: (loss.count, loss.of, loss.keys) for thing, loss in found.items()} == {
        ("rows", "public.orders"): (10, 1000, ("id=100", "id=200", "id=300")),
        ("values", "public.orders.note"): (2, 1000, ("id=5", "id=6")),
        ("values", "public.orders.total"): (2, 1000, ("id=5", "id=6")),
    }
    assert found["rows", "public.orders"].newest == "2026-02-11 16:00:00+00"
    assert found["values", "public.orders.note"].newest == "2026-01-01 06:00:00+00"


async def test_rows_that_came_are_not_lost(lose: Lose) -> None:
    assert await lose(ORDERS, "INSERT INTO orders SELECT n, 0, '', now() FROM generate_series(2000, 9000) n;\nVACUUM orders") == {}


@pytest.mark.parametrize(
    ("type_", "values", "narrow", "lost"),
    [
        ("numeric(8,3)", "(1, 1.234), (2, 1.20), (3, NULL), (4, 'NaN')", "numeric(8,2)", 1),
        ("numeric(8,3)", "(1, 1.234), (2, 100)", "numeric(9,4)", 0),
        ("numeric(8,3)[]", "(1, '{1.2,100}'), (2, '{1.234}')", "numeric(8,2)[]", 1),
        ("text", "(1, 'abc'), (2, 'abcd')", "varchar(3) USING left(c, 3)", 1),
        ("varchar(9)", "(1, 'abc'), (2, 'abcd')", "text", 0),
        ("timestamp", "(1, '2026-01-01 00:00:00.5'), (2, '2026-01-01')", "timestamp(0)", 1),
        ("timestamptz", "(1, '2026-01-01 00:00:00.5+02'), (2, '2026-01-01')", "timestamp USING c AT TIME ZONE 'UTC'", 0),
        ("timestamp", "(1, '2026-01-01 00:00:01'), (2, '2026-01-01')", "date", 1),
        ("float8", "(1, 0.1), (2, 0.5), (3, 'NaN')", "float4", 1),
        ("float4", "(1, 0.1), (2, 0.5)", "float8", 0),
        ("int", "(1, 100), (2, 0), (3, NULL), (4, -30)", "numeric(9,2)", 0),
        ("numeric(8,3)", "(1, 1.234), (2, 100), (3, 0.5)", "int", 2),
        ("numeric(8,3)", "(1, 1.234), (2, 100), (3, 0.5)", "float8", 0),
        ("float8", "(1, 0.1), (2, 100)", "numeric(5,1)", 0),
        ("bigint", "(1, 7), (2, -7)", "int", 0),
        ("int", "(1, 7), (2, -7)", "text", 0),
        ("int", "(1, 7), (2, 1)", "bool USING c <> 0", 1),
        ("jsonb", """(1, '{"a": 1}')""", "json", 0),
        ("text", "(1, 'sad')", "uuid USING NULL", 1),
    ],
)
async def test_a_type_that_narrows_counts_the_values_that_no_longer_fit(lose: Lose, type_: str, values: str, narrow: str, lost: int) -> None:
    setup = f"CREATE TABLE t (id int PRIMARY KEY, c {type_}); INSERT INTO t VALUES {values}"
    found = await lose(setup, f"ALTER TABLE t ALTER c TYPE {narrow}")
    assert [loss.count for loss in found.values()] == [lost] * bool(lost)
    if lost:
        assert found["values", "public.t.c"].why.startswith("no longer fit ")


async def test_rows_that_nobody_wrote_are_passed_over_and_only_they(shop: Connect, server: Connect, before: Connect) -> None:
    """Locks, freezing, vacuum and what was rolled back leave places and writers as they are; every write shows, also one into a freed place."""
    await execute(shop, "CREATE TABLE t (id int PRIMARY KEY, n int) WITH (fillfactor = 50, autovacuum_enabled = false)", "CREATE TABLE c (t int)")
    await execute(shop, "INSERT INTO t SELECT n, n FROM generate_series(1, 100000) n", "ALTER TABLE c ADD FOREIGN KEY (t) REFERENCES t")
    await execute(shop, "UPDATE t SET n = n + 1 WHERE id % 10 = 0", "DELETE FROM t WHERE id % 7 = 0")  # HOT chains and dead rows
    await execute(server, f'CREATE DATABASE "{before.database}" TEMPLATE "{shop.database}"')
    harmless = ("SELECT * FROM t FOR UPDATE", "INSERT INTO c VALUES (1)", "VACUUM (FREEZE) t", "BEGIN; UPDATE t SET n = 0; ROLLBACK", "VACUUM t")
    for statement in harmless:
        await execute(shop, statement)
        assert await read(before, shop) == ([], []), statement
    for write in ("UPDATE t SET n = n WHERE id = 50000", "DELETE FROM t WHERE id = 3", "VACUUM t", "INSERT INTO t VALUES (3, 3)"):
        await execute(shop, write)
        mine, theirs = await read(before, shop)
        assert 0 < len(mine) <= 2, write
        assert len(theirs) <= 3, write
    await execute(shop, "VACUUM (FULL) t")
    assert await read(before, shop) == (None, None)  # another file: everything is read


async def read(before: Connect, after: Connect) -> tuple[list[bytes] | None, list[bytes] | None]:
    """The stretches of table t that are read on both sides."""
    async with connected(before, READING) as mine, connected(after, READING) as theirs:
        was, now = [{one.name: one for one in (await read_tables(side, sizes=False)).values()}["public.t"] for side in (mine, theirs)]
        columns = (await read_shapes(mine, [was.oid]))[was.oid].columns
        pairs = [(column, column) for column in columns.values()]
        question = Question(before=[Part(was)], after=[Part(now)], columns=pairs, key=pairs[:1], newest=None, steady=True)
        await answer(mine, theirs, question)
        return question.before[0].only, question.after[0].only


async def test_as_many_rows_as_went_came_and_it_is_seen_all_the_same(lose: Lose) -> None:
    balanced = "DELETE FROM orders WHERE id <= 7;\n INSERT INTO orders SELECT n, n FROM generate_series(2001, 2007) n"
    found = await lose(ORDERS, balanced)
    assert found["rows", "public.orders"].count == 7


async def test_types_without_equality_are_compared_as_text_whatever_the_session_says(lose: Lose, shop: Connect, server: Connect) -> None:
    await execute(
        server,
        f'ALTER DATABASE "{shop.database}" SET extra_float_digits = -3',
        f"""ALTER DATABASE "{shop.database}" SET DateStyle = 'German'""",
        f"""ALTER DATABASE "{shop.database}" SET bytea_output = 'escape'""",
    )
    setup = """CREATE TABLE t (id int PRIMARY KEY, j json, p point, f float8, b bytea, i interval, m money, r int4range, v text COLLATE "C");
    INSERT INTO t SELECT n, '{"a": 1}', '(1,2)', 0.3, '\\x00ff', '1 day', 5, '[1,5)', 'v' FROM generate_series(1, 3) n;"""
    change = """UPDATE t SET j = '{"a":1}', p = '(1,2.0000000000000004)', f = 0.30000000000000004 WHERE id = 1;
    UPDATE t SET b = '\\x00fe', i = '24:00', m = 6, r = '[1,6)', v = 'V' WHERE id = 2"""
    found = await lose(setup, change)
    assert {name[-1]: loss.count for (_, name), loss in found.items()} == dict.fromkeys("jpfbimrv", 1)


@pytest.mark.parametrize("key", ["uuid", "text", "bigint", "numeric"])
async def test_keys_of_any_type(lose: Lose, key: str) -> None:
    made = {"uuid": "md5(n::text)::uuid", "text": "'K\"{},' || n", "bigint": "n - 5000", "numeric": "n / 10.0"}[key]
    setup = (
        f"CREATE TABLE t (k {key}, part int, v int, PRIMARY KEY (k, part)); INSERT INTO t SELECT {made}, n % 3, n FROM generate_series(1, 12000) n"
    )
    found = await lose(setup, "DELETE FROM t WHERE v % 4000 = 0;\nUPDATE t SET v = 0 WHERE v = 77;\nALTER TABLE t SET UNLOGGED")
    assert {thing: loss.count for thing, loss in found.items()} == {("rows", "public.t"): 3, ("values", "public.t.v"): 1}
    wanted = {"uuid": "part=2", "text": 'k=K"{},77, part=2', "bigint": "k=-4923, part=2", "numeric": "k=7.7000000000000000, part=2"}[key]
    assert found["values", "public.t.v"].keys[0].endswith(wanted)
    assert len(found["rows", "public.t"].keys) == 3


async def test_a_table_without_a_key_is_compared_as_a_bag_of_rows(lose: Lose) -> None:
    setup = "CREATE TABLE t (a int, b json); INSERT INTO t SELECT n / 3, '[1]' FROM generate_series(0, 8) n; INSERT INTO t VALUES (NULL, NULL)"
    found = await lose(setup, "DELETE FROM t WHERE ctid IN (SELECT ctid FROM t WHERE a = 1 LIMIT 2);\nUPDATE t SET b = '[2]' WHERE a IS NULL")
    assert {thing: (loss.count, loss.of, loss.keys) for thing, loss in found.items()} == {("rows", "public.t"): (3, 10, ())}
    assert "no key" in found["rows", "public.t"].why


async def test_a_key_that_was_dropped_or_lost_its_rows_is_no_error(lose: Lose) -> None:
    change = "ALTER TABLE orders DROP CONSTRAINT orders_pkey, ALTER id DROP NOT NULL;\nUPDATE orders SET id = NULL WHERE id = 4;\n"
    found = await lose(ORDERS, change + "INSERT INTO orders SELECT * FROM orders WHERE id = 5;\nUPDATE orders SET id = 7 WHERE id = 6")
    assert {thing: (loss.count, loss.keys) for thing, loss in found.items()} == {
        ("rows", "public.orders"): (2, ("id=4", "id=6")),
        ("unique", "public.orders.orders_pkey"): (None, ()),
    }


async def test_an_attribute_that_left_a_composite_type_is_seen_though_no_row_was_written(lose: Lose) -> None:
    setup = "CREATE TYPE pair AS (a int, b text); CREATE TABLE t (id int PRIMARY KEY, p pair); INSERT INTO t VALUES (1, (1, 'x')), (2, NULL)"
    assert (await lose(setup, "ALTER TYPE pair DROP ATTRIBUTE b CASCADE"))["values", "public.t.p"].count == 1


async def test_a_column_made_anew_under_its_name_is_compared(lose: Lose) -> None:
    found = await lose(ORDERS, "ALTER TABLE orders DROP note;\nALTER TABLE orders ADD note text DEFAULT 'note 1'")
    assert (found["values", "public.orders.note"].count, found["values", "public.orders.note"].why) == (999, "the column was made anew")


# ------------------------------------------------------------------ partitions, inheritance, foreign tables, views

PARTED = """CREATE TABLE p (id int, day int, v text, PRIMARY KEY (id, day)) PARTITION BY LIST (day);
CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); CREATE TABLE p2 (v text, day int NOT NULL, gone int, id int NOT NULL);
ALTER TABLE p2 DROP gone; ALTER TABLE p ATTACH PARTITION p2 FOR VALUES IN (2);
INSERT INTO p SELECT n, 1 + n % 2, 'v' FROM generate_series(1, 100) n;"""


async def test_a_partitioned_table_is_one_table(lose: Lose) -> None:
    found = await lose(PARTED, "DROP TABLE p")
    assert {thing: (loss.count, loss.keys) for thing, loss in found.items()} == {
        ("table", "public.p"): (100, ("id=1, day=2", "id=2, day=1", "id=3, day=2"))
    }


async def test_a_row_that_moved_to_another_partition_changed_and_a_detached_partition_is_not_lost(lose: Lose) -> None:
    setup = PARTED.replace("PRIMARY KEY (id, day)", "UNIQUE (id, day)").replace("(id int, day int,", "(id int NOT NULL, day int NOT NULL,")
    found = await lose(setup, "UPDATE p SET day = 2 WHERE id = 2;\nUPDATE p SET v = 'w' WHERE id = 3;\nALTER TABLE p DETACH PARTITION p1")
    assert {thing: (loss.count, loss.of) for thing, loss in found.items()} == {("rows", "public.p"): (1, 100), ("values", "public.p.v"): (1, 100)}


async def test_a_dropped_partition_loses_the_rows_that_went_nowhere_else(lose: Lose) -> None:
    found = await lose(
        PARTED, "CREATE TABLE p3 PARTITION OF p DEFAULT;\nDROP TABLE p1;\nINSERT INTO p SELECT n, 1, 'v' FROM generate_series(2, 10, 2) n"
    )
    assert {thing: (loss.count, loss.of) for thing, loss in found.items()} == {("table", "public.p1"): (45, 50)}


async def test_parents_are_counted_without_what_inherits_from_them(lose: Lose) -> None:
    setup = """CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (PRIMARY KEY (id)) INHERITS (parent);
    INSERT INTO parent VALUES (1), (2); INSERT INTO child VALUES (3), (4), (5);"""
    found = await lose(setup, "DELETE FROM ONLY parent WHERE id = 1;\nDROP TABLE child")
    assert {thing: loss.count for thing, loss in found.items()} == {("table", "public.child"): 3, ("rows", "public.parent"): 1}


async def test_foreign_rows_are_never_read_and_views_hold_none(lose: Lose) -> None:
    setup = """CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER far FOREIGN DATA WRAPPER nowhere;
    CREATE TABLE p (n int) PARTITION BY LIST (n); CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1);
    CREATE FOREIGN TABLE p2 PARTITION OF p FOR VALUES IN (2) SERVER far; INSERT INTO p VALUES (1);
    CREATE FOREIGN TABLE f (n int) SERVER far; CREATE TABLE base (id int PRIMARY KEY); INSERT INTO base VALUES (1);
    CREATE MATERIALIZED VIEW m AS SELECT * FROM base; CREATE VIEW w AS SELECT * FROM base; INSERT INTO base VALUES (2);"""
    found = await lose(setup, "DROP FOREIGN TABLE f;\nDROP TABLE p;\nREFRESH MATERIALIZED VIEW m;\nDROP VIEW w", superuser=True)
    assert {thing: loss.count for thing, loss in found.items()} == {("table", "public.p"): 1}


# ------------------------------------------------------------------ enums


@pytest.mark.parametrize("table", ["(id int PRIMARY KEY, m mood)", "(id int PRIMARY KEY, m moods)", "(id int PRIMARY KEY, m mood[])"])
async def test_a_removed_label_counts_its_uses(lose: Lose, table: str) -> None:
    many = "[]" if "[]" in table else ""
    happy, sad = ("{sad,happy}", "{sad}") if many else ("happy", "sad")
    setup = f"""CREATE TYPE mood AS ENUM ('sad', 'happy', 'so so'); CREATE DOMAIN moods AS mood; CREATE TABLE t {table};
    INSERT INTO t VALUES (1, '{sad}'), (2, '{happy}'), (3, '{happy}'), (4, NULL);"""
    change = f"""UPDATE t SET m = '{sad}' WHERE m::text = '{happy}';\nALTER TYPE mood RENAME TO old;\nCREATE TYPE mood AS ENUM ('sad');
    ALTER TABLE t ALTER m TYPE mood{many} USING m::text::mood{many};\nDROP TYPE old CASCADE"""
    found = await lose(setup, change.replace("'sad');\n", "'sad');\n"))
    assert {thing: (loss.count, loss.keys) for thing, loss in found.items()} == {
        ("values", "public.t.m"): (2, ("id=2", "id=3")),
        ("enum", "public.mood.happy"): (2, ("id=2", "id=3")),
    }
    assert found["enum", "public.mood.happy"].why == "used in public.t.m"


async def test_a_renamed_label_is_not_lost(lose: Lose) -> None:
    setup = "CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE TABLE t (id int PRIMARY KEY, m mood); INSERT INTO t VALUES (1, 'sad')"
    assert await lose(setup, "ALTER TYPE mood RENAME VALUE 'sad' TO 'blue'") == {}


# ------------------------------------------------------------------ guards


async def test_guards_that_are_gone_are_named_and_those_that_were_renamed_are_not(lose: Lose) -> None:
    setup = """CREATE TABLE a (id int PRIMARY KEY, b int UNIQUE, c int CHECK (c > 0), d int, tenant int, gone int UNIQUE, kept int);
    CREATE TABLE child (id int PRIMARY KEY, a int REFERENCES a, b int REFERENCES a (b));
    CREATE UNIQUE INDEX ud ON a (d) WHERE d > 1; CREATE INDEX ic ON a (c); CREATE INDEX ik ON a (kept);
    ALTER TABLE a ENABLE ROW LEVEL SECURITY; ALTER TABLE child ENABLE ROW LEVEL SECURITY;
    ALTER TABLE child FORCE ROW LEVEL SECURITY;
    CREATE POLICY mine ON a USING (tenant = 1); CREATE POLICY other ON a USING (d = 1); CREATE POLICY third ON a USING (c = 1);"""
    change = """ALTER TABLE child DROP CONSTRAINT child_b_fkey;\nALTER TABLE child NO FORCE ROW LEVEL SECURITY;
    ALTER TABLE a DISABLE ROW LEVEL SECURITY;
    DROP POLICY mine ON a;\nALTER POLICY other ON a USING (true);\nALTER POLICY third ON a RENAME TO fourth;\nALTER TABLE a RENAME c TO c2;
    DROP INDEX ud;\nDROP INDEX ic;\nALTER INDEX ik RENAME TO ik2;\nALTER TABLE a DROP CONSTRAINT a_c_check;\nALTER TABLE a DROP gone;
    ALTER TABLE a ALTER kept TYPE bigint;\nALTER TABLE a DROP CONSTRAINT a_b_key"""
    found = await lose(setup, change)
    assert set(found) == {
        ("foreign key", "public.child.child_b_fkey"),
        ("row security", "public.a"),
        ("row security", "public.child"),
        ("policy", "public.a.mine"),
        ("policy", "public.a.other"),
        ("unique", "public.ud"),
        ("unique", "public.a.a_b_key"),
        ("index", "public.ic"),
        ("constraint", "public.a.a_c_check"),
        ("column", "public.a.gone"),
    }
    assert "something else" in found["policy", "public.a.other"].why


async def test_a_foreign_key_to_a_table_that_was_dropped_with_cascade_is_named(lose: Lose) -> None:
    setup = "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE child (id int PRIMARY KEY, a int REFERENCES a)"
    assert set(await lose(setup, "DROP TABLE a CASCADE")) == {("table", "public.a"), ("foreign key", "public.child.child_a_fkey")}


# ------------------------------------------------------------------ what can't be read


async def test_a_role_that_row_security_binds_gets_no_count_and_never_zero(shop: Connect, server: Connect, before: Connect) -> None:
    hidden = [f"CREATE TABLE {name} AS SELECT generate_series(1, 1000) AS n" for name in ("dropped", "kept")]
    await execute(shop, *hidden, *(f"ALTER TABLE {t} {what} ROW LEVEL SECURITY" for t in ("dropped", "kept") for what in ("ENABLE", "FORCE")))
    await execute(server, f'CREATE DATABASE "{before.database}" TEMPLATE "{shop.database}" OWNER "{shop.user}"')
    await execute(shop, "DROP TABLE dropped")
    losses = await lost_since(shop.model_copy(update={"database": before.database}), shop, _nothing)
    assert {loss.thing(): loss.count for loss in losses} == {("table", "public.dropped"): None, ("unreadable", "public.kept"): None}
    assert all("as this role" in loss.why and "row-level security" in loss.why for loss in losses)


# ------------------------------------------------------------------ counted again


async def test_what_was_found_is_counted_again_where_it_is_now(shop: Connect, server: Connect) -> None:
    setup = """CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE TABLE t (id int PRIMARY KEY, c int DEFAULT 0, m mood);
    INSERT INTO t SELECT n, 0, 'sad' FROM generate_series(1, 10) n; UPDATE t SET c = 1, m = 'happy' WHERE id = 4;"""
    await execute(shop, PARTED, setup)
    asked = [
        Loss(kind="table", name="public.p", revision="0004", count=7),
        Loss(kind="column", name="public.t.c", count=1, revision="0005"),
        Loss(kind="enum", name="public.mood.happy"),
        Loss(kind="rows", name="public.t", count=3),
        Loss(kind="policy", name="public.t.x"),
        Loss(kind="table", name="public.nowhere", count=7),
    ]
    found = await recount(server.model_copy(update={"database": shop.database}), asked, dt.timedelta(seconds=30))
    assert [(one.kind, one.name, one.revision) for one in found] == [(one.kind, one.name, one.revision) for one in asked]
    assert [(one.count, one.written, one.why) for one in found] == [
        (100, None, ""),
        (10, 1, ""),
        (1, None, "used in public.t.m"),
        (None, None, "found on the copy: 3"),
        (None, None, ""),
        (None, None, "it is not there now"),
    ]


async def test_counting_again_ends_with_its_time_and_says_what_the_server_guesses(shop: Connect, server: Connect) -> None:
    await execute(shop, "CREATE TABLE t AS SELECT n AS id FROM generate_series(1, 50000) n", "ANALYZE t", "CREATE TABLE free (id int)")
    losses = [Loss(kind="table", name="public.t", count=5), Loss(kind="column", name="public.t.id", count=5)]
    found = await recount(server.model_copy(update={"database": shop.database}), losses, dt.timedelta(0))
    assert [(one.count, one.why) for one in found] == [(None, "not counted within 0 s; about 50000 rows")] * 2


async def test_a_table_that_somebody_holds_is_not_waited_for(shop: Connect, server: Connect) -> None:
    await execute(shop, "CREATE TABLE t (id int)", "CREATE TABLE free (id int)")
    losses = [Loss(kind="table", name="public.t"), Loss(kind="table", name="public.free")]
    async with session(shop) as holder, holder.transaction():
        await holder.execute("LOCK TABLE t")
        found = await recount(server.model_copy(update={"database": shop.database}), losses, dt.timedelta(seconds=30))
    assert [(one.count, one.why) for one in found] == [(None, "not counted: another session has it locked"), (0, "")]
