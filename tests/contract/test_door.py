"""The door of a database: who is out, who is in, and how everything is afterwards (databases.md F8)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest

from bot.databases import door
from bot.databases.connecting import quoted
from bot.errors import OutcomeUnknown, Refusal, StepFailed
from bot.place import Connect
from bot.platforms import PLATFORMS
from bot.platforms.database import DatabasePlatform
from bot.platforms.none import NoPlatform
from tests.contract.places import Place, place
from tests.contract.servers import Line, execute, session

RUN = "01-run"
WRITE = "INSERT INTO t VALUES (2) ON CONFLICT DO NOTHING"


class Notebook:
    """The journal's side: what is remembered of a run, as JSON."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self.times = 0

    async def remember(self, **facts: Any) -> None:
        self.facts = facts
        self.times += 1


@pytest.fixture
def shop(of_any_kind: Place) -> Place:
    return of_any_kind


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


async def close(at: Place, notebook: Notebook, *roles: str) -> dict[str, Any]:
    return dict(await at.door.close(RUN, notebook.facts, notebook.remember, roles))


async def keys(at: Place) -> list[str]:
    async with session(at.superuser) as asking:
        return [row[0] for row in await asking.fetch("SELECT rolname FROM pg_roles WHERE rolname LIKE 'backout\\_%'")]


async def is_out(connect: Connect) -> bool:
    try:
        await execute(connect, "SELECT 1")
    except (asyncpg.InsufficientPrivilegeError, asyncpg.InvalidAuthorizationSpecificationError):
        return True
    return False


# ------------------------------------------------------------------ closed


async def test_nobody_but_backout_gets_in_and_sessions_that_were_in_are_ended(shop: Place, notebook: Notebook) -> None:
    other = await shop.another("night job", f"IN ROLE {quoted(shop.app.user)}")
    stranger = await shop.another("stranger")
    async with session(shop.app) as writing, session(other) as group, session(stranger):
        await writing.execute(WRITE)
        facts = await close(shop, notebook)

        for ended in (writing, group):
            with pytest.raises((asyncpg.AdminShutdownError, asyncpg.ConnectionDoesNotExistError, asyncpg.InterfaceError)):
                await ended.execute(WRITE)
    assert [await is_out(one) for one in (shop.app, other, stranger)] == [True, True, True]
    assert not await is_out(shop.backout.model_copy(update={"database": shop.app.database}))
    assert facts["says"] == f"the door of {shop.app.database} is closed: 2 grantees lost CONNECT, 3 sessions ended"
    await shop.door.prove(RUN)


async def test_a_comment_that_reads_like_backouts_own_keeps_no_door_closed(plain: Place, notebook: Notebook) -> None:
    name = plain.app.database
    await execute(plain.superuser, f"COMMENT ON DATABASE {quoted(name)} IS 'Backout: rolls this one back'")
    await close(plain, notebook)
    assert await is_out(plain.app)
    facts = await plain.door.open(RUN, notebook.facts)
    assert facts["opened"]
    assert not await is_out(plain.app)


async def test_clients_that_reconnect_stay_out_and_are_back_after_opening(plain: Place, notebook: Notebook) -> None:
    came, refusals = asyncio.Queue[bool](), 0
    stop = asyncio.Event()

    async def client() -> None:
        nonlocal refusals
        while not stop.is_set():
            try:
                await execute(plain.app, "SELECT 1")
                came.put_nowait(True)
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                refusals += 1

    clients = [asyncio.create_task(client()) for _ in range(4)]
    try:
        async with asyncio.timeout(60):
            await came.get()
            await close(plain, notebook)
            while not came.empty():
                came.get_nowait()
            seen = refusals
            while refusals < seen + 20:
                await plain.door.prove(RUN)
            assert came.empty()
            await plain.door.open(RUN, notebook.facts)
            await came.get()
    finally:
        stop.set()
        await asyncio.gather(*clients)


