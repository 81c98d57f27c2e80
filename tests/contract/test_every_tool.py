"""What the flow relies on, whatever the migration tool: every test runs for each kind in bot.tools.TOOLS."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from bot.databases.postgres import PostgresDatabase
from bot.errors import OutcomeUnknown, Refusal, StepFailed
from bot.model import History, Plan
from bot.place import Connect, Identity
from bot.rollback import loss, route
from bot.running import MigrationTool
from bot.tools import TOOLS
from bot.tools.watched import fence_of
from tests.conftest import MakeDatabase
from tests.contract import kits
from tests.contract.kits import HISTORY, KITS, Change, Kit, back
from tests.contract.test_migration_tool import Doing, until

FACTS = {
    "statements", "statements_total", "statements_sha256", "locks", "transactions", "revisions", "output", "seconds", "driver", "one_transaction",
    "connections", "blockers",
}  # fmt: skip
COLUMNS = {5: ("id", "name", "note", "score"), 4: ("id", "name", "note"), 3: ("id", "name", "note"), 2: ("id", "name", "note"), 1: ("id", "name")}


class Led(PostgresDatabase):
    """A database whose tool is led elsewhere, behind Backout's back: the challenge is held in the one meant."""

    meant: PostgresDatabase

    def challenge(self) -> Any:
        return self.meant.challenge()


@dataclass
class Place:
    """A target of one kind, at number 5 unless it is empty."""

    kit: Kit
    own: Connect
    server: Connect
    directory: Path

    def project(self, history: Mapping[int, Change] = HISTORY) -> None:
        self.kit.write(self.directory, history)

    @property
    def database(self) -> PostgresDatabase:
        return PostgresDatabase(target="shop", tool=self.own, admin=self.server)

    def tool(self, *, copy: bool = False, database: PostgresDatabase | None = None, **settings: Any) -> MigrationTool:
        extra = {"BACKOUT_REHEARSAL": "1"} if copy else {}
        return kits.tool(self.kit, self.directory, database or self.database, extra, **settings)

    def revision(self, number: int) -> str:
        return self.kit.revision(number) if number else "base"

    async def plan(self, to: int = 4, **known: Any) -> Plan:
        """As bot.rollback.plan makes it, from what the tool read."""
        history = await self.tool().read()
        from_, down_to, undone = route.route(self.revision(to), history)
        return made(history, from_, down_to, undone=route.undone_of(undone), **known)

    async def downgrade(self, to: int = 4, *, rehearsing: bool = False, **settings: Any) -> dict[str, Any]:
        doing = Doing(await self.plan(to), rehearsing=rehearsing)
        return dict(await self.tool(copy=rehearsing, **settings).downgrade(self.revision(to), doing))

    async def stamp(self, from_: int, to: int) -> dict[str, Any]:
        history = await self.tool().read(unmarked=True)
        plan = made(history, self.revision(from_), self.revision(to), strategy="stamp", undone=(), one_transaction=True)
        return dict(await self.tool().stamp(self.revision(to), Doing(plan)))

    async def stands(self) -> str:
        """By the query that every step reads it with."""
        history = await self.tool().read()
        found = await self.database.heads(history.version_table, history.version_table_schema, history.version_query)
        return ", ".join(found) or "base"

    def columns(self) -> tuple[str, ...]:
        query = "SELECT column_name FROM information_schema.columns WHERE table_name = 'orders' ORDER BY ordinal_position"
        return tuple(row[0] for row in self.sql(query))

    def sql(self, *statements: str) -> list[Any]:
        with psycopg.connect(self.own.url(), autocommit=True) as session:
            for statement in statements:
                done = session.execute(statement)  # type: ignore[arg-type]
            return done.fetchall() if done.description else []

    async def untouched(self) -> None:
        assert (await self.stands(), self.columns()) == (self.revision(5), COLUMNS[5])


def made(history: History, from_: str, to: str, **known: Any) -> Plan:
    identity = Identity(system="1", timeline=1, oid=1, database="shop", version=180000, started="")
    return Plan(
        target="shop", from_=from_, to=to, steps=(), identity=identity, version_table=history.version_table,
        version_table_schema=history.version_table_schema, version_query=history.version_query, **known,
    )  # fmt: skip


@pytest.fixture(params=sorted(TOOLS))
def kit(request: pytest.FixtureRequest) -> Kit:
    return KITS[request.param]


@pytest.fixture
def place(kit: Kit, server: Connect, make_database: MakeDatabase, tmp_path: Path) -> Place:
    found = Place(kit, make_database("shop"), server, tmp_path / "project")
    found.sql(*(statement for one in HISTORY.values() for statement in one.up), *kit.seeds(5))
    found.sql("INSERT INTO orders SELECT g, 'n' || g, NULL, g % 10 FROM generate_series(1, 100) g")
    return found


