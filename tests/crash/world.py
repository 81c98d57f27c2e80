"""What the world can do to a run: hold it somewhere, kill, and look at what became of it. Nothing in the product knows of these places."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from bot.durable import application
from tests.contract import projects
from tests.harness import CHANNEL, Bot

Json = dict[str, Any]

#: `begun` counts every try, since a sequence is never rolled back; `ran` and cents count what was committed.
COUNTED = """
ALTER TABLE orders ADD cents int NOT NULL DEFAULT 1;
CREATE SEQUENCE begun;
CREATE TABLE ran (at timestamptz NOT NULL DEFAULT clock_timestamp());
"""

#: One transaction covers it. A reader of orders is in the way of the last line only.
PLAIN = """
op.execute("select nextval('begun')")
op.execute("insert into ran default values")
op.execute("update orders set cents = cents * 100")
op.drop_column("orders", "score")
"""

#: The money is committed while the revision stays; a reader of orders is in the way of what follows.
AUTOCOMMIT = """
op.execute("select nextval('begun')")
with op.get_context().autocommit_block():
    op.execute("insert into ran default values")
    op.execute("update orders set cents = cents * 100")
    op.execute("drop index ix_name")
op.drop_column("orders", "score")
"""

READS_ORDERS = "LOCK TABLE orders IN ACCESS SHARE MODE"


class Gate:
    """An env.py that waits: at `current` to read the history, at `connected` before the work and at `committed` after it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder

    def env(self) -> str:
        wait = f"""
import time
def wait_at(name):
    while os.path.exists(os.path.join({str(self._folder)!r}, name)):
        open(os.path.join({str(self._folder)!r}, name + "-reached"), "w").close()
        time.sleep(0.02)
work = config.cmd_opts.cmd[0].__name__ == "downgrade"
"""
        engine = "create_engine(os.environ['DATABASE_URL'].replace('postgresql:', 'postgresql+psycopg2:'))"
        plain = projects.env(engine, first=wait + "if not work: wait_at('current')\n", before="if work: wait_at('connected')")
        return plain + "\nif work: wait_at('committed')\n"

    @contextmanager
    def closed(self, name: str) -> Iterator[None]:
        (self._folder / name).touch()
        try:
            yield
        finally:
            (self._folder / name).unlink()

    async def reached(self, bot: Bot, name: str) -> None:
        await bot.until((self._folder / f"{name}-reached").exists, what=f"waiting at the gate {name}")


# ------------------------------------------------------------------ who is in the way


@contextmanager
def held(bot: Bot, statement: str = READS_ORDERS) -> Iterator[int]:
    """Somebody's open transaction in the target; gives the pid of its session."""
    with psycopg.connect(bot.target.url(), application_name="a long report") as session:
        session.execute(statement)
        yield session.info.backend_pid


@contextmanager
def journal_held(bot: Bot, table: str, when: str, on: str = "insert") -> Iterator[None]:
    """The journal's own database is slow at one row: who writes it waits there, not committed, until the end of the block."""
    with psycopg.connect(bot.journal.url(), autocommit=True) as session:
        session.execute("select pg_advisory_lock(1)")
        session.execute(
            "create or replace function backout.wait() returns trigger language plpgsql as"
            " $$ begin perform pg_advisory_xact_lock_shared(1); return new; end $$"
        )
        statement = f"create trigger wait before {on} on backout.{table} for each row when ({when}) execute function backout.wait()"
        session.execute(statement)
        try:
            yield
        finally:
            session.execute("select pg_advisory_unlock(1)")
            session.execute(sql.SQL("drop trigger wait on backout.{}").format(sql.Identifier(table)))


@contextmanager
def journal_full(bot: Bot, table: str, when: str, on: str = "insert") -> Iterator[None]:
    """The disk of the journal's database is full when that row is written, until the end of the block. `refused` counts."""
    with psycopg.connect(bot.journal.url(), autocommit=True) as session:
        session.execute("create sequence backout.refused")
        session.execute(
            "create function backout.refuse_row() returns trigger language plpgsql as $$ begin"
            " perform nextval('backout.refused'); raise exception 'could not extend file: No space left on device' using errcode = '53100'; end $$"
        )
        session.execute(f"create trigger full_disk before {on} on backout.{table} for each row when ({when}) execute function backout.refuse_row()")
        try:
            yield
        finally:
            session.execute(sql.SQL("drop trigger full_disk on backout.{}").format(sql.Identifier(table)))


async def waits_in_the_journal(bot: Bot) -> None:
    waiting = "select pid from pg_stat_activity where datname = current_database() and wait_event = 'advisory'"
    await bot.until(lambda: bot.journaled(waiting), what="waiting in the journal")


@asynccontextmanager
async def slow_health() -> AsyncIterator[tuple[str, asyncio.Event, asyncio.Event]]:
    """A health page: its URL, an event that it was asked, an event after which it answers."""
    asked, answers = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await answers.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/health", asked, answers
    finally:
        answers.set()
        server.close()


# ------------------------------------------------------------------ where a run is


def run_of(bot: Bot) -> str:
    return str(bot.journaled("select id from backout.runs order by created desc limit 1")[0][0])


