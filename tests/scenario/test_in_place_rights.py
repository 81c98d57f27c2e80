"""What a right would refuse after the drop is refused before it: when it is tried, and once more before anybody is stopped."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

import psycopg
import pytest

from bot.place import Connect
from tests.harness import Bot
from tests.scenario import parts
from tests.scenario.real import DOOR, MakeShop
from tests.scenario.real import make_shop as make_shop  # noqa: PLC0414  pytest finds the fixture here
from tests.scenario.test_in_place import ACL, ALL, WHY, beside, oid, on_server
from tests.scenario.test_strangers import mark as mark  # noqa: PLC0414  and here
from tests.scenario.test_strangers import put
from tests.scenario.test_tables import backed_up, hurt

PUBLIC = "SELECT nspacl::text FROM pg_namespace WHERE nspname = 'public'"
OWNERS = "SELECT tablename::text, tableowner::text FROM pg_tables WHERE schemaname IN ('kept', 'public') ORDER BY 1"
MakeRole = Callable[[str], str]


@pytest.fixture
def make_role(make_shop: MakeShop, server: Connect) -> Iterator[MakeRole]:  # after make_shop, so that what it owns goes first
    """`make_role("CREATEDB")`: a login by a name of its own, which is its password."""
    made: list[str] = []

    def make(attributes: str) -> str:
        made.append(f"role_{secrets.token_hex(4)}")
        on_server(server, f"CREATE ROLE {made[-1]} LOGIN PASSWORD '{made[-1]}' {attributes}")
        return made[-1]

    yield make
    with psycopg.connect(server.url(), autocommit=True) as session:
        for (database,) in session.execute("SELECT datname FROM pg_database WHERE datname LIKE 'real\\_%'").fetchall():
            with psycopg.connect(server.model_copy(update={"database": database}).url(), autocommit=True) as inside:
                inside.execute("SET default_transaction_read_only = off")  # one that was kept says otherwise
                for role in made:
                    inside.execute(f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP OWNED BY {role}")  # type: ignore[arg-type]
        for role in reversed(made):
            session.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")  # type: ignore[arg-type]


def inside(bot: Bot, server: Connect, *statements: str) -> None:
    for statement in statements:
        on_server(server.model_copy(update={"database": bot.target.database}), statement)


async def of_another(bot: Bot, server: Connect, keeper: str) -> None:
    """The database belongs to another role; the application may make things in public because somebody granted it."""
    on_server(server, f'ALTER DATABASE "{bot.target.database}" OWNER TO {keeper}')
    inside(bot, server, f'GRANT USAGE, CREATE ON SCHEMA public TO "{bot.target.user}"')


async def untouched(bot: Bot, server: Connect, was: int | None, rows: object) -> None:
    assert oid(bot, server) == was
    assert bot.query(ALL) == rows
    assert beside(bot, server) == []
    assert bot.journaled("select count(*) from backout.attempts where step = 'replace'") == [(0,)]


async def asks_without_touching(bot: Bot, server: Connect, was: int | None, rows: object) -> None:
    """check_preconditions says so; whoever leaves it leaves the database as it was."""
    card = await bot.card_in("needs_decision")
    assert "Nothing was dropped" in str(card)
    ((code,),) = bot.journaled("select facts->>'code' from backout.attempts where step = 'check_preconditions'")
    assert code == "in_place_rights"
    await untouched(bot, server, was, rows)
    await bot.slack.click(card, "leave", "U0DBA")
    await parts.ends(bot, "failed")
    await untouched(bot, server, was, rows)


async def test_a_strangers_copy_comes_back_where_the_application_owns_nothing_but_may_create(
    make_shop: MakeShop, make_role: MakeRole, server: Connect, mark: object
) -> None:
    bot = await make_shop(**DOOR)
    put(bot, mark)  # type: ignore[arg-type]
    keeper = make_role("")
    await of_another(bot, server, keeper)
    rows, public, acl, was = bot.query(ALL), bot.query(PUBLIC), bot.query(ACL), oid(bot, server)
    hurt(bot)
    card = await parts.ask(bot, f"restore theirs.sql in place {WHY}")
    await bot.slack.click(card, "approve", "U0DBA")
    await parts.ends(bot, "succeeded")
    assert oid(bot, server) != was
    assert (bot.query(ALL), bot.query(PUBLIC), bot.query(ACL)) == (rows, public, acl)


async def test_a_right_of_the_application_that_is_taken_after_the_approval_is_missed_before_the_drop(
    make_shop: MakeShop, make_role: MakeRole, server: Connect, mark: object
) -> None:
    bot = await make_shop(**DOOR)
    put(bot, mark)  # type: ignore[arg-type]
    await of_another(bot, server, make_role(""))
    rows, was = bot.query(ALL), oid(bot, server)
    card = await parts.ask(bot, f"restore theirs.sql in place {WHY}")
    inside(bot, server, f'REVOKE CREATE ON SCHEMA public FROM "{bot.target.user}"')
    await bot.slack.click(card, "approve", "U0DBA")
    await asks_without_touching(bot, server, was, rows)


def kept_by(bot: Bot, server: Connect, keeper: str, schema: str = "kept") -> None:
    inside(bot, server, f"CREATE SCHEMA {schema} AUTHORIZATION {keeper}", f"CREATE TABLE {schema}.kept (id int PRIMARY KEY)")
    inside(bot, server, f"ALTER TABLE {schema}.kept OWNER TO {keeper}")


async def shop_of(make_shop: MakeShop, server: Connect, ops: str, keeper: str) -> Bot:
    """Backout's role is no superuser, and one table belongs to `keeper`."""
    bot = await make_shop(start=False, **DOOR)
    on_server(server, f'GRANT "{bot.target.user}" TO {ops} WITH ADMIN OPTION')
    on_server(server, f"GRANT pg_signal_backend, pg_read_all_data TO {ops}")
    kept_by(bot, server, keeper)
    bot.environ["ADMIN_URL"] = server.model_copy(update={"database": bot.target.database, "user": ops, "password": ops}).url()
    await bot.start()
    return bot


