"""A restore brings no publications: they are made again as they were, and what Backout may not make is told with its commands."""

from __future__ import annotations

import pytest

from bot.place import Connect
from tests.harness import Bot
from tests.scenario import parts
from tests.scenario.real import DOOR, MakeShop
from tests.scenario.real import make_shop as make_shop  # noqa: PLC0414  pytest finds the fixture here
from tests.scenario.test_in_place import WHY, on_server
from tests.scenario.test_in_place_rights import MakeRole, inside, shop_of
from tests.scenario.test_in_place_rights import make_role as make_role  # noqa: PLC0414  and here
from tests.scenario.test_tables import backed_up, hurt

SHOWN = """
SELECT p.pubname::text, pg_get_userbyid(p.pubowner)::text, p.puballtables, p.pubinsert, p.pubdelete,
  (SELECT string_agg(concat_ws(' ', t.tablename, t.rowfilter), '; ' ORDER BY t.tablename) FROM pg_publication_tables t WHERE t.pubname = p.pubname)
FROM pg_publication p ORDER BY 1"""


def published(bot: Bot, server: Connect) -> None:
    inside(
        bot, server, "CREATE PUBLICATION everything FOR ALL TABLES WITH (publish = 'insert')",
        'CREATE PUBLICATION "some orders" FOR TABLE orders WHERE (id > 5)', f'ALTER PUBLICATION "some orders" OWNER TO "{bot.target.user}"',
    )  # fmt: skip


@pytest.mark.parametrize("words", ["", "in place "], ids=["beside", "in place"])
async def test_what_the_database_published_is_published_again(make_shop: MakeShop, server: Connect, words: str) -> None:
    bot = await make_shop(**DOOR)
    name = await backed_up(bot)
    published(bot, server)
    before = bot.query(SHOWN)
    hurt(bot)
    card = await parts.ask(bot, f"restore {name} {words}{WHY}")
    assert "2 publications, everything, some orders" in str(card)
    await bot.slack.click(card, "approve", "U0DBA")
    await parts.ends(bot, "succeeded")
    assert bot.query(SHOWN) == before
    assert bot.query("SELECT count(*) FROM orders WHERE id BETWEEN 401 AND 450") == [(50,)]
    assert "everything, some orders published again" in await bot.reported()


async def test_what_may_not_be_made_again_is_told_with_its_commands(make_shop: MakeShop, make_role: MakeRole, server: Connect) -> None:
    """FOR ALL TABLES is a superuser's, and Backout's role is none here."""
    ops = make_role("CREATEROLE CREATEDB")
    bot = await shop_of(make_shop, server, ops, ops)
    name = await backed_up(bot)
    published(bot, server)
    on_server(server, f'GRANT CREATE ON DATABASE "{bot.target.database}" TO "{bot.target.user}"')
    hurt(bot)
    card = await parts.ask(bot, f"restore {name} {WHY}")
    await bot.slack.click(card, "approve", "U0DBA")
    await parts.ends(bot, "succeeded")
    assert [row[0] for row in bot.query(SHOWN)] == ["some orders"]
    report = await bot.reported()
    assert "not made again: everything" in report
    assert "CREATE PUBLICATION \"everything\" FOR ALL TABLES WITH (publish = 'insert')" in report