def attempts(bot: Bot, step: str) -> list[Json]:
    """That step's attempts, oldest first."""
    columns = ("attempt", "state", "executor", "summary", "facts")
    with psycopg.connect(bot.journal.url(), autocommit=True) as session:
        found = session.execute(f"select {', '.join(columns)} from backout.attempts where step = %s order by attempt", (step,)).fetchall()
    return [dict(zip(columns, row, strict=True)) for row in found]


async def approved(bot: Bot, rev: str = "0004") -> Json:
    """From the command to the press that starts the run."""
    await bot.ask(f"{rev} sev high because checkout is down")
    card = await bot.card_in("awaiting_approval")
    await bot.slack.click(card, "approve", "U0DBA")
    return card


async def inside(bot: Bot, step: str, attempt: int = 1) -> None:
    """The journal says that this attempt has begun."""

    def begun() -> bool:
        return any((each["attempt"], each["state"]) == (attempt, "intended") for each in attempts(bot, step))

    await bot.until(begun, what=f"in attempt {attempt} of {step}")


def sessions(bot: Bot, step: str, attempt: int = 1) -> list[tuple[int, str | None]]:
    """The sessions of an attempt in the target's server: pid, and what it waits for."""
    name = application(run_of(bot), step, attempt)
    with psycopg.connect(bot.target.url(), autocommit=True) as session:
        found = session.execute("select pid, wait_event_type from pg_stat_activity where application_name = %s", (name,)).fetchall()
    return [(row[0], row[1]) for row in found]


async def waits_for_a_lock(bot: Bot, step: str, attempt: int = 1) -> None:
    """That attempt has begun and the server says that one of its sessions waits for a lock."""
    await inside(bot, step, attempt)
    await bot.until(lambda: "Lock" in {event for _, event in sessions(bot, step, attempt)}, what=f"{step} waiting for a lock")


async def kill(bot: Bot, *, tool: bool = False) -> None:
    """kill -9 of the bot; with `tool`, of the migration tool's process group too."""
    pid = int(attempts(bot, "downgrade")[-1]["facts"]["pid"]) if tool else None
    await bot.kill()
    if pid is not None:
        os.killpg(pid, signal.SIGKILL)
        await bot.until(lambda: not alive(pid), what="the tool dead")


def programs(bot: Bot) -> list[str]:
    """The programs that run in the project's folder or know the bot's home, by their words."""
    project, home = Path(bot.config["targets"]["shop"]["tool"]["directory"]), bot.env()["BACKOUT_HOME"]
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if home in words or (process / "cwd").readlink() == project:
                found.append(words[:200])
    return found


def alive(pid: int) -> bool:
    """A zombie is not: nobody may be there to reap it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# ------------------------------------------------------------------ what became of it


def counted(bot: Bot) -> Json:
    """How often the downgrade began and was committed, by what it did to the money; and where the database stands."""
    begun, ran, cents = bot.query(
        "select (select case when is_called then last_value else 0 end from begun), (select count(*) from ran), (select max(cents) from orders)"
    )[0]
    return {"begun": begun, "ran": ran, "cents": cents, "stands": bot.stands()}


ONCE = {"begun": 1, "ran": 1, "cents": 100, "stands": "0004"}
NEVER = {"begun": 0, "ran": 0, "cents": 1, "stands": "0005"}


async def succeeded_once(bot: Bot, *, begun: int = 1) -> None:
    """The promise, whatever died on the way: done once, told once, and nothing left lying about."""
    await bot.card_in("succeeded")
    await everything_was_told(bot)
    assert counted(bot) == {**ONCE, "begun": begun}
    done = bot.journaled("select step, count(*) from backout.attempts where state = 'done' group by step")
    assert sorted(done) == [(step, 1) for step in ("archive", "check_preconditions", "downgrade", "restore_point", "start_writers", "verify")]
    assert bot.journaled("select step from backout.attempts where state = 'intended'") == []
    assert sorted(path.name for path in (bot.root / "backups").iterdir()) == [f"shop-{run_of(bot)}.{kind}" for kind in ("archive", "dump")]
    assert bot.query("select application_name from pg_stat_activity where application_name like 'backout/r%'") == []


async def in_thread(bot: Bot, words: str) -> None:
    """Somewhere in the thread's messages; they come after the card."""
    await bot.until(lambda: words in json.dumps(bot.slack.thread(bot.cards()[0]["ts"]), ensure_ascii=False), what=f"saying {words!r} in the thread")


async def everything_was_told(bot: Bot) -> None:
    """One card, one report, and the report is the last message."""
    await bot.reported()
    delivered = "select 1 from backout.runs r join backout.deliveries d on d.run = r.id where d.key = 'seq' and d.content::int = r.seq"
    await bot.until(lambda: bot.journaled(delivered), what="delivered")
    assert len(bot.cards()) == 1
    assert [m for m in bot.slack.messages(CHANNEL) if m["ts"] != bot.cards()[0]["ts"]] == []
    thread = bot.slack.thread(bot.cards()[0]["ts"])
    assert len([m["text"] for m in thread if m["text"].startswith("*Report.*")]) == 1
    assert [file["name"] for file in thread[-1].get("files", ())] == [f"post-mortem-{run_of(bot)}.md"]
    assert len([file for file in bot.slack.files() if file.name.startswith("post-mortem-")]) == 1
