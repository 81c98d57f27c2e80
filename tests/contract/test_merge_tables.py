"""Tables of a database beside, compared with the live ones and merged into them (databases.md F16)."""

from __future__ import annotations

import resource
from typing import Any

import pytest

from bot.databases.connecting import quoted
from bot.databases.postgres import PostgresDatabase
from bot.errors import StepFailed
from bot.evidence import BackupFile
from bot.merges import Compared, Merged, MergeRule
from tests.contract.places import Place
from tests.contract.servers import database_of, execute, session

BESIDE, NOTE = "backout_0a1b2c3d_tables", "Backout: restored for shop, run r'1"
REPLACE = MergeRule(different="replace")
EXACTLY = MergeRule(different="replace", newer="replace", only_here="delete")


@pytest.fixture
def shop(plain: Place) -> Place:
    return plain


def of(at: Place) -> PostgresDatabase:
    return database_of(at.app, at.backout)


async def backup(at: Place, *live: str) -> BackupFile:
    """The live database gets these; then a copy of it is the backup."""
    await execute(at.app, *live)
    return await of(at).clone(BESIDE, NOTE)


async def beside(at: Place, *statements: str) -> None:
    """In the backup, as if it had been made so."""
    where = at.superuser.model_copy(update={"database": BESIDE})
    await execute(where, "SET default_transaction_read_only = off", f"SET ROLE {quoted(at.app.user)}", *statements)


async def nothing(_text: str) -> None:
    """Nobody watches."""


async def compared(at: Place, file: BackupFile, *tables: str) -> tuple[Compared, ...]:
    return await of(at).compare_tables(tables, file, nothing)


async def merged(at: Place, file: BackupFile, *tables: str, rule: MergeRule = REPLACE) -> Merged:
    return await of(at).merge_tables(tables, file, rule, nothing)


async def rows(at: Place, query: str) -> list[tuple[Any, ...]]:
    async with session(at.app) as asking:
        return [tuple(row) for row in await asking.fetch(query)]


def counts(one: Compared) -> tuple[int, ...]:
    return one.there, one.here, one.only_there, one.only_here, one.different, one.equal


PEOPLE = (
    'CREATE TABLE "the People" (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text, at timestamptz, updated_at timestamptz, '
    "loud text GENERATED ALWAYS AS (upper(name)) STORED, doc json)",
    "INSERT INTO \"the People\" (name, updated_at, doc) SELECT 'n' || i, '2026-01-01'::timestamptz + i * interval '1 h', '{\"a\": 1}' "
    "FROM generate_series(1, 6) i",
)
NAMES = 'SELECT id, name FROM "the People" ORDER BY id'
#: 1 equal, 2 differs, 3 gone here, 4 differs and is newer, 5 and 6 equal, 7 new here
MEANWHILE = (
    "UPDATE \"the People\" SET name = 'wrong' WHERE id = 2",
    'DELETE FROM "the People" WHERE id = 3',
    "UPDATE \"the People\" SET name = 'later', updated_at = '2026-02-01' WHERE id = 4",
    "INSERT INTO \"the People\" (name, updated_at) VALUES ('new', '2026-02-02')",
)


async def test_rows_only_there_only_here_different_equal_and_newer_are_told_and_nothing_is_changed(either: Place) -> None:
    file = await backup(either, *PEOPLE)
    await execute(either.app, *MEANWHILE)
    before = await rows(either, NAMES)
    [one] = await compared(either, file, '"the People"')
    assert (one.table, one.key, counts(one), one.why) == ('public."the People"', ("id",), (6, 6, 1, 1, 2, 3), "")
    assert (one.newer_by, one.newer_only_here, one.newer_different) == (("updated_at", "id"), 1, 1)
    assert one.newest == "2026-01-01 06:00:00+00"
    assert await rows(either, NAMES) == before