async def test_a_connection_that_was_let_in_but_is_not_listed_yet_does_not_stay(shop: Place, notebook: Notebook) -> None:
    """It looked at the rights before they were taken, and is asleep on its way in."""
    coming = asyncio.create_task(asyncpg.connect(shop.app.url(), server_settings={"post_auth_delay": "4"}))
    async with session(shop.superuser) as asking, asyncio.timeout(60):
        lock = "SELECT count(*) FROM pg_locks WHERE locktype = 'object' AND classid = 'pg_database'::regclass AND objid = $1 AND pid <> $2"
        oid = await asking.fetchval("SELECT oid FROM pg_database WHERE datname = $1", shop.app.database)
        while not await asking.fetchval(lock, oid, asking.get_server_pid()):  # noqa: ASYNC110  the other connection makes it true
            await asyncio.sleep(0.01)
    await close(shop, notebook)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):  # noqa: PT012  either is right: it was ended on its way, or after
        came = await coming
        await came.execute(WRITE)
    await shop.door.prove(RUN)


async def test_the_runs_role_becomes_the_applications_with_its_settings_and_owns_nothing(shop: Place, notebook: Notebook) -> None:
    await shop.do(
        f"ALTER ROLE {quoted(shop.app.user)} SET search_path = 'My schema', \"$user\", public",
        f"ALTER ROLE {quoted(shop.app.user)} IN DATABASE {shop.name} SET statement_timeout = '17s'",
        f"ALTER ROLE {quoted(shop.app.user)} SET statement_timeout = '3s'",
        f"ALTER ROLE {quoted(shop.app.user)} SET \"shop.tenant\" = 'O''Hara \\ %s'",
    )
    facts = await close(shop, notebook)
    refused = "the run's role was not given shop.tenant" in facts["says"]  # a name that no extension knows, set by an ordinary role
    assert refused == ("permission denied" in facts["says"])
    entrance = await shop.door.entrance(RUN)
    assert entrance is not None
    async with session(entrance) as inside:
        await inside.execute("CREATE TABLE made (id int)")
        await inside.execute("RESET ROLE")
        await inside.execute("CREATE TABLE made_too (id int)")
        said = await inside.fetchrow(
            "SELECT session_user, current_user, current_setting('search_path'), current_setting('statement_timeout'), "
            "current_setting('shop.tenant', true)"
        )
        owners = await inside.fetch("SELECT DISTINCT tableowner FROM pg_tables WHERE tablename LIKE 'made%'")
        assert said is not None
    assert tuple(said) == (entrance.user, shop.app.user, '"My schema", "$user", public', "17s", None if refused else "O'Hara \\ %s")
    assert [row[0] for row in owners] == [shop.app.user]
    assert re.fullmatch(r"backout_01run_[0-9a-f]{8}", entrance.user)


async def test_the_role_that_the_application_is_set_to_become_is_the_runs_too(plain: Place, notebook: Notebook) -> None:
    await plain.do(
        f'CREATE ROLE "ddl owner" ROLE {quoted(plain.app.user)}, {plain.me}',
        f"ALTER ROLE {quoted(plain.app.user)} SET role = 'ddl owner'",
    )
    plain.roles.append("ddl owner")
    refusals = await plain.door.ready(())
    if refusals:  # since 16 a membership is not enough to hand it out
        assert 'GRANT "ddl owner" TO' in refusals[0].next
        await plain.do(f'GRANT "ddl owner" TO {plain.me} WITH ADMIN OPTION')
    await close(plain, notebook)
    async with session(await entered(plain)) as inside:
        assert await inside.fetchval("SELECT current_user") == "ddl owner"


async def entered(at: Place) -> Connect:
    found = await at.door.entrance(RUN)
    assert found is not None
    return found


async def test_a_new_entrance_makes_the_former_password_useless_and_none_is_kept(plain: Place, notebook: Notebook) -> None:
    await close(plain, notebook)
    first = await entered(plain)
    second = await entered(plain)
    assert first.user == second.user
    with pytest.raises(asyncpg.InvalidPasswordError):
        await execute(first, "SELECT 1")
    await execute(second, "SELECT 1")
    assert second.password not in str(notebook.facts)
    assert str(await plain.value("SELECT rolpassword FROM pg_authid WHERE rolname = $1", second.user)).startswith("SCRAM-SHA-256$4096:")


async def test_backouts_own_role_may_have_been_let_in_by_somebody_whose_right_is_taken(plain: Place, notebook: Notebook) -> None:
    """The revoke cascades: what Backout enters by must not hang on it."""
    middle = await plain.another("middle")
    await plain.do(f"GRANT CONNECT ON DATABASE {plain.name} TO middle WITH GRANT OPTION", f"GRANT middle TO {plain.me}")
    await execute(middle.model_copy(update={"database": "postgres"}), f"GRANT CONNECT ON DATABASE {plain.name} TO {plain.me}")
    before = await plain.acl()
    await close(plain, notebook)
    await plain.door.prove(RUN)
    await plain.door.open(RUN, notebook.facts)
    assert await plain.acl() == before


