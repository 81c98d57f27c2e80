"""A logical dump: pg_dump's custom format, read back to its last byte before it counts."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from bot.errors import ConfigError, ProgramFailed, ProgramMissing, Refusal, StepFailed
from bot.model import BackupFile, Connect
from bot.ports import Store, Work
from bot.process import Finished, run, start
from bot.settings import inherited

_LOCK_WAIT = 5  # seconds for a lock of pg_dump's; its own waiting makes others wait
_AT_MOST = dt.timedelta(days=1)  # the step's own deadline is shorter
_NEEDS_TLS = {"require", "verify-ca", "verify-full"}
_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
_ROW_SECURITY = re.compile(r'row-level security policy for table "(.+)"')
_DENIED = re.compile(r"permission denied for (\w+ .+)")


@dataclass(frozen=True)
class _Client:
    """pg_dump and pg_restore of one major version."""

    folder: Path
    major: int
    tls: bool

    def program(self, name: str) -> str:
        return str(self.folder / name)


class DumpBackup:
    """Implements ports.Backup. `connect` is Backout's own role on the target; `embedded` gives our own programs of a major version."""

    kind = "dump"

    class Settings(BaseModel):
        """What `backups` may say besides where and how long."""

        model_config = ConfigDict(frozen=True, extra="forbid")
        kind: Literal["dump"] = "dump"
        format: Literal["custom"] = "custom"

    def __init__(self, store: Store, connect: Connect, settings: Settings, *, embedded: Callable[[int], Path]) -> None:
        self._store = store
        self._connect = connect
        self._settings = settings
        self._embedded = embedded

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
        return BackupFile(name=name, path=str(path), sha256=sha256, size=size, format=self._settings.format, objects=objects)

    async def usable(self, file: BackupFile) -> bool:
        return await self._store.checksum(file.name) == file.sha256

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

    async def _client(self, server: int) -> _Client:
        for client in (await _installed(server), self._wheel(server)):
            if client is None:
                continue
            if client.major < server:
                raise Refusal(
                    "client_older_than_server",
                    f"The server is PostgreSQL {server}, and the newest pg_dump here is of {client.major}: it would refuse.",
                    f"Install the client programs of PostgreSQL {server} (on Debian: postgresql-client-{server}).",
                )
            if self._connect.sslmode in _NEEDS_TLS and not client.tls:
                raise Refusal(
                    "tls_unsupported",
                    f"The URL asks for sslmode={self._connect.sslmode}, and the only pg_dump here is Backout's own, which has no TLS.",
                    f"Install the client programs of PostgreSQL {server} (on Debian: postgresql-client-{server}).",
                )
            return client
        raise Refusal("tool_missing", "There is no pg_dump here.", f"Install the client programs of PostgreSQL {server}.")

    def _wheel(self, server: int) -> _Client | None:
        major = 16 if server <= 16 else 18
        try:
            return _Client(self._embedded(major), major, tls=False)
        except ConfigError:
            return None

    def _environment(self, work: Work, version: int) -> dict[str, str]:
        """Everything by the environment: no secret in an argv, and a database's name is never taken for a connection string."""
        connect = self._connect
        said = {
            "PGHOST": connect.host, "PGPORT": str(connect.port), "PGUSER": connect.user, "PGDATABASE": connect.database,
            "PGPASSWORD": connect.password, "PGSSLMODE": connect.sslmode or "prefer", "PGAPPNAME": work.application, "PGCONNECT_TIMEOUT": "10",
            "PGOPTIONS": "-c client_connection_check_interval=1s" if version >= 140000 else "",
        }  # fmt: skip
        return {**inherited(), **{key: value for key, value in said.items() if value}}

    async def _dump(self, client: _Client, partial: Path, work: Work, version: int) -> Finished:
        argv = [client.program("pg_dump"), "--format", self._settings.format, "--file", str(partial)]
        argv += ["--no-password", "--lock-wait-timeout", str(_LOCK_WAIT * 1000)]
        secrets = (self._connect.password,)
        dumping = asyncio.create_task(run(argv, env=self._environment(work, version), timeout=_AT_MOST, secrets=secrets))
        try:
            await _watch(dumping, partial, work)
            return dumping.result()
        except ProgramFailed as error:
            raise StepFailed(f"The dump failed: {error}.", {"output": error.output}) from error
        finally:
            dumping.cancel()
            await asyncio.wait({dumping})

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

    async def _prove(self, client: _Client, partial: Path) -> int:
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


async def _watch(dumping: asyncio.Task[Finished], partial: Path, work: Work) -> None:
    shown = 0
    while not dumping.done():
        await asyncio.wait({dumping}, timeout=1)
        megabytes = _size(partial) // 1_000_000
        if megabytes != shown:
            shown = megabytes
            await work.progress(f"dump: {megabytes} MB")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


async def _installed(major: int) -> _Client | None:
    """That very major version, where Debian puts it or on PATH."""
    on_path = shutil.which("pg_dump", path=inherited()["PATH"])
    for folder in (Path(f"/usr/lib/postgresql/{major}/bin"), *([Path(on_path).parent] if on_path else [])):
        try:
            version = await run([str(folder / "pg_dump"), "--version"], env=inherited(), timeout=dt.timedelta(seconds=30))
        except ProgramMissing:
            continue
        found = _VERSION.search(version.output)
        if found and int(found[1]) == major and (folder / "pg_restore").exists():
            return _Client(folder, major, tls=True)
    return None


def _error(output: str) -> str:
    """The line that says why: the first error, else the last line."""
    lines = output.strip().splitlines() or ["it said nothing"]
    return next((line for line in lines if "error:" in line), lines[-1])
