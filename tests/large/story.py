"""A whole rollback of a database with very many tables: behind the door, with a clone as restore point (databases.md F22)."""

from __future__ import annotations

import time
from typing import Any

import psycopg

from tests.harness import Bot
from tests.scenario.real import DOOR, MakeShop, rehearsed

BACK = "0002 sev high because checkout is down"
_BATCH = 1000
_LONG = 3600.0
_MAKE = """
DO $$ BEGIN
  FOR n IN {first}..{last} LOOP
    EXECUTE format('CREATE TABLE many.t%s (id int PRIMARY KEY, n int)', n);
    IF n % 10 = 0 THEN EXECUTE format('INSERT INTO many.t%s VALUES (1, 1)', n); END IF;
  END LOOP;
END $$"""


def fill(bot: Bot, tables: int) -> None:
    """As many, each with its primary key; every tenth has a row."""
    with psycopg.connect(bot.target.url(), autocommit=True) as session:
        session.execute("CREATE SCHEMA many")
        for start in range(0, tables, _BATCH):
            made = {"first": start + 1, "last": min(start + _BATCH, tables)}
            session.execute(_MAKE.format(**made))  # type: ignore[arg-type]


async def rolled_back(make_shop: MakeShop, tables: int) -> dict[str, Any]:
    """From the command to the end; how many seconds each step took."""
    bot = await make_shop(start=False, **DOOR, rehearsal={"within": "2h"})
    fill(bot, tables)
    await bot.start()
    began = time.monotonic()
    await bot.ask(BACK)
    card = await bot.card_in("awaiting_approval", within=_LONG)
    found = rehearsed(bot)
    assert found["done"] is True, found["why"]
    assert (found["expected"], found["forward"]) == ("same", "works"), (found["findings"], found["forward_says"])
    assert {(loss["kind"], loss["name"]): loss["count"] for loss in found["loss"]}["table", "public.ratings"] == 50
    asked = time.monotonic()
    await bot.slack.click(card, "approve", "U0DBA")
    await bot.card_in("succeeded", within=_LONG)
    assert bot.stands() == "0002"
    (restore_point,) = bot.journaled("select facts from backout.attempts where step = 'restore_point'")
    assert "clone" in str(restore_point[0])
    took = {row[0]: round(row[1], 1) for row in bot.journaled(_STEPS)}
    return {"tables": tables, "until asked": round(asked - began, 1), "until the end": round(time.monotonic() - asked, 1), **took}


_STEPS = "select step, extract(epoch from ended - began)::float8 from backout.attempts order by began"