# ------------------------------------------------------------------ proof


@asynccontextmanager
async def closed(at: Place, notebook: Notebook) -> AsyncIterator[Place]:
    await close(at, notebook)
    yield at


async def test_proof_fails_when_somebody_is_in_and_names_them(plain: Place, notebook: Notebook) -> None:
    async with (
        closed(plain, notebook),
        session(plain.superuser.model_copy(update={"database": plain.app.database}), application_name="backout/x") as boss,
    ):
        with pytest.raises(StepFailed, match=f"session {boss.get_server_pid()} .{plain.superuser.user}, backout/x, state not visible") as caught:
            await plain.door.prove(RUN)
        assert caught.value.facts["inside_total"] == 1


async def test_a_person_who_entered_by_backouts_role_is_not_backout(plain: Place, notebook: Notebook) -> None:
    own = plain.backout.model_copy(update={"database": plain.app.database})
    await close(plain, notebook)
    async with session(own, application_name="backout/01-run/downgrade/1"):
        await plain.door.prove(RUN)
    async with session(own, application_name="psql"):
        with pytest.raises(StepFailed, match="psql"):
            await plain.door.prove(RUN)


async def test_no_more_than_ten_are_named(eighteen: Connect, plain: Place, notebook: Notebook) -> None:
    await close(plain, notebook)
    boss = eighteen.model_copy(update={"database": plain.app.database})
    opened = await asyncio.gather(*(asyncpg.connect(boss.url()) for _ in range(12)))
    with pytest.raises(StepFailed, match="and 2 more") as caught:
        await plain.door.prove(RUN)
    assert len(caught.value.facts["inside"]) == 10
    await asyncio.gather(*(one.close() for one in opened))


async def test_proof_fails_when_a_right_came_back(plain: Place, notebook: Notebook) -> None:
    await close(plain, notebook)
    await plain.do(f"GRANT CONNECT ON DATABASE {plain.name} TO PUBLIC")
    with pytest.raises(StepFailed, match="could still connect"):
        await plain.door.prove(RUN)


async def test_proof_fails_on_a_prepared_transaction_and_names_it(plain: Place, notebook: Notebook) -> None:
    async with session(plain.app) as writing:
        await writing.execute("BEGIN; INSERT INTO t VALUES (7); PREPARE TRANSACTION 'order 7'")
    assert [(one.code, one.warning) for one in await plain.door.ready(())] == [("prepared_transactions", True)]
    with pytest.raises(StepFailed, match="order 7"):
        await close(plain, notebook)
    await execute(plain.superuser.model_copy(update={"database": plain.app.database}), "ROLLBACK PREPARED 'order 7'")
    await close(plain, notebook)
    await plain.door.prove(RUN)


async def test_a_door_that_is_open_or_another_runs_proves_nothing(plain: Place, notebook: Notebook) -> None:
    with pytest.raises(StepFailed, match="not closed by this run"):
        await plain.door.prove(RUN)
    await close(plain, notebook)
    with pytest.raises(StepFailed, match="not closed by this run"):
        await plain.door.prove("another run")
    assert await plain.door.entrance("another run") is None


# ------------------------------------------------------------------ to the letter


async def acl_of(at: Place, *statements: str) -> str | None:
    await at.do(*statements)
    return await at.acl()


