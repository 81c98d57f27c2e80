"""A server recovered to a moment, beside the live one and cut off from everything before it can reach anything (databases.md F11).

What recovers never sees the archive: the base backup and the WAL it needs are copied to it first, by Backout. It stops at the moment in the
middle of its recovery; there its settings are proven, and only then it is let out of it.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import pwd
import re
import secrets
import shlex
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from bot.backups import unpacking
from bot.backups.covering import Base, Live, Stretch, chosen, covered
from bot.errors import ConfigError, ProgramFailed, Refusal, StepFailed
from bot.keeping import Covered, Recovered, Work
from bot.moment import told
from bot.place import Connect

PREFIX = "pitr-"
_TICK = 0.2  # seconds between two looks at the replay
_SPOKEN = 1.0  # seconds between two sentences about it
#: nothing leads out, nobody comes in, nothing runs by itself, nothing is written unasked
_CUT_OFF = {
    "listen_addresses": "127.0.0.1", "archive_mode": "off", "primary_conninfo": "", "primary_slot_name": "",
    "max_logical_replication_workers": "0", "shared_preload_libraries": "", "session_preload_libraries": "", "local_preload_libraries": "",
    "autovacuum": "off", "event_triggers": "off",
}  # fmt: skip
_OTHERS = {
    "default_transaction_read_only": "on", "archive_command": "", "hot_standby": "on", "max_standby_archive_delay": "0",
    "recovery_target_inclusive": "on", "recovery_target_action": "pause", "checkpoint_timeout": "1h", "max_wal_size": "4GB",
    "shared_buffers": "256MB", "jit": "off", "unix_socket_permissions": "0700", "timezone": "UTC", "log_timezone": "UTC", "lc_messages": "C",
    "password_encryption": "scram-sha-256",
}  # fmt: skip
_EVENT_TRIGGERS = 17  # since then a session's start fires them, and there is a setting against it
#: what pg_control names, and Postgres refuses to fall below of (xlog.c, CheckRequiredParameterValues)
_LIMITS = ("max_connections", "max_worker_processes", "max_wal_senders", "max_prepared_transactions", "max_locks_per_transaction")
_LIVE = """
SELECT current_setting('server_version_num')::int AS version, (SELECT system_identifier::text FROM pg_control_system()) AS system,
  CASE WHEN pg_is_in_recovery() THEN NULL ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END AS timeline,
  (SELECT setting::int FROM pg_settings WHERE name = 'wal_segment_size') AS segment,
  ARRAY(SELECT rolname::text FROM pg_roles WHERE rolsuper AND rolcanlogin ORDER BY oid) AS superusers"""
_LOOK = """
SELECT pg_is_in_recovery() AS recovering, CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() END AS paused,
  pg_last_xact_replay_timestamp() AS last"""
_FATAL = re.compile(r"(?:FATAL|PANIC): +(.*)")

Enter = Callable[[Connect, Mapping[str, str] | None], AbstractAsyncContextManager[Any]]
Say = Callable[[str], Awaitable[None]]


class Clock(Protocol):
    def now(self) -> dt.datetime: ...
    def monotonic(self) -> float: ...


class Seat(Protocol):
    """Where a cluster is filled: `data` becomes it, the others lie where they stay."""

    @property
    def data(self) -> Path: ...
    @property
    def wal(self) -> Path: ...
    @property
    def tablespaces(self) -> Path: ...
    @property
    def socket(self) -> Path: ...
    @property
    def role(self) -> str: ...


class Cluster(Protocol):
    """A server that recovers. By its socket only the user that runs Backout gets in."""

    @property
    def socket(self) -> Path: ...
    @property
    def alive(self) -> bool: ...
    def log(self) -> str: ...


class Clusters(Protocol):
    """Where servers live as long as one use."""

    async def programs(self, major: int) -> Path:
        """Raises ConfigError."""

    def recover(self, name: str, major: int, fill: Callable[[Any], Awaitable[None]]) -> AbstractAsyncContextManager[tuple[Any, Connect]]:
        """A Cluster, begun with what `fill` puts into its Seat, and how its role will enter. Raises ConfigError, ProgramFailed, OSError."""

    async def clean(self, prefix: str) -> tuple[str, ...]: ...


class Source(Protocol):
    """Base backups and archived WAL. Everything only reads."""

    kind: str

    async def stretches(self, live: Live) -> tuple[tuple[Stretch, ...], tuple[str, ...]]:
        """What each base backup reaches; and why others are of no use."""

    async def room(self, stretch: Stretch, live: Live) -> int:
        """Bytes that a recovery may need."""

    async def restore(self, base: Base, live: Live, data: Path, tablespaces: Path, say: Say) -> None:
        """Raises Refusal(pitr_backup_damaged), StepFailed."""

    async def take_wal(self, stretch: Stretch, live: Live, time: dt.datetime, to: Path, data: Path, say: Say) -> None:
        """Raises StepFailed."""


class Recovering:
    """Implements keeping.PointInTime. `live` is Backout's own role on the live server, on the target's database; `home` is where clusters lie."""

    def __init__(self, source: Source, live: Connect, clusters: Clusters, enter: Enter, clock: Clock, home: Path) -> None:
        self._source = source
        self._connect = live
        self._clusters = clusters
        self._enter = enter
        self._clock = clock
        self._home = home
        self.kind = source.kind

    async def window(self) -> Covered:
        return covered(*await self._source.stretches(await self._live()))

    @asynccontextmanager
    async def open(self, time: dt.datetime, work: Work) -> AsyncIterator[Recovered]:
        begun = self._clock.monotonic()
        live = await self._live()
        stretch = await self._chosen(live, time)
        name = f"{PREFIX}{re.sub(r'[^A-Za-z0-9_-]', '', work.run)[:40]}-{secrets.token_hex(4)}"

        async def fill(seat: Seat) -> None:
            await self._source.restore(stretch.base, live, seat.data, seat.tablespaces, work.progress)
            await self._source.take_wal(stretch, live, time, seat.wal, seat.data, work.progress)
            await asyncio.to_thread(_configure, seat, live, stretch, time)

        async with AsyncExitStack() as stack:
            try:
                cluster, role = await stack.enter_async_context(self._clusters.recover(name, live.major, fill))
            except (ConfigError, ProgramFailed, OSError) as error:
                raise _impossible(f"The server that should recover did not start: {_said(error)}") from error
            replay = Replay(cluster, role.port, live, self._enter, work.progress)
            last = await replay.to(time, stretch)
            await replay.cut_off()
            timeline, version = await replay.release(role)
            await self._there(role)
            yield Recovered(
                admin=role.model_copy(update={"database": self._connect.database}), version=version, last=last, timeline=timeline,
                seconds=self._clock.monotonic() - begun, base=stretch.base.name,
            )  # fmt: skip

    async def clean(self) -> None:
        await self._clusters.clean(PREFIX)

    async def _live(self) -> Live:
        async with self._enter(self._connect, None) as session:
            row = await session.fetchrow(_LIVE)
            limits = await session.fetch("SELECT name::text, setting::int FROM pg_settings WHERE name = ANY ($1::text[])", list(_LIMITS))
        if row["timeline"] is None:
            raise Refusal("standby", "The server is a standby.", "Name the primary in the target's URL.")
        try:
            await self._clusters.programs(row["version"] // 10000)
        except ConfigError as error:
            major = row["version"] // 10000
            message = f"The server is PostgreSQL {major}, and a base backup of it starts with no other: {error}"
            raise Refusal("pitr_impossible", message, f"Install PostgreSQL {major} on this machine (on Debian: postgresql-{major}).") from error
        names = tuple(dict.fromkeys((*row["superusers"], "postgres")))
        return Live(
            row["system"], row["version"], int(row["timeline"], 16), row["segment"], names, tuple((one["name"], one["setting"]) for one in limits)
        )  # fmt: skip

    async def _chosen(self, live: Live, time: dt.datetime) -> Stretch:
        stretches, why = await self._source.stretches(live)
        stretch = chosen(stretches, time, self._clock.now(), why)
        needed, free = await self._source.room(stretch, live), await asyncio.to_thread(unpacking.free, self._home)
        if needed > free:
            raise _impossible(f"A recovery needs up to {needed // 10**6} MB under {self._home}, and {free // 10**6} MB are free there.")
        return stretch

    async def _there(self, role: Connect) -> None:
        async with self._enter(role, None) as session:
            if not await session.fetchval("SELECT count(*) FROM pg_database WHERE datname = $1", self._connect.database):
                message = f"At that moment there was no database {self._connect.database} on the server."
                raise Refusal("database_missing", message, "Choose another moment.")


def _impossible(message: str) -> Refusal:
    return Refusal("pitr_impossible", message, "Mend that, then ask again, or take another way back.")


# ------------------------------------------------------------------ the files


def _configure(seat: Seat, live: Live, stretch: Stretch, time: dt.datetime) -> None:
    """Everything that the files of the live server say about settings and entrance is replaced: nothing of it is read."""
    for old in ("postgresql.auto.conf", "standby.signal", "recovery.conf", "recovery.done", "postmaster.pid", "postmaster.opts", "tablespace_map"):
        (seat.data / old).unlink(missing_ok=True)
    for slot in (seat.data / "pg_replslot").glob("*"):
        shutil.rmtree(slot)
    version = (seat.data / "PG_VERSION").read_text().strip()
    if version != str(live.major):
        raise StepFailed(f"The base backup {stretch.base.name} is of PostgreSQL {version}, and the live server is {live.major}.")
    given = {
        **settings_of(live.major), **_limits(live),
        "unix_socket_directories": str(seat.socket),
        "restore_command": f"cp {shlex.quote(str(seat.wal)).replace('%', '%%')}/%f %p",
        "recovery_target_time": time.astimezone(dt.UTC).isoformat(sep=" "),
        "recovery_target_timeline": "current" if stretch.line.timeline == stretch.base.timeline else str(stretch.line.timeline),
    }  # fmt: skip
    lines = "".join(f"{key} = '{_in_quotes(value)}'\n" for key, value in given.items())
    for name, text in {
        "postgresql.conf": lines, "postgresql.auto.conf": "", "recovery.signal": "", "pg_ident.conf": _ident(live),
        "pg_hba.conf": f"local all all peer map=backout\nhost all {seat.role} 127.0.0.1/32 scram-sha-256\n",
    }.items():  # fmt: skip
        (seat.data / name).write_text(text)
    seat.data.chmod(0o700)


def settings_of(major: int) -> dict[str, str]:
    return {**cut_off_settings(major), **_OTHERS}


def cut_off_settings(major: int) -> dict[str, str]:
    return {key: value for key, value in _CUT_OFF.items() if key != "event_triggers" or major >= _EVENT_TRIGGERS}


def _limits(live: Live) -> dict[str, str]:
    # They may have been higher when the base backup was made; room for that costs little.
    return {name: str(value * 2 if name != "max_connections" else value + 100) for name, value in live.limits}


def _in_quotes(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "''")


def _ident(live: Live) -> str:
    """Who runs Backout is a superuser there, under the names that superusers have."""
    me = pwd.getpwuid(os.geteuid()).pw_name
    names = [name.replace('"', '""') for name in live.superusers if "\n" not in name]
    return "".join(f'backout "{me}" "{name}"\n' for name in names)


# ------------------------------------------------------------------ the replay


class Replay:
    """A server that recovers, looked after from outside until it is let out."""

    def __init__(self, cluster: Cluster, port: int, live: Live, enter: Enter, say: Say) -> None:
        self._cluster = cluster
        self._ways = [Connect(host=str(cluster.socket), port=port, user=name, database="template1") for name in live.superusers]
        self._version = live.major
        self._enter = enter
        self._say = say

    async def to(self, time: dt.datetime, stretch: Stretch) -> dt.datetime | None:
        """Wait until it stands at that moment: the time of the last transaction that it holds. Raises Refusal, StepFailed."""
        waited, before = _SPOKEN, None
        while True:
            if not self._cluster.alive:
                raise _why(self._cluster.log(), time)
            found = await self._look()
            if found is not None and self._stands(found):
                await self._say(f"replay: it stands at {told(found['last'])}" if found["last"] else "replay: it stands where the base backup ended")
                last: dt.datetime | None = found["last"]
                return last
            waited += _TICK
            if waited >= _SPOKEN and (says := _progress(found, stretch, time)) != before:
                await self._say(says)
                waited, before = 0.0, says
            await asyncio.sleep(_TICK)

    async def cut_off(self) -> None:
        """Proven by what the server itself says, before it may write anything. Raises StepFailed."""
        wanted = cut_off_settings(self._version)
        async with self._inside() as session:
            rows = await session.fetch("SELECT name::text, setting FROM pg_settings WHERE name = ANY ($1::text[])", list(wanted))
            senders = await session.fetchval("SELECT count(*) FROM pg_stat_activity WHERE backend_type IN ('walsender', 'walreceiver')")
        found = {row["name"]: row["setting"] for row in rows}
        wrong = [f"{key} is '{found.get(key)}'" for key, value in wanted.items() if found.get(key) != value]
        if wrong or senders:
            raise StepFailed(f"The recovered server would not be cut off ({', '.join(wrong) or 'it replicates'}), so it was not let out.")

    async def release(self, role: Connect) -> tuple[int, int]:
        """End its recovery, and make the role that enters by TCP: its timeline and server_version_num. Raises StepFailed."""
        async with self._inside() as session:
            await session.fetchval("SELECT pg_wal_replay_resume()")
        while (found := await self._look()) is None or found["recovering"]:
            if not self._cluster.alive:
                raise StepFailed(f"The recovered server ended: {_fatal(self._cluster.log())}")
            await asyncio.sleep(_TICK)
        async with self._inside({"default_transaction_read_only": "off"}) as session:
            secret = role.password.replace("'", "''")
            await session.execute(f"CREATE ROLE \"{role.user}\" LOGIN SUPERUSER PASSWORD '{secret}'")
            row = await session.fetchrow(
                "SELECT left(pg_walfile_name(pg_current_wal_lsn()), 8) AS timeline, current_setting('server_version_num')::int AS version"
            )
        return int(row["timeline"], 16), row["version"]

    def _stands(self, found: Mapping[str, Any]) -> bool:
        """At the moment, and not for another reason."""
        log = self._cluster.log()
        if not found["recovering"]:
            raise StepFailed("The recovered server came out of its recovery before it was asked to.")
        if found["paused"] and "insufficient parameter settings" in log:
            raise StepFailed(
                "The replay stopped: a setting of the live server was raised far beyond what it is now (see the server's own words).", {"log": log}
            )
        return bool(found["paused"]) and "recovery stopping " in log

    @asynccontextmanager
    async def _inside(self, settings: Mapping[str, str] | None = None) -> AsyncIterator[Any]:
        async with self._enter(self._ways[0], settings) as session:
            yield session

    async def _look(self) -> Mapping[str, Any] | None:
        """None while it does not answer."""
        turned_away = []
        for way in tuple(self._ways):
            try:
                async with self._enter(way, None) as session:
                    row: Mapping[str, Any] = await session.fetchrow(_LOOK)
            except Refusal as refusal:
                if refusal.code != "wrong_credentials":  # it is starting up
                    return None
                turned_away.append(refusal.message)
                continue
            except StepFailed:  # the replay was in the way of our question, or the server is leaving
                return None
            self._ways = [way]
            return row
        raise StepFailed(f"Nobody gets into the recovered server: {'; '.join(turned_away)}")


def _progress(found: Mapping[str, Any] | None, stretch: Stretch, time: dt.datetime) -> str:
    if found is None:
        return "replay: the base backup is not consistent yet"
    if found["last"] is None:
        return "replay: no transaction after the base backup yet"
    whole = (time - stretch.since).total_seconds()
    percent = min(99, max(0, int(100 * (found["last"] - stretch.since).total_seconds() / whole))) if whole > 0 else 99
    return f"replay: last replayed {told(found['last'])} ({percent} %)"


def _why(log: str, time: dt.datetime) -> Exception:
    fatal = _fatal(log)
    if "recovery ended before configured recovery target was reached" in fatal or "before consistent recovery point" in fatal:
        way_out = "Choose another moment, or let the server archive what it has: SELECT pg_switch_wal()."
        return Refusal("pitr_outside_window", f"Postgres could not stop at {told(time)}: {fatal}.", way_out)
    return StepFailed(f"The recovery failed: {fatal}.", {"log": log[-2000:]})


def _fatal(log: str) -> str:
    found = _FATAL.findall(log)
    known = [line for line in found if "startup process" not in line and "starting up" not in line]
    return str((known or found or ["the server ended without a word"])[-1]).strip().rstrip(".")


def _said(error: Exception) -> str:
    return f"{_fatal(error.output)}." if isinstance(error, ProgramFailed) and _FATAL.search(error.output) else f"{str(error).rstrip('.')}."