@pytest.fixture
def empty(kit: Kit, server: Connect, make_database: MakeDatabase, tmp_path: Path) -> Place:
    return Place(kit, make_database("empty"), server, tmp_path / "project")


# ------------------------------------------------------------------ writing down where it stands


@pytest.mark.parametrize("to", [3, 0])
async def test_a_stamp_says_where_it_stands_and_touches_nothing_else(place: Place, to: int) -> None:
    place.project()
    facts = await place.stamp(5, to)
    assert facts.keys() >= FACTS
    assert (await place.stands(), place.columns()) == (place.revision(to), COLUMNS[5])


async def test_a_stamp_goes_forward_too_and_then_a_downgrade_believes_it(place: Place) -> None:
    place.project()
    await place.stamp(5, 2)
    await place.stamp(2, 5)
    assert await place.stands() == place.revision(5)
    await place.downgrade(4)
    assert (await place.stands(), place.columns()) == (place.revision(4), COLUMNS[4])


async def test_a_database_that_lost_its_version_table_gets_one(empty: Place) -> None:
    empty.project()
    with pytest.raises(Refusal) as refused:
        await empty.tool().read()
    assert refused.value.code == "version_table_missing"
    assert (await empty.tool().read(unmarked=True)).current == ()
    await empty.stamp(0, 4)
    assert await empty.stands() == empty.revision(4)


async def test_a_stamp_from_where_the_database_does_not_stand_writes_nothing(place: Place) -> None:
    place.project()
    with pytest.raises(StepFailed, match="Nothing was executed"):
        await place.stamp(4, 3)
    await place.untouched()


# ------------------------------------------------------------------ reading


async def test_the_whole_history_is_told_and_where_the_database_stands(place: Place) -> None:
    place.project()
    history = await place.tool().read()
    ids = [place.revision(number) for number in (5, 4, 3, 2, 1)]
    assert [one.revision for one in history.revisions] == ids
    assert [one.down for one in history.revisions] == [*((one,) for one in ids[1:]), ()]
    assert (history.heads, history.bases, history.current) == ((ids[0],), (ids[-1],), (ids[0],))
    assert [one.downgrade for one in history.revisions] == ["real"] * 5
    assert len({one.sha256 for one in history.revisions}) == 5
    assert (history.version_table, history.version_table_schema) == (place.kit.versions(), "public")
    assert await place.stands() == place.revision(5)


async def test_reading_changes_neither_the_project_nor_the_database(place: Place) -> None:
    place.project()
    files, before = sorted(place.directory.rglob("*")), await place.database.snapshot(count=True)
    await place.tool().read()
    assert sorted(place.directory.rglob("*")) == files
    assert await place.database.snapshot(count=True) == before


async def test_what_a_way_down_destroys_is_read_from_its_script(place: Place) -> None:
    place.project(back("ALTER TABLE orders DROP COLUMN score", "DROP TABLE IF EXISTS extra", "DELETE FROM orders WHERE id < 0"))
    (newest, *_) = (await place.tool().read()).revisions
    if place.kit.kind == "alembic":  # the kit's scripts go past op.execute, to see rows counted
        return
    found = [(one.kind, one.name.rsplit(".", 1)[-1]) for one in loss.read_loss([newest])]
    assert found == [("column", "score"), ("table", "extra"), ("rows", "orders")]
    assert loss.surely_one_transaction([newest])


async def test_a_way_down_that_does_nothing_is_told_apart(place: Place) -> None:
    place.project(back())
    history = await place.tool().read()
    assert history.revisions[0].downgrade == "empty"
    with pytest.raises(Refusal) as refused:
        route.route(place.revision(4), history)
    assert refused.value.code == "empty_downgrade"


async def test_a_database_at_no_revision_is_no_error(place: Place) -> None:
    place.project()
    place.sql(f"DELETE FROM {place.kit.versions()}")
    assert (await place.tool().read()).current == ()


async def test_a_missing_version_table_is_refused(place: Place) -> None:
    place.project()
    place.sql(f"DROP TABLE {place.kit.versions()}")
    with pytest.raises(Refusal) as refused:
        await place.tool().read()
    assert refused.value.code == "version_table_missing"


async def test_a_folder_that_is_not_there_is_refused_by_name(place: Place) -> None:
    with pytest.raises(Refusal) as refused:
        await place.tool(directory=Path("/nowhere/shop")).read()
    assert refused.value.code == "tool_missing"
    assert "/nowhere/shop" in refused.value.message
    assert refused.value.next