@pytest.mark.parametrize(
    "rights",
    [
        (),
        ("GRANT CONNECT ON DATABASE {db} TO {a}", "GRANT CREATE ON DATABASE {db} TO {b} WITH GRANT OPTION"),
        ("REVOKE ALL ON DATABASE {db} FROM PUBLIC",),
        ("REVOKE CONNECT ON DATABASE {db} FROM PUBLIC", "GRANT CONNECT, TEMP ON DATABASE {db} TO {b}", "GRANT CONNECT ON DATABASE {db} TO {app}"),
        (
            "REVOKE ALL ON DATABASE {db} FROM PUBLIC, {app}",
            "GRANT CONNECT ON DATABASE {db} TO {b} WITH GRANT OPTION",
            "GRANT ALL ON DATABASE {db} TO {a}",
        ),
        ("GRANT CONNECT ON DATABASE {db} TO {b} WITH GRANT OPTION", "SET ROLE {b}", "GRANT CONNECT ON DATABASE {db} TO {a}, PUBLIC", "RESET ROLE"),
        ("GRANT CONNECT ON DATABASE {db} TO {me} WITH GRANT OPTION", "REVOKE TEMP ON DATABASE {db} FROM PUBLIC"),
        ("REVOKE ALL ON DATABASE {db} FROM PUBLIC, {app}",),
    ],
    ids=["never granted", "granted", "public revoked", "order", "owner revoked", "granted by a grantee", "backout named", "nobody"],
)
async def test_the_rights_are_given_back_to_the_letter(shop: Place, notebook: Notebook, rights: tuple[str, ...]) -> None:
    first, second = 'a "quoted", role', "Mixed/Case=x"
    await shop.another(first)
    await shop.another(second)
    await shop.do(f"GRANT {quoted(second)} TO {shop.me}")
    words = {"db": shop.name, "app": quoted(shop.app.user), "me": shop.me, "a": quoted(first), "b": quoted(second)}
    before = await acl_of(shop, *(one.format(**words) for one in rights))
    await close(shop, notebook)
    assert await shop.acl() != before
    facts = await shop.door.open(RUN, notebook.facts)

    after = await shop.acl()
    if before is None and facts["notes"]:
        assert facts["notes"] == ["the rights are the same as before, now spelled out"]
        same = "SELECT acldefault('d', datdba)::text FROM pg_database WHERE datname = $1"
        before = str(await shop.value(same, shop.app.database))
    assert after == before
    assert await keys(shop) == []
    depends = "SELECT count(*) FROM pg_shdepend s WHERE s.deptype = 'a' AND s.classid = 'pg_database'::regclass AND s.objid = (SELECT oid FROM pg_database WHERE datname = $1)"  # noqa: E501
    held = "SELECT count(DISTINCT a.grantee) FROM pg_database d, aclexplode(d.datacl) a WHERE d.datname = $1 AND a.grantee NOT IN (0, d.datdba)"
    assert await shop.value(depends, shop.app.database) == await shop.value(held, shop.app.database)


async def test_a_superuser_leaves_a_database_that_never_had_rights_as_it_was(eighteen: Connect, notebook: Notebook) -> None:
    async with place(eighteen, is_superuser=True) as shop:
        await close(shop, notebook)
        await shop.door.open(RUN, notebook.facts)
        assert await shop.acl() is None


async def test_a_renamed_role_gets_its_right_back_and_a_dropped_one_is_named(plain: Place, notebook: Notebook) -> None:
    for name in ("old name", "passing"):
        await plain.another(name)
        await plain.do(f"GRANT CONNECT ON DATABASE {plain.name} TO {quoted(name)}")
    await close(plain, notebook)
    await plain.do('ALTER ROLE "old name" RENAME TO "new name"', "DROP ROLE passing")
    plain.roles[:] = ["new name"]
    facts = await plain.door.open(RUN, notebook.facts)
    assert "a role that had CONNECT is gone" in facts["says"]
    assert '\\"new name\\"=c/' in str(await plain.acl())
    assert await keys(plain) == []


async def test_what_a_third_role_granted_is_the_owners_when_that_role_can_not_grant_any_more(plain: Place, notebook: Notebook) -> None:
    await plain.another("middle")
    last = await plain.another("last")
    await plain.do(f"GRANT middle TO {plain.me}", f"REVOKE CONNECT ON DATABASE {plain.name} FROM PUBLIC")
    await plain.do(
        f"GRANT CONNECT ON DATABASE {plain.name} TO middle WITH GRANT OPTION", "SET ROLE middle", f"GRANT CONNECT ON DATABASE {plain.name} TO last"
    )
    await close(plain, notebook)
    await plain.do("DROP ROLE middle")
    plain.roles.remove("middle")
    facts = await plain.door.open(RUN, notebook.facts)
    assert "now granted by the owner" in facts["says"]
    assert not await is_out(last)


