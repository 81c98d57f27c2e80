"""kill -9 at each point of rehearsal, restore point, archive and put-back: nothing left behind, nothing lost, nothing twice."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from bot.place import Connect
from tests.crash.world import journal_held, waits_in_the_journal
from tests.harness import Bot
from tests.scenario import parts
from tests.scenario.real import BACK, DOOR, FORWARD, MakeShop, approved, scratches
from tests.scenario.real import make_shop as make_shop  # noqa: PLC0414  pytest finds the fixture here

_REHEARSAL = ("back_up", "rehearse", "try_copy", "try_tables")
_TRIED = ("back_up", "rehearse")
_DOWN = ("check_preconditions", "stop_writers", "restore_point", "archive", "downgrade", "reconcile", "verify", "start_writers")
_UP = ("check_preconditions", "stop_writers", "restore_point", "upgrade", "put_back", "verify", "start_writers")
_ACL = "SELECT datacl::text FROM pg_database WHERE datname = current_database()"
_ROWS = "SELECT o.id, o.name, o.score, r.id, r.stars FROM orders o LEFT JOIN ratings r ON r.order_id = o.id ORDER BY 1, 4"


async def killed_before_each_line(bot: Bot, text: str, steps: tuple[str, ...]) -> None:
    """Before each step's beginning is journaled, and after its effect before its outcome is; then once more until the end."""
    lines = [(kind, step) for step in steps for kind in ("step_started", "step_done")]
    pressed = False
    for place, (kind, step) in enumerate(lines):
        with journal_held(bot, "events", f"new.kind = '{kind}' and new.data->>'step' = '{step}'"):
            if place == 0:
                await bot.ask(text)
            elif not pressed and step not in _REHEARSAL:
                card = await bot.card_in("awaiting_approval")
                await bot.slack.click(card, "approve", "U0DBA")
                pressed = True
            await waits_in_the_journal(bot)
            await bot.kill()
        await bot.start()


def clones(bot: Bot, server: Connect) -> list[str]:
    """Databases of the server that say that they are this target's restore points."""
    with psycopg.connect(server.url(), autocommit=True) as session:
        found = session.execute(
            "SELECT datname FROM pg_database WHERE datname LIKE 'backout%' AND shobj_description(oid, 'pg_database') LIKE 'Backout: restore point%'"
        ).fetchall()
    mine = {row[0] for row in bot.journaled("select file->>'name' from backout.backups where file->>'format' = 'clone'")}
    return [row[0] for row in found if row[0] in mine]


def run_roles(server: Connect) -> list[str]:
    with psycopg.connect(server.url(), autocommit=True) as session:
        return [row[0] for row in session.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'backout\\_r%'").fetchall()]


def left_behind(bot: Bot) -> list[str]:
    return [path.name for path in Path(bot.root / "backups").iterdir() if path.name.endswith(".partial")]


async def test_a_round_trip_that_is_killed_at_each_line_brings_everything_back_once(make_shop: MakeShop, server: Connect) -> None:
    bot = await make_shop(**DOOR)
    rows, acl = bot.query(_ROWS), bot.query(_ACL)
    await killed_before_each_line(bot, BACK, (*_TRIED, *_DOWN))
    await parts.ends(bot, "succeeded")
    assert bot.stands() == "0002"
    assert bot.query(_ACL) == acl
    assert len(clones(bot, server)) == 1
    await killed_before_each_line(bot, FORWARD, (*_TRIED, *_UP))
    await parts.ends(bot, "succeeded")
    assert bot.stands() == "0003"
    assert bot.query(_ROWS) == rows
    assert bot.query(_ACL) == acl
    assert len(clones(bot, server)) == 2
    assert run_roles(server) == []
    assert left_behind(bot) == []
    await bot.until(lambda: not scratches(bot), what="cleared away")
    done = bot.journaled("select run, step, count(*) from backout.attempts where state = 'done' group by run, step having count(*) > 1")
    assert done == [], "no step was done twice"


@pytest.mark.parametrize("step", ["restore_point", "archive", "downgrade"])
async def test_a_bot_that_is_killed_inside_a_step_behind_the_door_opens_it_at_the_end(make_shop: MakeShop, server: Connect, step: str) -> None:
    """Somebody's lock, or the size of the data, holds the step; the bot dies in it, comes back and goes on."""
    slow = "op.execute('select pg_sleep(1)')\nop.drop_table('ratings')\nop.drop_column('orders', 'score')"
    bot = await make_shop(**DOOR, down=slow)
    acl = bot.query(_ACL)
    with psycopg.connect(bot.target.url(), autocommit=True) as session:
        session.execute("INSERT INTO ratings (order_id, stars) SELECT 1, 1 FROM generate_series(1, 200000)")
    await approved(bot, BACK)

    def inside() -> bool:
        return bool(bot.journaled(f"select 1 from backout.attempts where step = '{step}' and state = 'intended'"))

    await bot.until(inside, what=f"inside {step}")
    await bot.kill()
    await bot.start()
    await bot.until(lambda: bot.state() in ("succeeded", "needs_decision"), what="over, or asking")
    if bot.state() == "needs_decision":
        card = bot.card()
        assert card is not None
        await bot.slack.click(card, "retry", "U0DBA")
    await parts.ends(bot, "succeeded")
    assert bot.stands() == "0002"
    assert bot.query(_ACL) == acl
    assert run_roles(server) == []
    (archived,) = bot.journaled("select archive from backout.archives")
    assert {part["table"]: part["rows"] for part in archived[0]["parts"]}["public.ratings"] == 200_050