# ------------------------------------------------------------------ downgrading once


async def test_exactly_what_was_planned_is_undone(place: Place) -> None:
    place.project()
    facts = await place.downgrade()
    assert (await place.stands(), place.columns()) == (place.revision(4), COLUMNS[4])
    assert facts["revisions"] == [place.revision(5)]
    assert (facts["transactions"], facts["one_transaction"], facts["connections"]) == (1, True, 1)


async def test_several_are_undone_newest_first_in_one_transaction(place: Place) -> None:
    place.project()
    facts = await place.downgrade(2)
    assert facts["revisions"] == [place.revision(number) for number in (5, 4, 3)]
    assert (facts["transactions"], facts["one_transaction"]) == (1, True)
    assert await place.stands() == place.revision(2)
    assert place.sql("SELECT to_regclass('customers'), to_regclass('ix_name')") == [(None, None)]


async def test_everything_is_undone_to_base(place: Place) -> None:
    place.project()
    await place.downgrade(0)
    assert await place.stands() == "base"
    assert place.columns() == ()


async def test_the_facts_have_one_shape(place: Place) -> None:
    place.project(back("UPDATE orders SET name = 'x' WHERE id <= 7", "ALTER TABLE orders DROP COLUMN score"))
    facts = await place.downgrade()
    assert set(facts) == FACTS
    first, second = facts["statements"][:2]
    assert set(first) == {"sql", "ms", "rows", "revision", "lock", "table", "held"}
    assert (first["sql"].split()[0], first["rows"], first["revision"]) == ("UPDATE", 7, place.revision(5))
    assert (second["sql"].split()[:2], first["ms"] >= 0, second["ms"] >= 0) == (["ALTER", "TABLE"], True, True)
    assert facts["statements_total"] == len(facts["statements"]) > 2
    json.dumps(facts)


async def test_on_a_copy_the_locks_are_measured(place: Place) -> None:
    place.project(back("SELECT pg_sleep(0.05)", "ALTER TABLE orders DROP COLUMN score", "SELECT pg_sleep(0.05)"))
    facts = await place.downgrade(rehearsing=True)
    [held] = facts["locks"]
    assert (held["table"], held["mode"]) == ("public.orders", "AccessExclusiveLock")
    assert held["held"] >= 50  # ms, for which it slept with the lock
    [altered] = [one for one in facts["statements"] if one["sql"].startswith("ALTER")]
    assert (altered["lock"], altered["table"]) == ("AccessExclusiveLock", "public.orders")


async def test_what_can_not_be_in_a_transaction_is_not_called_one(place: Place) -> None:
    place.project(back("ALTER TABLE orders DROP COLUMN score", outside=("DROP INDEX CONCURRENTLY ix_name",)))
    facts = await place.downgrade()
    assert not (facts["one_transaction"] and facts["transactions"] <= 1)
    assert await place.stands() == place.revision(4)
    assert place.sql("SELECT to_regclass('ix_name')") == [(None,)]


async def test_the_bounds_hold_where_the_work_is_done(place: Place) -> None:
    names = ("lock_timeout", "statement_timeout", "application_name", "client_connection_check_interval")
    seen = ", ".join(f"current_setting('{name}') AS {name}" for name in names)
    place.project(back(f"CREATE TABLE seen AS SELECT {seen}, session_user::text AS who", "ALTER TABLE orders DROP COLUMN score"))
    await place.downgrade(lock_timeout="7s")
    assert place.sql(f"SELECT {', '.join(names)}, who FROM seen") == [("7s", "15min", "backout/r1/downgrade/1", "1s", place.own.user)]


async def test_no_password_is_in_what_is_kept(place: Place) -> None:
    place.project(back(f"SELECT '{place.own.password}'", "ALTER TABLE orders DROP COLUMN score"))
    facts = await place.downgrade()
    assert "***" in facts["statements"][0]["sql"]
    assert place.own.password not in json.dumps(facts)


async def test_what_the_server_says_is_kept_without_the_password(place: Place) -> None:
    if not place.kit.hears_notices:
        return
    place.project(back(f"DO $$ BEGIN RAISE NOTICE 'hello {place.own.password}'; END $$", "ALTER TABLE orders DROP COLUMN score"))
    assert (await place.downgrade())["output"] == "NOTICE: hello ***"


# ------------------------------------------------------------------ the gate