async def test_a_right_that_can_not_be_given_back_leaves_the_door_closed_and_says_what_to_run(plain: Place, notebook: Notebook) -> None:
    await close(plain, notebook)
    await plain.do(f"REVOKE {quoted(plain.app.user)} FROM {plain.me} CASCADE")
    with pytest.raises(StepFailed):
        await plain.door.open(RUN, notebook.facts)
    assert await is_out(plain.app)
    await plain.do(f"GRANT {quoted(plain.app.user)} TO {plain.me} WITH ADMIN OPTION")
    await plain.door.open(RUN, notebook.facts)
    assert not await is_out(plain.app)


# ------------------------------------------------------------------ roles


async def test_a_named_role_loses_its_login_and_gets_it_back_while_another_never_had_one(shop: Place, notebook: Notebook) -> None:
    await shop.another("job")
    await shop.do("CREATE ROLE group_role NOLOGIN", f"GRANT job, group_role TO {shop.me} WITH ADMIN OPTION")
    shop.roles.append("group_role")
    await close(shop, notebook, "job", "group_role", shop.app.user)
    logins = "SELECT array_agg(rolname::text ORDER BY rolname) FROM pg_roles WHERE rolcanlogin AND rolname = ANY ($1)"
    named = ["job", "group_role", shop.app.user]
    assert await shop.value(logins, named) is None
    async with session(await entered(shop)) as inside:
        assert await inside.fetchval("SELECT current_user") == shop.app.user
    await shop.door.open(RUN, notebook.facts)
    assert await shop.value(logins, named) == sorted(["job", shop.app.user])


async def test_a_named_role_that_works_in_another_database_keeps_its_login(plain: Place, notebook: Notebook) -> None:
    job = await plain.another("job")
    await plain.do(f"GRANT job TO {plain.me} WITH ADMIN OPTION")
    async with session(job.model_copy(update={"database": "postgres"})) as elsewhere:
        assert [(one.code, one.warning) for one in await plain.door.ready(("job",))] == [("door_roles", True)]
        facts = await close(plain, notebook, "job")
        assert "job keeps its login" in facts["says"]
        assert await elsewhere.fetchval("SELECT 1") == 1
        assert await is_out(job)
        await execute(job.model_copy(update={"database": "postgres"}), "SELECT 1")


# ------------------------------------------------------------------ refused


async def codes(at: Place, *roles: str) -> list[tuple[str, str]]:
    """Of what is in the way, with what to do; nothing may have changed by asking."""
    before = await at.acl()
    found = await at.door.ready(roles)
    assert await at.acl() == before
    assert await keys(at) == []
    return [(one.code, one.next) for one in found if not one.warning]


async def test_it_is_ready_with_the_few_rights_that_it_needs_and_trying_leaves_nothing(shop: Place) -> None:
    assert await codes(shop) == []


async def test_it_is_refused_where_backout_would_lock_itself_out(plain: Place, notebook: Notebook) -> None:
    same = door.Door(plain.app.model_copy(update={"database": "postgres"}), plain.app)
    assert [one.code for one in await same.ready(())][:1] == ["door_locks_out"]
    with pytest.raises(StepFailed, match="would be shut out too"):
        await same.close(RUN, {}, notebook.remember, ())
    assert [code for code, _ in await codes(plain, plain.backout.user)][:1] == ["door_locks_out"]
    assert notebook.times == 0
    assert not await is_out(plain.app)


async def test_it_is_refused_where_the_application_is_a_superuser(plain: Place) -> None:
    await plain.do(f"ALTER ROLE {quoted(plain.app.user)} SUPERUSER")
    assert ("door_leaks", f"Give the application a role without SUPERUSER, or: ALTER ROLE {quoted(plain.app.user)} NOSUPERUSER;") in await codes(
        plain
    )


async def test_it_is_refused_where_a_member_of_backouts_role_would_get_in(shop: Place) -> None:
    await shop.another("colleague", f"IN ROLE {shop.me}")
    found = await shop.door.ready(())
    assert [one.code for one in found] == ["door_leaks"]
    assert "colleague" in found[0].message


async def test_a_superuser_who_is_in_is_warned_of(plain: Place) -> None:
    async with session(plain.superuser.model_copy(update={"database": plain.app.database})):
        found = await plain.door.ready(())
    assert [(one.code, one.warning) for one in found] == [("door_leaks", True)]
    assert plain.superuser.user in found[0].message