@pytest.mark.parametrize(
    ("rule", "then"),
    [
        (MergeRule(), [(1, "n1"), (2, "wrong"), (3, "n3"), (4, "later"), (5, "n5"), (6, "n6"), (7, "new")]),
        (REPLACE, [(1, "n1"), (2, "n2"), (3, "n3"), (4, "later"), (5, "n5"), (6, "n6"), (7, "new")]),
        (MergeRule(different="replace", only_here="delete"), [(1, "n1"), (2, "n2"), (3, "n3"), (4, "later"), (5, "n5"), (6, "n6"), (7, "new")]),
        (MergeRule(newer="replace"), [(1, "n1"), (2, "wrong"), (3, "n3"), (4, "n4"), (5, "n5"), (6, "n6"), (7, "new")]),
        (EXACTLY, [(1, "n1"), (2, "n2"), (3, "n3"), (4, "n4"), (5, "n5"), (6, "n6")]),
    ],
    ids=["keep", "replace", "delete, but not newer ones", "newer too", "exactly the backup"],
)
async def test_the_rule_says_what_becomes_of_live_rows_and_a_second_time_changes_nothing(
    shop: Place, rule: MergeRule, then: list[tuple[int, str]]
) -> None:
    file = await backup(shop, *PEOPLE)
    await execute(shop.app, *MEANWHILE)
    [first] = (await merged(shop, file, '"the People"', rule=rule)).tables
    assert await rows(shop, NAMES) == then
    again = await merged(shop, file, '"the People"', rule=rule)
    assert await rows(shop, NAMES) == then
    assert (first.before, first.after, first.inserted, first.equal) == (6, len(then), 1, 3)
    assert (again.tables[0].inserted, again.tables[0].updated, again.tables[0].deleted, again.conflicts_total) == (0, 0, 0, 0)
    assert again.tables[0].kept == first.kept
    await execute(shop.app, "INSERT INTO \"the People\" (name) VALUES ('next')")
    assert (await rows(shop, 'SELECT max(id) FROM "the People"'))[0][0] == 8


async def test_the_live_table_stays_itself_for_views_foreign_keys_and_publications(shop: Place) -> None:
    file = await backup(
        shop,
        "CREATE TABLE orders (id int PRIMARY KEY, note text)",
        "INSERT INTO orders VALUES (1, 'a'), (2, 'b')",
    )
    await execute(
        shop.app,
        "CREATE VIEW v AS SELECT * FROM orders",
        "CREATE TABLE lines (id int PRIMARY KEY, order_id int REFERENCES orders ON DELETE CASCADE ON UPDATE CASCADE)",
        "INSERT INTO lines VALUES (1, 1)",
        "INSERT INTO orders VALUES (3, 'c'), (4, 'd')",
        "INSERT INTO lines VALUES (3, 3)",
        "UPDATE orders SET note = 'x' WHERE id = 1",
        "DELETE FROM orders WHERE id = 2",
    )
    await execute(shop.superuser.model_copy(update={"database": shop.app.database}), "CREATE PUBLICATION p FOR TABLE orders")
    oid = await rows(shop, "SELECT 'orders'::regclass::oid")

    done = await merged(shop, file, "orders", rule=EXACTLY)

    assert await rows(shop, "SELECT 'orders'::regclass::oid") == oid
    assert await rows(shop, "SELECT * FROM v ORDER BY id") == [(1, "a"), (2, "b"), (3, "c")]
    assert await rows(shop, "SELECT * FROM lines ORDER BY id") == [(1, 1), (3, 3)]
    assert [(one.key, one.why) for one in done.conflicts] == [("id=3", "Other rows still refer to it, so it was not deleted.")]
    assert await rows(shop, "SELECT tablename FROM pg_publication_tables") == [("orders",)]


async def test_what_other_rows_refer_to_does_not_change_under_them(shop: Place) -> None:
    file = await backup(shop, "CREATE TABLE codes (id int PRIMARY KEY, code text UNIQUE)", "INSERT INTO codes VALUES (1, 'old'), (2, 'two')")
    await execute(
        shop.app,
        "UPDATE codes SET code = code || '!'",
        "CREATE TABLE uses (code text REFERENCES codes (code) ON UPDATE CASCADE)",
        "INSERT INTO uses VALUES ('old!')",
    )
    done = await merged(shop, file, "codes")
    assert await rows(shop, "SELECT code FROM codes ORDER BY id") == [("old!",), ("two",)]
    assert await rows(shop, "SELECT code FROM uses") == [("old!",)]
    assert [one.why for one in done.conflicts] == ["Rows of public.uses refer to its code, which would change under them."]