async def refused(place: Place, doing: Doing, match: str, *, to: int = 4, **options: Any) -> StepFailed:
    """It would not, and nothing was executed."""
    with pytest.raises(StepFailed, match=match) as failed:
        await place.tool(**options).downgrade(place.revision(to), doing)
    assert not isinstance(failed.value, OutcomeUnknown)
    assert "Nothing was executed" in failed.value.message
    return failed.value


async def test_another_database_is_refused_before_the_first_statement(place: Place, make_database: MakeDatabase) -> None:
    place.project()
    doing = Doing(await place.plan())
    other = Place(place.kit, make_database("other"), place.server, place.directory)
    other.sql(*(statement for one in HISTORY.values() for statement in one.up), *place.kit.seeds(5))
    led = Led(target="shop", tool=other.own, admin=place.server)
    led.meant = place.database
    await refused(place, doing, "another database", database=led)
    await other.untouched()
    await place.untouched()


async def test_a_twin_of_the_same_attempt_is_refused(place: Place) -> None:
    place.project()
    doing = Doing(await place.plan())
    async with session(place.own) as twin:
        await twin.execute("SELECT pg_advisory_lock($1::int4, $2::int4)", *fence_of(doing))
        await refused(place, doing, f"Another process \\({twin.get_server_pid()}\\)")
    await place.untouched()


async def test_an_attempt_that_is_not_the_current_one_executes_nothing(place: Place) -> None:
    place.project()
    doing = Doing(await place.plan(), current=False)
    await refused(place, doing, "not the current one")
    assert doing.remembered["backend"] > 0
    await place.untouched()


async def test_a_revision_that_moved_is_refused(place: Place) -> None:
    place.project()
    doing = Doing(await place.plan())
    await place.tool().downgrade(place.revision(4), doing)
    await refused(place, Doing(doing.plan, attempt=2), f"stands at {place.revision(4)}")
    assert (await place.stands(), place.columns()) == (place.revision(4), COLUMNS[4])


async def test_a_script_that_changed_since_the_plan_is_refused(place: Place) -> None:
    place.project()
    doing = Doing(await place.plan())
    file = place.kit.file(place.directory, 5)
    comment = "#" if file.suffix == ".py" else "--"
    file.write_text(file.read_text() + f"{comment} one more line\n")
    await refused(place, doing, "scripts changed since the plan")
    await place.untouched()


async def test_revisions_that_were_not_planned_are_refused(place: Place) -> None:
    place.project()
    await refused(place, Doing(await place.plan(4)), "not what was planned", to=3)
    await place.untouched()


# ------------------------------------------------------------------ bad ends


async def test_a_failure_half_way_takes_everything_back_and_says_where(place: Place) -> None:
    place.project(back("ALTER TABLE orders DROP COLUMN score", "SELECT 1/0"))
    doing = Doing(await place.plan())
    with pytest.raises(StepFailed, match="Its one transaction was rolled back") as failed:
        await place.tool().downgrade(place.revision(4), doing)
    error = failed.value.facts["error"]
    assert not isinstance(failed.value, OutcomeUnknown)
    assert set(error) == {"message", "type", "sqlstate", "where", "revision", "trace"}
    assert (error["sqlstate"], error["revision"], error["message"]) == ("22012", place.revision(5), "division by zero")
    assert set(failed.value.facts) == FACTS | {"error"}
    await place.untouched()


async def test_a_failure_after_a_commit_says_what_stays(place: Place) -> None:
    place.project(back("ALTER TABLE orders DROP COLUMN score", outside=("DROP INDEX CONCURRENTLY not_there",)))
    doing = Doing(await place.plan())
    with pytest.raises(StepFailed, match=r"Not all of it was in one transaction: \d had been committed, no revision was undone") as failed:
        await place.tool().downgrade(place.revision(4), doing)
    assert not isinstance(failed.value, OutcomeUnknown)
    assert (await place.stands(), place.columns()) == (place.revision(5), COLUMNS[4])


async def test_a_lock_timeout_names_who_held_the_lock(place: Place) -> None:
    place.project()
    doing = Doing(await place.plan())
    async with session(place.server, place.own.database, "nightly report") as blocker:
        await blocker.execute("BEGIN; LOCK TABLE orders IN ACCESS SHARE MODE")
        with pytest.raises(StepFailed, match=r"waited 2 s for session.*nightly report") as failed:
            await place.tool(lock_timeout="2s").downgrade(place.revision(4), doing)
    assert not isinstance(failed.value, OutcomeUnknown)
    assert failed.value.facts["error"]["sqlstate"] == "55P03"
    assert any("nightly report" in text for text in doing.told)
    await place.untouched()