async def test_every_right_that_is_missing_is_named_as_sql_that_then_helps(plain: Place, notebook: Notebook) -> None:
    await plain.do(
        f"REVOKE {quoted(plain.app.user)} FROM {plain.me} CASCADE", f"REVOKE pg_signal_backend FROM {plain.me}", f"ALTER ROLE {plain.me} NOCREATEROLE"
    )
    await plain.another("middle")
    await plain.do(
        f"GRANT CONNECT ON DATABASE {plain.name} TO middle WITH GRANT OPTION", "SET ROLE middle", f"GRANT CONNECT ON DATABASE {plain.name} TO PUBLIC"
    )
    [(code, told)] = await codes(plain)
    assert code == "door_not_ours"
    await plain.do(*re.findall(r"(?:GRANT|ALTER)[^;]*;", told))
    assert await codes(plain) == []
    await close(plain, notebook)


async def test_a_role_that_is_named_but_not_there_is_refused(plain: Place) -> None:
    assert [code for code, _ in await codes(plain, "typo")] == ["door_roles"]


async def test_a_superusers_login_can_not_be_taken_by_an_ordinary_role(plain: Place) -> None:
    assert [code for code, _ in await codes(plain, plain.superuser.user)] == ["door_roles"]


async def test_another_runs_closed_door_is_refused_and_never_taken_for_how_it_was(plain: Place, notebook: Notebook) -> None:
    await close(plain, notebook)
    other = Notebook()
    assert [one.code for one in await plain.door.ready(())] == ["door_closed"]
    with pytest.raises(StepFailed, match=RUN):
        await plain.door.close("02-run", other.facts, other.remember, ())
    with pytest.raises(StepFailed, match=RUN):
        await plain.door.close(RUN, {}, other.remember, ())
    assert other.times == 0


# ------------------------------------------------------------------ dying in between, and twice


class Died(Exception):
    """As if by kill -9: nothing after it runs."""


async def test_who_dies_while_remembering_has_closed_nothing(plain: Place, notebook: Notebook) -> None:
    async def dies(**_: Any) -> None:
        raise Died

    before = await plain.acl()
    with pytest.raises(Died):
        await plain.door.close(RUN, {}, dies, ())
    assert await plain.acl() == before
    assert await keys(plain) == []
    assert not await is_out(plain.app)
    assert (await plain.door.open(RUN, {}))["opened"] is False


@asynccontextmanager
async def breaking(at: Place, after: int) -> AsyncIterator[tuple[door.Door, Line]]:
    async with Line(at.superuser, after) as line:
        yield door.Door(at.maintenance.model_copy(update={"host": "127.0.0.1", "port": line.port}), at.app), line


async def with_a_job(at: Place) -> str | None:
    await at.another("job")
    return await acl_of(at, f"GRANT CONNECT ON DATABASE {at.name} TO job WITH GRANT OPTION", f"GRANT job TO {at.me} WITH ADMIN OPTION")


async def as_it_was(at: Place, before: str | None) -> None:
    assert (await at.acl(), await keys(at)) == (before, [])
    assert await at.value("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'job'")


async def test_who_dies_anywhere_in_closing_has_left_nothing_that_opening_does_not_undo(plain: Place) -> None:
    before = await with_a_job(plain)
    for after in range(4, 200, 5):
        notebook = Notebook()
        async with breaking(plain, after) as (through, line):
            with suppress(StepFailed, Refusal):
                await through.close(RUN, {}, notebook.remember, ("job",))
        if after % 2:  # the next attempt goes on
            await close(plain, notebook, "job")
            await plain.door.prove(RUN)
        await plain.door.open(RUN, notebook.facts)
        await as_it_was(plain, before)
        if not line.broke:
            break
    assert after > 20


async def test_who_dies_anywhere_in_opening_opens_the_next_time(plain: Place) -> None:
    before = await with_a_job(plain)
    for after in range(4, 200, 3):
        notebook = Notebook()
        await close(plain, notebook, "job")
        async with breaking(plain, after) as (through, line):
            with suppress(StepFailed, Refusal):
                await through.open(RUN, notebook.facts)
        await plain.door.open(RUN, notebook.facts)
        await as_it_was(plain, before)
        if not line.broke:
            break
    assert after > 20


async def test_closing_twice_remembers_how_it_was_before_the_first_time(plain: Place, notebook: Notebook) -> None:
    before = await plain.acl()
    await close(plain, notebook)
    first = dict(notebook.facts)
    await close(plain, notebook)
    assert (notebook.times, notebook.facts) == (2, first)
    assert len(await keys(plain)) == 1
    assert first["acl"]["text"] == before


