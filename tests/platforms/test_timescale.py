"""Hypertables of the real TimescaleDB (its Apache edition): counted, compared, archived, put back, merged and made again, in their chunks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bot.databases import catalog, hypertables, timescale
from bot.databases.connecting import connected, quoted
from bot.evidence import Loss, Snapshot
from bot.merges import MergeRule
from bot.place import Connect
from bot.rollback import verify
from tests.conftest import MakeDatabase
from tests.contract.archiving import Shelf, lost, quiet
from tests.contract.servers import database_of, execute, session
from tests.platforms.timescale import copied, running

METRICS = (
    "CREATE TABLE metrics (time timestamptz NOT NULL, device int NOT NULL, value numeric, UNIQUE (device, time))",
    "SELECT create_hypertable('metrics', 'time', chunk_time_interval => INTERVAL '3 days')",
    "CREATE INDEX metrics_value ON metrics (value DESC)",
)
ROWS = """INSERT INTO metrics SELECT '2026-01-01'::timestamptz + i * interval '30 min', i % 4, i FROM generate_series(0, 999) i"""
EVERYTHING = "SELECT time, device, value::text FROM metrics ORDER BY device, time"


@pytest.fixture(scope="module")
def server() -> Iterator[Connect]:
    """With TimescaleDB, as its superuser."""
    with running() as connect:
        yield connect


@pytest.fixture
async def shelf(server: Connect, make_database: MakeDatabase, tmp_path: Path) -> Shelf:
    """1,000 rows in chunks of three days, in a database with an owner of its own."""
    own = make_database("metrics")
    await execute(on(server, own.database), "CREATE EXTENSION timescaledb")
    made = Shelf(own, tmp_path / "store")
    await made.run(*METRICS, ROWS)
    return made


def on(server: Connect, database: str) -> Connect:
    return server.model_copy(update={"database": database})


async def cloned(server: Connect, database: str) -> Connect:
    """As it is now. It goes with the test's database."""
    name = f"{database}_before"
    await copied(on(server, "postgres"), database, name)
    return on(server, name)


@pytest.fixture(autouse=True)
async def no_clones(server: Connect, make_database: MakeDatabase) -> Any:
    yield
    async with session(on(server, "postgres")) as open_:
        for (name,) in await open_.fetch("SELECT datname FROM pg_database WHERE datname LIKE '%\\_before'"):
            await open_.execute(f"DROP DATABASE {quoted(name)} WITH (FORCE)")


async def snapshot(server: Connect, shelf: Shelf, *, count: bool = True) -> Snapshot:
    return await database_of(shelf.connect, on(server, shelf.connect.database)).snapshot(count=count)


async def losses(server: Connect, shelf: Shelf, *statements: str) -> tuple[Loss, ...]:
    """What these take away."""
    before = await cloned(server, shelf.connect.database)
    await shelf.run(*statements)
    return await database_of(shelf.connect, on(server, shelf.connect.database)).lost_since(before, quiet)


# ------------------------------------------------------------------ how they stand


async def test_the_rows_of_a_hypertable_are_those_of_its_chunks_and_chunks_are_no_tables_of_their_own(server: Connect, shelf: Shelf) -> None:
    seen = await snapshot(server, shelf)

    assert seen.counts == {"public.metrics": 1000}
    assert seen.objects["hypertable public.metrics"] == "cut by time every 3 days; not compressed; kept for ever"
    assert [name for name in seen.objects if "_timescaledb_" in name] == []
    standing = seen.hypertables["public.metrics"]
    assert (standing.chunks, standing.rows, standing.broken) == (7, "1,000 rows", ())


async def test_a_new_chunk_is_no_change_of_the_schema(server: Connect, shelf: Shelf) -> None:
    before = await snapshot(server, shelf)
    await shelf.run("INSERT INTO metrics VALUES ('2026-07-01', 1, 1)")
    after = await snapshot(server, shelf)

    assert after.fingerprint() == before.fingerprint()
    assert after.hypertables["public.metrics"].chunks == 8