async def test_tables_that_refer_to_each_other_and_to_themselves_come_in_one_piece(either: Place) -> None:
    file = await backup(
        either,
        "CREATE TABLE a (id int PRIMARY KEY, b int, up int REFERENCES a)",
        "CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a)",
        "ALTER TABLE a ADD CONSTRAINT ab FOREIGN KEY (b) REFERENCES b",
        "INSERT INTO a VALUES (1, NULL, NULL), (2, NULL, 1)",
        "INSERT INTO b VALUES (1, 2), (2, 1)",
        "UPDATE a SET b = id",
    )
    await execute(either.app, "UPDATE a SET b = NULL", "DELETE FROM b", "DELETE FROM a")
    await execute(either.app, "INSERT INTO a VALUES (8, NULL, NULL), (9, NULL, 8)", "INSERT INTO b VALUES (9, 9)", "UPDATE a SET b = 9 WHERE id = 9")
    done = await merged(either, file, "b", "a", rule=EXACTLY)
    assert await rows(either, "SELECT * FROM a WHERE id < 8 ORDER BY id") == [(1, 1, None), (2, 2, 1)]
    assert await rows(either, "SELECT * FROM b WHERE id < 8 ORDER BY id") == [(1, 2), (2, 1)]
    # 9 and b's 9 refer to each other: neither may go first, so both stay, and are named; and 8, which 9 refers to
    assert {(one.table, one.key) for one in done.conflicts} == {("public.b", "id=9"), ("public.a", "id=8"), ("public.a", "id=9")}
    assert done.conflicts_total == 3


async def test_a_row_whose_parent_is_gone_or_which_a_constraint_refuses_is_named_and_the_others_come(shop: Place) -> None:
    file = await backup(
        shop,
        "CREATE TABLE parents (id int PRIMARY KEY)",
        "CREATE TABLE children (id int PRIMARY KEY, parent int REFERENCES parents, mail text UNIQUE)",
        "INSERT INTO parents VALUES (1), (2)",
        "INSERT INTO children VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 1, 'c')",
    )
    await execute(shop.app, "DELETE FROM children", "DELETE FROM parents WHERE id = 2", "INSERT INTO children VALUES (9, 1, 'c')")
    done = await merged(shop, file, "children")
    assert await rows(shop, "SELECT id FROM children ORDER BY id") == [(1,), (9,)]
    assert sorted((one.key, one.why[:30]) for one in done.conflicts) == [
        ("id=2", "The row of public.parents that"),
        ("id=3", "The database refuses it: dupli"),
    ]


async def test_user_triggers_fire_or_not_as_told_and_forced_row_security_hides_nothing(shop: Place) -> None:
    file = await backup(shop, "CREATE TABLE paid (id int PRIMARY KEY, cents int)", "INSERT INTO paid VALUES (1, 5), (2, 6)")
    await execute(
        shop.app,
        "CREATE TABLE seen (id int)",
        "CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.seen VALUES (NEW.id); RETURN NEW; END'",
        "CREATE TRIGGER look AFTER INSERT OR UPDATE ON paid FOR EACH ROW EXECUTE FUNCTION look()",
        "DELETE FROM paid WHERE id = 1",
        "CREATE POLICY mine ON paid USING (false)",
        "ALTER TABLE paid ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE paid FORCE ROW LEVEL SECURITY",
    )
    done = await merged(shop, file, "paid")
    assert done.notes == ("Triggers of public.paid did not fire: look.",)
    assert (done.tables[0].before, done.tables[0].after, done.tables[0].equal) == (1, 2, 1)
    boss = shop.superuser.model_copy(update={"database": shop.app.database})
    await execute(boss, "DELETE FROM paid WHERE id = 2")
    await merged(shop, file, "paid", rule=MergeRule(triggers=True))
    assert await rows(shop, "SELECT id FROM seen") == [(2,)]
    assert await rows(shop, "SELECT relforcerowsecurity FROM pg_class WHERE relname = 'paid'") == [(True,)]