async def test_who_may_not_give_a_table_back_to_its_owner_drops_nothing(make_shop: MakeShop, make_role: MakeRole, server: Connect) -> None:
    keeper = make_role("")
    ops = make_role("CREATEROLE CREATEDB")
    bot = await shop_of(make_shop, server, ops, keeper)
    name = await backed_up(bot)
    hurt(bot)
    rows, was = bot.query(ALL), oid(bot, server)
    await bot.ask(f"restore {name} in place {WHY}")
    refusal = await parts.refused(bot)
    assert refusal["code"] == "in_place_rights"
    assert keeper in refusal["message"]
    await untouched(bot, server, was, rows)


async def test_a_role_that_was_enough_when_it_was_tried_is_looked_at_again(make_shop: MakeShop, make_role: MakeRole, server: Connect) -> None:
    keeper = make_role("")
    ops = make_role("CREATEROLE CREATEDB")
    on_server(server, f"GRANT {keeper} TO {ops}")
    bot = await shop_of(make_shop, server, ops, keeper)
    good, owners = bot.query(ALL), bot.query(OWNERS)
    name = await backed_up(bot)
    hurt(bot)
    rows, was = bot.query(ALL), oid(bot, server)
    card = await parts.ask(bot, f"restore {name} in place {WHY}")
    on_server(server, f"REVOKE {keeper} FROM {ops}")
    await bot.slack.click(card, "approve", "U0DBA")
    await asks_without_touching(bot, server, was, rows)
    on_server(server, f"GRANT {keeper} TO {ops}")
    card = await parts.ask(bot, f"restore {name} in place {WHY}")
    await bot.slack.click(card, "approve", "U0DBA")
    await parts.ends(bot, "succeeded")
    assert bot.query(ALL) == good
    assert bot.query(OWNERS) == owners


async def test_a_way_back_that_could_not_be_restored_is_none(make_shop: MakeShop, make_role: MakeRole, server: Connect) -> None:
    """The backup can be, and the database as it is now could not: a table of another role is there since."""
    keeper = make_role("")
    ops = make_role("CREATEROLE CREATEDB")
    bot = await shop_of(make_shop, server, ops, ops)
    name = await backed_up(bot)
    kept_by(bot, server, keeper, "since")
    rows, was = bot.query(ALL), oid(bot, server)
    card = await parts.ask(bot, f"restore {name} in place {WHY}")
    await bot.slack.click(card, "approve", "U0DBA")
    await asks_without_touching(bot, server, was, rows)