async def test_a_chunk_that_lacks_an_index_is_red_in_the_verification_and_said_on_the_card(server: Connect, shelf: Shelf) -> None:
    before = await snapshot(server, shelf)
    database = on(server, shelf.connect.database)
    assert [(one["ok"], one["after"]) for one in verify.hypertables(before, before)] == [(True, "7 chunks, 1,000 rows")]
    await execute(
        database,
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = (SELECT indexrelid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
        " WHERE i.indrelid = (SELECT (show_chunks('metrics'))::oid LIMIT 1) AND c.relname LIKE '%metrics_value')",
    )

    after = await snapshot(server, shelf)

    (found,) = verify.hypertables(before, after)
    assert (found["ok"], found["blocking"]) == (False, True)
    assert "_hyper_" in found["says"]
    assert "metrics_value is not valid" in found["says"]
    (said,) = await hypertables.remarks(database)
    assert "7 chunks, NOT WHOLE" in said
    (old,) = verify.hypertables(after, after)
    assert (old["ok"], old["blocking"]) == (None, False), "what was so before is nobody's fault"


async def test_the_card_says_how_it_is_cut_and_kept(server: Connect, shelf: Shelf) -> None:
    await shelf.run("ANALYZE metrics")

    (said,) = await database_of(shelf.connect, on(server, shelf.connect.database)).remarks()

    assert said == ("public.metrics is a hypertable, cut by time every 3 days: 7 chunks, all whole; about 1,000 rows; not compressed; kept for ever.")


async def test_where_the_library_is_not_loaded_chunks_are_found_by_their_inheritance(shelf: Shelf) -> None:
    async with connected(shelf.connect) as loaded, connected(shelf.connect, {"timescaledb.disable_load": "on"}) as bare:
        mine, theirs = await hypertables.known(loaded), await hypertables.known(bare)
        assert await hypertables.made(bare) == {}
        assert (await catalog.counts(bare))[0] == {"public.metrics": 1000}

    assert (mine.roots, mine.chunks) == (theirs.roots, theirs.chunks)
    assert len(mine.chunks) == 7


# ------------------------------------------------------------------ what is lost


async def test_a_hypertable_that_is_dropped_is_one_loss_with_all_its_rows(server: Connect, shelf: Shelf) -> None:
    found = await losses(server, shelf, "DROP TABLE metrics")

    assert [(one.kind, one.name, one.count) for one in found] == [("table", "public.metrics", 1000)]
    assert found[0].newest is not None
    assert found[0].newest.startswith("2026-01-21 19:30")


async def test_chunks_that_are_dropped_are_rows_that_are_gone(server: Connect, shelf: Shelf) -> None:
    found = await losses(server, shelf, "SELECT drop_chunks('metrics', '2026-01-10'::timestamptz)")

    gone = 1000 - await shelf.value("SELECT count(*) FROM metrics")
    assert gone > 0
    assert [(one.kind, one.name, one.count, one.of) for one in found] == [("rows", "public.metrics", gone, 1000)]


async def test_rows_values_and_a_column_are_counted_through_all_chunks(server: Connect, shelf: Shelf) -> None:
    await shelf.run("ALTER TABLE metrics ADD note text", "UPDATE metrics SET note = 'n' WHERE device = 2")
    found = await losses(
        server, shelf, "DELETE FROM metrics WHERE device = 3", "UPDATE metrics SET value = -1 WHERE device = 1", "ALTER TABLE metrics DROP note"
    )

    assert {(one.kind, one.name, one.count) for one in found} == {
        ("rows", "public.metrics", 250),
        ("values", "public.metrics.value", 250),
        ("column", "public.metrics.note", 250),
    }


async def test_a_hypertable_that_became_a_plain_table_lost_no_row(server: Connect, shelf: Shelf) -> None:
    found = await losses(
        server, shelf, "CREATE TABLE kept AS TABLE metrics", "DROP TABLE metrics", "ALTER TABLE kept RENAME TO metrics",
        "ALTER TABLE metrics ADD UNIQUE (device, time)",
    )  # fmt: skip

    assert [one.name for one in found if one.kind in ("table", "rows", "values", "column")] == []


async def test_losses_are_counted_again_in_production(server: Connect, shelf: Shelf) -> None:
    import datetime as dt

    database = database_of(shelf.connect, on(server, shelf.connect.database))

    (table,) = await database.recount(lost("table", "public.metrics"), dt.timedelta(seconds=60))

    assert (table.count, table.keys[:1]) == (1000, ('device=0, "time"=2026-01-01 00:00:00+00',))


# ------------------------------------------------------------------ the archive, and what is put back


async def test_an_archived_hypertable_comes_back_row_by_row_into_one_that_was_made_again(shelf: Shelf) -> None:
    before = await shelf.rows(EVERYTHING)
    kept = await shelf.keep(lost("table", "public.metrics"))
    assert [part.rows for part in kept.parts] == [1000]
    await shelf.run("DROP TABLE metrics", *METRICS)

    first, again = await shelf.put(kept), await shelf.put(kept)

    assert (first.rows, first.conflicts_total) == (1000, 0)
    assert (again.rows, again.unchanged, again.conflicts_total) == (0, 1000, 0)
    assert await shelf.rows(EVERYTHING) == before


async def test_a_table_that_came_back_plain_is_a_hypertable_again_as_it_was_with_its_indexes(server: Connect, shelf: Shelf) -> None:
    before, was = await shelf.rows(EVERYTHING), await snapshot(server, shelf)
    kept = await shelf.keep(lost("table", "public.metrics"))
    await shelf.run("DROP TABLE metrics", METRICS[0], "INSERT INTO metrics VALUES ('2026-05-05', 9, 9)")

    done = await shelf.put(kept)

    assert any("public.metrics is a hypertable again, cut by time every 3 days" in note for note in done.notes), done.notes
    assert done.rows == 1000
    assert await shelf.rows("SELECT * FROM metrics WHERE device = 9") != [], "what was there already is in a chunk too"
    await shelf.run("DELETE FROM metrics WHERE device = 9")
    assert await shelf.rows(EVERYTHING) == before
    now = await snapshot(server, shelf)
    assert now.objects["hypertable public.metrics"] == was.objects["hypertable public.metrics"]
    assert {name for name in was.objects if name.startswith("index ")} <= set(now.objects)
    assert now.hypertables["public.metrics"].broken == ()
    assert await shelf.value("SELECT count(*) FROM ONLY metrics") == 0


async def test_another_interval_goes_back_to_what_it_was(server: Connect, shelf: Shelf) -> None:
    kept = await shelf.keep(lost("table", "public.metrics"))
    await shelf.run("DROP TABLE metrics", METRICS[0], METRICS[1].replace("3 days", "1 day"), METRICS[2])

    done = await shelf.put(kept)

    assert any("cut every 3 days again" in note for note in done.notes), done.notes
    assert (await snapshot(server, shelf)).objects["hypertable public.metrics"].startswith("cut by time every 3 days;")


async def test_two_dimensions_and_whole_numbers_come_back_too(server: Connect, shelf: Shelf) -> None:
    made = "CREATE TABLE ticks (at bigint NOT NULL, book int NOT NULL, price int)"
    await shelf.run(
        made, "SELECT create_hypertable('ticks', 'at', 'book', 3, chunk_time_interval => 1000)",
        "INSERT INTO ticks SELECT i, i % 7, i FROM generate_series(1, 5000) i",
    )  # fmt: skip
    was = (await snapshot(server, shelf)).objects["hypertable public.ticks"]
    assert was == "cut by at every 1000, book into 3; not compressed; kept for ever"
    kept = await shelf.keep(lost("table", "public.ticks"))
    await shelf.run("DROP TABLE ticks", made)

    done = await shelf.put(kept)

    assert done.rows == 5000, "it has no key, so rows count by what they are"
    assert (await snapshot(server, shelf)).objects["hypertable public.ticks"] == was


async def test_what_the_apache_edition_refuses_is_said_and_the_rest_is_done(shelf: Shelf) -> None:
    then = {
        "dimensions": [{"column": "time", "interval": "7 days", "integer": None, "parts": None}],
        "compression": {"segment": ["device"], "order": ['"time" DESC NULLS FIRST']}, "retention": "365 days", "compress_after": "30 days",
        "indexes": [],
    }  # fmt: skip
    async with connected(shelf.connect, {"search_path": "pg_catalog", "default_transaction_read_only": "off"}) as open_, open_.transaction():
        notes = await hypertables.make_again(open_, "public.metrics", then)

    assert notes[0] == "Given back: new chunks of public.metrics are cut every 7 days again."
    refused = [note for note in notes if note.startswith("Not given back")]
    assert len(refused) == 3
    assert all('under the current "apache" license' in note for note in refused), refused
    assert "compressed by device after 30 days" in refused[0]
    assert "kept for 365 days" in refused[2]


async def test_a_column_and_values_of_a_hypertable_come_back(shelf: Shelf) -> None:
    await shelf.run("ALTER TABLE metrics ADD note text", "UPDATE metrics SET note = 'n' || value WHERE device = 2")
    before = await shelf.rows("SELECT device, time, note FROM metrics ORDER BY 1, 2")
    column, values = (
        await shelf.keep(lost("column", "public.metrics.note")),
        await shelf.keep(lost("values", "public.metrics.value"), name="v.archive"),
    )
    await shelf.run("ALTER TABLE metrics DROP note", "UPDATE metrics SET value = 0 WHERE device = 1", "ALTER TABLE metrics ADD note text")

    first, second = await shelf.put(column), await shelf.put(values)

    assert (first.values, first.unchanged, first.conflicts_total) == (250, 750, 0)
    assert second.values == 250
    assert await shelf.rows("SELECT device, time, note FROM metrics ORDER BY 1, 2") == before
    assert await shelf.value("SELECT count(*) FROM metrics WHERE value = 0") == 1


async def test_triggers_of_a_hypertable_fire_where_others_are_off_and_that_is_said(shelf: Shelf) -> None:
    await shelf.run(
        "CREATE TABLE seen (n int)", "INSERT INTO seen VALUES (0)",
        "CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE public.seen SET n = n + 1; RETURN NEW; END $$",
        "CREATE TRIGGER seeing AFTER INSERT ON metrics FOR EACH ROW EXECUTE FUNCTION see()",
    )  # fmt: skip
    kept = await shelf.keep(lost("rows", "public.metrics"))
    await shelf.run("DELETE FROM metrics WHERE device = 1")

    done = await shelf.put(kept, triggers=False)

    assert done.rows == 250
    assert "Triggers of public.metrics could fire: seeing." in done.notes
    assert await shelf.value("SELECT n FROM seen") == 250


# ------------------------------------------------------------------ single tables


async def test_a_hypertable_is_merged_with_a_backups_through_its_chunks(server: Connect, shelf: Shelf) -> None:
    before = await shelf.rows(EVERYTHING)
    live = database_of(shelf.connect, on(server, shelf.connect.database))
    beside = await beside_of(server, shelf)
    await shelf.run("DELETE FROM metrics WHERE device = 3", "UPDATE metrics SET value = -1 WHERE device = 1")

    (compared,) = await live.compare_tables(["metrics"], beside, quiet)
    done = await live.merge_tables(["metrics"], beside, MergeRule(different="replace"), quiet)

    assert (compared.only_there, compared.different, compared.only_here, compared.equal) == (250, 250, 0, 500)
    assert [(one.inserted, one.updated, one.after) for one in done.tables] == [(250, 250, 1000)]
    assert await shelf.rows(EVERYTHING) == before


async def test_a_live_table_that_came_back_plain_is_made_a_hypertable_as_the_backup_has_it(server: Connect, shelf: Shelf) -> None:
    before, was = await shelf.rows(EVERYTHING), await snapshot(server, shelf)
    live, beside = database_of(shelf.connect, on(server, shelf.connect.database)), await beside_of(server, shelf)
    await shelf.run("DROP TABLE metrics", METRICS[0])

    done = await live.merge_tables(["metrics"], beside, MergeRule(), quiet)

    assert any("is a hypertable again" in note for note in done.notes), done.notes
    assert await shelf.rows(EVERYTHING) == before
    assert (await snapshot(server, shelf)).hypertables["public.metrics"] == was.hypertables["public.metrics"]


async def beside_of(server: Connect, shelf: Shelf) -> Any:
    """The database as a backup of it that was restored beside."""
    from bot.evidence import BackupFile

    clone = await cloned(server, shelf.connect.database)
    async with session(on(server, "postgres")) as open_:
        await open_.execute(f"COMMENT ON DATABASE {quoted(clone.database)} IS 'Backout: a test''s'")
        oid = await open_.fetchval("SELECT oid::int8 FROM pg_database WHERE datname = $1", clone.database)
    return BackupFile(name=clone.database, path="", sha256="", size=0, format="clone", oid=oid)


# ------------------------------------------------------------------ its workers


async def workers(server: Connect, database: str) -> int:
    async with session(on(server, "postgres")) as open_:
        sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND backend_type ILIKE 'timescaledb%'"
        return int(await open_.fetchval(sql, database))


async def until_there(server: Connect, database: str) -> None:
    import asyncio

    async with asyncio.timeout(120):
        while not await workers(server, database):  # noqa: ASYNC110  a condition of another process
            await asyncio.sleep(0.05)


async def test_its_workers_stay_out_until_they_are_let_in_again(server: Connect, shelf: Shelf) -> None:
    own = on(server, shelf.connect.database)
    await timescale.wake(own)
    await until_there(server, own.database)
    database = database_of(shelf.connect, own)

    assert await database.strangers() == (), "workers are nobody's service"
    assert await workers(server, own.database) == 0
    assert not await timescale.quiet(own), "there is none to be stopped"
    await database.wake_workers()
    await until_there(server, own.database)


async def test_who_may_not_stop_them_is_told_what_to_do(server: Connect, shelf: Shelf) -> None:
    from bot.errors import StepFailed

    await timescale.wake(on(server, shelf.connect.database))
    await until_there(server, shelf.connect.database)

    with pytest.raises(StepFailed, match="stop_background_workers"):
        await timescale.quiet(shelf.connect)
    assert not await timescale.wake(shelf.connect)
