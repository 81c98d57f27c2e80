"""The only file that knows DBOS: it starts runs, wakes them, and brings them back after a crash. The journal decides what a run does next."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cached_property
from typing import Any

import asyncpg
from dbos import DBOS, DBOSClient, DBOSConfig, DBOSPortableJSONSerializer
from dbos import error as dbos_error

from bot.errors import JournalDown

log = logging.getLogger(__name__)

Advance = Callable[[str], Awaitable[str]]

VERSION = "1"  # of the workflow below; a change of it is a new number, and DBOS.patch for runs under way
QUEUE = "runs"
_LEASES = 0x0B0C  # namespace of executors' advisory locks in the journal's database
_WAIT_SECONDS = 3600.0  # a sleeping run looks at the journal at least this often
_AGAIN_SECONDS = 5.0  # after an error of ours
_LEASE_SECONDS = 2.0  # between two looks at the lease and at dead executors

_advance: Advance | None = None


@DBOS.step(name="advance")
async def _advance_once(run: str) -> str:
    if _advance is None:
        raise RuntimeError("the engine was not opened")
    try:
        return await _advance(run)
    except Exception:  # whatever it is, the run must go on or ask
        # A workflow that ends in an error is never looked at again: the run would hang for ever, in silence.
        log.exception("%s can't go on; it is tried again", run)
        await asyncio.sleep(_AGAIN_SECONDS)
        return "go"


@DBOS.workflow(name="carry")
async def _carry(run: str) -> None:
    """Do what the journal says is next, until it says `end`; on `wait`, sleep until somebody signals."""
    while (following := await _advance_once(run)) != "end":
        if following == "wait":
            await DBOS.recv_async("run", timeout_seconds=_WAIT_SECONDS)


def lease_key(executor: str) -> int:
    return int.from_bytes(hashlib.sha256(executor.encode()).digest()[:4], "big", signed=True)


class Signals:
    """Start and wake runs from any process, launched or not: ports.Engine."""

    def __init__(self, url: str) -> None:
        self._url = url

    @cached_property
    def _client(self) -> DBOSClient:
        # Made at the first use: the tables are there once somebody has launched.
        return DBOSClient(system_database_url=_driver(self._url), serializer=DBOSPortableJSONSerializer())

    async def start(self, run: str, target: str) -> None:
        await self._client.enqueue_async(
            {
                "queue_name": QUEUE,
                "workflow_name": "carry",
                "workflow_id": run,
                "app_version": VERSION,
                "queue_partition_key": target,
            },
            run,
        )

    async def signal(self, run: str, key: str) -> None:
        with suppress(dbos_error.DBOSNonExistentWorkflowError):  # a run that never started has nobody to wake
            await self._client.send_async(run, key, topic="run", idempotency_key=f"{run}:{key}")


class Lease:
    """Our name among the executors: a session lock, taken before launch. Losing it means that a peer may take our runs: the process ends."""

    def __init__(self, url: str, executor: str) -> None:
        self._url = url
        self.executor = executor
        self._connection: Any = None

    async def take(self) -> bool:
        """False when a live process has this name. Raises JournalDown."""
        try:
            self._connection = await asyncpg.connect(
                self._url,
                timeout=10,
                server_settings={"application_name": f"backout/lease/{self.executor}"[:63], "idle_session_timeout": "0"},
            )
            got: bool = await self._connection.fetchval("select pg_try_advisory_lock($1, $2)", _LEASES, lease_key(self.executor))
        except (OSError, TimeoutError, asyncpg.PostgresError) as error:
            raise JournalDown("the journal's database can't be reached; check BACKOUT_DATABASE_URL") from error
        if not got:
            await self.release()
        return got

    async def anybody(self) -> bool:
        """Is any executor of this journal alive?"""
        return bool(
            await self._connection.fetchval(
                "select exists(select 1 from pg_locks where locktype = 'advisory' and granted and classid::bigint = $1"
                " and database = (select oid from pg_database where datname = current_database()) and pid <> pg_backend_pid())",
                _LEASES,
            )
        )

    async def watch(self) -> None:
        """Take over the runs of executors that died; return when our own lock may be lost."""
        try:
            while True:
                await self._take_over()
                await asyncio.sleep(_LEASE_SECONDS)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            log.exception("the lease of this process on the journal is lost")

    async def _take_over(self) -> None:
        await self._connection.execute("select 1", timeout=10)
        pending = await DBOS.list_workflows_async(status="PENDING", load_input=False, load_output=False)
        for dead in sorted({flow.executor_id for flow in pending if flow.executor_id} - {self.executor}):
            if not await self._connection.fetchval("select pg_try_advisory_lock($1, $2)", _LEASES, lease_key(dead)):
                continue
            try:
                taken = await asyncio.to_thread(DBOS._recover_pending_workflows, [dead])
                log.warning("took over %d runs of %s", len(taken), dead)
            finally:
                await self._connection.execute("select pg_advisory_unlock($1, $2)", _LEASES, lease_key(dead))

    async def release(self) -> None:
        if self._connection is not None:
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await self._connection.close(timeout=5)
            self._connection = None


async def launch(url: str, lease: Lease, advance: Advance) -> None:
    """Launch DBOS in this process and event loop; pending runs of this executor go on. The lease must be held."""
    global _advance  # noqa: PLW0603  DBOS registers its workflows per module, so there is one engine per process
    _advance = advance
    config: DBOSConfig = {
        "name": "backout",
        "system_database_url": _driver(url),
        "executor_id": lease.executor,
        "application_version": VERSION,
        "serializer": DBOSPortableJSONSerializer(),
        "max_executor_threads": 16,
        "log_level": "ERROR",
        "run_migrations": True,
    }
    DBOS(config=config)
    DBOS.launch()
    await DBOS.register_queue_async(QUEUE, partition_concurrency=1, polling_interval_sec=0.2)


def close() -> None:
    """Last of all: DBOS takes the loop's default executor with it, so nothing that resolves a name may follow."""
    DBOS.destroy(workflow_completion_timeout_sec=0)


def exit_now(code: int) -> None:
    """Leave without waiting for workflow tasks: what they were doing is in the journal."""
    logging.shutdown()
    os._exit(code)


def _driver(url: str) -> str:
    return url.replace("postgresql://", "postgresql+psycopg://", 1).replace("postgres://", "postgresql+psycopg://", 1)
