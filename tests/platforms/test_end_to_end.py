"""A shop in containers: its writer inserts orders without end; `/rollback` stops it, goes back in a one-off of its image, and starts it again.

The whole way on both engines; where people or a kill -9 come in between, on Docker's.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bot.place import Connect
from tests.crash.world import journal_held, waits_in_the_journal
from tests.harness import Bot
from tests.platforms.conftest import Lab, mounts
from tests.platforms.engines import IMAGE
from tests.scenario import parts, real
from tests.scenario.real import MakeShop
from tests.scenario.test_in_place import in_place

WRITER = """
import os, signal, sys, time, psycopg
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True, application_name="shop-writer") as session:
    while True:
        session.execute("insert into orders (id, name) select max(id) + 1, %s from orders", (os.environ["VERSION"],))
        time.sleep(0.02)
"""
# Told to end, it stays while the file is there.
MAILER = """
import os, signal, sys, time, psycopg
def end(*_):
    while os.path.exists("/app/stay"): time.sleep(0.05)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True, application_name="shop-mailer") as session:
    while True:
        session.execute("select count(*) from orders")
        time.sleep(0.1)
"""
PATIENCE = 120.0  # seconds
DOCKER = pytest.mark.parametrize("engine", ["docker"], indirect=True)
HOLD = "import os, time\nwhile os.path.exists('/app/hold'): time.sleep(0.05)\n"


class Shop:
    """The writer and the mailer run; beside them a container that had been stopped."""

    def __init__(self, bot: Bot, lab: Lab, directory: Path) -> None:
        self.bot, self.lab, self.directory = bot, lab, directory
        self.writer, self.mailer, self.off = (lab.name(f"shop-{short}") for short in ("writer", "mailer", "nightly"))
        self.hold, self.stay = directory / "hold", directory / "stay"  #: while it is there env.py goes no further, and the mailer does not end

    async def open(self) -> None:
        for short, code in (("shop-writer", WRITER), ("shop-mailer", MAILER), ("shop-nightly", WRITER)):
            program = {"Entrypoint": [sys.executable], "Cmd": ["-c", code], "Env": [f"DATABASE_URL={self.bot.target.url()}"], "StopTimeout": 60}
            host = {"Binds": mounts(self.directory), "RestartPolicy": {"Name": "unless-stopped"}}
            await self.lab.run(short, HostConfig=host, start=short != "shop-nightly", **program)
        await self.writes("1.5")

    async def writes(self, version: str) -> None:
        """New orders come from that version."""
        newest = f"select count(*) from orders where name = '{version}' and at > now() - interval '1 second'"
        await self.bot.until(lambda: self.bot.query(newest)[0][0] > 2, what=f"writing as {version}")

    async def as_before(self, version: str = "1.5") -> None:
        await self.writes(version)
        assert await self.running() == {self.writer: True, self.mailer: True, self.off: False}, "what had been stopped stays stopped"
        assert {one["Names"][0] for one in await self.lab.all()} == {f"/{name}" for name in await self.running()}, "no one-off is left"
        for name in (self.writer, self.mailer):
            assert ((await self.lab.show(name)) or {})["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"

    async def only(self, name: str) -> bool:
        """No other of them runs."""
        return [one for one, runs in (await self.running()).items() if runs] == [name]

    async def in_the_downgrade(self) -> bool:
        """Its one-off runs."""
        return any("/downgrade/" in str(one["Labels"].get("backout.name")) for one in await self.lab.all() if one["State"] == "running")

    async def running(self) -> dict[str, bool]:
        return {name: await self.lab.runs(name) for name in (self.writer, self.mailer, self.off)}

    def steps(self) -> dict[str, tuple[str, str]]:
        """Of the newest run's last attempts: state and summary."""
        rows = self.bot.journaled("select step, state, summary from backout.attempts order by began")
        return {step: (state, summary) for step, state, summary in rows}

    async def asked(self) -> None:
        """Tried on a copy, asked for, and approved."""
        await self.bot.ask(real.BACK)
        card = await self.bot.card_in("awaiting_approval", within=PATIENCE)
        evidence = real.rehearsed(self.bot)
        assert evidence["done"], evidence
        await self.bot.slack.click(card, "approve", "U0DBA")

    async def attempted(self, step: str) -> None:
        await self.bot.until(lambda: step in self.steps(), what=f"at {step}", within=PATIENCE)


@pytest.fixture
async def shop(make_shop: MakeShop, lab: Lab, tmp_path: Path) -> Shop:
    host = lab.engine.host
    keys: dict[str, Any] = {
        "platform": {"kind": "docker", "containers": [lab.name(f"shop-{one}") for one in ("writer", "mailer", "nightly")], "host": host},
        "runner": {"kind": "docker", "like": lab.name("shop-writer"), "host": host},
        "tool": {"kind": "alembic", "directory": "/app", "python": sys.executable},
        "admin": "${ADMIN_URL}",
        "watch": "1s",
    }
    bot = await make_shop(start=False, **keys)
    bot.log.touch()
    made = Shop(bot, lab, tmp_path / "real0")
    env = made.directory / "migrations" / "env.py"
    env.write_text(HOLD + env.read_text())
    await made.open()
    return made


