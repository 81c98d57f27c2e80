"""What is done at its time, unasked: a backup, and a drill of it. The channel hears of them when they fail, and once when they are well again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg

from tests.harness import CHANNEL, Bot
from tests.history import SHOP
from tests.scenario import parts
from tests.scenario.real import BACK, MakeShop
from tests.scenario.real import make_shop as make_shop  # noqa: PLC0414  pytest finds the fixture here

YEARLY = "0 0 1 1 *"
#: so that its time has passed once
LONG_AGO = """
insert into backout.duties values ('shop', %s, now() - interval '2 years', true, '', true)
on conflict (target, kind) do update set at = excluded.at"""


def overdue(bot: Bot, *kinds: str) -> None:
    with psycopg.connect(bot.journal.url(), autocommit=True) as session:
        for kind in kinds:
            session.execute(LONG_AGO, (kind,))


async def done(bot: Bot, kind: str, *, well: bool = True) -> str:
    """What it says, once it was done again."""
    recent = f"select says from backout.duties where kind = '{kind}' and ok = {well} and at > now() - interval '1 year' and says <> ''"
    await bot.until(lambda: bot.journaled(recent), what=f"a {kind} that is {'well' if well else 'broken'}")
    return str(bot.journaled(recent)[0][0])


def content(path: str) -> bytes:
    return Path(path).read_bytes()


def overwrite(path: str, data: bytes) -> None:
    Path(path).write_bytes(data)


def said(bot: Bot) -> list[str]:
    return [str(message["text"]) for message in bot.slack.messages(CHANNEL)]


async def shop(make_shop: MakeShop, **more: Any) -> Bot:
    return await make_shop(backups={"store": "./backups", "schedule": YEARLY}, drill={"schedule": YEARLY}, **more)


async def test_at_its_time_a_backup_is_made_and_a_drill_proves_it_and_nobody_is_told(make_shop: MakeShop) -> None:
    bot = await shop(make_shop)
    rows = bot.query("SELECT md5(string_agg(t::text, '' ORDER BY t.id)) FROM orders t")

    overdue(bot, "backup")
    assert "read back to the last byte" in await done(bot, "backup")
    overdue(bot, "drill")
    told = await done(bot, "drill")

    ((name, run, proven),) = bot.journaled("select name, run, proven is not null from backout.backups")
    assert (run, proven) == ("scheduled", True), "the drill restored that very file"
    assert name in told
    assert said(bot) == []
    assert (bot.stands(), bot.query("SELECT md5(string_agg(t::text, '' ORDER BY t.id)) FROM orders t")) == ("0003", rows)
    _, output = await bot.run("check", "shop", "--json")
    assert {one["kind"]: one["ok"] for one in json.loads(output)["duties"]} == {"backup": True, "drill": True}


async def test_a_backup_that_does_not_come_back_and_a_downgrade_that_fails_are_told_and_so_is_the_end_of_it(make_shop: MakeShop) -> None:
    bot = await shop(make_shop)
    overdue(bot, "backup")
    await done(bot, "backup")
    ((path,),) = bot.journaled("select file->>'path' from backout.backups")
    whole = content(path)
    overwrite(path, whole[: len(whole) // 2])

    overdue(bot, "drill")
    await done(bot, "drill", well=False)
    await bot.until(lambda: said(bot), what="a message")
    assert "The drill of shop FAILED." in said(bot)[0]

    overwrite(path, whole)
    overdue(bot, "drill")
    with psycopg.connect(bot.journal.url(), autocommit=True) as session:
        session.execute("update backout.duties set ok = false where kind = 'drill'")
    await done(bot, "drill")
    await bot.until(lambda: len(said(bot)) == 2, what="the good news")
    assert "is well again" in said(bot)[1]


async def test_a_backup_of_another_revision_is_no_readiness(make_shop: MakeShop) -> None:
    bot = await shop(make_shop)
    overdue(bot, "backup")
    await done(bot, "backup")
    parts.execute(bot, "UPDATE alembic_version SET version_num = '0002'")

    overdue(bot, "drill")

    assert "is of 0003, and the database stands at 0002" in await done(bot, "drill", well=False)


async def test_a_drill_gives_way_to_a_run_and_comes_when_it_has_ended(make_shop: MakeShop) -> None:
    bot = await shop(make_shop)
    card = await parts.ask(bot, BACK)
    overdue(bot, "drill")

    await bot.slack.click(card, "approve", "U0DBA")
    await parts.ends(bot, "succeeded")

    ended = bot.journaled("select ended from backout.runs")[0][0]
    await bot.until(lambda: bot.journaled("select 1 from backout.duties where kind = 'drill' and at > now() - interval '1 year'"), what="the drill")
    assert bot.journaled("select at from backout.duties where kind = 'drill'")[0][0] > ended


async def test_a_drill_gives_way_to_a_run_that_begins_in_its_middle(make_shop: MakeShop, tmp_path: Path) -> None:
    gate, begun = tmp_path / "gate", tmp_path / "begun"
    waits = f"import os, time\nopen({str(begun)!r}, 'a').write(f'{{os.getpid()}} ')\nwhile not os.path.exists({str(gate)!r}):\n    time.sleep(0.05)\n"
    bot = await shop(make_shop, down=waits + SHOP["0003"].down)
    overdue(bot, "backup")
    await done(bot, "backup")
    overdue(bot, "drill")
    await bot.until(lambda: begun.exists() and begun.read_text().endswith(" "), what="the drill's downgrade")
    drill = int(begun.read_text().split()[0])

    await bot.ask(BACK)

    await bot.until(lambda: not Path(f"/proc/{drill}").exists(), what="the end of the drill")
    noted = "select says from backout.duties where kind = 'drill' and at > now() - interval '1 year'"
    assert bot.journaled(noted) == [], "it comes when the run has ended"
    assert not [text for text in said(bot) if "drill" in text]
    gate.touch()
    await bot.slack.click(await bot.card_in("awaiting_approval"), "approve", "U0DBA")
    await parts.ends(bot, "succeeded")
    await bot.until(lambda: bot.journaled(noted), what="the drill")
