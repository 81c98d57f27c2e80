"""Several processes, their names, their ends, and the journal's database under them."""

from __future__ import annotations

import copy
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bot.embedded import EmbeddedPostgres
from bot.guardian import postmaster
from bot.place import Connect
from tests.crash.conftest import MakeShop
from tests.crash.world import alive, approved, attempts, held, kill, programs, sessions, succeeded_once, waits_for_a_lock
from tests.harness import Bot

pytestmark = pytest.mark.crash


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that the unprivileged user of an embedded Postgres can enter."""
    made = Path(tempfile.mkdtemp(prefix="backout-crash-"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made, ignore_errors=True)


async def test_a_second_process_of_the_same_name_does_not_serve_while_the_first_one_lives(make_shop: MakeShop) -> None:
    bot = await make_shop(start=False)
    bot.environ["BACKOUT_EXECUTOR_ID"] = "one"
    await bot.start()
    code, said = await bot.run("serve")
    assert (code, "another process serves this journal as executor one" in said) == (1, True)
    await approved(bot)
    await succeeded_once(bot)


async def test_the_run_of_a_dead_process_is_taken_over_by_another_one(make_shop: MakeShop) -> None:
    first = await make_shop(start=False)
    first.environ["BACKOUT_EXECUTOR_ID"] = "one"
    root = first.root.with_name("second")
    root.mkdir()
    second = Bot(root, first.target, first.journal, first.slack, copy.deepcopy(first.config), environ={"BACKOUT_EXECUTOR_ID": "two"})
    await first.start()
    try:
        with held(first):
            await approved(first)
            await waits_for_a_lock(first, "downgrade")
            await second.start()
            await first.kill()
            await waits_for_a_lock(second, "downgrade", attempt=2)
            assert sessions(second, "downgrade") == []
        second.root = first.root  # where the backups are
        await succeeded_once(second, begun=2)
        assert [each["executor"] for each in attempts(second, "downgrade")] == ["one", "two"]
    finally:
        await second.kill()


async def test_a_bot_that_is_asked_to_leave_ends_its_step_and_the_run_goes_on_at_the_next_start(make_shop: MakeShop) -> None:
    bot = await make_shop()
    with held(bot):
        await approved(bot)
        await waits_for_a_lock(bot, "downgrade")
        assert bot.process is not None
        bot.process.send_signal(signal.SIGTERM)
        await bot.until(lambda: not _listens(bot), what="leaving")
        assert bot.process.returncode is None
    assert await _ended(bot) == 0
    assert [each["state"] for each in attempts(bot, "downgrade")] == ["done"]
    assert attempts(bot, "verify") == []
    await bot.start()
    await succeeded_once(bot)
    assert bot.events("interrupted") == []


async def test_a_step_that_does_not_end_in_time_is_ended_where_it_works_when_the_bot_leaves(make_shop: MakeShop) -> None:
    bot = await make_shop()
    with held(bot):
        await approved(bot)
        await waits_for_a_lock(bot, "downgrade")
        assert bot.process is not None
        bot.process.send_signal(signal.SIGTERM)
        assert await _ended(bot) == 0
        assert (sessions(bot, "downgrade"), programs(bot)) == ([], [])
    assert [each["state"] for each in attempts(bot, "downgrade")] == ["intended"]
    await bot.start()
    await succeeded_once(bot, begun=2)


async def _ended(bot: Bot) -> int | None:
    """The exit code of the bot, which ends by itself."""
    process = bot.process
    assert process is not None
    await bot.until(lambda: process.returncode is not None, what="ended")
    return process.returncode


def _listens(bot: Bot) -> bool:
    with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", bot.port)):
        return True
    return False


async def test_a_bot_whose_journal_is_restarted_ends_and_the_next_one_goes_on(make_shop: MakeShop, place: Path) -> None:
    journal = EmbeddedPostgres(place, durable=False)
    bot = await make_shop(start=False)
    bot.journal = await journal.start()
    try:
        await bot.start()
        with held(bot):
            await approved(bot)
            await waits_for_a_lock(bot, "downgrade")
            server = postmaster(journal.directory / "data")
            assert server is not None
            os.kill(server, signal.SIGINT)
            await bot.until(lambda: not alive(server), what="rid of its journal")
            assert await journal.start() == bot.journal
            assert await _ended(bot) == 1
            await bot.start()
            await waits_for_a_lock(bot, "downgrade", attempt=2)
        await succeeded_once(bot, begun=2)
    finally:
        await bot.kill()
        await journal.stop()


async def test_a_killed_bot_leaves_no_process_behind_and_finds_its_own_journal_again(make_shop: MakeShop, place: Path) -> None:
    bot = await make_shop(start=False, tool={"lock_timeout": "3s"})
    bot.environ |= {"BACKOUT_HOME": str(place), "BACKOUT_DATABASE_URL": ""}
    try:
        await bot.start()
        bot.journal = _embedded(place)
        with held(bot):
            await approved(bot)
            await waits_for_a_lock(bot, "downgrade")
            await kill(bot)
            await bot.until(lambda: programs(bot) == [], what="rid of every process")
        await bot.start()
        bot.journal = _embedded(place)
        await succeeded_once(bot, begun=2)
    finally:
        await bot.kill()
        await bot.until(lambda: programs(bot) == [], what="rid of every process")


def _embedded(place: Path) -> Connect:
    password = (place / "journal" / "password").read_text()
    return Connect(host="127.0.0.1", port=int((place / "journal" / "port").read_text()), user="backout", password=password, database="postgres")
