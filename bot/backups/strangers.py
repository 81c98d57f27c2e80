"""Restoring what others made: only by a role that can do no harm outside of the database meant, and only what was read before (databases.md F15)."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
import secrets
from collections.abc import AsyncIterator, Mapping

from bot.backups import packed, plain, programs
from bot.backups.clients import Client
from bot.backups.foreign import Foreign, Hashed
from bot.errors import StepFailed
from bot.evidence import BackupFile, Found
from bot.keeping import Store, Work
from bot.place import REACH
from bot.process import redact, start

_MINUTE = dt.timedelta(minutes=1)
_THERE = """
select 'role ' || rolname from pg_catalog.pg_roles union all select 'extension ' || name from pg_catalog.pg_available_extensions
"""
_EMPTY = """
select count(*) from pg_catalog.pg_class where relnamespace not in
  (select oid from pg_catalog.pg_namespace where nspname in ('pg_catalog', 'information_schema', 'pg_toast'))
"""
_ERROR = re.compile(r"^psql:<stdin>:(\d+): ERROR:  (.*)$", re.MULTILINE)
_VALUE = re.compile(r': "(?:[^"]|"")*"$')


class Strangers:
    """`client` is of the major version of the server that is restored into, `env` enters the database."""

    def __init__(self, foreign: Foreign, store: Store, client: Client, env: Mapping[str, str], password: str) -> None:
        self._foreign, self._store, self.client = foreign, store, client
        self.env, self._password = env, password

    async def prove(self, file: BackupFile, version: int) -> Found:
        """Everything that stands in the way is found before anything is touched. Raises StepFailed."""
        if rights := "".join(await self._ask(REACH)):
            raise StepFailed(
                f"{file.name} was not made by Backout, so it is restored only by a role that can do no harm elsewhere. This one has {rights}."
            )
        if await self._ask(_EMPTY) != ["0"]:
            raise StepFailed("The database is not empty. What others made is restored into an empty one only.")
        found = await self._foreign.inspect(file.name)
        if found.refused:
            raise StepFailed(f"{file.name} can't be used: {found.refused}")
        if found.file.sha256 != file.sha256:
            raise StepFailed(f"The backup {file.name} is not the file that was looked at. Look at it again.")
        if (major := re.match(r"\d+", found.postgres)) and int(major[0]) > version // 10000:
            raise StepFailed(f"{file.name} comes from PostgreSQL {found.postgres}, which is newer than this server ({version // 10000}).")
        there = set(await self._ask(_THERE))
        if missing := [name for name in found.extensions if f"extension {name}" not in there]:
            raise StepFailed(f"{file.name} needs extensions that this server does not have: {', '.join(missing)}. Install them, then try again.")
        if found.file.format.startswith("plain") and (missing := [name for name in found.roles if f"role {name}" not in there]):
            raise StepFailed(f"{file.name} needs roles that this server does not have: {', '.join(missing)}. Make them, then try again.")
        return found

    async def plain(self, file: BackupFile, work: Work) -> None:
        """In one transaction. psql gets the end only when what it got is what was looked at. Raises StepFailed."""
        argv = [self.client.program("psql"), "-X", "--quiet", "--no-password", "--set", "ON_ERROR_STOP=1", "--single-transaction"]
        async with start([*argv, "--output", "/dev/null", "--file", "-"], env=self.env) as program:
            said = asyncio.create_task(programs.heard(program.output()))
            try:
                await program.send(plain.restriction(secrets.token_hex(16)))
                await programs.fed(program, self._approved(file, work))
                code, output = await program.wait(), await said
            finally:
                said.cancel()
        if code != 0:
            found = _ERROR.search(output)
            told = f"line {found[1]}: {_VALUE.sub('', found[2])}" if found else _VALUE.sub("", programs.why(output))
            raise StepFailed(f"This backup can't be restored: {redact(told, (self._password,))}. Nothing of it was kept.")

    async def _approved(self, file: BackupFile, work: Work) -> AsyncIterator[bytes]:
        """The end is held back: without it psql is killed, and the server takes all of it back."""
        hashed, scan, held, taken, shown = Hashed(self._store.read(file.name)), plain.Scan(), b"", 0, 0
        blocks = hashed.blocks()
        async for block in packed.unpacked(blocks) if file.format.endswith(".gz") else blocks:
            if held:
                yield held
            held, taken = await asyncio.to_thread(scan.feed, block), taken + len(block)
            if taken // 10_000_000 != shown:
                shown = taken // 10_000_000
                await work.progress(f"restore: {taken // 1_000_000} MB")
        held += scan.end()
        if hashed.sha256 != file.sha256:
            raise StepFailed(f"The backup {file.name} was changed while it was read. Nothing of it was kept.")
        yield held

    async def _ask(self, sql: str) -> list[str]:
        argv = [self.client.program("psql"), "-X", "--quiet", "--no-password", "--no-align", "--tuples-only", "--command", sql]
        async with start(argv, env=self.env, apart=True) as program:
            await program.close_stdin()
            said = asyncio.create_task(programs.heard(program.errors()))
            try:
                async with asyncio.timeout(_MINUTE.total_seconds()):
                    output = b"".join([data async for data in program.output()])
                if await program.wait() != 0:
                    raise StepFailed(f"The database can't be entered: {redact(programs.why(await said), (self._password,))}")
            finally:
                said.cancel()
        return [line for line in output.decode().splitlines() if line]