async def test_the_writer_is_stopped_and_proven_gone_the_downgrade_runs_in_a_one_off_of_its_image_and_the_writer_comes_back(shop: Shop) -> None:
    bot = shop.bot
    await bot.start()
    await shop.asked()
    seen: set[str] = set()

    async def over() -> bool:
        seen.update(str(one["Labels"]["backout.name"]) for one in await shop.lab.all() if "backout.name" in (one["Labels"] or {}))
        return bot.state() in ("succeeded", "needs_decision", "failed")

    await bot.until(over, what="over", within=PATIENCE)

    await parts.ends(bot, "succeeded")
    assert bot.stands() == "0002"
    steps = shop.steps()
    assert {state for state, _ in steps.values()} == {"done"}, steps
    assert f"{shop.writer} stopped" in steps["stop_writers"][1]
    assert f"{shop.off} had been stopped before" in steps["stop_writers"][1]
    assert "nobody else is in the database" in steps["stop_writers"][1]
    assert f"{shop.writer} runs; {shop.mailer} runs" in steps["start_writers"][1]
    assert any("/downgrade/" in name for name in seen), seen
    await shop.as_before()


@DOCKER
async def test_the_application_goes_back_to_its_former_image_with_the_database(shop: Shop) -> None:
    bot = shop.bot
    bot.config["targets"]["shop"]["platform"] |= {"roll_back": True, "former": {shop.writer: f"{IMAGE}:1.4"}}
    await bot.start()
    await shop.asked()

    await bot.card_in("succeeded", within=PATIENCE)

    assert bot.stands() == "0002"
    assert f"{shop.writer} is on {IMAGE}:1.4 again" in shop.steps()["roll_back_application"][1]
    await bot.reported()
    await shop.as_before("1.4")


@DOCKER
async def test_a_writer_that_somebody_starts_in_the_middle_is_noticed_before_anything_is_destroyed(shop: Shop) -> None:
    bot = shop.bot
    await bot.start()
    await shop.asked()
    await shop.attempted("restore_point")
    shop.hold.touch()
    await shop.attempted("downgrade")

    await shop.lab.start(shop.writer)
    shop.hold.unlink()

    card = await bot.card_in("needs_decision", within=PATIENCE)
    state, why = shop.steps()["downgrade"]
    assert (state, why.startswith(f"Not stopped: {shop.writer} (running since ")) == ("failed", True), why
    assert bot.stands() == "0003"
    await bot.slack.click(card, "leave", "U0DBA")
    await bot.card_in("failed", within=60)
    await shop.as_before()


# ------------------------------------------------------------------ kill -9


@asynccontextmanager
async def _held(shop: Shop, table: str, when: str, on: str = "insert") -> AsyncIterator[None]:
    """The bot comes to this line of the journal and waits there until the end of the block."""
    with journal_held(shop.bot, table, when, on):
        yield
        await waits_in_the_journal(shop.bot)
        await shop.bot.kill()


def _done(step: str) -> tuple[str, str]:
    """Its effect is there, its outcome is not in the journal yet."""
    return "events", f"new.kind = 'step_done' and new.data->>'step' = '{step}'"


async def _again(shop: Shop) -> None:
    """Whoever runs by now, what had been stopped does not."""
    assert not (await shop.running())[shop.off]
    await shop.bot.start()


@DOCKER
async def test_one_run_that_is_killed_at_every_point_between_stop_and_start_brings_back_what_ran_and_nothing_else(shop: Shop) -> None:
    bot = shop.bot
    await bot.start()
    await bot.ask(real.BACK)
    card = await bot.card_in("awaiting_approval", within=PATIENCE)

    # right after the intent, before anything is written down of the writers
    async with _held(shop, "attempts", "new.step = 'stop_writers' and new.state = 'intended'", "update"):
        await bot.slack.click(card, "approve", "U0DBA")
    assert (await shop.running())[shop.writer]
    shop.stay.touch()
    await _again(shop)

    # one of two is stopped
    await bot.until(lambda: shop.only(shop.mailer), what="one of two stopped", within=PATIENCE)
    await bot.kill()
    shop.stay.unlink()

    for step in ("stop_writers", "restore_point", "archive"):
        async with _held(shop, *_done(step)):
            await _again(shop)
        assert not any((await shop.running()).values())

    # in the one-off
    shop.hold.touch()
    await _again(shop)
    await bot.until(shop.in_the_downgrade, what="in the downgrade", within=PATIENCE)
    await bot.kill()
    shop.hold.unlink()

    async with _held(shop, *_done("downgrade")):
        await _again(shop)
    assert not any((await shop.running()).values())

    # one of two is started
    await _again(shop)
    await bot.until(lambda: shop.only(shop.writer), what="one of two started", within=PATIENCE)
    await bot.kill()
    await _again(shop)

    await parts.ends(bot, "succeeded")
    assert bot.stands() == "0002"
    assert bot.journaled("select step from backout.attempts where state = 'done' group by run, step having count(*) > 1") == []
    await shop.as_before()


@DOCKER
async def test_a_run_that_is_cancelled_after_a_kill_in_the_middle_of_stopping_starts_what_it_had_stopped(shop: Shop) -> None:
    bot = shop.bot
    await bot.start()
    shop.stay.touch()
    await shop.asked()
    await bot.until(lambda: shop.only(shop.mailer), what="one of two stopped", within=PATIENCE)
    await bot.kill()
    await bot.start()

    card = bot.card()
    assert card is not None
    await bot.slack.click(card, "cancel", "U0DEV")
    shop.stay.unlink()

    await parts.ends(bot, "aborted")
    assert bot.stands() == "0003"
    await shop.as_before()


@DOCKER
async def test_for_a_restore_in_place_the_containers_are_stopped_and_exactly_what_ran_comes_back_to_the_new_database(
    shop: Shop, server: Connect
) -> None:
    await shop.bot.start()
    await in_place(shop.bot, server)
    assert f"{shop.writer} stopped" in shop.steps()["stop_writers"][1]
    await shop.as_before()