async def test_a_terminated_session_is_an_unknown_end(place: Place) -> None:
    place.project(back("ALTER TABLE orders DROP COLUMN score", "SELECT pg_sleep(60)"))
    doing = Doing(await place.plan())
    work = asyncio.create_task(caught(place, doing))
    await until(lambda: sleeping(place), during=work)
    await place.database.end_sessions(doing.application)
    assert isinstance(await work, OutcomeUnknown)
    await place.untouched()


async def test_a_deadline_ends_the_work_in_the_server(place: Place) -> None:
    place.project(back("SELECT pg_sleep(60)"))
    doing = Doing(await place.plan())
    with pytest.raises(OutcomeUnknown, match="did not end within 10 s"):
        await place.tool(deadline="10s").downgrade(place.revision(4), doing)
    assert await place.database.sessions(doing.application) == ()


async def test_a_cancellation_ends_the_work_in_the_server(place: Place) -> None:
    place.project(back("SELECT pg_sleep(60)"))
    doing = Doing(await place.plan())
    work = asyncio.create_task(place.tool().downgrade(place.revision(4), doing))
    await until(lambda: sleeping(place), during=work)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert await place.database.sessions(doing.application) == ()


# ------------------------------------------------------------------ forward


async def test_an_empty_database_is_built_from_nothing_and_stops_where_it_was_told(empty: Place) -> None:
    empty.project()
    empty_plan = made(History(revisions=(), heads=(), bases=(), current=()), "base", empty.revision(2), undone=())
    facts = dict(await empty.tool(copy=True).upgrade(empty.revision(2), Doing(empty_plan, rehearsing=True), from_=(), scripts=None))
    assert (await empty.stands(), empty.columns()) == (empty.revision(2), COLUMNS[2])
    assert facts["revisions"] == [empty.revision(1), empty.revision(2)]
    assert set(facts) == FACTS
    again = Doing(empty_plan, rehearsing=True, attempt=2)
    await empty.tool(copy=True).upgrade(empty.revision(5), again, from_=(empty.revision(2),), scripts=None)
    await empty.untouched()


async def test_down_and_up_again_leads_back(place: Place) -> None:
    place.project()
    plan = await place.plan(3)
    await place.tool().downgrade(place.revision(3), Doing(plan))
    history = await place.tool().read()
    from_, to, applied = route.forward("head", history)
    scripts = {one.revision: one.sha256 for one in applied}
    assert scripts == {one.revision: one.sha256 for one in plan.undone}
    forward = made(history, from_, to, undone=route.undone_of(applied), strategy="reapply")
    facts = await place.tool().upgrade(to, Doing(forward, step="upgrade"), from_=(from_,), scripts=scripts)
    assert facts["revisions"] == [place.revision(4), place.revision(5)]
    await place.untouched()
    assert place.sql("SELECT to_regclass('customers')::text") == [("customers",)]


async def test_a_script_that_changed_is_not_run_forward(place: Place) -> None:
    place.project()
    plan = await place.plan()
    await place.tool().downgrade(place.revision(4), Doing(plan))
    planned = {one.revision: one.sha256 for one in plan.undone}
    with pytest.raises(StepFailed, match=r"scripts changed since the plan.*Nothing was executed"):
        await place.tool().upgrade(place.revision(5), Doing(plan, attempt=2), from_=(place.revision(4),), scripts=dict.fromkeys(planned, "0" * 64))
    assert (await place.stands(), place.columns()) == (place.revision(4), COLUMNS[4])


@pytest.mark.parametrize("number", [3, None])
async def test_forward_begins_where_it_was_planned_to_begin(place: Place, number: int | None) -> None:
    place.project()
    plan = await place.plan()
    with pytest.raises(StepFailed, match="Nothing was executed"):
        await place.tool().upgrade(
            place.revision(5), Doing(plan), from_=(place.revision(number),) if number else (), scripts={place.revision(5): plan.undone[0].sha256}
        )
    await place.untouched()


# ------------------------------------------------------------------ small parts


async def caught(place: Place, doing: Doing) -> BaseException | None:
    try:
        await place.tool().downgrade(place.revision(4), doing)
    except StepFailed as error:
        return error
    return None


async def sleeping(place: Place) -> bool:
    async with session(place.server) as looking:
        query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND usename = $1"
        return bool(await looking.fetchval(query, place.own.user))


@asynccontextmanager
async def session(connect: Connect, database: str | None = None, name: str = "the test") -> AsyncIterator[Any]:
    url = connect.model_copy(update={"database": database or connect.database}).url()
    opened = await asyncpg.connect(url, server_settings={"application_name": name})
    try:
        yield opened
    finally:
        await opened.close()
