"""A logical dump: pg_dump's custom format, read back to its last byte before it counts."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import re
import shlex
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from bot.backups.clients import Client, client_for, environment
from bot.backups.restoring import Said, lines
from bot.errors import ProgramFailed, StepFailed
from bot.evidence import BackupFile
from bot.keeping import Store, Work
from bot.place import Connect, Session
from bot.process import Finished, redact, run, start
from bot.settings import inherited

_LOCK_WAIT = 5  # seconds for a lock of pg_dump's; its own waiting makes others wait
_AT_MOST = dt.timedelta(days=1)  # the step's own deadline is shorter
_COMPRESSION = "0"  # gzip's fastest made a dump of 870 MB take 9.0 s instead of 4.3 s, at a third of the size: somebody waits
_JOBS = max(2, min(4, os.cpu_count() or 1))
_ROW_SECURITY = re.compile(r'row-level security policy for table "(.+)"')
_DENIED = re.compile(r"permission denied for (\w+ .+)")
#: of the sessions of a restore, whatever the database's own settings are
_RESTORING = {
    "default_transaction_read_only": "off", "statement_timeout": "0", "lock_timeout": "0", "idle_in_transaction_session_timeout": "0",
    "row_security": "off", "synchronous_commit": "off",
}  # fmt: skip
Waiters = Callable[[str], Awaitable[Sequence[Session]]]


class DumpBackup:
    """Implements ports.Backup. `connect` is Backout's own role on the target; `embedded` gives our own programs of a major version.

    `waiters(application)` tells who waits for a lock of that application's sessions; None: nobody is asked.
    """

    kind = "dump"

    class Settings(BaseModel):
        """What `backups` may say besides where and how long."""

        model_config = ConfigDict(frozen=True, extra="forbid")
        kind: Literal["dump"] = "dump"
        format: Literal["custom"] = "custom"

    def __init__(
        self, store: Store, connect: Connect, settings: Settings, *, embedded: Callable[[int], Path], waiters: Waiters | None = None
    ) -> None:
        self._store = store
        self._connect = connect
        self._settings = settings
        self._embedded = embedded
        self._waiters = waiters
        self._hashed: dict[str, tuple[int, ...]] = {}

    async def ready(self, server_version: int) -> None:
        """`server_version` is server_version_num. Raises Refusal, also store_unusable."""
        await self._client(server_version // 10000)
        await self._store.ready()

    async def take(self, name: str, work: Work) -> BackupFile:
        """Raises Refusal, StepFailed. When it is cancelled, pg_dump is killed and a partial file stays until the next take of that name."""
        version = work.plan.identity.version
        client = await self._client(version // 10000)
        await self._store.ready()
        partial = self._store.partial(name)
        finished = await self._dump(client, partial, work, version)
        self._judge(finished)
        await work.progress("dump: reading it back")
        objects = await self._prove(client, partial)
        path, sha256, size = await self._store.keep(name)
        self._hashed[sha256] = _signature(path)
        return BackupFile(name=name, path=str(path), sha256=sha256, size=size, format=self._settings.format, objects=objects)

    async def usable(self, file: BackupFile) -> bool:
        return await self._store.checksum(file.name) == file.sha256

    async def restore(self, file: BackupFile, into: Connect, version: int, work: Work) -> tuple[str, ...]:
        """`into` is an empty database of a server of that server_version_num; what was ignored, a sentence for each.

        Without publications and subscriptions; with owners, grants, row security and event triggers. Raises Refusal (no such client),
        StepFailed: the file is not the one that was made, or not all of its data could be restored.
        """
        client = await client_for(version // 10000, into.sslmode, self._embedded)
        unchanged = self._hashed.get(file.sha256) == _signature(Path(file.path)) != ()
        if not unchanged and not await self.usable(file):
            raise StepFailed(f"The backup {file.name} is gone, or is not the file that was made. Make another one.")
        argv = [client.program("pg_restore"), "--jobs", str(_JOBS), "--no-publications", "--no-subscriptions", "--no-password", "--verbose"]
        argv += ["--dbname", _conninfo(into.database), file.path]
        env = environment(into, work.application, {**_RESTORING, **_since_14(version)})
        said = await _restored(argv, env, file.objects, work)
        if said.fatal:
            facts = {"errors": said.fatal[:20], "of": len(said.fatal)}
            raise StepFailed(f"This backup can't be restored: {redact(said.fatal[0], (into.password,))}.", facts)
        return tuple(said.ignored)

    async def remove(self, file: BackupFile) -> None:
        await self._store.remove(file.name)

    def how_to_restore(self, file: BackupFile) -> tuple[str, ...]:
        """Into a new database beside the old one."""
        # createdb and pg_restore take a name with = or :// for a connection string.
        plain = re.fullmatch(r"\w[\w-]{0,50}", self._connect.database)
        new = f"{self._connect.database}_restored" if plain else "restored"
        where = ["--host", self._connect.host, "--port", str(self._connect.port), "--username", self._connect.user]
        tls = f"PGSSLMODE={shlex.quote(self._connect.sslmode)} " if self._connect.sslmode else ""
        return (
            tls + shlex.join(["createdb", *where, "--template", "template0", new]),
            tls + shlex.join(["pg_restore", *where, "--exit-on-error", "--dbname", new, file.path]),
        )

    # ------------------------------------------------------------------ the programs

    async def _client(self, server: int) -> Client:
        return await client_for(server, self._connect.sslmode, self._embedded)

    async def _dump(self, client: Client, partial: Path, work: Work, version: int) -> Finished:
        argv = [client.program("pg_dump"), "--format", self._settings.format, "--compress", _COMPRESSION, "--file", str(partial)]
        argv += ["--no-password", "--lock-wait-timeout", str(_LOCK_WAIT * 1000)]
        env = environment(self._connect, work.application, _since_14(version))
        dumping = asyncio.create_task(run(argv, env=env, timeout=_AT_MOST, secrets=(self._connect.password,)))
        try:
            await self._watch(dumping, partial, work)
            return dumping.result()
        except ProgramFailed as error:
            raise StepFailed(f"The dump failed: {error}.", {"output": error.output}) from error
        finally:
            dumping.cancel()
            await asyncio.wait({dumping})

    async def _watch(self, dumping: asyncio.Task[Finished], partial: Path, work: Work) -> None:
        """Say how far it is; end it when it makes somebody wait for a lock (databases.md F3)."""
        shown, waiting = 0, dict[int, int]()
        while not dumping.done():
            await asyncio.wait({dumping}, timeout=1)
            if (megabytes := _size(partial) // 1_000_000) != shown:
                shown = megabytes
                await work.progress(f"dump: {megabytes} MB")
            if self._waiters is None or dumping.done():
                continue
            found = await self._waiters(work.application)
            waiting = {one.pid: waiting.get(one.pid, 0) + 1 for one in found}
            if late := [one for one in found if waiting[one.pid] > _LOCK_WAIT]:
                raise _in_the_way(late)

    def _judge(self, finished: Finished) -> None:
        if finished.code == 0 and "error:" not in finished.output:
            return
        facts = {"code": finished.code, "output": finished.output[-2000:]}
        if found := _ROW_SECURITY.search(finished.output):
            raise StepFailed(
                f'Row security hides rows of table "{found[1]}" from {self._connect.user}, so a dump would not be whole. '
                "Write a role with BYPASSRLS as the target's `admin`.",
                facts,
            )
        if found := _DENIED.search(finished.output):
            raise StepFailed(f"{self._connect.user} may not read {found[1]}. Write a role that may read everything as the target's `admin`.", facts)
        if "LOCK TABLE" in finished.output and "timeout" in finished.output:
            raise StepFailed(f"The dump gave up: another session kept a table locked for {_LOCK_WAIT} s. Find out who, then try again.", facts)
        raise StepFailed(f"The dump failed: {_error(finished.output)}", facts)

    async def _prove(self, client: Client, partial: Path) -> int:
        """Read every byte; how many objects it has."""
        restore = client.program("pg_restore")
        finished = await run([restore, "--file", "/dev/null", str(partial)], env=inherited(), timeout=_AT_MOST)
        if finished.code != 0 or "error:" in finished.output:
            raise StepFailed(f"The dump can't be read back: {_error(finished.output)}", {"output": finished.output[-2000:]})
        return await _listed(restore, partial)


async def _listed(restore: str, dump: Path) -> int:
    listed, rest = 0, b""
    async with start([restore, "--list", str(dump)], env=inherited()) as program:
        await program.close_stdin()
        async for data in program.output():
            *lines, rest = (rest + data).split(b"\n")
            listed += sum(line[:1].isdigit() for line in lines)
        if await program.wait() != 0:
            raise StepFailed("The dump's table of contents can't be read back.")
    return listed


def _since_14(version: int) -> dict[str, str]:
    return {"client_connection_check_interval": "1s"} if version >= 140000 else {}


def _in_the_way(late: Sequence[Session]) -> StepFailed:
    who = ", ".join(f"session {one.pid} of {one.user}" for one in late[:3])
    return StepFailed(
        f"The dump was ended, because it made others wait for a lock for more than {_LOCK_WAIT} s: {who}. Try again when they are through.",
        {"waited": [one.model_dump(mode="json") for one in late]},
    )


def _conninfo(database: str) -> str:
    """pg_restore takes a name with = or :// for a connection string; so it gets one."""
    return "dbname='" + database.replace("\\", "\\\\").replace("'", "\\'") + "'"


async def _restored(argv: Sequence[str], env: Mapping[str, str], objects: int, work: Work) -> Said:
    said, rest, shown = Said(), b"", 0
    async with start(argv, env=env) as program:
        await program.close_stdin()
        async for data in program.output():
            rest, whole = lines(rest, data)
            for line in whole:
                said.hear(line)
            if objects and (percent := min(99, 100 * said.done // objects)) >= shown + 5:
                shown = percent
                await work.progress(f"restore: {percent} %")
        said.end(await program.wait(), rest.decode(errors="replace"))
    return said


def _signature(path: Path) -> tuple[int, ...]:
    """Which file it is and when it was last written: the system moves ctime with every write, and nobody can set it back. () when it is gone."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _error(output: str) -> str:
    """The line that says why: the first error, else the last line."""
    lines = output.strip().splitlines() or ["it said nothing"]
    return next((line for line in lines if "error:" in line), lines[-1])