async def test_what_can_not_be_merged_says_why(shop: Place) -> None:
    file = await backup(
        shop,
        "CREATE TABLE keyless (id int)",
        "CREATE TABLE other (id int PRIMARY KEY, gone int, size int)",
        "CREATE VIEW shown AS SELECT 1 AS one",
        "CREATE TABLE made_then (id int PRIMARY KEY)",
    )
    await execute(shop.app, "ALTER TABLE other DROP gone, ALTER size TYPE bigint, ADD fresh int", "DROP TABLE made_then")
    await execute(shop.app, "CREATE TABLE made_since (id int PRIMARY KEY)")
    boss = shop.superuser.model_copy(update={"database": shop.app.database})
    await execute(boss, "CREATE FOREIGN DATA WRAPPER none", "CREATE SERVER far FOREIGN DATA WRAPPER none")
    await execute(boss, "CREATE FOREIGN TABLE away (id int) SERVER far")
    names = ("keyless", "other", "shown", "made_then", "made_since", "away")
    found = await compared(shop, file, *names)
    assert [one.why for one in found] == [
        "It has no primary key and no unique index without nulls that both have, so a row can't be found again.",
        "Its columns differ: gone is only in the backup, fresh is only in the live table, size is integer in the backup and bigint here.",
        "In the live database: It is a view: its rows are made of other tables'.",
        "It is not there in the live database.",
        "It is not there in the backup.",
        "In the live database: It is a foreign table: its rows are on another server and stay there.",
    ]
    for name in names:
        with pytest.raises(StepFailed, match="Nothing was changed"):
            await merged(shop, file, "t", name)


async def test_a_database_that_is_not_the_one_that_was_restored_is_never_read(shop: Place) -> None:
    file = await backup(shop)
    for other in (file.model_copy(update={"oid": 1}), file.model_copy(update={"name": "postgres"})):
        with pytest.raises(StepFailed, match="is not the one that Backout restored"):
            await merged(shop, other, "t")


async def test_partitions_are_merged_through_their_parent(shop: Place) -> None:
    file = await backup(
        shop,
        "CREATE TABLE days (day int, id int, note text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)",
        "CREATE TABLE days_1 PARTITION OF days FOR VALUES FROM (1) TO (10)",
        "CREATE TABLE days_2 PARTITION OF days FOR VALUES FROM (10) TO (20)",
        "INSERT INTO days SELECT i, i, 'n' FROM generate_series(1, 19) i",
    )
    await execute(shop.app, "DELETE FROM days WHERE day = 12", "UPDATE days SET note = 'x' WHERE day = 3")
    [one] = await compared(shop, file, "days")
    assert counts(one) == (19, 18, 1, 0, 1, 17)
    await merged(shop, file, "days")
    assert await rows(shop, "SELECT count(*), count(*) FILTER (WHERE note = 'n') FROM days") == [(19, 19)]


async def test_a_hundred_thousand_rows_go_through_in_blocks(shop: Place) -> None:
    file = await backup(
        shop,
        "CREATE TABLE big (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text)",
        "INSERT INTO big (body) SELECT repeat('x', 600) FROM generate_series(1, 100000)",
    )
    await execute(shop.app, "DELETE FROM big WHERE id % 2 = 0", "UPDATE big SET body = 'wrong' WHERE id % 10 = 1")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    [one] = await compared(shop, file, "big")
    assert counts(one) == (100_000, 50_000, 50_000, 0, 10_000, 40_000)
    done = await merged(shop, file, "big")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 30_000_000, "60 MB went through"
    assert (done.tables[0].inserted, done.tables[0].updated, done.tables[0].after) == (50_000, 10_000, 100_000)
    assert (await compared(shop, file, "big"))[0].equal == 100_000