async def test_a_closed_door_of_which_nothing_is_remembered_is_never_called_open(plain: Place, notebook: Notebook) -> None:
    await close(plain, notebook)
    with pytest.raises(StepFailed, match="closed already, by run 01-run"):
        await plain.door.open(RUN, {})
    assert (await plain.door.open("02-run", {}))["opened"] is False
    await plain.door.open(RUN, notebook.facts)
    assert not await is_out(plain.app)


async def test_opening_twice_leaves_alone_what_a_person_changed_since(plain: Place, notebook: Notebook) -> None:
    await plain.another("job")
    await plain.do(f"GRANT job TO {plain.me} WITH ADMIN OPTION")
    await close(plain, notebook, "job")
    await plain.door.open(RUN, notebook.facts)
    await plain.do(f"GRANT CONNECT ON DATABASE {plain.name} TO job", "ALTER ROLE job NOLOGIN")
    changed = await plain.acl()
    facts = await plain.door.open(RUN, notebook.facts)
    assert await plain.acl() == changed
    assert facts["notes"] == ["job has no login now, though it had"]


async def test_opening_ends_the_tools_sessions_and_nobody_enters_by_the_runs_role_again(plain: Place, notebook: Notebook) -> None:
    await close(plain, notebook)
    entrance = await entered(plain)
    async with session(entrance, application_name="backout/01-run/downgrade/1") as tool:
        await plain.door.prove(RUN)
        await plain.door.open(RUN, notebook.facts)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
            await tool.execute(WRITE)
    with pytest.raises(asyncpg.InvalidPasswordError):
        await execute(entrance, "SELECT 1")
    assert await plain.door.entrance(RUN) is None
    assert not await is_out(plain.app)


async def test_the_door_opens_even_when_a_migration_left_something_to_the_runs_role(shop: Place, notebook: Notebook) -> None:
    before = await shop.acl()
    await close(shop, notebook)
    entrance = await entered(shop)
    async with session(entrance) as inside:
        await inside.execute("SET ROLE NONE")
        await inside.execute("CREATE TABLE mine (id int)")
    facts = await shop.door.open(RUN, notebook.facts)
    assert f"the run's role {entrance.user} stays" in facts["says"]
    assert "1 object in database" in facts["says"]
    assert facts["opened"] is True
    assert not await is_out(shop.app)
    assert before is None or await shop.acl() == before
    assert await is_out(entrance)
    await close(shop, notebook)
    await shop.door.open(RUN, notebook.facts)


async def test_a_lost_connection_while_opening_is_unknown_not_failed(plain: Place, notebook: Notebook) -> None:
    await close(plain, notebook)
    async with breaking(plain, 12) as (through, _):
        with pytest.raises(OutcomeUnknown):
            await through.open(RUN, notebook.facts)


# ------------------------------------------------------------------ as a platform


class Work(SimpleNamespace):
    """The part of a step's work that a platform uses."""

    run: str
    stopped: dict[str, Any]

    async def remember(self, **facts: Any) -> None:
        self.stopped.update(facts)


async def test_the_platform_stops_proves_lets_the_tool_in_and_starts(shop: Place) -> None:
    platform = PLATFORMS["database"](DatabasePlatform.Settings(), shop.door)
    work = Work(run=RUN, stopped={})
    assert (platform.stops, await platform.ready()) == (True, ())
    assert await platform.entrance(work) is None
    assert "is closed" in (await platform.stop_writers(work))["says"]
    await platform.prove_stopped(work)
    assert await is_out(shop.app)
    tool = await platform.entrance(work)
    await execute(tool, WRITE)
    assert "is open again" in (await platform.start_writers(work))["says"]
    assert "is open" in (await platform.start_writers(work))["says"]
    assert not await is_out(shop.app)


async def test_the_platform_that_stops_nobody_says_so(plain: Place) -> None:
    platform = PLATFORMS["none"](NoPlatform.Settings(), plain.door)
    work = Work(run=RUN, stopped={})
    assert (platform.stops, await platform.ready(), await platform.entrance(work)) == (False, (), None)
    assert "nobody was stopped" in (await platform.stop_writers(work))["says"]
    await platform.prove_stopped(work)
    assert "nobody had been stopped" in (await platform.start_writers(work))["says"]
    assert not await is_out(plain.app)
